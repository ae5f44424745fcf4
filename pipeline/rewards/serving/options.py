"""Options of `serve`."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field
from pathlib import Path

from micropref.cache.errors import BadInput, cannot_read
from micropref.pipeline.rewards.scoring.options import BackboneOptions

SHORTEST_TOKEN = 16
"""Characters of a token at least."""


@dataclass(frozen=True)
class ServeOptions:
    """Where and how a run is served."""

    host: str = "127.0.0.1"
    """Address to listen at."""
    port: int = 8000
    """Port to listen at; 0: one that is free."""
    token_file: Path | None = None
    """File whose one line every request has to bring; needed beyond this machine."""
    feedback: Path | None = None
    """SQLite file of people's choices; None: in the run's folder."""
    strength: float | None = None
    """s² of shrunk: how far choices may move a person's weights; None: chosen on validation users."""
    backbone: BackboneOptions = field(default_factory=BackboneOptions)
    """How the backbone is loaded."""
    queue: int = 2048
    """Responses that may wait."""
    timeout: float = 60.0
    """Seconds that a request may take."""
    body_mb: float = 16.0
    """Size of a request's body at most, in MB."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise BadInput(f"port is {self.port}: expected 0 to 65535")
        if self.queue < 1:
            raise BadInput(f"queue is {self.queue}: expected at least 1")
        for name in ("timeout", "body_mb"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} is {value}: expected a number above 0")

    def token(self) -> str | None:
        """Return the token; None: none is needed. Raises BadInput where one is, or the file holds none."""
        if self.token_file is None:
            if not is_loopback(self.host):
                raise BadInput(
                    f"host is {self.host}: whoever reaches this machine could read and change people's weights; give "
                    "a `token_file`, or listen at 127.0.0.1"
                )
            return None
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except UnicodeDecodeError:
            raise BadInput(f"{self.token_file}: found other than ASCII; expected one line of it") from None
        except OSError as error:
            raise cannot_read(self.token_file, error) from error
        if len(token) < SHORTEST_TOKEN or any(letter.isspace() for letter in token):
            raise BadInput(
                f"{self.token_file}: found {len(token)} characters; expected one line of at least {SHORTEST_TOKEN}, "
                "such as `openssl rand -hex 32` gives"
            )
        return token


def is_loopback(host: str) -> bool:
    """Say whether a name or address is this machine's own, which no other reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
