"""What `eval` computes besides accuracies: features of texts, what heads like, calibration, at 700,000 pairs.

N pairs, K heads. Texts are those of the demo, made longer; margins and features are drawn, as many texts have each
feature as in a mixed data set. Run by `make bench-eval`; --quick is a smoke test of small sizes.
"""

from __future__ import annotations

import argparse
import resource
from pathlib import Path

import numpy as np
import polars as pl
import torch
from harness import BUILD, Bar, at_least, at_most, report, seconds

from micropref.cache.vectors.groups import sides_of
from micropref.pipeline.demo.generate import generate
from micropref.pipeline.evaluation.calibration import calibration_table
from micropref.pipeline.evaluation.head_profile import head_tables
from micropref.pipeline.evaluation.text_features import NAMES, text_features

HEADS, ATTRIBUTES = 10, 60
LONG = 1000
"""Characters of a text, at least."""
DENSE = 3
"""Features that nearly all pairs differ in; of the others half have half of the pairs, half a twentieth."""
Row = dict[str, object]


def texts_of(count: int) -> pl.Series:
    """Return distinct texts of LONG characters or more, made of the demo's answers."""
    answers = sorted({row["chosen"] for row in generate().train})
    draw = np.random.default_rng(0)
    texts = []
    while len(texts) < count:
        text = ""
        while len(text) < LONG:
            text += answers[int(draw.integers(len(answers)))] + "\n\n"
        texts.append(text)
    return pl.Series(texts)


def read_texts(count: int) -> tuple[Row, Bar]:
    """Measure the features of texts."""
    texts = texts_of(count)
    took = seconds(lambda: text_features(texts))
    size = float(texts.str.len_chars().to_numpy().mean())
    row = {"texts": count, "characters": size, "seconds": took, "texts/s": count / took}
    return row, at_least("texts of 1,000 characters a second", count / took, 20_000)


def pairs_of(count: int) -> tuple[pl.DataFrame, torch.Tensor, pl.DataFrame]:
    """Return scored pairs, their margins [N, K] and their features' differences."""
    draw = np.random.default_rng(0)
    shares = [1.0] * DENSE + [0.5, 0.05] * len(NAMES)
    named = {"prompt_id": count // 7, "user": count // 35, "attribute": ATTRIBUTES}
    columns = {name: pl.Series(draw.integers(0, many, count)).cast(pl.String) for name, many in named.items()}
    frame = pl.DataFrame({"pair_id": [f"{row:032x}-0" for row in range(count)], **columns}).with_columns(
        run=pl.lit("r"), data=pl.lit("d"), split=pl.lit("test"), context=pl.lit(None, pl.String)
    )
    margins = torch.as_tensor(draw.standard_normal((count, HEADS)))
    features = {
        name: (draw.standard_normal(count) * (draw.random(count) < share)).astype(np.float32)
        for name, share in zip(NAMES, shares, strict=False)
    }
    return frame, margins, pl.DataFrame({"pair_id": frame["pair_id"], **features})


def tables(count: int) -> tuple[list[Row], list[Bar]]:
    """Measure the tables of an evaluation."""
    frame, margins, features = pairs_of(count)
    sides = sides_of(frame)
    log_probability = torch.nn.functional.logsigmoid(margins.mean(1))
    took = {
        "calibration": seconds(lambda: calibration_table(frame, log_probability, sides)),
        "head_profile": seconds(lambda: head_tables(frame, margins, features, sides)),
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    rows: list[Row] = [{"pairs": count, "heads": HEADS, "table": name, "seconds": one} for name, one in took.items()]
    bars = [
        at_most(f"seconds for {name}", took[name], bound) for name, bound in (("calibration", 5), ("head_profile", 10))
    ]
    return rows, [*bars, at_most("peak memory, GB", memory, 2)]


def main() -> None:
    """Run both, print and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "eval.json")
    asked = parser.parse_args()
    row, bar = read_texts(2_000 if asked.quick else 100_000)
    rows, bars = tables(10_000 if asked.quick else 700_000)
    report(asked.out, [row, *rows], [bar, *bars], quick=asked.quick)


if __name__ == "__main__":
    main()
