"""`Store.embed`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.given import HowToFind, default_name, given_sources
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
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
    SpecialTokens,
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
        name: str | None = None,
        *,
        config: str | None = None,
        from_dir: str | Path | None = None,
        adapter: str | Path | None = None,
        read_split: str | None = None,
        split: str | None = None,
        split_by_prompt: float | None = None,
        backbone: str | Path = MINILM,
        revision: str | None = None,
        pooling: PoolingName = "auto",
        max_length: int | None = None,
        overlong: Overlong = "trim-prompt",
        template: TemplateName = "auto",
        date: str = PINNED_DATE,
        special_tokens: SpecialTokens = "auto",
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
        columns: Mapping[str, str] | None = None,
        attributes: Sequence[str] | None = None,
        on_bad: OnBad = "stop",
        replace: bool = False,
        trust_remote_code: bool = False,
        engine: EngineName = "local",
        workers: int | None = None,
        ray_address: str | None = None,
        recheck: bool = False,
        plan: bool = False,
    ) -> EmbedReport:
        """Turn preference data into vectors, once; what is stored is never computed again.

        Args:
            source: a path, several paths, a data set of the hub such as nvidia/HelpSteer2 or nvidia/HelpSteer2@REVISION
                (a path wins), `-` for standard input, or rows in memory: a list of dicts, or a table of Polars, pandas,
                Arrow or `datasets`. Rows in memory are kept as JSON Lines in the store's folder `sources`.
            name: the data set to embed into; None: the name of the hub's repository.
            config: which config of a data set with several, such as preference for HelpSteer2; None: its first.
            from_dir: folder or file with a copy of the data set of the hub, read in place of the hub's cache.
            adapter: Python file whose function rows(row) makes rows that can be read of each row; it is run.
            read_split: which split of a source is read; None: train and test, where it has both.
            split: what the rows become; None: train, and test what the source itself calls test.
            split_by_prompt: share of prompts that go to test; excludes `split`.
            backbone: `minilm`, `smollm2`, a folder, a .gguf file, or a hub id.
            revision: branch, tag or commit of a hub id.
            pooling: how a text's vector is made of its tokens; auto: an embedding model's own recipe, else the last
                token of a causal model and the mean of an encoder.
            max_length: most tokens of a text; None: the backbone's positions, at most 4096.
            overlong: what happens to a pair that is too long: cut its prompt from the left, or drop it.
            template: how prompt and response are put together; auto: the tokenizer's chat template, else plain.
            date: date passed to chat templates, YYYY-MM-DD.
            special_tokens: special tokens that users typed, such as [SEP] or <|im_start|>, stay text, or keep their
                meaning to the backbone as in the first release; auto: as the data set has it, else text.
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
            columns: the column of a role where its name does not say so, such as {"user": "judge_name"}; an empty name:
                no column has this role.
            attributes: which columns of numbers are ratings; None: those whose names and numbers do not say otherwise.
            on_bad: a row that cannot be used stops the command, or is skipped, counted and kept in the rejects file:
                malformed, refused by the chat template, with a vector that is not finite.
            replace: start the split over with these sources.
            trust_remote_code: run the checkpoint's own Python code.
            engine: this machine, or a Ray cluster that shares the store.
            workers: processes with a backbone each; None: one for each GPU.
            ray_address: head of the Ray cluster; None: found, else a local one.
            recheck: read every byte of checkpoint, sources and stored vectors anew; else large files that did not
                change since they were read are known by path, size, times and inode.
            plan: print what it would cost; forward and write no vectors.

        Returns:
            What was read, embedded and left out.

        Raises:
            BadInput: for rows, names and options that cannot be used, before anything is written.
            Failure: where the disk refuses, or memory is short.

        Example:
            Store("data").embed([{"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}], "mine")

        """
        from micropref.cache.digests import rechecked
        from micropref.pipeline.embedding import embed as stage
        from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
        from micropref.pipeline.show.embed import show_embedding
        from micropref.pipeline.sources.columns import ColumnChoices
        from micropref.pipeline.sources.contexts import contexts_file
        from micropref.pipeline.sources.ingest import SourceOptions

        sentences = None if contexts is None else contexts_file(contexts)
        choices = ColumnChoices(columns or {}, None if attributes is None else tuple(attributes))
        sources = SourceOptions(
            split, split_by_prompt, format, sentences, limit, on_bad, replace, choices, read_split=read_split
        )
        options = EmbedOptions(
            backbone=str(backbone),
            revision=revision,
            pooling=pooling,
            max_length=max_length,
            overlong=overlong,
            template=template,
            date=date,
            special_tokens=special_tokens,
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
        name = default_name(source) if name is None else name
        how = HowToFind(config, _path(from_dir), _path(adapter))
        given = given_sources(source, how, self.folder / "sources", self._announce)
        with rechecked() if recheck else nullcontext():
            report = stage.embed(
                self._store, given, name, sources, options, who, plan_only=plan, announce=self._announce
            )
        return readable(report, show_embedding(report, planned=plan, store=self.folder))


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
