"""Every adapter on tiny rows in its data set's schema, with the oddities that the real rows have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.named.adapters.facts import NamedDataset
from micropref.pipeline.named.registry import find_named, named_datasets
from micropref.pipeline.sources.formats import COLUMNS
from micropref.pipeline.sources.locations import Given, locate
from micropref.pipeline.sources.pairs import display
from micropref.pipeline.sources.reader import Source, read_source

Row = dict[str, Any]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def answer(text: str) -> Row:
    return {"role": "assistant", "content": text}


def named(name: str) -> NamedDataset:
    found = find_named(name)
    assert found is not None
    return found


def read(folder: Path, name: str, rows: list[Row], config: str | None = None, **options: Any) -> Source:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (located,) = locate(Given(file, adapter=named(name).adapter(config)))
    return read_source(located, **options)


def pairs(source: Source) -> list[tuple[str, str, str]]:
    return [(display(pair.prompt), display(pair.chosen), display(pair.rejected)) for pair in source.pairs]


def attributes(source: Source) -> list[tuple[str | None, str]]:
    return [(pair.attribute, display(pair.chosen)) for pair in source.pairs]


def helpsteer(response: str, *ratings: int | None) -> Row:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    return {"prompt": "p", "response": response, **dict(zip(names, ratings, strict=True))}


def test_helpsteer2_compares_the_two_responses_by_each_attribute(tmp_path: Path) -> None:
    source = read(tmp_path, "nvidia/HelpSteer2", [helpsteer("a", 4, 3, 0, 2, 1), helpsteer("b", 2, 3, 1, 2, 0)])
    assert attributes(source) == [("helpfulness", "a"), ("coherence", "b"), ("verbosity", "a")]
    assert source.dropped == {"tie": 2}
    assert len(source.ratings) == 10


def test_helpsteer2_preferences_are_signed(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_1": "a", "response_2": "b"}
    strengths = [-2, 1, 0, None]
    rows = [{**row, "preference_strength": strength, "split": "train"} for strength in strengths]
    source = read(tmp_path, "nvidia/helpsteer2", rows, "preference")
    assert [(pair.chosen, pair.margin, pair.attribute) for pair in source.pairs] == [
        ("a", 2.0, "overall"),
        ("b", 1.0, "overall"),
    ]
    assert source.dropped == {"tie": 1, "no label": 1}


def test_helpsteer2_preferences_of_one_file_have_two_splits(tmp_path: Path) -> None:
    (tmp_path / "preference").mkdir()
    row = {"response_1": "a", "response_2": "b", "preference_strength": 1}
    rows = [{**row, "prompt": f"p{at}", "split": "validation" if at == 2 else "train"} for at in range(3)]
    (tmp_path / "preference/preference.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    train, test = locate(Given(tmp_path, adapter=named("HelpSteer2").adapter("preference")))
    assert [(one.read_split, one.split) for one in (train, test)] == [("train", "train"), ("validation", "test")]
    assert [(read_source(one).rows, len(read_source(one).pairs)) for one in (train, test)] == [(2, 2), (1, 1)]


def test_helpsteer3_reads_the_conversation_in_context(tmp_path: Path) -> None:
    row = {"domain": "general", "language": "english", "context": [user("Hi")], "response1": "a", "response2": "b"}
    source = read(tmp_path, "nvidia/HelpSteer3", [{**row, "overall_preference": score} for score in (-3, 2, 0)])
    assert pairs(source) == [
        ("user: Hi", "assistant: a", "assistant: b"),
        ("user: Hi", "assistant: b", "assistant: a"),
    ]
    assert [(pair.margin, pair.attribute, pair.context) for pair in source.pairs] == [
        (3.0, "general", None),
        (2.0, "general", None),
    ]
    assert source.dropped == {"tie": 1}


def test_rpr_is_two_pairs_a_row_with_opposite_labels(tmp_path: Path) -> None:
    row = {
        "prompt": "p", "response_a": "a", "response_b": "b", "criteria_x": "Be brief.", "criteria_y": "Be deep.",
        "category_x": "Brevity", "category_y": "Depth", "id": 7, "scenario_x": "s", "scenario_y": "t", "profile_0": "P",
    }  # fmt: skip
    source = read(tmp_path, "microsoft/rpr", [row, {**row, "response_b": "a"}])
    assert [(pair.chosen, pair.context, pair.attribute) for pair in source.pairs] == [
        ("a", "Be brief.", "Brevity"),
        ("b", "Be deep.", "Depth"),
    ]
    assert source.dropped == {"identical responses": 1}


@pytest.mark.parametrize(
    "name",
    [
        "hendrydong/preference_700K",
        "Skywork/Skywork-Reward-Preference-80K-v0.2",
        "allenai/llama-3.1-tulu-3-8b-preference-mixture",
    ],
)
def test_mixes_hold_whole_conversations(tmp_path: Path, name: str) -> None:
    rows = [{"chosen": [user("q"), answer("a")], "rejected": [user("q"), answer("b")], "source": "s"}]
    source = read(tmp_path, name, rows)
    assert pairs(source) == [("user: q", "assistant: a", "assistant: b")]
    assert source.pairs[0].attribute == "s"


def ultrafeedback(response: str, *ratings: str | None) -> Row:
    names = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "response": response,
        "annotations": {name: {"Rating": rating} for name, rating in zip(names, ratings, strict=True)},
    }


def test_ultrafeedback_ratings_are_texts_and_some_are_not_there(tmp_path: Path) -> None:
    completions = [ultrafeedback("a", "5", "N/A", "3", "1"), ultrafeedback("b", "4", "2", "3", "4")]
    row = {"instruction": "p", "models": ["m", "n"], "completions": completions}
    source = read(tmp_path, "openbmb/UltraFeedback", [row, {"instruction": "q", "completions": []}])
    assert attributes(source) == [("instruction_following", "a"), ("helpfulness", "b")]
    assert source.dropped == {"tie": 1, "no completions": 1}
    assert source.rows == 2
    with pytest.raises(BadInput, match=r"completions\[0\]\.annotations\.honesty\.Rating': found the text 'good'"):
        read(tmp_path, "openbmb/UltraFeedback", [{**row, "completions": [ultrafeedback("a", "5", "good", "3", "1")]}])


def test_ultrafeedback_binarized_drops_choices_by_chance(tmp_path: Path) -> None:
    row = {"prompt": "q", "prompt_id": "1", "chosen": [user("q"), answer("a")], "rejected": [user("q"), answer("b")]}
    scores = [(8.5, 7.0), (7.0, 7.0)]
    rows = [{**row, "messages": [], "score_chosen": high, "score_rejected": low} for high, low in scores]
    source = read(tmp_path, "HuggingFaceH4/ultrafeedback_binarized", rows)
    assert pairs(source) == [("user: q", "assistant: a", "assistant: b")]
    assert (source.pairs[0].margin, source.dropped) == (1.5, {"tie": 1})


def test_ultrafeedback_binarized_reads_the_splits_of_preferences(tmp_path: Path) -> None:
    for name in ("train_prefs", "test_prefs", "train_sft", "test_gen"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    header = "".join(f"  - split: {name}\n    path: {name}*\n" for name in ("train_prefs", "test_prefs", "train_sft"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{header}---\n")
    found = locate(Given(tmp_path, adapter=named("ultrafeedback_binarized").adapter(None)))
    assert [(one.read_split, one.split) for one in found] == [("train_prefs", "train"), ("test_prefs", "test")]


def test_hh_says_by_folder_what_was_judged(tmp_path: Path) -> None:
    for folder in ("harmless-base", "helpful-online", "red-team-attempts"):
        (tmp_path / folder).mkdir()
        row = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": f"\n\nHuman: q\n\nAssistant: {folder}"}
        for split in ("train", "test"):
            (tmp_path / folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    train, test = locate(Given(tmp_path, adapter=named("Anthropic/hh-rlhf").adapter(None)))
    assert [pair.attribute for pair in read_source(train).pairs] == ["harmless", "helpful"]
    assert test.split == "test"
    (one, _) = locate(Given(tmp_path, adapter=named("Anthropic/hh-rlhf").adapter("helpful-online")))
    assert len(read_source(one).pairs) == 1


def test_saferlhf_ids_count_from_zero(tmp_path: Path) -> None:
    row = {
        "prompt": "p", "response_0": "a", "response_1": "b", "is_response_0_safe": False, "is_response_1_safe": True,
    }  # fmt: skip
    labels = [(0, 1), (1, None)]
    rows = [{**row, "better_response_id": better, "safer_response_id": safer} for better, safer in labels]
    source = read(tmp_path, "PKU-Alignment/PKU-SafeRLHF", rows)
    assert attributes(source) == [("helpful", "a"), ("harmless", "b"), ("helpful", "b")]
    assert source.dropped == {"no label": 1}
    with pytest.raises(BadInput, match="field 'better_response_id': found the number 2; expected 0 or 1"):
        read(tmp_path, "PKU-SafeRLHF", [{**row, "better_response_id": 2, "safer_response_id": 0}])


def test_shp_labels_are_one_for_the_first(tmp_path: Path) -> None:
    row = {"history": "p", "human_ref_A": "a", "human_ref_B": "b", "score_A": 9, "score_B": 4, "domain": "askbaking"}
    source = read(tmp_path, "stanfordnlp/SHP", [{**row, "labels": 1}, {**row, "labels": 0}])
    assert attributes(source) == [("askbaking", "a"), ("askbaking", "b")]


def judged(person: str | None, overall: str, helpful: str | None = "Tie") -> Row:
    return {
        "evaluator": person,
        "overall_pref": overall,
        "helpful_pref": helpful,
        "truthful_pref": "Tie",
        "harmless_pref": "Tie",
    }


def test_multipref_has_a_pair_for_each_judgement_of_each_person(tmp_path: Path) -> None:
    row = {
        "text": "p", "completion_a": "a", "completion_b": "b",
        "normal_worker_annotations": [judged("ann", "A-is-clearly-better"), judged("bob", "B-is-slightly-better")],
        "expert_worker_annotations": [judged("eve", "Tie", None)],
    }  # fmt: skip
    source = read(tmp_path, "allenai/multipref", [row])
    assert [(pair.user, pair.attribute, pair.chosen, pair.margin) for pair in source.pairs] == [
        ("ann", "overall", "a", 2.0),
        ("bob", "overall", "b", 1.0),
    ]
    assert source.dropped == {"tie": 9, "no label": 1}
    with pytest.raises(BadInput, match="overall_pref': found the text 'maybe'; expected one of A-is-clearly-better"):
        read(tmp_path, "allenai/multipref", [{**row, "expert_worker_annotations": [judged("eve", "maybe")]}])


def spoken(turn: int, role: str, content: str, chosen: bool | None = None) -> Row:
    return {"turn": turn, "role": role, "content": content, "if_chosen": chosen, "score": None}


def test_prism_compares_the_chosen_answer_turn_by_turn(tmp_path: Path) -> None:
    history = [
        spoken(0, "user", "Hi"), spoken(0, "model", "a", True), spoken(0, "model", "b", False),
        spoken(0, "model", "c", False), spoken(1, "user", "More"), spoken(1, "model", "d", False),
        spoken(1, "model", "e", True),
    ]  # fmt: skip
    conversations = [
        {"user_id": "user1", "conversation_id": "c1", "conversation_history": history},
        {"user_id": "user2", "conversation_id": "c2", "conversation_history": [*history[:1], spoken(0, "model", "x")]},
    ]
    (tmp_path / "conversations.jsonl").write_text("".join(json.dumps(one) + "\n" for one in conversations))
    survey = {"user_id": "user1", "system_string": "Be honest with me."}
    (tmp_path / "survey.jsonl").write_text(json.dumps(survey) + "\n")
    adapter = named("HannahRoseKirk/prism-alignment").adapter(None)
    (located,) = locate(Given(tmp_path, adapter=adapter))
    source = read_source(located)
    assert pairs(source) == [
        ("user: Hi", "assistant: a", "assistant: b"),
        ("user: Hi", "assistant: a", "assistant: c"),
        ("user: Hi\n\nassistant: a\n\nuser: More", "assistant: e", "assistant: d"),
    ]
    assert {(pair.user, pair.context) for pair in source.pairs} == {("user1", "Be honest with me.")}
    assert source.dropped == {"no answer chosen": 1}
    before = located.digest()
    (tmp_path / "survey.jsonl").write_text("")
    assert locate(Given(tmp_path, adapter=adapter))[0].digest() != before  # other contexts are another source


def test_arena_55k_has_turns_in_json_and_one_of_three_winners(tmp_path: Path) -> None:
    row = {
        "model_a": "m",
        "model_b": "n",
        "prompt": '["q", "more"]',
        "response_a": '["a", null]',
        "response_b": '["b", "c"]',
    }
    votes = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)]
    names = ("winner_model_a", "winner_model_b", "winner_tie")
    source = read(
        tmp_path,
        "lmarena-ai/arena-human-preference-55k",
        [{**row, **dict(zip(names, vote, strict=True))} for vote in votes],
    )
    first = "assistant: a\n\nuser: more\n\nassistant: "
    second = "assistant: b\n\nuser: more\n\nassistant: c"
    assert pairs(source) == [("user: q", first, second), ("user: q", second, first)]
    assert source.dropped == {"tie": 1, "no label": 1}
    broken = {**row, "response_a": '["a"', "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    with pytest.raises(BadInput, match="field 'response_a': found invalid JSON"):
        read(tmp_path, "arena-human-preference-55k", [broken])


def parts(role: str, text: str, image: str | None = None) -> Row:
    return {"role": role, "content": [{"type": "text", "text": text, "image": image, "mimeType": None}]}


def test_arena_140k_has_turns_of_parts(tmp_path: Path) -> None:
    row = {
        "model_a": "m", "model_b": "n", "evaluation_session_id": "s1",
        "conversation_a": [parts("user", "q"), parts("assistant", "a")],
        "conversation_b": [parts("user", "q"), parts("assistant", "b")],
    }  # fmt: skip
    rows = [{**row, "winner": winner} for winner in ("model_b", "tie", "both_bad")]
    source = read(tmp_path, "lmarena-ai/arena-human-preference-140k", rows)
    assert pairs(source) == [("user: q", "assistant: b", "assistant: a")]
    assert (source.pairs[0].user, source.dropped) == ("s1", {"tie": 1, "both bad": 1})
    shown = {**row, "winner": "model_a", "conversation_a": [parts("user", "q", "a.png"), parts("assistant", "a")]}
    source = read(tmp_path, "lmarena-ai/arena-human-preference-140k", [*rows, shown], on_bad="skip")
    assert source.dropped == {"tie": 1, "both bad": 1, "malformed": 1}
    assert "found an image" in source.rejects[-1].reason


def test_rewardbench_reports_by_subset(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "subset": "hep-go", "chosen_model": "m", "id": 1}
    assert attributes(read(tmp_path, "allenai/reward-bench", [row])) == [("hep-go", "a")]


def test_rewardbench_2_pairs_every_right_answer_with_every_wrong_one(tmp_path: Path) -> None:
    row = {"id": "1", "prompt": "p", "chosen": ["a"], "rejected": ["b", "c", "d"], "num_correct": 1, "subset": "Math"}
    ties = {**row, "chosen": ["a", "e"], "rejected": ["b"], "subset": "Ties"}
    source = read(tmp_path, "allenai/reward-bench-2", [row, ties])
    assert [(pair.attribute, pair.chosen, pair.rejected) for pair in source.pairs] == [
        ("Math", "a", "b"), ("Math", "a", "c"), ("Math", "a", "d"), ("Ties", "a", "b"), ("Ties", "e", "b"),
    ]  # fmt: skip


def test_rmbench_knows_hard_from_easy(tmp_path: Path) -> None:
    row = {"id": "1", "prompt": "p", "chosen": ["a0", "a1", "a2"], "rejected": ["b0", "b1", "b2"], "domain": "chat"}
    source = read(tmp_path, "THU-KEG/RM-Bench", [row])
    found = {(str(pair.chosen), str(pair.rejected)): pair.attribute for pair in source.pairs}
    assert len(found) == 9
    assert found["a0", "b2"] == "chat, hard"  # plain and right against polished and wrong
    assert found["a1", "b1"] == "chat, normal"
    assert found["a2", "b0"] == "chat, easy"


def test_personalized_rewardbench_never_reads_the_rubric(tmp_path: Path) -> None:
    row = {
        "id": "1", "question": "p", "chosen": "a", "rejected": "b", "profile": [{"text": "x"}],
        "rubric_aspects": ["secret"], "narrative": "secret",
    }  # fmt: skip
    source = read(tmp_path, "QiyaoMa/Personalized-RewardBench", [row], "Society_and_Culture")
    assert attributes(source) == [("Society_and_Culture", "a")]
    assert source.pairs[0].context is None


def test_community_alignment_goes_on_from_the_preferred_answer(tmp_path: Path) -> None:
    row: Row = {"annotator_id": 12, "assigned_lang": "en", "first_turn_prompt": "Hi", "second_turn_prompt": "More"}
    for turn, preferred in (("first", "response_b"), ("second", "response_a"), ("third", None)):
        row[f"{turn}_turn_preferred_response"] = preferred
        row |= {f"{turn}_turn_response_{letter}": f"{turn} {letter}" for letter in "abcd"}
    row["second_turn_response_d"] = None
    source = read(tmp_path, "facebook/community-alignment-dataset", [row])
    asked = "user: Hi\n\nassistant: first b\n\nuser: More"
    assert pairs(source) == [
        *(("user: Hi", "assistant: first b", f"assistant: first {letter}") for letter in "acd"),
        *((asked, "assistant: second a", f"assistant: second {letter}") for letter in "bc"),
    ]
    assert {pair.user for pair in source.pairs} == {"12"}
    empty = {**row, "first_turn_preferred_response": None}
    assert read(tmp_path, "facebook/community-alignment-dataset", [row, empty]).dropped == {"no comparison": 1}


def test_personalllm_rates_by_ten_reward_models(tmp_path: Path) -> None:
    models = (
        "gemma_2b", "gemma_7b", "mistral_raft", "mistral_ray", "mistral_weqweasdas", "llama3_sfairx",
        "oasst_deberta_v3", "beaver_7b", "oasst_pythia_7b", "oasst_pythia_1b",
    )  # fmt: skip
    row: Row = {"prompt": "p", "prompt_id": 1}
    for place in range(1, 9):
        row[f"response_{place}"] = f"r{place}"
        row |= {f"response_{place}_{model}": (place if at else -place) / 8 for at, model in enumerate(models)}
    source = read(tmp_path, "namkoong-lab/PersonalLLM", [row])
    assert len(source.pairs) == 28 * 10
    assert {pair.chosen for pair in source.pairs if pair.attribute == "gemma_2b"} == {f"r{at}" for at in range(1, 8)}


@pytest.mark.parametrize("name", [one.name for one in named_datasets().values()])
def test_another_data_set_is_named_by_its_columns(tmp_path: Path, name: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "hello", "label": 1}\n')
    for adapter in named(name).configs.values():
        with pytest.raises(BadInput) as refusal:
            read_source(locate(Given(tmp_path / "rows.jsonl", adapter=adapter))[0])
        message = str(refusal.value)
        assert message.startswith(f"{tmp_path / 'rows.jsonl'}:1: found the columns text, label; expected those of")
        assert adapter.name in message
        assert adapter.columns[0] in message


def test_facts_are_whole() -> None:
    for one in named_datasets().values():
        assert all((one.licence, one.size, one.labels, one.attributes, one.contexts, one.users)), one.name
        assert {adapter.shape for adapter in one.configs.values()} <= set(COLUMNS), one.name
        assert find_named(one.name.partition("/")[2]) is one
    assert "synthetic" in named("microsoft/rpr").labels
    assert find_named("nobody/knows") is None
