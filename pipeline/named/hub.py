"""Data sets of the hub: their names, and their files in the hub's cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from micropref.cache.errors import BadInput
from micropref.pipeline.sources.kinds import kind_of

HUB_NAME = re.compile(r"(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<name>[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
PATTERNS = tuple(
    f"*{kind}{packing}"
    for kind in (".jsonl", ".json", ".csv", ".parquet", ".arrow")
    for packing in ("", ".gz", ".zst")
    if not (packing and kind in (".parquet", ".arrow"))
)
"""Files of rows, and no others: a repository may hold images and code."""


@dataclass(frozen=True)
class HubName:
    """A data set as it is called on the hub."""

    repository: str
    """owner/name."""
    revision: str | None
    """Branch, tag or commit; None: the main branch."""

    @property
    def short(self) -> str:
        """Return the repository's name as a data set of the store may have it."""
        return re.sub(r"[^A-Za-z0-9_-]+", "-", self.repository.partition("/")[2]).strip("-_")[:64]


def hub_name(source: str | Path) -> HubName | None:
    """Return the hub's name that a source is; None for a path, which wins where it is there."""
    found = HUB_NAME.fullmatch(str(source))
    if found is None or Path(source).exists() or kind_of(Path(source)) is not None:
        return None
    return HubName(f"{found['owner']}/{found['name']}", found["revision"])


def snapshot(name: HubName, patterns: Sequence[str] = ()) -> tuple[Path, str]:
    """Return the folder of a data set's files, fetched where they are not in the cache yet, and its commit.

    Only files of these patterns are fetched; without them all that hold rows.
    Raises BadInput, in one line that says what to do, where the hub does not give them.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                name.repository,
                repo_type="dataset",
                revision=name.revision,
                allow_patterns=[*(patterns or PATTERNS), "README.md"],
            )
        )
    except (OSError, ValueError) as error:
        raise BadInput(_refusal(name, error)) from None
    return folder, folder.name


def _refusal(name: HubName, error: Exception) -> str:
    from huggingface_hub import errors

    page = f"https://huggingface.co/datasets/{name.repository}"
    copy = "or give a copy with --from DIR"
    if isinstance(error, errors.GatedRepoError):
        return f"{name.repository}: the hub asks for consent first: accept its terms at {page}, then `hf auth login`"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name.repository}: the hub has no revision {name.revision!r} of it; see {page}/tree/main"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name.repository}: no such path here, and no such data set on the hub, or a private one: check the name, "
            "or `hf auth login`; `micropref datasets` lists known names"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        at = f" at revision {name.revision!r}" if name.revision else ""
        return (
            f"{name.repository}: no such path here, not in the hub's cache{at}, and the hub cannot be reached: go "
            f"online once (and without HF_HUB_OFFLINE), {copy}"
        )
    line = " ".join(str(error).split())[:160] or type(error).__name__
    return f"{name.repository}: the hub did not give it ({line}); try again, {copy}"
