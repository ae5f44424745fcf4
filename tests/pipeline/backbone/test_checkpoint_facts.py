"""Every fact of a checkpoint is looked at before anything is read, by a plan too: one line says what is wrong."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    OPTConfig,
    PretrainedConfig,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
    ViTConfig,
)

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.weight_files import read_reward_head
from micropref.pipeline.forwarding.choose_pass import choose_pass
from micropref.pipeline.text.tokens import Tokens
from tests.support.architectures import texts_and_groups
from tests.support.backbones import SHAPE, VOCABULARY, byte_tokenizer

Make = Callable[..., Path]
ENDS = {"pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def saved(folder: Path, made: PretrainedConfig) -> Path:
    AutoModel.from_config(made).save_pretrained(folder)
    byte_tokenizer("gpt2").save_pretrained(folder)
    return folder


def refused(folder: Path, message: str, *, whole: bool) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        Backbone.load(str(folder), dtype="float32", device="cpu", weights=whole)
    assert "\n" not in str(caught.value)


def _int8(folder: Path) -> None:
    weights(folder, lambda all_: {**all_, "norm.weight": all_["norm.weight"].to(torch.int8)})


def _other_names(folder: Path) -> None:
    weights(folder, lambda all_: {f"net.{key.replace('layers', 'blocks')}": value for key, value in all_.items()})


def _no_names(folder: Path) -> None:
    weights(folder, lambda all_: {f"w{at}": value for at, value in enumerate(all_.values())})


def _not_a_number(folder: Path) -> None:
    weights(folder, lambda all_: {**all_, "norm.weight": all_["norm.weight"] * float("nan")})


def _fewer_rows(folder: Path) -> None:
    weights(folder, lambda all_: {**all_, "embed_tokens.weight": all_["embed_tokens.weight"][:100].clone()})


def _pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n")


def _no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


@pytest.mark.parametrize("whole", [True, False], ids=["pass", "plan"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: config(folder, quantization_config={"quant_method": "gptq", "bits": 4}), r"\(gptq, 4 bit\)"),
        (
            lambda folder: config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}),
            r"its weights are quantised \(bitsandbytes, 8 bit\), which is not read here: give the model that it was",
        ),
        (_int8, r"model\.safetensors holds quantised weights \(I8\)"),
        (_other_names, r"lack 20 weights of a LlamaModel .*what is there has other names \(net\."),
        (_no_names, r"none of the 20 weights in .* has the name of one of a LlamaModel"),
        (_not_a_number, "makes no number but NaN of a text: its weights are broken"),
        (_fewer_rows, r"embed_tokens\.weight has shape \[100, 32\] in .* of its config\.json has \[264, 32\]"),
        (lambda folder: config(folder, hidden_size=64), r"has shape \[264, 32\] in .* config.json has \[264, 64\]"),
        (lambda folder: config(folder, max_position_embeddings="many"), "max_position_embeddings' expected int, got"),
        (_pointer, "is a pointer to a file that Git LFS keeps elsewhere; run `git lfs pull`"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "SafetensorError"),
        (_no_tokenizer, r"no tokenizer in .*: expected tokenizer\.json"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "transformers cannot load"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_read_is_one_line(
    make_backbone: Make, harm: Callable[[Path], Any], message: str, whole: bool
) -> None:
    folder = make_backbone("llama")
    harm(folder)
    refused(folder, message, whole=whole)


@pytest.mark.parametrize("whole", [True, False], ids=["pass", "plan"])
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8,
                      patch_size=4),
            "ViTModel reads pixel_values: expected a causal model or an encoder of text",
        ),
        (
            BartConfig(vocab_size=VOCABULARY, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                       decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32),
            "bart is an encoder-decoder whose encoder is not read by itself",
        ),
    ],
)  # fmt: skip
def test_a_model_of_another_kind_is_named(tmp_path: Path, made: PretrainedConfig, message: str, whole: bool) -> None:
    refused(saved(tmp_path, made), message, whole=whole)


def test_missing_weight_files_are_named_and_a_plan_says_that_the_pass_needs_them(make_backbone: Make) -> None:
    folder = make_backbone("llama")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    names = [f"model-0000{at}-of-00002.safetensors" for at in (1, 2)]
    index.write_text(json.dumps({"weight_map": dict(zip("ab", names, strict=True))}))
    refused(folder, r"lacks 1 of the 2 weight files that .*index\.json names \(model-00002", whole=True)
    (note,) = Backbone.load(str(folder), weights=False).notes
    assert note.endswith("its weight files are not all here, which the pass needs; fetch them again")
    index.write_text("[]")
    refused(folder, r"index\.json names no weight files", whole=True)


@pytest.mark.parametrize("whole", [True, False])
def test_vectors_are_as_wide_as_what_the_model_gives(tmp_path: Path, whole: bool) -> None:
    made = OPTConfig(**SHAPE, **ENDS, ffn_dim=48, vocab_size=VOCABULARY, word_embed_proj_dim=16)
    backbone = Backbone.load(str(saved(tmp_path, made)), dtype="float32", device="cpu", weights=whole)
    assert backbone.width == 16


@pytest.mark.parametrize("kind", [T5ForConditionalGeneration, T5EncoderModel])
def test_the_encoder_of_an_encoder_decoder_is_read_by_itself(tmp_path: Path, kind: Any) -> None:
    model = kind(T5Config(**T5)).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer("gpt2").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), dtype="float32", device="cpu")
    assert backbone.notes == (f"backbone {tmp_path}: of the encoder-decoder t5 only the encoder is read",)
    assert not backbone.causal
    texts, groups = texts_and_groups()
    chosen = choose_pass(backbone, "auto", None, texts, groups, list[str]().append)
    for batch in chosen.run(texts, groups):
        for at, vector in zip(batch.places, batch.vectors, strict=True):
            with torch.inference_mode():
                hidden = model.get_encoder()(torch.from_numpy(texts[at].ids).long()[None]).last_hidden_state[0]
            torch.testing.assert_close(vector, hidden.mean(0), rtol=1e-5, atol=1e-6)


def test_a_model_with_a_state_along_the_text_is_not_packed(tmp_path: Path) -> None:
    from transformers import Lfm2Config

    made = Lfm2Config(**SHAPE, **ENDS, num_key_value_heads=2, vocab_size=VOCABULARY, full_attn_idxs=[1])
    backbone = Backbone.load(str(saved(tmp_path, made)), dtype="bfloat16", device="cpu")
    texts, groups = texts_and_groups()
    said: list[str] = []
    assert choose_pass(backbone, "auto", None, texts, groups, said.append).name == "padded"
    assert "Lfm2Model has a convolution along the text, which mixes texts that share rows" in said[0]


@pytest.mark.parametrize("labels", [1, 2])
def test_a_head_of_a_form_that_is_not_read_is_said(tmp_path: Path, labels: int) -> None:
    made = LlamaConfig(**SHAPE, **ENDS, vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=labels)
    LlamaForSequenceClassification(made).save_pretrained(tmp_path)
    byte_tokenizer("llama").save_pretrained(tmp_path)
    backbone = Backbone.load(str(tmp_path), dtype="float32", device="cpu")
    unread = "LlamaForSequenceClassification with score.weight [2, 32]"
    assert (backbone.reward_head is None) == (labels == 2)
    assert backbone.description()["unread_head"] == (unread if labels == 2 else None)
    said = f"backbone {tmp_path}: its reward head is of a form that method own-head does not read: {unread}"
    assert backbone.notes == ((said,) if labels == 2 else ())


def test_an_encoders_classifier_is_a_head_that_is_not_read(tmp_path: Path) -> None:
    made = BertConfig(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=64, num_labels=1)
    BertForSequenceClassification(made).save_pretrained(tmp_path)
    head = read_reward_head(tmp_path, None, ["BertForSequenceClassification"], 32)
    assert head.weight is None
    assert head.unread == "BertForSequenceClassification with classifier.bias [1], classifier.weight [1, 32]"


def lora(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "task_type": "CAUSAL_LM"} | changes
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("whole", [True, False], ids=["pass", "plan"])
def test_an_adapter_without_peft_is_named_with_the_way_out(
    tmp_path: Path, make_backbone: Make, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "peft" else found(name, *more))
    way_out = r"run `pip install 'micropref\[adapters\]'` to have it merged, or merge it once"
    refused(lora(tmp_path / "alone"), rf"holds an adapter \(LORA\) of owner/base; {way_out}", whole=whole)
    near = lora(make_backbone("llama"))
    refused(
        near, rf"an adapter \(LORA\) of the model in the same folder; {way_out}.*take adapter_config\.json", whole=whole
    )
    (near / "adapter_config.json").write_text("[]")
    refused(near, r"adapter_config\.json holds no JSON object", whole=whole)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("near", [True, False], ids=["next to its model", "alone"])
def test_an_adapter_is_merged(tmp_path: Path, make_backbone: Make, near: bool) -> None:
    peft = pytest.importorskip("peft")
    base = make_backbone("llama")
    model = peft.get_peft_model(
        AutoModel.from_pretrained(base), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_alpha=8)
    ).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder := base if near else tmp_path / "adapter")
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state[0, -1]
    backbone = Backbone.load(str(folder), dtype="float32", device="cpu")
    found = backbone.embed([Tokens(ids[0].int().numpy())])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)
    assert backbone.notes == (f"backbone {folder}: the adapter in {folder} is merged into {base}",)
    before = backbone.settings()["checkpoint"]
    lora(folder, **json.loads((folder / "adapter_config.json").read_text()) | {"lora_alpha": 16})
    assert Backbone.load(str(folder), weights=False).settings()["checkpoint"] != before
    moved = {
        key.replace("layers.0", "layers.7"): value
        for key, value in load_file(folder / "adapter_model.safetensors").items()
    }
    save_file(moved, folder / "adapter_model.safetensors", {"format": "pt"})
    refused(folder, "weights of the adapter .* do not meet those of its model", whole=True)
