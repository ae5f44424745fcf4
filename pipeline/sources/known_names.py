"""Tables of known column names: which role a name stands for, and which numbers are never ratings.

Names are compared in lower case with words joined by underscores: "User ID" and "userId" are `user_id`.
"""

from __future__ import annotations

import re
from functools import lru_cache

ROLE_NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction", "question", "query", "input"),
    "chosen": ("chosen_response", "response_chosen", "preferred", "preferred_response", "better_response"),
    "rejected": ("rejected_response", "response_rejected", "dispreferred", "dispreferred_response", "worse_response"),
    "response_1": ("response1",),
    "response_2": ("response2",),
    "preference_strength": ("overall_preference",),
    "response": ("completion", "answer", "output", "generation", "response_text", "model_response"),
    "user": (
        *("user_id", "userid", "user_name", "username", "person", "person_id", "participant", "participant_id"),
        *("annotator", "annotator_id", "labeler", "labeler_id", "labeller", "labeller_id", "rater", "rater_id"),
        *("worker", "worker_id", "workerid", "judge", "judge_id", "evaluator", "evaluator_id", "reviewer"),
        *("reviewer_id", "respondent", "respondent_id"),
    ),
    "attribute": ("criterion", "dimension", "aspect", "attribute_name", "criterion_name"),
    "context": (
        *("criteria", "criterion_description", "criterion_text", "context_sentence", "user_context", "rubric"),
        *("persona", "persona_description", "user_profile", "user_description"),
    ),
}
"""Role → other names that a column of it may have; a column of the role's own name goes before all of them."""


def _names(words: str) -> re.Pattern[str]:
    """Return what matches names: words, where * stands for any beginning or end."""
    return re.compile("|".join(re.escape(word).replace(r"\*", ".+") for word in words.split()))


RATINGS = _names(
    "helpfulness correctness coherence complexity verbosity honesty truthfulness instruction_following harmlessness "
    "safety relevance fluency consistency accuracy depth creativity conciseness factuality faithfulness toxicity "
    "engagement quality overall overall_quality overall_score overall_rating score rating reward stars"
)
"""Names of ratings: such a column is an attribute whatever its scale."""
NO_RATINGS = {
    "an id": _names(
        "id ids uuid guid hash index idx key row_number id_* *_id *_ids *_idx *_index *_uuid *_hash *_key "
        "unnamed:_* level_0 __index_level_*__"
    ),
    "a count": _names(
        "count counts tokens length len words characters chars size votes upvotes downvotes likes num_* n_* "
        "number_of_* count_* total_* *_count *_counts *_tokens *_length *_len *_words *_chars *_size *_votes"
    ),
    "a time": _names(
        "time times timestamp ts date datetime created updated modified year month day duration elapsed latency "
        "seconds minutes time_* date_* *_time *_times *_timestamp *_ts *_date *_at *_utc *_ms *_seconds *_duration "
        "*_latency"
    ),
    "a position": _names(
        "position pos rank ranking turn turns round order line row step epoch fold seed page part version offset "
        "*_position *_pos *_rank *_ranking *_turn *_round *_order *_line *_row *_offset *_step"
    ),
}
"""What a column of numbers is by its name where that is no rating → the names."""
MEDIA = _names("image images img picture pictures photo photos video videos audio audios")
"""Columns of what is no text."""


@lru_cache(maxsize=1 << 12)
def normal(name: str) -> str:
    """Return a column's name as the tables have it.

    >>> normal("User ID"), normal("userId"), normal("num-tokens")
    ('user_id', 'user_id', 'num_tokens')
    """
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s\-.]+", "_", spaced).lower()


def is_named(role: str, name: str) -> bool:
    """Say whether a column's name stands for a role: its own name in another spelling, or a known one."""
    return normal(name) == role or normal(name) in ROLE_NAMES.get(role, ())


def no_rating(name: str) -> str | None:
    """Return what a column of numbers is by its name where that is no rating, such as "a count"; None: not known."""
    known = normal(name)
    if RATINGS.fullmatch(known):
        return None
    if is_named("user", known):
        return "an id"
    if not known or known in ROLE_NAMES or any(known in names for names in ROLE_NAMES.values()):
        return "a text by its name" if known else "a column without a name"
    return next((kind for kind, names in NO_RATINGS.items() if names.fullmatch(known)), None)
