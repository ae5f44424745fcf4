"""An embedding model's own recipe: against sentence-transformers where it is installed, and against plain products."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.normalizers import Lowercase
from transformers import AutoModel, AutoTokenizer

from micropref.cache.errors import BadInput
from micropref.pipeline.backbone.backbone import Backbone
from micropref.pipeline.backbone.recipe import choose_recipe
from micropref.pipeline.forwarding.passes import PackedPass
from micropref.pipeline.sources.pairs import Origin, PreferencePair
from micropref.pipeline.text.tokenizer import Tokenizing
from tests.support.backbones import CHAT_TEMPLATE, save_tiny_backbone
from tests.support.embedding_models import save_embedding_model

PROMPTS = ["Name a river.", "Tell me more, and more, and ever more of it.", "A", "Zürich?"]
ANSWERS = ["Po.", "Rhine, Rhône", "no", "Here: a LONGER answer"]
MODES = {
    "cls": {"pooling_mode_cls_token": True},
    "mean": {"pooling_mode_mean_tokens": True},
    "last": {"pooling_mode_lasttoken": True},
    "max": {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": False},
    "mean_sqrt_len": {"pooling_mode_mean_sqrt_len_tokens": True},
    "weightedmean": {"pooling_mode_weightedmean_tokens": True},
    "max+mean": {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True},
    "cls+last": {"pooling_mode": ["cls", "lasttoken"]},
}
FORMS: dict[str, dict[str, Any]] = {
    **{mode: {"pooling": pooling} for mode, pooling in MODES.items()},
    "not normalized": {"normalize": False},
    "prompt": {"prompts": {"prompts": {"query": "Instruct: find it\nQuery: "}, "default_prompt_name": "query"}},
    "prompt of nobody": {"prompts": {"prompts": {"query": "Query: "}, "default_prompt_name": None}},
    "small letters": {"lower_case": True},
    "chat template": {"chat_template": CHAT_TEMPLATE},
}


def ours(folder: Path, **options: Any) -> tuple[Backbone, torch.Tensor, torch.Tensor]:
    """The vectors of the prompts, and of prompts with answers, as `embed` makes them."""
    backbone = Backbone.load(str(folder), dtype="float32", device="cpu", **options)
    pairs = [
        PreferencePair(prompt=prompt, chosen=answer, rejected=answer + "!", origin=Origin("pairs.jsonl", row))
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True), start=1)
    ]
    made = backbone.pair_tokenizer(Tokenizing(max_length=backbone.max_length)).encode(pairs)
    vectors = torch.empty(len(made.texts), backbone.width)
    for batch in PackedPass(backbone, share=backbone.causal).run(made.texts, [0] * len(made.texts)):
        vectors[batch.places] = batch.vectors
    return backbone, vectors[made.prompt], vectors[made.chosen]


def by_hand(folder: Path, texts: list[Any], mode: str, *, normalize: bool = True) -> torch.Tensor:
    """Each text as the tokenizer makes it, through the stock model, pooled by plain sums."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        inputs = tokenizer(*((text,) if isinstance(text, str) else text), return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**inputs).last_hidden_state[0].double()
        place = torch.arange(1, len(hidden) + 1, dtype=torch.float64)[:, None]
        parts = {
            "cls": hidden[0], "last": hidden[-1], "mean": hidden.sum(0) / len(hidden), "max": hidden.amax(0),
            "mean_sqrt_len": hidden.sum(0) / len(hidden) ** 0.5, "weightedmean": (hidden * place).sum(0) / place.sum(),
        }  # fmt: skip
        vector = torch.cat([parts[one] for one in mode.split("+")])
        rows.append(vector / vector.square().sum().sqrt() if normalize else vector)
    return torch.stack(rows).float()


@pytest.mark.parametrize("kind", ["qwen2", "bert"])
@pytest.mark.parametrize("mode", MODES)
def test_texts_end_and_are_pooled_as_the_files_say(tmp_path: Path, kind: str, mode: str) -> None:
    folder = save_embedding_model(tmp_path, kind, pooling=MODES[mode])
    backbone, prompts, chosen = ours(folder)
    assert (backbone.pooling.mode, backbone.width) == (mode, 32 * len(mode.split("+")))
    torch.testing.assert_close(prompts, by_hand(folder, PROMPTS, mode), rtol=1e-4, atol=1e-5)
    both = list(zip(PROMPTS, ANSWERS, strict=True))
    texts = both if kind == "bert" else ["\n\n".join(pair) for pair in both]
    torch.testing.assert_close(chosen, by_hand(folder, texts, mode), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["qwen2", "bert"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_vectors_are_those_of_sentence_transformers(tmp_path: Path, kind: str, form: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = save_embedding_model(tmp_path, kind, **FORMS[form])
    theirs = library.SentenceTransformer(str(folder), device="cpu")
    _, prompts, chosen = ours(folder)
    np.testing.assert_allclose(prompts, theirs.encode(PROMPTS), atol=1e-4)
    if kind != "bert":  # of an encoder it embeds no pairs
        texts = ["\n\n".join(pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
        np.testing.assert_allclose(chosen, theirs.encode(texts), atol=1e-4)


def test_the_recipe_in_words(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, lower_case=True, **FORMS["prompt"])
    assert choose_recipe("auto", folder, causal=True).describe() == (
        "last pooling, vectors of length 1, texts end as its tokenizer ends them, small letters, "
        "'Instruct: find it\\nQuery: ' in front of each text"
    )


def test_pooling_by_name_is_that_and_nothing_else(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, lower_case=True, **FORMS["prompt"])
    backbone, prompts, _ = ours(folder, pooling="last")
    assert not backbone.recipe.own
    bare = save_tiny_backbone(tmp_path / "bare", "qwen2")
    torch.testing.assert_close(prompts, ours(bare)[1])


@pytest.mark.parametrize("kind", ["qwen2", "bert"])
def test_settings_of_what_the_first_release_did_too_are_what_they_were(tmp_path: Path, kind: str) -> None:
    folder = save_embedding_model(tmp_path, kind, pooling=MODES["mean"], lower_case=False)
    backbone = Backbone.load(str(folder), dtype="float32", device="cpu")
    settings = backbone.pair_tokenizer(Tokenizing(max_length=64, special_tokens="keep")).settings()
    old = {"template", "special_tokens", "max_length", "overlong", "context_template"}
    assert set(settings) == (old if kind == "bert" else old | {"special_tokens_behind"})
    assert set(backbone.settings()) == {"checkpoint", "tokenizer", "pooling", "dtype", "trust_remote_code"}


def test_small_letters_are_no_setting_where_the_tokenizer_ignores_case(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, "bert", pooling=MODES["mean"], lower_case=True)

    def settings() -> dict[str, Any]:
        backbone = Backbone.load(str(folder), dtype="float32", device="cpu")
        return backbone.pair_tokenizer(Tokenizing(max_length=64)).settings()

    assert settings()["lower_case"] is True
    lower = AutoTokenizer.from_pretrained(folder)
    lower.backend_tokenizer.normalizer = Lowercase()
    lower.save_pretrained(folder)
    assert "lower_case" not in settings()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": "{"}, r"modules\.json: cannot be read as the modules .*JSONDecodeError"),
        ({"modules.json": '{"a": 1}'}, r"modules\.json: cannot be read as the modules"),
        ({"1_Pooling/config.json": '{"pooling_mode": "median"}'}, r"found median pooling; auto pooling knows"),
        (
            {"config_sentence_transformers.json": '{"default_prompt_name": "query"}'},
            "has no prompt of its default name",
        ),
        (
            {
                "1_Pooling/config.json": '{"pooling_mode": "mean", "include_prompt": false}',
                "config_sentence_transformers.json": '{"default_prompt_name": "q", "prompts": {"q": "Q: "}}',
            },
            "found pooling that leaves its prompt out",
        ),
    ],
)
def test_files_that_cannot_be_followed_are_one_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    folder = save_embedding_model(tmp_path)
    for name, text in files.items():
        (folder / name).write_text(text)
    for causal in (True, False):
        with pytest.raises(BadInput, match=message) as caught:
            choose_recipe("auto", folder, causal=causal)
        assert "\n" not in str(caught.value)
        assert choose_recipe("mean", folder, causal=causal).pooling.settings() == {"mode": "mean", "normalize": False}


def test_other_modules_are_named(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, more=("Dense",))
    with pytest.raises(BadInput, match="found a Dense module"):
        Backbone.load(str(folder))


def test_a_prompt_has_no_place_in_a_chat_template(tmp_path: Path) -> None:
    folder = save_embedding_model(tmp_path, chat_template=CHAT_TEMPLATE, **FORMS["prompt"])
    backbone = Backbone.load(str(folder), dtype="float32", device="cpu")
    with pytest.raises(BadInput, match=r"template chat: this embedding model's own recipe for texts .*'Instruct"):
        backbone.pair_tokenizer(Tokenizing(max_length=64, template="chat"))
