from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.contexts import SHIPPED, contexts_file, read_contexts, with_contexts
from micropref.pipeline.sources.pairs import Origin, PreferencePair

CONTEXTS = {"brevity": ("Be brief.",), "style": ("Write well.", "Mind the style.", "Be elegant.")}


def pair(number: int, attribute: str | None = "style", context: str | None = None) -> PreferencePair:
    return PreferencePair(f"prompt {number}", "yes", "no", attribute, context, origin=Origin("data.jsonl", number + 1))


def test_one_or_several_sentences_are_read(tmp_path: Path) -> None:
    file = tmp_path / "contexts.json"
    document = {"brevity": "Be brief.", "style": ["Write well.", "Mind the style.", "Be elegant."]}
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(document, indent=2).encode())
    assert read_contexts(file) == CONTEXTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found invalid JSON at column 1"),
        (b'{"a": "b",\n "c" "d"}', "found invalid JSON at line 2 column 6"),
        (b'{"a": "b", "a": "c"}', "field 'a': found the key more than once"),
        (b"{}", "found an empty object"),
        (b'["a"]', "found a list of 1"),
        (b'{"a": 5}', "field 'a': found the number 5"),
        (b'{"a": " "}', "field 'a': found an empty text"),
        (b'{"a": []}', "field 'a': found a list of 0"),
        (b'{"a": ["b", null]}', "field 'a': found null"),
        (b'{"": "b"}', "found an attribute without a name"),
        (b'{"a": "\xff"}', "found invalid UTF-8 at byte 8"),
        ('{"a": "b"}'.encode("utf-16"), "found UTF-16"),
        (b'{"a": "\\ud800"}', "field 'a': found half of a surrogate pair"),
        (b"[" * 10_000, "found JSON nested too deeply"),
    ],
)
def test_bad_contexts_are_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "contexts.json"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(message)) as refusal:
        read_contexts(file)
    assert str(refusal.value).startswith(str(file))
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_contexts(tmp_path / "nowhere.json")


def test_only_missing_contexts_are_filled() -> None:
    pairs = [pair(0, "brevity"), pair(1, "style", "own words"), pair(2, "unknown"), pair(3, None)]
    assert [filled.context for filled in with_contexts(pairs, CONTEXTS)] == ["Be brief.", "own words", None, None]


def test_a_prompt_and_attribute_always_get_the_same_wording() -> None:
    pairs = [pair(number) for number in range(300)]
    first = [filled.context for filled in with_contexts(pairs, CONTEXTS)]
    again = [filled.context for filled in with_contexts(reversed(pairs), CONTEXTS)]
    assert first == again[::-1]
    # Three equally likely wordings for 300 prompts: 100 each, standard deviation 8.
    assert all(70 < first.count(wording) < 130 for wording in CONTEXTS["style"])


def test_helpsteer2_has_a_sentence_for_each_attribute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_contexts(contexts_file("helpsteer2"))
    assert set(found) == {"helpfulness", "correctness", "coherence", "complexity", "verbosity"}
    assert len({sentence for (sentence,) in found.values()}) == 5
    assert contexts_file("mine.json") == Path("mine.json")
    Path("helpsteer2").write_text('{"a": "b"}')  # a file of that name goes first
    assert contexts_file(Path("helpsteer2")) == Path("helpsteer2") != SHIPPED["helpsteer2"]
