"""`Store.embed`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
    from micropref.pipeline.embedding.embed_report import EmbedReport
    from micropref.pipeline.sources.locations import Given


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
        from micropref.cache.memory import rechecked
        from micropref.pipeline.embedding.finished import finished_before, request_of
        from micropref.pipeline.show.embed import show_embedding
        from micropref.pipeline.sources.contexts import contexts_file

        parameters = inspect.signature(Embedding.embed).parameters
        arguments = {one: value for one, value in locals().items() if one in parameters and one != "self"}
        name = default_name(source) if name is None else name
        how = HowToFind(config, _path(from_dir), _path(adapter))
        given = given_sources(source, how, self.folder / "sources", self._announce)
        certain = not (plan or replace or engine != "local")
        sentences = None if contexts is None else contexts_file(contexts)
        request = request_of(self._store, given, sentences, arguments | {"name": name}) if certain else None
        with rechecked() if recheck else nullcontext():
            known = None if request is None else finished_before(self._store, name, request)
            if known is not None:
                for line in known.lines:
                    self._announce(line)
                report = known.report
            else:
                report = self._embed_now(given, name, arguments | {"contexts": sentences}, request)
        return readable(report, show_embedding(report, planned=plan, store=self.folder))

    def _embed_now(
        self, given: Sequence[Given], name: str, arguments: Mapping[str, Any], request: str | None
    ) -> EmbedReport:
        """Embed sources that were found, and remember under `request` if there was nothing to do."""
        from micropref.pipeline.embedding.finished import Finished, remember_finished, state_of

        said: list[str] = []

        def tell(line: str) -> None:
            said.append(line)
            self._announce(line)

        if request is None:
            return self._embed(given, name, arguments, self._announce)
        before = state_of(self._store, name)
        report = self._embed(given, name, arguments, tell)
        remember_finished(self._store, name, request, before, Finished(report, tuple(said)))
        return report

    def _embed(
        self, given: Sequence[Given], name: str, asked: Mapping[str, Any], announce: Callable[[str], None]
    ) -> EmbedReport:
        """Embed sources that were found, by the arguments of `embed`."""
        from micropref.pipeline.embedding import embed as stage
        from micropref.pipeline.forwarding.options import EmbedOptions, EngineOptions
        from micropref.pipeline.sources.columns import ColumnChoices
        from micropref.pipeline.sources.ingest import SourceOptions

        attributes = asked["attributes"]
        sources = SourceOptions(
            asked["split"],
            asked["split_by_prompt"],
            asked["format"],
            asked["contexts"],
            asked["limit"],
            asked["on_bad"],
            asked["replace"],
            ColumnChoices(asked["columns"] or {}, None if attributes is None else tuple(attributes)),
            read_split=asked["read_split"],
        )
        same = (
            *("revision", "pooling", "max_length", "overlong", "template", "date", "special_tokens"),
            *("context_template", "responses", "dtype", "store_dtype", "device", "tokens_per_batch"),
            "trust_remote_code",
        )
        options = EmbedOptions(
            backbone=str(asked["backbone"]), packing=asked["pass_"], **{name: asked[name] for name in same}
        )
        who = EngineOptions(asked["engine"], asked["workers"], asked["ray_address"])
        return stage.embed(self._store, given, name, sources, options, who, plan_only=asked["plan"], announce=announce)


def _path(value: str | Path | None) -> Path | None:
    return None if value is None else Path(value)
