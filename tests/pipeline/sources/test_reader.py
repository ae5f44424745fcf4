from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.pairs import Message, Text
from micropref.pipeline.sources.reader import Source, read_source

USER = Message("user", "What is 1+1?")
TWO = Message("assistant", "2")
THREE = Message("assistant", "3")


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


ASKED = turn("user", "What is 1+1?")
RIGHT = turn("assistant", "2")
WRONG = turn("assistant", "3")


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, *rows: dict[str, Any], **options: Any) -> Source:
    return read_source(written(folder / "data.jsonl", list(rows)), **options)


def texts(source: Source) -> list[tuple[Text, Text, Text]]:
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in source.pairs]


def test_a_comparison_may_carry_ratings_of_its_responses(tmp_path: Path) -> None:
    first = {"prompt": "p", "chosen": "c", "rejected": "r"}
    source = read(
        tmp_path,
        first | {"chosen_ratings": {"help": 4, "style": None}, "rejected_ratings": {"help": 1.5}},
        first | {"chosen_ratings": {"help": 4, "style": 2}, "rejected_ratings": None},
        first | {"chosen": "r", "rejected": "c", "rejected_ratings": {"help": 3}},
        {"prompt": [ASKED], "chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG], "chosen_ratings": {"help": 0}},
    )
    rated = [(rating.prompt, rating.response, rating.attribute, rating.rating) for rating in source.ratings]
    assert rated == [
        ("p", "c", "help", 4.0),
        ("p", "r", "help", 1.5),
        ("p", "c", "style", 2.0),  # what was said before is not said again
        ("p", "c", "help", 3.0),  # another rating of the same response is
        ((USER,), (TWO,), "help", 0.0),
    ]
    assert len(source.pairs) == 4


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, ("p", "c", "r")),
        ({"prompt": [ASKED], "chosen": [RIGHT], "rejected": [WRONG]}, ((USER,), (TWO,), (THREE,))),
        # UltraFeedback-binarized: the prompt as text, and again at the head of both conversations.
        (
            {"prompt": "What is 1+1?", "chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]},
            ((USER,), (TWO,), (THREE,)),
        ),
        ({"prompt": [ASKED], "chosen": "2", "rejected": "3"}, ((USER,), (TWO,), (THREE,))),
        # preference_700K: whole conversations, no prompt.
        ({"chosen": [ASKED, RIGHT], "rejected": [ASKED, WRONG]}, ((USER,), (TWO,), (THREE,))),
        (
            {"chosen": [ASKED, RIGHT, ASKED, RIGHT], "rejected": [ASKED, RIGHT, ASKED, WRONG]},
            ((USER, TWO, USER), (TWO,), (THREE,)),
        ),
        # The sides part at a user's turn: the response begins with the last common place for an assistant.
        (
            {"chosen": [ASKED, RIGHT, turn("user", "Sure?"), RIGHT], "rejected": [ASKED, RIGHT]},
            ((USER,), (TWO, Message("user", "Sure?"), TWO), (TWO,)),
        ),
        (
            {"prompt": [ASKED], "chosen": [turn("assistant", [{"type": "text", "text": "2"}])], "rejected": [WRONG]},
            ((USER,), (TWO,), (THREE,)),
        ),
        # Implicit prompts of texts: cut back to white space, never inside a word.
        ({"chosen": "The sky is blue.", "rejected": "The sky is black."}, ("The sky is", " blue.", " black.")),
        ({"chosen": "Q: x\nA: yes", "rejected": "Q: x\nA: no"}, ("Q: x\nA:", " yes", " no")),
        ({"chosen": "The sky is", "rejected": "The sky is blue"}, ("The sky", " is", " is blue")),
    ],
)
def test_preference_rows(tmp_path: Path, row: dict[str, Any], expected: tuple[Text, Text, Text]) -> None:
    source = read(tmp_path, row)
    assert source.shape == "preference"
    assert texts(source) == [expected]


def test_labels_of_a_preference_row(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "c", "rejected": "r"}
    full, bare = read(
        tmp_path,
        row | {"attribute": "style", "context": "be brief", "user": 17, "margin": 2},
        row | {"attribute": None, "context": " ", "user": "ann", "margin": None, "other": [1]},
    ).pairs
    assert (full.attribute, full.context, full.user, full.margin) == ("style", "be brief", "17", 2.0)
    assert (bare.attribute, bare.context, bare.user, bare.margin) == (None, None, "ann", None)
    assert str(bare.origin) == f"{tmp_path}/data.jsonl:2"


def test_identical_responses_are_dropped_counted_and_kept_as_rejects(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        {"prompt": "p", "chosen": "same", "rejected": "same"},
        {"prompt": "p", "chosen": "c", "rejected": "r"},
        {"prompt": [ASKED], "chosen": [ASKED, RIGHT], "rejected": [RIGHT]},
        {"chosen": "same", "rejected": "same"},
    )
    assert len(source.pairs) == 1
    assert source.dropped == {"identical responses": 3}
    assert [(reject.origin.line, reject.reason) for reject in source.rejects] == [
        (line, "identical responses") for line in (1, 3, 4)
    ]


SILENT = Message("assistant", "")
TRANSCRIPT = "\n\nHuman: What is 1+1?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "p", "chosen": "", "rejected": "r"}, ("p", "", "r")),
        ({"prompt": "p", "chosen": "c", "rejected": " \n"}, ("p", "c", " \n")),
        ({"prompt": [ASKED], "chosen": [turn("assistant", "")], "rejected": [WRONG]}, ((USER,), (SILENT,), (THREE,))),
        ({"prompt": [ASKED], "chosen": "2", "rejected": ""}, ((USER,), (TWO,), (SILENT,))),
        ({"chosen": [ASKED, RIGHT], "rejected": [ASKED, turn("assistant", "")]}, ((USER,), (TWO,), (SILENT,))),
        ({"chosen": TRANSCRIPT + " 2", "rejected": TRANSCRIPT}, ((USER,), (TWO,), (SILENT,))),
    ],
    ids=str,
)
def test_an_empty_response_is_an_answer(tmp_path: Path, row: dict[str, Any], expected: tuple[Text, Text, Text]) -> None:
    source = read(tmp_path, row)
    assert texts(source) == [expected]
    assert source.dropped == {}


def test_empty_responses_of_other_shapes(tmp_path: Path) -> None:
    labels = {"criteria_x": "short", "criteria_y": "long", "category_x": "x", "category_y": "y"}
    assert texts(read(tmp_path, {"prompt": "p", "response_a": "", "response_b": "B", **labels})) == [
        ("p", "", "B"),
        ("p", "B", ""),
    ]
    rated = [{"prompt": "p", "response": text, "help": score} for score, text in enumerate(["", "A", " "])]
    source = read(tmp_path, *rated)
    assert texts(source) == [("p", "A", ""), ("p", " ", "A")]
    assert source.dropped == {"both responses empty": 1}
    cells = tmp_path / "data.csv"
    cells.write_text("prompt,chosen,rejected\np,,r\n")
    assert texts(read_source(cells)) == [("p", "", "r")]


def test_two_empty_responses_are_no_preference(tmp_path: Path) -> None:
    good, both = {"prompt": "p", "chosen": "c", "rejected": ""}, {"prompt": "p", "chosen": "", "rejected": "  "}
    silent = {"prompt": [ASKED], "chosen": [turn("assistant", "")], "rejected": [turn("assistant", "\n")]}
    source = read(tmp_path, good, both, good | {"chosen": ""}, silent)
    assert texts(source) == [("p", "c", "")]
    assert source.dropped == {"both responses empty": 2, "identical responses": 1}
    assert source.rejects[0].origin.line == 2


def test_equal_texts_are_one_object(tmp_path: Path) -> None:
    row = {"prompt": "a prompt of some length", "chosen": "c", "rejected": "r"}
    first, second = read(tmp_path, row, row).pairs
    assert first.prompt is second.prompt
    assert first.chosen is second.chosen


def test_hh_transcripts_become_messages(tmp_path: Path) -> None:
    head = "\n\nHuman: Hi\n\nAssistant: Hello, you.\n\nHuman: What is\n\n1+1?\n\nAssistant:"
    source = read(
        tmp_path,
        {"chosen": head + " 2", "rejected": head + " 3 "},
        {"chosen": head + " 2", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away."},
        {"chosen": head + " 2", "rejected": head + "  2"},
    )
    asked = (Message("user", "Hi"), Message("assistant", "Hello, you."), Message("user", "What is\n\n1+1?"))
    assert source.shape == "hh"
    assert texts(source) == [
        (asked, (TWO,), (THREE,)),
        (asked[:1], (*asked[1:], TWO), (Message("assistant", "Go away."),)),
    ]
    assert source.dropped == {"identical responses": 1}


def test_reversals_are_two_opposite_pairs(tmp_path: Path) -> None:
    row = {"prompt": "p", "response_a": "A", "response_b": "B", "id": 5}
    row |= {"criteria_x": "short", "criteria_y": "long", "category_x": "brevity", "category_y": "detail"}
    source = read(tmp_path, row, row | {"response_b": "A"})
    assert source.shape == "reversals"
    assert [(p.chosen, p.rejected, p.attribute, p.context) for p in source.pairs] == [
        ("A", "B", "brevity", "short"),
        ("B", "A", "detail", "long"),
    ]
    assert source.dropped == {"identical responses": 1}


def rated(prompt: str, response: str, help: float | str | None, style: float | None, **more: Any) -> dict[str, Any]:  # noqa: A002
    return {"prompt": prompt, "response": response, "help": help, "style": style} | more


def test_ratings_compare_all_responses_of_a_prompt(tmp_path: Path) -> None:
    """Worked by hand: p has A(3,1) B(1,1) C(2,0), not adjacent; q has D(1,0) E(4,2)."""
    source = read(
        tmp_path,
        rated("p", "A", 3, 1),
        rated("q", "D", 1, 0),
        rated("p", "B", 1, 1),
        rated("q", "E", 4, 2),
        rated("p", "C", 2, 0),
    )
    assert source.shape == "ratings"
    found = [(p.prompt, p.attribute, p.chosen, p.rejected, p.unanimous, p.origin.line) for p in source.pairs]
    assert found == [
        ("p", "help", "A", "B", False, 1),
        ("p", "help", "A", "C", True, 1),
        ("p", "style", "A", "C", True, 1),
        ("p", "help", "C", "B", False, 3),
        ("p", "style", "B", "C", False, 3),
        ("q", "help", "E", "D", True, 2),
        ("q", "style", "E", "D", True, 2),
    ]
    assert source.dropped == {"tie": 1}
    assert source.rejects[0].reason == f"tie: 'style' rated the same at {tmp_path}/data.jsonl:3"
    assert len(source.ratings) == 10
    last = source.ratings[-1]
    assert (last.prompt, last.response, last.attribute, last.rating, last.origin.line) == ("p", "C", "style", 0.0, 5)


def test_missing_ratings_are_masked_and_never_unanimous(tmp_path: Path) -> None:
    source = read(tmp_path, rated("p", "A", 3, None), rated("p", "B", 1, 1), rated("p", "C", "N/A", 0))
    found = [(p.attribute, p.chosen, p.rejected, p.unanimous) for p in source.pairs]
    assert found == [("help", "A", "B", False), ("style", "B", "C", False)]
    assert len(source.ratings) == 4


def test_a_single_attribute_is_never_unanimous(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": name, "help": value} for name, value in (("A", 1), ("B", 2))]
    assert [pair.unanimous for pair in read(tmp_path, *rows).pairs] == [False]


def test_what_cannot_be_compared_is_counted(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        rated("p", "A", 1, 2),
        rated("p", "A", 2, 1),
        rated("p", "B", 3, 3),
        rated("alone", "A", 1, 1),
    )
    assert source.dropped == {"identical responses": 1, "only response of its prompt": 1}
    assert len(source.pairs) == 4


def test_sixteen_responses_make_all_comparisons(tmp_path: Path) -> None:
    source = read(tmp_path, *(rated("p", f"r{number}", number, number % 2) for number in range(16)))
    assert Counter(pair.attribute for pair in source.pairs) == {"help": 16 * 15 // 2, "style": 8 * 8}
    assert source.dropped == {"tie": 2 * 8 * 7 // 2}


def test_columns_that_are_no_ratings_are_ignored(tmp_path: Path) -> None:
    more = {"row_id": 5, "domain": "maths", "tags": [1], "safe": True, "turn_index": 1}
    source = read(tmp_path, rated("p", "A", 1, 2, **more), rated("p", "B", 2, 1, **more))
    assert {pair.attribute for pair in source.pairs} == {"help", "style"}


def test_only_ratings_of_one_user_are_compared(tmp_path: Path) -> None:
    source = read(
        tmp_path,
        rated("p", "A", 1, 2, user="ann"),
        rated("p", "B", 2, 1, user="ann"),
        rated("p", "A", 5, 5, user="bob"),
        rated("p", "B", 4, 5, user="bob"),
    )
    assert [(p.user, p.attribute, p.chosen) for p in source.pairs] == [
        ("ann", "help", "B"),
        ("ann", "style", "A"),
        ("bob", "help", "A"),
    ]


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{number}", "chosen": "c", "rejected": "r"} for number in range(30)]
    source = read(tmp_path, *rows, limit=25)
    assert source.rows == 25
    assert source.pairs[-1].prompt == "p24"
    assert read(tmp_path, *rows, limit=100).rows == 30


def test_every_format_gives_the_same_pairs(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": 'p, "1"\nline', "chosen": "c\r\nd", "rejected": "r", "user": "007", "margin": 1.5},
        {"prompt": "p2", "chosen": "世", "rejected": "5", "user": "8", "margin": None},
    ]
    plain = written(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.ndjson").write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n\r\n"))
    with (tmp_path / "d.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress((tmp_path / "d.csv").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    found = {file.name: read_source(file) for file in sorted(tmp_path.iterdir())}
    expected = [('p, "1"\nline', "c\r\nd", "r"), ("p2", "世", "5")]
    assert {name: texts(source) for name, source in found.items()} == dict.fromkeys(found, expected)
    labels = {name: [(p.user, p.margin) for p in source.pairs] for name, source in found.items()}
    assert labels == {name: [("007", 1.5), ("8", None)] for name in found}
    # The first CSV row fills lines 2 to 4; a Parquet row is its number.
    lines = {name: [pair.origin.line for pair in source.pairs] for name, source in found.items()}
    assert (lines["a.jsonl"], lines["c.ndjson"], lines["d.csv"], lines["f.parquet"]) == ([1, 2], [1, 3], [2, 5], [1, 2])


def test_csv_ratings_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "data.csv"
    file.write_text("prompt,response,help,note\np,A,3.5,x\np,B,1e0,7\np,C,,x\n")
    source = read_source(file)
    assert source.shape == "ratings"
    assert [(p.attribute, p.chosen, p.rejected) for p in source.pairs] == [("help", "A", "B")]


def test_parquet_messages_are_read(tmp_path: Path) -> None:
    rows = [{"prompt": [ASKED], "chosen": [RIGHT], "rejected": [WRONG]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    assert texts(read_source(tmp_path / "data.parquet")) == [((USER,), (TWO,), (THREE,))]


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("train-2.jsonl", "train-1.jsonl", "train-10.jsonl"):
        written(tmp_path / name, [{"prompt": name, "chosen": "c", "rejected": "r"}])
    (tmp_path / "README.md").write_text("# notes")
    (tmp_path / ".hidden.jsonl").write_text("no JSON")
    source = read_source(tmp_path)
    assert [pair.prompt for pair in source.pairs] == ["train-1.jsonl", "train-10.jsonl", "train-2.jsonl"]
    assert source.path == str(tmp_path)


def test_digest_is_of_content_and_of_relative_names(tmp_path: Path) -> None:
    digests = []
    for folder, name in (("one", "a.jsonl"), ("two", "a.jsonl"), ("three", "b.jsonl")):
        (tmp_path / folder).mkdir()
        file = written(tmp_path / folder / name, [{"prompt": "p", "chosen": "c", "rejected": "r"}])
        digests.append((read_source(file).digest, read_source(tmp_path / folder).digest))
    (file_one, folder_one), (file_two, folder_two), (file_three, folder_three) = digests
    assert file_one == file_two == file_three
    assert folder_one == folder_two != folder_three
    assert len(file_one) == 64


def test_a_named_shape_overrides_the_recognised_one(tmp_path: Path) -> None:
    row = {"chosen": "Human: hi\n\nAssistant: yes", "rejected": "Human: hi\n\nAssistant: no"}
    assert read(tmp_path, row).shape == "hh"
    assert texts(read(tmp_path, row, shape="preference")) == [("Human: hi\n\nAssistant:", " yes", " no")]


def test_a_file_that_begins_with_many_broken_lines_is_read_behind_them(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.jsonl").write_text("broken\n" * 25 + json.dumps(row) + "\n")
    source = read_source(tmp_path / "a.jsonl", on_bad="skip")
    assert (source.rows, len(source.pairs), source.dropped) == (26, 1, {"malformed": 25})
    (tmp_path / "a.jsonl").write_text("broken\n" * 25)
    with pytest.raises(BadInput, match=r"a\.jsonl:1: .*; none of 25 rows can be read: correct the file"):
        read_source(tmp_path / "a.jsonl", on_bad="skip")
