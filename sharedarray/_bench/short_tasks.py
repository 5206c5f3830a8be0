"""Short tasks as people write them in a script: this source runs in ``__main__`` as well, see `script`."""

from __future__ import annotations

import numpy as np

POINTS = 2_000
"""Points of a chunk. An array of them has 16 KB: `malloc` maps memory anew for each array from 128 KB on."""

SEEDS = 1_000_000
"""Seeds below this number draw no chunk, seeds up to twice this number one chunk, and so on."""


def same(value: int) -> int:
    """Return the argument."""
    return value


def estimate(seed: int) -> float:
    """Return an estimate of pi from ``seed // SEEDS`` chunks of random points."""
    generator = np.random.default_rng(seed)
    chunks = seed // SEEDS
    return 4 * sum(_inside(generator) for _ in range(chunks)) / (chunks * POINTS)


def _inside(generator: np.random.Generator) -> int:
    """Return how many points of a chunk are inside the circle."""
    x, y = generator.random(POINTS), generator.random(POINTS)
    return int(np.count_nonzero(x * x + y * y < 1))


def estimates(seeds: list[int]) -> list[float]:
    """Return the estimate of each seed: what a bare worker does with its share of a map."""
    return [estimate(seed) for seed in seeds]
