"""The columns of the store's tables, and the type of the keys that name vectors."""

from __future__ import annotations

import pyarrow as pa

KEY_BYTES = 16
KEY_TYPE = pa.binary(KEY_BYTES)
_TEXT = pa.string()
PAIR_SCHEMA = pa.schema(
    [
        pa.field("data", _TEXT, nullable=False),
        pa.field("split", _TEXT, nullable=False),
        pa.field("part", _TEXT, nullable=False),
        pa.field("pair_id", _TEXT, nullable=False),
        pa.field("prompt_id", _TEXT, nullable=False),
        pa.field("attribute", _TEXT),
        pa.field("context", _TEXT),
        pa.field("user", _TEXT),
        pa.field("prompt", _TEXT, nullable=False),
        pa.field("chosen", _TEXT, nullable=False),
        pa.field("rejected", _TEXT, nullable=False),
        pa.field("margin", pa.float64()),
        pa.field("chosen_id", _TEXT),
        pa.field("rejected_id", _TEXT),
    ]
)
RATING_SCHEMA = pa.schema(
    [
        *(pa.field(name, _TEXT, nullable=False) for name in ("data", "split", "prompt_id", "response_id", "attribute")),
        pa.field("rating", pa.float64(), nullable=False),
    ]
)
KEY_COLUMNS = ("prompt_key", "context_key", "chosen_key", "rejected_key", "chosen_context_key", "rejected_context_key")
LINK_SCHEMA = pa.schema(
    [
        pa.field("pair_id", _TEXT, nullable=False),
        *(pa.field(name, KEY_TYPE) for name in KEY_COLUMNS),
        *(pa.field(name, pa.int32()) for name in ("prompt_tokens", "chosen_tokens", "rejected_tokens")),
        pa.field("trimmed", pa.bool_(), nullable=False),
    ]
)
CONTEXT_SCHEMA = pa.schema([pa.field("context", _TEXT, nullable=False), pa.field("key", KEY_TYPE, nullable=False)])
TEXT_FEATURES = "text_features"
"""Role of the table of a part's text features: pair_id, then one float32 column a feature, chosen less rejected."""
TEXT_FEATURES_VERSION = 1
"""Changes with what the features of a text are; tables of an earlier version are made again."""
