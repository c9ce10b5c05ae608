"""Samples of a training run: choose a source, read its images, and crop them.

Sample i of step s depends only on (seed, s, i). Therefore sampling has no state to save, a resumed run sees the same
samples as an uninterrupted one, and batches do not depend on the number of processes or threads.

Shapes: images (H, W, 3) uint8 RGB; a sample (2, P, P, 3) uint8, rainy first, P the side of the patch.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from drsformer_cli.training.config import Config
    from drsformer_cli.training.rain import Pixels
    from drsformer_cli.training.sources import Sampler

_AHEAD = 4  # batches to prepare ahead  # batches that are prepared ahead


class Samples:
    """The samples of a run.

    Attributes:
        shares: Fraction of the samples at step 1 by source; they add up to 1.
    """

    def __init__(self, samplers: dict[str, Sampler], config: Config) -> None:
        self._config = config
        self._samplers = samplers
        self.shares = self._shares(1)

    def _shares(self, step: int) -> dict[str, float]:
        """Fraction of the samples of a step by source."""
        sources = self._config.at(step).data.sources
        weights = {name: sources[name].weight for name in self._samplers}
        if not any(weights.values()):  # only sources of weight 0 have files
            weights = dict.fromkeys(weights, 1.0)
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight > 0}

    def sample(self, step: int, index: int) -> Pixels:
        """Sample `index` of the batch of `step`, (2, P, P, 3)."""
        config = self._config.at(step)
        rng = np.random.default_rng((config.seed, step, index))
        pair = self._draw(step, rng)
        if rng.random() < config.data.mixup:
            share = np.float32(rng.beta(1.2, 1.2))  # as in Restormer
            pair = np.rint(share * pair + (1 - share) * self._draw(step, rng)).astype(np.uint8)
        return pair

    def _draw(self, step: int, rng: np.random.Generator) -> Pixels:
        data, shares = self._config.at(step).data, self._shares(step)
        limits = np.cumsum(list(shares.values()))
        number = int(np.searchsorted(limits[:-1], rng.random(), side="right"))
        pair = np.stack(self._samplers[list(shares)[number]](rng, data.patch))  # (2, P, P, 3)
        if data.flips:
            vertical, horizontal = rng.random(2) < 0.5
            pair = pair[:, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        if data.turns:
            pair = np.rot90(pair, int(rng.integers(4)), axes=(1, 2))
        return pair

    def batches(self, steps: Iterable[int], share: Callable[[Sequence[int]], Sequence[int]]) -> Generator[Pixels]:
        """This process's share of the batch of each step, (B, 2, P, P, 3); threads prepare batches ahead."""
        workers = self._config.data.workers
        if workers == 0:
            for step in steps:
                yield np.stack([self.sample(step, index) for index in self._indices(step, share)])
            return
        pool = ThreadPoolExecutor(workers, thread_name_prefix="samples")
        waiting: deque[list[Future[Pixels]]] = deque()
        try:
            for step in steps:
                waiting.append([pool.submit(self.sample, step, index) for index in self._indices(step, share)])
                if len(waiting) > _AHEAD:
                    yield np.stack([future.result() for future in waiting.popleft()])
            while waiting:
                yield np.stack([future.result() for future in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _indices(self, step: int, share: Callable[[Sequence[int]], Sequence[int]]) -> Sequence[int]:
        return share(range(self._config.at(step).training.batch))
