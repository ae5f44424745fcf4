"""What adaptation learned of each group as files of their own: one small JSON for each person.

G groups, n shots, K heads.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import polars as pl
import torch

from micropref.cache.atomic import check_folder_of
from micropref.cache.errors import BadInput
from micropref.cache.runs.people import Answer, Person, write_person
from micropref.cache.runs.records import Run


def check_new(folder: Path) -> None:
    """Raise BadInput where something is there already, as people of two runs are not mixed, or no folder above."""
    check_folder_of(folder)
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if folder.exists():
        found = "holds files already" if folder.is_dir() else "is a file"
        raise BadInput(f"out is {str(folder)!r}: it {found}; give a new folder, or remove this one")


def write_people(folder: Path, run: Run, shots: pl.DataFrame) -> None:
    """Write every group of an adapted run into a new folder; `shots` [G·n] were learned from, in the order sampled.

    All of them or none. Raises BadInput where there is such a folder, Failure where the disk refuses.
    """
    check_new(folder)
    folder = folder.absolute()
    staged = folder.with_name(f".{folder.name}-{os.getpid()}")
    try:
        _write(staged, run, shots)
        staged.replace(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write(folder: Path, run: Run, shots: pl.DataFrame) -> None:
    record, tensors = run.record, run.tensors()
    settings = record["settings"]
    scale = tensors.get("scale")
    learned = shots.select(settings["by"], "pair_id").partition_by(settings["by"], as_dict=True)
    for place, name in enumerate(record["groups"]):
        person = Person(
            name=name,
            grouped_by=settings["by"],
            run=record["parent"],
            features=record["features"],
            data=record["data"],
            split=record["data_split"],
            data_digest=record["data_digest"],
            method=settings["method"],
            strength=settings["strength"],
            answers=tuple(Answer(pair, "chosen") for pair in learned[(name,)]["pair_id"]),
            weights=_row(tensors["weights"], place),
            scale=None if scale is None else _row(scale, place),
            routed=settings["routed"],
            combine=settings["combine"],
            created=record["created"],
        )
        write_person(folder, person)


def _row(values: torch.Tensor, place: int) -> tuple[float, ...]:
    return tuple(values[place].tolist())
