"""Runs as packs: what is in them, what is not, and packs that were tampered with."""

from __future__ import annotations

import getpass
import io
import json
import platform
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

import micropref
from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure
from micropref.cache.keys import canonical_json, sha256_hex
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.runs.people import Person, write_person
from micropref.cache.runs.records import open_run
from micropref.pipeline.rewards.people.feedback import Choice, Feedback

MIXTURE, LORE, ADAPTED, ROUTED = "mixture-0bf27c74", "lore-d45ecc72", "adapt-hedge-8303f41b", "route-daffe662"
LIST = "micropref-share.json"


def folder_of(store: micropref.Store) -> Any:
    return store._store


def texts_of(store: micropref.Store) -> set[str]:
    """Return every prompt, response, context and user of a store."""
    columns = ["prompt", "chosen", "rejected", "context", "user"]
    tables = [
        read_table(part, "pairs", columns)
        for name in folder_of(store).names("datasets")
        for part in open_dataset(folder_of(store), name).parts
    ]
    return {text for table in tables for column in columns for text in table[column].drop_nulls()}


def members(pack: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(pack) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_members(pack: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(pack, "w", compression) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return pack


def listed(files: dict[str, bytes], **changes: Any) -> dict[str, bytes]:
    """Return the files of a pack with a list that fits them, as an attacker who knows the format writes it."""
    value = json.loads(files[LIST])
    value.pop("digest")
    value |= changes
    by_role = {one["name"].split(".")[1]: one for one in value["members"]}
    data = {name.split(".")[1]: content for name, content in files.items() if name != LIST}
    renamed = {}
    for role, content in data.items():
        one = by_role[role]
        digest = sha256_hex(content)
        stem, _, _, ending = one["name"].rsplit(".", 3)
        one |= {"digest": digest, "bytes": len(content), "name": f"{stem}.{role}.{digest[:12]}.{ending}"}
        renamed[one["name"]] = content
    value["members"] = sorted(value["members"], key=lambda one: one["name"])
    value["digest"] = sha256_hex(canonical_json(value))
    return {LIST: json.dumps(value).encode(), **renamed}


def test_every_kind_of_run_goes_and_comes_back(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    for name in folder_of(opened).names("runs"):
        pack = tmp_path / f"{name}.run"
        opened.pack(name, pack)
        other.unpack(pack)
        ours, theirs = open_run(folder_of(opened), name), open_run(folder_of(other), name)
        apart = {"units", "heads_digest", "tau_nll"} if name == LORE else {"heads_digest"}
        assert {key: value for key, value in theirs.record.items() if key not in apart}.items() <= ours.record.items()
        for tensor, values in theirs.tensors().items():
            if (name, tensor) != (LORE, "known"):
                assert torch.equal(values, ours.tensors()[tensor]), (name, tensor)
        opened.pack(name, tmp_path / f"{name}.again")
        assert (tmp_path / f"{name}.again").read_bytes() == pack.read_bytes()
        other.pack(name, tmp_path / f"{name}.back")
        assert members(tmp_path / f"{name}.back").keys() == members(pack).keys()  # names hold the digests
        assert other.unpack(pack).runs == opened.unpack(pack).runs == []
    assert verify(folder_of(other)).problems == []
    collect(folder_of(other), min_age_s=0)
    assert folder_of(other).names("runs") == folder_of(opened).names("runs")
    shown = repr(other)
    assert "0 data sets, 6 runs" in shown
    with pytest.raises(BadInput, match="came from a pack, without its data"):
        other.evaluate(MIXTURE)
    with pytest.raises(BadInput, match="without the pairs that its router was re-fitted on"):
        open_run(folder_of(other), ROUTED).budget()


@pytest.fixture
def trained(
    tiny_backbone: Callable[..., Path], rows: list[dict[str, Any]], tmp_path: Path
) -> tuple[micropref.Store, str, str]:
    """Return a store, a run on a backbone in a folder, and the folder."""
    backbone = str(tiny_backbone("llama", chat=True))
    opened = micropref.Store(tmp_path / "store", announce=lambda _: None)
    opened.embed(rows[:60], "mine", split_by_prompt=0.3, backbone=backbone, device="cpu", dtype="float32")
    return opened, opened.train("mine", k=2, restarts=1, epochs=2).run, backbone


def test_what_is_unpacked_scores(
    trained: tuple[micropref.Store, str, str], tmp_path: Path, other: micropref.Store
) -> None:
    opened, run, backbone = trained
    opened.pack(run, tmp_path / "a.run", license="mit")
    assert other.unpack(tmp_path / "a.run").backbone is None  # a folder here has no name elsewhere
    with pytest.raises(BadInput, match="give `backbone`"):
        other.run(run).scorer(device="cpu")
    scores = []
    for store in (opened, other):
        scorer = store.run(run).scorer(device="cpu", backbone=backbone)
        scores.append(scorer.score("Hi", ["Yes.", "See page 3."], context="Prefer the dry answer.").rewards)
        scorer.close()
    assert scores[0] == scores[1]
    with pytest.raises(BadInput, match="came from a pack, without its data"):
        other.export(run, tmp_path / "x", attribute="warm", backbone=backbone, device="cpu")


@pytest.mark.slow
def test_what_is_unpacked_exports(
    trained: tuple[micropref.Store, str, str], tmp_path: Path, other: micropref.Store
) -> None:
    opened, run, backbone = trained
    opened.pack(run, tmp_path / "a.run")
    other.unpack(tmp_path / "a.run")
    report = other.export(run, tmp_path / "x", context="Prefer the dry answer.", backbone=backbone, device="cpu")
    assert (report.checked_texts, report.exported_accuracy) == (16, None)
    assert "licence of backbone: not known" in (tmp_path / "x" / "README.md").read_text()


def test_nothing_private_leaves(opened: micropref.Store, tmp_path: Path) -> None:
    """Not even what a later version, or a mistake, writes into a record."""
    run = open_run(folder_of(opened), MIXTURE)
    record = json.loads((run.folder / "run.json").read_text())
    record |= {"machine": platform.node(), "source": "/home/ann/secret.jsonl", "created": f"{Path.home()}/x"}
    record["settings"] |= {"cache": str(Path.home()), "device": f"{opened.folder}/dev"}
    (run.folder / "run.json").write_text(json.dumps(record))
    about = opened.folder / "features" / record["features"] / "about.json"
    about.write_text(
        json.dumps(json.loads(about.read_text()) | {"name": "/home/ann/models/own", "host": platform.node()})
    )
    report = opened.pack(MIXTURE, tmp_path / "a.run")
    data = (tmp_path / "a.run").read_bytes()
    private = {platform.node(), getpass.getuser() + "/", str(Path.home()), str(opened.folder), "/ann", "jsonl"}
    private |= texts_of(opened)
    assert [text for text in private if text.encode() in data] == []
    left = " ".join(report.left_out)
    for what in ("machine", "source", "settings.cache", "settings.device", "about.host", "about.name", "created"):
        assert what in left, what


def test_a_field_that_is_needed_stops_the_pack(opened: micropref.Store, tmp_path: Path) -> None:
    run = open_run(folder_of(opened), MIXTURE)
    (run.folder / "run.json").write_text(json.dumps(run.record | {"method": "/home/ann/mixture"}))
    with pytest.raises(BadInput, match="its method cannot be shared"):
        opened.pack(MIXTURE, tmp_path / "a.run")
    assert not (tmp_path / "a.run").exists()


def test_names_are_told_before_they_leave(opened: micropref.Store, tmp_path: Path) -> None:
    said: list[str] = []
    loud = micropref.Store(opened.folder, announce=said.append)
    report = loud.pack(ADAPTED, tmp_path / "a.run", plan=True)
    assert "leaves the store: attribute: 'cold'; 'warm'" in said
    assert report.planned
    assert not (tmp_path / "a.run").exists()
    assert {one["name"].split(".")[1] for one in report.files} == {"run", "heads", "settings", "about"}
    heads = next(one for one in report.files if one["name"].startswith(f"{ADAPTED}/heads"))
    assert heads["columns"] == ["weights"]


def test_people_leave_under_keyed_hashes(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    opened.pack(LORE, tmp_path / "alone.run")
    assert other.unpack(tmp_path / "alone.run").people == 0
    assert open_run(folder_of(other), LORE).tensors()["known"].shape == (0, 2)
    own = open_run(folder_of(opened), LORE)
    person = Person("ann", "user", LORE, "f", "mine", "train", "0", "ask", 1.0, (), (0.9, 0.1), None, False,
                    "linear", "2026-01-01T00:00:00+00:00")  # fmt: skip
    for name in ("ann", "bob"):
        write_person(own.folder / "people", Person(**{**vars(person), "name": name}))
    feedback = Feedback(own.folder / "feedback.sqlite", LORE, 2)
    feedback.add("bob", Choice((1.0, 0.0), (0.0, 0.0)))
    feedback.forget("bob")
    feedback.forget("u1")
    feedback.close()
    report = opened.pack(LORE, tmp_path / "people.run", with_people=True)
    names = own.record["units"]["names"]
    assert report.people == len(names) - 1 + 1
    third = micropref.Store(tmp_path / "third", announce=lambda _: None)
    assert third.unpack(tmp_path / "people.run").people == report.people
    came = open_run(folder_of(third), LORE)
    rows = dict(zip(came.record["units"]["names"], came.tensors()["known"], strict=True))
    assert set(rows) == {opened.shared_name(name) for name in names if name != "u1"}
    assert list(rows) == sorted(rows)
    for name, row in zip(names, own.tensors()["known"], strict=True):
        assert name == "u1" or torch.equal(rows[opened.shared_name(name)], row)
    from micropref.pipeline.rewards.scoring.taste import RewardHeads

    heads = RewardHeads(folder_of(third), LORE)
    assert heads.kept(opened.shared_name("ann")) is not None
    assert heads.kept(opened.shared_name("bob")) is None
    data = (tmp_path / "people.run").read_bytes()
    assert (opened.folder / "sharing.key").read_bytes() not in data
    assert not any(f'"{name}"'.encode() in data for name in (*names, "ann", "bob"))
    assert (opened.folder / "sharing.key").stat().st_mode & 0o077 == 0
    assert third.shared_name("ann") != opened.shared_name("ann")


def test_a_plan_makes_no_key(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    key = opened.folder / "sharing.key"
    planned = opened.pack(LORE, tmp_path / "a.run", with_people=True, plan=True)
    assert not key.exists()
    assert planned.digest is None
    assert opened.pack(LORE, tmp_path / "none.run", plan=True).digest is not None
    packed = opened.pack(LORE, tmp_path / "a.run", with_people=True)
    assert key.exists()
    assert packed.people == planned.people > 0
    assert opened.pack(LORE, tmp_path / "b.run", with_people=True, plan=True).digest == packed.digest
    assert other.unpack(tmp_path / "a.run").runs == [LORE]
    assert other.unpack(tmp_path / "a.run").runs == [], "people under the hashes of elsewhere are still the same"
    assert not (other.folder / "sharing.key").exists()


def test_a_run_of_people_alone_stays(opened: micropref.Store, tmp_path: Path) -> None:
    run = opened.adapt(MIXTURE, "user", shots=2).run
    with pytest.raises(BadInput, match="nothing but the weights of"):
        opened.pack(run, tmp_path / "a.run")
    report = opened.pack(run, tmp_path / "a.run", with_people=True)
    assert report.people == len(open_run(folder_of(opened), run).record["groups"])


def test_another_run_of_the_same_id_is_refused(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    opened.pack(MIXTURE, tmp_path / "a.run")
    files = members(tmp_path / "a.run")
    heads = next(name for name in files if ".heads." in name)
    tensors = {name: values * 2 for name, values in load(files[heads]).items()}
    files[heads] = save(tensors)
    record = next(name for name in files if ".run." in name)
    files[record] = canonical_json(json.loads(files[record]) | {"heads_digest": sha256_hex(files[heads])}).encode()
    write_members(tmp_path / "b.run", listed(files))
    other.unpack(tmp_path / "b.run")
    with pytest.raises(BadInput, match="has a run of that id with other weights"):
        other.unpack(tmp_path / "a.run")
    third = micropref.Store(tmp_path / "third", announce=lambda _: None)
    write_members(tmp_path / "c.run", changed_json("run", lam=0.7)(members(tmp_path / "a.run")))
    third.unpack(tmp_path / "c.run")
    with pytest.raises(BadInput, match="has a run of that id with other lam in its record"):
        third.unpack(tmp_path / "a.run")
    with pytest.raises(BadInput, match="there is a file already"):
        opened.pack(MIXTURE, tmp_path / "a.run")


def changed_json(role: str, **changes: Any) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def change(files: dict[str, bytes]) -> dict[str, bytes]:
        name = next(name for name in files if f".{role}." in name)
        return listed({**files, name: canonical_json(json.loads(files[name]) | changes).encode()})

    return change


def changed_heads(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def changed(files: dict[str, bytes]) -> dict[str, bytes]:
        name = next(name for name in files if ".heads." in name)
        data = save(change(load(files[name])))
        return changed_json("run", heads_digest=sha256_hex(data))({**files, name: data})

    return changed


HOSTILE: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "a file more": (lambda files: {**files, "evil.py": b"x"}, "differs from its list"),
    "a path": (lambda files: {**files, "../../evil": b"x"}, "differs from its list"),
    "a file less": (lambda files: dict(list(files.items())[:-1]), "differs from its list"),
    "no list": (lambda files: {name: data for name, data in files.items() if name != LIST}, "so no pack"),
    "another format": (lambda files: listed(files, format=2), "format 2, this version reads 1"),
    "other bytes": (lambda files: {name: data[:-1] + b"x" for name, data in files.items()}, "damaged|changed"),
    "list of lists": (lambda files: {**files, LIST: b"[" * 100_000}, "damaged"),
    "a list that is no list": (lambda files: {**files, LIST: b'{"format": 1}'}, "damaged"),
    "control characters": (lambda files: listed(files, licences={"own": "\x1b[2J", "data": None, "backbone": None}),
                           "licences that are no names"),
    "a field of another type": (changed_json("run", lam="x"), "lam is 'x'"),
    "a time that is none": (changed_json("run", created=5), "created is '5'"),
    "other heads than it says": (changed_json("run", k=1), "heads, and its record says 1"),
    "groups that are none": (changed_json("run", groups=None), "groups is null"),
    "people by name": (changed_json("run", units={"kind": "user", "names": ["ann@x.org"]}), "people by their names"),
    "an id that is a path": (lambda files: listed(files, id="../../x"), "damaged"),
    "features in a run": (lambda files: listed(files, kind="features"), "has no place|expected a run"),
    "a field of ours": (changed_json("run", source="/etc/passwd"), "no record of run"),
    "a method of theirs": (changed_json("run", method="os-system"), "unknown method"),
    "another run's record": (changed_json("run", run="mixture-00000000"), "no record of run"),
    "settings of other features": (changed_json("settings", width=3), "other settings than its id says"),
    "a path as backbone": (changed_json("about", name="/etc"), "never shared"),
    "code of the backbone": (changed_json("about", name="evil/model", revision="main"), "never shared"),
    "heads of another width": (changed_heads(lambda one: {**one, "heads": one["heads"][:, :5]}), "heads for vectors"),
    "no number": (changed_heads(lambda one: {**one, "heads": one["heads"] * np.nan}), "not finite"),
    "tensors of theirs": (changed_heads(lambda one: {**one, "evil": np.zeros(2, np.float32)}), "tensors|not those"),
    "weights that do not fit": (changed_heads(lambda one: {"heads": one["heads"][:1], "static": one["heads"][0]}),
                                "not those|tensors"),
    "no safetensors": (lambda files: changed_json("run", heads_digest=sha256_hex(b"\x80\x04x"))(
        {name: b"\x80\x04x" if ".heads." in name else data for name, data in files.items()}), "no safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_packs_that_were_tampered_with(
    what: str, opened: micropref.Store, other: micropref.Store, tmp_path: Path
) -> None:
    opened.pack(MIXTURE, tmp_path / "a.run")
    change, said = HOSTILE[what]
    write_members(tmp_path / "bad.run", change(members(tmp_path / "a.run")))
    with pytest.raises(BadInput, match=said):
        other.unpack(tmp_path / "bad.run")
    assert folder_of(other).names("runs") == folder_of(other).names("features") == []
    assert not list(tmp_path.rglob("evil*"))


def test_zip_files_that_are_odd(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    opened.pack(MIXTURE, tmp_path / "a.run")
    files = members(tmp_path / "a.run")
    write_members(tmp_path / "deflated.run", files, zipfile.ZIP_DEFLATED)
    write_members(tmp_path / "twice.run", files)
    with zipfile.ZipFile(tmp_path / "twice.run", "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(LIST, files[LIST])
    (tmp_path / "cut.run").write_bytes((tmp_path / "a.run").read_bytes()[:-40])
    (tmp_path / "text.run").write_text("hello")
    (tmp_path / "empty.run").write_bytes(b"")
    whole = (tmp_path / "a.run").read_bytes()
    (tmp_path / "header.run").write_bytes(whole.replace(b"micropref-share", b"\x1b[2J\x00\xff-odd-name", 1))
    (tmp_path / "long.run").write_bytes(whole[:26] + b"\xff\xff" + whole[28:])  # a name of 65,535 bytes
    for name in ("deflated", "twice", "cut", "text", "empty", "none", "header", "long"):
        with pytest.raises(BadInput) as caught:
            other.unpack(tmp_path / f"{name}.run")
        said = str(caught.value).removeprefix(str(tmp_path))
        assert said.isprintable()
        assert len(said) < 300
    assert folder_of(other).names("runs") == []


def test_a_flipped_byte_anywhere_is_seen(opened: micropref.Store, other: micropref.Store, tmp_path: Path) -> None:
    opened.pack(MIXTURE, tmp_path / "a.run")
    whole = (tmp_path / "a.run").read_bytes()
    draw = random.Random(0)
    accepted = 0
    for _ in range(150):
        at = draw.randrange(len(whole))
        bad = bytearray(whole)
        bad[at] ^= 1 << draw.randrange(8)
        (tmp_path / "bad.run").write_bytes(bad)
        try:
            other.unpack(tmp_path / "bad.run")
            accepted += 1  # a bit that zip files do not mean anything by
            assert members(tmp_path / "bad.run") == members(tmp_path / "a.run")
            shutil.rmtree(other.folder)
        except BadInput:
            assert folder_of(other).names("runs") == []
    assert accepted < 60


@pytest.mark.slow
def test_making_a_pack_loads_no_torch(opened: micropref.Store, tmp_path: Path) -> None:
    code = (
        "import sys; from micropref.cli import app\n"
        f"words = ['pack', {LORE!r}, {str(tmp_path / 'a.run')!r}, '--with-people', '--store', {str(opened.folder)!r}]\n"
        "try: app(words)\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
    assert (tmp_path / "a.run").is_file()


def test_features_that_tell_too_much_are_not_shared(opened: micropref.Store, tmp_path: Path) -> None:
    import polars as pl

    made = {f"{name}_vector": [float(at) for at in range(4)] for name in ("prompt", "chosen", "rejected")}
    rows = [{"prompt": str(at), "chosen": f"{at}a", "rejected": f"{at}b", **made} for at in range(40)]
    pl.DataFrame(rows).write_parquet(tmp_path / "v.parquet")
    opened.import_vectors(tmp_path / "v.parquet", "own", backbone_name="/home/ann/model")
    (name,) = set(folder_of(opened).names("features")) - {"8a4b23c8baea"}
    with pytest.raises(BadInput, match="may be a path"):
        opened.push(f"features:{name}", str(tmp_path / "out"), license="mit")
    assert not (tmp_path / "out").exists()


def test_a_damaged_key_is_named(opened: micropref.Store, tmp_path: Path) -> None:
    (opened.folder / "sharing.key").write_text("abc")
    with pytest.raises(Failure, match=r"sharing\.key: damaged"):
        opened.pack(LORE, tmp_path / "a.run", with_people=True)


def test_a_huge_list_is_not_read(tmp_path: Path, other: micropref.Store) -> None:
    started = time.perf_counter()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr(LIST, b" " * ((16 << 20) + 1))
    (tmp_path / "huge.run").write_bytes(data.getvalue())
    with pytest.raises(BadInput, match="larger than 16 MB"):
        other.unpack(tmp_path / "huge.run")
    assert time.perf_counter() - started < 30
