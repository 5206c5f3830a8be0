"""A timeline in the Trace Event Format of ``chrome://tracing``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sharedarray._display.spans import Span, lanes_of

__all__ = ["chrome_trace"]


def chrome_trace(spans: Sequence[Span], pid: int, dropped: int) -> dict[str, Any]:
    """Return the trace as an object for `json.dump`."""
    events: list[dict[str, Any]] = []

    def name(what: str, tid: int, **args: object) -> None:
        events.append({"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args})

    lanes = lanes_of(spans)
    name("process_name", 0, name=f"sharedarray pool of process {pid}")
    for tid, lane in enumerate(lanes, 1):
        name("thread_name", tid, name=f"{lane.worker} (process {lane.pid})")
        name("thread_sort_index", tid, sort_index=tid)
    for tid, lane in enumerate(lanes, 1):
        events += [
            {
                "name": span.label,
                "cat": span.outcome,
                "ph": "X",
                "ts": span.began / 1000,
                "dur": max(0, span.ended - span.began) / 1000,
                "pid": pid,
                "tid": tid,
                "args": {
                    "task": span.task,
                    "call": span.call,
                    "waited": max(0, span.began - span.submitted) / 1000,
                    "outcome": span.outcome,
                    **({"items": span.items} if span.items > 1 else {}),
                },
            }
            for span in lane.spans
        ]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"dropped": dropped}}
