"""The processor time that a pool uses while it has nothing to do, or only to wait."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from sharedarray._bench import memory, processor_time
from sharedarray._bench.contestant import Executor, Multiprocessing, Ours
from sharedarray._bench.hosts import Host, hosted
from sharedarray._bench.race import Race
from sharedarray._bench.rows.scale import Scale

WATCHED = 3.0
"""Seconds for which the processes are watched."""

SETTLED = 1.2
"""Seconds after the last task: what a pool gives back when it has been idle for a second is given back."""

IDLE, BUSY = "idle pool", "busy pool"
"""Groups of the races."""


def idleness(scale: Scale) -> Iterator[Race]:
    """Yield pools in programs of their own, watched from outside at the same time.

    Of an idle pool all processes count. Of a pool whose workers all run a long task, the caller counts, which
    waits for the results: its workers sleep here, so that the processors are free.
    """
    seconds = scale.seconds(WATCHED)
    share = "share of a core"
    resting = Race(f"an idle pool: {share} that all its processes use", "", "%", group=IDLE)
    title = f"a pool whose workers all run a long task: {share} that its parent uses"
    waiting = Race(title, "", "%", group=BUSY)
    if reason := processor_time.why_not():
        for race in resting, waiting:
            for kind in Ours, Executor, Multiprocessing:
                race.leave_out(kind.name, reason)
            yield race
        return
    with (
        hosted([Ours.name, Executor.name, Multiprocessing.name]) as (hosts, missing),
        ThreadPoolExecutor(len(hosts)) as threads,
    ):
        resting.missing, waiting.missing = dict(missing), dict(missing)
        for host in hosts.values():
            host.ask("many", 100, seconds=0.0, warm=scale.seconds(0.3))
        for _ in range(min(scale.few, 2)):
            time.sleep(scale.seconds(SETTLED))
            process_trees = {name: memory.process_tree(host.pid) for name, host in hosts.items()}
            _watch(resting, process_trees, seconds)
            asked = [threads.submit(_long, host, seconds) for host in hosts.values()]
            time.sleep(0.02)  # the tasks have begun
            _watch(waiting, {name: [host.pid] for name, host in hosts.items()}, 0.8 * seconds)
            for ask in asked:
                ask.result()
    yield resting
    yield waiting


def _long(host: Host, seconds: float) -> float:
    return host.ask("long", seconds, seconds=0.0, warm=0.0)


def _watch(race: Race, process_trees: dict[str, list[int]], seconds: float) -> None:
    """Add the share of a core that each tree of processes uses over some seconds."""
    before = {name: processor_time.seconds(pids) for name, pids in process_trees.items()}
    start = time.perf_counter()
    time.sleep(seconds)
    for name, pids in process_trees.items():
        used = processor_time.seconds(pids) - before[name]
        race.figures.setdefault(name, []).append(used / (time.perf_counter() - start))
