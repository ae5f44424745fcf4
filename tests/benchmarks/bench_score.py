"""Scoring new texts: against `embed` on the same texts, and best-of-n against the usual padded loop.

`score` reads a file and writes rewards, `embed` the same texts and writes vectors: both as whole commands, in turn,
on MiniLM. Best-of-16 is 16 answers to one prompt: `Run.scorer().best_of` against the run's own exported folder, read by
transformers in one padded batch a prompt, on SmolLM2 (`make smollm2`); both name the same best answer. Prints a table
and writes build/bench/score.json. Run by `make bench-score`; ARGS=--quick tries it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import BUILD, Bar, alternating, at_least, median_ratio, report

import micropref
from micropref.pipeline.demo.generate import DemoData, generate

ANSWERS = 16
EMBED_BAR, PADDED_BAR = 0.9, 3.0


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run")
    parser.add_argument("--prompts", type=int, default=8, help="prompts of best-of-16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--causal", default="smollm2", help="causal backbone of best-of-16")
    parser.add_argument("--out", type=Path, default=BUILD / "score.json")
    asked = parser.parse_args()
    if asked.quick:
        asked.prompts, asked.rounds, asked.causal = 2, 1, "minilm"
    data = generate()
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        for found, bar in (
            against_embed(Path(folder), data, 60 if asked.quick else None, asked.rounds),
            against_padded(Path(folder), data, asked.causal, asked.prompts, asked.rounds),
        ):
            rows += found
            bars.append(bar)
    report(asked.out, rows, bars, quick=asked.quick)


def answers(data: DemoData) -> dict[str, list[str]]:
    """Return the distinct answers to each prompt."""
    found: dict[str, dict[str, None]] = {}
    for row in data.train:
        found.setdefault(row["prompt"], {}).update(dict.fromkeys((row["chosen"], row["rejected"])))
    return {prompt: list(some)[: len(some) // 2 * 2] for prompt, some in found.items()}


def against_embed(folder: Path, data: DemoData, most: int | None, rounds: int) -> tuple[list[dict[str, Any]], Bar]:
    """Compare the tokens a second of `score` and of `embed`."""
    texts = dict(list(answers(data).items())[:most])
    pairs = [
        {"prompt": prompt, "chosen": some[at], "rejected": some[at + 1]}
        for prompt, some in texts.items()
        for at in range(0, len(some), 2)
    ]
    source = folder / "candidates.jsonl"
    candidates = ({"prompt": prompt, "responses": some} for prompt, some in texts.items())
    source.write_text("".join(json.dumps(row) + "\n" for row in candidates))
    store = micropref.Store(folder / "store")
    store.embed(pairs, "mine")
    run = store.train("mine", k=2, restarts=1, router_input="prompt").run
    tokens: dict[str, int] = {}

    def embed() -> None:
        with tempfile.TemporaryDirectory() as new:
            tokens["embed"] = micropref.Store(new).embed(pairs, "mine").tokens_forwarded

    def score() -> None:
        tokens["score"] = store.score(run, source, folder / "scored.jsonl").tokens_forwarded

    times = alternating({"embed": embed, "score": score}, rounds)
    rows = [
        {"command": name, "tokens": tokens[name], "tokens_per_second": tokens[name] / statistics.median(spent)}
        for name, spent in times.items()
    ]
    ratio = median_ratio(times["embed"], times["score"], tokens["score"] / tokens["embed"])
    return rows, at_least("score / embed, tokens a second", ratio, EMBED_BAR)


def against_padded(
    folder: Path, data: DemoData, backbone: str, count: int, rounds: int
) -> tuple[list[dict[str, Any]], Bar]:
    """Compare best-of-16 with a padded batch of 16 whole texts, a prompt after the other."""
    store = micropref.Store(folder / f"store-{backbone}")
    store.embed(data.train[:200], "mine", backbone=backbone)
    run = store.train("mine", k=2, restarts=1, method="static").run
    scorer = store.run(run).scorer()
    asked = long_prompts(data, count)
    store.export(run, folder / "reward")
    causal = (folder / "reward" / "chat_template.jinja").exists()
    padded = _by_classifier(folder / "reward") if causal else _by_cross_encoder(folder / "reward")
    found: dict[str, list[int]] = {}

    def ours() -> None:
        found["best_of"] = [some.index(scorer.best_of(prompt, some)) for prompt, some in asked.items()]

    def usual() -> None:
        found["padded"] = [padded(prompt, some) for prompt, some in asked.items()]

    times = alternating({"best_of": ours, "padded": usual}, rounds)
    scorer.close()
    same = sum(a == b for a, b in zip(found["best_of"], found["padded"], strict=True))
    rows = [
        {"best of 16": name, "backbone": backbone, "same best": f"{same} of {count}",
         "prompts_per_second": count / statistics.median(spent)}
        for name, spent in times.items()
    ]  # fmt: skip
    bar = at_least(f"padded loop / best_of, seconds of 16 answers to one prompt ({backbone})",
                   median_ratio(times["padded"], times["best_of"]), PADDED_BAR)  # fmt: skip
    return rows, bar


def long_prompts(data: DemoData, count: int) -> dict[str, list[str]]:
    """Return prompts of some hundred tokens, as with a document to answer about, and 16 answers to each."""
    some = list(answers(data).values())
    texts = [text for group in some for text in group]
    return {
        " ".join(texts[at * 8 : at * 8 + 8]) + f" Sum up point {at}.": texts[200 + at : 200 + at + ANSWERS]
        for at in range(count)
    }


def _by_classifier(folder: Path) -> Any:
    """Return what names the best answer by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def best(prompt: str, some: list[str]) -> int:
        chats = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": one}] for one in some]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        return int(model(**batch).logits[:, 0].argmax())

    return best


def _by_cross_encoder(folder: Path) -> Any:
    """Return what names the best answer of an encoder's folder, by transformers alone."""
    from safetensors.torch import load_file
    from transformers import AutoModel, AutoTokenizer

    (trunk,) = folder.glob("*_Transformer")
    model, tokenizer = AutoModel.from_pretrained(trunk).eval(), AutoTokenizer.from_pretrained(trunk)
    (dense,) = folder.glob("*_Dense/model.safetensors")
    head = load_file(dense)["linear.weight"][0]

    @torch.inference_mode()
    def best(prompt: str, some: list[str]) -> int:
        batch = tokenizer([prompt] * len(some), some, padding=True, truncation=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))
        return int((vectors.float() @ head).argmax())

    return best


if __name__ == "__main__":
    main()
