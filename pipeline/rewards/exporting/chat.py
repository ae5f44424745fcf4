"""Tokenizer files of an exported folder: a template that renders what the run's backbone read, and a pad token.

transformers reads the reward at the last token that is not padding, so no text may end in the pad token.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput
from micropref.pipeline.options import PINNED_DATE
from micropref.pipeline.rewards.exporting.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLAIN = (
    "{%- if messages | length == 2 and messages[0].role == 'user' and messages[1].role == 'assistant' -%}"
    "{{- messages[0].content + '\\n\\n' + messages[1].content -}}"
    "{%- else -%}"
    "{%- for message in messages -%}"
    "{{- ('' if loop.first else '\\n\\n') + message.role + ': ' + message.content -}}"
    "{%- endfor -%}"
    "{%- endif -%}"
)
"""What the plain template writes of a prompt and a response."""
_DATE_CODES = ("%-d", "%-m", "%A", "%B", "%H", "%I", "%M", "%S", "%Y", "%a", "%b", "%d", "%e", "%j", "%m", "%p", "%y")
_PINNED_CLOCK = (
    "{%- macro strftime_now(format) -%}"
    "{%- set pinned = namespace(text=format) -%}"
    "{%- for code, value in pinned_date.items() -%}"
    "{%- set pinned.text = pinned.text | replace(code, value) -%}"
    "{%- endfor -%}"
    "{{- pinned.text -}}"
    "{%- endmacro %}\n"
)
"""Shadows the function of this name that transformers offers to templates, which reads the clock. It ends its line, so
that the template's own first line is treated as it would be without it."""
_ONLY_HERE = ("backend", "is_local", "local_files_only", "auto_map")
"""Entries of tokenizer_config.json that transformers 4 does not know, or that say where files once lay."""


def exported_template(tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, Any]) -> str:
    """Return a chat template that writes what features of these settings read, date and beginning-of-text included."""
    beginning = str(tokenizer.decode(settings["special_tokens"]))
    if settings["template"] == "plain":
        return _written(beginning) + _PLAIN
    source = tokenizer.get_chat_template()
    date = datetime.date.fromisoformat(settings["date"] or PINNED_DATE)
    pinned = _pinned(source, date)
    if tokenizer.bos_token and not settings["special_tokens"] and "bos_token" in source:
        pinned = "{%- set bos_token = " + json.dumps(tokenizer.bos_token, ensure_ascii=False) + " %}\n" + pinned
    ids = tokenizer(rendered(tokenizer, pinned, "a", "b"), add_special_tokens=False)["input_ids"]
    begins = ids[: len(settings["special_tokens"])] == list(settings["special_tokens"])
    return pinned if begins else _written(beginning) + pinned


def rendered(tokenizer: PreTrainedTokenizerBase, template: str, prompt: str, response: str) -> str:
    """Return the text of a prompt and a response under a chat template."""
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return str(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))


def _written(beginning: str) -> str:
    return "{{- " + json.dumps(beginning, ensure_ascii=False) + " -}}" if beginning else ""


def _pinned(source: str, date: datetime.date) -> str:
    """Return a chat template with today's date, where it asks for it, written inside."""
    front = ""
    if "date_string" in source:
        front += "{%- set date_string = " + json.dumps(date.strftime("%d %b %Y")) + " %}\n"
    if "strftime_now" in source:
        codes = {code: date.strftime(code) for code in _DATE_CODES}
        front += "{%- set pinned_date = " + json.dumps(codes) + " %}\n" + _PINNED_CLOCK
    return front + source


def choose_pad(tokenizer: PreTrainedTokenizerBase, texts: list[str], template: str, known: int | None) -> str:
    """Return the token that texts are padded with: a special one that none of them ends with and no template writes.

    It is one of the `known` ids that the backbone has a vector for (None: all): some tokenizers add a pad token that
    the backbone never saw.

    Raises BadInput where there is none, for then no batch could be read rightly.
    """
    last = {tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in texts}
    ids = tokenizer.get_vocab()
    own = [tokenizer.pad_token, tokenizer.unk_token]
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    ends = [tokenizer.eos_token]
    for token in (*own, *added, *ends):
        if token is None or token == tokenizer.bos_token:
            continue
        written = token in template or (token == tokenizer.eos_token and "eos_token" in template)
        number = ids[token]
        if not written and (known is None or number < known) and number not in last:
            return str(token)
    raise BadInput(
        "the backbone's tokenizer has no special token that its texts do not end with, and one is needed for padding: "
        "add one to the tokenizer and the embedding, and embed with that backbone"
    )


def write_tokenizer(folder: Path, pad: str, template: str, settings: Mapping[str, Any]) -> None:
    """Patch the tokenizer's files in a folder so that transformers 4 and 5 read them alike.

    A beginning-of-text token is named only where the tokenizer adds it by itself: clients such as verl's take it off
    the front of what the template wrote, and leave it to the tokenizer to put it there again.
    """
    changes = {"pad_token": pad, **({} if settings["special_tokens"] else {"bos_token": None})}
    path = folder / "tokenizer_config.json"
    config = {name: value for name, value in read_json(path).items() if name not in _ONLY_HERE}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        **changes,
        "padding_side": "right",
        "truncation_side": "left",
        "model_max_length": settings["max_length"],
        "chat_template": template,
    }
    write_json(path, config)
    special = folder / "special_tokens_map.json"
    if special.is_file():
        named = {**read_json(special), **changes}
        write_json(special, {name: token for name, token in named.items() if token is not None})
    for stale in (*folder.glob("chat_template.*"), *folder.glob("additional_chat_templates/*")):
        stale.unlink()
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
