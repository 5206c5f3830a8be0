"""joblib's own tests of parallel backends, those of the joblib that is installed, run with ours.

Taken up is every test that names its backends as a parameter (there, ours takes their place), those that use
the default backend (which is ours while they run), and those that name loky though they are about any
backend (there, its name is exchanged). What we do differently on purpose stands in `DIFFERENCES`, with the
reason, and a test of ours shows what holds instead.
"""

from __future__ import annotations

import importlib
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sharedarray as sa

joblib = pytest.importorskip("joblib")
ours = importlib.import_module("sharedarray.integrations.joblib")
upstream: Any = importlib.import_module("joblib.test.test_parallel")

# Workers stay for the next call that wants the same.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.lingers("thread", "child", "descriptor"),
    pytest.mark.filterwarnings("default:.*tasks which were still being processed"),  # of dropped generators
]


class Name(str):
    """A backend's name, of which joblib's tests make the class's."""

    __slots__ = ()

    def title(self) -> str:
        return "SharedArray"


OURS = [Name("sharedarray")]
# The values that replace those of these parameters.
VALUES: dict[str, list[Any]] = {
    "backend": OURS,
    "parent_backend": [*OURS, "threading", "sequential"],
    "child_backend": [*OURS, "threading", "sequential"],
    "outer_backend": [*OURS, "threading"],
    "inner_backend": [*OURS, "threading"],
    "context": [joblib.parallel_config],  # of which parallel_backend is the former name
}
# Values of n_jobs that are left out for others, which are tested as well: those that stand for another here,
# and 4 workers, which two processors cannot do more with than with 2.
FOR_OTHERS = (-1, -2, 4)

# Tests without such a parameter that use whatever backend is the default, or name loky for any.
BY_DEFAULT = {
    "test_dispatch_race_condition",
    "test_effective_n_jobs",
    "test_exception_dispatch",
    "test_globals_update_at_each_parallel_call",
    "test_memmap_with_big_offset",
    "test_overwrite_default_backend",
    "test_parallel_byteorder_corruption",
    "test_parallel_kwargs",
    "test_parallel_pickling",
    "test_parallel_with_exhausted_iterator",
    "test_parameterized_backend_context_manager",
    "test_backend_hinting_always_running",
    "test_directly_parameterized_backend_context_manager",
    "test_threadpool_limitation_in_child_override",
}
BY_NAME = {
    "test_initializer_not_reused",
    "test_initializer_reused",
    "test_nested_loop_with_exception_with_loky",
    "test_threadpool_limitation_in_child_context",
    "test_threadpool_limitation_in_child_loky",
    "test_threadpool_limitation_in_child_override",
}

DIFFERENCES = {
    "test_auto_memmap_on_arrays_from_generator": (
        "wants the arguments to be of class numpy.memmap; ours are arrays in shared memory, as read-only"
    ),
    "test_memmapping_leaks": "looks for the files of loky in its temporary folder; ours has none",
    "test_thread_bomb_mitigation": (
        "wants the RecursionError, and is left where loky cannot send it; ours is named by NotPicklableError"
    ),
    "test_multiple_generator_call_separated_gc": (
        "wants a second call to fail where the first one's generator is dropped, because loky's calls share "
        "their workers; ours do not"
    ),
    "test_nested_exception_dispatch": "is marked as failing with loky; it passes with ours",
    "test_backend_context_manager": "also has it checked for backends of other names; that is not about ours",
}

# Scripts that the tests run import joblib alone, and a backend of another package needs that one.
SCRIPTS = ("UNPICKLABLE_CALLABLE_SCRIPT_TEMPLATE_NO_MAIN", "UNPICKLABLE_CALLABLE_SCRIPT_TEMPLATE_MAIN")


@pytest.fixture(autouse=True)
def by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ours the default backend, also for scripts."""
    monkeypatch.setitem(joblib.parallel.BACKENDS, "sharedarray", ours.SharedArrayBackend)
    monkeypatch.setattr(joblib.parallel, "DEFAULT_BACKEND", "sharedarray")
    for script in SCRIPTS:
        monkeypatch.setattr(upstream, script, f"import sharedarray\n{getattr(upstream, script)}")


@pytest.fixture(autouse=True, scope="module")
def afterwards() -> Iterator[None]:
    yield
    ours.end_idle_workers()


# -- their tests ----------------------------------------------------------------------------------------


def _renamed(code: types.CodeType) -> types.CodeType:
    """Return the same code, with our name where loky's is a constant."""
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constant = _renamed(constant)
        elif type(constant) is str and constant == "loky":
            constant = "sharedarray"
        constants.append(constant)
    return code.replace(co_consts=tuple(constants))


def _exchanged(function: Any) -> Callable[..., None]:
    """Return a copy of one of joblib's tests, with our backend."""
    name = function.__name__
    code = _renamed(function.__code__) if name in BY_NAME else function.__code__
    made = types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    marks = []
    for mark in function.pytestmark if hasattr(function, "pytestmark") else ():
        if mark.name == "parametrize":
            parameter, values = mark.args
            if parameter == "n_jobs":
                values = [value for value in values if value not in FOR_OTHERS] or values
            mark = pytest.mark.parametrize(parameter, VALUES.get(parameter, values)).mark
            marks.append(mark)
        elif mark.name == "skipif":
            marks.append(mark)
    made.pytestmark = marks  # type: ignore[attr-defined]
    return made


def _about_backends(function: Any) -> bool:
    marks = getattr(function, "pytestmark", ())
    named = any(mark.name == "parametrize" and mark.args[0].endswith("backend") for mark in marks)
    return named or function.__name__ in BY_DEFAULT | BY_NAME


THEIRS = {
    name: function
    for name, function in vars(upstream).items()
    if name.startswith("test_") and isinstance(function, types.FunctionType) and _about_backends(function)
}
for _name, _function in THEIRS.items():
    if _name not in DIFFERENCES or _name in (
        "test_nested_exception_dispatch",
        "test_backend_context_manager",
    ):
        globals()[_name] = _exchanged(_function)


# -- what holds instead ---------------------------------------------------------------------------------


def test_most_of_their_tests_are_run() -> None:
    assert len(THEIRS) > 40
    assert set(DIFFERENCES) - {"test_multiple_generator_call_separated_gc"} <= set(THEIRS)


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    assert type(array) is np.ndarray
    assert not array.flags.writeable
    return array.copy()


@pytest.mark.parametrize("n_jobs", [2, 4])
def test_arrays_from_a_generator_are_shared_apiece(n_jobs: int) -> None:
    given = (np.ones(10, dtype=np.float32) * i for i in range(100))
    results = joblib.Parallel(n_jobs, max_nbytes=1)(joblib.delayed(read_only)(a) for a in given)
    assert [result[0] for result in results] == list(range(100))


def test_nothing_of_a_call_stays_in_memory(tmp_path: Path) -> None:
    with joblib.Parallel(2, max_nbytes=1, temp_folder=str(tmp_path)) as parallel:
        for _ in range(2):
            parallel(joblib.delayed(read_only)(a) for a in [np.random.random(10)] * 2)
            assert sa.blocks() == []
    assert os.listdir(tmp_path) == []


def test_endless_recursion_is_an_error() -> None:
    error = pytest.raises(sa.NotPicklableError, match="RecursionError")
    with joblib.parallel_config("sharedarray", n_jobs=2), error:
        upstream._recursive_parallel()


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_a_dropped_generator_disturbs_no_other_call(return_as: str) -> None:
    one = joblib.Parallel(2, return_as=return_as)
    dropped = one(joblib.delayed(upstream.sleep)(10) for _ in range(10))
    with pytest.warns(UserWarning, match="cancelled"):
        del dropped
    other = joblib.Parallel(2, return_as=return_as)(joblib.delayed(abs)(i) for i in range(20))
    assert sorted(other) == list(range(20))
    assert one._aborting
