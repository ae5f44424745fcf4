"""The page of a diagnosis says what the command says, with the numbers of each gain."""

from __future__ import annotations

from micropref.pipeline.people.diagnose import Diagnosis, Gain, UnitDiagnosis
from micropref.pipeline.show.page.figures import Charts, Figure, IntervalTable
from micropref.pipeline.show.sections.diagnosed import diagnosis_page

KNOWN = UnitDiagnosis(
    kind="user", units=9, pairs_per_unit=12.0, scored=200, unknown=3, resampled="users × prompts",
    clusters={"users": 9, "prompts": 80}, single_nll=0.69, nobody_nll=0.68, unit_nll=0.5, stranger_nll=0.9,
    over_single=Gain(0.19, 0.1, 0.28), over_nobody=Gain(0.18, None, None), over_stranger=Gain(0.4, 0.3, 0.5),
    worth=0.18, by_count={1: 0.05, 4: 0.12}, beta=0.5, worth_it="yes", more_pairs=0,
)  # fmt: skip


def test_gains_are_drawn_with_their_intervals_and_what_is_not_known_is_said() -> None:
    page = diagnosis_page(Diagnosis("mine", "f", 2, [KNOWN], {"context": "there are none"}))
    assert page.lead[0] == "mine, by user: yes: knowing the user is worth +0.180 nats per pair"
    assert "by context: not known: there are none" in page.lead[1]
    assert any("9 user" in line for line in page.warnings)
    gains, losses, by_count = (part for part in page.sections[0].parts if isinstance(part, Figure))
    assert isinstance(gains.body, IntervalTable)
    ((heading, rows),) = gains.body.groups
    assert heading == "by user, 200 pairs"
    assert [row.text for row in rows] == ["+0.190 (+0.100 to +0.280)", "+0.180", "+0.400 (+0.300 to +0.500)"]
    assert gains.body.bounds[0] <= 0 < 0.5 <= gains.body.bounds[1]
    assert dict(zip(losses.numbers.columns, losses.numbers.rows[0], strict=True))["stranger_nll"] == 0.9
    assert isinstance(by_count.body, Charts)
    assert [(point.x, point.y) for point in by_count.body.charts[0].series[0].points] == [(1, 0.05), (4, 0.12)]


def test_without_pairs_to_learn_from_there_is_no_curve() -> None:
    from dataclasses import replace

    page = diagnosis_page(Diagnosis("mine", "f", 2, [replace(KNOWN, by_count={}, worth_it="no")], {}))
    assert [part.id for part in page.sections[0].parts] == ["gains", "losses"]
    assert page.lead[-1] == "a single reward is enough for this data as it is"
