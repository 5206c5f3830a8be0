"""Random numbers that differ between workers.

A fork copies the state of every random number generator. Workers that are forked from the same process, such
as a fork server, would draw the same numbers. So each worker seeds the loaded global generators from the
operating system before its initializer runs; a seed that the initializer sets stays. A generator that is
loaded later seeds itself. Generators that a module or a user has made cannot be found; `Pool` documents them.
"""

from __future__ import annotations

import sys

__all__ = ["reseed"]

# Modules whose function ``seed`` seeds their global generator from the operating system if it gets no seed.
_MODULES = ("random", "numpy.random", "torch")


def reseed() -> None:
    """Seed the global random number generators that are loaded from the operating system."""
    for name in _MODULES:
        seed = getattr(sys.modules.get(name), "seed", None)
        if seed is not None:
            seed()
