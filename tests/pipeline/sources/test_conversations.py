"""Conversations in the forms that files have: each becomes the pair that it stands for, or is refused by name."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, PreferencePair, Text, display, prompt_id
from micropref.pipeline.sources.prompt_split import CUT
from micropref.pipeline.sources.reader import Source, read_source

ASKED = {"role": "user", "content": "Name a lake."}
GOOD = {"role": "assistant", "content": "Como."}
POOR = {"role": "assistant", "content": "Sand."}
LAKE, COMO, SAND = Message("user", "Name a lake."), Message("assistant", "Como."), Message("assistant", "Sand.")
BRIEF = {"role": "system", "content": "Be brief."}
CALL = {"id": "c7", "type": "function", "function": {"name": "depth", "arguments": '{"lake":"Como"}'}}
CALLED = (
    '{"tool_calls": [{"id": "c7", "type": "function", "function": {"name": "depth", "arguments": {"lake": "Como"}}}]}'
)
TOOL = {"type": "function", "function": {"name": "depth", "parameters": {}}}


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> Source:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_source(file, **options)


def only(source: Source) -> PreferencePair:
    (pair,) = source.pairs
    return pair


def texts(pair: PreferencePair) -> tuple[Text, Text, Text]:
    return pair.prompt, pair.chosen, pair.rejected


LAKES = ((LAKE,), (COMO,), (SAND,))
SHAREGPT = [{"from": "human", "value": "Name a lake."}]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # ShareGPT: from and value, one message alone, the prompt under another name.
        (
            {
                "conversations": SHAREGPT,
                "chosen": {"from": "gpt", "value": "Como."},
                "rejected": {"from": "gpt", "value": "Sand."},
            },
            LAKES,
        ),
        ({"chosen": [*SHAREGPT, GOOD], "rejected": [*SHAREGPT, POOR]}, LAKES),
        ({"messages": [ASKED], "chosen": GOOD, "rejected": POOR}, LAKES),
        ({"context": [ASKED], "chosen": [GOOD], "rejected": [POOR]}, LAKES),
        ({"prompt": {"messages": [ASKED]}, "chosen": "Como.", "rejected": "Sand."}, LAKES),
        ({"messages": [ASKED, GOOD], "chosen": [ASKED, GOOD], "rejected": [ASKED, POOR]}, LAKES),
        # Text parts, with the keys that Arrow adds; null contents are none of them.
        (
            {
                "prompt": [
                    {"role": "user", "content": [{"type": "text", "text": "Name ", "image": None}, {"text": "a lake."}]}
                ],
                "chosen": [{"role": "assistant", "content": [{"type": "text", "text": "Como."}]}],
                "rejected": [POOR],
            },
            LAKES,
        ),
        ({"prompt": [ASKED | {"content": ["Name ", "a lake."]}], "chosen": [GOOD], "rejected": [POOR]}, LAKES),
        # JSON text in a cell.
        ({"chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, POOR])}, LAKES),
        ({"prompt": json.dumps([ASKED]), "chosen": "Como.", "rejected": "Sand."}, LAKES),
        (
            {"prompt": json.dumps(json.dumps([ASKED])), "chosen": json.dumps([GOOD]), "rejected": json.dumps(POOR)},
            LAKES,
        ),
        # The prompt as text beside whole conversations.
        ({"prompt": "Name a lake. ", "chosen": [ASKED, GOOD], "rejected": [ASKED, POOR]}, LAKES),
        ({"prompt": [ASKED | {"content": " Name a lake.\n"}], "chosen": [ASKED, GOOD], "rejected": [POOR]}, LAKES),
        (
            {"prompt": "Name a lake.", "chosen": [BRIEF, ASKED, GOOD], "rejected": [BRIEF, ASKED, POOR]},
            ((Message("system", "Be brief."), LAKE), (COMO,), (SAND,)),
        ),
        (
            {"prompt": [BRIEF, ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, POOR]},
            ((Message("system", "Be brief."), LAKE), (COMO,), (SAND,)),
        ),
        (
            {
                "prompt": "Which?",
                "chosen": [ASKED, GOOD, ASKED | {"content": "Which?"}, GOOD],
                "rejected": [ASKED, GOOD, ASKED | {"content": "Which?"}, POOR],
            },
            ((LAKE, COMO, Message("user", "Which?")), (COMO,), (SAND,)),
        ),
        # Texts that repeat their prompt.
        (
            {
                "prompt": "Q: Name a lake.\n\nA:",
                "chosen": "Q: Name a lake.\n\nA: Como.",
                "rejected": "Q: Name a lake.\n\nA: Sand.",
            },
            ("Q: Name a lake.\n\nA:", "Como.", "Sand."),
        ),
        (
            {
                "prompt": "Write a function f: ",
                "chosen": "Write a function f:\n    return 1",
                "rejected": "Write a function f:\n    pass",
            },
            ("Write a function f: ", "    return 1", "    pass"),
        ),
        ({"prompt": "Hi", "chosen": "Hi\n\nHello!", "rejected": "Hi\nWhat?"}, ("Hi", "Hello!", "What?")),
        # An answer may well begin as its question does.
        (
            {"prompt": "Hello", "chosen": "Hello there!", "rejected": "Hello you"},
            ("Hello", "Hello there!", "Hello you"),
        ),
        (
            {"prompt": "Name a lake", "chosen": "Name a lakeside", "rejected": "Name a lakeland"},
            ("Name a lake", "Name a lakeside", "Name a lakeland"),
        ),
        (
            {"prompt": "Name a big lake.", "chosen": "Name a big lake. Como.", "rejected": "No."},
            ("Name a big lake.", "Name a big lake. Como.", "No."),
        ),
        # What is no conversation stays text.
        (
            {"prompt": "Give JSON.", "chosen": '[{"a": 1}]', "rejected": '{"role": "x"'},
            ("Give JSON.", '[{"a": 1}]', '{"role": "x"'),
        ),
        ({"prompt": "Give JSON.", "chosen": '["a"]', "rejected": '["b"]'}, ("Give JSON.", '["a"]', '["b"]')),
    ],
)
def test_forms_of_a_conversation(tmp_path: Path, row: dict[str, Any], expected: tuple[Text, Text, Text]) -> None:
    assert texts(only(read(tmp_path, row))) == expected


def test_what_repeats_the_prompt_is_counted(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        {"prompt": "Name a big lake.", "chosen": "Name a big lake. Como.", "rejected": "Name a big lake. Sand."},
        {"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [POOR]},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [POOR]},
    )
    assert source.noted == {CUT: 3}


def test_tool_calls_tools_and_reasoning_are_part_of_the_text(tmp_path: Path) -> None:
    asked = [
        ASKED,
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c7", "content": "400 m"},
    ]
    thought = GOOD | {"reasoning": "Alps"}
    pair = only(
        read(tmp_path, {"tools": [TOOL], "prompt": asked, "chosen": [thought], "rejected": [POOR | {"thinking": None}]})
    )
    assert pair.prompt == (
        Message("user", "Name a lake.", json.dumps({"tools": [TOOL]})),
        Message("assistant", "", CALLED),
        Message("tool", "400 m", '{"tool_call_id": "c7"}'),
    )
    assert pair.chosen == (Message("assistant", "Como.", '{"reasoning_content": "Alps"}'),)
    assert pair.rejected == (SAND,)
    shown = display(pair.prompt)
    assert shown.startswith('tools: [{"type": "function"')
    assert '\n\nassistant: \ntool_calls: [{"id": "c7"' in shown
    assert display(pair.chosen) == "assistant: Como.\nreasoning_content: Alps"
    bare = only(read(tmp_path, {"prompt": asked, "chosen": [GOOD], "rejected": [POOR]}))
    assert prompt_id(bare.prompt) != prompt_id(pair.prompt)


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        CALL | {"function": {"name": "depth", "arguments": {"lake": "Como", "unit": None}}},
        {"id": "c7", "type": "function", "function": json.dumps(CALL["function"])},
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_calls_of_tools_have_one_form(tmp_path: Path, call: dict[str, Any], as_text: bool) -> None:
    calls = json.dumps([call]) if as_text else [call]
    row = {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": "", "tool_calls": calls}], "rejected": [POOR]}
    assert only(read(tmp_path, row)).chosen == (Message("assistant", "", CALLED),)


@pytest.mark.parametrize(
    "chosen",
    [
        {"role": "assistant", "content": None, "function_call": {"name": "depth", "arguments": '{"lake":"Como"}'}},
        {"from": "function_call", "value": '{"name": "depth", "arguments": {"lake": "Como"}}'},
        {"role": "assistant", "tool_calls": [{"name": "depth", "arguments": {"lake": "Como"}}]},
    ],
)
def test_older_forms_of_calls(tmp_path: Path, chosen: dict[str, Any]) -> None:
    (said,) = only(read(tmp_path, {"prompt": [ASKED], "chosen": [chosen], "rejected": [POOR]})).chosen
    (call,) = said.parts["tool_calls"]  # type: ignore[union-attr]
    assert call["function"] == {"name": "depth", "arguments": {"lake": "Como"}}


def test_pairs_that_differ_in_calls_or_reasoning_alone_are_pairs(tmp_path: Path) -> None:
    other = CALL | {"function": {"name": "depth", "arguments": '{"lake":"Garda"}'}}
    source = read(
        tmp_path,
        {"prompt": [ASKED], "chosen": [GOOD | {"tool_calls": [CALL]}], "rejected": [GOOD | {"tool_calls": [other]}]},
        {"prompt": [ASKED], "chosen": [GOOD | {"reasoning_content": "x"}], "rejected": [GOOD]},
        {"prompt": [ASKED], "chosen": [GOOD | {"tool_calls": []}], "rejected": [GOOD | {"tool_calls": None, "id": 5}]},
    )
    assert (len(source.pairs), source.dropped) == (2, {"identical responses": 1})
    assert source.noted == {"message fields 'id' not read": 1}


def test_every_chosen_answer_is_compared_with_every_rejected_one(tmp_path: Path) -> None:
    row = {"prompt": "Name a lake.", "chosen": ["Como.", "Garda."], "rejected": ["Sand.", "Como."], "subset": "Ties"}
    source = read(tmp_path, row)
    assert [(pair.chosen, pair.rejected) for pair in source.pairs] == [
        ("Como.", "Sand."), ("Garda.", "Sand."), ("Garda.", "Como."),
    ]  # fmt: skip
    assert source.dropped == {"identical responses": 1}
    with pytest.raises(BadInput, match="found lists that make 160,000 pairs"):
        read(tmp_path, {"prompt": "p", "chosen": [str(n) for n in range(400)], "rejected": ["-"] * 400})


def test_rows_with_the_strength_of_a_preference(tmp_path: Path) -> None:
    three = {"context": [ASKED], "response1": "Como.", "response2": "Sand."}
    two = {"prompt": "Name a lake.", "response_1": "Sand.", "response_2": "Como."}
    source = read(tmp_path, three | {"overall_preference": -2}, three | {"overall_preference": 0})
    assert (texts(only(source)), only(source).margin, source.dropped) == (LAKES, 2.0, {"tie": 1})
    assert source.shape == "strength"
    assert texts(only(read(tmp_path, two | {"preference_strength": 3}))) == ("Name a lake.", "Como.", "Sand.")
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: field 'overall_preference': found null"):
        read(tmp_path, three | {"overall_preference": 1}, three | {"overall_preference": None})


def test_messages_in_csv_and_parquet(tmp_path: Path) -> None:
    row = {"chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, POOR])}
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    assert texts(only(read_source(tmp_path / "a.csv"))) == LAKES
    calls = {"chosen": [[ASKED, GOOD | {"tool_calls": [CALL]}]], "rejected": [[ASKED, POOR]]}
    pq.write_table(pa.table(calls), tmp_path / "b.parquet")
    pair = only(read_source(tmp_path / "b.parquet"))
    assert (pair.rejected, pair.chosen) == ((SAND,), (Message("assistant", "Como.", CALLED),))


IMAGE = {"type": "image_url", "image_url": {"url": "a.png"}}
PYTHON = str([ASKED, GOOD]), str([ASKED, POOR])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": [ASKED | {"content": [IMAGE]}]},
            r"'prompt\[0\].content\[0\]': found an object that shows an image",
        ),
        (
            {"prompt": [ASKED | {"content": [{"type": "text", "text": "a", "image": {"bytes": "x"}}]}]},
            "that shows an image",
        ),
        (
            {"prompt": [ASKED | {"content": "<image> What?"}], "images": ["a.png"]},
            "'images': found a list of 1 of images",
        ),
        ({"prompt": [ASKED | {"images": ["a"]}]}, r"'prompt\[0\].images': found a list of 1 that shows an image"),
        ({"prompt": [ASKED | {"content": [{"type": "tool_use", "id": 1}]}]}, "found an object of type 'tool_use'"),
        ({"prompt": [ASKED | {"content": None}]}, r"'prompt\[0\].content': found null; expected a text or"),
        (
            {"prompt": [ASKED | {"tool_calls": "x"}]},
            r"'prompt\[0\].tool_calls': found the text 'x'; expected a list of calls",
        ),
        ({"prompt": [ASKED | {"tool_calls": [{"function": {}}]}]}, "found a call without the name of its function"),
        ({"tools": [1]}, "'tools': found a list of 1; expected a list of objects"),
        (
            {"chosen": PYTHON[0], "rejected": PYTHON[1]},
            "'chosen': found messages as Python writes a list; expected messages as JSON",
        ),
        ({"prompt": PYTHON[0], "chosen": "a", "rejected": "b"}, "'prompt': found messages as Python writes a list"),
        (
            {"chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED])[:-2]},
            "'rejected': found messages in broken JSON",
        ),
        (
            {"prompt": "x", "chosen": [BRIEF, ASKED | {"content": "x"}, GOOD], "rejected": [ASKED | {"content": "x"}]},
            "'rejected': found nothing behind",
        ),
        (
            {"chosen": [BRIEF, ASKED, GOOD], "rejected": [BRIEF | {"content": "Rhyme."}, ASKED, POOR]},
            "'rejected': found another system turn",
        ),
        (
            {"prompt": [{"from": "narrator", "value": "x"}]},
            r"'prompt\[0\].from': found the text 'narrator'; expected one of system",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read(tmp_path, {"prompt": [ASKED], "chosen": [GOOD], "rejected": [POOR]} | row)


def test_a_column_of_images_that_no_message_shows_does_not_matter(tmp_path: Path) -> None:
    row = {"images": ["a.png"], "prompt": [ASKED], "chosen": [GOOD], "rejected": [POOR]}
    assert texts(only(read(tmp_path, row))) == LAKES


def test_the_first_release_reads_as_it_did(tmp_path: Path) -> None:
    whole = {"prompt": "Name a big lake.", "chosen": "Name a big lake. Como.", "rejected": "Name a big lake. Sand."}
    cells = {"prompt": "p", "chosen": json.dumps([GOOD]), "rejected": json.dumps([POOR])}
    calls = {"prompt": [ASKED], "chosen": [GOOD | {"tool_calls": [CALL]}], "rejected": [GOOD]}
    source = read(tmp_path, whole, cells, calls, version=1)
    assert [texts(pair) for pair in source.pairs] == [tuple(row.values()) for row in (whole, cells)]
    assert (source.dropped, source.noted) == ({"identical responses": 1}, {})


def test_many_comparisons_of_one_prompt_are_said_and_far_too_many_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "p", "response": f"r{n}", "help": n / 2} for n in range(150)]
    source = read(tmp_path, *rows)
    ((said, count),) = source.noted.items()
    assert (count, len(source.pairs)) == (150 * 149 // 2, 150 * 149 // 2)
    assert "11,175 of one prompt" in said
    monkeypatch.setattr("micropref.pipeline.sources.rating_rows.MOST_COMPARISONS", 11_000)
    with pytest.raises(BadInput, match=r"rows\.jsonl:1: rated responses make 11,175 comparisons"):
        read(tmp_path, *rows)


def test_lines_that_no_memory_holds_are_refused_and_blank_ones_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("micropref.pipeline.sources.jsonl.LONGEST_LINE", 1 << 12)
    row = json.dumps({"prompt": "p", "chosen": "c", "rejected": "r"}).encode()
    blank = b" " * (1 << 20)
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(gzip.compress(blank + b"\n" + row + b"\n" + blank))
    assert (texts(only(read_source(file))), len(file.read_bytes()) < 1 << 12) == (("p", "c", "r"), True)
    exactly = row[:-2] + b"x" * ((1 << 12) - len(row) - 1) + row[-2:]
    file.write_bytes(gzip.compress(exactly + b"\n" + row))
    assert len(read_source(file).pairs) == 2
    file.write_bytes(gzip.compress(row + b"\n" + row[:-2] + blank + row[-2:]))
    with pytest.raises(BadInput, match=r"a\.jsonl\.gz:2: found a line of more than 0 MB"):
        read_source(file)


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"chosen": ["a", None], "rejected": ["b"]}, r"'chosen\[1\]': found null in a list of texts"),
        ({"chosen": "a", "rejected": ["b", "c"]}, "'rejected': found a list of 2 texts on this side alone"),
        ({"chosen": ["a"], "rejected": []}, "'chosen': found a list of 1 texts on this side alone"),
    ],
)
def test_half_lists_of_answers_are_refused_by_name(tmp_path: Path, sides: dict[str, Any], message: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "q", **sides}))
    with pytest.raises(BadInput, match=message):
        read_source(tmp_path / "a.jsonl")


def test_a_prompt_repeated_on_one_side_is_left_there_and_counted(tmp_path: Path) -> None:
    row = {"prompt": "Q: Name a river.", "chosen": "Q: Name a river. The Rhine.", "rejected": "Wet."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    source = read_source(tmp_path / "a.jsonl")
    assert [(pair.chosen, pair.rejected) for pair in source.pairs] == [(row["chosen"], "Wet.")]
    assert source.noted == {"responses that alone of a row's repeat the prompt, left as they are": 1}


def test_tools_that_are_no_schemas_are_counted(tmp_path: Path) -> None:
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b", "tools": given} for given in ("a hammer", ["saw"], "[]", None)
    ]
    source = read(tmp_path, *rows)
    assert source.noted == {"values of 'tools' that are no schemas, not read": 2}
    assert {pair.prompt for pair in source.pairs} == {"q"}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_messages_in_json_beside_an_empty_answer_are_read(tmp_path: Path, name: str) -> None:
    row = {"prompt": "q", "chosen": json.dumps([GOOD]), "rejected": ""}
    with (tmp_path / name).open("w") as file:
        if name == "a.csv":
            csv.writer(file).writerows([row.keys(), row.values()])
        else:
            json.dump(row, file)
    (pair,) = read_source(tmp_path / name).pairs
    assert (pair.chosen, pair.rejected) == ((Message("assistant", "Como."),), (Message("assistant", ""),))
