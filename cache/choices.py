"""The choices that options of stored vectors and queries have. Free of numpy, so that `micropref --help` is quick."""

from __future__ import annotations

from typing import Literal

RouterInput = Literal["prompt", "context", "context+prompt", "difference", "context,prompt"]
"""What a router reads: the embedded prompt; the context by itself; context and prompt embedded as one text; that less
the prompt; or the context and the prompt side by side."""
OldJoint = Literal["context+prompt or prompt"]
"""What `context` meant to runs of the first release: context and prompt as one text, or else the prompt."""
RewardInput = Literal["plain", "context"]
"""Behind what responses were embedded: the prompt, or the context and the prompt."""
TableFormat = Literal["table", "json", "csv", "parquet", "md"]
"""How the rows of a query are printed."""
SplitName = Literal["train", "test"]
TRAIN: SplitName = "train"
TEST: SplitName = "test"
"""The split that is scored."""
