"""Tracebacks and warnings of workers show the program's files and lines, whatever the function's home."""

from __future__ import annotations

import linecache
import pickle
import subprocess
import sys
import traceback
import types

import pytest
from helpers import ANSWER, environment, run

import sharedarray as sa
from sharedarray._pool import RemoteTraceback
from sharedarray._pool.codec import failures
from sharedarray._pool.codec.pickler import loads

CELL = """
import functools

def divide(x):
    return 1 / x

def work(x):
    try:
        return (lambda y: divide(y))(x)
    except ZeroDivisionError as error:
        raise ValueError("bad") from error

class Model:
    def run(self, x):
        def inner():
            raise ExceptionGroup("many", [ValueError("one"), TypeError("two")])
        return inner()

def during(x):
    try:
        divide(x)
    except ZeroDivisionError:
        return {}["missing"]

def twice(x):
    return divide(x)
twice = functools.lru_cache(twice)
"""


def cell(name, monkeypatch, source=CELL):
    """Run source as IPython does: only `linecache` of this process knows its lines. Return the namespace."""
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(True), name))
    exec(compile(source, name, "exec"), main.__dict__)
    return main


def remote_text(future):
    """Return the text of the worker's traceback."""
    first = future.exception(ANSWER)
    while first.__cause__ is not None:
        first = first.__cause__
    assert isinstance(first, RemoteTraceback)
    return first.tb


@pytest.mark.parametrize("name", ["<ipython-input-3-0123456789ab>", "/tmp/ipykernel_1/2345.py"])
def test_functions_of_a_cell(pool, monkeypatch, name):
    main = cell(name, monkeypatch)
    text = remote_text(pool.submit(main.work, 0))
    for line, function, shown in (
        (5, "divide", "return 1 / x"),
        (9, "<lambda>", "return (lambda y: divide(y))(x)"),
        (11, "work", 'raise ValueError("bad") from error'),
    ):
        assert f'  File "{name}", line {line}, in {function}\n    {shown}\n' in text
    assert "~~^~~" in text
    assert "The above exception was the direct cause" in text
    assert "dynamic-code" not in text
    text = remote_text(pool.submit(main.during, 0))
    assert f'  File "{name}", line 23, in during\n    return {{}}["missing"]\n' in text
    assert "During handling of the above exception, another exception occurred" in text
    text = remote_text(pool.submit(main.Model().run, 0))
    assert f'  |   File "{name}", line 16, in inner\n  |     raise ExceptionGroup(' in text
    assert "    | TypeError: two" in text
    assert f'File "{name}", line 26, in twice\n    return divide(x)\n' in remote_text(
        pool.submit(main.twice, 0)
    )


def test_a_cell_that_is_run_again(pool, monkeypatch):
    """The lines are those of the cell that defined what ran."""
    main = cell("<ipython-input-1-0>", monkeypatch)
    assert 'File "<ipython-input-1-0>", line 5' in remote_text(pool.submit(main.divide, 0))
    source = "\n\n" + CELL.replace("1 / x", "2 / x")
    main = cell("<ipython-input-2-0>", monkeypatch, source)
    text = remote_text(pool.submit(main.divide, 0))
    assert 'File "<ipython-input-2-0>", line 7, in divide\n    return 2 / x\n' in text


def test_tracebacks_of_a_map_and_of_blocks(pool, monkeypatch):
    main = cell("<ipython-input-1-0>", monkeypatch)
    for call in (
        lambda: list(pool.map(main.divide, [1, 0])),
        lambda: list(pool.imap_unordered(main.divide, [1, 0])),
        lambda: pool.map_blocks(lambda block: main.divide(0), sa.zeros(3)),
    ):
        with pytest.raises(ZeroDivisionError) as caught:
            call()
        assert 'File "<ipython-input-1-0>", line 5, in divide\n    return 1 / x\n' in str(
            caught.value.__cause__
        )
        assert "blockwise.py" not in str(caught.value.__cause__)  # nor other frames of the pool


SCRIPT = """
import warnings
import sharedarray as sa

def work(x):
    warnings.warn("hm")
    return 1 / x

if __name__ == "__main__":
    with sa.Pool(1) as pool:
        pool.submit(work, 0).result()
"""


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_functions_of_a_script(method, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.replace("Pool(1)", f"Pool(1, {method!r})"))
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=ANSWER, env=environment()
    )
    assert f'  File "{path}", line 7, in work\n    return 1 / x\n' in done.stderr
    assert f'{path}:6: UserWarning: hm\n  warnings.warn("hm")\n' in done.stderr
    assert "dynamic-code" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("way", ["-", "-c"])
def test_functions_of_a_command(way):
    """Python itself shows no lines for these before 3.13, but files and line numbers."""
    if way == "-c":
        shown, name = run(SCRIPT, status=1).stderr, "<string>"
    else:
        shown = subprocess.run(
            [sys.executable, "-"],
            input=SCRIPT,
            capture_output=True,
            text=True,
            timeout=ANSWER,
            env=environment(),
        ).stderr
        name = "<stdin>"
    assert f'  File "{name}", line 7, in work\n' in shown
    assert f"{name}:6: UserWarning: hm\n" in shown


# -- the text ------------------------------------------------------------------------------------------------


def rebuilt(exception):
    pickled = failures.pack(exception)
    return failures.rebuild(loads(pickled.stream, pickled.pieces()))


def raised(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def recurse(n):
    return recurse(n + 1)


def break_syntax():
    compile("1 +* 2", "broken.py", "exec")


def misspell():
    return undefind  # noqa: F821


def noted():
    error = ValueError("text")
    error.add_note("a note")
    raise error


def groups():
    errors = [raised(misspell), raised(noted)]
    try:
        raise ExceptionGroup("inner", errors)
    except ExceptionGroup as inner:
        raise BaseExceptionGroup("outer", [inner, KeyboardInterrupt()]) from KeyError("cause")


@pytest.mark.parametrize("function", [lambda: recurse(0), break_syntax, misspell, noted, groups])
def test_the_text_is_what_python_would_print(function):
    error = raised(function)
    expected = "".join(traceback.format_exception(error))
    found = rebuilt(error)
    while found.__cause__ is not None:
        found = found.__cause__
    assert found.tb == expected
    again = pickle.loads(pickle.dumps(found))
    assert (again.tb, str(again)) == (found.tb, str(found))


def test_a_line_that_only_the_worker_has(monkeypatch):
    name = "only-there.py"
    there: dict = {}
    monkeypatch.setitem(linecache.cache, name, (1, None, ["def work():\n", "    raise KeyError\n"], name))
    exec(compile("def work():\n    raise KeyError\n", name, "exec"), there)
    pickled = failures.pack(raised(there["work"]))
    monkeypatch.delitem(linecache.cache, name)
    found = failures.rebuild(loads(pickled.stream, pickled.pieces()))
    assert f'  File "{name}", line 2, in work\n    raise KeyError\n' in str(found.__cause__)


class Hostile(Exception):
    @property
    def __notes__(self):
        raise RuntimeError("no notes")

    def __str__(self):
        raise RuntimeError("no text")


def test_an_exception_whose_methods_raise_has_a_traceback_all_the_same():
    def fail():
        raise Hostile

    assert "in fail" in str(rebuilt(raised(fail)).__cause__)
