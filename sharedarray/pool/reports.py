from __future__ import annotations
from dataclasses import dataclass
from typing import NamedTuple
class Span(NamedTuple):
    task: int; call: int; label: str; worker: str; pid: int; submitted: int; began: int; ended: int; outcome: str
class Timeline:
    def __init__(self, spans, dropped=0): self.spans=spans
class ArgumentCopies(NamedTuple):
    argument: str; shared: int; copied: int; pickled: int; reused: int; count: int
@dataclass(frozen=True)
class CopyReport:
    call: int; label: str; tasks: int; seconds: float; rows: tuple
@dataclass
class PoolStats:
    workers: int; busy: int; max_workers: int; queued: int; running: int; done: int; failed: int; cancelled: int; retried: int; died: int; replaced: int; recycled_bytes: int; recycled_in_use: int; recycled_free: int; recycled_blocks: int; recycled_limit: int; recycled_idle_limit: int; shared_bytes: int; copied_bytes: int; pickled_bytes: int
