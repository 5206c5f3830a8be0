"""One program for a pool: on one machine or, but for the line that makes the pool, on a cluster."""

from __future__ import annotations

from typing import Any

import numpy as np


def steepness(heights: Any) -> Any:
    return np.hypot(*np.gradient(heights))


def pipeline(pool: Any) -> dict[str, Any]:
    """Use a pool in every way; what came of it."""
    heights = pool.share(np.random.default_rng(0).normal(size=(400, 300)))
    scale = 3.0

    def scaled(row: Any, by: float = scale) -> float:
        return float(row.sum() * by)

    slopes = pool.map_blocks(steepness, heights, axis=(0, 1), block_size=(128, 100), overlap=1)
    plain = pool.map_blocks(lambda a, b: a * 2 + b, np.arange(10_000), np.ones(10_000), block_size=1000)
    counts = pool.zeros((4, 5), int)
    pool.map_blocks(np.add, counts, np.arange(5)[None], out=counts, block_size=1)
    words = pool.map_blocks(
        lambda a: np.array([[str(x)] for x in a], object)[:, 0], np.arange(6), block_size=2
    )
    future = pool.submit(np.percentile, heights[::2, 1:], q=90)
    return {
        "shared": np.array(heights),
        "rows": list(pool.map(scaled, heights)),
        "two": list(pool.map(pow, range(20), [2] * 20)),
        "star": list(pool.starmap(divmod, [(7, 2), (9, 4)])),
        "any order": sorted(pool.imap_unordered(abs, range(-50, 0))),
        "slopes": np.array(slopes),
        "in place": np.array(counts),
        "plain": np.array(plain),
        "words": list(words),
        "sum": pool.reduce_blocks(np.sum, np.add, heights, block_size=50),
        "most": pool.reduce_blocks(np.max, max, slopes, block_size=50),
        "percentile": future.result(),
        "error": repr(pool.submit(divmod, 1, 0).exception()),
        "kinds": [type(each).__name__ for each in (heights, slopes, counts, words)],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two of these are equal in every bit."""
    for key, value in one.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)
    return one.keys() == other.keys()
