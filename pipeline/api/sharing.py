"""`Store.pack`, `unpack`, `push` and `pull`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from micropref.pipeline.api.checks import checked
from micropref.pipeline.api.opened import OpenedStore
from micropref.pipeline.api.reports import readable
from micropref.pipeline.api.run import Run
from micropref.pipeline.api.values import run_id

if TYPE_CHECKING:
    from micropref.pipeline.sharing.install import Installed
    from micropref.pipeline.sharing.share import SharedReport


class Sharing(OpenedStore):
    """Runs and vectors for other people, and theirs here."""

    @checked
    def pack(
        self,
        run: str | Run,
        file: str | Path,
        *,
        with_people: bool = False,
        license: str | None = None,  # noqa: A002 - as hubs call it
        plan: bool = False,
    ) -> SharedReport:
        """Write a run as one file for others: its record and heads, and the record of its features.

        It holds no vectors, texts, users or people, no path, host or user name. Names of attributes and contexts that
        are part of the run are told before it is written. The same run makes the same bytes.

        Args:
            run: the run, one of its names, or its id.
            file: pack to write; one that is there is not replaced.
            with_people: weights of people too, under hashes whose key stays in the store.
            license: licence under which it is passed on, such as apache-2.0; None: not stated.
            plan: say what would leave, and write nothing.

        Returns:
            Every file with its columns, what is named in them, and what was left out.

        Raises:
            BadInput: for an unknown run, one that cannot be shared, and a file that is there.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.pack(trained.run, "mine.run")

        """
        from micropref.pipeline.sharing import share as stage
        from micropref.pipeline.sharing.outgoing import SharingOptions
        from micropref.pipeline.show.sharing import show_shared

        options = SharingOptions(with_people=with_people, licence=license, plan=plan)
        report = stage.pack(self._store, run_id(run), Path(file), options, self._announce)
        return readable(report, show_shared(report))

    @checked
    def unpack(self, file: str | Path) -> Installed:
        """Write the run of a pack into this store.

        The run is there whole or not at all; one of the same id that is equal stays as it is. It can be listed, shown,
        scored with, exported and served; what needs its data says so.

        Args:
            file: pack that `pack` wrote.

        Returns:
            What is new, and the backbone that it needs.

        Raises:
            BadInput: for a damaged pack, one that was tampered with, and another run of the same id.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.pack(trained.run, "mine.run")
            Store("elsewhere").unpack("mine.run")

        """
        from micropref.pipeline.sharing import share as stage
        from micropref.pipeline.show.sharing import show_installed

        report = stage.unpack(self._store, Path(file), self._announce)
        return readable(report, show_installed(report, self.folder))

    @checked
    def push(
        self,
        what: str | Run,
        url: str,
        *,
        with_people: bool = False,
        with_texts: bool = False,
        license: str | None = None,  # noqa: A002 - as hubs call it
        public: bool = False,
        plan: bool = False,
    ) -> SharedReport:
        """Send a run, or vectors, to a folder that others read, or to the model hub.

        A URL is one that fsspec opens (file://, s3://, gs://, ...), a folder, or `owner/name` of the hub, where the
        repository is made private. Vectors go out under keys that are hashes of their texts: who embeds the same texts
        reuses them. What is there already is not sent again; the list that makes it complete comes last.

        Args:
            what: the run, one of its names, or its id; `features:ID` for vectors, `features` where there are only one.
            url: where to.
            with_people: as in `pack`.
            with_texts: the texts and pairs of the vectors too; never users.
            license: licence under which it is published; needed where others read it and that of its data or backbone
                is not known.
            public: make the hub's repository public.
            plan: list every file and column that would leave, and send nothing.

        Returns:
            Every file with its columns, the hub's revision, what was left out.

        Raises:
            BadInput: for what is unknown, a missing licence, and a place that holds something else.
            Failure: where the place refuses; the same call goes on.

        Example:
            store = Store("data")
            trained = store.train("mine", k=5)
            store.push(trained.run, "file:///tmp/shared", plan=True)

        """
        from micropref.pipeline.sharing import share as stage
        from micropref.pipeline.sharing.outgoing import SharingOptions
        from micropref.pipeline.show.sharing import show_shared

        options = SharingOptions(with_people, with_texts, license, plan)
        report = stage.push(self._store, run_id(what), url, options, self._announce, public=public)
        return readable(report, show_shared(report))

    @checked
    def pull(self, url: str, *, revision: str | None = None) -> Installed:
        """Write what was pushed into this store: a run, or vectors, with their pairs where these were sent.

        Every file is checked against its digest; what is here already is not fetched again.

        Args:
            url: where from, as in `push`; `owner/name@revision` on the hub.
            revision: branch, tag or commit of the hub; None: the newest, which is recorded.

        Returns:
            What is new, and the revision.

        Raises:
            BadInput: where nothing was pushed there, for what is damaged, and another thing of the same id.
            Failure: where the place refuses; the same call goes on.

        """
        from micropref.pipeline.sharing import share as stage
        from micropref.pipeline.show.sharing import show_installed

        report = stage.pull(self._store, url, revision, self._announce)
        return readable(report, show_installed(report, self.folder))

    def shared_name(self, person: str) -> str:
        """Return what a person is called in what this store shares with people: a hash by the store's own key."""
        from micropref.pipeline.sharing.people import person_hash, sharing_key

        return person_hash(sharing_key(self._store), person)
