"""Shot sampling on random data sets: nothing learned from is scored, counts nest, and row order decides nothing."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from micropref.pipeline.people.shot_sampling import ShotSample, sample_shots

SEEDS = range(40)


def random_table(seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    rows, prompts, groups = (int(random.integers(*limits)) for limits in ((1, 300), (1, 60), (1, 8)))
    names = [None if group == groups else f"group {group}" for group in range(groups + 1)]
    table = {
        "pair_id": [f"{number:08x}-0" for number in random.permutation(rows)],
        "prompt_id": [f"prompt {number}" for number in random.integers(prompts, size=rows)],
        "user": [names[number] for number in random.integers(groups + 1, size=rows)],
    }
    return pl.DataFrame(table, schema_overrides={"user": pl.String})


def sampled_pairs(table: pl.DataFrame, one: ShotSample) -> list[tuple[str, int, str]]:
    """Return group, rank and pair of every sampled row."""
    return list(zip(one.group, one.rank.tolist(), table["pair_id"].gather(one.row), strict=True))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_no_prompt_of_a_sampled_row_is_scored(seed: int, shared: bool) -> None:
    table = random_table(seed)
    one = sample_shots(table, "user", 1 + seed % 7, seed, shared=shared)
    users, prompts = table["user"].to_list(), table["prompt_id"].to_list()
    taken = {(group, prompts[row]) for group, row in zip(one.group, one.row, strict=True)}
    for user, prompt, scored in zip(users, prompts, one.scored, strict=True):
        if shared:
            assert scored == (prompt not in {taken_prompt for _, taken_prompt in taken})
        else:
            assert scored == (user in one.group and (user, prompt) not in taken)


@pytest.mark.parametrize("seed", SEEDS)
def test_groups_sample_their_own_rows_and_small_groups_are_left_out(seed: int) -> None:
    table, most = random_table(seed), 1 + seed % 7
    one = sample_shots(table, "user", most, seed, shared=False)
    users = table["user"].to_list()
    assert all(users[row] == group for group, row in zip(one.group, one.row, strict=True))
    assert len(set(one.row.tolist())) == len(one.row)
    counts = {user: users.count(user) for user in set(users) - {None}}
    for user, count in counts.items():
        assert one.group.count(user) == (0 if user in one.left_out else most)
        assert (count < most) <= (user in one.left_out)
    assert one.left_out == {user: counts[user] for user in one.left_out}


@pytest.mark.parametrize("seed", SEEDS)
def test_smaller_samples_are_the_beginnings_of_larger_ones(seed: int) -> None:
    table = random_table(seed)
    large, small = (sample_shots(table, "user", most, seed, shared=False) for most in (6, 3))
    begun = [item for item in sampled_pairs(table, large) if item[1] < 3]
    assert begun == [item for item in sampled_pairs(table, small) if item[0] in set(large.group)]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_order_of_rows_decides_nothing_and_the_seed_does(seed: int, shared: bool) -> None:
    table = random_table(seed)
    shuffled = table.sample(fraction=1, shuffle=True, seed=seed)
    one, other = (sample_shots(rows, "user", 3, seed, shared=shared) for rows in (table, shuffled))
    assert sampled_pairs(table, one) == sampled_pairs(shuffled, other)
    assert set(table.filter(pl.Series(one.scored))["pair_id"]) == set(
        shuffled.filter(pl.Series(other.scored))["pair_id"]
    )


def test_a_group_has_the_same_sample_whatever_the_others_are() -> None:
    table = random_table(1)
    alone = table.filter(pl.col("user") == "group 0")
    together = [
        item for item in sampled_pairs(table, sample_shots(table, "user", 4, 0, shared=False)) if item[0] == "group 0"
    ]
    assert together == sampled_pairs(alone, sample_shots(alone, "user", 4, 0, shared=False))
    assert len(together) == 4


def test_another_seed_samples_other_pairs_and_a_prompt_is_used_up_before_the_next() -> None:
    rows = [(f"{n:04d}", f"p{n // 4}", "u") for n in range(400)]
    table = pl.DataFrame(rows, schema=["pair_id", "prompt_id", "user"], orient="row")
    first, second = (sample_shots(table, "user", 40, seed, shared=False) for seed in (0, 1))
    assert set(first.row.tolist()) != set(second.row.tolist())
    assert first.row.tolist() == sample_shots(table, "user", 40, 0, shared=False).row.tolist()
    prompts = table["prompt_id"].gather(first.row).to_list()
    assert [len(set(prompts[at : at + 4])) for at in range(0, 40, 4)] == [1] * 10
    assert len(set(prompts)) == 10
    assert int(first.scored.sum()) == 360


def test_a_group_whose_every_prompt_is_sampled_is_left_out() -> None:
    rows = [("1", "p", "u"), ("2", "p", "u"), ("3", "q", "v"), ("4", "r", "v"), ("5", "p", None)]
    table = pl.DataFrame(rows, schema=["pair_id", "prompt_id", "user"], orient="row")
    alone, shared = (sample_shots(table, "user", 1, 0, shared=flag) for flag in (False, True))
    assert alone.left_out == shared.left_out == {"u": 2}
    assert alone.group == ["v"]
    assert alone.scored.sum() == 1
    assert shared.scored[[0, 1, 4]].all()
    assert shared.scored.sum() == 4


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_rows_of_a_pool_are_sampled_and_the_others_scored(seed: int, shared: bool) -> None:
    table = random_table(seed)
    pool = pl.Series(np.random.default_rng(seed).random(table.height) < 0.6)
    one = sample_shots(table, "user", 2, seed, shared=shared, pool=pool)
    prompts, users = table["prompt_id"].to_list(), table["user"].to_list()
    assert all(pool[int(row)] for row in one.row)
    assert not (one.scored & pool.to_numpy()).any()
    taken = {(None if shared else group, prompts[row]) for group, row in zip(one.group, one.row, strict=True)}
    for row in np.flatnonzero(~pool.to_numpy()):
        free = (None if shared else users[row], prompts[row]) not in taken
        assert one.scored[row] == (free and (shared or users[row] in one.group))
    alone = sample_shots(table.filter(pool), "user", 2, seed, shared=shared)
    both = set(one.group) & set(alone.group)
    pairs = [
        {item for item in sampled_pairs(*of) if item[0] in both} for of in ((table, one), (table.filter(pool), alone))
    ]
    assert pairs[0] == pairs[1]


def test_a_pool_that_is_a_group_s_all_leaves_it_out_and_an_unscored_split_does_not() -> None:
    rows = [("1", "p", "u"), ("2", "q", "u"), ("3", "r", "v"), ("4", "s", "v")]
    table = pl.DataFrame(rows, schema=["pair_id", "prompt_id", "user"], orient="row")
    one = sample_shots(table, "user", 1, 0, shared=False, pool=pl.Series([True, False, True, True]))
    assert (one.group, one.row.tolist(), one.left_out) == (["u"], [0], {"v": 2})
    assert one.scored.tolist() == [False, True, False, False]
