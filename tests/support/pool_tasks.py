"""Functions that the tests run in workers. Nothing of pytest is imported here, for workers import this."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import signal
import threading
import time
import warnings
import weakref
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np

import sharedarray as sa

KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # what ends a process at once


def add(a, b=1):
    return a + b


def add_all(*args, **kwargs):
    return sum(args) + sum(kwargs.values())


def identity(value):
    return value


def pid_of(value):
    return os.getpid()


def fill(array, value):
    array[...] = value
    return os.getpid()


def fill_with_ones(array):
    array[...] = 1


def total(array):
    return float(array.sum())


def ones(shape):
    return sa.ones(shape)


def inside(shape):
    return {"list": [sa.ones(shape), 1], "view": sa.zeros((4, 4))[1:3, ::2]}


def describe(array):
    return type(array).__name__, array.shape, array.strides, str(array.dtype), array.flags.writeable


def describe_all(*values):
    return [
        (*describe(value), value.tolist()) if isinstance(value, np.ndarray) else value for value in values
    ]


def are_one(first, second):
    return first is second


class Trouble(Exception):
    """Not what its arguments say."""

    def __init__(self, what, why):
        super().__init__(what)
        self.why = why

    def __reduce__(self):
        return Trouble, self.args  # as without this method, unless tblib takes care of it


def install_tblib():
    import tblib.pickling_support

    tblib.pickling_support.install()


class Plain(Exception):
    pass


def trouble():
    raise Trouble("what", "why")


def with_cause():
    try:
        {}["key"]
    except KeyError as cause:
        error = Plain("text", 7)
        error.add_note("a note")
        error.extra = [1, 2]
        raise error from cause


def with_context():
    try:
        {}["key"]
    except KeyError:
        raise Plain("in a handler")  # noqa: B904


def raise_holding(array):
    kept = array[1:]
    raise Plain(f"{kept.size}")


def keep_in_cycle(array):
    cycle = [array]
    cycle.append(cycle)
    gc.disable()
    return len(cycle)


def lock_result():
    import threading

    return threading.Lock()


class Loaded:
    """Calls what is in `hooks` when it is loaded, in whichever process that is."""

    def __init__(self, data):
        self.data = data

    def __setstate__(self, state):
        for hook in hooks:
            hook()
        self.__dict__.update(state)


class LoadedError(Exception):
    def __init__(self, number):
        super().__init__(number)
        self.number = number

    def __setstate__(self, state):
        Loaded.__setstate__(self, state)


hooks = []


def loaded(kind, number):
    """Return, or raise, something that calls `hooks`, with data by which it is known again."""
    if kind == "exception":
        raise LoadedError(number)
    return Loaded(np.full(1 << 17, number) if kind == "array" else [number])


def loaded_after(path):
    """Wait for a file, and then do as `loaded`."""
    until(path.exists)
    return loaded("list", 1)


def loaded_and_noted(directory, kind, number):
    """Do as `loaded`, and note that this was called."""
    (directory / str(number)).touch()
    return number if kind == "number" else loaded(kind, number)


class Unreadable:
    """Pickles, and raises when it is loaded."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise Plain("cannot be loaded")


class KillerOnArrival:
    """Pickles, and ends the process that loads it."""

    def __reduce__(self):
        return _kill_self, (KILL,)


def _kill_self(number):
    os.kill(os.getpid(), number)


def _crash():
    """Run an invalid address in a thread of the kernel's own."""
    import ctypes

    from helpers import crash_quietly  # not above: workers do without it

    crash_quietly()
    ctypes.windll.kernel32.CreateThread(None, 0, ctypes.c_void_p(1), None, 0, None)
    time.sleep(60)


def die(how):
    """End this process in one of several ways."""
    if how == "exit":
        os._exit(7)
    faulthandler.disable()  # the stacks of a fork of the test runner are long
    if how == "crash":
        with contextlib.suppress(ImportError, OSError):
            import resource  # no core files

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if not hasattr(signal, "SIGKILL"):
            _crash()
        ctypes.string_at(1)
    os.kill(os.getpid(), getattr(signal, how, KILL))


def use_up_memory(group):
    """Enter a control group with little memory, and ask for more until the kernel ends this process."""
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
    taken = []
    while True:
        taken.append(np.ones(1 << 20))


def die_while_sending(moment):
    """End the worker as it asks for a slot for a large result, in mid-copy, or in the pickle."""
    from sharedarray._pool.transport import mappings
    from sharedarray._pool.worker import loop

    def ask(worker, size):
        worker._replies.send(loop.Kind.NEED, began=size)
        _kill_self(KILL)

    def copy_half(mapping, start, source):
        mapping[start : start + source.nbytes // 2] = bytes(source.nbytes // 2)
        _kill_self(KILL)

    def write_half(handle, offset, source):
        mappings.platform.write(handle, offset, [memoryview(bytes(source.nbytes // 2))])
        _kill_self(KILL)

    if moment == "asking":
        loop.Loop._ask = ask
    elif moment == "copying":
        mappings.copy_into, mappings.write_into = copy_half, write_half
    else:
        return DiesWhilePickled()
    return np.ones(1 << 20)


class DiesWhilePickled:
    def __reduce__(self):
        return bytes, (b"x" * (1 << 24), KillerOnPickling())


class KillerOnPickling:
    def __reduce__(self):
        _kill_self(KILL)


def signal_and_wait(path):
    """Signal that the task runs, and wait to be killed."""
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(60)


def signal_and_wait_for(started, release):
    Path(started).write_text(str(os.getpid()))
    while not Path(release).exists():
        time.sleep(0.005)
    return "released"


meeting: list[Path] = []


def agree_on(started, release):
    """Make `wait_and_total`, whose arguments leave no way to name it, wait for a file."""
    meeting[:] = started, release


def wait_and_total(array):
    signal_and_wait_for(*meeting)
    return total(array)


def die_the_first_time(path, how="SIGKILL"):
    """End the worker at the first call only."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "second time"
    return die(how)


def count_down(path):
    """End the worker as often as there are bytes in a file."""
    left = Path(path).read_bytes()
    Path(path).write_bytes(left[1:])
    if left:
        die("SIGKILL")
    return "done"


state = None


def set_state(value):
    global state
    state = value


def get_state():
    return state


def get_state_locked():
    with state:
        return "locked"


def refuse_to_start():
    raise Plain("not today")


def refuse_to_start_later(path):
    """Refuse as soon as there is a file."""
    if not until(path.exists):
        raise RuntimeError("the file does not come")
    refuse_to_start()


def wait_unless_first(path, release):
    """Return at once in the first process that comes here; wait for a file in others."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        until(release.exists)


def forget_and_fork(path):
    """Leave a process behind that inherited everything of the worker's, then die."""
    child = os.fork()
    if not child:
        while not Path(path).exists():
            time.sleep(0.01)
        os._exit(0)
    os.kill(os.getpid(), KILL)


def nested(method):
    with sa.Pool(2, method) as pool:
        return list(pool.map(add, range(4)))


def thread_limits():
    import threadpoolctl

    np.ones((4, 4)) @ np.ones((4, 4))
    found = {entry["num_threads"] for entry in threadpoolctl.threadpool_info()}
    return found, os.environ.get("OMP_NUM_THREADS")


def box_blur(block):
    """Mean of each row and its two neighbours; the edge rows are their own neighbours."""
    padded = np.concatenate([block[:1], block, block[-1:]])
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def pause(seconds):
    time.sleep(seconds)
    return seconds


def meet(directory, count):
    """Wait until this runs in as many workers at once."""
    (directory / str(os.getpid())).touch()
    while len(found := list(directory.iterdir())) < count:
        time.sleep(0.001)
    return len(found)


def meet_pid(directory, count):
    """Wait as `meet` does; the worker's process id."""
    directory.mkdir(exist_ok=True)
    meet(directory, count)
    return os.getpid()


def until(condition, patience=60.0):
    """Wait for something that other processes do; say whether it came."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def change(array):
    """Change an argument in place; what it was before."""
    before = array.copy()
    array += 1
    return before


def change_and_die_once(array, marker):
    """Return the first time change the argument and die; the second time return it."""
    found = array.copy()
    array[...] = -1
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), KILL)
    return found


kept: list[object] = []


def keep(value):
    """Keep a view of an argument beyond the task."""
    kept.append(value[::2] if isinstance(value, np.ndarray) else value)
    return checksum(kept[-1])


def keep_itself(array):
    kept.append(array)


def keep_bytes(array):
    kept.append(memoryview(array))


def keep_plain(array):
    kept.append(np.asarray(array)[::2])


def keep_base(array):
    kept.append(array.base)


def keep_segment(array):
    kept.append(array.segment)


def keep_error(array):
    try:
        raise ValueError(array)
    except ValueError as error:
        kept.append(error)


def change_the_handle(array):
    """Change in place what an array object says of itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = (2, -1)
    array.flags.writeable = False
    return array.shape


def check_kept():
    return [checksum(value) for value in kept]


def drop_kept():
    kept.clear()


class Remade:
    """Is pickled by an array of the moment, in Fortran's order, and rebuilt from that."""

    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        return Remade, (np.array(self.array, order="F")[:, 1:],)


def give_kept():
    return kept


def replace_kept(value, at):
    """Keep something in place of what was kept before, and return it."""
    kept[at:] = [value, *kept[at + 1 :]]
    return value


def checksum(value):
    """Return a number that depends on every byte."""
    return zlib.crc32(
        np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else bytes(value)
    )


def fork_a_reader(array, go, answer):
    """Leave a forked process behind that looks at the argument when it is told to."""
    if os.fork() == 0:
        while not Path(go).exists():
            time.sleep(0.005)
        Path(answer).with_suffix(".part").write_text(str(checksum(array)))
        os.rename(Path(answer).with_suffix(".part"), answer)
        os._exit(0)
    return checksum(array)


def keep_and_open_files(array):
    """Keep an argument and all descriptors that this process may have."""
    import resource

    kept.append((array, checksum(array)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass


def make_full(size, value):
    return np.full(size, float(value))


def writable(*values):
    return [isinstance(value, np.ndarray) and value.flags.writeable for value in values]


def wait_if_path(value):
    """Return at once what is no path; wait until there is a file of that name otherwise."""
    if isinstance(value, str):
        while not Path(value).exists():
            time.sleep(0.001)
    return value


def meet_if_paths(value):
    """Return at once what is no pair of paths; else make the first and wait for the second."""
    if isinstance(value, tuple):
        signal_and_wait_for(*value)
    return value


def block_if_path(value, lets_others_run=True):
    """Return at once what is no path; wait for `let_go` in native code that keeps the interpreter.

    Before that, other threads can run until `let_go` is called.
    """
    if isinstance(value, str) and hasattr(os, "mkfifo"):
        pipe = os.open(value, os.O_RDONLY)
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
        os.close(pipe)
    elif isinstance(value, str):
        kernel, reached, began, go = _events(value)
        if lets_others_run:
            ctypes.WinDLL("kernel32").WaitForSingleObject(reached, -1)  # as `os.open` waits for the other end
        kernel.SetEvent(began)
        kernel.WaitForSingleObject(go, -1)
    return value


def block_at_once(value):
    """Do as `block_if_path`, without letting other threads run before."""
    if isinstance(value, str) and hasattr(os, "mkfifo"):
        pipe = os.open(value, os.O_RDWR)  # this does not wait for the other end
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
        os.close(pipe)
        return value
    return block_if_path(value, lets_others_run=False)


def prepare_to_block(path):
    """Create the file that `block_if_path` waits for."""
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)


def let_go(path):
    """Wait until `block_if_path` waits, and end that."""
    if hasattr(os, "mkfifo"):
        with open(path, "wb") as end:  # opens when the worker has it open, too
            end.write(b"x")
    else:
        kernel, reached, began, go = _events(path)
        kernel.SetEvent(reached)
        assert kernel.WaitForSingleObject(began, 60_000) == 0
        kernel.SetEvent(go)


def _events(path):
    kernel = ctypes.PyDLL("kernel32")  # whose calls keep the interpreter
    names = [f"{path}.{word}".replace("\\", "/") for word in ("reached", "began", "go")]
    return kernel, *(kernel.CreateEventW(None, True, False, name) for name in names)


def fail_if_text(value):
    if isinstance(value, str):
        raise ValueError(value)
    return value


def touch(path):
    Path(path).touch()


def touch_after(path, gate):
    wait_if_path(str(gate))
    Path(path).touch()


def pids(block):
    """Return the pid of the process that does a block."""
    return np.full(len(block), os.getpid())


def pids_that_meet(begun, block):
    """Return the pid for a block of one number; the first blocks of both parts wait for each other."""
    begun[block[0]] = 1
    if block[0] in (0, len(begun) // 2):
        until(lambda: begun[0] and begun[len(begun) // 2])
    return pids(block)


def pids_in_turn(done, block):
    """Return the pid for a block of one number; number 0 begins first and ends last."""
    if block[0]:
        until(lambda: done[0])
        done[block[0]] = 1
    else:
        done[0] = 1
        until(lambda: done.sum() == len(done))
    return pids(block)


def fork_with(array, answer):
    """Fork a process that uses the argument after the task has finished, and sends what it found."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.read(reader, 1)  # the task is over, and so is the worker's own use
        found = f"{array.closed} {sa.exists(array.name)} {array.sum()}"
        Path(answer).with_suffix(".part").write_text(found)
        os.rename(Path(answer).with_suffix(".part"), answer)
        os._exit(0)
    os.close(reader)
    _children.append(writer)


_children: list[int] = []


def let_children_go():
    while _children:
        os.close(_children.pop())


# -- forks that return ------------------------------------------------------------------------------------


class ChildError(Exception):
    pass


def child_status(pid):
    """Return the exit status of a forked process, when that has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_and_return(kind, array=None):
    """Fork; return the child's exit status in the parent, and something else in the child."""
    pid = os.fork()
    if pid:
        return child_status(pid)
    if kind == "exit":
        raise SystemExit(7)
    if kind == "raise":
        raise ChildError("of the child")
    if kind == "shared":
        return sa.share(array)
    return {"number": 99, "text": "of the child", "array": np.full(1 << 18, 99.0), "long": b"x" * 100_000}[
        kind
    ]


def fork_at(number, value):
    """Return the value; fork before, if it is that one."""
    if value != number:
        return value
    pid = os.fork()
    return child_status(pid) * 1000 + value if pid else -1


def fork_at_block(number, block):
    if block[0] == number:
        pid = os.fork()
        if not pid:
            return block * 0 - 1
        child_status(pid)
    return block * 2


class ForksAsItIsPickled:
    """Its pickle is the exit status of the child of a fork, which goes on with the pickling too."""

    def __reduce__(self):
        pid = os.fork()
        return int, (child_status(pid) if pid else 99,)


def forks_as_it_is_pickled():
    return ForksAsItIsPickled()


def fork_in_a_thread():
    found = []

    def work():
        pid = os.fork()
        if pid:
            found.append(child_status(pid))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found


_of_initializer = []


def fork_as_initializer():
    pid = os.fork()
    if pid:
        _of_initializer.append(child_status(pid))


def of_initializer():
    return _of_initializer


def meet_and_hash(folder, count):
    """Wait for the other workers; return pid, the hash of a text, and the environment's seed."""
    meet(folder, count)
    return os.getpid(), hash("a text"), os.environ.get("PYTHONHASHSEED")


def send_what_does_not_fit(damage, go=None):
    """Send a message that fits no state of this worker: at once, or when it is idle and a file is there."""
    from sharedarray._pool.transport.messages import HEADER, Kind
    from sharedarray._pool.worker.loop import Loop

    (loop,) = [each for each in gc.get_objects() if type(each) is Loop]
    item, length = (7, 0) if damage != "LENGTH" else (0, 1 << 60)
    kind = Kind.REPLIES if damage == "LENGTH" else 99 if damage == "UNKNOWN" else Kind[damage]
    message = HEADER.pack(kind, 0, 0, item, 0, length, 0, 0)

    def send():
        if go is not None:
            until(Path(go).exists)  # no assertion: it would not run with python -O
        loop._channel.write(message)

    if go is None:
        send()
        time.sleep(60)  # until it is killed
    threading.Thread(target=send, daemon=True).start()
    return os.getpid()


def hold_the_interpreter(fifo):
    """Run native code that keeps the interpreter's lock until something is in a pipe; without one, sleep."""
    if not fifo:
        time.sleep(0.005)
        return
    handle = os.open(fifo, os.O_RDWR)
    ctypes.PyDLL(None).read(handle, ctypes.create_string_buffer(1), 1)
    os.close(handle)


class Traced:
    """A result of which the process that gets it knows how many there are."""

    living: ClassVar = weakref.WeakSet()

    def __setstate__(self, state):
        self.number = state["number"]
        self.living.add(self)

    @staticmethod
    def unless_10(number):
        if number == 10:
            raise ValueError(number)
        made = Traced()
        made.number = number
        return made
