"""`Store.embed`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.rows import as_paths
from micropref.pipeline.options import (
    CONTEXT_TEMPLATE,
    MINILM,
    PINNED_DATE,
    DeviceName,
    EmbedDtype,
    EngineName,
    OnBad,
    Overlong,
    PassName,
    PoolingName,
    Responses,
    Shape,
    StoreDtype,
    TemplateName,
)

if TYPE_CHECKING:
    from micropref.pipeline.embedding.report import EmbedReport


class Embedding(OpenedStore):
    """Preference data becomes vectors."""

    @checked
    def embed(
        self,
        source: Any,
        name: str,
        *,
        split: str | None = None,
        split_by_prompt: float | None = None,
        backbone: str | Path = MINILM,
        revision: str | None = None,
        pooling: PoolingName = "auto",
        max_length: int | None = None,
        overlong: Overlong = "trim-prompt",
        template: TemplateName = "auto",
        date: str = PINNED_DATE,
        contexts: str | Path | None = None,
        context_template: str = CONTEXT_TEMPLATE,
        responses: Responses = "plain",
        format: Shape = "auto",  # noqa: A002 - the command's name for it
        dtype: EmbedDtype = "auto",
        store_dtype: StoreDtype = "auto",
        device: DeviceName = "auto",
        pass_: PassName = "auto",  # noqa: S107 - no password
        tokens_per_batch: int | None = None,
        limit: int | None = None,
        on_bad: OnBad = "stop",
        replace: bool = False,
        trust_remote_code: bool = False,
        engine: EngineName = "local",
        workers: int | None = None,
        ray_address: str | None = None,
        plan: bool = False,
    ) -> EmbedReport:
        """Turn preference data into vectors, once; what is stored is never computed again.

        Args:
            source: a path, several paths, or rows in memory: a list of dicts, or a table of Polars, pandas, Arrow or
                `datasets`. Rows in memory are kept as JSON Lines in the store's folder `sources`.
            name: the data set to embed into.
            split: split of every row; None: train.
            split_by_prompt: share of prompts that go to test; excludes `split`.
            backbone: `minilm`, `smollm2`, a folder, a .gguf file, or a hub id.
            revision: branch, tag or commit of a hub id.
            pooling: how a text's vector is made of its tokens; auto: as the backbone's files say, else the last token.
            max_length: most tokens of a text; None: the backbone's positions, at most 4096.
            overlong: what happens to a pair that is too long: cut its prompt from the left, or drop it.
            template: how prompt and response are put together; auto: the tokenizer's chat template, else plain.
            date: date passed to chat templates, YYYY-MM-DD.
            contexts: JSON file that maps each attribute to a context sentence or a list of them; helpsteer2: the one
                that comes with the package.
            context_template: how context and prompt are put together.
            responses: embed responses after the prompt (plain), after context and prompt (context), or both.
            format: shape of the rows; auto: recognised.
            dtype: compute dtype of the backbone; auto: bfloat16 where the hardware is fast at it, else float32.
            store_dtype: dtype of stored vectors; auto: float16 for 16-bit compute, else float32.
            device: where the backbone computes.
            pass_: read each distinct prefix once (tree), each text once without padding (packed), or padded batches.
            tokens_per_batch: tokens of a batch, padding included; None: what the device's memory holds.
            limit: rows to read of each source; None: all.
            on_bad: a malformed row stops the command, or is skipped, counted and kept in the rejects file.
            replace: start the split over with these sources.
            trust_remote_code: run the checkpoint's own Python code.
            engine: this machine, or a Ray cluster that shares the store.
            workers: processes with a backbone each; None: one for each GPU.
            ray_address: head of the Ray cluster; None: found, else a local one.
            plan: print what it would cost; forward and write no vectors.

        Returns:
            What was read, embedded and left out.

        Raises:
            BadInput: for rows, names and options that cannot be used, before anything is written.
            Failure: where the disk refuses, or memory is short.

        Example:
            Store("data").embed([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], "mine")

        """
        from micropref.pipeline.embedding import embed as stage
        from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
        from micropref.pipeline.show.embed import show_embedding
        from micropref.pipeline.sources.contexts import contexts_file
        from micropref.pipeline.sources.ingest import SourceOptions

        sentences = None if contexts is None else contexts_file(contexts)
        sources = SourceOptions(split, split_by_prompt, format, sentences, limit, on_bad, replace)
        options = EmbedOptions(
            backbone=str(backbone),
            revision=revision,
            pooling=pooling,
            max_length=max_length,
            overlong=overlong,
            template=template,
            date=date,
            context_template=context_template,
            responses=responses,
            dtype=dtype,
            store_dtype=store_dtype,
            device=device,
            packing=pass_,
            tokens_per_batch=tokens_per_batch,
            trust_remote_code=trust_remote_code,
        )
        who = EngineOptions(engine, workers, ray_address)
        paths = as_paths(source, self.folder / "sources")
        report = stage.embed(self._store, paths, name, sources, options, who, plan_only=plan, announce=self._announce)
        return readable(report, show_embedding(report, planned=plan, store=self.folder))
