"""A page replaces a page, and nothing else; it is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from micropref.cache.errors import BadInput
from micropref.pipeline.show.page import file as page_file
from micropref.pipeline.show.page.figures import Page
from micropref.pipeline.show.page.file import check_page_file, write_page
from tests.support.pages import every_kind


def test_a_page_replaces_an_earlier_page(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    size = write_page(path, every_kind(["earlier text"]))
    assert path.stat().st_size == size
    write_page(path, every_kind(["later text"]))
    assert "later text" in path.read_text(encoding="utf-8")
    assert "earlier text" not in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]


def test_the_sign_of_a_page_is_not_pushed_out_by_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(path, Page("x" * 20_000, ("y" * 20_000,), ()))
    check_page_file(path)


@pytest.mark.parametrize("content", [b"", b"notes", b"<!doctype html><title>mine</title>", b"\xff\xfe\x00"])
def test_another_file_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.html"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="no page of micropref"):
        write_page(path, every_kind(["text"]))
    assert path.read_bytes() == content


def test_a_text_that_quotes_the_sign_does_not_make_a_file_a_page(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"n" * page_file.HEAD + page_file.SIGN)
    with pytest.raises(BadInput, match="no page of micropref"):
        check_page_file(path)


def test_folders_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        write_page(tmp_path, every_kind(["text"]))
    with pytest.raises(BadInput):
        write_page(tmp_path / "nowhere" / "page.html", every_kind(["text"]))
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_page(path, every_kind(["earlier text"]))
    before = path.read_bytes()

    def full(self: Path, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(Exception, match="space"):
        write_page(path, every_kind(["later text"]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
