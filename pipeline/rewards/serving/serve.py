"""`serve`: a run behind HTTP until it is told to stop."""

from __future__ import annotations

import math
import signal
import threading
from contextlib import suppress
from typing import Any

from micropref.cache.errors import BadInput
from micropref.cache.maintenance.uses import holds
from micropref.cache.runs.names import find_run
from micropref.cache.store import StoreFolder
from micropref.pipeline.progress import Announce
from micropref.pipeline.rewards.people.feedback_file import FILE
from micropref.pipeline.rewards.serving.options import ServeOptions


@holds(run="run_id")
def serve(store: StoreFolder, run_id: str, options: ServeOptions, announce: Announce) -> None:
    """Serve a run until SIGINT or SIGTERM; running requests are answered first.

    Raises BadInput where the run cannot score, a token is missing, the port is taken, or the packages of the extra
    `serve` are not installed.
    """
    token, run = options.token(), find_run(store, run_id)
    try:
        import uvicorn

        from micropref.pipeline.rewards.serving.app import create_app
        from micropref.pipeline.rewards.serving.connections import http_config
        from micropref.pipeline.rewards.serving.service import Service
    except ImportError as error:
        raise BadInput(f"serving needs {error.name}: run `pip install 'micropref[serve]'`") from None
    service = Service(store, run_id, options.feedback or run.folder / FILE, options, announce)
    app = create_app(service, most_bytes=int(options.body_mb * 1e6), token=token)
    # Told to stop it waits until every request has its answer, or has taken as long as one may.
    stop_s = math.ceil(options.timeout) + 1
    config = http_config(app, host=options.host, port=options.port, timeout_graceful_shutdown=stop_s)
    server = uvicorn.Server(config)
    _tell(server, announce, service.run)
    # uvicorn answers what it took, then raises the signal that stopped it once more: being told to stop is no failure.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with suppress(KeyboardInterrupt):
            server.run()
    except SystemExit:  # what uvicorn does where it cannot listen
        raise BadInput(f"port is {options.port}: {options.host}:{options.port} cannot be listened at") from None
    announce("stopped: every request that was taken is answered, every choice is on disk")


def _tell(server: Any, announce: Announce, run: str) -> None:
    """Have a server say where it listens, once it does."""
    startup = server.startup

    async def told(sockets: Any = None) -> None:
        await startup(sockets=sockets)
        for one in server.servers if server.started else ():
            for socket in one.sockets:
                host, port = socket.getsockname()[:2]
                shown = f"[{host}]" if ":" in host else host
                announce(f"serving run {run} at http://{shown}:{port}, its routes at /openapi.json; Ctrl-C stops")

    server.startup = told
