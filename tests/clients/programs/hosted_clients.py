"""What clients of hosted services make of a server. Standard input: {"url", "query", "documents", "texts", "user"}."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version

import cohere
import openai

asked = json.load(sys.stdin)
found = {"versions": {name: version(name) for name in ("cohere", "openai")}}
ranked = cohere.ClientV2(api_key="none", base_url=asked["url"]).rerank(
    model="micropref", query=asked["query"], documents=asked["documents"], top_n=2
)
found["rerank"] = [[one.index, one.relevance_score] for one in ranked.results]
if asked["texts"]:
    client = openai.OpenAI(api_key="none", base_url=f"{asked['url']}/v1", max_retries=0)
    answer = client.embeddings.create(
        model="micropref", input=asked["texts"], user=asked["user"], encoding_format="float"
    )
    found["embeddings"] = [one.embedding for one in answer.data]
print(json.dumps(found))
