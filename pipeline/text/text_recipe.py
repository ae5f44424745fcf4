"""What an embedding model's own files say of its texts: a prompt in front, small letters, tokens at the end."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from micropref.cache.errors import BadInput
from micropref.pipeline.options import TemplateName
from micropref.pipeline.sources.pairs import Text
from micropref.pipeline.text.templates import PlainTemplate, Rendered, Template, choose_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """How an embedding model was trained to read a text. Without any of it a text is read as the template writes it."""

    prompt: str = ""
    """What stands in front of every text."""
    lower_case: bool = False
    """Whether texts are made small letters before they are tokenized."""
    ending: bool = False
    """Whether a causal model's tokenizer ends texts as it does by itself, with an end-of-text token for example."""

    def settings(self) -> dict[str, Any]:
        """Return as JSON what changes token ids, where it does: the features id of other backbones stays."""
        found = {"text_prompt": self.prompt, "lower_case": self.lower_case}
        return {name: value for name, value in found.items() if value}


PLAIN_TEXT = TextRecipe()
"""The reading of backbones that are no embedding models."""


@dataclass(frozen=True, slots=True)
class RecipeTemplate:
    """A template whose texts are changed as a recipe says."""

    inner: Template
    """Writes the text."""
    recipe: TextRecipe
    """Changes it."""

    def render(self, prompt: Text, response: Text | None) -> Rendered:
        """Return what the tokenizer takes for the prompt alone (`response` None) or with a response."""
        text = self.inner.render(prompt, response)
        if isinstance(text, str):
            return self._read(self.recipe.prompt + text)
        return self._read(self.recipe.prompt + text[0]), self._read(text[1])

    def settings(self) -> dict[str, Any]:
        """Return the settings of both."""
        return {**self.inner.settings(), **self.recipe.settings()}

    def _read(self, text: str) -> str:
        return text.lower() if self.recipe.lower_case else text


def choose_reading(
    tokenizer: PreTrainedTokenizerBase, name: TemplateName, recipe: TextRecipe, *, date: datetime.date, segments: bool
) -> Template:
    """Return the template of a name for a backbone with a recipe.

    `auto` is plain for a causal embedding model, whose own library reads plain texts whatever its tokenizer carries.
    Raises BadInput where the recipe changes texts and a chat template is asked for.
    """
    own = recipe.ending and not segments
    template = choose_template(tokenizer, "plain" if own and name == "auto" else name, date=date, segments=segments)
    if recipe.lower_case and _ignores_case(tokenizer):  # it does so by itself, and the features id stays what it was
        recipe = replace(recipe, lower_case=False)
    if not recipe.settings():
        return template
    if own and not isinstance(template, PlainTemplate):
        raise BadInput(
            f"template chat: this embedding model's own recipe for texts {recipe.settings()} has no place in a chat "
            "template: use auto, or choose pooling last"
        )
    return RecipeTemplate(template, recipe)


def _ignores_case(tokenizer: PreTrainedTokenizerBase) -> bool:
    words = "The QUICK Brown fox"
    return bool(tokenizer(words)["input_ids"] == tokenizer(words.lower())["input_ids"])


def added_around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that the tokenizer by itself puts in front of a text, and behind it."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next((at for at in range(len(full)) if full[at : at + len(bare)] == bare), 0)
    return tuple(full[:start]), tuple(full[start + len(bare) :])
