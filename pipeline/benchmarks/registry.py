"""The benchmarks there are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from micropref.pipeline.benchmarks.facts import Benchmark
from micropref.pipeline.benchmarks.personalized import PERSONALIZED_REWARDBENCH
from micropref.pipeline.benchmarks.rewardbench import REWARDBENCH
from micropref.pipeline.benchmarks.rewardbench2 import REWARDBENCH_2
from micropref.pipeline.benchmarks.rmbench import RM_BENCH
from micropref.pipeline.options import BenchmarkName


@cache
def benchmarks() -> Mapping[BenchmarkName, Benchmark]:
    """Return all benchmarks by name."""
    return {one.name: one for one in (REWARDBENCH, REWARDBENCH_2, RM_BENCH, PERSONALIZED_REWARDBENCH)}
