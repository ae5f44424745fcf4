"""Progress: plain lines in a log file, a bar in a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from micropref.pipeline.progress import progress_bar

ROOT = Path(__file__).parents[2]


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_file_has_plain_lines_every_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar(40_000, "label", "pair", clock) as advance:
        for second in range(1, 41):
            clock.now = 100.0 + second
            advance(1000)
    assert capsys.readouterr().err.splitlines() == [
        "label: 5,000 of 40,000 pairs (12 %), 1,000/s, 35 s left",
        "label: 35,000 of 40,000 pairs (88 %), 1,000/s, 5 s left",
        "label: 40,000 of 40,000 pairs (100 %), 1,000/s",
    ]


def test_what_is_done_soon_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar(20, "training", "epoch", clock) as advance:
        clock.now += 4.9
        advance(20)
    with progress_bar(0, "training", "epoch", clock):
        pass
    assert capsys.readouterr().err == ""


def test_a_total_that_grows_or_is_not_known_is_told_as_far_as_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with progress_bar(None, "embedding", "token", clock) as advance:
        clock.now += 10
        advance(50)
        clock.now += 30
        advance.expect(30_050, "80% tokenized")
        advance(0)
        clock.now += 30
        advance(100)
        clock.now += 30
        advance(100_000)
    assert capsys.readouterr().err.splitlines() == [
        "embedding: 50 tokens, 5/s",
        "embedding: 50 of 30,050 tokens (0 %), 1.2/s, 6 h 40 min left, 80% tokenized",
        "embedding: 150 of 30,050 tokens (0 %), 2.1/s, 3 h 53 min left, 80% tokenized",
        "embedding: 100,150 tokens, 1,002/s, 80% tokenized",
    ]


def test_a_terminal_has_a_bar_that_is_gone_in_the_end() -> None:
    code = (
        "import time\n"
        "from micropref.pipeline.progress import progress_bar\n"
        "with progress_bar(100, 'training', 'epoch') as advance:\n"
        "    for _ in range(3):\n"
        "        time.sleep(0.3); advance(30)\n"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment, check=True, timeout=60)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    text = shown.decode()
    assert "training:" in text
    assert "epochs/s" in text
    assert "\r" in text
