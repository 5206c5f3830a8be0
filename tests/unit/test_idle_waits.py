"""Processes that wait for others use next to no processor time: streams, events, arrays and locks."""

from __future__ import annotations

import contextlib
import time

import pytest
from helpers import ANSWER, Puppet, wait_until

import sharedarray as sa
from sharedarray._bench import processor_time

SECONDS = 3.0  # of the measurement
MOST = 0.05  # of a core: ten times the promise, for a machine that is slow and busy

WAIT = """
import numpy as np
(call,) = sys.argv[1:]
consumer = sa.Stream("idle") if call in ("get", "latest", "all") else None
producer = sa.Stream("full", 2, takeover=True) if call == "put" else None
event = sa.Event("never")
array = sa.attach("array")
calls = {
    "get": lambda: consumer.get(),
    "latest": lambda: consumer.latest(),
    "all": lambda: sa.wait([consumer, event]),
    "put": lambda: producer.put(np.zeros(2)),
    "event": event.wait,
    "semaphore": lambda: sa.Semaphore("none", 0).acquire(),
    "array": array.wait,
    "lock": lambda: array.lock().acquire(),
    "lock, timed": lambda: array.lock(timeout=1000.0).acquire(),
}
if producer is not None:
    producer.put_many(np.zeros((producer.slots, 2)))
say("waits")
calls[call]()
"""
CALLS = "get", "latest", "all", "put", "event", "semaphore", "array", "lock", "lock, timed"


@pytest.mark.slow
@pytest.mark.skipif(processor_time.why_not() is not None, reason=str(processor_time.why_not()))
def test_processes_that_wait_use_no_processor(own_directory: str) -> None:
    idle = sa.Stream("idle", 2)
    full = sa.Stream("full", 2, slots=2)
    slow = sa.Stream("full")  # the consumer that keeps a producer waiting
    full.close()
    array = sa.zeros(3, name="array")
    lock = array.lock()
    lock.acquire()
    shares: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        puppets = {call: stack.enter_context(Puppet(WAIT, call)) for call in CALLS}
        for puppet in puppets.values():
            assert puppet.hear() == "waits"

        def at_rest() -> bool:
            """Measure once more: on a slow machine, a process may just begin to wait."""
            before = {call: processor_time.seconds([puppet.pid]) for call, puppet in puppets.items()}
            begun = time.monotonic()
            time.sleep(SECONDS)
            lasted = time.monotonic() - begun
            for call, puppet in puppets.items():
                shares[call] = (processor_time.seconds([puppet.pid]) - before[call]) / lasted
            return max(shares.values()) < MOST

        wait_until(at_rest, "waits leave the processor alone", ANSWER)
        for puppet in puppets.values():
            puppet.kill()
    print({call: f"{share:.3%}" for call, share in shares.items()})
    lock.release()
    for stream in (idle, slow):
        stream.close()
