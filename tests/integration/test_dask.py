"""Dask on one machine: its process scheduler on a `Pool`, and its distributed one with references."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import array_classes
import numpy as np
import pytest
from helpers import nothing_left, run, wait_until
from pipeline import pipeline, same

import sharedarray as sa
from sharedarray._segment import mapping_of

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
import dask.array as da  # noqa: E402

from sharedarray.integrations import _transport as transport  # noqa: E402
from sharedarray.integrations.dask import DaskPool, _given_often, from_array, share  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.lingers("thread", "descriptor", "child"),  # Dask's callbacks, and the fork server
]
MB = 1 << 20


@pytest.fixture
def pool() -> Iterator[sa.Pool]:
    with sa.Pool(2) as made, dask.config.set(scheduler="processes", pool=made):
        yield made


# -- the process scheduler ------------------------------------------------------------------------------


def test_arrays_are_not_pickled_on_their_way_through_a_pool(pool: sa.Pool) -> None:
    data = np.random.default_rng(0).random((1000, 1000))
    array = da.from_array(data, chunks=(250, 1000))
    assert (array + 1).sum().compute() == pytest.approx((data + 1).sum(), rel=1e-12)
    sent = pool.stats()
    assert sent.pickled_bytes < 100_000
    assert data.nbytes <= sent.copied_bytes < 1.1 * data.nbytes  # each block once
    back = (array * 2).compute()
    np.testing.assert_array_equal(back, data * 2)
    # Dask computes blocks, joins them, and passes the whole on: three steps there and back, a copy for each.
    assert pool.stats().copied_bytes - sent.copied_bytes <= 6 * data.nbytes
    assert pool.stats().pickled_bytes < 200_000


def test_chunks_of_a_shared_array_are_where_they_are(pool: sa.Pool) -> None:
    with sa.share(np.arange(400_000.0).reshape(400, 1000)) as shared:
        array = from_array(shared, chunks=(100, 1000))
        assert array.sum().compute() == pytest.approx(shared.sum(), rel=1e-12)
        assert pool.stats().copied_bytes == 0
        assert pool.stats().shared_bytes >= shared.nbytes
        assert array[150:160, ::2].compute().tolist() == shared[150:160, ::2].tolist()
        expected = (shared + shared.mean(axis=0)).max()
        assert (array + array.mean(axis=0)).max().compute() == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_what_else_dask_does(pool: sa.Pool) -> None:
    factor = 3
    assert dask.delayed(lambda x: x * factor)(2).compute() == 6
    with pytest.raises(ZeroDivisionError):
        dask.delayed(divmod)(1, 0).compute()
    with pytest.raises(TypeError, match="pickle"):
        dask.delayed(lambda: (i for i in range(3)))().compute()
    shared = dask.delayed(lambda: sa.full(1000, 7.0))().compute()
    assert type(shared) is sa.SharedArray
    assert shared.sum() == 7000
    rng = da.random.default_rng(0)
    matrix = rng.random((600, 600), chunks=200)
    product = (matrix @ matrix.T).compute()
    np.testing.assert_allclose(product, product.T)


@pytest.mark.slow
def test_frames(pool: sa.Pool) -> None:
    frames = pytest.importorskip(
        "dask.dataframe", reason="dask.dataframe needs pyarrow", exc_type=ImportError
    )
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"key": np.arange(200_000) % 7, "value": np.arange(200_000.0)})
    parts = frames.from_pandas(frame, npartitions=4)
    expected = frame.groupby("key").value.mean()
    pandas.testing.assert_series_equal(parts.groupby("key").value.mean().compute(), expected)
    assert pool.stats().pickled_bytes < frame.memory_usage().sum() / 4


def test_other_executors_take_the_same_graphs() -> None:
    """Any pool can pickle the result of `dumps`, also without out-of-band buffers."""
    from sharedarray.integrations._packing import Packed, dumps, loads

    given = {"a": np.arange(10_000), "f": lambda x: x + 1, "small": np.arange(3)}
    packed = dumps(given)
    assert type(packed) is Packed
    assert len(packed.found) == 1
    for protocol in (2, 5):
        found = loads(pickle.loads(pickle.dumps(packed, protocol)))
        assert found["f"](1) == 2
        np.testing.assert_array_equal(found["a"], given["a"])


# -- the distributed scheduler --------------------------------------------------------------------------


def fill_equal_targets(**options: Any) -> None:
    """Store into targets that are equal at first: each is filled."""
    values = np.arange(600.0)
    source = da.from_array(values, chunks=100) + 1
    first, second = sa.zeros(600), sa.zeros(600)
    source.store(first, **options)
    source.store(second, **options)
    assert np.array_equal(first, values + 1)
    assert np.array_equal(second, values + 1)
    targets = [sa.zeros(600), sa.zeros(600), *sa.zeros((2, 600))]
    da.store([source, source, source, source * 2], targets, **options)
    assert [bool((target == values + 1).all()) for target in targets[:3]] == [True] * 3
    assert np.array_equal(targets[3], 2 * (values + 1))
    first[:] = 0
    source.store(first, **options)
    assert np.array_equal(first, values + 1)


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_store_fills_each_of_equal_targets(scheduler: str) -> None:
    fill_equal_targets(scheduler=scheduler)


def test_store_fills_each_of_equal_targets_on_a_pool(pool: sa.Pool) -> None:
    fill_equal_targets()


def test_a_token_tells_values_and_memory() -> None:
    token = dask.base.tokenize
    one, other = sa.zeros((2, 9)), sa.zeros((2, 9))
    assert token(one) == token(one) == token(sa.attach(one.name))
    tokens = {
        token(array) for array in (one, other, one[0], one[1], one[:, ::-1], np.asarray(one), other[1:])
    }
    assert len(tokens) == 6  # one and np.asarray(one) are the same memory
    before = token(one)
    one[0] = 1
    assert token(one) != before
    assert token(sa.attach(one.name, "c")) != token(sa.attach(one.name, "c"))
    large = sa.zeros(1 << 17)
    before = token(large)
    del large
    assert token(sa.zeros(1 << 17)) != before  # of the same file, perhaps
    plain = np.zeros(9)
    assert token(plain) == token(np.zeros(9))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_texts_are_grouped_right(method: str) -> None:
    """The partition of a key is found by its hash, in several workers."""
    import dask.bag

    words = [f"word {number % 7}" for number in range(350)]
    with sa.Pool(2, method) as pool, dask.config.set(scheduler="processes", pool=pool):
        bag = dask.bag.from_sequence(words, npartitions=10)
        groups = bag.groupby(str, shuffle="tasks").map(lambda group: (group[0], len(group[1]))).compute()
    assert sorted(groups) == [(f"word {number}", 50) for number in range(7)]


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    # A process that asks a dead worker for data tries for this time, which is half a minute by default.
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
        distributed.LocalCluster(2, **options) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    gc.collect()
    wait_until(nothing_left, "nothing is left")


def where(array: Any) -> tuple[str, str | None, bool]:
    found = mapping_of(array)
    return type(array).__name__, None if found is None else found.name, array.flags.writeable


def test_the_same_pipeline_as_on_a_pool(client: Any) -> None:
    with sa.Pool(2) as pool:
        expected = pipeline(pool)
    with DaskPool(client) as pool:
        assert same(pipeline(pool), expected)


def test_store_fills_each_of_equal_targets_on_a_cluster(client: Any) -> None:
    fill_equal_targets()


def test_one_domain_is_one_memory(client: Any) -> None:
    with sa.zeros((4, 1000)) as array:
        whole = share(client, array)
        found = [client.submit(where, whole, workers=[name], pure=False) for name in client.nthreads()]
        assert client.gather(found) == [("SharedArray", array.name, True)] * 2
        client.gather([client.submit(np.copyto, array[i], i, pure=False) for i in range(4)])
        assert (array == np.arange(4.0)[:, None]).all()
        assert len(sa.blocks()) == 1
        del whole, found


def test_the_memory_manager_leaves_what_is_shared_alone(client: Any) -> None:
    shared, other = share(client, np.arange(1000.0)), client.scatter(np.arange(1000.0), broadcast=True)
    client.amm.run_once()
    has = client.who_has([shared, other])
    assert [len(has[future.key]) for future in (shared, other)] == [2, 1]
    del shared, other


def test_a_pool_writes_where_it_may(client: Any) -> None:
    with DaskPool(client) as pool:
        array = pool.share(np.arange(100_000.0))
        assert pool.map_blocks(np.sqrt, array, out=array) is array
        np.testing.assert_array_equal(array, np.sqrt(np.arange(100_000.0)))
        made = pool.map_blocks(np.negative, array)
        assert type(made) is sa.SharedArray
        assert pool.submit(where, array[::2]).result() == ("SharedArray", array.name, True)
        assert pool.submit(where, np.ones(300_000)).result()[0] == "ndarray"
        del made
    assert array.closed


def fail(i: int) -> int:
    if i == 3:
        raise KeyError(i)
    return i


@pytest.mark.slow
def test_a_pool_is_an_executor(client: Any) -> None:
    from concurrent.futures import CancelledError, as_completed, wait

    pool = DaskPool(client)
    futures = [pool.submit(pow, i, 2) for i in range(10)]
    done, rest = wait(futures, 30)
    assert not rest
    assert sorted(future.result() for future in as_completed(done)) == [i * i for i in range(10)]
    with pytest.raises(KeyError):
        list(pool.map(fail, range(6), chunksize=1))
    with pytest.raises(TimeoutError):
        next(pool.map(_sleep, [1], timeout=0.1))
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(abs, [1], chunksize=0)
    big = np.ones(MB // 4)
    assert list(pool.map(lambda i: float(big[i]), range(4))) == [1.0] * 4
    assert list(pool.map(np.dot, [big, big], [big, big])) == [MB / 4] * 2
    late = pool.submit(_sleep, 0.5)
    assert late.cancel()
    with pytest.raises(CancelledError):
        late.result(60)
    pool.shutdown(cancel_futures=True)
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(abs, 1)
    with pytest.raises(TypeError, match="Client"):
        DaskPool("tcp://nowhere")
    assert client.submit(abs, -1).result() == 1  # the cluster goes on


def _sleep(seconds: float) -> None:
    import time

    time.sleep(seconds)


class Bringing:
    """A function that is pickled by an array of the moment."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> Any:
        return Bringing, (self.array + 0,)

    def __call__(self, n: int) -> Any:
        return n


def test_arrays_that_are_given_often_stay_for_as_long_as_their_ids_count() -> None:
    ((key, (array, copy)),) = _given_often(Bringing(np.arange(300_000.0)), [(1,), (2,)]).items()
    assert id(array) == key
    assert np.array_equal(array, copy)
    assert mapping_of(copy) is not None


def test_a_call_without_a_waiter_is_done_all_the_same(client: Any, tmp_path: Path) -> None:
    with DaskPool(client) as pool:
        for number in range(4):
            pool.submit((tmp_path / str(number)).touch)
        gc.collect()
    assert len(list(tmp_path.iterdir())) == 4
    late: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        _interrupted(client, late)
    assert any(future.cancelled() for future in late)


def _interrupted(client: Any, late: list[Any]) -> None:
    with DaskPool(client) as pool:
        late += [pool.submit(_sleep, 0.3) for _ in range(10)]
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_worker_that_dies_loses_nothing(client: Any) -> None:
    with DaskPool(client) as pool:
        shared = pool.share(np.arange(1000.0))
        victim = next(iter(client.run(os.getpid).values()))
        found = pool.map(
            lambda i: (float(shared[i]), os.getpid() == victim and os.kill(victim, 9)), range(20)
        )
        assert [value for value, _ in found] == list(range(20))
    client.wait_for_workers(2)


def raises(error: BaseException, item: int = 3) -> int:
    if item == 3:
        raise error
    return item


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (StopIteration("end"), RuntimeError("the task raised StopIteration")),
        (StopAsyncIteration("end"), RuntimeError("the task raised StopAsyncIteration")),
        (SystemExit(3), SystemExit(3)),
        (GeneratorExit("end"), GeneratorExit("end")),
        (asyncio.CancelledError("mine"), asyncio.CancelledError("mine")),
        (TimeoutError("mine"), TimeoutError("mine")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_task_raises_comes_home(client: Any, error: BaseException, seen: BaseException) -> None:
    with DaskPool(client) as pool:
        ways = [
            lambda: pool.submit(raises, error).result(60),
            lambda: list(pool.map(raises, [error] * 5, range(5), timeout=60)),
            lambda: list(map(Future.result, [pool.submit(raises, error, item) for item in range(5)])),
        ]
        for way in ways:
            with pytest.raises(type(seen), match=f"(?m)^{seen}$"):
                way()
        assert pool.submit(abs, -1).result(60) == 1
        assert len(client.nthreads()) == 2  # no worker ended by it


def test_what_is_spilled_is_stored_with_its_data() -> None:
    from distributed.protocol import deserialize_bytes, serialize_bytelist

    array = sa.share(np.arange(5000.0))
    stored = b"".join(serialize_bytelist(array)), b"".join(serialize_bytelist({"in": [array]}))
    array.close()
    del array
    assert nothing_left()
    back = deserialize_bytes(stored[0])
    assert type(back) is sa.SharedArray
    assert back.sum() == np.arange(5000.0).sum()
    assert deserialize_bytes(stored[1])["in"][0].sum() == back.sum()
    del back


# -- domains --------------------------------------------------------------------------------------------


def test_a_domain_is_the_boot_and_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    boot, _, device = transport.domain().partition("/")
    assert device == str(os.stat(os.environ["SHAREDARRAY_DIR"]).st_dev)
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    monkeypatch.setenv("SHAREDARRAY_DIR", "/proc")
    assert transport.domain() == f"{boot}/{os.stat('/proc').st_dev}"


@pytest.mark.parametrize(
    ("recipient", "data"),
    [
        ({"address": "tcp://127.0.0.1:5"}, False),  # all that can be reached by it are on this machine
        ({"address": "inproc://10.0.0.1/5/6"}, False),
        ({"address": "tcp://10.0.0.1:5"}, True),  # it may pass it on, to whomever
        ({"address": "tcp://10.0.0.1:5", "sharedarray": ("here", False)}, False),
        ({"address": "tcp://10.0.0.1:5", "sharedarray": ("here", True)}, True),
        ({"address": "tcp://127.0.0.1:5", "sharedarray": ("here", True)}, False),
        ({"address": "tcp://127.0.0.1:5", "sharedarray": ("elsewhere", False)}, True),
        ({"address": "tls://[::1]:5"}, False),
    ],
)
def test_data_goes_along_unless_the_reader_is_here(recipient: dict[str, Any], data: bool) -> None:
    if recipient.get("sharedarray", ("",))[0] == "here":
        recipient = {**recipient, "sharedarray": (transport.domain(), recipient["sharedarray"][1])}
    context = {"recipient": recipient, "sender": {"address": "tcp://10.0.0.1:7"}}
    with sa.zeros(3) as array, transport._pickling_for(context=context):
        assert (transport._reduce(array)[1][1] is not None) == data


@pytest.mark.parametrize("order", ["C", "F"])
def test_elsewhere_it_is_remade(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another domain: by a client to write, by workers as one replica."""
    array = sa.share(np.arange(12.0).reshape(3, 4), order=order)
    with transport._pickling_for(context={"recipient": {"address": "tcp://10.0.0.1:5"}}):
        frames: list[Any] = []
        sent = transport._dumps_by_pickle(
            array, 5, buffer_callback=lambda each: frames.append(bytes(each.raw()))
        )
        empty = transport._dumps_by_pickle(array[:0], 5)
    monkeypatch.setattr(transport, "domain", lambda: "elsewhere")
    monkeypatch.setattr(transport, "_in_cluster", lambda: False)
    mine = pickle.loads(sent, buffers=frames)
    assert type(mine) is sa.SharedArray
    assert mine.name != array.name
    assert mine.flags.writeable
    assert mine.flags.f_contiguous == (order == "F")
    np.testing.assert_array_equal(mine, array)
    assert pickle.loads(empty).shape == (0, 4)
    monkeypatch.setattr(transport, "_in_cluster", lambda: True)
    one, other = pickle.loads(sent, buffers=frames), pickle.loads(sent, buffers=frames)
    assert one.name == other.name
    assert not one.flags.writeable
    np.testing.assert_array_equal(one, array)
    # A client in the process of a worker has one of its own all the same.
    asked = transport._asked_by_client.set(True)
    own = pickle.loads(sent, buffers=frames)
    with transport._pickling_for(context={"recipient": {"address": "tcp://127.0.0.1:5"}}):
        on = transport._dumps_by_pickle(one)
    in_place = pickle.loads(on)  # as from a worker of its own host
    transport._asked_by_client.reset(asked)
    for each in (own, in_place):
        assert each.name not in (array.name, one.name)
        each += 1
    np.testing.assert_array_equal(one, array)
    # It knows where it came from in each process that attaches to it or gets it from here.
    with transport._pickling_for(context={"recipient": {"address": "tcp://127.0.0.1:5"}}):
        on = transport._dumps_by_pickle(other)
    monkeypatch.undo()
    home = pickle.loads(on)
    assert home.name == array.name


def test_a_replica_of_another_user_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    array = sa.share(np.arange(12.0))
    with transport._pickling_for(context={"recipient": {"address": "tcp://10.0.0.1:5"}}):
        frames: list[Any] = []
        sent = transport._dumps_by_pickle(
            array, 5, buffer_callback=lambda each: frames.append(bytes(each.raw()))
        )
    monkeypatch.setattr(transport, "domain", lambda: "elsewhere")
    monkeypatch.setattr(transport, "_in_cluster", lambda: True)
    replica = pickle.loads(sent, buffers=frames)
    path = next(block.path for block in sa.blocks() if block.name == replica.name)
    os.chmod(path, 0o666)
    with open(path, "r+b") as file:  # as another user could
        file.seek(4096)
        file.write(np.float64(-1.0).tobytes())
    assert replica[0] == -1.0
    found = pickle.loads(sent, buffers=frames)
    assert found.name != replica.name
    np.testing.assert_array_equal(found, array)
    os.chmod(path, 0o600)


def test_what_cannot_be_attached_to_says_so_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    array = sa.zeros(3)
    with transport._pickling_for(context={"recipient": {"address": "tcp://127.0.0.1:5"}}):
        sent = transport._dumps_by_pickle(array)
    monkeypatch.setattr(transport, "domain", lambda: "elsewhere")
    monkeypatch.setattr(transport, "_in_cluster", lambda: False)
    with pytest.raises(sa.BlockNotFoundError, match="--preload sharedarray"):
        pickle.loads(sent)
    monkeypatch.setattr(transport, "_in_cluster", lambda: True)
    lost = pickle.loads(sent)
    for use in (np.sum, np.asarray, len, list, lambda x: x.shape, lambda x: x[0], lambda x: x + 1):
        with pytest.raises(sa.BlockNotFoundError, match="another machine"):
            use(lost)
    passed_on = pickle.dumps(lost)
    monkeypatch.undo()
    assert pickle.loads(passed_on).name == array.name


def test_what_is_on_every_host_is_not_spilled(tmp_path: Path) -> None:
    from distributed.spill import SpillBuffer

    buffer = SpillBuffer(str(tmp_path), target=MB)
    with sa.ones(MB // 4) as array:  # more than a worker may have
        buffer[f"{transport.PREFIX}1"] = array
        buffer["another-1"] = array
        assert set(buffer.fast) == {f"{transport.PREFIX}1"}
        assert set(buffer.slow) == {"another-1"}
        buffer.clear()


def test_a_missing_dask_is_one_clear_line() -> None:
    done = run(
        "import sys; sys.modules['distributed'] = None; import sharedarray.integrations.dask", status=1
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith("needs dask and distributed: pip install 'numpy-sharedarray[dask]'")


# -- classes --------------------------------------------------------------------------------------------


def test_classes_and_masks_on_a_cluster() -> None:
    names = ["masked", "masked, hard", "recarray", "matrix", "its own reduction", "an attribute", "a slot"]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        DaskPool(client) as pool,
    ):
        for size in (8, 50_000):
            for name in names:
                for hold in (array_classes.in_block, array_classes.private):
                    sent = array_classes.CASES[name](size, hold)
                    assert array_classes.facts(pool.submit(array_classes.identity, sent).result()) == (
                        array_classes.facts(sent)
                    )
                    found = list(pool.map(array_classes.identity, [[sent], [sent]]))[1][0]
                    assert array_classes.facts(found) == array_classes.facts(sent)
                sent = array_classes.CASES[name](size, array_classes.in_block)
                there = client.submit(array_classes.facts_there, sent, pure=False).result()
                assert there == array_classes.facts(sent)
        sent = array_classes.masked(sa.share(np.arange(8.0)), np.arange(8) > 3)
        pool.submit(array_classes.overwrite, sent).result()
        assert sent.data.tolist() == [0] * 8
        recarray = array_classes.CASES["recarray"](8, array_classes.in_block)
        assert type(client.submit(array_classes.identity, recarray, pure=False).result()) is np.recarray
        sent[:4] = np.arange(4)
        filled = pool.map_blocks(lambda block: block.filled(-1), sent, block_size=3)
        assert filled.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
        for refused in (
            lambda: share(client, sent),
            lambda: from_array(sent),
            lambda: pool.share(sent),
            lambda: pool.map_blocks(np.negative, sent, block_size=3),
        ):
            with pytest.raises(sa.MaskedArrayError):
                refused()
        halves = pool.map_blocks(np.multiply, np.ones(8, "f4"), 0.5)
        assert halves.dtype == np.float32
        ml_dtypes = pytest.importorskip("ml_dtypes")
        data = np.ones(MB).astype(ml_dtypes.float8_e5m2)
        assert [found.dtype for found in pool.map(np.copy, [data, data])] == [data.dtype] * 2


def fill_group(group: sa.Group) -> tuple[str | None, str]:
    group["t"][:] += 1
    return group.name, type(group).__name__


def test_a_group_is_one_argument(client: Any, pool: sa.Pool) -> None:
    with sa.group("dask_group", {"t": (1000, "f8"), "rgb": ((10, 10, 3), "u1")}) as group:
        assert client.submit(fill_group, group).result() == ("dask_group", "Group")
        assert dask.delayed(fill_group)(group).compute() == ("dask_group", "Group")
        assert (group["t"] == 2).all()


def doubled(block: dict[str, Any]) -> Any:
    return block["x"] * 2 + block["y"][:, 0]


def summed(block: dict[str, Any]) -> float:
    return float(block["x"].sum())


def append_row(log: sa.SharedArray) -> int:
    return log.append(np.ones(3))


def test_blocks_of_groups_and_growing_arrays(client: Any) -> None:
    values = {"x": np.arange(100.0), "y": np.ones((100, 2))}
    with (
        sa.share_group(None, values) as group,
        sa.zeros((0, 3), capacity=10) as log,
        DaskPool(client) as pool,
    ):
        made = pool.map_blocks(doubled, group, block_size=30)
        assert np.array_equal(made, np.arange(100.0) * 2 + 1)
        assert pool.reduce_blocks(summed, np.add, group, block_size=30) == np.arange(100.0).sum()
        assert pool.submit(append_row, log).result() == 1
        assert client.submit(append_row, log).result() == 2
        assert len(log.refresh()) == 2
