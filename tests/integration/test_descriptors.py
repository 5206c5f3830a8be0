"""Programs that run with closed standard streams, as daemons and services do.

The kernel gives the numbers 0, 1 and 2 to the next files that such a program opens. If a block gets one of
them, the messages of any library go into its header.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers import METHODS, answer
from needs import few, needs_proc

# The beginning of each program: it keeps a descriptor for its answer, and closes its standard streams.
CLOSED = """
import json, os, pickle, sys, tempfile, threading, traceback
import numpy as np
import sharedarray as sa
from sharedarray._platform import platform

ANSWER = os.dup(1)
ERRORS = open(os.dup(2), "w")
sys.excepthook = lambda kind, error, trace: traceback.print_exception(error, file=ERRORS)
def close_streams():
    for number in range(3):
        os.close(number)
def streams(pid="self"):
    found = []
    for number in range(3):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        except FileNotFoundError:
            found.append(None)
    return found
def print_a_warning():
    for number in (1, 2):
        try:
            os.write(number, b"Warning: 1234567890" * 20)
        except OSError:
            pass
def reply(what):
    os.write(ANSWER, json.dumps(what).encode())
def command_of(pid):
    try:
        return open(f"/proc/{pid}/cmdline", "rb").read().replace(bytes(1), b" ").decode()
    except (FileNotFoundError, ProcessLookupError):  # a process of another test that has ended meanwhile
        return ""
def processes(*words):
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and all(w in command_of(pid) for w in words)]
"""

EVERYTHING = (
    CLOSED
    + """
other = sa.full(5, 4.0, name="made_before")
folder = tempfile.mkdtemp()
np.save(f"{folder}/saved.npy", np.arange(5))
close_streams()
seen = {}
kept = []

def do(what, action, check):
    kept.append(action())
    print_a_warning()
    seen[what] = streams(), check(kept[-1])

do("zeros", lambda: sa.zeros(5, name="zeros"), lambda a: sa.attach("zeros").tolist())
do("share", lambda: sa.share(np.arange(5)), lambda a: sa.attach(a.name).tolist())
do("attach", lambda: sa.attach("made_before"), lambda a: a.tolist())
do("persist", lambda: sa.zeros(5, name="stays", persist=True), lambda a: sa.attach("stays").tolist())
sa.unlink("stays")
do("file=", lambda: sa.zeros(5, file=f"{folder}/made.npy"), lambda a: np.load(f"{folder}/made.npy").tolist())
do("open", lambda: sa.open(f"{folder}/saved.npy"), lambda a: np.load(f"{folder}/saved.npy").tolist())
do("put", lambda: sa.put([1, 2], name="object"), lambda _: sa.get("object"))
do("Segment", lambda: sa.Segment.create(9), lambda s: bytes(sa.Segment.attach(s.name).buf).hex())
do("SharedMemory", lambda: sa.SharedMemory(create=True, size=9), lambda m: bytes(m.buf[:9]).hex())
do("reference", lambda: pickle.dumps(other.reference()), lambda data: pickle.loads(data).attach().tolist())
do("lock", lambda: other.lock(), lambda lock: lock.acquire() and other.tolist())
do("lock_file", lambda: sa.lock_file(f"{folder}/lock"), lambda lock: lock.acquire())
do("bytes of the lock", lambda: None, lambda _: open(f"{folder}/lock").read())
do("blocks", sa.blocks, lambda _: None)
do("prune", sa.prune, lambda _: None)

child = os.fork()
if not child:
    print_a_warning()
    mine = sa.zeros(5)
    print_a_warning()
    good = streams() == [None] * 3 and other.tolist() == [4.0] * 5 and mine.tolist() == [0.0] * 5
    os._exit(0 if good else 1)
seen["fork"] = streams(), os.waitpid(child, 0)[1]
folder = platform.setting("SHAREDARRAY_DIR")
seen["janitor"] = streams(), [streams(pid) for pid in processes("sharedarray-janitor", folder)]
for lock in (each for each in kept if isinstance(each, sa.Lock)):
    lock.release()
reply(seen)
"""
)

NULL = ["/dev/null"] * 3


@needs_proc
def test_no_descriptor_of_a_block_is_that_of_a_standard_stream(own_directory: str) -> None:
    found: dict[str, Any] = answer(EVERYTHING)
    assert {what: streams for what, (streams, _) in found.items() if streams != [None] * 3} == {}
    assert {what: value for what, (_, value) in found.items()} == {
        "zeros": [0.0] * 5,
        "share": [0, 1, 2, 3, 4],
        "attach": [4.0] * 5,
        "persist": [0.0] * 5,
        "file=": [0.0] * 5,
        "open": [0, 1, 2, 3, 4],
        "put": [1, 2],
        "Segment": bytes(9).hex(),
        "SharedMemory": bytes(9).hex(),
        "reference": [4.0] * 5,
        "lock": [4.0] * 5,
        "lock_file": True,
        "bytes of the lock": "",
        "blocks": None,
        "prune": None,
        "fork": 0,
        "janitor": [NULL],
    }


POOL = (
    CLOSED
    + """
def task(shared, plain):
    print_a_warning()
    shared += 1
    result = sa.share(plain)
    print_a_warning()
    return streams(), result, plain * 2

close_streams()
shared = sa.zeros(10)
with sa.Pool(2, mp_context=sys.argv[1]) as pool:
    workers, one, two = pool.submit(task, shared, np.ones(100_000)).result(60)
    workers, one, two = pool.submit(task, shared, two).result(60)
    print_a_warning()
    ours = streams()
    helpers = [streams(pid) for pid in processes("multiprocessing.forkserver", sys.executable)
               if open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1] == str(os.getpid())]
    values = sorted(set(shared.tolist())), sum(pool.map(float, two[:100])), float(one.sum()), float(two.sum())
reply([ours, streams(), workers, helpers, values])
"""
)


@needs_proc
@pytest.mark.parametrize("method", few(METHODS))
def test_a_pool_of_a_program_with_closed_streams(method: str) -> None:
    """Workers, and the server that starts them, have the null device where their parent has nothing."""
    during, after, worker, servers, values = answer(POOL, method)
    assert (during, after) == ([None] * 3, [None] * 3)
    assert worker == NULL
    if method == "forkserver":
        assert servers == [NULL]
    assert values == [[2.0], 400.0, 200_000.0, 400_000.0]


FILES = (
    CLOSED
    + """
from multiprocessing import resource_tracker
close_streams()
resource_tracker.ensure_running()  # by another library: one of its pipes is a standard stream by its number
logs = [tempfile.TemporaryFile() for _ in range(2)]
def task():
    print_a_warning()
    return streams()
with sa.Pool(1, mp_context=sys.argv[1]) as pool:
    worker = pool.submit(task).result(60)
reply([resource_tracker.getfd(), [log.seek(0) or len(log.read()) for log in logs], worker])
"""
)


@needs_proc
@pytest.mark.parametrize("method", [method for method in METHODS if method != "fork"])
@pytest.mark.slow
def test_files_in_place_of_standard_streams_stay_out_of_the_workers(method: str) -> None:
    tracker, lengths, worker = answer(FILES, method)
    assert tracker < 3
    assert lengths == [0, 0]
    assert worker == NULL


STREAMS = (
    CLOSED
    + """
from sharedarray._platform import platform
log = tempfile.TemporaryFile()
close_streams()
with platform.standard_streams():
    within = streams()
    with platform.standard_streams():  # of another thread, say
        pass
    still = streams()
    os.dup2(log.fileno(), 1)  # by another thread of the program
after = [number is not None for number in streams()]
reply([within, still, after, os.fstat(1).st_ino == os.fstat(log.fileno()).st_ino])
"""
)


@needs_proc
def test_a_stream_that_the_program_opens_meanwhile_stays() -> None:
    within, still, after, logged = answer(STREAMS)
    assert (within, still) == (NULL, NULL)
    assert after == [False, True, False]
    assert logged


MANAGER = (
    CLOSED
    + """
close_streams()
with sa.SharedMemoryManager(ctx=__import__("multiprocessing").get_context("fork")) as manager:
    array = manager.share([1, 2])
    server = streams(manager._process.pid)
    print_a_warning()
    found = [streams(), server, sa.attach(array.name).tolist()]
reply(found)
"""
)


@needs_proc
@pytest.mark.skipif("fork" not in METHODS, reason="processes cannot fork here")
def test_a_manager_of_a_program_with_closed_streams() -> None:
    assert answer(MANAGER) == [[None] * 3, NULL, [1, 2]]
