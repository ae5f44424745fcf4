"""The index of keys at the size of the largest public mixtures: 1, 10 and 40 million pairs, 2.5 keys a pair.

Index files alone, of random keys; no vectors. Measured in a process of its own each: opening with the check of the
digest, finding a million keys of which a fifth are there, the keys that a no-op of `embed` looks up; and before it
writing eight segments and merging them. The exponent is that of seconds by keys: 1 is linear. Run by
`make bench-growth`; ARGS=--quick tries it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from harness import BUILD, Bar, at_most, report

from micropref.cache.vectors.key_index import Keys, index_segments, merge_segments, write_segment

PACK, SEGMENTS, ASKED = 200_000, 8, 1_000_000
Row = dict[str, float]


def drawn(random: np.random.Generator, count: int) -> Keys:
    """Return random keys."""
    high, low = random.integers(0, 2**64, (2, count), dtype=np.uint64)
    return Keys(high, low)


def write(root: Path, count: int) -> Row:
    """Write segments and merge them; return seconds and the most memory."""
    random, start = np.random.default_rng(0), time.perf_counter()
    many = count // SEGMENTS
    for segment in range(SEGMENTS):
        packs = max(1, many // PACK)
        names = [f"p{segment}x{pack}" for pack in range(packs)]
        keys = [drawn(random, many // packs) for _ in names]
        write_segment(root, names, keys)
    np.savez(root / "known.npz", high=keys[-1].high, low=keys[-1].low)
    written = time.perf_counter()
    found = index_segments(root)
    merge_segments(root, found, {name for one in found for name in one.packs})
    return {"write": written - start, "merge": time.perf_counter() - written, "write GB": memory()}


def read(root: Path, asked: int) -> Row:
    """Open the index and find keys; return seconds and the most memory."""
    known, random = np.load(root / "known.npz"), np.random.default_rng(1)
    there, others = Keys(known["high"][: asked // 5], known["low"][: asked // 5]), drawn(random, asked)
    count = len(there)
    keys = Keys(np.concatenate([there.high, others.high[count:]]), np.concatenate([there.low, others.low[count:]]))
    start = time.perf_counter()
    (segment,) = index_segments(root)
    segment.find(keys.take(np.arange(1)))
    opened = time.perf_counter()
    order = np.argsort(keys.high)
    packs, _ = segment.find(keys.take(order))
    assert int((packs >= 0).sum()) == count
    return {"open": opened - start, "find": time.perf_counter() - opened, "read GB": memory()}


def memory() -> float:
    """Return the most memory of this process, mapped pages included, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(count: int, asked: int) -> Row:
    """Return the figures of so many keys, writing and reading each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        row: Row = {"keys": count}
        for work, amount in ((write, count), (read, asked)):
            with ProcessPoolExecutor(1, context) as another:
                row |= another.submit(work, Path(folder), amount).result()
    return row


def main() -> None:
    """Measure three sizes, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run")
    parser.add_argument("--out", type=Path, default=BUILD / "growth.json")
    asked = parser.parse_args()
    scale = 100 if asked.quick else 1
    rows = [measure(int(pairs * 2.5) // scale, ASKED // scale) for pairs in (1_000_000, 10_000_000, 40_000_000)]
    last, first = rows[-1], rows[0]
    for name in ("write", "merge", "open", "find"):
        exponent = math.log(last[name] / first[name]) / math.log(last["keys"] / first["keys"])
        rows.append({"exponent of " + name: exponent})
    bars: list[Bar] = [
        at_most("seconds to open 40M pairs", last["open"], 5),
        at_most("seconds to find a million keys", last["find"], 5),
    ]
    report(asked.out, rows, bars, quick=asked.quick)


if __name__ == "__main__":
    main()
