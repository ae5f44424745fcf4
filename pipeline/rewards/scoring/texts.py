"""From candidates to the texts that a backbone reads, one chunk of groups at a time.

G groups of candidates, n texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from micropref.pipeline.options import Responses
from micropref.pipeline.rewards.scoring.candidates import Candidates
from micropref.pipeline.sources.pairs import PreferencePair, Text
from micropref.pipeline.text.tokenizer import PairTokenizer
from micropref.pipeline.text.tokens import Tokens

NO_PROMPT = (
    "this backbone or router reads the prompt apart, and the request does not say it: give it apart, as `messages`, "
    "as prompt and responses, or with `prompts` to /get_reward"
)
TOO_LONG = "too long: the response does not fit the backbone's {limit} tokens"


@dataclass(frozen=True)
class Wanted:
    """Which texts a run reads besides responses."""

    prompt: bool
    """The prompt by itself."""
    joint: bool
    """The context with the prompt."""
    alone: bool
    """The context by itself."""
    behind_context: bool
    """Whether responses stand behind context and prompt."""


@dataclass
class GroupTexts:
    """Which texts of a chunk belong to one group of candidates; None: there is none."""

    responses: list[int | None]
    """Each candidate's."""
    reasons: list[str | None]
    """Why a candidate has none."""
    trimmed: list[bool]
    """Whether its prompt was cut."""
    prompt: int | None = None
    joint: int | None = None


@dataclass
class Chunk:
    """The distinct texts of some groups, each group's side by side, and which of them each group needs."""

    groups: list[GroupTexts] = field(default_factory=list)
    """One for each group, in order."""
    texts: list[Tokens] = field(default_factory=list)
    """What the backbone reads [n]."""
    trees: list[int] = field(default_factory=list)
    """Number of each text's prompt [n]."""
    numbers: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    """Where each text is, by its content: groups that ask for the same one share it."""

    def tokens(self, group: GroupTexts) -> list[int]:
        """Return how many tokens each candidate of a group has, 0 where it has no text."""
        return [0 if at is None else len(self.texts[at]) for at in group.responses]

    def number(self, tokens: Tokens | None, tree: int) -> int | None:
        """Return where a text is, which stands with those of a prompt if it is new; None for none."""
        if tokens is None:
            return None
        at = self.numbers.setdefault(tokens.content, len(self.texts))
        if at == len(self.texts):
            self.texts.append(tokens)
            self.trees.append(tree)
        return at


def read_chunk(tokenizer: PairTokenizer, candidates: Sequence[Candidates], wanted: Wanted) -> Chunk:
    """Tokenize G groups of candidates. What cannot be read has its reason in place of a text."""
    read = _Tokenized(tokenizer, wanted)
    rendered = [one for one in candidates if not one.written]
    pairs = [read.pair(one, response, response) for one in rendered for response in one.responses]
    rows = iter(read.encode(pairs))
    as_written = iter(read.as_written([one for one in candidates if one.written]))
    chunk = Chunk()
    tree = 0
    for before, one in zip((None, *candidates), candidates, strict=False):
        tree += before is not None and before.prompt != one.prompt
        found = [next(as_written if one.written else rows) for _ in one.responses]
        if one.together and len(found) > 1 and any(row.trimmed for row in found):
            found = read.together(one, found)
        _add(chunk, tree, found)
    return chunk


@dataclass(frozen=True)
class _Row:
    """What one candidate became."""

    texts: dict[str, Tokens]
    """By role: response, prompt, joint."""
    trimmed: bool = False
    reason: str | None = None


class _Tokenized:
    """Tokenizes candidates as pairs of a response with itself, or with the longest of its group."""

    def __init__(self, tokenizer: PairTokenizer, wanted: Wanted) -> None:
        self._tokenizer, self._wanted = tokenizer, wanted

    def pair(self, one: Candidates, first: Text, second: Text) -> PreferencePair:
        """Return a pair of two candidates."""
        reads = self._wanted.joint or self._wanted.behind_context
        return PreferencePair(
            one.prompt, first, second, context=one.taste.context if reads else None, origin=one.origin
        )

    def encode(self, pairs: Sequence[PreferencePair]) -> list[_Row]:
        """Return what the first responses of pairs are to the backbone, in order."""
        found: list[_Row] = []
        for behind, some in groupby(pairs, lambda pair: self._wanted.behind_context and pair.context is not None):
            found += self._encode(list(some), "context" if behind else "plain")
        return found

    def _encode(self, pairs: list[PreferencePair], responses: Responses) -> list[_Row]:
        encoded = self._tokenizer.encode(pairs, responses)
        roles = {
            "response": encoded.chosen_context if responses == "context" else encoded.chosen,
            **({"prompt": encoded.prompt} if self._wanted.prompt else {}),
            **({"joint": encoded.context} if self._wanted.joint else {}),
        }
        rows = []
        for row in range(len(pairs)):
            if row in encoded.refused:
                rows.append(_Row({}, reason=encoded.refused[row]))
                continue
            if encoded.overlong[row]:
                rows.append(_Row({}, reason=TOO_LONG.format(limit=self._tokenizer.options.max_length)))
                continue
            texts = {role: encoded.texts[at[row]] for role, at in roles.items() if at[row] >= 0}
            rows.append(_Row(texts, bool(encoded.trimmed[row])))
        return rows

    def as_written(self, candidates: Sequence[Candidates]) -> list[_Row]:
        """Return what texts are to the backbone that a client wrote whole, in order."""
        found: list[_Row] = []
        for one in candidates:
            texts = [response for response in one.responses if isinstance(response, str)]
            prompt = one.prompt if isinstance(one.prompt, str) else ""
            if not self._tokenizer.causal:
                found += self._as_segments(one, prompt, texts)
            elif self._wanted.prompt and not prompt:
                found += [_Row({}, reason=NO_PROMPT) for _ in texts]
            else:
                written = self._tokenizer.encode_written([*texts, *([prompt] if self._wanted.prompt else [])])
                shared = {"prompt": written[-1]} if self._wanted.prompt and written[-1] is not None else {}
                found += [self._whole(tokens, shared) for tokens in written[: len(texts)]]
        return found

    def _whole(self, tokens: Tokens | None, shared: dict[str, Tokens]) -> _Row:
        if tokens is None:
            return _Row({}, reason=TOO_LONG.format(limit=self._tokenizer.options.max_length))
        return _Row({"response": tokens, **shared})

    def _as_segments(self, one: Candidates, prompt: str, texts: Sequence[str]) -> list[_Row]:
        """Return what an encoder reads, which takes prompt and response apart: the prompt has to be known."""
        found = []
        for text in texts:
            if not prompt or not text.startswith(prompt):
                found.append(_Row({}, reason=NO_PROMPT))
            else:
                response = text[len(prompt) :]
                found += self.encode([self.pair(one, response, response)])
        return found

    def together(self, one: Candidates, found: list[_Row]) -> list[_Row]:
        """Cut the prompt of a group to one text: the one that leaves room for the longest candidate that fits."""
        fit = [at for at, row in enumerate(found) if row.reason is None]
        if len(fit) < 2:
            return found
        first = one.responses[fit[0]]
        against = [one.responses[at] for at in fit]
        mine = self.encode([self.pair(one, first, other) for other in against])
        theirs = self.encode([self.pair(one, other, first) for other in against])
        # Behind the same prompt the longer text is the one with the longer response.
        longer = [len(b.texts["response"]) - len(a.texts["response"]) for a, b in zip(mine, theirs, strict=True)]
        longest = against[max(range(len(fit)), key=longer.__getitem__)]
        cut = self.encode([self.pair(one, response, longest) for response in against])
        again = dict(zip(fit, cut, strict=True))
        return [again.get(at, row) for at, row in enumerate(found)]


def _add(chunk: Chunk, tree: int, rows: Sequence[_Row]) -> None:
    """Put a group's texts next to each other at the end of a chunk; those that are there already are not put again."""
    whole = next((row for row in rows if row.reason is None), _Row({}))
    chunk.groups.append(
        GroupTexts(
            [chunk.number(row.texts.get("response"), tree) for row in rows],
            [row.reason for row in rows],
            [row.trimmed for row in rows],
            chunk.number(whole.texts.get("prompt"), tree),
            chunk.number(whole.texts.get("joint"), tree),
        )
    )
