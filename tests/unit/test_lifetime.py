"""Blocks live exactly as long as a process holds them: promises 1, 4, 5 and 7 of the design.

Real processes, real SIGKILL. Whatever a test does to a process, it first hears from that process where it is.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    FORKS,
    KILLED,
    Puppet,
    answer,
    block_files,
    blocks_are_files,
    inode,
    janitor_needed,
    janitors,
    kill,
    kill_janitors,
    notes,
    nothing_left,
    open_to_all,
    registry,
    run,
    wait_until,
)
from needs import few, link, needs_files, needs_fork, needs_janitor, needs_limits, needs_modes, needs_users

import sharedarray as sa
from sharedarray import _registry, _segment as segment
from sharedarray._platform import platform

HOLDS = """
a = {}
say(a.name)
hear()
"""


def holder(expression: str, *arguments: object) -> Puppet:
    """Return a process that holds the array of an expression until it is told to end."""
    puppet = Puppet(HOLDS.format(expression), *arguments)
    puppet.hear()
    return puppet


def gone(name: str) -> bool:
    """Return whether neither the block nor its record is there."""
    return inode(name) is None and not any(note.startswith(f"b.{name}@") for note in notes())


# -- the storm ------------------------------------------------------------------------------------------

# One warm process forks every round's processes, which have nothing of sharedarray's from it. Rounds overlap:
# each is a creator, attachers and one that makes and drops blocks without end. Some are killed at once, the
# others later, when the block must still be there if one of them had it; after the last death nothing of the
# round may stay.
STORM = """
import heapq, json, os, random, select, signal, sys, time
import numpy as np
import sharedarray as sa
from helpers import ANSWER, block_files, inode, notes, say

rounds, seed = int(sys.argv[1]), int(sys.argv[2])
chance = random.Random(seed)
problems = []
counts = dict(held=0, early=0, made=0)


def creator(name, ready):
    a = sa.full(3000, 7, "u2", name=name)
    os.write(ready, b"!")
    signal.pause()


def attacher(name, ready):
    while True:
        try:
            a = sa.attach(name)
            break
        except sa.BlockNotFoundError:
            time.sleep(0.0005)
    assert (a == 7).all()
    os.write(ready, b"!")
    while True:  # holds it all the time, while other attachments of it come and go
        with sa.attach(name, "r") as b:
            if b[0] != 7:
                os.write(ready, b"?")


def leaver(name, ready):
    a = sa.full(3000, 7, "u2", name=name)
    os.write(ready, b"!")
    a.close()
    signal.pause()


def churner(name, ready):
    while True:
        with sa.ones(20) as a:
            c = sa.attach(a.name)
            del c


class Process:
    def __init__(self, role, name):
        self.ready, ready = os.pipe()
        self.role = role
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(self.ready)
                role(name, ready)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(9)
            os._exit(0)
        os.close(ready)

    def said(self):
        if select.select([self.ready], [], [], 0)[0]:
            return os.read(self.ready, 100)
        return b""

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        if status != signal.SIGKILL:
            problems.append(f"{self.role.__name__} ended with {status} before it was killed")
        os.close(self.ready)


class Round:
    def __init__(self, number):
        self.name = f"r{number}"
        roles = chance.choice([
            (creator, attacher), (creator, attacher, attacher), (creator, churner), (leaver, churner),
            (creator, attacher, churner), (creator,)])
        self.processes = [Process(role, self.name) for role in roles]
        self.inode = None

    def strike_late(self, now):
        "Some of them die when all have what they need."
        for process in self.processes:
            if process.role is not churner:
                assert select.select([process.ready], [], [], ANSWER)[0], process.role
        self.strike(now)

    def strike(self, now):
        "Some of them die, whatever they are just doing."
        chance.shuffle(self.processes)
        keep = chance.choice([0, 1, 1, len(self.processes) - 1])
        victims, self.processes = self.processes[keep:], self.processes[:keep]
        for process in self.processes:  # heard before the others are killed: it has a lease by now
            if process.role in (creator, attacher) and b"!" in process.said():
                self.inode = inode(self.name)
                if self.inode is None:
                    problems.append(f"{self.name} had no name though {process.role.__name__} holds it")
        for victim in victims:
            said = victim.said()
            counts["early"] += victim.role is creator and b"!" not in said
            counts["made"] += victim.role is creator and b"!" in said
            victim.kill()
        if self.processes:
            push(now + chance.uniform(0.05, 1.5), self.finish)
        else:
            self.ends()

    def finish(self, now):
        if self.inode is not None:
            counts["held"] += 1
            if inode(self.name) != self.inode:
                problems.append(f"{self.name} vanished, or changed, while a process held it")
        for process in self.processes:
            if b"?" in process.said():
                problems.append(f"{self.name} lost its content")
            process.kill()
        self.ends()

    def ends(self):
        self.ended = time.monotonic()
        push(self.ended + 1.0, self.verify)

    def verify(self, now):
        if inode(self.name) is None:
            return
        if time.monotonic() - self.ended > ANSWER:
            problems.append(f"{self.name} was left {ANSWER} s after the last death")
        else:
            push(time.monotonic() + 0.1, self.verify)


queue = []


def push(when, what):
    heapq.heappush(queue, (when, id(what), what))


for number in range(rounds):
    due = Round(number)
    later = chance.choice([0, chance.uniform(0, 0.02), None])
    push(time.monotonic() + (later or 0), due.strike_late if later is None else due.strike)
    while queue and (queue[0][0] <= time.monotonic() or len(queue) > 24 and queue[0][2].__name__ != "verify"):
        when, _, what = heapq.heappop(queue)
        time.sleep(max(0.0, when - time.monotonic()))
        what(when)
while queue:
    when, _, what = heapq.heappop(queue)
    time.sleep(max(0.0, when - time.monotonic()))
    what(when)
say({"problems": problems[:20], "count": len(problems), "blocks": sorted(block_files()),
     "notes": sorted(notes()),
     **counts})
"""


@needs_fork
@pytest.mark.slow
def test_storm_of_sudden_deaths(own_directory):
    said = answer(STORM, 240, 1, timeout=150)
    assert said["problems"] == [], said
    assert said["blocks"] == []
    assert said["notes"] == []
    assert said["held"] > 20  # rounds in which a holder survived, and its block was checked
    assert said["early"] > 10  # creators that died before they could say that they were done
    assert said["made"] > 20
    wait_until(lambda: not janitors(), "the janitor ends when nothing is left")
    assert not os.path.lexists(registry())


# -- one death at a time --------------------------------------------------------------------------------


def test_everybody_is_killed(own_directory):
    with holder("sa.ones(10, name='x')") as creator, holder("sa.attach('x')") as attacher:
        creator.kill()
        assert sa.attach("x").sum() == 10
        attacher.kill()
        wait_until(lambda: gone("x"), "the block goes after the last death")


def test_creator_lets_go_but_lives_while_the_last_attacher_is_killed():
    with Puppet("a = sa.ones(10, name='x'); say(); hear(); a.close(); say(); hear()") as creator:
        creator.hear()
        with holder("sa.attach('x')") as attacher:
            creator.ask()
            assert inode("x") is not None
            attacher.kill()
            wait_until(lambda: gone("x"), "the block goes though its creator lives")
        creator.end()


def test_creator_that_lets_go_leaves_the_block_to_its_attachers():
    with holder("sa.full(10, 3, name='x')") as creator, holder("sa.attach('x')") as attacher:
        creator.end()
        assert sa.attach("x").tolist() == [3] * 10
        attacher.end()
    assert gone("x")


@needs_janitor
def test_the_janitor_and_every_holder_are_killed_then_prune(own_directory):
    with holder("sa.ones(10, name='x')") as creator:
        assert kill_janitors() == 1
        creator.kill()
    assert not janitors()
    assert inode("x") is not None  # no process is there to notice, so that the next line proves something
    assert sa.prune() == ["x"]
    assert gone("x")


@needs_janitor
def test_a_maker_that_publishes_and_dies_while_it_is_looked_for(own_directory, monkeypatch):
    """A sweep that finds a record, no block, and then no maker either, has missed what was in between."""
    path = Path(own_directory, "x")
    alive = _registry.alive
    with holder("sa.ones(10, name='x')") as maker:
        assert kill_janitors() == 1
        path.rename(path.with_name("not yet"))

        def publish_and_die(pid: int, started: int, *place: Any) -> bool:
            if pid == maker.pid and not path.exists():
                path.with_name("not yet").rename(path)
                maker.kill()
            return alive(pid, started, *place)

        monkeypatch.setattr(_registry.record, "alive", publish_and_die)
        assert sa.prune() == []
        assert maker.process.poll() == KILLED
    assert sa.prune() == ["x"]
    assert gone("x")


@needs_janitor
def test_the_janitor_and_every_holder_are_killed_then_the_next_creation(own_directory):
    with holder("sa.ones(10, name='x')") as creator:
        assert kill_janitors() == 1
        creator.kill()
    assert inode("x") is not None
    with sa.ones(3):
        wait_until(lambda: gone("x"), "the next creation has the old block removed")


@needs_janitor
def test_a_holder_restarts_a_killed_janitor(own_directory):
    with Puppet(
        "a = sa.ones(10, name='x'); say(); hear(); b = sa.ones(3, name='y'); say(); hear()"
    ) as holding:
        holding.hear()
        assert kill_janitors() == 1
        holding.ask()
        assert len(janitors()) == 1
        holding.kill()
        wait_until(nothing_left, "the second janitor removes both blocks")


@needs_janitor
def test_a_janitor_that_is_killed_again_and_again_never_makes_two(own_directory):
    many = [Puppet("for _ in iter(hear, 'end'): a = sa.ones(3); say(); a.close()") for _ in range(3)]
    try:
        for _ in range(5):
            for puppet in many:
                puppet.say()
            for puppet in many:
                puppet.hear()
            assert len(janitors()) == 1
            kill_janitors()
        for puppet in many:
            puppet.say("end")
            assert puppet.process.wait() == 0
    finally:
        for puppet in many:
            puppet.__exit__()
    wait_until(lambda: nothing_left() or sa.prune() is None, "nothing is left")


@needs_janitor
def test_a_holder_that_dies_before_the_janitor_welcomes_it(own_directory):
    """The janitor's first word goes to a dead process, which must not end the janitor."""
    with holder("sa.ones(10, name='x')") as first:
        (pid,) = janitors()
        os.kill(pid, signal.SIGSTOP)
        with Puppet(
            "from helpers import registry; c = sa._janitor._Connection(registry()); say(); hear()"
        ) as second:
            second.hear()
            second.kill()
        os.kill(pid, signal.SIGCONT)
        first.kill()
        wait_until(lambda: gone("x"), "the janitor lives on and removes the block")
    assert janitors() == [pid]


@pytest.mark.slow
def test_a_holder_that_dies_right_after_its_first_block(own_directory):
    for number in range(6):
        run(
            "from helpers import suicide; import sharedarray as sa; "
            f"a = sa.ones(3, name='x{number}'); suicide()",
            status=KILLED,
        )
        wait_until(lambda: gone(f"x{number}"), "its janitor, which has just been started, removes it")  # noqa: B023
        kill_janitors()


def test_an_unrelated_process_that_attaches_and_exits_destroys_nothing():
    with sa.full(10, 5, name="x") as a:
        before = inode("x")
        run("import sharedarray as sa; a = sa.attach('x'); a[0] = 6")
        run("import sharedarray as sa; a = sa.attach('x', 'r'); a.close()")
        run("import sharedarray as sa, os; a = sa.attach('x'); os._exit(0)")
        run(
            "from helpers import suicide; import sharedarray as sa; a = sa.attach('x'); suicide()",
            status=KILLED,
        )
        assert inode("x") == before
        assert sa.prune() == []
        assert a.tolist() == [6, *[5] * 9]
        assert sa.attach("x").tolist() == a.tolist()


def test_a_process_without_this_package_reads_the_block(own_directory):
    kept = not blocks_are_files()  # then what persists is one
    with sa.share(np.arange(12.0).reshape(3, 4), name="x", persist=kept) as a:
        done = subprocess.run(
            [
                sys.executable,
                "-I",
                "-W",
                "error",
                "-c",
                (
                    "import sys, numpy as np; a = np.load(sys.argv[1], mmap_mode='r'); print(a.tolist()); "
                    "assert 'sharedarray' not in sys.modules"
                ),
                f"{own_directory}/x",
            ],
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert done.stdout.strip() == str(np.arange(12.0).reshape(3, 4).tolist()), done.stderr
        a.unlink()


# -- normal ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("a = sa.zeros(10)", marks=pytest.mark.slow),
        "a = sa.zeros(10, name='x'); b = sa.attach('x'); c = b[1:]",
        pytest.param("with sa.zeros(10) as a: pass", marks=pytest.mark.slow),
        pytest.param("a = sa.zeros(10); a.close(); a[0] = 1", marks=pytest.mark.slow),
        pytest.param("a = sa.zeros(10); a.unlink()", marks=pytest.mark.slow),
        "a = sa.zeros(10); cycle = [a]; cycle.append(cycle)",
        "a = sa.zeros(10); import threading; threading.Thread(target=lambda: a.sum()).start()",
        pytest.param("a = sa.zeros(10); raise SystemExit", marks=pytest.mark.slow),
        "a = sa.zeros(10); import atexit; atexit.register(lambda: a.sum())",
        pytest.param(
            "segment = sa.Segment.create(10); view = segment.buf; sa.blocks(); sa.prune()",
            marks=pytest.mark.slow,
        ),
        "class Late:\n  def __del__(self): self.a.close()\nlate = Late(); late.a = sa.zeros(10)",
        "a = sa.zeros(10)\nwith sa.Pool(1, mp_context='spawn') as pool: pool.submit(len, a).result()",
        pytest.param(
            "a = sa.zeros(10); import os; os.chdir('/tmp'); pid = os.fork(); pid and os.waitpid(pid, 0)",
            marks=needs_fork,
        ),
    ],
)
def test_a_normal_end_prints_no_warnings_and_leaves_nothing(script):
    done = run(f"import sharedarray as sa\n{script}", flags=("-W", "error", "-X", "dev"))
    assert done.stderr == ""
    assert done.stdout == ""
    assert nothing_left()


def test_a_reader_of_a_scripts_output_is_not_kept_waiting(own_directory):
    """subprocess.run returns when all writers of the pipe have ended; the janitor must be none."""
    done = run("import sharedarray as sa\na = sa.zeros(10, persist=True, name='x')\nprint('done')")
    assert done.stdout == "done\n"
    assert len(janitors()) == janitor_needed()  # it is still there, and we were not kept waiting
    sa.unlink("x")


@needs_janitor
def test_the_janitor_inherits_nothing(own_directory):
    with Puppet(
        "import fcntl, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "os.umask(0); ends = os.pipe(); os.set_inheritable(ends[1], True); a = sa.zeros(10); say(); hear()"
    ) as puppet:
        puppet.hear()
        (pid,) = janitors()
        files = {int(n): os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        assert [files.pop(n) for n in (0, 1, 2)] == ["/dev/null"] * 3
        own = [text for text in files.values() if text.startswith("socket:") or "janitor.lock" in text]
        others = sorted(set(files.values()) - set(own))
        assert all(text.startswith(("anon_inode", "/proc")) for text in others), files
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) not in (os.getsid(0), os.getsid(puppet.pid))

        def status() -> dict[str, str]:
            with open(f"/proc/{pid}/status") as file:
                return dict(line.split(":", 1) for line in file.read().splitlines())

        wait_until(lambda: int(status()["SigBlk"], 16) == 0, "the janitor blocks no signal")
        assert not int(status()["SigIgn"], 16) & 1 << signal.SIGTERM - 1
        assert int(status()["PPid"]) != puppet.pid
        puppet.end()


@needs_janitor
def test_waiting_for_any_child_never_sees_the_janitor(own_directory):
    said = answer(
        """
        import os
        import sharedarray as sa
        from helpers import kill_janitors, say
        seen = []
        def wait():
            try:
                seen.append(os.wait())
            except ChildProcessError:
                seen.append(None)
        a = sa.zeros(10)
        wait()
        kill_janitors()
        b = sa.zeros(10)
        wait()
        pid = os.fork()
        if not pid:
            c = sa.zeros(10)
            os._exit(0)
        assert os.wait()[0] == pid
        wait()
        say(seen)
        """
    )
    assert said == [None, None, None]


# -- persist, close, unlink -----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_persistent_block_outlives_everybody_and_is_no_work_for_a_janitor(own_directory):
    with holder("sa.full(10, 4, persist=True, name='x')") as creator:
        creator.kill()
    run("import sharedarray as sa; sa.attach('x')[0] = 5")
    assert sa.prune() == []
    wait_until(lambda: not janitors(), "the janitor ends when only persistent blocks are left")
    assert sa.attach("x").tolist() == [5, *[4] * 9]
    (block,) = sa.blocks()
    assert (block.persistent, block.held, block.orphan) == (True, False, False)
    sa.unlink("x")
    assert gone("x")


def test_each_holder_can_change_persist():
    a = sa.zeros(3, name="x", persist=not blocks_are_files())  # what is a file can be made to persist
    run("import sharedarray as sa; sa.attach('x').persist()")
    a.close()
    assert inode("x") is not None
    b = sa.attach("x", "r")
    b.persist(False)
    b.close()
    assert gone("x")


def test_persist_after_close_is_refused():
    a = sa.zeros(3, name="x")
    a.close()
    with pytest.raises(sa.BlockClosedError, match="closed"):
        a.persist()


def test_close_gives_up_the_name_and_not_the_memory():
    a = sa.ones(1000, name="x")
    view = a[::2]
    a.close()
    a.close()
    assert gone("x")
    assert a.closed
    assert view.closed
    view += 1
    assert a.sum() == 1500
    with pytest.raises(sa.BlockNotFoundError):
        sa.attach("x")
    with pytest.raises(sa.BlockNotFoundError):
        a.unlink()
    assert not sa.exists("x")


def test_the_last_view_holds_the_block():
    a = sa.ones((10, 10), name="x")
    views = [a[1:], a.T, np.asarray(a), memoryview(a), a.reshape(-1)[::-3]]
    del a
    while views:
        assert inode("x") is not None
        views.pop()
    assert gone("x")


def test_unlink_takes_the_name_and_leaves_the_memory():
    with (
        sa.ones(1000, name="x") as a,
        Puppet("a = sa.attach('x'); say(); hear(); a[0] = 9; say(); hear()") as other,
    ):
        other.hear()
        a.unlink()
        assert gone("x")
        other.ask()
        assert a[0] == 9
        with sa.zeros(3, name="x") as b:  # the name is free at once
            fresh = inode("x")
            other.end()  # and the last holder of the old block leaves the new one alone
            a.close()
            assert inode("x") == fresh
            assert sa.attach("x").shape == b.shape == (3,)
    assert gone("x")


def test_unlink_by_an_old_array_never_takes_a_new_block_of_the_name():
    a = sa.zeros(3, name="x")
    a.unlink()
    with sa.ones(3, name="x") as b:
        with pytest.raises(sa.BlockNotFoundError):
            a.unlink()
        a.close()
        assert sa.attach("x").tolist() == b.tolist() == [1, 1, 1]


def test_unlink_of_another_users_file_is_refused(own_directory):
    np.save(f"{own_directory}/mine.npy", np.arange(3))
    os.rename(f"{own_directory}/mine.npy", f"{own_directory}/mine")
    with pytest.raises(sa.NotOursError, match="no record"):
        sa.unlink("mine")
    with sa.attach("mine") as a:
        with pytest.raises(sa.NotOursError, match="no record"):
            a.unlink()
        assert a.tolist() == [0, 1, 2]
    assert sa.attach("mine").tolist() == [0, 1, 2]
    os.unlink(f"{own_directory}/mine")


# -- copies of blocks -----------------------------------------------------------------------------------


def copy(name: str, path: str) -> None:
    """Put a copy of a block at a path, as a user would."""
    if blocks_are_files():
        shutil.copy(f"{os.path.dirname(path)}/{name}", path)
    else:
        with open(path, "wb") as file:
            np.save(file, sa.attach(name))


@pytest.mark.slow
def test_a_copy_under_another_name_survives_every_sweep(own_directory):
    with sa.full(10, 8, name="x"):
        copy("x", f"{own_directory}/copy")
        assert sa.prune() == []
        run("import sharedarray as sa; a = sa.attach('copy'); a.close()")
    with holder("sa.zeros(3)") as other:
        other.kill()
    wait_until(lambda: not janitors(), "the janitor has swept for the last time")
    assert sa.prune() == []
    assert sa.attach("copy").tolist() == [8] * 10
    assert [block.name for block in sa.blocks()] == []
    os.unlink(f"{own_directory}/copy")


@pytest.mark.slow
def test_a_copy_under_the_blocks_own_name_survives_every_sweep(own_directory):
    with holder("sa.full(10, 8, name='x')") as creator:
        copy("x", f"{own_directory}/.kept")
        creator.kill()
        wait_until(lambda: gone("x"), "the block goes")
    os.rename(f"{own_directory}/.kept", f"{own_directory}/x")
    with sa.zeros(3):
        assert sa.prune() == []
    wait_until(lambda: not janitors(), "the janitor has swept for the last time")
    with sa.attach("x") as a:
        assert a.tolist() == [8] * 10
    assert inode("x") is not None
    os.unlink(f"{own_directory}/x")


@pytest.mark.slow
@needs_files
def test_a_copy_that_replaces_a_held_block_survives_its_last_holder(own_directory):
    """The record still names the old inode when another file is moved over the name."""
    with Puppet("a = sa.full(10, 8, name='x'); say(); hear(); a.close(); say(); hear()") as creator:
        creator.hear()
        shutil.copy(f"{own_directory}/x", f"{own_directory}/.kept")
        os.rename(f"{own_directory}/.kept", f"{own_directory}/x")
        assert sa.prune() == []
        creator.ask()
        creator.end()
    wait_until(lambda: not janitors(), "the janitor has swept for the last time")
    assert sa.attach("x").tolist() == [8] * 10
    assert notes() == set()
    os.unlink(f"{own_directory}/x")


# -- one name, many processes ---------------------------------------------------------------------------

FORKED = """
import multiprocessing

context = multiprocessing.get_context("fork")


def answer_by(pipe, me):
    pipe.send(work(me))


pipes, children = [], []
for me in range(int(sys.argv[1])):
    mine, its = context.Pipe(duplex=False)
    children.append(context.Process(target=answer_by, args=(its, me)))
    children[-1].start()
    pipes.append(mine)
told = [pipe.recv() for pipe in pipes]
for child in children:
    child.join()
    assert child.exitcode == 0
say(told)
"""


def together(script: str, number: int, *arguments: object) -> list[Any]:
    """Return the answers of a script's `work(me)` in so many processes at once, forks if possible."""
    if FORKS:
        found: list[Any] = answer(f"{script}\n{FORKED}", number, *arguments, timeout=150)
        return found
    with contextlib.ExitStack() as stack:
        tail = "say('ready'); me = hear(); say(work(me)); hear()"
        workers = [
            stack.enter_context(Puppet(f"{script}\n{tail}", number, *arguments)) for _ in range(number)
        ]
        for worker in workers:
            worker.hear()
        for me, worker in enumerate(workers):
            worker.say(me)
        told = [worker.hear(150) for worker in workers]
        for worker in workers:
            worker.end()
    return told


# Four processes meet in memory that has nothing to do with this library, all try to make one name, and hold
# what they got until all have tried. There each tells of every round, too.
MEETING = """
import sys, time
import numpy as np
import sharedarray as sa
from helpers import inode, say

procs, rounds, path, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], "one"
there = np.memmap(path, "i4", "r+", shape=procs)
WON, WHOLE, HALF, LOST, LEFT = 1, 2, 3, 4, 5


def meet(me):
    there[me] += 1
    while there.min() < there[me]:
        time.sleep(0)


def work(me):
    told = []
    for number in range(rounds):
        meet(me)
        try:
            a = sa.full(2000, number + 1, "i4", name=name)
            outcome = WON
        except sa.BlockExistsError:
            meet(me)
            a = sa.attach(name)
            outcome = WHOLE if (a == number + 1).all() else HALF
        else:
            meet(me)
        if inode(name) != a.segment._mapping.inode:
            outcome = LOST
        told.append(outcome)
        meet(me)
        a.close() if number % 2 else None
        del a
        meet(me)
        if inode(name) is not None:
            told[-1] = LEFT
    return told
"""


@pytest.mark.slow
def test_of_racing_creators_exactly_one_wins_and_the_others_attach_to_all_of_it(own_directory, tmp_path):
    rounds = 2000 if FORKS else 200
    np.zeros(4, "i4").tofile(tmp_path / "there")
    told = np.array(together(MEETING, 4, rounds, tmp_path / "there"))
    assert (np.sort(told, axis=0) == np.array([[1], [2], [2], [2]])).all(), told
    assert nothing_left()


# Four processes create, attach, leave and remove one name without ever waiting for one another. Inodes are
# not used twice on tmpfs, so each knows its block by it. A holder whose block has lost its name says so; at
# the end a process must have removed that very block.
FRAY = """
import random, sys
import numpy as np
import sharedarray as sa
from helpers import inode, say

rounds, removing = int(sys.argv[2]), sys.argv[3] == "removing"


def work(me):
    chance = random.Random(me)
    made, joined, lost, removed, wrong = [], 0, [], [], []
    for number in range(rounds):
        value = me * rounds + number + 1
        try:
            if chance.random() < 0.5:
                a = sa.full(1100, value, "i8", name="one")
                made.append(a.segment._mapping.inode)
            else:
                a = sa.attach("one", chance.choice(["r", "r+", "c"]))
                joined += 1
                value = int(a[0])
        except (sa.BlockExistsError, sa.BlockNotFoundError):
            continue
        mine = a.segment._mapping.inode
        if value == 0 or not (a == value).all():
            wrong.append([value, a[:3].tolist(), a[-3:].tolist()])
        if inode("one") != mine:
            lost.append(mine)
        if removing and chance.random() < 0.3:
            try:
                a.unlink()
                removed.append(mine)
            except sa.BlockNotFoundError:
                lost.append(mine)  # another process did
        if chance.random() < 0.5:
            a.close()
        del a
    return made, joined, lost, removed, wrong
"""


@pytest.mark.parametrize("rounds", few([500, 1500]))
@pytest.mark.parametrize("what", [pytest.param("leaving", marks=pytest.mark.slow), "removing"])
def test_a_fray_over_one_name(own_directory, what, rounds):
    rounds = rounds if FORKS else 200
    told = zip(*together(FRAY, 4, rounds, what), strict=True)
    made, joined, lost, removed, wrong = (
        [*itertools.chain(*each)] if isinstance(each[0], list) else each for each in told
    )
    assert len(made) == len(set(made)) > rounds / 8
    assert sum(joined) > rounds / 80
    assert not set(lost) - set(removed), "lost, and no process removed it"
    assert len(removed) == len(set(removed))
    assert (len(removed) > rounds / 40) == (what == "removing")
    assert not any(wrong), wrong
    assert nothing_left()


@pytest.mark.slow
def test_a_fray_over_one_name_with_removal_by_name_and_sweeps(own_directory):
    """Removal by name takes any block that has the name then; the rest is whole and tidy."""
    rounds = 1500 if FORKS else 100
    said = together(
        """
import random, sys
import sharedarray as sa
from helpers import say


def work(me):
    chance = random.Random(me)
    for number in range(int(sys.argv[2])):
        try:
            match chance.randrange(5):
                case 0 | 1:
                    a = sa.full(1100, number + 1, "i8", name="one")
                case 2 | 3:
                    a = sa.attach("one")
                    assert a[0] > 0 and (a == a[0]).all()
                case 4:
                    chance.choice([lambda: sa.unlink("one"), sa.prune, sa.blocks])()
        except (sa.BlockExistsError, sa.BlockNotFoundError):
            pass
    return number + 1
""",
        4,
        rounds,
    )
    assert said == [rounds] * 4
    wait_until(nothing_left, "nothing is left")


@pytest.mark.parametrize(("slow", "fast"), [("a.close()", "sa.unlink('x')"), ("sa.unlink('x')", "a.close()")])
def test_a_name_goes_to_a_new_block_while_a_process_removes_the_old_one(own_directory, slow, fast):
    """One stands between its last look at the name and its removal; the other removes and makes it anew."""
    with (
        Puppet(
            f"""
            from sharedarray._platform import platform
            a = sa.zeros(3, name="x") if {slow!r} == "a.close()" else None
            say(); hear()
            look = platform.inode_of
            def slow(path):
                found = look(path)
                if path.endswith("/x"):
                    say("looked"); hear()
                return found
            platform.inode_of = slow
            try:
                {slow}
            except sa.BlockNotFoundError:
                pass  # where no process can keep it for its removal
            platform.inode_of = look
            say("removed"); hear()
            """
        ) as one,
        Puppet(
            f"""
            hear()
            a = sa.zeros(3, name="x") if {fast!r} == "a.close()" else None
            say(); hear()
            try:
                {fast}
            except sa.BlockNotFoundError:
                pass
            while True:
                try:
                    b = sa.full(5, 9, name="x")
                    break
                except sa.BlockExistsError:
                    pass
            say("made"); hear()
            """
        ) as other,
    ):
        one.hear()
        other.ask()
        assert one.ask() == "looked"
        other.say()
        other.silent(0.3)  # time to get in between, if anything lets it
        while one.ask() != "removed":
            pass
        assert other.hear() == "made"
        assert sa.attach("x").tolist() == [9] * 5
        one.end()
        other.end()
    assert gone("x")


# -- fork -----------------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.parametrize(
    "end", few(["suicide()", "a.close(); signal.pause()", "os._exit(0)", "sys.exit()"], 2)
)
def test_a_forked_child_holds_the_block_when_its_parent_has_let_go(own_directory, end):
    with Puppet(
        f"""
        import signal
        a = sa.full(1000, 6, "i4", name="x")
        ends = os.pipe()
        if os.fork():
            {end}
        say(os.getpid())
        hear(); say(int(a.sum()))
        hear(); a.close(); del a; say()
        signal.pause()
        """
    ) as parent:
        child = parent.hear()
        try:
            if "pause" not in end:
                parent.process.wait()
            before = inode("x")
            assert before is not None
            with sa.ones(3):
                assert sa.prune() == []
            assert parent.ask() == 6000
            with sa.attach("x", "r") as seen:
                assert seen[0] == 6
            assert inode("x") == before
            parent.ask()
            wait_until(lambda: gone("x"), "the child that lets go was the last")
        finally:
            os.kill(child, signal.SIGKILL)


@needs_fork
def test_a_forked_child_that_dies_leaves_its_parents_block_alone(own_directory):
    with Puppet(
        """
        a = sa.full(1000, 6, "i4", name="x")
        for end in (lambda: os._exit(0), suicide, lambda: (a.close(), os._exit(0)), sys.exit):
            pid = os.fork()
            if not pid:
                end()
            os.waitpid(pid, 0)
        say(sa.prune()); hear()
        say(os.path.exists(sa._registry.directory() + "/x")); hear()
        a.close()
        """
    ) as parent:
        assert parent.hear() == []
        assert parent.ask() is True
        parent.end()
    assert gone("x")


@needs_fork
def test_parent_and_forked_child_are_both_killed(own_directory):
    with Puppet("a = sa.zeros(9, name='x'); os.fork(); say(os.getpid()); os.read(0, 1)") as parent:
        for pid in {parent.hear(), parent.hear()} - {parent.pid}:
            parent.kill()
            assert inode("x") is not None
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: gone("x"), "no process is left")


@needs_fork
def test_a_child_that_let_go_does_not_hold_for_its_killed_parent(own_directory):
    """The child has closed and dropped what it inherited; the death of its parent is the last holder's."""
    with Puppet(
        """
        import signal
        a = sa.zeros(1000, name="x")
        if not os.fork():
            a.close(); del a
            say(os.getpid())
            signal.pause()
        signal.pause()
        """
    ) as parent:
        child = parent.hear()
        try:
            assert inode("x") is not None
            parent.kill()
            wait_until(lambda: gone("x"), "the parent was the last")
        finally:
            os.kill(child, signal.SIGKILL)


@needs_fork
def test_a_child_that_closed_but_still_looks_does_not_hold_for_its_killed_parent(own_directory):
    """The view keeps the inherited mapping, and with it whatever of the parent's the mapping stands on."""
    with Puppet(
        """
        import signal
        a = sa.zeros(1000, name="x")
        if not os.fork():
            view = a[1:]
            a.close()
            if not os.fork():
                a.close()
                say(os.getpid())
                signal.pause()
            say(os.getpid())
            signal.pause()
        signal.pause()
        """
    ) as parent:
        children = parent.hear(), parent.hear()
        try:
            assert inode("x") is not None
            parent.kill()
            wait_until(lambda: gone("x"), "the parent was the last")
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


@needs_fork
@pytest.mark.slow
def test_fork_while_other_threads_make_attach_and_leave(own_directory):
    said = answer(
        """
        import os, signal, threading, warnings
        import sharedarray as sa
        from helpers import block_files, say, wait_until
        warnings.simplefilter("ignore", DeprecationWarning)
        kept = sa.full(1000, 3, "i2", name="kept")
        stop = threading.Event()
        failed = []
        def work(me):
            try:
                while not stop.is_set():
                    with sa.full(500, me) as a, sa.attach("kept", "r") as b:
                        c = sa.attach(a.name)
                        assert c[0] == me and b[0] == 3
            except BaseException as error:
                failed.append(repr(error))
                raise
        threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
        for thread in threads: thread.start()
        bad = []
        for number in range(150):
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    signal.alarm(60)
                    assert kept.sum() == 3000 and not kept.closed
                    with sa.ones(5) as own:
                        assert sa.attach(own.name).sum() == 5
                    kept.close()
                    code = 0
                finally:
                    os._exit(code)
            status = os.waitpid(pid, 0)[1]
            if status:
                bad.append(status)
        stop.set()
        for thread in threads: thread.join()
        wait_until(lambda: block_files() == {"kept"}, "what the children held goes with them")
        say({"bad": bad, "failed": failed})
        """,
        timeout=100,
    )
    assert said == {"bad": [], "failed": []}
    assert nothing_left()


@needs_fork
def test_fork_waits_for_a_thread_that_connects_without_a_deadlock():
    """A thread that talks to the janitor may have to drop a mapping, which the garbage collector found."""
    run(
        """
        import faulthandler, os, threading, time, warnings
        import sharedarray as sa
        from sharedarray import _janitor as janitor, _segment as segment
        faulthandler.dump_traceback_later(20, exit=True)
        warnings.simplefilter("ignore", DeprecationWarning)
        a = sa.zeros(3)
        connecting, dropped = threading.Event(), threading.Event()
        def connect():
            with janitor._state.lock:
                connecting.set()
                deadline = time.monotonic() + 0.3
                while time.monotonic() < deadline:  # until the fork holds its first lock, if it can
                    if not segment.mapping.guard.acquire(blocking=False):
                        break
                    segment.mapping.guard.release()
                a.close()
            dropped.set()
        thread = threading.Thread(target=connect)
        thread.start()
        connecting.wait()
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        thread.join()
        faulthandler.cancel_dump_traceback_later()
        """
    )


def test_threads_that_make_and_leave_share_the_connection_to_the_janitor():
    said = answer(
        """
        import concurrent.futures
        import sharedarray as sa
        from helpers import nothing_left, say
        def work(number):
            for _ in range(150):
                with sa.full(10, number) as a, sa.attach(a.name) as b:
                    assert b.sum() == 10 * number
            return number
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            say([list(pool.map(work, range(6))), nothing_left()])
        """
    )
    assert said == [list(range(6)), True]


def test_arrays_closed_by_another_thread_while_they_are_pickled_leave_no_reference_behind(own_directory):
    """A pin that is not removed would keep the block for as long as its sender lives."""
    said = answer(
        """
        import pickle, threading
        from multiprocessing.reduction import ForkingPickler
        import sharedarray as sa
        from helpers import nothing_left, say
        outcomes = set()
        for number in range(600):
            a = sa.ones(3)
            ready = threading.Barrier(2)
            def close():
                ready.wait()
                a.close()
            thread = threading.Thread(target=close)
            thread.start()
            ready.wait()
            try:
                b = pickle.loads(ForkingPickler.dumps(a))
            except sa.SharedArrayError as error:
                outcomes.add(type(error).__name__)
            else:
                assert b.tolist() == [1, 1, 1]
                outcomes.add(type(b).__name__)
                del b
            thread.join()
            del a
        say([nothing_left(), sorted(outcomes)])
        """
    )
    assert said[0], said


# -- no call crashes the interpreter --------------------------------------------------------------------

CALLS = """
import copy, faulthandler, gc, os, pickle, random, signal, sys, threading, time, warnings
from multiprocessing.reduction import ForkingPickler
import numpy as np
import sharedarray as sa
from helpers import say

def watch():
    if hasattr(signal, "alarm"):  # faulthandler's own watchdog does not survive a fork
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(50)
    else:
        faulthandler.dump_traceback_later(50, exit=True)


watch()
warnings.simplefilter("ignore", DeprecationWarning)
seed, steps, threads, forks = map(int, sys.argv[1:])
NAMES = ["a", "b", "c"]
DTYPES = ["f8", "i2", "U3", "M8[s]", "?", "c16", "S5", [("x", "i4"), ("y", "f8", 2)]]
kept = []  # shared by the threads on purpose
unexpected = []


def pick(chance):
    try:
        return chance.choice(kept)
    except IndexError:
        return sa.zeros(4)


def reference(chance):
    return pickle.loads(pickle.dumps(pick(chance).reference())).attach(chance.choice(["r", "r+", "c", None]))


def travel(chance):
    return pickle.loads(ForkingPickler.dumps(pick(chance)))


def write(chance):
    a = pick(chance)
    if isinstance(a, np.ndarray) and a.flags.writeable:
        a[...] = a.ravel()[:1].copy() if a.size else 0


def locked(chance):
    with pick(chance).lock(shared=chance.random() < 0.5, timeout=0.01):
        return pick(chance)


def shared_memory(block, chance):
    array = np.ndarray(block.size, "u1", block.buf)
    if chance.random() < 0.5:
        block.close()
    if chance.random() < 0.8:
        block.unlink()
    return array


CALLS = [
    lambda c: sa.zeros(c.randrange(50), c.choice(DTYPES), name=c.choice(NAMES)),
    lambda c: sa.share(np.arange(c.randrange(60)).reshape(-1, 1), order=c.choice("CFKA")),
    lambda c: sa.full((c.randrange(4), 3), 5, name=c.choice([None, *NAMES]), persist=c.random() < 0.1),
    lambda c: sa.ones_like(pick(c)),
    lambda c: sa.attach(c.choice(NAMES), c.choice(["r", "r+", "c"])),
    lambda c: sa.attach(c.choice(NAMES), c.choice(["r", "r+", "c"])),
    lambda c: pick(c).close(),
    lambda c: pick(c).close(),
    lambda c: pick(c).unlink(),
    lambda c: pick(c).persist(c.random() < 0.3),
    lambda c: pick(c).flush(),
    lambda c: pick(c)[::-1],
    lambda c: pick(c)[c.randrange(3):],
    lambda c: pick(c).T,
    lambda c: pick(c).view("u1"),
    lambda c: pick(c).reshape(-1),
    lambda c: np.lib.stride_tricks.as_strided(pick(c)[:1]),
    lambda c: np.broadcast_to(pick(c), (2, *pick(c).shape)),
    lambda c: pick(c) == pick(c),
    lambda c: str(pick(c)) + repr(pick(c)),
    lambda c: [pick(c).name, pick(c).closed, pick(c).mode, pick(c).segment] and None,
    lambda c: bytes(pick(c).segment.buf[:10]) and None,
    lambda c: pick(c).segment.close(),
    lambda c: copy.copy(pick(c)),
    lambda c: pickle.loads(pickle.dumps(pick(c))),
    reference, travel, write, locked,
    lambda c: sa.exists(c.choice(NAMES)),
    lambda c: sa.unlink(c.choice(NAMES)),
    lambda c: sa.blocks() and None,
    lambda c: sa.prune() and None,
    lambda c: sa.Segment.create(c.randrange(1, 9000), c.choice(NAMES)).buf[0] and None,
    lambda c: sa.Segment.attach(c.choice(NAMES)).unlink(),
    lambda c: np.frombuffer(sa.SharedMemory(c.choice(NAMES)).buf, "u1"),
    lambda c: shared_memory(sa.SharedMemory(c.choice(NAMES), create=True, size=c.randrange(1, 9000)), c),
    lambda c: shared_memory(sa.ShareableList(range(c.randrange(50)), name=c.choice(NAMES)).shm, c),
    lambda c: list(sa.ShareableList(name=c.choice(NAMES))) and None,
    lambda c: kept.pop() and None,
    lambda c: kept.clear(),
    lambda c: gc.collect() and None,
]
MEANT = (sa.SharedArrayError, ValueError, TypeError, IndexError, AttributeError)


def calls(seed, steps):
    chance = random.Random(seed)
    for _ in range(steps):
        call = chance.choice(CALLS)
        try:
            made = call(chance)
        except MEANT:
            continue
        except BaseException as error:
            unexpected.append(f"{call.__name__} {call.__code__.co_firstlineno}: {error!r}")
            continue
        if isinstance(made, np.ndarray):
            kept.append(made)
        if len(kept) > 30:
            del kept[chance.randrange(30):]


for fork in range(forks + 1):
    running = [threading.Thread(target=calls, args=(f"{seed} {fork} {me}", steps)) for me in range(threads)]
    for thread in running:
        thread.start()
    calls(f"{seed} {fork}", steps)
    child = os.fork() if fork < forks else 0  # while the threads are at it
    if not child:
        watch()
    else:
        for thread in running:
            thread.join()
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child ended with {status}"
        break
    if fork == forks:
        for thread in running:
            thread.join()
for name in NAMES:
    for block in sa.blocks():
        if block.persistent or block.keeper:
            try:
                sa.unlink(block.name)
            except sa.BlockNotFoundError:
                pass
for problem in sorted(set(unexpected)):
    print("unexpected", problem, file=sys.stderr)
sys.exit(1 if unexpected else 0)
"""


@pytest.mark.parametrize(
    ("seed", "steps", "threads", "forks"),
    [
        (1, 800, 0, 0),
        pytest.param(1, 2000, 0, 0, marks=pytest.mark.slow),
        pytest.param(2, 1500, 3, 0, marks=pytest.mark.slow),
        pytest.param(3, 1000, 0, 3, marks=[pytest.mark.slow, needs_fork]),
        pytest.param(4, 400, 3, 3, marks=[pytest.mark.slow, needs_fork]),
    ],
)
def test_random_calls_never_crash_the_interpreter(own_directory, seed, steps, threads, forks):
    run(CALLS, seed, steps, threads, forks)
    wait_until(nothing_left, "nothing is left")


def test_ten_thousand_attachments_with_64_descriptors(own_directory):
    said = answer(
        """
        import sharedarray as sa
        from helpers import LIMITS, open_handles as count, say
        if LIMITS:
            import resource
            resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with sa.arange(10, name="x") if hasattr(sa, "arange") else sa.full(10, 2, name="x"):
            before = count()
            for number in range(10_000):
                a = sa.attach("x", ("r", "r+", "c")[number % 3])
                assert a[9] == 2
                if number % 2:
                    a.close()
            del a
            after = count()
        for number in range(300):
            sa.zeros(10).close()
            with sa.Segment.create(10): pass
        say([before - after, count() <= before])
        """
    )
    assert said == [0, True]


@needs_limits
def test_running_out_of_descriptors_is_an_error_and_leaves_nothing(own_directory):
    said = answer(
        """
        import errno, os, resource
        import sharedarray as sa
        from helpers import block_files, notes, say
        first = sa.zeros(10, name="x")
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        kept, found = [], []
        for make in (lambda: sa.attach("x"), lambda: sa.zeros(10)):
            try:
                while True:
                    kept.append(make())
            except OSError as error:
                found.append(error.errno == errno.EMFILE)
            assert kept
            kept.clear()
        assert sa.attach("x").shape == sa.zeros(10).shape
        first.close()
        say([found, sorted(block_files()), sorted(notes())])
        """
    )
    assert said == [[True, True], [], []]


# -- a registry that is not ours ------------------------------------------------------------------------


def _spoil(how: str, path: str) -> None:
    if how == "mode":
        os.mkdir(path)
        open_to_all(path)
    elif how == "owner":
        if os.geteuid():
            pytest.skip("only root can give a directory away")
        os.mkdir(path, 0o700)
        os.chown(path, 65534, 65534)
    elif how == "link":
        os.mkdir(f"{path}.real", 0o700)
        link(Path(path), Path(f"{path}.real"))
    else:
        with open(path, "w"):
            pass


@pytest.mark.parametrize("how", ["mode", pytest.param("owner", marks=needs_users), "link", "file"])
def test_a_registry_that_cannot_be_trusted_is_refused(own_directory, how):
    _spoil(how, registry())
    np.save(f"{own_directory}/copy.npy", np.arange(3))
    os.rename(f"{own_directory}/copy.npy", f"{own_directory}/copy")
    if how != "file":  # a record that claims the user's own file
        platform.write_metadata(f"{registry()}/b.copy@{inode('copy')}", "1 array 1 1 1.0 0")
    for make in (
        lambda: sa.zeros(3),
        lambda: sa.zeros(3, name="x"),
        lambda: sa.share([1, 2]),
        lambda: sa.Segment.create(3),
        sa.prune,
        lambda: sa.unlink("copy"),
    ):
        with pytest.raises(sa.NotOursError):
            make()
    unwatched = pytest.warns(RuntimeWarning, match="could not start its janitor")
    with unwatched if janitor_needed() else contextlib.nullcontext(), sa.attach("copy") as a:
        assert a.tolist() == [0, 1, 2]
    assert inode("copy") is not None  # not destroyed by the last one to leave it
    assert block_files() <= {"copy"}
    assert not janitors()
    for path in (registry(), f"{registry()}.real"):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    os.unlink(f"{own_directory}/copy")


@pytest.mark.parametrize("janitor_too", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_name_of_a_killed_process_is_free_at_once(own_directory, janitor_too):
    """A program that starts again after a crash needs not wait for the janitor, alive or not."""
    for _ in range(2 if janitor_too else 5):
        with Puppet("a = sa.zeros(3, name='again'); say(); hear()") as other:
            other.hear()
            with pytest.raises(sa.BlockExistsError):
                sa.zeros(5, name="again")
            if janitor_too:
                for pid in janitors(own_directory):
                    kill(pid)
            other.kill()
        with sa.zeros(5, name="again") as array:
            assert array.shape == (5,)


def test_a_taken_name_is_told_before_anything_is_written(own_directory, monkeypatch):
    with sa.zeros(3, name="taken"):
        monkeypatch.setattr(segment.making, "_draft", None)
        with pytest.raises(sa.BlockExistsError):
            sa.zeros(1 << 40, name="taken")


@needs_modes
@pytest.mark.parametrize("umask", [0, 0o77, 0o277, 0o777])
def test_blocks_are_private_whatever_the_umask(own_directory, tmp_path, umask):
    before = os.umask(umask)
    try:
        with sa.zeros(3, name="mine"):
            assert os.stat(f"{own_directory}/mine").st_mode & 0o777 == 0o600
            assert os.stat(registry(own_directory)).st_mode & 0o777 == 0o700
        sa.zeros(3, file=tmp_path / "mine.npy")
        assert os.stat(tmp_path / "mine.npy").st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


class Follower:
    """A follower that learns of a release, while another thread begins to follow too."""

    def __init__(self, others: list[Follower]) -> None:
        self.others, self.heard = others, 0

    def on_release(self, mapping: segment.Mapping) -> None:
        self.heard += 1
        if len(self.others) < 8:
            self.others.append(Follower(self.others))
            thread = threading.Thread(target=segment.follow, args=(mapping, self.others[-1]))
            thread.start()
            thread.join(60)


def test_each_follower_hears_once_that_an_attachment_ends_also_beside_others_that_follow():
    with sa.zeros(3) as array:
        mapping = segment.mapping_of(array)
        followers: list[Follower] = []
        for _ in range(500):
            segment.follow(mapping, Follower(followers))
        gc.collect()
        followers += [Follower(followers) for _ in range(5)]
        for follower in [*followers, *followers]:
            segment.follow(mapping, follower)
        assert len(mapping.followers) == 5
    assert [follower.heard for follower in followers] == [1] * 8
