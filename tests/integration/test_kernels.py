"""The life of a notebook's kernel: killed, interrupted, restarted, shut down, and its cells run again.

Real kernels, led by `jupyter_client`. The leader is an interpreter of its own, for the client leaves threads
and descriptors; it is told what to do by the tests.
"""

from __future__ import annotations

from typing import Any

import pytest
from helpers import block_files, nothing_left, run, wait_until

pytest.importorskip("jupyter_client", reason="needs ipykernel: pip install 'numpy-sharedarray[test]'")

LEADER = """
import os, signal, sys, time
from jupyter_client.manager import KernelManager
import sharedarray as sa
from helpers import alive, block_files, nothing_left, notes, wait_until

POOL = f'''
import multiprocessing, os, time
import numpy as np
import sharedarray as sa
context = multiprocessing.get_context({sys.argv[1]!r})
def slow(pids):
    pids[:] = os.getpid()
    time.sleep(3600)
'''
MAP = '''
pids = sa.zeros((2, 1), int, name="pids", replace=True)
data = sa.zeros(1_000_000, name="data", replace=True)
'''

class Kernel:
    def __init__(self):
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(extra_arguments=["--HistoryManager.enabled=False"])
        self._connect()

    def _connect(self):
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(60)

    @property
    def pid(self):
        return self.manager.provisioner.pid

    def begin(self, code):
        return self.client.execute(code)

    def reply(self, request):
        while True:
            reply = self.client.get_shell_msg(timeout=60)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"]

    def does(self, code):
        reply = self.reply(self.begin(code))
        assert reply["status"] == "ok", (code, reply)

    def fails(self, code):
        reply = self.reply(self.begin(code))
        assert reply["status"] == "error", code
        return reply

    def value(self, code):
        found = self.client.execute("", user_expressions={"value": code}, silent=True)
        return eval(self.reply(found)["user_expressions"]["value"]["data"]["text/plain"])

    def restart(self, now):
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self._connect()

    def shutdown(self, now=False):
        self.manager.shutdown_kernel(now=now)
        self.client.stop_channels()
        self.manager.cleanup_resources()

def workers_in_mid_map():
    "Both workers' pids, once both are at work."
    def both():
        if not sa.exists("pids"):
            return None
        try:
            with sa.attach("pids", "r") as pids:
                found = pids.ravel().tolist()
        except sa.BlockNotFoundError:
            return None
        return found if all(found) else None
    return wait_until(both, "both workers are at work", 60, 0.02)

def gone(pids):
    wait_until(lambda: not any(map(alive, pids)), "the workers end")
    wait_until(nothing_left, f"no block is left: {block_files()}")
"""


def lead(what: str, tmp_path: Any, method: str = "forkserver", **options: Any) -> None:
    """Run this part of the leader."""
    home = str(tmp_path / "home")
    run(LEADER + what, method, IPYTHONDIR=home, JUPYTER_RUNTIME_DIR=home, JUPYTER_CONFIG_DIR=home, **options)
    wait_until(nothing_left, f"nothing is left by the kernel: {block_files()}")


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn", "fork")],
)
def test_a_kernel_killed_in_mid_map_leaves_no_worker_and_no_block(method: str, tmp_path: Any) -> None:
    lead(
        """
kernel = Kernel()
kernel.does(POOL + MAP)
kernel.begin("with sa.Pool(2, context) as pool: list(pool.map(slow, pids))")
workers = workers_in_mid_map()
assert len(set(workers)) == 2 and kernel.pid not in workers and {"pids", "data"} <= block_files()
os.kill(kernel.pid, signal.SIGKILL)
gone(workers)

# The notebook's next kernel runs the same cells, which create the same names.
kernel.restart(now=True)
kernel.does(POOL + MAP.replace(", replace=True", ""))
kernel.shutdown()
gone([])
""",
        tmp_path,
        method,
    )


@pytest.mark.slow
def test_interrupting_a_kernel_in_mid_map(tmp_path: Any) -> None:
    """The cell ends with KeyboardInterrupt, and the kernel goes on, with the same pool or without one."""
    lead(
        """
kernel = Kernel()
kernel.does(POOL + MAP)
request = kernel.begin("with sa.Pool(2, context) as pool: list(pool.map(slow, pids))")
workers = workers_in_mid_map()
kernel.manager.interrupt_kernel()
reply = kernel.reply(request)
assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt"), reply
wait_until(lambda: not any(map(alive, workers)), "the workers of the with block end")
assert kernel.value("sorted(block.name for block in sa.blocks())") == ["data", "pids"]

# A pool that stands for the whole notebook goes on.
kernel.does("pids[:] = 0; pool = sa.Pool(2, context)")
request = kernel.begin("list(pool.map(slow, pids))")
workers = workers_in_mid_map()
kernel.manager.interrupt_kernel()
assert kernel.reply(request)["ename"] == "KeyboardInterrupt"
wait_until(lambda: not any(map(alive, workers)), "what was interrupted does not run on")
kernel.does("assert list(pool.map(np.sum, np.ones((4, 3)))) == [3, 3, 3, 3]")
everybody = kernel.value("[w.pid for w in __import__('psutil').Process().children(recursive=True)]")
assert everybody
kernel.shutdown()
gone(everybody)
""",
        tmp_path,
    )


@pytest.mark.slow
def test_restarting_and_shutting_down_a_kernel_in_mid_map(tmp_path: Any) -> None:
    lead(
        """
kernel = Kernel()
kernel.does(POOL + MAP + "pool = sa.Pool(2, context)\\nkept = [pool.submit(slow, row) for row in pids]")
workers = workers_in_mid_map()
kernel.restart(now=False)  # the client asks, waits for some seconds, and kills
gone(workers)
kernel.does(POOL + MAP + "pool = sa.Pool(2, context)\\nkept = [pool.submit(slow, row) for row in pids]")
workers = workers_in_mid_map()
kernel.shutdown(now=True)
gone(workers)
""",
        tmp_path,
    )


@pytest.mark.slow
def test_a_cell_that_creates_a_name_runs_again(tmp_path: Any) -> None:
    lead(
        """
kernel = Kernel()
kernel.does("import numpy as np, sharedarray as sa")
kernel.does("x = sa.share(np.arange(3), name='x')\\nx")
reply = kernel.fails("x = sa.share(np.arange(3), name='x')")
assert reply["ename"] == "BlockExistsError"
for word in ("attach", "exist_ok=True", "replace=True", "this process holds it"):
    assert word in reply["evalue"], reply["evalue"]
kernel.does("x = sa.share(np.arange(4), name='x', replace=True)")
kernel.does("x = sa.share(np.arange(4), name='x', exist_ok=True)")
assert kernel.value("x.tolist()") == [0, 1, 2, 3]

# IPython keeps what a cell has shown; what it shows is not the block, so a dropped array is gone.
kernel.does("del x, _")
kernel.does("x = sa.zeros(7, name='x')")

# A kernel that has crashed never blocks its name, whatever the option.
for options in ("", ", exist_ok=True", ", replace=True"):
    os.kill(kernel.pid, signal.SIGKILL)
    kernel.restart(now=True)
    kernel.does(f"import sharedarray as sa; x = sa.ones(5, name='x'{options}); assert x.sum() == 5")
kernel.shutdown()
gone([])
""",
        tmp_path,
    )
