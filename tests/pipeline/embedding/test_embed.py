"""Text to vectors through real files and tiny real backbones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from micropref.cache.datasets import open_dataset, read_table
from micropref.cache.errors import BadInput, Failure, Interrupted
from micropref.cache.maintenance.verify import verify
from micropref.cache.schemas import KEY_COLUMNS
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.embedding.embed_report import EmbedReport
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions

Write = Callable[..., Path]


@pytest.fixture
def options(tiny_backbone: Callable[..., Path]) -> EmbedOptions:
    return EmbedOptions(backbone=str(tiny_backbone("llama")), dtype="float32")


@pytest.fixture
def run(store: StoreFolder, options: EmbedOptions) -> Callable[..., EmbedReport]:
    def run(path: Path | list[Path], name: str = "mine", **changes: Any) -> EmbedReport:
        sources = {key: changes.pop(key) for key in list(changes) if key in SourceOptions.__dataclass_fields__}
        plan_only = changes.pop("plan_only", False)
        paths = path if isinstance(path, list) else [path]
        return embed(store, paths, name, SourceOptions(**sources), replace(options, **changes), plan_only=plan_only)

    return run


def test_vectors_are_those_of_the_texts_read_one_at_a_time(
    store: StoreFolder,
    run: Callable[..., EmbedReport],
    write_rows: Write,
    rows: list[dict[str, Any]],
    options: EmbedOptions,
) -> None:
    report = run(write_rows(rows), store_dtype="float32")
    backbone = Backbone.load(options.backbone, dtype="float32")
    features = open_features(store, report.features)
    columns = ["prompt", "chosen", "context", *KEY_COLUMNS]
    frame = open_dataset(store, "mine").linked_pairs(features.id, "train", columns)

    def alone(text: str) -> np.ndarray:
        ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            hidden: np.ndarray = backbone.trunk(input_ids=ids).last_hidden_state[0, -1].numpy()
        return hidden

    for row in frame.sample(10, seed=0).iter_rows(named=True):
        texts = {
            "prompt_key": row["prompt"],
            "context_key": f"{row['context']}\n\n{row['prompt']}",
            "chosen_key": f"{row['prompt']}\n\n{row['chosen']}",
        }
        for column, text in texts.items():
            position = features.locate(pl.Series([row[column]], dtype=pl.Binary))
            found, expected = features.gather(position)[0], alone(text)
            assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_counts_by_hand(run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]]) -> None:
    report = run(write_rows(rows))
    # 40 prompts, each alone, behind two contexts, and with two responses; and the two contexts alone.
    assert report.texts == report.texts_embedded == 40 * 5 + 2
    assert report.contexts == 2
    assert report.pairs == 120
    assert report.splits == {"train": 120}
    assert report.users == 7
    assert report.tokens_forwarded >= report.tokens_unique > 0
    assert report.repeated == 0
    assert report.without_context == 0


def test_again_forwards_nothing(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    first = run(path)
    files = sorted((file, file.stat().st_mtime_ns) for file in store.root.rglob("*") if file.is_file())
    again = run(path)
    assert (again.texts_embedded, again.tokens_forwarded, again.texts_reused) == (0, 0, first.texts)
    assert again.pairs == first.pairs
    assert files == sorted((file, file.stat().st_mtime_ns) for file in store.root.rglob("*") if file.is_file())


def test_all_passes_store_the_same_vectors_under_the_same_keys(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    first = run(path, packing="tree", store_dtype="float32")
    assert first.pass_name == "tree"
    assert first.tokens_unique <= first.tokens_forwarded <= 1.02 * first.tokens_unique  # packs are filled up
    features = open_features(store, first.features)
    keys = pl.Series(features.keys().to_pylist(), dtype=pl.Binary).sort()
    expected = features.gather(features.locate(keys))
    for packing in ("packed", "padded"):
        for folder in ("features", "datasets"):
            shutil.rmtree(store.root / folder)
        report = run(path, packing=packing, store_dtype="float32")
        assert (report.pass_name, report.features) == (packing, first.features)
        assert report.tokens_forwarded > report.tokens_unique == first.tokens_unique
        features = open_features(store, first.features)
        assert len(features.keys()) == len(keys)
        np.testing.assert_allclose(features.gather(features.locate(keys)), expected, rtol=1e-4, atol=1e-5)


def test_texts_missing_from_a_group_are_read_with_what_they_share(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]]
) -> None:
    path = write_rows(rows)
    run(path)
    both = run(path, responses="context")
    assert both.pass_name == "tree"
    assert 0 < both.tokens_unique <= both.tokens_forwarded <= 1.02 * both.tokens_unique


@pytest.mark.parametrize("packing", ["tree", "padded"])
@pytest.mark.parametrize("shard_tokens", [200, 1 << 17])
def test_progress_counts_what_texts_share_once(
    run: Callable[..., EmbedReport],
    write_rows: Write,
    rows: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    packing: str,
    shard_tokens: int,
) -> None:
    class Bar:
        counted, total, remark = 0, 0, "?"

        def __call__(self, count: int) -> None:
            assert count >= 0
            self.counted += count

        def expect(self, total: int, remark: str) -> None:
            self.total, self.remark = total, remark

    bar = Bar()
    monkeypatch.setattr("micropref.pipeline.embedding.shard_plan.SHARD_TOKENS", shard_tokens)
    monkeypatch.setattr("micropref.pipeline.embedding.store_vectors.progress_bar", lambda *_: nullcontext(bar))
    report = run(write_rows(rows), packing=packing)
    assert bar.counted == bar.total == report.tokens_unique
    assert bar.remark == ""


def test_plan_says_the_same_and_writes_nothing(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    plan = run(path, plan_only=True)
    assert not store.root.exists()
    done = run(path)
    assert (plan.texts_embedded, plan.tokens_unique, plan.features) == (
        done.texts_embedded,
        done.tokens_unique,
        done.features,
    )
    assert run(path, plan_only=True).texts_embedded == 0


def test_a_limit_is_extended_never_cut(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    assert run(path, limit=30).pairs == 30
    ids = pairs_of(store, "mine")["pair_id"]
    more = run(path)
    assert more.pairs == 120
    assert more.texts_reused > 0
    assert pairs_of(store, "mine")["pair_id"][:30].equals(ids)
    assert run(path, limit=30).pairs == 120
    assert len(open_dataset(store, "mine").parts) == 1


def test_another_backbone_for_a_limited_source_keeps_its_pairs(
    run: Callable[..., EmbedReport],
    write_rows: Write,
    rows: list[dict[str, Any]],
    tiny_backbone: Callable[..., Path],
    store: StoreFolder,
) -> None:
    path = write_rows(rows)
    run(path)
    other = run(path, limit=30, backbone=str(tiny_backbone("qwen2")))
    assert other.pairs == 120
    assert len(open_dataset(store, "mine").linked_features()) == 2


def test_sources_add_up_and_replace_starts_over(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    first, second = write_rows(rows[:60], "a.jsonl"), write_rows(rows[30:90], "b.jsonl")
    run(first)
    report = run(second)
    ids = pairs_of(store, "mine")["pair_id"]
    assert len(ids) == 120
    assert ids.n_unique() == 120
    assert report.repeated == 30
    run(second, replace=True)
    assert len(pairs_of(store, "mine")) == 60
    assert [part.record["source"] for part in open_dataset(store, "mine").parts] == [str(second)]
    assert run(second).texts_embedded == 0
    assert verify(store).problems == []


def test_splits_by_prompt_share_no_prompt(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    report = run(write_rows(rows), split_by_prompt=0.3)
    assert set(report.splits) == {"train", "test"}
    dataset = open_dataset(store, "mine")
    prompts = {split: set(pairs_of(store, "mine", split)["prompt_id"]) for split in dataset.splits()}
    assert not prompts["train"] & prompts["test"]
    assert report.shared_prompts == 0
    parts = pairs_of(store, "mine", "train").group_by("prompt_id").agg(pl.col("part").n_unique())
    assert parts["part"].max() == 1
    assert set(pairs_of(store, "mine", "test")["part"]) == {"test"}


def test_prompts_in_two_splits_are_counted(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]]
) -> None:
    run(write_rows(rows[:60], "a.jsonl"))
    assert run(write_rows(rows[54:], "b.jsonl"), split="test").shared_prompts == 2


def test_the_same_source_with_other_options_is_refused(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected", "attribute")} for row in rows]
    path = write_rows(bare)
    assert run(path).without_context == 120
    contexts = tmp_path / "contexts.json"
    contexts.write_text(json.dumps({"warm": ["Be warm.", "Be kind."], "cold": "Be cold."}))
    with pytest.raises(BadInput, match="with another `contexts`; give the same again, or `replace`"):
        run(path, contexts=contexts)
    report = run(path, contexts=contexts, replace=True)
    assert (report.pairs, report.without_context) == (120, 0)


def test_responses_behind_contexts_are_added_to_the_plain_ones(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    plain = run(path)
    both = run(path, responses="context")
    # Each prompt has one context more for each of its two groups, with two responses.
    assert both.texts == plain.texts + 40 * 4
    assert both.texts_embedded == 40 * 4
    frame = open_dataset(store, "mine").linked_pairs(both.features, "train", list(KEY_COLUMNS))
    assert frame.null_count().row(0) == (0,) * len(KEY_COLUMNS)


def test_contexts_that_say_nothing_of_the_data_are_refused(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    contexts = tmp_path / "contexts.json"
    contexts.write_text('{"zzz": "Be zzz."}')
    with pytest.raises(BadInput, match=r"none of its attributes \(zzz\) is one of .*there: cold, warm"):
        run(write_rows(rows), contexts=contexts)


def test_replace_takes_a_smaller_limit_and_undoes_a_split(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    run(path)
    assert run(path, limit=30, replace=True).pairs == 30
    assert len(pairs_of(store, "mine")) == 30
    run(path, split_by_prompt=0.3, replace=True)
    assert open_dataset(store, "mine").splits() == ["test", "train"]
    report = run(path, replace=True)
    assert open_dataset(store, "mine").splits() == ["train"]
    assert (report.pairs, report.shared_prompts) == (120, 0)
    assert verify(store).problems == []


def test_rows_passed_over_once_still_stop_who_asks_to_stop(run: Callable[..., EmbedReport], write_rows: Write) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = write_rows([good, {**good, "chosen": 3}])
    assert run(path, on_bad="skip").dropped == {"malformed": 1}
    assert run(path, on_bad="skip").texts_embedded == 0
    with pytest.raises(BadInput, match=r"rows\.jsonl:2: "):
        run(path)


def test_a_damaged_table_is_repaired(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]], store: StoreFolder
) -> None:
    path = write_rows(rows)
    run(path)
    whole = pairs_of(store, "mine")
    for role in ("pairs", "links"):
        table = next((store.root / "datasets").rglob(f"*.{role}.*.parquet"))
        data = bytearray(table.read_bytes())
        data[len(data) // 2] ^= 1
        table.write_bytes(data)
        assert len(verify(store).problems) >= 1
        assert run(path).texts_embedded == 0
        assert verify(store).problems == []
        assert pairs_of(store, "mine").equals(whole)


def test_nothing_that_fits_is_bad_input(
    run: Callable[..., EmbedReport], write_rows: Write, rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(BadInput, match="no pair fits 8 tokens"):
        run(write_rows(rows), max_length=8)


def test_ratings_leave_out_unanimous_pairs_in_train_only(
    run: Callable[..., EmbedReport], write_rows: Write, store: StoreFolder
) -> None:
    rated = [
        {"prompt": "p", "response": "good", "help": 4, "style": 3},
        {"prompt": "p", "response": "bad", "help": 1, "style": 1},
        {"prompt": "q", "response": "long", "help": 4, "style": 1},
        {"prompt": "q", "response": "short", "help": 1, "style": 3},
    ]
    path = write_rows(rated)
    train = run(path, name="rated")
    assert train.dropped == {"unanimous": 2}
    assert train.pairs == 2
    assert run(path, name="rated", split="test").pairs == 4
    part = open_dataset(store, "rated").of_split("train")[0]
    assert read_table(part, "ratings")["rating"].to_list() == [4, 3, 1, 1, 4, 1, 1, 3]
    rejects = (part.folder / part.files["rejects"].name).read_text().splitlines()
    assert len(rejects) == train.rejected_rows == 2
    assert json.loads(rejects[0])["reason"].startswith("unanimous")


def test_what_does_not_fit_is_truncated_or_dropped(
    run: Callable[..., EmbedReport], write_rows: Write, store: StoreFolder
) -> None:
    data = [
        {"prompt": "word " * 100, "chosen": "yes", "rejected": "no"},
        {"prompt": "short", "chosen": "x" * 300, "rejected": "no"},
        {"prompt": "short", "chosen": "yes", "rejected": "no"},
    ]
    report = run(write_rows(data))
    assert report.trimmed == 1
    assert report.dropped == {"overlong": 1}
    frame = open_dataset(store, "mine").linked_pairs(report.features, "train", ["pair_id", "chosen_key", "prompt_key"])
    assert frame.height == 2
    assert run(write_rows(data)).dropped == {"overlong": 1}


def test_pairs_the_backbone_cannot_tell_apart_are_counted(
    run: Callable[..., EmbedReport], write_rows: Write, make_backbone: Callable[..., Path]
) -> None:
    trimming = "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}. {% endfor %}"
    backbone = make_backbone("llama", chat_template=trimming)
    rows = [{"prompt": "p", "chosen": "same", "rejected": "same "}, {"prompt": "p", "chosen": "a", "rejected": "b"}]
    report = run(write_rows(rows), backbone=str(backbone))
    assert (report.indistinguishable, report.pairs, report.texts) == (1, 2, 4)


@pytest.mark.parametrize(("value", "store_dtype"), [(float("nan"), "float32"), (1e6, "float16")])
def test_a_vector_that_is_not_finite_as_stored_names_its_row(
    run: Callable[..., EmbedReport],
    write_rows: Write,
    rows: list[dict[str, Any]],
    store: StoreFolder,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    store_dtype: str,
) -> None:
    real = Backbone.embed

    def broken(self: Backbone, batch: Any, **kwargs: Any) -> torch.Tensor:
        vectors = real(self, batch, **kwargs).clone()
        vectors[-1, 3] = value
        return vectors

    monkeypatch.setattr(Backbone, "embed", broken)
    with pytest.raises(Failure, match=r"rows\.jsonl:\d+ \(\w+\): 1 of 32 values"):
        run(write_rows(rows), packing="padded", store_dtype=store_dtype)
    assert list(store.root.rglob("*.parquet")) == []


def test_an_interrupt_keeps_whole_shards_and_goes_on(
    run: Callable[..., EmbedReport],
    write_rows: Write,
    rows: list[dict[str, Any]],
    store: StoreFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("micropref.pipeline.embedding.shard_plan.SHARD_TOKENS", 2000)
    path = write_rows(rows)
    calls, checks = 0, 4  # three texts of several lengths together, and each alone
    real = Backbone.embed

    def interrupted(self: Backbone, batch: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == checks + 4:
            raise KeyboardInterrupt
        return real(self, batch, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "embed", interrupted)
        with pytest.raises(Interrupted, match="3 shards are stored; the same command again goes on"):
            run(path, packing="padded", tokens_per_batch=8192)
    assert not (store.root / "datasets").exists()
    report = run(path)
    assert 0 < report.texts_reused < report.texts == 202
    assert report.texts_embedded + report.texts_reused == 202
    checked = verify(store)
    assert (checked.problems, checked.vectors, checked.duplicate_vectors) == ([], 202, 0)


def test_bad_sources_write_nothing(run: Callable[..., EmbedReport], write_rows: Write, store: StoreFolder) -> None:
    good = write_rows([{"prompt": "p", "chosen": "a", "rejected": "b"}], "good.jsonl")
    bad = write_rows([{"prompt": "", "chosen": "a", "rejected": "b"}], "bad.jsonl")
    with pytest.raises(BadInput, match=r"bad\.jsonl:1: "):
        run([good, bad])
    assert not store.root.exists()


def pairs_of(store: StoreFolder, name: str, split: str = "train") -> pl.DataFrame:
    parts = open_dataset(store, name).of_split(split)
    return pl.concat(read_table(part, "pairs", ["pair_id", "prompt_id", "part"]) for part in parts)
