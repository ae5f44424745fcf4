"""Read folders with transformers alone. Standard input: {"folders", "chats"} as JSON; it prints their logits."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib.metadata import version

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

asked = json.load(sys.stdin)
assert importlib.util.find_spec("micropref") is None, "this environment is to be without micropref"
logits = []
for folder in asked["folders"]:
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"], told
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in asked["chats"]]
    batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
    with torch.inference_mode():
        logits.append(model.eval().float()(**batch).logits.tolist())
print(json.dumps({"logits": logits, "versions": {name: version(name) for name in ("transformers", "torch")}}))
