"""`Store.report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from micropref.cache.choices import TEST
from micropref.cache.errors import BadInput
from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.values import run_id

if TYPE_CHECKING:
    from micropref.pipeline.show.report import Reported


class Reporting(OpenedStore):
    """Pages to look at."""

    @checked
    def report(
        self,
        runs: str | Run | Sequence[str | Run],
        *,
        out: str | Path = "report.html",
        data: str | None = None,
        split: str = TEST,
    ) -> Reported:
        """Write one page about runs: what each head likes, where the mixture helps, what is noise, pairs to read.

        The page is one file that asks for nothing from anywhere. Several runs are compared first, on the pairs that
        all of them have scores for. Runs that were not evaluated on the split are, which the store keeps.

        Args:
            runs: a run, one of its names, or its id; or several, compared in this order.
            out: file to write; it replaces an earlier page of ours, and no other file.
            data: data set; None: each run's own.
            split: split to report on.

        Returns:
            Where the page is, and what it tells of.

        Raises:
            BadInput: for unknown names, a split without scored pairs, and a file that is no page of ours.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.report(trained.run, out="mine.html")

        """
        from micropref.cache.runs.names import find_run, holds_heads

        wanted = [run_id(one) for one in ([runs] if isinstance(runs, str | Run) else runs)]
        if not wanted:
            raise BadInput("runs is empty: expected one or more")
        ids = list(dict.fromkeys(find_run(self._store, one, holds_heads).id for one in wanted))
        from micropref.pipeline.evaluation.reporting.pairs import ROOM
        from micropref.pipeline.evaluation.reporting.run_report import gather_run
        from micropref.pipeline.show.page.figures import Figure
        from micropref.pipeline.show.page.file import check_page_file, write_page
        from micropref.pipeline.show.report import Reported, show_reported
        from micropref.pipeline.show.sections.report import report_page

        path = Path(out)
        check_page_file(path)
        found = []
        for one in ids:
            self._announce(f"run {one}: reading its tables and scores")
            found.append(gather_run(self._store, one, data, split, room=ROOM // len(ids)))
        page = report_page(found)
        size = write_page(path, page)
        parts = [part for section in page.sections for part in section.parts]
        reported = Reported(
            path=str(path),
            runs=ids,
            data=[f"{one.tables.data}/{one.tables.split}" for one in found],
            pairs=[one.tables.pairs for one in found],
            figures=sum(isinstance(part, Figure) for part in parts),
            bytes=size,
        )
        return readable(reported, show_reported(reported))
