"""Every contestant by its name."""

from __future__ import annotations

import importlib.util

from sharedarray._bench.contestant import Contestant, Executor, Limit, Multiprocessing, Ours, OursShared
from sharedarray._bench.rivals import ByHand, Dask, Joblib, Loky, Mpire, Ray, RayPut, SharedArrayOfPyPI, Torch

CONTESTANTS: dict[str, type[Contestant]] = {
    contestant.name: contestant
    for contestant in (
        Limit,
        Ours,
        OursShared,
        Executor,
        Multiprocessing,
        ByHand,
        SharedArrayOfPyPI,
        Loky,
        Joblib,
        Mpire,
        Dask,
        Ray,
        RayPut,
        Torch,
    )
}
"""Every contestant by its name, in the order of the tables."""


def why_missing(name: str) -> str | None:
    """Return why a contestant cannot take part here; None if it can."""
    needs = CONTESTANTS[name].needs
    if importlib.util.find_spec(needs) is None:
        return f"{needs} is not installed"
    return None
