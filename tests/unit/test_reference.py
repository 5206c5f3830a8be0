"""References: what travels, what arrives, and what keeps the block meanwhile."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PROC, answer, run, wait_until
from needs import many_starts, needs_files, needs_fork, needs_free_files
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import sharedarray as sa
from sharedarray import _arrivals as arrivals, _reference as reference, _registry as registry
from sharedarray._segment import Mapping, mapping_of

DATA = np.arange(24.0).reshape(4, 6)
RECORDS = np.array([(1, 2.5), (3, 4.5)], dtype=[("x", "<i4"), ("y", "<f8")])

VIEWS: dict[str, Callable[[sa.SharedArray, sa.SharedArray], Any]] = {
    "whole": lambda a, r: a,
    "slice": lambda a, r: a[1:3],
    "step": lambda a, r: a[:, ::2],
    "negative strides": lambda a, r: a[::-1, ::-2],
    "transpose": lambda a, r: a.T,
    "reshape": lambda a, r: a.reshape(2, 12),
    "new axis": lambda a, r: a[None, 1],
    "0-d": lambda a, r: a[1, 1, ...],
    "empty": lambda a, r: a[:0],
    "records": lambda a, r: r,
    "field": lambda a, r: r["y"],
    "fields": lambda a, r: r[["y"]],
    "other dtype": lambda a, r: a.view("<M8[ns]"),
    "byte order": lambda a, r: a.view(">f8"),
    "broadcast": lambda a, r: np.broadcast_to(a, (3, 4, 6), subok=True),
    "strided": lambda a, r: as_strided(a, (3, 2), (8, 16), subok=True),
    "broadcast as ndarray": lambda a, r: np.broadcast_to(a, (3, 4, 6)),
    "windows as ndarray": lambda a, r: sliding_window_view(a, (2, 2)),
    "plain ndarray": lambda a, r: np.asarray(a)[1:],
    "read-only view": lambda a, r: read_only(a[2:]),
}


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


@pytest.fixture
def arrays() -> Iterator[tuple[sa.SharedArray, sa.SharedArray]]:
    with sa.share(DATA) as a, sa.share(RECORDS) as r:
        yield a, r


def pins() -> int:
    return len(registry.pins(registry.directory()))


def send(obj: object) -> bytes:
    return bytes(ForkingPickler.dumps(obj))


# -- every view, through multiprocessing's pickler --------------------------------------------------------


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_travels_as_a_small_reference(name: str, arrays: Any) -> None:
    view = VIEWS[name](*arrays)
    sent = send(view)
    assert len(sent) < 500
    assert pins() == 1
    arrived = pickle.loads(sent)
    assert pins() == 0
    assert type(arrived) is type(view)
    assert arrived.dtype == view.dtype
    assert arrived.shape == view.shape
    assert arrived.strides == view.strides
    assert arrived.flags.writeable == view.flags.writeable
    np.testing.assert_array_equal(arrived, view)
    if view.size and view.flags.writeable and view.dtype.names is None:
        first = (0,) * view.ndim
        arrived[first] = np.frombuffer(b"\1" * 8, view.dtype)[0]
        assert view[first] == arrived[first]


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_view_is_stored_as_data(name: str, protocol: int, arrays: Any) -> None:
    view = VIEWS[name](*arrays)
    stored = pickle.loads(pickle.dumps(view, protocol))
    assert type(stored) is np.ndarray
    plain = pickle.loads(pickle.dumps(view.copy(), protocol))  # NumPy itself changes the byte order, for one
    assert stored.dtype == plain.dtype
    np.testing.assert_array_equal(stored, view)
    assert not np.shares_memory(stored, view)
    assert pins() == 0


def test_protocol_5_stores_out_of_band(arrays: Any) -> None:
    buffers: list[pickle.PickleBuffer] = []
    stored = pickle.dumps(arrays[0], 5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    np.testing.assert_array_equal(pickle.loads(stored, buffers=buffers), DATA)


def test_modes_travel(arrays: Any) -> None:
    name = str(arrays[0].name)
    with sa.attach(name, "r") as reader:
        arrived = pickle.loads(send(reader))
        assert arrived.mode == "r"
        assert not arrived.flags.writeable
    with sa.attach(name, "c") as private:
        private[0, 0] = 99
        arrived = pickle.loads(send(private))
        assert arrived[0, 0] == 99  # a private page cannot be referred to, so the data went
        assert not np.shares_memory(arrived, private)
    assert arrays[0][0, 0] == 0


def test_what_no_reference_can_stand_for_travels_as_data() -> None:
    closed, unlinked = sa.share(DATA), sa.share(DATA)
    closed.close()
    unlinked.unlink()
    for array in (closed, unlinked, np.arange(3).view(sa.SharedArray)):
        arrived = pickle.loads(send(array))
        np.testing.assert_array_equal(arrived, array)
        assert getattr(arrived, "name", None) is None
    assert pins() == 0
    unlinked.close()


def test_plain_arrays_travel_as_before() -> None:
    plain = np.arange(1000)
    assert send(plain) == bytes(ForkingPickler.dumps(plain))
    arrived = pickle.loads(send(plain))
    np.testing.assert_array_equal(arrived, plain)
    assert type(arrived) is np.ndarray
    assert arrived.flags.writeable


@needs_free_files
def test_files_travel_by_path(tmp_path: Path) -> None:
    array = sa.share(DATA, file=tmp_path / "frames.npy")
    sent = send(array[1:])
    assert len(sent) < 500
    arrived = pickle.loads(sent)
    arrived[0, 0] = -1
    assert array[1, 0] == -1
    (tmp_path / "frames.npy").unlink()
    sa.zeros(3, file=tmp_path / "frames.npy")
    del array, arrived
    gc.collect()
    with pytest.raises(sa.BlockNotFoundError, match="not the one meant"):
        pickle.loads(sent)


# -- the handle -------------------------------------------------------------------------------------------


def test_a_reference_is_sent_as_it_is_by_every_pickler(arrays: Any) -> None:
    array = arrays[0]
    view = array[1:3, ::-1]
    reference = view.reference()
    cloudpickle = pytest.importorskip("cloudpickle")
    copies = [
        pickle.loads(pickle.dumps(reference, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    ]
    copies += [copy.copy(reference), copy.deepcopy(reference), pickle.loads(send(reference))]
    copies += [pickle.loads(cloudpickle.dumps(reference))]
    assert len(pickle.dumps(reference)) < 400
    assert pins() == 0
    for other in copies:
        assert other == reference
        assert (other.name, other.shape, other.dtype, other.mode) == (array.name, (2, 6), DATA.dtype, "r+")
        np.testing.assert_array_equal(other.attach(), view)
    assert hash(copies[0]) == hash(reference)


def test_attaching_a_reference_in_another_mode(arrays: Any) -> None:
    reference = arrays[0].reference()
    reader, private = reference.attach("r"), reference.attach("c")
    assert (reader.mode, private.mode) == ("r", "c")
    private[0, 0] = 5
    assert arrays[0][0, 0] == reader[0, 0] == 0
    assert reference.attach("c")[0, 0] == 0  # what is private to one stays private
    with pytest.raises(ValueError, match="mode"):
        reference.attach("w")


def test_a_reference_keeps_nothing_alive() -> None:
    array = sa.share(DATA)
    reference = array.reference()
    array.close()
    with pytest.raises(sa.BlockNotFoundError):
        reference.attach()


def test_another_block_of_the_same_name_is_an_error() -> None:
    array = sa.share(DATA, name="reused")
    reference, sent = array.reference(), send(array)
    pickle.loads(sent)  # takes the pin with it
    array.close()
    del array
    gc.collect()
    with sa.zeros(100, name="reused") as other:
        for load in (reference.attach, lambda: pickle.loads(sent)):
            with pytest.raises(sa.BlockNotFoundError, match="not the one meant"):
                load()
        assert not other.closed
        assert sa.exists("reused")


def test_references_that_do_not_fit_are_refused(arrays: Any) -> None:
    good = arrays[0].reference()
    fields = {name: getattr(good, name) for name in sa.Reference.__dataclass_fields__}
    for bad in (
        {"offset": -8},
        {"offset": 1 << 40},
        {"shape": (1000, 1000)},
        {"strides": (1 << 40, 8)},
        {"strides": (-4096, 8)},
        {"shape": (4,)},
    ):
        with pytest.raises(sa.HeaderError, match="does not fit"):
            sa.Reference(**{**fields, **bad}).attach()
    with pytest.raises(sa.InvalidNameError):
        sa.Reference(**{**fields, "name": "../etc/passwd"}).attach()
    np.testing.assert_array_equal(good.attach(), DATA)


def test_many_references_cost_one_attachment() -> None:
    with sa.share(np.arange(1000.0)) as array:
        sent = [send(array[i:]) for i in range(200)]
        before = len(os.listdir("/proc/self/fd")) if PROC else 0
        views = [pickle.loads(one) for one in sent]
        if PROC:
            assert len(os.listdir("/proc/self/fd")) - before <= 2
        assert {view.segment for view in views} == {views[0].segment}
        assert [view[0] for view in views] == list(range(200))
        views[0].close()
        assert views[1].closed
        assert not array.closed  # an array attached otherwise keeps its own
        again = pickle.loads(send(array))
        assert not again.closed
        assert views[1][0] == 1


def test_threads_that_load_at_once() -> None:
    with sa.share(np.arange(100.0)) as array:
        sent = [[send(array[i:]) for i in range(50)] for _ in range(4)]
        failed: list[BaseException] = []

        def load(mine: list[bytes]) -> None:
            try:
                for i, one in enumerate(mine):
                    assert pickle.loads(one)[0] == i
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=load, args=(mine,)) for mine in sent]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        assert pins() == 0


# -- attachments that are kept ----------------------------------------------------------------------------


def packed(array: sa.SharedArray) -> bytes:
    packed = reference.pack_held(array, attachment(array))
    assert packed is not None
    return packed


def attachment(array: np.ndarray[Any, Any]) -> Mapping:
    mapping = mapping_of(array)
    assert mapping is not None
    return mapping


def lease_is_dropped(mapping: weakref.ref[Mapping]) -> bool:
    there = mapping()
    assert there is not None
    return there.lease_dropped


def test_what_is_kept_has_a_lease_only_while_it_is_used() -> None:
    kept = arrivals.AttachmentCache(2)
    with sa.share(DATA) as array:
        sent = packed(array)
        mapping = weakref.ref(attachment(kept.view(sent)))
        for _ in range(3):
            kept.settle()
            assert lease_is_dropped(mapping)
            view = kept.view(sent)
            kept.settle()
            assert not lease_is_dropped(mapping)
            np.testing.assert_array_equal(view, DATA)
            view = view[1:2]  # however little of it
            kept.settle()
            assert not lease_is_dropped(mapping)
            del view
        kept.settle()
        assert lease_is_dropped(mapping)
        kept.clear()
        assert mapping() is None


def test_what_comes_in_another_way_holds_what_is_kept_for_as_long_as_it_lives() -> None:
    kept = arrivals.AttachmentCache(2)
    with sa.share(DATA) as array:
        sent = packed(array)
        mapping = weakref.ref(attachment(kept.view(sent)))
        kept.settle()
        view = array[1:].reference().attach()
        assert attachment(view) is mapping()
        for _ in range(2):
            kept.settle()
            assert not lease_is_dropped(mapping)
        np.testing.assert_array_equal(view, DATA[1:])
        del view
        kept.settle()
        assert lease_is_dropped(mapping)
        kept.clear()


def test_a_cached_attachment_has_a_lease_only_while_it_is_used_elsewhere() -> None:
    """By a second way to the same block, while the first array, which needs none, is used."""
    kept = arrivals.AttachmentCache(2)
    with sa.share(DATA) as array:
        sent = packed(array)
        mapping = weakref.ref(attachment(kept.view(sent)))
        for _ in range(2):  # until one is cached
            kept.settle()
            kept.view(sent)
        kept.settle()
        view = kept.view(sent)
        assert lease_is_dropped(mapping)
        other = array.reference().attach()
        assert not lease_is_dropped(mapping)
        np.testing.assert_array_equal(view, other)
        del view, other
        kept.settle()
        assert lease_is_dropped(mapping)
        kept.clear()


@needs_fork
def test_a_forked_child_has_a_lease_of_its_own_on_a_cached_attachment() -> None:
    """It gives that up as any process does; each child, for the first fork changes how leases are held."""
    kept = arrivals.AttachmentCache(2)
    with sa.share(DATA) as array:
        sent = packed(array)
        for _ in range(2):  # until one is cached
            kept.view(sent)
            kept.settle()
        for _ in range(2):
            view = kept.view(sent)
            mapping = attachment(view)
            pid = os.fork()
            if not pid:
                os._exit(mapping.lease_dropped or mapping.released or view.closed)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            del mapping, view
            kept.settle()
            (at,) = kept.attached.values()
            assert at.mapping.lease_dropped
            del at
        kept.clear()


def test_the_last_lease_of_what_is_kept_frees_the_block() -> None:
    """Its owner is gone, and `forget` is not called, for instance because its caller is gone too."""
    kept = arrivals.AttachmentCache(2)
    array = sa.share(DATA)
    name, sent = array.name, packed(array)
    kept.view(sent)
    kept.settle()
    view = kept.view(sent)
    kept.settle()
    array.close()
    assert sa.exists(name)
    del view
    kept.settle()
    assert not sa.exists(name)
    assert not kept.attached


def test_what_is_dropped_while_it_is_used_ends_with_the_last_array() -> None:
    kept = arrivals.AttachmentCache(2)
    with sa.share(DATA) as array:
        sent = packed(array)
        for _ in range(2):
            kept.view(sent)
            kept.settle()
        stash = kept.view(sent)
        thread = threading.Thread(target=kept.clear)
        thread.start()
        thread.join()
        mapping = weakref.ref(attachment(stash))
        assert not lease_is_dropped(mapping)
        kept.settle()
        kept.view(sent)  # is kept again, on the same attachment
        kept.settle()
        assert not lease_is_dropped(mapping)
        np.testing.assert_array_equal(stash, DATA)
        del stash
        kept.settle()
        assert lease_is_dropped(mapping)
        kept.clear()
        assert mapping() is None


# -- on their way -----------------------------------------------------------------------------------------


def test_a_reference_on_its_way_keeps_its_block() -> None:
    sent = send(sa.share(DATA, name="travelling"))
    gc.collect()
    (block,) = sa.blocks()
    assert (block.name, block.held, block.references, block.orphan) == ("travelling", False, 1, False)
    assert sa.prune() == []
    arrived = pickle.loads(sent)
    np.testing.assert_array_equal(arrived, DATA)
    (block,) = sa.blocks()
    assert (block.held, block.references) == (True, 0)
    with pytest.raises(sa.BlockExistsError):
        sa.zeros(3, name="travelling")
    del arrived
    gc.collect()
    assert sa.blocks() == []


def test_an_unlinked_block_still_arrives() -> None:
    array = sa.share(DATA, name="gone")
    sent = send(array)
    array.unlink()
    array.close()
    del array
    gc.collect()
    arrived = pickle.loads(sent)
    np.testing.assert_array_equal(arrived, DATA)
    del arrived
    gc.collect()
    assert os.listdir(registry.directory()) in ([], [os.path.basename(registry.registry_of(""))])


@needs_files
def test_a_reference_that_never_arrives_ends_a_grace_period_after_its_sender() -> None:
    script = """
        import sharedarray as sa
        from helpers import say
        from multiprocessing.reduction import ForkingPickler
        pickled = bytes(ForkingPickler.dumps(sa.zeros(3, name="lost")))
        say([sa.blocks()[0].references, pickled.hex()])
    """
    references, pickled = answer(script, SHAREDARRAY_GRACE="1000")
    assert references == 1
    (block,) = sa.blocks()
    assert (block.name, block.references, block.creator_alive) == ("lost", 1, False)
    assert sa.prune() == []
    assert pickle.loads(bytes.fromhex(pickled)).tolist() == [0, 0, 0]
    wait_until(lambda: not sa.blocks(), "what has arrived is gone")
    answer(script, SHAREDARRAY_GRACE="0.3")
    wait_until(lambda: not sa.blocks(), "what never arrives ends")


def test_a_living_sender_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDARRAY_GRACE", "0")
    sent = send(sa.share(DATA))
    assert sa.prune() == []
    np.testing.assert_array_equal(pickle.loads(sent), DATA)


# -- between real processes -------------------------------------------------------------------------------


def write(view: np.ndarray[Any, Any], value: float) -> str:
    view[...] = value
    return type(view).__name__


def produce(index: int) -> sa.SharedArray:
    return sa.share(np.full((50, 50), float(index)))


def consume(queue: Any, counts: Any) -> None:
    total = whole = 0
    while (frame := queue.get()) is not None:
        index, array = frame
        total += 1
        whole += bool((array == index).all())
        if total % 50 == 0:
            time.sleep(0.01)  # a slow consumer: the producer is far ahead
    counts.put((total, whole))


METHODS = multiprocessing.get_all_start_methods()


@pytest.mark.parametrize("method", METHODS)
def test_multiprocessing_pool_writes_through(method: str) -> None:
    with sa.zeros((8, 100)) as array:
        with multiprocessing.get_context(method).Pool(2) as pool:
            classes = pool.starmap(write, [(array[i, ::2], i + 1.0) for i in range(8)])
            classes += pool.starmap(write, [(np.asarray(array)[:0], 0.0)])
            pool.close()
            pool.join()
        assert classes == ["SharedArray"] * 8 + ["ndarray"]
        np.testing.assert_array_equal(array[:, 0], np.arange(1, 9))
        np.testing.assert_array_equal(array[:, 1], 0)


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no fork server")
def test_results_of_workers_that_exit_before_they_are_read() -> None:
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as executor:
        futures = [executor.submit(produce, i) for i in range(4)]
        results = [future.result() for future in futures]
    del futures
    for i, result in enumerate(results):
        assert type(result) is sa.SharedArray
        assert (result == i).all()
    assert pins() == 0
    del result, results
    gc.collect()
    assert sa.blocks() == []


@many_starts
def test_a_producer_that_drops_each_frame_at_once() -> None:
    queue: Any = multiprocessing.Queue()
    counts: Any = multiprocessing.Queue()
    consumers = [multiprocessing.Process(target=consume, args=(queue, counts)) for _ in range(2)]
    for consumer in consumers:
        consumer.start()
    for i in range(1000):
        queue.put((i, sa.share(np.full((20, 20), i))))
    for _ in consumers:
        queue.put(None)
    found = [counts.get(timeout=60) for _ in consumers]
    for consumer in consumers:
        consumer.join()
    queue.close()
    counts.close()
    queue.join_thread()
    counts.join_thread()
    assert np.sum(found, axis=0).tolist() == [1000, 1000]
    assert pins() == 0
    assert sa.blocks() == []


def test_pipes_and_managers(arrays: Any) -> None:
    array = arrays[0]
    here, there = multiprocessing.Pipe()
    with here, there:
        here.send(array[1:3])
        arrived = there.recv()
        arrived[0, 0] = -5
        assert array[1, 0] == -5
        del arrived
    with multiprocessing.Manager() as manager:
        held = manager.dict()
        held["view"] = array[:, 2]
        found = held["view"]
        assert type(found) is sa.SharedArray
        found[:] = 4
    assert (array[:, 2] == 4).all()


# -- other packages, in both import orders ----------------------------------------------------------------

PACKAGES = {
    "joblib": """
        import joblib
        result = joblib.Parallel(2)(joblib.delayed(write)(a[i], i + 1.0) for i in range(4))
        made = joblib.Parallel(2)(joblib.delayed(produce)(i) for i in range(4))
    """,
    "joblib.pool": """
        import joblib
        parallel = joblib.Parallel(2, backend="multiprocessing")
        result = parallel(joblib.delayed(write)(a[i], i + 1.0) for i in range(4))
        made = parallel(joblib.delayed(produce)(i) for i in range(4))
    """,
    "loky": """
        import loky
        executor = loky.get_reusable_executor(2)
        result = list(executor.map(write, a, [1.0, 2.0, 3.0, 4.0]))
        made = list(executor.map(produce, range(4)))
        executor.shutdown()
    """,
    "dask.multiprocessing": """
        import dask, dask.multiprocessing
        result = dask.compute(*(dask.delayed(write)(a[i], i + 1.0) for i in range(4)), scheduler="processes")
        made = dask.compute(*(dask.delayed(produce)(i) for i in range(4)), scheduler="processes")
    """,
    "distributed": """
        import distributed
        options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
        with distributed.LocalCluster(2, **options) as cluster:
            with distributed.Client(cluster) as client:
                result = client.gather([client.submit(write, a[i], i + 1.0, pure=False) for i in range(4)])
                made = client.gather([client.submit(produce, i) for i in range(4)])
    """,
}

PROGRAM = """
import sys
{before}
import numpy as np
import sharedarray as sa

def write(view, value):
    view[...] = value
    return type(view).__name__

def produce(index):
    return sa.share(np.full(1000, float(index)))

if __name__ == "__main__":
    a = sa.zeros((4, 1000))
{body}
    assert list(result) == ["SharedArray"] * 4, result
    assert (a == np.arange(1.0, 5.0)[:, None]).all()
    for i, array in enumerate(made):
        assert type(array) is sa.SharedArray and (array == i).all(), array
    print("done")
"""


@pytest.mark.parametrize(
    "first", ["package first", pytest.param("sharedarray first", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "package",
    [
        pytest.param(name, marks=pytest.mark.slow) if name.startswith(("dask", "distributed")) else name
        for name in PACKAGES
    ],
)
def test_other_packages_pass_references(package: str, first: str, tmp_path: Path) -> None:
    pytest.importorskip(package.partition(".")[0])
    script = tmp_path / "program.py"
    body = textwrap.indent(textwrap.dedent(PACKAGES[package]), "    ")
    before = f"import {package}" if first == "package first" else ""
    script.write_text(PROGRAM.format(before=before, body=body))
    # Dask may pickle without sending; what it leaves ends a grace period later.
    environment = {**os.environ, "SHAREDARRAY_GRACE": "0.5"}
    ended = subprocess.run(
        [sys.executable, str(script)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout == "done\n", ended.stderr
    wait_until(lambda: not sa.blocks(), "no block is left")


def test_what_is_stored_outlives_every_block(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    with sa.share(DATA) as array:
        np.save(tmp_path / "saved.npy", array)
        np.savez(tmp_path / "saved.npz", array=array)
        joblib.dump({"model": array}, tmp_path / "model.joblib")
        (tmp_path / "model.pickle").write_bytes(pickle.dumps({"model": array[1:]}))
        buffer = io.BytesIO()
        pickle.Pickler(buffer).dump(array)
    del array
    gc.collect()
    assert sa.blocks() == []
    np.testing.assert_array_equal(np.load(tmp_path / "saved.npy"), DATA)
    np.testing.assert_array_equal(np.load(tmp_path / "saved.npz")["array"], DATA)
    np.testing.assert_array_equal(joblib.load(tmp_path / "model.joblib")["model"], DATA)
    np.testing.assert_array_equal(pickle.loads((tmp_path / "model.pickle").read_bytes())["model"], DATA[1:])
    np.testing.assert_array_equal(pickle.loads(buffer.getvalue()), DATA)


TRACED = """
import sys

def trace(frame, event, argument):
    # May refer to every local variable once more, as a debugger's window does. In a module, Python 3.12
    # changes the globals by this, while a comprehension goes through them.
    if frame.f_code.co_name != "<module>":
        frame.f_locals
    return trace

if {when!r} in ("import", "always"):
    sys.settrace(trace)
import numpy as np
import sharedarray as sa
from sharedarray._arrivals import AttachmentCache
from sharedarray._reference import pack_held
from sharedarray._segment import mapping_of
sys.settrace(trace if {when!r} in ("calls", "always") else None)

def main():
    array, kept = sa.share(np.arange(1000.0)), AttachmentCache(8)
    packed = pack_held(array, mapping_of(array))
    for turn in range(3):
        for keep in (lambda x: x, lambda x: x[::2], memoryview, lambda x: x.base, lambda x: x.segment,
                     lambda x: x.segment.buf, lambda x: x.lock(), lambda x: np.asarray(x).T):
            views = [kept.view(packed) for _ in range(1 + turn)]
            mapping = mapping_of(views[0])
            left = keep(views[-1])
            del views
            for _ in range(2):
                kept.settle()
                assert not mapping.lease_dropped, "the block was given up though something is on it"
            if turn:
                kept.clear()  # as a long task does
                kept.view(packed)
                kept.settle()
                assert not mapping.lease_dropped, "it was given up after all were let go"
            del left
            kept.view(packed)
            kept.settle()
            assert mapping_of(kept.view(packed)).lease_dropped, "it is held though nothing is on it"
            kept.settle()
    kept.clear()

main()
print("in order")
"""


@pytest.mark.parametrize(
    "when", ["never", "import", *(pytest.param(when, marks=pytest.mark.slow) for when in ("calls", "always"))]
)
def test_what_is_used_is_known_whatever_counts_references(when):
    assert run(TRACED.replace("{when!r}", repr(when))).stdout.strip() == "in order"
