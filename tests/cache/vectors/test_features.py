"""Stored vectors against a dict: looked up by key, gathered in any order, refused where they are not numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from micropref.cache.errors import BadInput, Failure
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.features import Features
from micropref.cache.vectors.opening import only_features, open_features, planned_features

SETTINGS: dict[str, Any] = {
    "checkpoint": "c" * 64,
    "tokenizer": "t" * 64,
    "pooling": {"kind": "last", "normalize": False},
    "dtype": "float32",
    "max_length": 128,
    "overlong": "trim-prompt",
    "template": "plain",
    "context_template": "{context}\n\n{prompt}",
    "width": 6,
    "store_dtype": "float32",
}


def make_features(store: StoreFolder, **changes: Any) -> Features:
    features = planned_features(store, {**SETTINGS, **changes})
    features.create({"name": "tiny"}, None)
    return features


def make_keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def values(rows: int, seed: int, width: int = 6) -> Any:
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


@pytest.mark.parametrize("store_dtype", ["float16", "float32"])
def test_vectors_are_those_of_a_dict(store: StoreFolder, store_dtype: str) -> None:
    features = make_features(store, store_dtype=store_dtype)
    reference: dict[bytes, Any] = {}
    for shard in range(4):
        keys = make_keys(*range(shard * 100, shard * 100 + 30 + shard))
        vectors = values(len(keys), shard)
        features.write_shard(keys, vectors, {})
        reference.update(zip(keys, vectors.astype(store_dtype), strict=True))
    again = open_features(store, features.id)
    twice = list(reference) * 2
    asked = [twice[at] for at in np.random.default_rng(9).permutation(len(twice))]
    missing = make_keys(7777)[0]
    positions = again.locate(pl.Series([*asked, missing, None], dtype=pl.Binary))
    assert positions[-2:].tolist() == [-1, -1]
    found = again.gather(positions[:-2])
    assert found.dtype == store_dtype
    np.testing.assert_array_equal(found, np.stack([reference[key] for key in asked]))
    assert again.gather(positions[:0]).shape == (0, 6)
    assert len(again.keys()) == len(reference)


def test_the_first_committed_shard_has_a_key(store: StoreFolder) -> None:
    features = make_features(store)
    keys = make_keys(1, 2, 3), make_keys(2, 3, 4)
    vectors = values(3, 1), values(3, 2)
    for names, rows in zip(keys, vectors, strict=True):
        features.write_shard(names, rows, {})
    again = open_features(store, features.id)
    first = 0 if again.shard_keys(again.commits[0]).to_list() == keys[0] else 1
    positions = again.locate(pl.Series(make_keys(2, 3)))
    at = [keys[first].index(key) for key in make_keys(2, 3)]
    np.testing.assert_array_equal(again.gather(positions), vectors[first][at])
    assert len(again.keys()) == 6
    assert (again.locate(pl.Series(make_keys(1, 4))) >= 0).all()


def test_the_same_plan_has_the_same_name(store: StoreFolder) -> None:
    features = make_features(store)
    one = features.write_shard(make_keys(1, 2), values(2, 1), {})
    assert features.has_shard(make_keys(1, 2))
    assert not features.has_shard(make_keys(2, 1))
    two = features.write_shard(make_keys(1, 2), values(2, 2), {})
    assert one.stem == two.stem
    again = open_features(store, features.id)
    np.testing.assert_array_equal(again.gather(np.arange(2)), values(2, 2))


@pytest.mark.parametrize(
    ("store_dtype", "value"),
    [("float16", 65520.0), ("float16", -1e30), ("float16", np.nan), ("float32", np.inf), ("float32", np.nan)],
)
def test_what_cannot_be_stored_is_refused_by_name(store: StoreFolder, store_dtype: str, value: float) -> None:
    features = make_features(store, store_dtype=store_dtype)
    vectors = values(5, 1)
    vectors[3, 2] = value
    keys = make_keys(1, 2, 3, 4, 5)
    with pytest.raises(Failure, match=rf"{keys[3].hex()}.*{store_dtype} cannot store \(1 of 5 rows\)") as caught:
        features.write_shard(keys, vectors, {})
    assert "\n" not in str(caught.value)
    assert not (features.folder / "shards").exists()


def test_the_largest_half_is_stored(store: StoreFolder) -> None:
    features = make_features(store, store_dtype="float16")
    features.write_shard(make_keys(1), np.full((1, 6), 65504.0, dtype=np.float32), {})
    assert (open_features(store, features.id).gather(np.zeros(1, dtype=np.int64)) == 65504).all()


def test_each_setting_changed_alone_makes_other_features(store: StoreFolder) -> None:
    changed = {
        "checkpoint": "d" * 64,
        "tokenizer": "u" * 64,
        "pooling": {"kind": "last", "normalize": True},
        "dtype": "bfloat16",
        "max_length": 127,
        "overlong": "drop",
        "template": "chat",
        "context_template": "{context}\n{prompt}",
        "width": 7,
        "store_dtype": "float16",
    }
    assert changed.keys() == SETTINGS.keys()
    ids = {planned_features(store, {**SETTINGS, name: value}).id for name, value in changed.items()}
    assert len(ids | {planned_features(store, SETTINGS).id}) == len(SETTINGS) + 1
    assert planned_features(store, dict(reversed(SETTINGS.items()))).id == planned_features(store, SETTINGS).id


def test_the_layout_version_is_part_of_the_id(store: StoreFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = planned_features(store, SETTINGS).id
    monkeypatch.setattr("micropref.cache.vectors.opening.LAYOUT_VERSION", 2)
    later = make_features(store)
    assert later.id != before
    monkeypatch.undo()
    with pytest.raises(Failure, match="layout 2, this version reads 1"):
        open_features(store, later.id)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"width": 6', '{"width":6}'])
def test_damaged_settings_are_refused_and_repaired_by_the_next_embed(store: StoreFolder, text: str) -> None:
    features = make_features(store)
    features.write_shard(make_keys(1), values(1, 1), {})
    path = features.folder / "features.json"
    path.write_text(text)
    with pytest.raises(Failure, match="changed after it was written, so its vectors cannot be trusted; embed again"):
        open_features(store, features.id)
    make_features(store)
    assert open_features(store, features.id).settings == features.settings


def test_features_exist_from_their_last_file_on(store: StoreFolder) -> None:
    features = make_features(store)
    (features.folder / "features.json").unlink()
    with pytest.raises(BadInput, match="there: none yet"):
        open_features(store, features.id)
    with pytest.raises(BadInput, match="no embedded features"):
        only_features(store, None)


def test_damaged_description_is_a_failure(store: StoreFolder) -> None:
    features = make_features(store)
    assert features.about() == {"name": "tiny"}
    (features.folder / "about.json").write_text("{")
    with pytest.raises(Failure, match=r"about\.json: damaged"):
        features.about()
    (features.folder / "about.json").unlink()
    assert features.about() == {}


def test_the_reward_head_is_kept_and_checked(store: StoreFolder) -> None:
    features = planned_features(store, SETTINGS)
    head = values(1, 3)
    features.create({}, head)
    kept = open_features(store, features.id).reward_head()
    assert kept is not None
    np.testing.assert_array_equal(kept, head)
    (path,) = features.folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Failure, match="were committed"):
        features.reward_head()
    assert make_features(store, width=7).reward_head() is None


def test_a_shard_of_another_width_is_refused(store: StoreFolder) -> None:
    features = make_features(store)
    features.write_shard(make_keys(1), values(1, 1, width=5), {})
    with pytest.raises(Failure, match=r"float32\[5\], float32\[6\] expected"):
        open_features(store, features.id).gather(np.zeros(1, dtype=np.int64))


def test_damaged_shards_can_be_passed_over(store: StoreFolder, tmp_path: Path) -> None:
    features = make_features(store)
    item = features.write_shard(make_keys(1, 2), values(2, 1), {})
    features.write_shard(make_keys(3), values(1, 2), {})
    path = item.path("vectors")
    path.write_bytes(path.read_bytes()[:-1])
    again = open_features(store, features.id)
    ((damaged, line),) = again.damaged().items()
    assert damaged == item.stem
    assert "were committed" in line
    with pytest.raises(Failure, match="were committed"):
        again.locate(pl.Series(make_keys(3)))
    whole = Features(again.folder, again.settings, frozenset([item.stem]))
    assert whole.locate(pl.Series(make_keys(1, 2, 3))).tolist() == [-1, -1, 0]


def test_a_choice_of_features_has_to_be_made(store: StoreFolder) -> None:
    first, second = make_features(store), make_features(store, width=7)
    with pytest.raises(BadInput, match=r"2 features ids .*choose one with `features`"):
        only_features(store, None)
    assert only_features(store, second.id).width == 7
    assert only_features(store, None, [first.id]).id == first.id
