"""Plain features of a response's text: what a person would name who says what a head likes.

Words and phrases are English; what is counted of other languages is length, layout, numbers and marks. A feature is a
rate per word where its count would only say how long a text is, and log(1 + count) where a text has a few at most.
Change a feature and TEXT_FEATURES_VERSION with it.

T texts, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl

TEXT, PLAIN = "text", "plain"
"""Columns that patterns are looked for in: the text as it is; in lower case, with straight apostrophes and quotes."""
BLOCK = 1 << 13
"""Texts read at a time: bounds memory to a few copies of them."""


@dataclass(frozen=True)
class TextFeature:
    """One feature of a text."""

    name: str
    """What tables call it."""
    more: str
    """What a head rewards that likes more of it, after "prefers"."""
    less: str
    """What a head rewards that likes less of it."""
    pattern: str = ""
    """Regular expression whose matches are counted; none for features that are made of other counts."""
    per: Literal["text", "word"] = "text"
    """log(1 + matches), or matches per word."""
    source: str = PLAIN
    """Column it is looked for in."""
    against: str = ""
    """Expression whose matches are taken off."""
    rare: bool = False
    """Whether only texts that are not ASCII can have it."""


def _words(*words: str) -> str:
    """Return the pattern of whole words and phrases, in lower case."""
    # ASCII's word ends: those of Unicode are slow, and letters of other scripts are none of these words.
    return rf"(?-u:\b)(?:{'|'.join(words)})(?-u:\b)"


_HEDGES = _words(
    "might", "may", "could", "maybe", "perhaps", "possibly", "probably", "likely", "unlikely", "seems?", "appears?",
    "apparently", "suggests?", "usually", "generally", "typically", "roughly", "somewhat", "it depends", "not sure",
    "i think", "i guess", "i believe", "in some cases", "tends? to", "hesitate",
)  # fmt: skip
_CONNECTIVES = _words(
    "therefore", "thus", "hence", "however", "moreover", "furthermore", "consequently", "nevertheless",
    "nonetheless", "accordingly", "additionally", "regarding", "concerning", "whereas", "whereby", "upon",
    "in addition", "in order to", "in response to", "with respect to", "with regard to", "as such", "shall",
    "one should", "it is recommended", "it is advisable", "it is important", "it should be",
)  # fmt: skip
_INFORMAL = _words(
    r"[a-z]+n't", r"[a-z]+'(?:re|ve|ll|d|m)", "it's", "that's", "there's", "here's", "let's", "what's", "yeah",
    "yep", "nope", "hey", "ok", "okay", "gonna", "wanna", "gotta", "kinda", "sorta", "stuff", "guys", "cool",
    "awesome", "wow", "lol", "haha", "super", "folks", "pretty much", "a bunch of",
)  # fmt: skip
_POLITE = _words(
    "please", "thanks", "thank you", "glad", "happy to", "sorry", "apologi[sz]e", "apologies", "kindly", "welcome",
    "appreciate", "excuse me", "pardon", "my pleasure", "great question", "good question", "hope this helps",
    "of course",
)  # fmt: skip
_REFUSALS = _words(
    r"(?:i|we) (?:can't|cannot|can not|won't|will not|am not able to|am unable to|must decline)", "i'm unable to",
    "i'm not able to", "i'm sorry, but", "i am sorry, but", "as an ai", "as a language model",
    "i don't feel comfortable", "not comfortable", "i do not have (?:access|the ability)",
    "i don't have (?:access|the ability)", "against my",
)  # fmt: skip
_CAUTIONS = _words(
    "caution", "careful", "carefully", "warning", "beware", "watch out", "be aware", "note that", "keep in mind",
    "risks?", "risky", "dangerous", "harmful", "safer", "unsafe", "consult", "seek (?:professional|medical|legal)",
    "professionals?", "specialists?", "not a substitute", "at your own risk", "disclaimer",
)  # fmt: skip
_EMOJI = "[\U0001f300-\U0001faff\u2600-\u27bf\u2b50\u2b55\U0001f1e6-\U0001f1ff]"

FEATURES: tuple[TextFeature, ...] = (
    TextFeature("length", "longer responses", "shorter responses"),
    TextFeature("sentence_length", "longer sentences", "shorter sentences"),
    TextFeature("lists", "lists", "fewer lists", r"(?m)^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]"),
    TextFeature("headings", "headings", "fewer headings", r"(?m)^[ ]{0,3}#{1,6}[ \t]"),
    TextFeature("bold", "bold text", "less bold text", r"\*\*[^*\n]+\*\*"),
    TextFeature("code", "code", "less code", r"```|`[^`\n]+`"),
    TextFeature("numbers", "numbers", "fewer numbers", r"[0-9]+(?:[.,][0-9]+)*", "word"),
    TextFeature("links", "links", "fewer links", r"https?://|www\."),
    TextFeature("questions", "questions", "fewer questions", "[?？]"),
    TextFeature("exclamation", "exclamation marks", "fewer exclamation marks", "[!！]"),
    TextFeature("emoji", "emoji", "fewer emoji", _EMOJI, rare=True),
    TextFeature("hedging", "hedging words (might, perhaps)", "fewer hedging words (might, perhaps)", _HEDGES, "word"),
    TextFeature(
        "formality",
        "formal wording (therefore, however)",
        "informal wording (don't, okay)",
        _CONNECTIVES,
        "word",
        against=_INFORMAL,
    ),
    TextFeature("politeness", "polite words (please, thanks)", "fewer polite words (please, thanks)", _POLITE, "word"),
    TextFeature(
        "first_person",
        "the first person (I, we)",
        "less of the first person (I, we)",
        # Words of a letter are found faster by what stands before them.
        r"(?:\A|[^a-z])(?:i|me|my|mine|we|us|our|ours|myself|ourselves)(?-u:\b)",
        "word",
    ),
    TextFeature(
        "second_person",
        "speaking to the reader (you)",
        "less speaking to the reader (you)",
        _words("you", "your", "yours", "yourself", "yourselves"),
        "word",
    ),
    TextFeature("refusal", "refusals (I can't, as an AI)", "fewer refusals (I can't, as an AI)", _REFUSALS),
    TextFeature("caution", "cautions (careful, consult)", "fewer cautions (careful, consult)", _CAUTIONS, "word"),
    TextFeature("quotations", "quotations", "fewer quotations", r'"[^"\n]{2,}"|«[^»\n]+»|「[^」\n]+」'),
    TextFeature("other_script", "scripts other than Latin", "less of other scripts", r"[\p{L}--\p{Latin}]", rare=True),
)
"""All features, in the order of their columns."""
NAMES = tuple(feature.name for feature in FEATURES)
BY_NAME = {feature.name: feature for feature in FEATURES}


def text_features(texts: pl.Series) -> pl.DataFrame:
    """Return the features of texts: T rows and F float32 columns, in the order of FEATURES."""
    if texts.is_empty():
        return pl.DataFrame(schema=dict.fromkeys(NAMES, pl.Float32))
    return pl.concat(list(_blocks(texts)))


def _blocks(texts: pl.Series) -> Iterator[pl.DataFrame]:
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK].alias(TEXT).to_frame()
        counts = block.with_columns(_plain().alias(PLAIN)).select(TEXT, PLAIN, *_sizes())
        common = counts.with_columns(_count(one).alias(one.name) for one in FEATURES if one.pattern and not one.rare)
        yield _with_rare(common).select(_figure(one).cast(pl.Float32).alias(one.name) for one in FEATURES)


def _plain() -> pl.Expr:
    folded = pl.col(TEXT).str.to_lowercase()
    return folded.str.replace_many(["’", "‘", "“", "”"], ["'", "'", '"', '"'])


def _sizes() -> Iterator[pl.Expr]:
    text = pl.col(TEXT)
    letters = text.str.len_chars()
    yield letters.alias("letters")
    yield (letters != text.str.len_bytes()).alias("beyond_ascii")
    yield text.str.count_matches(r"[^ \t\r\n]+").clip(1).alias("words")
    between = r"(?:[.!?]+[ \t\r\n]+|[。！？]+[ \t\r\n]*|\n[ \t\r\n]*)[^ \t\r\n。！？]"
    yield (text.str.count_matches(between) + 1).alias("sentences")


def _count(feature: TextFeature) -> pl.Expr:
    found = pl.col(feature.source).str.count_matches(feature.pattern).cast(pl.Float64)
    if feature.against:
        found -= pl.col(feature.source).str.count_matches(feature.against).cast(pl.Float64)
    return found


def _with_rare(counts: pl.DataFrame) -> pl.DataFrame:
    """Add the counts that are 0 in ASCII texts without reading these."""
    rare = [one for one in FEATURES if one.rare]
    found = (
        counts.with_row_index("row")
        .filter("beyond_ascii")
        .select("row", *(_count(one).alias(one.name) for one in rare))
    )
    joined = counts.with_row_index("row").join(found, on="row", how="left", maintain_order="left")
    return joined.with_columns(pl.col(one.name).fill_null(0.0) for one in rare)


def _figure(feature: TextFeature) -> pl.Expr:
    if feature.name == "length":
        return pl.col("letters").log1p()
    if feature.name == "sentence_length":
        return (pl.col("words") / pl.col("sentences")).log1p()
    if feature.name == "other_script":
        return pl.col(feature.name) / pl.col("letters").clip(1)
    return pl.col(feature.name) / pl.col("words") if feature.per == "word" else pl.col(feature.name).log1p()
