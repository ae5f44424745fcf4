"""Read a folder with sentence-transformers alone. Standard input: {"folder", "pairs", "query", "documents"} as JSON."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version

from sentence_transformers import CrossEncoder

asked = json.load(sys.stdin)
assert importlib.util.find_spec("micropref") is None, "this environment is to be without micropref"
model = CrossEncoder(asked["folder"], device="cpu")
ranked = model.rank(asked["query"], asked["documents"])
found = {
    "scores": model.predict([tuple(pair) for pair in asked["pairs"]]).tolist(),
    "ranking": [{"at": int(one["corpus_id"]), "score": float(one["score"])} for one in ranked],
    "versions": {name: version(name) for name in ("sentence-transformers", "transformers", "torch")},
}
print(json.dumps(found))
