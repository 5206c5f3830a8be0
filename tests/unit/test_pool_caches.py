"""The caches for functions and arrays, while threads and finalizers change them at any moment."""

from __future__ import annotations

import sys

import numpy as np

from sharedarray._functions import pickler, snapshots


def at_each_step(module, prepare):
    """Run something once for each of its steps in a module, with a change before that step.

    ``prepare()`` returns what is run, and what changes.
    """
    at, steps = -1, 0  # first without a change: Python 3.12 traces code from the second time on
    while at <= steps:
        run, change = prepare()
        steps = 0

        def trace(frame, event, argument):
            nonlocal steps
            if frame.f_code.co_filename != module.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                if steps == at:  # noqa: B023
                    change()  # noqa: B023
                steps += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            run()
        finally:
            sys.settrace(before)
        at += 1
    assert steps > 20


def test_functions_come_and_go_at_any_moment(monkeypatch):
    monkeypatch.setattr(snapshots.FunctionCache, "SIZE", 3)

    def prepare():
        cache = snapshots.FunctionCache()
        kept = [lambda: 0 for _ in range(3)]
        for each in kept:
            cache.get(each, None)
        assert len(cache._known) == 3
        return lambda: cache.get(lambda: 1, None), kept.pop

    at_each_step(snapshots, prepare)


def test_arrays_come_and_go_at_any_moment(monkeypatch):
    monkeypatch.setattr(pickler._ArrayCopies, "LIMIT", 3 << 12)

    def prepare():
        contents = pickler._ArrayCopies()
        kept = [np.zeros(1 << 12, np.uint8) for _ in range(3)]
        for each in kept:
            contents.version_of(each)
        another = np.ones(2 << 12, np.uint8)
        return lambda: contents.version_of(another), kept.pop

    at_each_step(pickler, prepare)
