"""`Store.import_vectors`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.vector_tables import as_vector_paths
from micropref.pipeline.options import ImportShape, OnBad, StoreDtype

if TYPE_CHECKING:
    from micropref.pipeline.embedding.import_vectors import ImportReport


class Importing(OpenedStore):
    """Vectors that were made elsewhere."""

    @checked
    def import_vectors(
        self,
        source: Any,
        name: str,
        *,
        backbone_name: str,
        settings: Mapping[str, object] | None = None,
        split: str | None = None,
        split_by_prompt: float | None = None,
        format: ImportShape = "auto",  # noqa: A002 - the command's name for it
        store_dtype: StoreDtype = "auto",
        limit: int | None = None,
        columns: Mapping[str, str] | None = None,
        on_bad: OnBad = "stop",
        replace: bool = False,
    ) -> ImportReport:
        """Make a data set of preference pairs whose vectors you already have, from any model or API.

        A row is a pair: its texts in the columns that `embed` reads, and FLOAT[D] columns `prompt_vector` (of the
        prompt), `chosen_vector` and `rejected_vector` (of the prompt with the response) and, where rows have a context,
        `context_only_vector` (of the context by itself, which routers read) or `context_vector` (of the context with
        the prompt). Columns `prompt_id`, `chosen_id` and `rejected_id` may stand for the texts.

        Args:
            source: a Parquet file or folder, several, or rows in memory: a list of dicts, or a table of Polars, pandas,
                Arrow or `datasets`. Rows in memory are kept as Parquet in the store's folder `sources`.
            name: the data set to import into.
            backbone_name: what made the vectors; with `settings`, width and store dtype it makes the features id.
            settings: what else tells these vectors from others of that backbone, such as pooling.
            split: split of every row; None: train.
            split_by_prompt: share of prompts that go to test; excludes `split`.
            format: shape of the texts; auto: recognised.
            store_dtype: in which numbers vectors are stored; auto: float16 where all are float16, else float32.
            limit: rows read of each source.
            columns: as in `embed`.
            on_bad: whether a malformed row stops, or is set aside and counted.
            replace: start the split over with these sources.

        Returns:
            What was read, stored and left out.

        Raises:
            BadInput: for rows, vectors and names that cannot be used, before anything is written.
            Failure: where the disk refuses.

        Example:
            from numpy.random import default_rng
            row = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
            vectors = default_rng(0).normal(size=(3, 8)).astype("float32")
            row |= dict(zip(["prompt_vector", "chosen_vector", "rejected_vector"], vectors))
            Store("data").import_vectors([row], "imported", backbone_name="my-8b")

        """
        from micropref.pipeline.embedding import import_vectors as stage
        from micropref.pipeline.show.embed import show_import
        from micropref.pipeline.sources.columns import ColumnChoices
        from micropref.pipeline.sources.ingest import SourceOptions

        choices = ColumnChoices(columns or {})
        sources = SourceOptions(split, split_by_prompt, format, None, limit, on_bad, replace, choices)
        record = {str(key): str(value) for key, value in (settings or {}).items()}
        options = stage.ImportOptions(backbone_name, record, store_dtype)
        paths = as_vector_paths(source, self.folder / "sources")
        report = stage.import_vectors(self._store, paths, name, sources, options, announce=self._announce)
        return readable(report, show_import(report, self.folder))
