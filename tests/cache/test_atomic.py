"""Where a user's file may be written: in a folder that is there, which no command makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from micropref.cache.atomic import check_folder_of, check_new_file
from micropref.cache.errors import BadInput


def test_a_folder_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    Path("file").touch()
    Path("link").symlink_to("gone")
    for path in ("new.csv", "here/new.csv", "here", "file", tmp_path / "new"):
        check_folder_of(Path(path))
    for path in ("no/new.csv", "no/where/new.csv", "file/new.csv", "link/new.csv"):
        with pytest.raises(BadInput, match=f"^{path}: there is no folder {tmp_path / path.rpartition('/')[0]}; make"):
            check_new_file(Path(path))
    with pytest.raises(BadInput, match=r"^here: found a folder; expected the name of a file"):
        check_new_file(Path("here"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here", "link"]
