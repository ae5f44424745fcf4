"""Exported folders give the run's rewards in transformers and sentence-transformers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from typer.testing import CliRunner

import micropref
from micropref.cli import app
from tests.conftest import preference_rows

CHATS = {"plain": None, "dated": "Today is {{ strftime_now('%d %b %Y') }}. "}
TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def filled(folder: Path, backbone: Path, **options: Any) -> tuple[micropref.Store, str]:
    """Return a store, and a run of two heads whose router reads contexts."""
    opened = micropref.Store(folder)
    fixed: dict[str, Any] = {"split_by_prompt": 0.3, "device": "cpu", "dtype": "float32"}
    opened.embed(preference_rows(), "mine", backbone=str(backbone), **fixed | options)
    return opened, opened.train("mine", k=2, restarts=1, epochs=3).run


def classifier_rewards(folder: Path, texts: list[tuple[str, str]]) -> torch.Tensor:
    """Return what plain transformers makes of a folder, written by its own template, in one padded batch."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}] for prompt, response in texts
    ]
    written = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    batch = tokenizer(written, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits


TEXTS = [("What is thing 3?", "Gladly!"), ("What is thing 3?", "See the manual, page 3, and so on."), ("Hi", "")]


FAST = (("llama", "plain"), ("llama", "dated"), ("qwen2", "chat"), ("gpt2", "plain"))


@pytest.mark.parametrize(
    ("kind", "chat"),
    [
        pytest.param(*one, marks=() if one in FAST else pytest.mark.slow)
        for one in itertools.product(("llama", "qwen2", "gpt2"), ("plain", "chat", "dated"))
    ],
)
def test_a_causal_folder_gives_the_rewards(
    tmp_path: Path, make_backbone: Callable[..., Path], kind: str, chat: str
) -> None:
    template = {"plain": None, "chat": TEMPLATE, "dated": "Today: {{ strftime_now('%d %b %Y') }}. " + TEMPLATE}[chat]
    opened, run = filled(tmp_path / "store", make_backbone(kind, chat_template=template))
    folder = tmp_path / "reward"
    report = opened.export(run, folder, context="Prefer the dry answer.", device="cpu")
    assert report.checked_texts == 16
    assert report.largest_difference <= 1e-4
    assert report.validation_pairs > 0
    scorer = opened.run(run).scorer(device="cpu")
    ours = [scorer.score(*text, context="Prefer the dry answer.").rewards[0] for text in TEXTS]
    assert classifier_rewards(folder, TEXTS)[:, 0].tolist() == pytest.approx(ours, abs=1e-4)
    record = json.loads((folder / "micropref.json").read_text())
    assert (record["run"], record["taste"]) == (run, {"context": "Prefer the dry answer."})
    assert "AutoModelForSequenceClassification" in (folder / "README.md").read_text()
    scorer.close()


def test_every_head_as_an_output(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> None:
    opened, run = filled(tmp_path / "store", tiny_backbone("llama", chat=True))
    report = opened.export(run, tmp_path / "heads", all_heads=True, device="cpu")
    assert (report.outputs, report.weights) == (2, [])
    scorer = opened.run(run).scorer(device="cpu")
    ours = [list(scorer.score(*text).heads[0] or ()) for text in TEXTS]
    assert torch.allclose(classifier_rewards(tmp_path / "heads", TEXTS), torch.tensor(ours), atol=1e-4)
    scorer.close()


def test_weights_that_depend_on_the_prompt_are_averaged(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> None:
    opened, _ = filled(tmp_path / "store", tiny_backbone("llama"))
    run = opened.train("mine", k=2, restarts=1, epochs=3, router_input="context,prompt").run
    report = opened.export(run, tmp_path / "reward", context="Prefer the dry answer.", device="cpu")
    prompts = opened.sql(
        "SELECT DISTINCT prompt FROM pairs WHERE part = 'validation' AND context = 'Prefer the dry answer.'"
    )["prompt"].to_list()
    assert report.averaged_over == len(prompts)
    scorer = opened.run(run).scorer(device="cpu")
    each = [scorer.score(prompt, "x", context="Prefer the dry answer.").weights for prompt in prompts]
    assert report.weights == pytest.approx(torch.tensor(each).mean(0).tolist(), abs=1e-5)
    scorer.close()


@pytest.mark.parametrize("form", ["bare", "prefixed", "sharded"])
def test_checkpoints_in_every_form(tmp_path: Path, make_backbone: Callable[..., Path], form: str) -> None:
    """Names of weights with and without the trunk's prefix, one file and several."""
    backbone = make_backbone("llama")
    weights = load_file(backbone / "model.safetensors")
    if form != "bare":
        weights = {f"model.{name}": value for name, value in weights.items()}
        weights["lm_head.weight"] = torch.randn(264, 32)
    if form == "sharded":
        (backbone / "model.safetensors").unlink()
        names = sorted(weights)
        shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
        for file, some in shards.items():
            save_file({name: weights[name] for name in some}, backbone / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, some in shards.items() for name in some}}
        (backbone / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    opened, run = filled(tmp_path / "store", backbone)
    report = opened.export(run, tmp_path / "reward", link=form == "prefixed", device="cpu")
    assert report.largest_difference <= 1e-4
    if form == "prefixed":
        shard = tmp_path / "reward" / "model-00001-of-00002.safetensors"
        assert shard.stat().st_ino == (backbone / "model.safetensors").stat().st_ino


def test_other_files_of_weights_are_left_out(tmp_path: Path, make_backbone: Callable[..., Path]) -> None:
    """Some checkpoints carry the same weights twice, the second time by other names (consolidated.safetensors)."""
    backbone = make_backbone("llama")
    weights = load_file(backbone / "model.safetensors")
    save_file(weights, backbone / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
    (backbone / "model.safetensors.index.json").write_text(json.dumps(index))
    (backbone / "model.safetensors").rename(backbone / "consolidated.safetensors")
    opened, run = filled(tmp_path / "store", backbone)
    opened.export(run, tmp_path / "reward", device="cpu")
    written = json.loads((tmp_path / "reward" / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(written) == len(weights) + 1
    assert len(list((tmp_path / "reward").glob("*.safetensors"))) == 2


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_backbone_with_an_adapter_is_merged(tmp_path: Path, make_backbone: Callable[..., Path], kind: str) -> None:
    peft = pytest.importorskip("peft")
    base = make_backbone(kind)
    targets = {"llama": ["q_proj", "v_proj"], "bert": ["query", "value"]}[kind]
    model = peft.get_peft_model(AutoModel.from_pretrained(base), peft.LoraConfig(r=4, target_modules=targets))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    opened, run = filled(tmp_path / "store", tmp_path / "adapter")
    assert opened.export(run, tmp_path / "reward", device="cpu").largest_difference <= 1e-4
    assert not list((tmp_path / "reward").rglob("adapter*"))


def test_control_tokens_that_people_typed_are_not_compared(tmp_path: Path, make_backbone: Callable[..., Path]) -> None:
    """transformers makes a control token of them, `score` does not: such texts differ by protocol, not by a fault."""
    rows = preference_rows()
    for row in rows[::2]:
        row["chosen"] += " <s> was typed here"
    opened = micropref.Store(tmp_path / "store")
    opened.embed(rows, "mine", backbone=str(make_backbone("llama", chat_template=TEMPLATE)), device="cpu")
    run = opened.train("mine", k=2, restarts=1, epochs=1, method="static").run
    assert 0 < opened.export(run, tmp_path / "reward", device="cpu").checked_texts < 16


def test_an_encoder_becomes_a_cross_encoder(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> None:
    opened, run = filled(tmp_path / "store", tiny_backbone("bert"))
    folder = tmp_path / "reward"
    report = opened.export(run, folder, attribute="warm", device="cpu")
    assert (report.kind, report.outputs) == ("CrossEncoder", 1)
    assert report.largest_difference <= 1e-5
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize", "Dense"]
    assert not (folder / "config.json").exists()  # releases that know no modules would add a random head to it
    sentence_transformers = pytest.importorskip("sentence_transformers")
    scorer = opened.run(run).scorer(device="cpu")
    ours = [scorer.score(*text, attribute="warm").rewards[0] for text in TEXTS]
    scorer.close()
    theirs = sentence_transformers.CrossEncoder(str(folder), device="cpu").predict(TEXTS)
    assert theirs.tolist() == pytest.approx(ours, abs=1e-5)


def test_both_generations_of_transformers_find_their_words(tmp_path: Path, make_backbone: Callable[..., Path]) -> None:
    backbone = make_backbone("llama", chat_template=TEMPLATE)
    opened, run = filled(tmp_path / "store", backbone)
    opened.export(run, tmp_path / "reward", device="cpu")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert (config["num_labels"], config["id2label"]) == (1, {"0": "reward"})
    tokenizer = json.loads((tmp_path / "reward" / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"backend", "is_local", "local_files_only"} & set(tokenizer)
    assert tokenizer["pad_token"] not in ("<|end|>", "<s>")  # texts end with the first


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_weights_in_another_dtype(tmp_path: Path, tiny_backbone: Callable[..., Path], kind: str) -> None:
    opened, run = filled(tmp_path / "store", tiny_backbone(kind))
    folder = tmp_path / "reward"
    report = opened.export(run, folder, dtype="bfloat16", device="cpu")
    assert 0 < report.largest_difference <= 5e-2
    trunk = folder if kind == "llama" else folder / "0_Transformer"
    config = json.loads((trunk / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    backbone = next(path for path in sorted(trunk.glob("model*.safetensors")))
    assert {value.dtype for value in load_file(backbone).values() if value.is_floating_point()} == {torch.bfloat16}
    with pytest.raises(micropref.BadInput, match="files that are converted are new ones"):
        opened.export(run, tmp_path / "other", dtype="bfloat16", link=True, device="cpu")


def test_a_folder_is_read_in_the_dtype_of_the_run(tmp_path: Path, make_backbone: Callable[..., Path]) -> None:
    """Weights stored in bfloat16, embedded in float32: what loads the folder without a word computes in float32 too."""
    backbone = make_backbone("llama")
    weights = load_file(backbone / "model.safetensors")
    save_file({name: one.bfloat16() for name, one in weights.items()}, backbone / "model.safetensors", {"format": "pt"})
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    opened, run = filled(tmp_path / "store", backbone)
    assert opened.export(run, tmp_path / "reward", link=True, device="cpu").largest_difference <= 1e-4
    scorer = opened.run(run).scorer(device="cpu")
    ours = [scorer.score(*text).rewards[0] for text in TEXTS]
    scorer.close()
    assert classifier_rewards(tmp_path / "reward", TEXTS)[:, 0].tolist() == pytest.approx(ours, abs=1e-4)


def test_a_folder_that_is_there_stays(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> None:
    opened, run = filled(tmp_path / "store", tiny_backbone("llama"))
    folder = tmp_path / "reward"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(micropref.BadInput, match=r"there is a folder already|is not an export"):
            opened.export(run, folder, force=force, device="cpu")
    assert (folder / "thesis.tex").read_text() == "years of work"
    opened.export(run, tmp_path / "other", device="cpu")
    with pytest.raises(micropref.BadInput, match="there is a folder already"):
        opened.export(run, tmp_path / "other", device="cpu")
    opened.export(run, tmp_path / "other", force=True, attribute="warm", device="cpu")
    assert json.loads((tmp_path / "other" / "micropref.json").read_text())["taste"] == {"attribute": "warm"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_wrong_folder_is_never_named(
    tmp_path: Path, tiny_backbone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check reads the folder itself: a wrong head in it is found, and nothing is left."""
    from micropref.pipeline.rewards.exporting import export as stage

    opened, run = filled(tmp_path / "store", tiny_backbone("llama"))
    write = stage.write_weights
    monkeypatch.setattr(
        stage, "write_weights", lambda backbone, folder, head, placing: write(backbone, folder, head + 1, placing)
    )
    with pytest.raises(micropref.Failure, match="rewards differ from the run's by up to"):
        opened.export(run, tmp_path / "reward", device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_the_command(tmp_path: Path, tiny_backbone: Callable[..., Path]) -> None:
    opened, run = filled(tmp_path / "store", tiny_backbone("llama"))
    command = ["export", run, str(tmp_path / "reward"), "--store", str(opened.folder), "--device", "cpu"]
    result = CliRunner().invoke(app, [*command, "--attribute", "warm"])
    assert result.exit_code == 0, result.output
    assert "LlamaForSequenceClassification" in result.stdout
    assert "validation pairs: the run" in " ".join(result.stdout.split())
    refused = CliRunner().invoke(app, [*command, "--attribute", "cosy"])
    assert refused.exit_code == 2
    assert "there is a folder already" in refused.stderr
