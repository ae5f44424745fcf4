"""Which column is read as what: by its name, by what it holds, by what the user says; numbers and ids in every form."""

from __future__ import annotations

import datetime
import json
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.columns import ColumnChoices
from micropref.pipeline.sources.known_names import ROLE_NAMES, no_rating, normal
from micropref.pipeline.sources.reader import Source, read_source

PAIR = {"prompt": "Name a river.", "chosen": "The Rhine.", "rejected": "Wet."}
RATED = [
    {"prompt": "Name a river.", "response": "The Rhine.", "helpfulness": 4},
    {"prompt": "Name a river.", "response": "Wet wet wet.", "helpfulness": 2},
]


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(folder: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array([row[name] for row in rows], kind))
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def rated(**columns: list[Any]) -> list[dict[str, Any]]:
    return [row | {name: values[at] for name, values in columns.items()} for at, row in enumerate(RATED)]


def roles(source: Source) -> dict[str, str]:
    return {one.column: one.role for one in source.reading.columns}


def reasons(source: Source) -> dict[str, str]:
    return {one.column: one.reason for one in source.reading.columns if one.role == "ignored"}


def chosen(**columns: str) -> ColumnChoices:
    return ColumnChoices(columns)


def test_every_column_is_named_with_its_role_or_why_it_is_ignored(tmp_path: Path) -> None:
    rows = rated(num_tokens=[3, 5], timestamp=[1_700_000_000, 1_700_000_001], user_id=[7, 7], notes=["a", None])
    source = read_source(jsonl(tmp_path, rows))
    found = [(one.column, one.role, one.type, one.rows, one.reason) for one in source.reading.columns]
    assert found == [
        ("prompt", "prompt", "text", 2, "its name"),
        ("response", "response", "text", 2, "its name"),
        ("helpfulness", "attribute", "integer", 2, "numbers: 2 to 4"),
        ("num_tokens", "ignored", "integer", 2, "a count"),
        ("timestamp", "ignored", "integer", 2, "a time"),
        ("user_id", "user", "integer", 2, "a known name of the user"),
        ("notes", "ignored", "text", 1, "no numbers, and no role of this name is known"),
    ]
    assert [(pair.attribute, pair.user) for pair in source.pairs] == [("helpfulness", "7")]


def test_two_columns_that_may_be_the_user_stop_with_the_line_to_type(tmp_path: Path) -> None:
    file = jsonl(tmp_path, [PAIR | {"user_id": "ann", "annotator": "bob", "criterion": "depth"}])
    with pytest.raises(BadInput) as refusal:
        read_source(file)
    assert str(refusal.value) == (
        f"{file}: the columns 'user_id' and 'annotator' may each be the user: give `columns` user=user_id or "
        "user=annotator"
    )
    source = read_source(file, choices=chosen(user="annotator"))
    assert roles(source) == {
        **{name: name for name in PAIR},
        "user_id": "ignored",
        "annotator": "user",
        "criterion": "attribute",
    }
    assert (source.pairs[0].user, source.pairs[0].attribute) == ("bob", "depth")
    assert reasons(source) == {"user_id": "the user is read from 'annotator'"}
    nobody = read_source(file, choices=chosen(user="", attribute=""))
    assert (nobody.pairs[0].user, nobody.pairs[0].attribute) == (None, None)


def test_a_columns_own_name_goes_before_known_names(tmp_path: Path) -> None:
    source = read_source(jsonl(tmp_path, [PAIR | {"user": "ann", "annotator_id": 5, "worker": "w"}]))
    assert source.pairs[0].user == "ann"
    assert reasons(source) == dict.fromkeys(("annotator_id", "worker"), "the user is read from 'user'")


@pytest.mark.parametrize(
    "names",
    [
        {"Prompt": "prompt", "Chosen": "chosen", "Rejected": "rejected", "User ID": "user"},
        {"question": "prompt", "preferred": "chosen", "dispreferred": "rejected", "workerId": "user"},
        {"instruction": "prompt", "chosen-response": "chosen", "rejected-response": "rejected", "rater": "user"},
    ],
)
def test_roles_are_found_by_known_names_in_any_spelling(tmp_path: Path, names: dict[str, str]) -> None:
    values = PAIR | {"user": "ann"}
    source = read_source(jsonl(tmp_path, [{name: values[role] for name, role in names.items()}]))
    assert roles(source) == names
    (pair,) = source.pairs
    assert (pair.prompt, pair.chosen, pair.rejected, pair.user) == tuple(values.values())


def test_a_user_may_name_the_column_of_any_role(tmp_path: Path) -> None:
    row = {"q": "Name a river.", "a": "The Rhine.", "b": "Wet.", "why": "Be exact.", "who": 12.0}
    source = read_source(
        jsonl(tmp_path, [row]), choices=chosen(prompt="q", chosen="a", rejected="b", context="why", user="who")
    )
    (pair,) = source.pairs
    assert (pair.prompt, pair.chosen, pair.context, pair.user) == ("Name a river.", "The Rhine.", "Be exact.", "12")
    with pytest.raises(BadInput, match=r"rows\.jsonl:1: field 'who': found a list of 1; expected a text, a whole num"):
        read_source(
            jsonl(tmp_path, [row | {"who": [1]}]), choices=chosen(prompt="q", chosen="a", rejected="b", user="who")
        )


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (chosen(user="nobody"), "found no column 'nobody', which `columns` gives the role user (there: 'prompt', "),
        (chosen(judge="user_id"), "columns has the role 'judge': expected one of "),
        (ColumnChoices(attributes=("help",)), "found no column 'help', which `attributes` names (there: "),
        (ColumnChoices(attributes=("prompt",)), "column 'prompt' has a role of its own; leave it out of `attributes`"),
    ],
)
def test_choices_that_cannot_be_followed_are_named(tmp_path: Path, choices: ColumnChoices, message: str) -> None:
    with pytest.raises(BadInput) as refusal:
        read_source(jsonl(tmp_path, RATED), choices=choices)
    assert message in str(refusal.value)


def test_attributes_have_no_effect_on_pairs(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="attributes has no effect on preference rows"):
        read_source(jsonl(tmp_path, [PAIR | {"score": 4}]), choices=ColumnChoices(attributes=("score",)))


NUMBERS = {
    "decimal": ([Decimal("4.5"), Decimal("1.5")], pa.decimal128(2, 1), "number", (4.5, 1.5)),
    "float": ([4.5, 1.5], pa.float32(), "number", (4.5, 1.5)),
    "half": ([4.5, 1.5], pa.float16(), "number", (4.5, 1.5)),
    "byte": ([4, 1], pa.int8(), "integer", (4.0, 1.0)),
    "boolean": ([True, False], pa.bool_(), "boolean", (1.0, 0.0)),
    "digits": ([" 4", "3.5"], pa.string(), "number as text", (4.0, 3.5)),
    "dictionary": (["4", "3.5"], pa.dictionary(pa.int8(), pa.string()), "number as text", (4.0, 3.5)),
}


@pytest.mark.parametrize(("values", "kind", "type_", "expected"), NUMBERS.values(), ids=NUMBERS)
def test_numbers_are_read_in_every_form(
    tmp_path: Path, values: list[Any], kind: pa.DataType, type_: str, expected: tuple[float, float]
) -> None:
    file = parquet(tmp_path, [{**row, "depth": one} for row, one in zip(RATED, values, strict=True)], depth=kind)
    source = read_source(file)
    assert [rating.rating for rating in source.ratings if rating.attribute == "depth"] == list(expected)
    assert {one.column: one.type for one in source.reading.columns}["depth"] == type_


def test_only_decimals_are_enough_for_ratings(tmp_path: Path) -> None:
    rows = [row | {"helpfulness": Decimal(row["helpfulness"])} for row in RATED]
    source = read_source(parquet(tmp_path, rows, helpfulness=pa.decimal128(3, 1)))
    assert [(pair.attribute, pair.chosen) for pair in source.pairs] == [("helpfulness", "The Rhine.")]


def test_csv_writes_booleans_as_words(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,response,safe,note\np,A,True,true story\np,B,False,x\n")
    source = read_source(file)
    assert [(pair.attribute, pair.chosen) for pair in source.pairs] == [("safe", "A")]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (float("nan"), "the number nan"),
        (float("inf"), "the number inf"),
        (10**400, "the number 1000"),
        ("nan", "the text 'nan'"),
        ("four", "the text 'four'"),
        ([4], "a list of 1"),
    ],
)
def test_what_is_no_number_among_numbers_is_named(tmp_path: Path, value: Any, found: str) -> None:
    file = jsonl(tmp_path, [*RATED, RATED[0] | {"response": "Elbe.", "helpfulness": value}])
    with pytest.raises(BadInput, match=f"rows.jsonl:3: field 'helpfulness': found {found}"):
        read_source(file)
    source = read_source(file, on_bad="skip")
    assert source.dropped == {"malformed": 1}
    assert len(source.pairs) == 1


@pytest.mark.parametrize("absent", [None, "N/A", "", " ", "null", "None"])
def test_an_absent_rating_is_no_rating(tmp_path: Path, absent: str | None) -> None:
    rows = [*rated(depth=[1, 2]), RATED[0] | {"response": "Elbe.", "helpfulness": absent, "depth": absent}]
    source = read_source(jsonl(tmp_path, rows))
    assert source.dropped == {"not rated": 1}
    assert [reject.origin.line for reject in source.rejects] == [3]


def test_a_column_of_texts_with_a_few_numbers_is_ignored_and_said(tmp_path: Path) -> None:
    rows = [*rated(answer_key=["Rhine", "12"]), RATED[0] | {"response": "Elbe.", "answer_key": "Elbe"}]
    source = read_source(jsonl(tmp_path, rows))
    assert reasons(source) == {
        "answer_key": f"1 numbers among 3 values, no number at {tmp_path}/rows.jsonl:1",
    }
    with pytest.raises(BadInput, match=r"rows\.jsonl:1: field 'answer_key': found the text 'Rhine'"):
        read_source(jsonl(tmp_path, rows), choices=ColumnChoices(attributes=("answer_key",)))


@pytest.mark.parametrize(
    ("name", "values", "role"),
    [
        ("depth", [-10, 10], "attribute"),
        ("depth", [0, 100], "attribute"),
        ("helpfulness_elo", [0.5, 100.0], "attribute"),
        ("score", [1200, 1350], "attribute"),  # a known name of ratings, whatever its scale
        ("price", [-1, 50], None),
        ("price", [5, 101], None),
        ("price", ["5", "1e6"], None),
        *((name, [5, 2000], "ignored") for name in ("id", "row_index", "n_words", "Created At", "turn", "level_0")),
        ("", [0, 1], "ignored"),  # the index that pandas writes into CSV
    ],
)
def test_numbers_on_no_known_scale_stop_with_the_line_to_type(
    tmp_path: Path, name: str, values: list[Any], role: str | None
) -> None:
    file = jsonl(tmp_path, rated(**{name: values}))
    if role is not None:
        assert roles(read_source(file))[name] == role
        return
    with pytest.raises(BadInput) as refusal:
        read_source(file)
    assert f"column 'price' holds numbers from {float(values[0]):,.6g} to" in str(refusal.value)
    assert str(refusal.value).endswith("`attributes` helpfulness, or helpfulness,price where it is a rating too")
    assert roles(read_source(file, choices=ColumnChoices(attributes=("helpfulness",))))["price"] == "ignored"
    both = read_source(file, choices=ColumnChoices(attributes=("price", "helpfulness")))
    assert {pair.attribute for pair in both.pairs} == {"price", "helpfulness"}


IDS = {
    "whole floats": ([12.0, 7.0], ["12", "7"]),
    "integers": ([12, 7], ["12", "7"]),
    "texts": (["worker 12", "007"], ["worker 12", "007"]),
    "whole floats as text": (["12.0", "7"], ["12", "7"]),
    "versions": (["1.0", "1.1"], ["1.0", "1.1"]),
    "beyond int64": ([2**70, 1], [str(2**70), "1"]),
}


@pytest.mark.parametrize(("values", "expected"), IDS.values(), ids=IDS)
def test_ids_are_ids(tmp_path: Path, values: list[Any], expected: list[str]) -> None:
    source = read_source(jsonl(tmp_path, [PAIR | {"user_id": value} for value in values]))
    assert [pair.user for pair in source.pairs] == expected


def test_ids_of_parquet_files_are_ids(tmp_path: Path) -> None:
    ids = [uuid.UUID(int=5), uuid.UUID(int=6)]
    rows = [PAIR | {"user_id": one.bytes} for one in ids]
    source = read_source(parquet(tmp_path, rows, user_id=pa.uuid()))
    assert [pair.user for pair in source.pairs] == [str(one) for one in ids]
    gaps = [PAIR | {"user_id": value} for value in (12.0, None)]
    assert [pair.user for pair in read_source(parquet(tmp_path, gaps)).pairs] == ["12", None]
    wide = [PAIR | {"user_id": Decimal(2**80)}]
    assert read_source(parquet(tmp_path, wide, user_id=pa.decimal128(30, 0))).pairs[0].user == str(2**80)


@pytest.mark.parametrize("value", [1.5, True, [1], {"a": 1}, 2.0**60])
def test_what_is_no_id_is_ignored_under_a_known_name_and_malformed_under_its_own(tmp_path: Path, value: Any) -> None:
    source = read_source(jsonl(tmp_path, [PAIR | {"annotator": value}]))
    assert source.pairs[0].user is None
    assert roles(source)["annotator"] == "ignored"
    with pytest.raises(BadInput, match=r"field 'user': found .*; expected a text, a whole number or null"):
        read_source(jsonl(tmp_path, [PAIR | {"user": value}]))


def test_columns_of_other_kinds_are_ignored_by_name(tmp_path: Path) -> None:
    day = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    more = {
        "images": ["a.png"],
        "day_of": day,
        "blob": b"\x00",
        "empty": None,
        "prompt_vector": [0.5],
        "meta": {"a": 1},
    }
    source = read_source(parquet(tmp_path, [PAIR | more]))
    assert reasons(source) == {
        "images": "images, sounds and films are not read",
        "day_of": "no role of this name is known",
        "blob": "no role of this name is known",
        "empty": "it is empty",
        "prompt_vector": "vectors are read by import-vectors",
        "meta": "no role of this name is known",
    }
    types = {one.column: one.type for one in source.reading.columns}
    assert (types["day_of"], types["blob"], types["empty"], types["meta"]) == ("datetime", "bytes", "empty", "object")


def test_a_column_that_appears_late_is_read(tmp_path: Path) -> None:
    rows = [PAIR | {"prompt": f"Name river {number}."} for number in range(50)] + [PAIR | {"rater": "ann"}]
    assert [pair.user for pair in read_source(jsonl(tmp_path, rows)).pairs][-2:] == [None, "ann"]


def test_a_conversation_that_begins_with_its_prompt_needs_no_other(tmp_path: Path) -> None:
    asked, left, right = (
        {"role": role, "content": content}
        for role, content in (("user", "Name a river."), ("assistant", "The Rhine."), ("assistant", "Wet."))
    )
    row = {"question": "What?", "chosen": [asked, left], "rejected": [asked, right]}
    source = read_source(jsonl(tmp_path, [row]))
    assert roles(source)["question"] == "ignored"
    assert isinstance(source.pairs[0].prompt, tuple)


def test_responses_of_different_users_are_compared_where_none_rated_two(tmp_path: Path) -> None:
    source = read_source(jsonl(tmp_path, rated(user_id=[7, 8])))
    assert [(pair.chosen, pair.user) for pair in source.pairs] == [("The Rhine.", None)]
    (user,) = (one for one in source.reading.columns if one.role == "user")
    assert user.reason.endswith("; none rated two responses to one prompt, so pairs have no user")


def test_known_names_are_of_one_role_and_in_their_normal_form() -> None:
    names = [name for others in ROLE_NAMES.values() for name in others]
    assert len(names) == len(set(names))
    assert not set(names) & set(ROLE_NAMES)
    assert [normal(name) for name in names] == names
    assert all(no_rating(name) for name in names)
