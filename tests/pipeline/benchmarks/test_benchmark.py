"""`eval --benchmark`: rows of every schema through a backbone, by name and from files, and the files of results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner, Result

import micropref
from micropref.cli import app
from micropref.pipeline.benchmarks.registry import benchmarks
from micropref.pipeline.options import BenchmarkName
from tests.conftest import preference_rows
from tests.pipeline.benchmarks.test_rules import scored
from tests.support.benchmark_rows import AREAS, BEST_OF_FOUR, REWARDBENCH_SUBSETS, made_rows

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAMES: tuple[BenchmarkName, ...] = get_args(BenchmarkName)
Evaluate = Callable[..., Result]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[..., Path]) -> micropref.Store:
    """Return a store with a run whose router reads contexts, `mine`, and one whose router reads prompts, `plain`."""
    opened = micropref.Store(tmp_path_factory.mktemp("scored") / "store")
    backbone = tiny_backbone("llama")
    opened.embed(preference_rows(), "mine", backbone=backbone, split_by_prompt=0.3, device="cpu", dtype="float32")
    opened.train("mine", k=2, restarts=1, epochs=3, run_name="mine")
    opened.train("mine", k=2, restarts=1, epochs=3, router_input="prompt", run_name="plain")
    return opened


@pytest.fixture
def evaluate(trained: micropref.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Evaluate:
    """Return `evaluate(run, *words)`: the command `eval`, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(name: str, *words: str | Path) -> Result:
        return CliRunner().invoke(app, ["eval", name, "--store", str(trained.folder), *map(str, words)])

    return run


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def report(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal(result: Result) -> str:
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("micropref: ")]
    return line


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_scorer(name: BenchmarkName, trained: micropref.Store, evaluate: Evaluate,
                                        tmp_path: Path) -> None:  # fmt: skip
    """Every row is scored as the Python scorer does, and its scores are put to the benchmark's rules."""
    rows = made_rows(name)
    source = write(tmp_path / "rows.jsonl", rows)
    shown = trained.benchmark("plain", name, source=source, device="cpu")
    found, text = asdict(shown), repr(shown)
    scorer = trained.run("plain").scorer(device="cpu")
    pairs = []
    for row in rows:
        sides = [side if isinstance(side, list) else [side] for side in (row["chosen"], row["rejected"])]
        rewards = scorer.score(row.get("prompt") or row["question"], [*sides[0], *sides[1]]).rewards
        pairs.append((list(rewards[: len(sides[0])]), list(rewards[len(sides[0]) :])))
    expected = benchmarks()[name].measure(scored(rows, pairs))  # type: ignore[arg-type]
    assert found["overall"] == pytest.approx(expected.overall)
    assert {one["subset"]: one["accuracy"] for one in found["subsets"]} == {
        one.subset: pytest.approx(one.accuracy) for one in expected.subsets
    }
    assert (found["rows"], found["rows_without_reward"], found["without_reward"]) == (len(rows), 0, {})
    assert found["overall_without_them"] == found["overall"]
    assert found["rewarded"] == found["responses"] == sum(len(one) for pair in pairs for one in pair)
    assert f"overall {found['overall']:.4f}" in text
    assert all(one["subset"] in text for one in found["subsets"])
    assert "unlike its own scripts: " in text
    assert ("not the whole benchmark" in text) == (name != "personalized-rewardbench")


def test_every_subset_is_made(tmp_path: Path) -> None:
    for name, subsets in (("rewardbench", REWARDBENCH_SUBSETS), ("rewardbench2", (*BEST_OF_FOUR, "Ties"))):
        measured = benchmarks()[name].measure([]).subsets  # type: ignore[index]
        assert {one.subset for one in measured} == set(subsets) == {row["subset"] for row in made_rows(name)}


def in_hub(hub: Path, repository: str, files: dict[str, list[dict[str, Any]]]) -> None:
    """Put a data set into the hub's cache as it would be after a download."""
    folder = hub / f"datasets--{repository.replace('/', '--')}"
    for name, rows in files.items():
        write(folder / "snapshots" / COMMIT / name, rows)
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text(COMMIT)


def test_by_name_the_hub_s_cache_is_read(evaluate: Evaluate, tmp_path: Path) -> None:
    rows = made_rows("rewardbench")
    in_hub(tmp_path / "hub", "allenai/reward-bench", {
        "data/filtered-00000-of-00001.jsonl": rows, "data/raw-00000-of-00001.jsonl": rows * 2,
    })  # fmt: skip
    done = evaluate("plain", "--benchmark", "rewardbench", "--json")
    assert (report(done)["rows"], report(done)["source"]) == (len(rows), f"allenai/reward-bench@{COMMIT}")
    assert "not read: raw-00000-of-00001.jsonl" in done.stderr
    line = refusal(evaluate("plain", "--benchmark", "rm-bench"))
    assert "THU-KEG/RM-Bench: no such path here, not in the hub's cache" in line
    assert line.endswith("or give a copy with --from DIR")


def test_a_copy_of_rm_bench_is_read_once(evaluate: Evaluate, tmp_path: Path) -> None:
    """Its repository has every row twice: in the whole file and in that of the domain."""
    rows = made_rows("rm-bench")
    write(tmp_path / "data/total_dataset.json", rows)
    chat = write(tmp_path / "data/chat_filtered.json", [row for row in rows if row["domain"] == "chat"])
    done = evaluate("plain", "--benchmark", "rm-bench", "--from", tmp_path / "data", "--json")
    assert report(done)["rows"] == len(rows)
    assert "not read: chat_filtered.json" in done.stderr
    alone = report(evaluate("plain", "--benchmark", "rm-bench", "--from", chat, "--json"))
    assert set(alone["sections"]) == {"chat"}
    assert alone["overall"] is None
    there = sum(row["domain"] == "chat" for row in rows)
    assert alone["missing"] == [f"chat: {there} of 129", "math: 0 of 529", "code: 0 of 228", "safety: 0 of 441"]
    assert "overall unknown" in evaluate("plain", "--benchmark", "rm-bench", "--from", chat).stdout


@pytest.mark.parametrize("card", [True, False])
def test_areas_of_people_are_configs_or_names_of_files(evaluate: Evaluate, tmp_path: Path, card: bool) -> None:
    rows = [{**row, "category": "gardens"} for row in made_rows("personalized-rewardbench")]
    folder = tmp_path / "copy"
    for at, area in enumerate(AREAS):
        write(folder / f"{area}_test.jsonl", rows[at::3])
        write(folder / f"{area}_train.jsonl", rows)
    if card:
        configs = [{"config_name": area, "data_files": [{"split": split, "path": f"{area}_{split}.jsonl"}
                    for split in ("train", "test")]} for area in AREAS]  # fmt: skip
        (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    found = report(evaluate("plain", "--benchmark", "personalized-rewardbench", "--from", folder, "--json"))
    assert {one["subset"]: one["n"] for one in found["subsets"]} == {
        area: len(rows[at::3]) for at, area in enumerate(AREAS)
    }


def test_a_person_s_posts_are_the_context_where_the_run_reads_contexts(evaluate: Evaluate, trained: micropref.Store,
                                                                      tmp_path: Path) -> None:  # fmt: skip
    rows = made_rows("personalized-rewardbench", most=3)
    rows[1]["profile"] = [{"category": "garden", "text": "short"}, {"category": "garden", "text": "long " * 300}]
    rows[2]["profile"] = [{"category": "garden", "text": "long " * 300}]
    source = write(tmp_path / "rows.jsonl", rows)
    asked = ("--benchmark", "personalized-rewardbench", "--from", source)
    result = evaluate("mine", *asked, "-o", tmp_path / "out", "--json")
    found = report(result)
    empty = sum(not row["profile"] for row in rows)
    assert found["profiles"] == {"whole": len(rows) - empty - 2, "cut": 1, "unread": empty + 1}
    assert found["taste"] == {}
    assert any("posts are its context" in line for line in found["differs"])
    scorer = trained.run("mine").scorer(device="cpu")
    average = []
    for at, row in enumerate(rows):
        posts = [] if at == 2 else row["profile"][: 1 if at == 1 else 10]
        told = "\n".join(f"Post {number} (Category: garden):\n{one['text']}" for number, one in enumerate(posts, 1))
        average.append(scorer.score(row["question"], [row["chosen"], row["rejected"]], context=told or None).rewards)
    for area in AREAS:
        some = [one for one, row in zip(average, rows, strict=True) if row["category"].replace(" ", "_") == area]
        text = (tmp_path / f"out/{area.partition('_')[0]}_{found['run']}_pointwise.txt").read_text()
        mean = sum(one[0] or 0 for one in some) / len(some)
        assert f"Avg chosen score:   {mean:.4f}" in text
        assert f"({sum((one[0] or 0) > (one[1] or 0) for one in some)}/{len(some)})" in text
    given = report(evaluate("mine", *asked, "--context", "Prefer the dry answer.", "--json"))
    assert (given["profiles"], given["taste"]) == ({}, {"context": "Prefer the dry answer."})
    plain = report(evaluate("plain", *asked, "--json"))
    assert plain["profiles"] == {}
    assert "profiles were not read, as in its script for reward models" in plain["differs"]


def test_what_has_no_reward_is_wrong_counted_and_named(trained: micropref.Store, tmp_path: Path) -> None:
    rows = made_rows("rewardbench")
    rows[0]["chosen"] = "word " * 600
    source = write(tmp_path / "rows.jsonl", rows)
    shown = trained.benchmark("plain", "rewardbench", source=source, out=tmp_path / "out", device="cpu")
    found, text = asdict(shown), repr(shown)
    assert found["rows_without_reward"] == 1
    assert list(found["without_reward"].values()) == [1]
    first = next(one for one in found["subsets"] if one["subset"] == rows[0]["subset"])
    assert first["without_reward"] == 1
    assert any("counts here as a score that is not a number does there" in line for line in found["differs"])
    scores = json.loads((tmp_path / f"out/eval-set-scores/micropref/{found['run']}.json").read_text())
    assert (scores["scores_chosen"][0], scores["results"][0]) == (None, 0)
    assert "rows with a response that has no reward: 1, counted as wrong" in text
    assert "without a reward: 1 (too long" in text


def test_files_are_those_of_the_packages(evaluate: Evaluate, tmp_path: Path) -> None:
    """The rules give the same figures from the files again."""
    found: dict[str, dict[str, Any]] = {}
    out = tmp_path / "out"
    out.mkdir()
    for name in NAMES:
        source = write(tmp_path / f"{name}.jsonl", made_rows(name))
        found[name] = report(evaluate("plain", "--benchmark", name, "--from", source, "-o", out / name, "--json"))
        assert all(Path(file).is_file() for file in found[name]["files"])
        assert len(found[name]["files"]) == (3 if name == "personalized-rewardbench" else 1 + (name != "rm-bench"))
    run = found["rewardbench"]["run"]
    for name in ("rewardbench", "rewardbench2"):
        grouped = json.loads((out / name / f"eval-set/micropref/{run}.json").read_text())
        subsets = {one["subset"]: one["accuracy"] for one in found[name]["subsets"]}
        about = {"model": f"micropref/{run}", "model_type": "Seq. Classifier", "chat_template": "plain"}
        assert grouped == subsets | about
    pairs = json.loads((out / f"rewardbench/eval-set-scores/micropref/{run}.json").read_text())
    right = [one > two for one, two in zip(pairs["scores_chosen"], pairs["scores_rejected"], strict=True)]
    assert [bool(one) for one in pairs["results"]] == right
    assert pairs["text_chosen"][0] == [
        {"role": "user", "content": "Question 0?"}, {"role": "assistant", "content": "Answer 0."}
    ]  # fmt: skip
    many = json.loads((out / f"rewardbench2/eval-set-scores/micropref/{run}.json").read_text())
    assert set(many) == {"id", "subset", "num_correct", "text", "scores", "results", *about}
    assert many["results"][-1] is None  # as the package has it for Ties
    matrix = json.loads((out / f"rm-bench/total_dataset_{run}.json").read_text())
    assert [set(row) for row in matrix] == [
        {"id", "prompt", "chosen", "rejected", "domain", "score_chosen", "score_rejected"}
    ] * len(matrix)
    easy = [row["score_chosen"][2] > row["score_rejected"][0] for row in matrix if row["domain"] == "chat"]
    assert easy
    assert "secret" not in "".join(path.read_text() for path in (out / NAMES[3]).iterdir())


def test_a_taste_is_that_of_score(evaluate: Evaluate, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", made_rows("rewardbench"))
    asked = ("--benchmark", "rewardbench", "--from", source, "--json", "-o", tmp_path / "out")

    def rewards(*words: str) -> tuple[Any, Any]:
        found = report(evaluate("mine", *asked, *words))
        scores = json.loads((tmp_path / f"out/eval-set-scores/micropref/{found['run']}.json").read_text())
        return found["taste"], scores["scores_chosen"]

    first, second, mixed = (rewards("--weights", words) for words in ("1,0", "0,1", "1,3"))
    assert mixed[0] == {"weights": [1, 3]}
    assert mixed[1] == pytest.approx([0.25 * one + 0.75 * two for one, two in zip(first[1], second[1], strict=True)])
    assert rewards("--attribute", "warm")[0] == {"attribute": "warm"}
    assert "has no weights for user 'nobody'" in refusal(evaluate("mine", *asked[:-3], "--user", "nobody"))
    assert "reads no contexts" in refusal(evaluate("plain", *asked[:-3], "--context", "Be brief."))


REFUSED: list[tuple[BenchmarkName, dict[str, Any], str]] = [
    ("rewardbench", {"prompt": "p", "chosen": "c"}, "found the columns prompt, chosen; expected those of RewardBench"),
    ("rewardbench", {"subset": "alpaca"}, "field 'subset': found the text 'alpaca'; expected one of alpacaeval-easy"),
    ("rewardbench", {"chosen": ["c"]}, "field 'chosen': found a list of 1; expected a text"),
    ("rewardbench", {"prompt": ""}, "field 'prompt': found an empty text"),
    ("rewardbench2", {"chosen": "c"}, "field 'chosen': found the text 'c'; expected a list of texts"),
    ("rewardbench2", {"chosen": ["a", "b"]}, "found a list of 2; expected one right response in the subset Factuality"),
    ("rewardbench2", {"subset": "Chat"}, "expected one of Factuality, Precise IF"),
    ("rewardbench2", {"subset": "Ties", "id": "7"}, "field 'id': found the text '7'; expected ref:N or tied:N"),
    ("rewardbench2", {"subset": "Ties", "id": "tied:7"}, "found a list of 1; expected several right responses"),
    ("rm-bench", {"chosen": ["a", "b"]}, "field 'chosen': found a list of 2; expected a list of 3 texts"),
    ("rm-bench", {"rejected": ["a", 5, "b"]}, "field 'rejected[1]': found the number 5; expected a text"),
    ("rm-bench", {"domain": "law"}, "field 'domain': found the text 'law'; expected one of chat"),
    ("personalized-rewardbench", {"category": "law"}, "field 'category': found the text 'law'; expected one of Art"),
    ("personalized-rewardbench", {"profile": "x"}, "field 'profile': found the text 'x'; expected a list"),
    ("personalized-rewardbench", {"profile": ["x"]}, "field 'profile[0]': found the text 'x'; expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "said"), REFUSED)
def test_other_rows_are_refused_by_line(name: BenchmarkName, change: dict[str, Any], said: str, evaluate: Evaluate,
                                        tmp_path: Path) -> None:  # fmt: skip
    whole = made_rows(name)
    rows = [change] if len(change) == 2 and "prompt" in change else [whole[1], whole[0] | change]
    source = write(tmp_path / "rows.jsonl", rows)
    line = refusal(evaluate("plain", "--benchmark", name, "--from", source))
    assert said in line
    assert f"rows.jsonl:{len(rows)}" in line


def test_what_cannot_be_asked_is_refused(evaluate: Evaluate, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", made_rows("rewardbench"))
    asked = ("--benchmark", "rewardbench", "--from", source)
    assert "--split: no effect with --benchmark" in refusal(evaluate("plain", *asked, "--split", "test"))
    line = refusal(evaluate("plain", "--from", source, "--context", "x"))
    assert "--from, --context: no effect without --benchmark" in line
    assert "rows.jsonl: found a file; expected a folder" in refusal(evaluate("plain", *asked, "-o", source))
    nested = evaluate("plain", *asked, "-o", tmp_path / "no" / "out")
    assert f"there is no folder {tmp_path / 'no'}; make it first" in refusal(nested)
    assert not (tmp_path / "no").exists()
    assert "rows.jsonl; make it first" in refusal(evaluate("plain", *asked, "-o", source / "results"))
    assert "no such file or folder" in refusal(
        evaluate("plain", "--benchmark", "rewardbench", "--from", tmp_path / "x.jsonl")
    )
    (tmp_path / "broken.jsonl").write_text("{\n")
    assert "broken.jsonl:1" in refusal(
        evaluate("plain", "--benchmark", "rewardbench", "--from", tmp_path / "broken.jsonl")
    )
    assert "rewardbench3" in refusal(evaluate("plain", "--benchmark", "rewardbench3"))
    for name in ("one.jsonl", "two.jsonl"):
        write(tmp_path / "twice" / name, made_rows("rewardbench"))
    twice = evaluate("plain", "--benchmark", "rewardbench", "--from", tmp_path / "twice")
    assert "rows repeat an earlier one, and count again" in twice.stderr
    assert "no file is of the benchmark's split filtered: all 2 are read" in twice.stderr
