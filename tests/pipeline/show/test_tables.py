"""Tables of 80 columns that lose no figure."""

from __future__ import annotations

from rich.cells import cell_len

from micropref.pipeline.show.tables import show_rows


def test_a_narrow_table_is_one_table() -> None:
    rows = [
        {"name": "a", "pairs": 12_345_678, "accuracy": 0.81234, "sure": None},
        {"name": "b", "pairs": 1, "accuracy": 1.0, "sure": True},
    ]
    assert show_rows(rows) == (
        "name       pairs  accuracy  sure\n----  ----------  --------  ----\n"
        "a     12,345,678    0.8123\nb              1    1.0000   yes\n"
    )
    assert show_rows([]) == ""


def test_headings_take_several_lines_where_words_are_wider_than_figures() -> None:
    assert show_rows([{"K": 5, "restarts that agree": "100%"}]).splitlines() == [
        "   restarts",
        "       that",
        "K     agree",
        "-  --------",
        "5      100%",
    ]


def test_a_wide_table_becomes_several_with_the_names_of_rows_in_each() -> None:
    rows = [{"name": f"row {n}", **{f"head{k}": n + k / 1000 for k in range(20)}} for n in range(3)]
    blocks = [block.splitlines() for block in show_rows(rows).split("\n\n")]
    assert all(len(line) <= 80 for block in blocks for line in block)
    names = [word for block in blocks for word in block[0].split()]
    assert [name for name in names if name != "name"] == [f"head{k}" for k in range(20)]
    shown = [word for block in blocks for line in block[2:] for word in line.split()[2:]]
    assert sorted(shown) == sorted(f"{n + k / 1000:.4f}" for n in range(3) for k in range(20))
    assert all(line.startswith("row ") for block in blocks for line in block[2:])
    widths = [max(map(len, block)) for block in blocks]
    assert max(widths) - min(widths) <= 9  # about equal: no block of one column that is left over


def test_long_names_are_shortened_differently_and_spelt_out() -> None:
    long = "an attribute whose name has many more letters than fit 你好 "
    rows = [{"attribute": long + end, **{f"head {k}": 0.5 for k in range(10)}} for end in ("one", "two", "\x1b[31m")]
    text = show_rows(rows)
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    marks = [line[:28].rstrip() for line in text.splitlines() if line.startswith("an attribute") and " = " not in line]
    assert len(set(marks)) == 3
    told = " ".join(text.split())
    for mark, end in zip(dict.fromkeys(marks), ("one", "two", "[31m"), strict=True):
        assert f"{mark} = {long.strip()} {end}".replace("  ", " ") in told or f"{mark} = {long.strip()}  {end}" in text
