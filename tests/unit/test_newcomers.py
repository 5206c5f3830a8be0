"""Names, shapes and arguments as users of NumPy and pathlib expect them, and the errors."""

from __future__ import annotations

import decimal
import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    ANSWER,
    Puppet,
    block_files,
    directory,
    environment,
    janitors,
    run,
    wait_until,
)
from needs import needs_files, needs_signals

import sharedarray as sa
from sharedarray import _header as header, _segment as segment
from sharedarray._cli import main
from sharedarray._platform import limits, platform

# -- array and asarray ------------------------------------------------------------------------------------


def test_the_module_shows_its_public_names_alone() -> None:
    assert dir(sa) == sorted([*sa.__all__, "__version__"])
    modules = {
        name
        for name, value in vars(sa).items()
        if isinstance(value, types.ModuleType) and not name.startswith("_")
    }
    assert modules <= {"integrations"}
    assert callable(sa.array)


def test_asarray_returns_a_shared_array_as_it_is() -> None:
    a = sa.share(np.arange(6.0).reshape(2, 3), name="given")
    assert sa.asarray(a) is a
    assert sa.asarray(a, float) is sa.asarray(a, "f8", "C") is a
    assert sa.asarray(a, order="A") is a
    assert sa.asarray(a, copy=None) is sa.asarray(a, copy=False) is a
    assert sa.array(a, copy=None) is sa.array(a, copy=False) is a
    assert sa.asarray(a, name="given") is a
    view = a[:, 1:]
    assert sa.asarray(view) is view
    fortran = a.T
    assert sa.asarray(fortran, order="F") is fortran
    text = sa.share(["ab", "c"])
    assert sa.asarray(text, str) is text  # as NumPy does, for which 'U' fits every 'U2'
    assert sa.asarray(text, "U2") is text


@pytest.mark.parametrize(
    ("dtype", "order"), [("f4", None), (None, "F"), (">f8", None), (int, "C"), ("c16", "K")]
)
def test_asarray_copies_another_dtype_or_order(dtype: Any, order: Any) -> None:
    a = sa.share(np.arange(6.0).reshape(2, 3))
    made = sa.asarray(a, dtype, order)
    assert made is not a
    expected = np.asarray(np.asarray(a), dtype=dtype, order=order)
    assert (made.dtype, made.flags.f_contiguous) == (expected.dtype, expected.flags.f_contiguous)
    assert made.tolist() == expected.tolist()
    assert made.name != a.name
    made[0, 0] = 9
    assert a[0, 0] == 0
    for make in (sa.asarray, sa.array):
        with pytest.raises(ValueError, match="Unable to avoid copy while creating an array as requested"):
            make(a, dtype, order=order, copy=False)


def test_asarray_shares_what_is_not_shared() -> None:
    assert type(sa.asarray([1, 2], "f4")) is sa.SharedArray
    plain = np.arange(3)
    assert sa.asarray(plain).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="Unable to avoid copy"):
        sa.asarray(plain, copy=False)
    a = sa.zeros(3)
    assert sa.asarray(a, copy=True) is not a
    a.close()
    assert sa.asarray(a) is not a  # a closed array's block may be gone
    private = np.sort(sa.zeros(3)).view(sa.SharedArray)
    assert private.name is None
    assert sa.asarray(private).name is not None


def test_asarray_under_a_name() -> None:
    a = sa.zeros(4, name="whole")
    with pytest.raises(sa.BlockExistsError):
        sa.asarray(a[1:], name="whole")  # attach("whole") would find more
    other = sa.asarray(a, name="other")
    assert other is not a
    assert sa.attach("other").shape == (4,)
    assert sa.asarray(a, persist=True) is a
    assert [block.persistent for block in sa.blocks() if block.name == "whole"] == [True]
    sa.unlink("whole")


def test_asarray_under_the_name_of_an_array_with_versions_or_capacity() -> None:
    versioned = sa.zeros(5, name="versioned")
    versioned.snapshot()
    attached = sa.attach("versioned")  # which maps the versions, too
    log = sa.zeros((0, 3), name="log", capacity=100)
    assert sa.asarray(log, name="log") is log
    log.append(np.ones((5, 3)))
    late = sa.attach("log")
    log.append(np.ones((5, 3)))
    for array in (versioned, attached, log, log[:], late):  # `late` has not taken over the last rows
        name = array.name
        assert sa.asarray(array, name=name) is sa.array(array, copy=None, name=name) is array
        assert sa.asarray(array, name=name, persist=True) is array
    sa.unlink("versioned")
    sa.unlink("log")


def test_parts_are_not_taken_for_the_whole() -> None:
    versioned = sa.zeros(5, name="versioned")
    versioned.snapshot()
    log = sa.zeros((0, 3), name="log", capacity=100)
    log.append(np.ones((5, 3)))
    attached = sa.attach("versioned")
    group = sa.group("group", {"a": (3, "f8")})
    same = np.broadcast_to(attached[:1], 5, subok=True)
    for part in (attached[1:], same, log[:2], log[2:], log[:, :1], group["a"]):
        with pytest.raises(sa.BlockExistsError, match="is taken"):
            sa.asarray(part, name=part.name)
        with pytest.raises(ValueError, match="Unable to avoid copy"):
            sa.asarray(part, name=part.name, copy=False)


def test_asarray_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    a = sa.asarray([1, 2], file=path)
    assert sa.asarray(a, file=path) is a
    with pytest.raises(sa.BlockExistsError, match="exists"):
        sa.asarray(a[:1], file=path)
    assert sa.asarray(a, file=tmp_path / "y.npy") is not a
    assert np.load(tmp_path / "y.npy").tolist() == [1, 2]


def test_array_has_numpys_parameters() -> None:
    assert sa.array([1, 2]).tolist() == [1, 2]
    a = sa.array([[1, 2], [3, 4]], "f4", order="F", name="made")
    assert (a.dtype, a.flags.f_contiguous, a.name) == (np.dtype("f4"), True, "made")
    assert sa.array(a) is not a
    for value in (1, [1, 2], np.arange(3), a):
        made, expected = sa.array(value, ndmin=3), np.array(value, ndmin=3)
        assert (made.shape, made.dtype, made.tolist()) == (expected.shape, expected.dtype, expected.tolist())
    assert sa.array(["1"], float, ndmin=2).tolist() == [[1.0]]
    assert sa.array(object=[1]).tolist() == [1]
    view = sa.array(a, ndmin=3, copy=False)
    view[0, 0, 0] = 7
    assert a[0, 0] == 7
    with pytest.raises(sa.BlockExistsError):
        sa.array([1], name="made")
    assert sa.array([1], name="made", replace=True).tolist() == [1]
    with pytest.raises(sa.MaskedArrayError):
        sa.array(np.ma.array([1], mask=[True]), ndmin=2)


# -- names ------------------------------------------------------------------------------------------------


def test_unlink_of_a_name_that_is_missing() -> None:
    with pytest.raises(FileNotFoundError, match="'missing'"):
        sa.unlink("missing")
    sa.unlink("missing", missing_ok=True)
    sa.unlink("missing", True)  # as pathlib.Path.unlink
    a = sa.zeros(3, name="there")
    sa.unlink("there", missing_ok=True)
    assert not sa.exists("there")
    with pytest.raises(sa.BlockNotFoundError):
        a.unlink()
    a.unlink(missing_ok=True)
    sa.Segment.create(8, "bytes").unlink(missing_ok=True)
    with pytest.raises(sa.InvalidNameError):
        sa.unlink("a/b", missing_ok=True)
    Path(directory(), "foreign").touch()
    with pytest.raises(sa.NotOursError):
        sa.unlink("foreign", missing_ok=True)
    a = sa.zeros(3, name="there")
    for call in (lambda: sa.unlink("there", "foreign"), lambda: a.unlink("foreign")):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="missing_ok is True or False, not 'foreign'"):
            call()
    assert sa.exists("there")
    Path(directory(), "foreign").unlink()


def test_attach_without_a_timeout_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: pytest.fail("it waits"))
    monkeypatch.setattr(segment.attaching, "time", clock)  # of this module alone: other threads may sleep
    for options in ({}, {"timeout": None}):
        with pytest.raises(FileNotFoundError, match="no block is named 'late'"):
            sa.attach("late", **options)
    with pytest.raises(FileNotFoundError, match="in 0 s of waiting"):
        sa.attach("late", timeout=0)


def test_attach_waits_for_a_name() -> None:
    script = """
    say()
    while name := hear():
        a = sa.share([1, 2, 3], name=name)
    """
    with Puppet(script) as maker:
        maker.hear()
        for timeout in (ANSWER, math.inf):
            found: list[Any] = []

            def wait(timeout: float = timeout, found: list[Any] = found) -> None:
                found.append(sa.attach(f"in {timeout}", "r", timeout=timeout))

            waiting = threading.Thread(target=wait)
            waiting.start()
            maker.say(f"in {timeout}")
            waiting.join(ANSWER)
            assert found[0].tolist() == [1, 2, 3]
            assert found[0].mode == "r"
            found.clear()
        maker.end()


def test_attach_says_how_long_it_waited() -> None:
    sa.zeros(3, name="early", persist=True)
    with pytest.raises(sa.BlockNotFoundError) as caught:
        sa.attach("earyl", timeout=0.02)
    assert "in 0.02 s of waiting" in str(caught.value)
    assert "did you mean 'early'?" in str(caught.value)
    assert sa.attach("early", timeout=0).shape == (3,)
    sa.unlink("early")


@pytest.mark.parametrize(
    ("timeout", "error"), [(-1, ValueError), (math.nan, ValueError), ("1", TypeError), ([1, 2], TypeError)]
)
def test_a_timeout_that_is_none(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="timeout is"):
        sa.attach("late", timeout=timeout)
    with pytest.raises(error, match="timeout is"):
        sa.zeros(3).lock(timeout=timeout)


@needs_signals
def test_ctrl_c_ends_the_wait_for_a_name() -> None:
    script = """
    import math, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import time
    class Clock:
        monotonic = time.monotonic
        waits = False
        def sleep(seconds):
            if not Clock.waits:
                Clock.waits = True
                say("waits")
            time.sleep(seconds)
    sa._segment.attaching.time = Clock
    try:
        sa.attach("never", timeout=math.inf)
    except KeyboardInterrupt:
        say("interrupted")
    hear()
    """
    with Puppet(script) as waiter:
        assert waiter.hear() == "waits"
        waiter.process.send_signal(signal.SIGINT)
        assert waiter.hear() == "interrupted"
        waiter.end()


def test_errors_name_the_block_that_was_probably_meant() -> None:
    held = [sa.zeros(3, name="frames"), sa.put([1], name="model")]
    for call in (sa.attach, sa.unlink, sa.get, sa.Segment.attach, sa.SharedMemory):
        for wrong in ("frame", "FRAMES", "framse", "frames.npy"):
            with pytest.raises(sa.BlockNotFoundError, match="did you mean 'frames'"):
                call(wrong)
    with pytest.raises(sa.BlockNotFoundError, match="did you mean 'model'"):
        sa.get("modell")
    with pytest.raises(sa.BlockNotFoundError) as caught:
        sa.attach("something_else")
    assert "did you mean" not in str(caught.value)
    with pytest.raises(sa.InvalidNameError, match="give the block's name alone, 'frames'"):
        sa.attach(f"{directory()}/frames")
    del held


class Named:
    name = "frames"


@pytest.mark.parametrize(
    "call", [sa.attach, sa.unlink, sa.exists, sa.get, sa.Segment.attach, sa.Segment.create]
)
@pytest.mark.parametrize(
    ("given", "cure"),
    [
        (np.zeros(2), "sharedarray.share(array)"),
        (Named(), "give its name, 'frames'"),
        (Path("x.npy"), "sharedarray.open(path)"),
        (b"frames", ".decode()"),
        (["frames"], "not list"),
        ({"frames": 3}, "not dict"),
        (5, "not int"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_something_else_in_the_place_of_a_name(call: Callable[..., Any], given: Any, cure: str) -> None:
    arguments = (8, given) if call == sa.Segment.create else (given,)
    with pytest.raises(TypeError) as caught:
        call(*arguments)
    if call != sa.get or "str" in str(caught.value):
        assert cure in str(caught.value)
        assert "a block's name is a str, not" in str(caught.value)


def test_an_array_in_the_place_of_its_name() -> None:
    a = sa.zeros(3, name="frames")
    with pytest.raises(TypeError, match="this array has the block 'frames' already"):
        sa.attach(a)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give its name, 'frames'"):
        sa.attach(a.reference())  # type: ignore[arg-type]


# -- shapes -----------------------------------------------------------------------------------------------


class Index:
    def __index__(self) -> int:
        return 2


SHAPES: list[Any] = [
    *(3, (3, 4), [3, 4], (), [], (0, 3), range(3), Index(), (Index(), 3)),
    *(np.array([3, 4]), np.array(3), np.int8(3), (np.int64(3), np.uint8(2)), np.array([], int)),
    *(3.5, (3, 4.0), np.float64(3), np.array([3.0, 4.0]), decimal.Decimal(3), 1j, math.nan),
    *("3", "ab", None, (3, None), {"a": 1}, {1, 2}, object(), ..., slice(3), [[1, 2], [3]]),
    *(True, False, [True, 2], np.bool_(True), np.array([True]), np.array([[3]])),
    *(-1, (3, -1), np.array([-1, 2])),
    *(10**30, (10**30, 2), 2**63, (2**40, 2**40), (0, 2**62, 2**62), (1,) * 70),
]


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call().shape
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: repr(shape)[:30])
def test_shapes_are_numpys(shape: Any) -> None:
    """The same shape, or the same error in the same words."""
    expected = outcome(lambda: np.zeros(shape))
    if shape is None:  # which NumPy 1 takes for (), with a warning
        expected = TypeError, "Use () not None as shape arguments"
    assert outcome(lambda: sa.zeros(shape)) == expected
    for make in (sa.empty, sa.ones, sa.SharedArray, lambda given: sa.full(given, 2.0)):
        assert outcome(lambda make=make: make(shape)) == expected  # type: ignore[misc]
    if shape is not None:  # which stands for the prototype's shape
        assert outcome(lambda: sa.zeros_like(np.zeros(1), shape=shape)) == expected


def test_a_wrong_shape_has_a_cure() -> None:
    def notes(call: Callable[[], object]) -> str:
        with pytest.raises(TypeError) as caught:
            call()
        return "".join(getattr(caught.value, "__notes__", ()))

    assert "an int or a tuple of ints" in notes(lambda: sa.zeros(3.5))  # type: ignore[arg-type]
    assert "a tuple, as in zeros((3, 4))" in notes(lambda: sa.zeros(3, 4))
    assert "attach(name)" in notes(lambda: sa.SharedArray("frames"))
    assert "share(array)" in notes(lambda: sa.SharedArray(np.zeros(3)))
    assert "name='frames'" in notes(lambda: sa.share([1, 2], "frames"))


# -- data that are no array -------------------------------------------------------------------------------


class Frame:
    """A data frame of numbers alone, as `numpy.asarray` sees it."""

    columns = ("a", "b")

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return np.zeros((2, 2))

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[Any, Any]:
        return np.zeros((2, 2))


class Table:
    """The same of another library."""

    def __dataframe__(self) -> object:
        return self

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray[Any, Any]:
        return np.zeros((2, 2))


NO_ARRAYS: list[Any] = [
    *({"a": 1}, None, {1, 2}, (each for each in (1, 2)), open, Frame(), Table(), object()),
    *([object()], [1, None], np.array([1, {}], dtype=object), ({"a": 1}, {"b": 2})),
]


@pytest.mark.parametrize("data", NO_ARRAYS, ids=lambda data: type(data).__name__)
@pytest.mark.parametrize("call", [sa.share, sa.asarray, sa.array, lambda data: sa.array(data, ndmin=2)])
def test_data_that_are_no_array(call: Callable[..., Any], data: Any) -> None:
    before = block_files()
    with pytest.raises(TypeError) as caught:
        call(data)
    assert isinstance(caught.value, ValueError)
    assert "sharedarray.put" in str(caught.value)
    assert "sa.put" in str(caught.value)
    assert block_files() == before


def test_errors_for_objects_name_what_was_given() -> None:
    with pytest.raises(sa.UnsupportedDTypeError, match=r"^dict cannot.*share_group\(name, mapping\)"):
        sa.share({"a": 1})  # type: ignore[arg-type]
    with pytest.raises(sa.UnsupportedDTypeError, match=r"^None cannot be shared as an array"):
        sa.share(None)  # type: ignore[arg-type]
    with pytest.raises(sa.UnsupportedDTypeError, match=r"columns.*share\(frame.to_numpy\(\)\)"):
        sa.share(Frame())


def test_a_mapping_is_not_shared_as_its_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with np.load(tmp_path / "x.npz") as members, sa.share_group(None, members) as group:
        for mapping in (members, group):
            with pytest.raises(sa.UnsupportedDTypeError, match=r"sharedarray.share_group\(name, mapping\)"):
                sa.share(mapping)


@pytest.mark.slow  # for the imports
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_data_frames_are_for_put(library: str) -> None:
    module = pytest.importorskip(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    for columns in ({"a": [1, 2], "b": ["x", "y"]}, {"a": [1.0, 2.0]}):
        with pytest.raises(sa.UnsupportedDTypeError, match=r"sa\.put"):
            sa.share(make(columns))


# -- SHAREDARRAY_DIR --------------------------------------------------------------------------------------

CALLS = """
import os, sys
import numpy as np
import sharedarray as sa
from helpers import say

def told(call):
    try:
        return repr(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"

calls = {
    "zeros": lambda: sa.zeros(3),
    "share": lambda: sa.share([1], name="x"),
    "attach": lambda: sa.attach("x"),
    "attach, waiting": lambda: sa.attach("x", timeout=60),
    "exists": lambda: sa.exists("x"),
    "unlink": lambda: sa.unlink("x"),
    "unlink, missing": lambda: sa.unlink("x", missing_ok=True),
    "blocks": lambda: sa.blocks(),
    "prune": lambda: sa.prune(),
    "put": lambda: sa.put([1]),
    "get": lambda: sa.get("x"),
    "Segment.create": lambda: sa.Segment.create(8),
    "Segment.attach": lambda: sa.Segment.attach("x"),
    "SharedMemory": lambda: sa.SharedMemory(create=True, size=8),
    "SharedMemory, attach": lambda: sa.SharedMemory("x"),
    "ShareableList": lambda: sa.ShareableList([1]),
    "Pool": lambda: sa.Pool(1),
    "lock_file": lambda: sa.lock_file(sys.argv[1]).acquire(),
    "exist_ok": lambda: sa.zeros(3, name="x", exist_ok=True),
    "replace": lambda: sa.zeros(3, name="x", replace=True),
}
for os.environ["SHAREDARRAY_DIR"] in sys.argv[2:]:
    say({name: told(call) for name, call in calls.items()})
"""


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no directory of the kernel's is known here")
def test_a_directory_that_takes_no_files_is_not_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAREDARRAY_DIR", "/proc")
    with pytest.raises(sa.BlockNotFoundError, match="found a directory that takes no files") as caught:
        sa.zeros(3)
    assert "does not exist" not in str(caught.value)


def test_every_call_says_that_there_is_no_such_directory(tmp_path: Path) -> None:
    missing, file, locked = tmp_path / "missing", tmp_path / "file", tmp_path / "locked"
    file.touch()
    locked.touch()
    done = run(CALLS, locked, missing, file)
    for where, line in zip((missing, file), done.stdout.splitlines(), strict=True):
        answers = json.loads(line)
        assert len(answers) >= 20
        for name, text in answers.items():
            assert text.startswith(f"BlockNotFoundError: the directory {where} does not exist"), (name, text)
            assert "SHAREDARRAY_DIR" in text, name
            assert ("something else at that path" in text) == (where == file), name
    assert done.stderr == ""


COMMANDS = [
    *(["ls"], ["ls", "--json"], ["info", "x"], ["rm", "-y", "x"], ["prune"], ["prune", "-n"]),
    *(["cp", "x", "x.npy"], ["load", "x.npy", "--name", "x"], ["top", "--once"], ["top", "--json"]),
]


def test_every_command_says_that_there_is_no_such_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHAREDARRAY_DIR", str(tmp_path / "missing"))
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.zeros(3))
    for command in COMMANDS:
        assert main(command) == 1, command
        said = capsys.readouterr()
        assert said.out == "", command
        assert said.err.startswith("sharedarray: "), command
        assert f"the directory {tmp_path / 'missing'} does not exist" in said.err, command


def test_which_directories_are_on_a_disk() -> None:
    assert not platform.on_disk(directory())
    for path in ("/proc", "/sys"):
        assert not (os.path.isdir(path) and platform.on_disk(path))
    assert not platform.on_disk("/nothing/there")


ON_DISK = """
import numpy as np
import sharedarray as sa

def work(row):
    return sa.share(row * 2)

if __name__ == "__main__":
    a = sa.zeros((2, 3), name="x")
    b = sa.attach("x")
    with sa.Pool(1) as pool:
        assert [found.shape for found in pool.map(work, a)] == [(3,), (3,)]
    assert [block.name for block in sa.blocks()] == ["x"]
    sa.zeros(3)
    print("done")
"""


def test_a_directory_on_a_disk_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if not platform.on_disk(str(tmp_path)):
        pytest.skip("pytest's directory is in memory, or the system does not tell")
    script = tmp_path / "script.py"
    script.write_text(ON_DISK)
    blocks = tmp_path / "blocks"
    blocks.mkdir()
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=ANSWER,
        env=environment(SHAREDARRAY_DIR=str(blocks)),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert done.stderr.count("is on a disk") == 1, done.stderr
    assert f"script.py:9: RuntimeWarning: SHAREDARRAY_DIR={blocks} is on a disk" in done.stderr
    monkeypatch.setenv("SHAREDARRAY_DIR", str(blocks))
    warnings.simplefilter("default")
    assert main(["ls"]) == 0
    said = capsys.readouterr()
    assert said.out == "no blocks\n"
    assert said.err.startswith(f"sharedarray: warning: SHAREDARRAY_DIR={blocks} is on a disk")
    assert said.err.count("\n") == 1
    wait_until(lambda: not janitors(str(blocks)), "the janitor ends")


# -- objects that have makers -----------------------------------------------------------------------------


def test_classes_that_are_not_called_say_what_makes_them() -> None:
    for arguments in ((), ("name",)):
        with pytest.raises(TypeError, match=r"array.lock\(\).*sharedarray.lock_file\(path\)"):
            sa.Lock(*arguments)
    with pytest.raises(TypeError, match=r"Segment.create\(size, name\)"):
        sa.Segment("name")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        sa.Segment.create(3.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"write share_group\(None, mapping\)"):
        sa.share_group({"a": np.zeros(3)})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"write group\('g', {'x': \(shape, dtype\)}\)"):
        sa.group("g")
    for arguments in ((), ("name",)):
        with pytest.raises(TypeError, match=r"sharedarray.group\(name, members\).*attach\(name\)"):
            sa.Group(*arguments)


def test_locks_that_are_asked_as_those_of_threading() -> None:
    a = sa.zeros(3)
    with pytest.raises(TypeError, match=r"shared is True or False, not 10; .* write timeout=10"):
        a.lock(10)  # type: ignore[arg-type]
    assert a.lock(np.bool_(True)).shared is True  # type: ignore[arg-type]
    lock: Any = a.lock()
    for call in (lambda: lock.acquire(True), lambda: lock.acquire(timeout=1), lambda: lock.acquire(False)):
        with pytest.raises(TypeError, match=r"array.lock\(timeout=1.0\).acquire\(\)"):
            call()
    assert not lock.locked()


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("Manager", "SharedMemoryManager"),
        ("delete", "unlink"),
        ("list", "blocks"),
        ("load", "open"),
        ("copy", "share"),
        ("create", "zeros"),
    ],
)
def test_other_packages_words(name: str, cure: str) -> None:
    with pytest.raises(AttributeError, match=f"no attribute '{name}': see sharedarray.{cure}") as caught:
        getattr(sa, name)
    assert (caught.value.name, caught.value.obj) == (name, sa)  # by which Python finds names that are alike


def test_numpys_functions_that_are_not_here() -> None:
    for name in ("arange", "linspace", "eye"):
        with pytest.raises(AttributeError, match=rf"sharedarray.share\(numpy.{name}\(...\)\)"):
            getattr(sa, name)
    with pytest.raises(AttributeError, match=r"'no_such_name'$"):
        sa.no_such_name  # noqa: B018


def test_open_names_what_was_probably_meant(tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.zeros(3))
    with pytest.raises(sa.BlockNotFoundError, match=r"did you mean '.*table.npy'"):
        sa.open(tmp_path / "tabel.npy")
    held = sa.zeros(3, name="a_block")
    with pytest.raises(sa.BlockNotFoundError, match=r"sharedarray.attach\('a_block'\)"):
        sa.open("a_block")
    del held
    with pytest.raises(sa.BlockNotFoundError, match="choose another path") as caught:
        sa.zeros(3, file=tmp_path / "missing" / "x.npy")
    assert "SHAREDARRAY_DIR" not in str(caught.value)


def test_sizes_in_messages_are_human() -> None:
    with pytest.raises(sa.OutOfSharedMemoryError) as caught:
        sa.zeros(10**12)
    assert "a block of 7.3 TiB (8 000 000 004 096 bytes) does not fit" in str(caught.value)
    assert "expected 7.3 TiB (8 000 000 004 096 bytes) needed" in str(caught.value)
    with pytest.raises(sa.HeaderError, match=r"1 MiB \(1 052 672 bytes\)|1.0 MiB \(1 052 672 bytes\)"):
        header.decode(header.encode(np.dtype("u1"), (1 << 20,), fortran=False), 8192, name="x")
    segment_of_bytes = sa.Segment.create(20_000)
    with pytest.raises(BufferError, match=r"20 KiB \(20 000 bytes\)"):
        segment.mapping_of(segment_of_bytes.buf).resize(1)  # type: ignore[union-attr]


def test_other_mistakes_have_a_cure_too(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    sa.zeros(3, file=path)
    with pytest.raises(sa.UnsupportedDTypeError, match=r"sharedarray.open\(path\)"):
        sa.share(path)  # type: ignore[arg-type]
    with pytest.raises(sa.HeaderError, match="name a file in it"):
        sa.open(tmp_path)
    with pytest.raises(TypeError, match=r"not ndarray: .*sharedarray.share\(array\)"):
        sa.open(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not int$"):
        sa.open(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"write timeout=0.5"):
        sa.attach("missing", 0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"not ndarray; for an array write array.lock\(\)"):
        sa.lock_file(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(sa.BlockExistsError, match="Next step: another path, or remove the file first"):
        sa.zeros(4, file=path, exist_ok=True)
    with pytest.raises(IsADirectoryError, match="lock a file in it"):
        sa.lock_file(tmp_path)
    with pytest.raises(TypeError, match="progress is True, False, None or a dict"):
        sa.zeros(3, progress="bar")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        sa.array([1], ndmin="2")  # type: ignore[arg-type]
    with pytest.raises(sa.NotPicklableError, match=r"object\['lock'\].* the threads of one process only"):
        sa.put({"lock": threading.Lock()})
    with path.open(encoding="latin-1") as file, pytest.raises(sa.NotPicklableError, match=r"file .*x.npy"):
        sa.put({"file": file})  # cloudpickle takes its contents
    held = sa.put(1, "object")
    with pytest.raises(sa.BlockExistsError, match=r"sharedarray.get\(name\) to use it"):
        sa.put(2, "object")
    assert sa.get("object") == sa.get(held) == 1
    group = sa.group("members", {"a": (3, "f4")})
    with pytest.raises(sa.HeaderError, match=r"found a group; .* for an array or a group"):
        sa.get("members")
    assert group["a"].shape == (3,)


@needs_files  # of which the pages of an array that grows are not reserved
def test_a_capacity_that_no_process_can_address() -> None:
    with pytest.raises(
        sa.LimitError, match=r"21 PiB \(.*\) does not fit into the address space of a process"
    ):
        sa.zeros((0, 3), capacity=10**15)


@needs_files
def test_memory_that_cannot_be_mapped_is_told_of_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_limit", lambda name: None)
    error = OSError(errno.ENOMEM, "none")
    assert limits.maps(error, 1 << 40) is error
    assert "64 TiB" in str(limits.maps(error, 1 << 46))  # an appender maps the block twice


def test_commands_name_what_was_probably_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = sa.zeros(3, name="frames")
    np.save(tmp_path / "table.npy", held)
    for command in (
        ["info", "frame"],
        ["rm", "-y", "Frames"],
        ["cp", "framse", str(tmp_path / "x.npy")],
        ["load", str(tmp_path / "tabel.npy"), "--name", "table"],
    ):
        assert main(command) == 1
        assert re.search(r"did you mean '(frames|.*table\.npy)'\? ", capsys.readouterr().err), command
    assert main(["info", f"{directory()}/frames"]) == 1
    assert "give the block's name alone, 'frames'" in capsys.readouterr().err
    del held
