"""Dask on many machines: hosts with their own ``/dev/shm``, two workers each, some of which are lost.

See `hosts` for what a host is here. Scheduler and client are on a third one, the machine itself.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hosts
import numpy as np
import pytest
from helpers import ANSWER, environment, wait_until
from pipeline import pipeline, same

import sharedarray as sa

distributed = pytest.importorskip("distributed")
from sharedarray.integrations.dask import DaskPool, share  # noqa: E402

_why_not = hosts.why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.lingers("thread", "descriptor", "child"),  # Dask's own, and the fork server
    pytest.mark.skipif(_why_not is not None, reason=str(_why_not)),
]

MB = 1 << 20
SHARED = 256 * MB
SLACK = 2 * MB  # what else may be on a host's /dev/shm: headers, registries, locks


class Cluster:
    """A scheduler, and workers on hosts."""

    def __init__(self, stack: contextlib.ExitStack, where: Path) -> None:
        self.where = where
        self.network = stack.enter_context(hosts.Network())
        told = where / "scheduler.json"
        self.scheduler = subprocess.Popen(
            [
                *(sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", self.network.address),
                *("--port", "0", "--no-dashboard", "--scheduler-file", str(told), "--preload", "sharedarray"),
            ],
            env=environment(SHAREDARRAY_GRACE="1"),
            stderr=subprocess.DEVNULL,
        )
        stack.callback(self.scheduler.wait, ANSWER)
        stack.callback(self.scheduler.kill)
        wait_until(lambda: told.exists() and told.read_text().endswith("}"), "the scheduler is there", ANSWER)
        self.address = json.loads(told.read_text())["address"]
        self.a, self.b = (stack.enter_context(hosts.Host(self.network, name)) for name in "ab")
        self._number = itertools.count(1)

    def complete(self, client: Any) -> None:
        """Wait until there are two workers on each host, and no others."""
        for host in (self.a, self.b):
            missing = range(2 - len(self.workers(host)))
            self.start(host, *(f"{host.name}-{next(self._number)}" for _ in missing))
        wait_until(lambda: len(self.names(client)) == 4, "four workers are there", ANSWER, 0.05)

    def start(self, host: hosts.Host, *names: str) -> None:
        for name in names:
            host.start(
                *("-m", "distributed.cli.dask_worker", self.address, "--name", name, "--host", host.address),
                *("--no-nanny", "--nthreads", "1", "--no-dashboard", "--preload", "sharedarray"),
                *("--local-directory", str(self.where / name)),
                SHAREDARRAY_GRACE="1",
            )

    def workers(self, host: hosts.Host) -> dict[str, int]:
        """Return the names of a host's workers, and their pids as this process sees them."""
        found = {}
        for pid in host.pids():
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if "--name" in words:
                found[words[words.index("--name") + 1]] = pid
        return found

    def names(self, client: Any) -> list[str]:
        """Return the workers that the scheduler knows, if they are those that live."""
        known = sorted(told["name"] for told in client.scheduler_info(n_workers=-1)["workers"].values())
        return known if known == sorted([*self.workers(self.a), *self.workers(self.b)]) else []


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        made = Cluster(stack, tmp_path_factory.mktemp("dask"))
        yield made


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Any]:
    with distributed.Client(cluster.address) as made:
        cluster.complete(made)
        yield made
    wait_until(lambda: cluster.a.empty() and cluster.b.empty(), "both /dev/shm are empty")


def one_copy(host: hosts.Host, size: int) -> None:
    """Assert that there is one block, of this size, at last: what was there before may be on its way out."""

    def looks() -> bool:
        return len(host.blocks()) == 1 and size <= host.used() < size + SLACK

    try:
        wait_until(looks, "one copy")
    except AssertionError:
        raise AssertionError(
            f"no copy of {size} bytes alone on host {host.name}: {host.blocks()} of {host.used()} bytes"
        ) from None


def total(array: Any) -> tuple[str, float]:
    return type(array).__name__, float(array.sum())


def slowly(array: Any, number: int) -> float:
    time.sleep(0.1)
    return float(array[number]) + float(array[-1])


def test_the_same_pipeline_on_hosts_as_on_one_machine(cluster: Cluster, client: Any) -> None:
    with sa.Pool(2) as pool:
        expected = pipeline(pool)
    with DaskPool(client) as pool:
        found = pipeline(pool)
    assert same(found, expected)


def test_an_array_in_a_graph_is_there_once_on_each_host(cluster: Cluster, client: Any) -> None:
    with sa.share(np.arange(8.0 * MB / 8).reshape(-1, 64)) as array:
        row, whole = array[3], array[::2].T
        for given in (array, row, whole):
            futures = [client.submit(total, given, workers=[name], pure=False) for name in client.nthreads()]
            assert client.gather(futures) == [("SharedArray", float(given.sum()))] * 4
        del futures
        first, *rest = cluster.workers(cluster.a)
        held = client.submit(same_again, array, workers=[first], pure=False)
        rest += cluster.workers(cluster.b)
        others = [client.submit(same_again, held, workers=[name], pure=False) for name in rest]
        distributed.wait([held, *others])
        one_copy(cluster.a, array.nbytes)
        one_copy(cluster.b, array.nbytes)
        with pytest.raises(ValueError, match="read-only"):
            client.submit(np.copyto, held, 1, workers=rest[-1:]).result()
        home = held.result()
        assert type(home) is sa.SharedArray
        assert home.name == array.name  # it has come home to the memory that it was
        del home, held, others


def same_again(array: Any) -> Any:
    return array


def test_results_that_are_shared_arrays_come_home_as_such(cluster: Cluster, client: Any) -> None:
    one, other = cluster.workers(cluster.b)
    future = client.submit(made, 1000, workers=[one])
    home = future.result()
    assert type(home) is sa.SharedArray
    assert home.flags.writeable
    home += 1
    assert (home == 8).all()
    wait_until(lambda: len(cluster.b.blocks()) == 1, "one block")
    where = client.submit(lambda a: (a.name, a.flags.writeable), future, workers=[other]).result()
    assert where == (*cluster.b.blocks(), True)  # on its own host, it is the same memory
    del home, future


def made(count: int) -> sa.SharedArray:
    return sa.full(count, 7)


def plain(array: Any, start: int = 0) -> Any:
    return np.asarray(array)[start:]


def both(array: Any) -> Any:
    return {"plain": [np.asarray(array)], "shared": [array[1:]]}


@pytest.mark.parametrize("beside_a_scheduler", [False, True])
def test_what_comes_home_is_the_callers_to_write(
    cluster: Cluster, client: Any, beside_a_scheduler: bool
) -> None:
    """Though it may not be written on its host; and also in a process that has a scheduler, as many have."""
    with contextlib.ExitStack() as stack:
        if beside_a_scheduler:
            stack.enter_context(distributed.LocalCluster(0, processes=False, dashboard_address=":0"))
        future = share(client, np.arange(1000.0))
        (name, _) = cluster.workers(cluster.b)
        make = client.submit(made, 1000, workers=[name], pure=False)
        again = client.submit(same_again, make, workers=[next(iter(cluster.workers(cluster.a)))], pure=False)
        of_both = client.submit(both, future, workers=[name]).result()
        by_run = client.run(made, 10, workers=list(client.who_has([make])[make.key]))
        for home, first in (
            (make.result(), 7),
            (again.result(), 7),
            (client.submit(plain, future, workers=[name]).result(), 0),
            (client.submit(plain, future, 1, workers=[name]).result(), 1),
            *((each, 1) for each in of_both["shared"]),
            *((each, 0) for each in of_both["plain"]),
            *((each, 7) for each in by_run.values()),
        ):
            assert home.flags.writeable
            home += 1
            assert home[0] == first + 1
        with DaskPool(client) as pool:
            for home in (*pool.map(plain, [pool.share(np.ones((4, 30_000)))]), pool.submit(made, 3).result()):
                home += 1
        del future, make, again, home, of_both, by_run


def test_one_copy_per_host_and_no_result_lost(cluster: Cluster, client: Any) -> None:
    data = np.arange(SHARED / 8)
    future = share(client, data)
    expected = float(data.sum())
    found = [client.submit(total, future, workers=[name], pure=False) for name in client.nthreads()]
    assert client.gather(found) == [("SharedArray", expected)] * 4
    client.amm.run_once()  # Dask's memory manager, which would leave one copy in all
    assert len(client.who_has([future])[future.key]) == 4
    one_copy(cluster.a, SHARED)
    one_copy(cluster.b, SHARED)

    # A worker dies, and then everything on its host.
    tasks = [client.submit(slowly, future, number, pure=False) for number in range(60)]
    distributed.wait(tasks[:4], return_when="FIRST_COMPLETED")
    os.kill(next(iter(cluster.workers(cluster.b).values())), signal.SIGKILL)
    distributed.wait(tasks[:20])
    one_copy(cluster.b, SHARED)
    cluster.b.cut()
    assert client.gather(tasks) == [number + data[-1] for number in range(60)]
    one_copy(cluster.a, SHARED)

    # The host comes back, and so does its replica: once, whatever was left there.
    cluster.complete(client)
    names = cluster.workers(cluster.b)
    again = [client.submit(total, future, workers=[name], pure=False) for name in names]
    assert client.gather(again) == [("SharedArray", expected)] * 2
    one_copy(cluster.b, SHARED)

    # All who have it are lost: the task that returns it is done again, by one who comes later.
    for pid in [*cluster.workers(cluster.a).values(), *cluster.workers(cluster.b).values()]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: cluster.a.empty() and cluster.b.empty(), "janitors free what the dead held")
    wait_until(lambda: not client.nthreads(), "the scheduler knows", ANSWER)
    late = client.submit(total, future, pure=False)
    cluster.complete(client)
    assert late.result(ANSWER) == ("SharedArray", expected)
    one_copy(max(cluster.a, cluster.b, key=hosts.Host.used), SHARED)
    del future, found, tasks, again, late


def test_a_pool_goes_on_when_workers_die(cluster: Cluster, client: Any) -> None:
    data = np.arange(1_000_000.0).reshape(1000, 1000)
    with DaskPool(client) as pool:
        frames = pool.share(data)
        one_copy(cluster.a, frames.nbytes)
        one_copy(cluster.b, frames.nbytes)
        results = pool.map(row_sum, frames, chunksize=20)
        first = next(results)
        os.kill(next(iter(cluster.workers(cluster.a).values())), signal.SIGKILL)
        assert [first, *results] == data.sum(axis=1).tolist()
        doubled = pool.map_blocks(np.add, frames, frames, out=frames)
        assert doubled is frames
        np.testing.assert_array_equal(frames, 2 * data)


def row_sum(row: Any) -> float:
    time.sleep(0.002)
    return float(row.sum())
