"""Where a fit's pairs come from: tensors in memory, or a stream from disk where they are too many.

Letters: N pairs, K heads.
"""

from __future__ import annotations

import torch

from micropref.cache.vectors.pair_stream import PairStream
from micropref.heads.fitting.minibatches import Batches, Feed
from micropref.heads.fitting.scales import DELTA, Moments, RouterMoments, Scales, training_scales
from micropref.heads.fitting.settings import PairTensors
from micropref.heads.fitting.streamed_minibatches import StreamedFeed
from micropref.heads.mixture import Mixture

Source = PairTensors | PairStream
SCORED_ROWS = 4096
"""Pairs read at a time outside of epochs."""
CPU = torch.device("cpu")


def open_feed(
    source: Source,
    routed: bool,
    size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device = CPU,
    centre: torch.Tensor | None = None,
) -> Batches:
    """Return minibatches, by default of SCORED_ROWS; the router's input is read only when some setting is `routed`.

    Its `centre` [D'] is subtracted from it, and pairs without a context read 0; without one they read NaN.
    """
    size = SCORED_ROWS if size is None else size
    if isinstance(source, PairTensors):
        return Feed(source, routed, size, dtype, device, centre)
    return StreamedFeed(source, routed, size, dtype, device, centre)


def source_scales(source: Source) -> Scales:
    """Return the sizes of both inputs. Raises BadInput for rows that are not finite, or nothing but zeros."""
    if isinstance(source, PairTensors):
        return training_scales(source)
    delta, router = Moments(DELTA), RouterMoments(source.router_parts)
    for batch in open_feed(source, True).in_order():
        delta.add(batch.delta)
        assert batch.router is not None
        router.add(batch.router, None if batch.readers is None else batch.readers.sizes)
    return router.scales(delta.rms())


def score(mixture: Mixture, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a mixture's margins and log-weights [N, K] of all pairs, in order."""
    margins, log_weights = torch.empty(2, source.pairs, mixture.k)
    start = 0
    for batch in open_feed(source, mixture.router is not None).in_order():
        stop = start + len(batch.delta)
        margins[start:stop] = mixture.margins(batch.delta)
        log_weights[start:stop] = mixture.log_weights(batch.router, len(batch.delta), batch.router_rows)
        start = stop
    return margins, log_weights
