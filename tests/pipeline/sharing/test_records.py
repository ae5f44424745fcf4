"""What may leave is written down for every record that this version makes."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from micropref.cache.errors import BadInput
from micropref.heads.adaptation.routing_budget import RouteSetting
from micropref.heads.fitting.settings import FitPlan, FitSetting
from micropref.heads.methods.base import MethodOptions
from micropref.pipeline.people.adapt import AdaptOptions
from micropref.pipeline.sharing.records import FIELDS, SETTINGS, check_settings, is_plain, shared_about, shared_run
from tests.support.stores import first_release_store


def test_every_setting_of_a_run_is_known() -> None:
    made = {**asdict(FitSetting("mixture", 3)), **asdict(FitPlan()), **asdict(RouteSetting())}
    made |= dict.fromkeys(field.name for kind in (MethodOptions, AdaptOptions) for field in fields(kind))
    assert set(made) - SETTINGS == {"method"} - SETTINGS
    assert is_plain(made)


def test_records_of_the_first_release_leave_whole(tmp_path: Path) -> None:
    for path in (first_release_store(tmp_path) / "runs").glob("*/run.json"):
        record = json.loads(path.read_text())
        shared = shared_run(record)
        assert shared.left_out == ()
        assert set(record) - set(shared.record) <= {"units", "groups"}
        assert shared_run(shared.record).record == shared.record
        assert set(shared.record) <= FIELDS


def test_a_backbone_is_named_where_anybody_finds_it() -> None:
    def name(about: dict[str, object]) -> object:
        return shared_about(about).record["name"]

    commit = "0123456789" * 4
    assert name({"name": "minilm", "revision": None}) == "minilm"
    assert name({"name": "owner/model", "revision": commit}) == "owner/model"
    assert name({"name": "owner/model", "revision": None}) is None  # a folder may be called so
    assert name({"name": "owner/model", "revision": "main"}) is None
    assert name({"name": "/home/ann/model", "revision": None}) is None


def test_settings_of_features_go_whole_or_not_at_all() -> None:
    check_settings("f", {"max_length": 8, "context_template": "By {context}: /x", "imported": {"backbone": "a/b"}})
    with pytest.raises(BadInput, match="template is 'see /home"):
        check_settings("f", {"template": "see /home"})
    with pytest.raises(BadInput, match="imported"):
        check_settings("f", {"imported": {"backbone": "/home/ann/b"}})
    with pytest.raises(BadInput, match="settings mystery are not known here"):
        check_settings("f", {"mystery": 1})
