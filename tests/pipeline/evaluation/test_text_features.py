"""Features of texts by hand and against Python's `re`; kept once for each part, made again when pairs change."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import polars as pl
import pyarrow as pa
import pytest

import micropref.pipeline.evaluation.stored_features as stored
from micropref.cache.commits import commit, write_table
from micropref.cache.datasets import open_dataset
from micropref.cache.maintenance.gc import collect
from micropref.cache.maintenance.verify import verify
from micropref.cache.schemas import PAIR_SCHEMA, TEXT_FEATURES
from micropref.cache.store import StoreFolder
from micropref.pipeline.demo.generate import generate
from micropref.pipeline.evaluation.stored_features import feature_differences
from micropref.pipeline.evaluation.text_features import BY_NAME, FEATURES, NAMES, text_features

SOME = (
    ("length", "", 0.0),
    ("length", "日本語", math.log(4)),
    ("sentence_length", "One two three. Four five!\nSix", math.log1p(6 / 3)),
    ("sentence_length", "One. Two.\n", math.log1p(2 / 2)),
    ("sentence_length", "一。二。", math.log1p(1 / 2)),
    ("sentence_length", "", math.log(2)),
    ("lists", "Do this:\n- one\n  * two\n3. three\n12) four\n-5 degrees\nNo - list", math.log(5)),
    ("headings", "# One\n### Three\n#hashtag\ntext # no", math.log(3)),
    ("bold", "**a b** and **c**, 2 ** 3 ** 4\n** x", math.log(4)),
    ("code", "`x` and\n```py\ny = 1\n```\n", math.log(4)),
    ("numbers", "In 2024 about 1,000.5 of 7", 3 / 6),
    ("links", "https://a.b and www.c.d", math.log(3)),
    ("questions", "Why? 何？", math.log(3)),
    ("exclamation", "Wow!! No！", math.log(4)),
    ("emoji", "Fine 🙂👍 ☀", math.log(4)),
    ("hedging", "It MIGHT rain, perhaps; dismay", 2 / 5),
    ("formality", "Therefore it is so", 1 / 4),
    ("formality", "I don’t know, okay", -2 / 4),
    ("politeness", "Please do. Thank you, pleased", 2 / 5),
    ("first_person", "I think we know my aim; it is us", 4 / 9),
    ("first_person", "I, me 'my' timid", 3 / 4),
    ("second_person", "You and your youth", 2 / 4),
    ("refusal", "I’m sorry, but as an AI I cannot", math.log(4)),
    ("caution", "Be careful: consult them. Careless", 2 / 5),
    ("quotations", 'He said “go on” and "no" and «oui»', math.log(4)),
    ("other_script", "ab я", 1 / 4),
    ("other_script", "école", 0.0),
)


@pytest.mark.parametrize(("name", "text", "expected"), SOME)
def test_a_feature_by_hand(name: str, text: str, expected: float) -> None:
    found = text_features(pl.Series(["", text, "plain"]))
    assert found[name][1] == pytest.approx(expected, rel=1e-6)


def test_every_feature_is_tried_and_has_words_for_both_directions() -> None:
    assert {name for name, _, _ in SOME} == set(NAMES)
    words = [one for feature in FEATURES for one in (feature.more, feature.less)]
    assert len(set(words)) == len(words)


def test_counts_are_those_of_pythons_re_on_real_sentences() -> None:
    texts = sorted({row[side] for row in generate(prompts=120, annotators=40).test for side in ("chosen", "rejected")})
    found = text_features(pl.Series(texts))
    for name in ("hedging", "politeness", "caution", "second_person", "numbers", "first_person"):
        pattern = re.compile(BY_NAME[name].pattern.replace("(?-u:\\b)", r"\b"))
        expected = [len(pattern.findall(text.lower().replace("’", "'"))) / max(1, len(text.split())) for text in texts]
        assert found[name].to_list() == pytest.approx(expected, rel=1e-6), name
        assert any(expected), name


def test_a_text_has_the_same_features_whatever_stands_next_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = pl.Series([text for _, text, _ in SOME])
    whole = text_features(texts)
    monkeypatch.setattr("micropref.pipeline.evaluation.text_features.BLOCK", 4)
    assert text_features(texts).equals(whole)
    assert text_features(texts[:0]).columns == list(NAMES)
    assert whole.dtypes == [pl.Float32] * len(NAMES)


def put(store: StoreFolder, *pairs: tuple[str, str], split: str = "test", stem: str = "test-0001") -> None:
    """Write a part of a data set of these (chosen, rejected)."""
    same = dict.fromkeys(("data", "part", "prompt_id", "prompt"), "x") | {"split": split}
    rows = [{**same, "pair_id": f"{stem}-{at}", "chosen": a, "rejected": b} for at, (a, b) in enumerate(pairs)]
    folder = store.dataset("mine") / "pairs"
    file = write_table(folder, stem, "pairs", pa.Table.from_pylist(rows, PAIR_SCHEMA))
    commit(folder, stem, {"pairs": file}, {"split": split, "ordinal": int(stem[-4:])})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that features are computed of from now on."""
    texts: list[str] = []

    def counted(series: pl.Series) -> pl.DataFrame:
        texts.extend(series)
        return text_features(series)

    monkeypatch.setattr(stored, "text_features", counted)
    return texts


def test_each_text_is_read_once_and_what_is_kept_is_not_read_again(
    store: StoreFolder, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "BATCH", 2)
    put(store, ("a b", "c"), ("c", "a b"), ("d!", "a b"), ("é", "d!"))
    found = feature_differences(open_dataset(store, "mine"), "test")
    assert sorted(read) == ["a b", "c", "d!", "é"]
    assert found["pair_id"].to_list() == [f"test-0001-{at}" for at in range(4)]
    expected = text_features(pl.Series(["a b", "c", "d!", "é"])) - text_features(pl.Series(["c", "a b", "a b", "d!"]))
    assert found.drop("pair_id").equals(expected)
    assert feature_differences(open_dataset(store, "mine"), "test", ["length"]).columns == ["pair_id", "length"]
    assert len(read) == 4
    put(store, ("new", "a b"), stem="test-0002")
    assert feature_differences(open_dataset(store, "mine"), "test").height == 5
    assert sorted(read[4:]) == ["a b", "new"]


def test_changed_pairs_a_new_version_and_damage_make_them_again(
    store: StoreFolder, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, ("a", "b"))
    folder = store.dataset("mine") / "text-features"

    def again() -> int:
        before = len(read)
        feature_differences(open_dataset(store, "mine"), "test")
        return len(read) - before

    assert (again(), again()) == (2, 0)
    put(store, ("a", "b"), ("c", "d"))
    assert (again(), again()) == (4, 0)
    for name in ("micropref.cache.datasets", "micropref.pipeline.evaluation.stored_features"):
        monkeypatch.setattr(f"{name}.TEXT_FEATURES_VERSION", 2)
    assert (again(), again()) == (4, 0)
    data = next(folder.glob(f"*.{TEXT_FEATURES}.*"))
    for path in folder.glob(f"*.{TEXT_FEATURES}.*"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert any(str(data.parent) in line for line in verify(store).problems)
    assert (again(), verify(store).problems) == (4, [])
    (folder / "test-0001.json").write_text("{}")
    assert len(verify(store).problems) == 1
    assert (again(), verify(store).problems) == (4, [])


def test_gc_keeps_what_is_current_and_removes_what_is_outdated(
    store: StoreFolder, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, ("a", "b"))
    put(store, ("c", "d"), stem="test-0002")
    dataset = open_dataset(store, "mine")
    feature_differences(dataset, "test")
    assert verify(store).files == 4
    assert collect(store, min_age_s=-1).files == 0
    put(store, ("a", "changed"))
    assert collect(store, min_age_s=3600).files == 0  # too young
    assert collect(store, min_age_s=-1, dry_run=True).files == 2  # and the earlier pairs, which no commit names
    assert collect(store, min_age_s=-1).files == 2
    assert [path.name for path in dataset.text_features_folder.glob("*.json")] == ["test-0002.json"]
    monkeypatch.setattr("micropref.cache.datasets.TEXT_FEATURES_VERSION", 0)  # an earlier version of this program
    assert collect(store, min_age_s=-1).files == 0
    monkeypatch.setattr("micropref.cache.datasets.TEXT_FEATURES_VERSION", 2)
    assert collect(store, min_age_s=-1).files == 1
    assert list(dataset.text_features_folder.iterdir()) == []
    assert len(read) == 4


def test_a_split_without_texts_of_a_feature(store: StoreFolder, synthetic: Callable[..., str]) -> None:
    synthetic(store, prompts=8)
    found = feature_differences(open_dataset(store, "toy"), "test")
    assert found.height == 6
    assert found.drop("pair_id").sum().sum_horizontal().item() == 0.0
