"""What an exported folder says of itself: a model card for people, micropref.json for programs."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from micropref.cache.runs.records import Run
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.named.licences import Licences
from micropref.pipeline.rewards.exporting.files import write_json
from micropref.pipeline.rewards.exporting.head import FixedHead
from micropref.pipeline.rewards.scoring.taste import Taste


def write_record(folder: Path, run: Run, taste: Taste, head: FixedHead, mix: torch.Tensor, worst: float) -> None:
    """Write micropref.json: the run, the taste, the weights and how far the folder is from the run."""
    record: dict[str, Any] = {
        "run": run.id,
        "features": run.record["features"],
        "data": run.record["data"],
        "heads_digest": run.record["heads_digest"],
        "taste": taste.named,
        "mix": mix.tolist(),
        "averaged_over_prompts": head.averaged_over,
        "validation": {
            "pairs": head.pairs,
            "routed": head.routed_accuracy,
            "averaged": head.averaged_accuracy,
            "exported": head.exported_accuracy,
        },
        "largest_difference": worst,
        "micropref": version("micropref"),
    }
    write_json(folder / "micropref.json", record)


def write_card(
    folder: Path,
    run: Run,
    backbone: Backbone,
    taste: Taste,
    head: FixedHead,
    outputs: int,
    licences: Licences,
    data: list[str],
) -> None:
    """Write README.md with the front matter that model hubs read; `data` are the run's data sets on the hub."""
    name = backbone.checkpoint.name
    front = {
        "library_name": "transformers" if backbone.causal else "sentence-transformers",
        "pipeline_tag": "text-classification" if backbone.causal else "text-ranking",
        "tags": ["reward-model", "micropref"],
        **({"base_model": name} if "/" in name and not Path(name).exists() else {}),
        **({} if licences.front is None else {"license": licences.front}),
        **({"datasets": data} if data else {}),
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()), "---", ""]
    lines += [f"# Reward model of micropref run {run.id}", "", _described(run, taste, head, outputs), ""]
    lines += [_accuracies(head), "", "## Use", "", _use(backbone, outputs), ""]
    lines += ["## Licences", "", *(f"- {line}" for line in licences.lines()), ""]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _described(run: Run, taste: Taste, head: FixedHead, outputs: int) -> str:
    if outputs > 1:
        return (
            f"One output for each of the {outputs} reward heads of a {run.record['method']}, which you weigh "
            "yourself. Trained on frozen embeddings of the base model."
        )
    told = ", ".join(f"{name} {value!r}" for name, value in taste.named.items()) or "its own weights"
    mean = f", averaged over {head.averaged_over} prompts" if head.averaged_over else ""
    weights = ", ".join(f"{weight:.3f}" for weight in head.weights)
    return f"One reward head of a {run.record['method']}, for {told}{mean}: its heads are weighed {weights}."


def _accuracies(head: FixedHead) -> str:
    if not head.pairs:
        return "Its accuracy is not known: there is no validation pair of this taste where it was exported."
    rows = [
        ("the run, weighing its heads for each prompt", head.routed_accuracy),
        ("the run with these weights for every prompt", head.averaged_accuracy),
        ("this folder", head.exported_accuracy),
    ]
    table = ["| on validation pairs | accuracy |", "|---|---|", *(f"| {name} | {value:.3f} |" for name, value in rows)]
    return "\n".join([f"{head.pairs} validation pairs:", "", *table])


def _use(backbone: Backbone, labels: int) -> str:
    if not backbone.causal:
        return (
            "```python\nfrom sentence_transformers import CrossEncoder\n"
            'model = CrossEncoder("this/folder")\n'
            'model.predict([("prompt", "response")])\n'
            'model.rank("prompt", ["response", "another"])  # the best first\n```\n\n'
            "It is read by sentence-transformers 5.4 or newer."
        )
    kept = "" if labels == 1 else f", num_labels={labels}"
    return (
        "```python\nfrom transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        f'model = AutoModelForSequenceClassification.from_pretrained("this/folder"{kept})\n'
        'tokenizer = AutoTokenizer.from_pretrained("this/folder")\n'
        'chat = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": "response"}]\n'
        "text = tokenizer.apply_chat_template(chat, tokenize=False)\n"
        'model(**tokenizer(text, add_special_tokens=False, return_tensors="pt")).logits\n```\n\n'
        "Texts must be rendered by the folder's chat template, the beginning-of-text token included. In TRL give "
        "conversational prompts; prompts that are strings are joined to their completion without the template, which "
        "this model never saw: use `Run.scorer().trl()` of micropref there. Special tokens that users type become "
        "control tokens, as anywhere in transformers."
    )
