"""The sizes of the caches of a pool, in its own process and in a worker. Workers import this."""

from __future__ import annotations

import gc
from collections import Counter, deque

from sharedarray._pool.worker import loop

OURS = "sharedarray._pool", "sharedarray._executor", "sharedarray._functions"
CONTAINERS = dict, set, list, deque


def sizes(*roots):
    """Return how many entries the containers hold that are attributes of objects of the pool's, by attribute.

    Containers within containers count for the attribute that they are reached from.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    todo = [("", root) for root in roots]
    while todo:
        name, value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, CONTAINERS):
            found[name] += len(value)
            inner = value.values() if isinstance(value, dict) else value
            todo += [(name, each) for each in list(inner)]
        elif type(value).__module__.startswith(OURS):
            kind = type(value)
            slots = [slot for each in kind.__mro__ for slot in getattr(each, "__slots__", ())]
            names = [*getattr(value, "__dict__", ()), *slots]
            todo += [(f"{kind.__name__}.{each}", getattr(value, each, None)) for each in names]
    return found


def sizes_here():
    """Return the sizes in this worker."""
    gc.collect()
    return sizes(*[each for each in gc.get_objects() if type(each) is loop.Loop])
