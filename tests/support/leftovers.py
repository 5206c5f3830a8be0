"""Tasks that leave something behind in their worker, or in another library's process. Workers import this."""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing import util
from pathlib import Path

import sharedarray as sa
from sharedarray._pool.worker import main as worker

kept = []


def note_end(path):
    """Write a file when this process has joined its children, and so only if it ends in order."""
    util.Finalize(None, Path(path).touch, exitpriority=-50)


def leave_pool(method):
    kept.append(sa.Pool(1, method))
    return kept[-1].submit(abs, -1).result()


def leave_executor(method):
    kept.append(concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)))
    return kept[-1].submit(abs, -1).result()


def leave_loky(method):
    from joblib.externals import loky

    kept.append(loky.ProcessPoolExecutor(1))
    return kept[-1].submit(abs, -1).result()


def leave_multiprocessing_pool(method):
    kept.append(multiprocessing.get_context(method).Pool(1))
    return kept[-1].apply(abs, (-1,))


def leave_thread_executor(method):
    kept.append(concurrent.futures.ThreadPoolExecutor(1))
    return kept[-1].submit(abs, -1).result()


def leave_all_pools(method):
    """Leave a pool in a worker of a pool that is left."""
    kept.append(sa.Pool(1, method))
    return kept[-1].submit(leave_pool, method).result()


IDLE = {
    "pool": leave_pool,
    "executor": leave_executor,
    "loky": leave_loky,
    "multiprocessing": leave_multiprocessing_pool,
    "threads": leave_thread_executor,
    "pools in pools": leave_all_pools,
}


def leave(what, method, path):
    note_end(path)
    return IDLE[what](method)


def forever():
    while True:
        time.sleep(60)


def forever_with_pid(path):
    Path(path).write_text(str(os.getpid()))
    forever()


def leave_busy_thread(path):
    threading.Thread(target=forever).start()


def leave_busy_process(path):
    multiprocessing.get_context("spawn").Process(target=forever_with_pid, args=(path,)).start()


def leave_busy_executor(path):
    kept.append(concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
    kept[-1].submit(forever_with_pid, path)


def leave_busy_pool(path):
    kept.append(sa.Pool(1))
    kept[-1].submit(forever_with_pid, path)


def leave_busy_finalizer(path):
    util.Finalize(None, forever, exitpriority=1)


BUSY = {
    "thread": leave_busy_thread,
    "process": leave_busy_process,
    "executor": leave_busy_executor,
    "pool": leave_busy_pool,
    "finalizer": leave_busy_finalizer,
}


def leave_busy(what, path, ends_within):
    """Leave what never ends; the process id of that, if it is a process."""
    worker.ENDS_WITHIN = ends_within
    BUSY[what](path)
    if what not in ("process", "executor", "pool"):
        return None
    while not Path(path).exists() or not (text := Path(path).read_text()):
        time.sleep(0.005)
    return int(text)


def stop_the_interpreter():
    """Wait in native code that does not let other threads run."""
    ctypes.PyDLL(None).pause()


def leave_native_code():
    util.Finalize(None, stop_the_interpreter, exitpriority=1)


def use_a_pool(method, path):
    note_end(path)
    with sa.Pool(1, method) as pool:
        return pool.submit(pid_and_daemon).result()


def pid_and_daemon():
    return os.getpid(), multiprocessing.current_process().daemon


def use_a_pool_and_wait(method, connection):
    """Let a worker run for ever, write its pid, and never return."""
    pool = sa.Pool(1, method)
    connection.send(pool.submit(os.getpid).result())
    pool.submit(forever).result()


def nested(method):
    with sa.Pool(1, method) as pool:
        return list(pool.map(abs, [-1, -2]))


def print_to(path):
    """Print what is still in the buffer when the task is done."""
    sys.stdout = open(path, "w", encoding="utf-8")  # noqa: SIM115 - the end of the worker writes it
    print("printed")


def answer(function, args, connection):
    connection.send(function(*args))
