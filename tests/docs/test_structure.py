"""The map in `sharedarray.__init__` is true: imports go downwards, and the public names are as documented."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import importlib.util
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Never

import pytest
from helpers import TESTS

import sharedarray as sa
from sharedarray import _errors as errors, _forks as forks

PACKAGE = Path(sa.__file__).parent
LAYERS = re.findall(r"^#   (\w+)  *\S", (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
LEVEL = {name: level for level, name in enumerate(LAYERS)}
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
)
AS_FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
}
NOT_IMPORTED = {"sharedarray.__main__"} | {
    name
    for name in MODULES
    if name.startswith("sharedarray._platform.") and name not in sys.modules  # another system's
}
# Modules that need packages which only some users have.
EXTRAS = {
    "sharedarray._bench.picture": "matplotlib",
    "sharedarray._bench.report": "matplotlib",
    "sharedarray._demo.picture": "matplotlib",
    "sharedarray.integrations._dask_parts": "distributed",
    "sharedarray.integrations._dask_sharing": "distributed",
    "sharedarray.integrations._distributed": "distributed",
    "sharedarray.integrations.dask": "distributed",
    "sharedarray.integrations.joblib": "joblib",
}


def need_extra(module: str) -> None:
    pytest.importorskip(EXTRAS.get(module, "sys"))


@functools.cache
def source(module: str) -> str:
    path = PACKAGE.parent / Path(*module.split("."))
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def layer_of(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Return what a module imports from the package when it runs, imports for the type checker left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sharedarray":
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(name if name in MODULES else str(node.module) for name in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.split(".")[0] == "sharedarray")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source(module)))
    return frozenset(found)


def test_every_module_is_in_a_layer() -> None:
    assert {layer_of(module) for module in MODULES} - {"__init__", "__main__"} == set(LEVEL)


PACKAGES = {
    module: re.findall(r"^(\w+)  +\S", text.split("=\n", 1)[1].split("\n=", 1)[0], re.MULTILINE)
    for module in MODULES
    if module.count(".") and f"{module}.__init__" in AS_FILES
    for text in [ast.get_docstring(ast.parse(source(module))) or ""]
    if "=\n" in text
}


def test_each_module_of_the_pool_is_in_a_map() -> None:
    assert {"sharedarray._pool", "sharedarray._functions", "sharedarray._pool.processes"} <= set(PACKAGES)
    for package, names in PACKAGES.items():
        inside = {
            module.removeprefix(f"{package}.").split(".")[0]
            for module in MODULES
            if module.startswith(f"{package}.")
        }
        assert set(names) == inside, package
        assert len(names) == len(inside)


def test_the_places_that_the_map_of_the_pool_names_exist() -> None:
    named = re.findall(r"`(\w+\.[\w.]+)`", str(sys.modules["sharedarray._pool"].__doc__))
    assert len(named) > 10
    for name in named:
        assert callable(pkgutil.resolve_name(f"sharedarray._pool.{name}"))


def test_what_each_mechanism_of_the_pool_pays_is_measured_or_tested() -> None:
    """The table names modules, and rows of benchmarks or tests, that exist."""
    from sharedarray._bench.rows import ROWS

    page = (PACKAGE.parent / "docs" / "mechanisms.md").read_text(encoding="utf-8")
    table = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| ")][2:]
    assert len(table) > 20
    known = set(ROWS)
    for path in (PACKAGE.parent / "tests").rglob("test_*.py"):
        known.update(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    for path in (PACKAGE.parent / "benchmarks").glob("bench_*.py"):
        found = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        known.update(f"{path.name}::{name}" for name in found)
    for mechanism, where, _, shown in table:
        modules, names = re.findall(r"`([^`]+)`", where), re.findall(r"`([^`]+)`", shown)
        assert modules, mechanism
        assert names, mechanism
        assert set(names) <= known, mechanism
        for name in modules:
            assert {f"sharedarray._pool.{name}", f"sharedarray.{name}"} & set(MODULES), mechanism


def test_modules_and_classes_are_small() -> None:
    """A module answers one question: at most 600 lines; a class has at most 400."""
    large = set()
    for module in MODULES:
        text = source(module)
        if text.count("\n") > 600:
            large.add(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and (node.end_lineno or 0) - node.lineno >= 400:
                large.add(f"{module}.{node.name}")
    assert large == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_downwards_in_a_package(package: str) -> None:
    level = {f"{package}.{name}": number for number, name in enumerate(PACKAGES[package])}

    def member(module: str) -> str:
        return ".".join(module.split(".")[: package.count(".") + 2])

    for module in MODULES:
        for imported in imports_of(module) if member(module) in level else ():
            # The process object of a worker runs in the worker, and only there imports what that runs.
            if (module, imported) == (
                "sharedarray._pool.processes.worker_process",
                "sharedarray._pool.worker.main",
            ):
                continue
            if member(imported) in level and member(imported) != member(module):
                assert level[member(imported)] < level[member(module)], f"{module} imports {imported}"


# The modules that use the public API only.
WHOLE = ("_bench", "_cli", "_cli_files", "_cli_messages", "_demo", "_recording", "_top")


def test_imports_go_downwards() -> None:
    upwards = []
    for module in MODULES:
        layer = layer_of(module)
        for imported in imports_of(module) if layer not in ("__init__", "__main__") else ():
            target = layer_of(imported)
            if target == "__init__":
                if layer not in WHOLE:
                    upwards.append(f"{module} imports the whole package")
            elif target != layer and LEVEL[target] >= LEVEL[layer]:
                upwards.append(f"{module} imports {imported}, which is not below it")
    assert upwards == []


def test_the_platform_is_looked_at_in_one_place() -> None:
    """Every module's text is looked at, other systems' as well; nor does a test ask which system it is."""
    asks = re.compile(
        r"sys\.platform|\bos\.name\b|platform\.(system|win32_ver)\b|from sys import.*platform"
        r"|getwindowsversion|os\.uname|sysconfig\.get_platform"
    )
    looks = {module for module in MODULES if asks.search(source(module))}
    tests = [path for path in TESTS.rglob("*.py") if path != Path(__file__)]
    assert [path.name for path in tests if asks.search(path.read_text(encoding="utf-8"))] == []
    assert looks == {"sharedarray._platform"}


# Calls that open a descriptor. All go through `platform.opened`, which keeps it off the standard streams.
OPENS = re.compile(
    r"(os|socket|select|tempfile)\.(open|pipe2?|dup|memfd_create|pidfd_open|eventfd|openpty|forkpty|socket"
    r"|socketpair|create_connection|create_server|epoll|kqueue|mkstemp|TemporaryFile|NamedTemporaryFile)"
    r"|open|io\.open|Path\.open|.*\.accept|.*\.(read|write)_(text|bytes)"
)
# Calls of other libraries that open some, or start a process: within `with platform.standard_streams()`.
STARTS = re.compile(
    r"subprocess\.\w+|(.*\.)?(Pipe|_?Client)|selectors\.\w+|multiprocessing\..*\.(Semaphore|Lock|Queue)"
    r"|super\(\)\.start|.*\.ensure_running|worker\.start"
)


def opening_calls(module: str) -> list[str]:
    """Return the calls in a module that open a descriptor unguarded."""
    tree = ast.parse(source(module))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    own |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = []

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.With):
            guarded = guarded or any("standard_streams()" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg for keyword in node.keywords}
            fine = guarded or called in own or keywords & {"opener", "fileno"}
            if (OPENS.fullmatch(called) or STARTS.fullmatch(called)) and not fine:
                found.append(f"{called} in line {node.lineno}")
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(tree, False)
    return found


def test_forks_are_prepared_in_one_order() -> None:
    users = {module.removeprefix("sharedarray.") for module in MODULES if "forks.around(" in source(module)}
    assert users == set(forks.ORDER)
    for module in MODULES:
        assert ("register_at_fork" in source(module)) == (module == "sharedarray._forks"), module


LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "Event", "allocate_lock", "local", "ContextVar"}


def state_of(module: str) -> set[str]:
    """Return a module's variables that functions rebind, its locks, and its objects of its own classes.

    Constants have names in capitals.
    """
    tree = ast.parse(source(module))
    found = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    kinds = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} | LOCKS
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            target = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            if ast.unparse(node.value.func).split(".")[-1] in kinds and not target.isupper():
                found.add(target)
    return {f"{module.removeprefix('sharedarray.')}.{name}" for name in found}


def test_the_state_of_modules_is_documented_with_what_resets_it_after_a_fork() -> None:
    page = (Path(__file__).parents[2] / "docs" / "contributing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| \S.* \| (reset by `([\w.]+)`|kept: \S.*) \|$", page, re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(set().union(*map(state_of, MODULES)))
    assert {by for *_, by in rows if by} <= {*forks.ORDER, "_forks"}


# Modules that open descriptors for the others, and programs of their own that measure other libraries.
OPENERS = (
    "sharedarray._platform.descriptors",
    "sharedarray._platform.windows",
    "sharedarray._platform.windows_files",
)
PROGRAMS = ("_bench", "_demo")


def test_descriptors_are_opened_through_one_function() -> None:
    unguarded = {}
    for module in MODULES:
        if layer_of(module) in PROGRAMS or module in OPENERS:
            continue
        found = opening_calls(module)
        if module == "sharedarray._pool.processes.worker_process":
            # Called by `start`, guarded.
            found = [call for call in found if not call.startswith("super().start")]
        if found:
            unguarded[module] = found
    assert unguarded == {}


PUBLIC = [
    *("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like", "share"),
    *("array", "asarray"),
    *("attach", "open", "exists", "unlink", "blocks", "prune"),
    *("SharedArray", "Reference", "Segment", "Pool", "BlockInfo"),
    *("SharedMemory", "ShareableList", "SharedMemoryManager", "Lock", "lock_file"),
    *("put", "get"),
    *("Group", "group", "share_group"),
    *("Stream", "ShutDown", "wait"),
    *("Event", "Semaphore", "Condition", "Barrier"),
    *errors.__all__,
]


def test_public_names() -> None:
    assert sorted(sa.__all__) == sorted(PUBLIC)
    assert dir(sa) == sorted([*sa.__all__, "__version__"])
    for name in sa.__all__:
        assert getattr(sa, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = sa.nothing_of_the_kind
    assert re.fullmatch(r"\d+\.\d+.*", sa.__version__)


SIGNATURES = {
    "empty": "shape dtype order name persist file exist_ok replace progress capacity",
    "zeros": "shape dtype order name persist file exist_ok replace progress capacity",
    "full": "shape fill_value dtype order name persist file exist_ok replace progress",
    "empty_like": "prototype dtype order subok shape name persist file exist_ok replace progress",
    "full_like": "a fill_value dtype order subok shape name persist file exist_ok replace progress",
    "share": "array_like dtype order name persist file exist_ok replace progress",
    "array": "object dtype copy order ndmin name persist file exist_ok replace progress",
    "asarray": "a dtype order copy name persist file exist_ok replace progress",
    "attach": "name mode timeout",
    "unlink": "name missing_ok",
    "open": "path mode",
    "SharedMemory": "name create size track",
    "ShareableList": "sequence name",
    "SharedMemoryManager": "address authkey serializer ctx shutdown_timeout",
    "put": "obj name persist progress",
    "get": "name mode",
    "group": "name members attrs dims persist file exist_ok replace progress",
    "share_group": "name mapping attrs dims persist file exist_ok replace progress",
    "lock_file": "file_or_path shared timeout start length",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_take_the_documented_names(name: str) -> None:
    """By keyword, as `inspect` and editors see them."""
    found = list(inspect.signature(getattr(sa, name)).parameters)
    assert found == SIGNATURES[name].split()


def test_importing_is_light() -> None:
    """Processes that attach need neither multiprocessing nor the pool."""
    program = (
        "import sys, sharedarray as sa, numpy as np; a = sa.share(np.arange(3)); sa.attach(a.name)\n"
        "print([name for name in ('multiprocessing', 'concurrent.futures.process', 'asyncio', 'cloudpickle',"
        " 'sharedarray._pool', 'sharedarray._cli', 'matplotlib', 'tqdm') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


def test_a_pool_needs_no_asyncio() -> None:
    """It takes as long to load as all of the pool."""
    program = "import sys, sharedarray as sa; sa.Pool; print('asyncio' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"


# Dask keeps threads for as long as its process lives.
APART = {
    f"sharedarray.integrations.{name}" for name in ("_dask_parts", "_dask_sharing", "_distributed", "dask")
}


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(name for name in APART if ">>>" in source(name)))
def test_docstrings_run_in_a_program_of_their_own(module: str) -> None:
    need_extra(module)
    code = f"import doctest, sys, {module} as module; sys.exit(doctest.testmod(module).failed)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_module_can_be_imported() -> None:
    for module in sorted({*MODULES} - {*NOT_IMPORTED, *APART}):
        if importlib.util.find_spec(EXTRAS.get(module, "sys")):
            importlib.import_module(module)


@pytest.mark.lingers("descriptor")  # the pipe to the pool's fork server, which the next pool uses again
@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name not in {*NOT_IMPORTED, *APART} and ">>>" in source(name)],
)
def test_docstrings_run(module: str) -> None:
    need_extra(module)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for each in doctest.DocTestFinder().find(importlib.import_module(module)):
        imports = re.findall(r"^import (\w+)$", "".join(line.source for line in each.examples), re.MULTILINE)
        if all(map(importlib.util.find_spec, imports)):  # pandas and xarray need not be there
            runner.run(each)
    assert runner.summarize().failed == 0


# -- errors -----------------------------------------------------------------------------------------------

BUILTINS = {
    "InvalidNameError": ValueError,
    "BlockNotFoundError": FileNotFoundError,
    "BlockExistsError": FileExistsError,
    "NotOursError": PermissionError,
    "HeaderError": ValueError,
    "UnsupportedDTypeError": TypeError,
    "MaskedArrayError": TypeError,
    "UnsupportedError": NotImplementedError,
    "BlockClosedError": ValueError,
    "OutOfSharedMemoryError": OSError,
    "LimitError": OSError,
    "LockTimeout": TimeoutError,
    "DeadlockError": RuntimeError,
    "ProducerDied": ConnectionResetError,
    "CapacityError": ValueError,
    "WorkerDied": __import__("concurrent.futures").futures.BrokenExecutor,
    "NotPicklableError": pickle.PicklingError,
    "MissingExtraError": ImportError,
}


def test_the_tree_is_whole() -> None:
    assert {*BUILTINS, "SharedArrayError", "UnconsumedResultsWarning"} == set(errors.__all__)
    for name in BUILTINS:
        assert name in str(errors.__doc__)


@pytest.mark.parametrize("name", BUILTINS)
def test_errors_refine_builtins_and_survive_pickling(name: str) -> None:
    kind: Any = getattr(errors, name)
    details = {
        "name": "frames",
        "found": "a pipe",
        "expected": "a file",
        "cause": "chance",
        "next_step": "look",
    }
    error = kind("it went wrong", **details)
    assert isinstance(error, BUILTINS[name])
    assert isinstance(error, sa.SharedArrayError)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is kind
        assert str(again) == str(error)
        assert {key: getattr(again, key) for key in details} == details
    for word in ("it went wrong", "a pipe", "a file", "chance", "look"):
        assert word in str(error)
    if isinstance(error, OSError):
        assert error.errno
        assert error.filename == "frames"


def test_out_of_memory_carries_its_figures() -> None:
    error = sa.OutOfSharedMemoryError("full", needed=10, available=3, name="/dev/shm")
    again = pickle.loads(pickle.dumps(error))
    assert (again.needed, again.available, again.errno) == (10, 3, 28)


def documented() -> list[tuple[str, ModuleType]]:
    return [
        (name, getattr(sa, name)) for name in sa.__all__ if not name.endswith(("Error", "Timeout", "Died"))
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("empty", "share", "attach", "SharedArray", "Reference", "Segment", "Pool"),
        *("SharedMemory", "ShareableList", "SharedMemoryManager", "Lock", "lock_file"),
        *("put", "get"),
        *("Group", "group", "share_group"),
        *("Stream", "wait"),
    ],
)
def test_docstrings_are_numpydoc(name: str) -> None:
    text = inspect.getdoc(getattr(sa, name)) or ""
    assert re.search(r"^(Parameters|Attributes)\n-+$", text, re.MULTILINE)
    assert re.search(r"^Examples\n-+$", text, re.MULTILINE)


def test_sizes_from_which_data_is_handled_in_another_way_stand_in_one_place() -> None:
    from sharedarray import _thresholds as thresholds

    said = re.compile(r"#.*[Bb]ytes .*(from which on|up to which)")
    comments = [(name, line) for name in MODULES for line in source(name).splitlines() if "ytes " in line]
    elsewhere = [name for name, line in comments if said.search(line)]
    assert elsewhere == []
    text = source("sharedarray._thresholds")
    for name in thresholds.__all__:
        assert re.search(rf'^{name} = .*\n"""', text, re.MULTILINE), f"{name} has no reason"
        users = [each for each in MODULES if name in source(each) and re.search(rf"\b{name}\b", source(each))]
        assert len(users) > 1, f"{name} is not used"


def test_no_weak_set_is_iterated() -> None:
    """A thread that adds to one meanwhile makes the iteration fail: lists of weak references are used."""
    users = [name for name in MODULES if "WeakSet" in source(name)]
    assert users == ["sharedarray._sigint"]  # which looks at the code of its callback only
    tables = "_attachments|_by_token|_cores|_made|_origins|_token_of|_versions"
    iterated = re.compile(rf"for .* in (list\()?[\w.]*({tables})(\)|:|\.(values|items|keys)\()")
    assert [name for name in MODULES if iterated.search(source(name))] == []


# -- docstrings of what is public -------------------------------------------------------------------------

PUBLIC = {name: getattr(sa, name) for name in sa.__all__}
FUNCTIONS = sorted(name for name, value in PUBLIC.items() if inspect.isfunction(value))


def is_ours(value: Any) -> bool:
    return str(value.__module__).split(".")[0] == "sharedarray"


CLASSES = sorted(  # `ShutDown` is Python's own from 3.13 on
    name for name, value in PUBLIC.items() if inspect.isclass(value) and is_ours(value)
)


def faults(name: str, text: str | None, parameters: set[str]) -> list[str]:
    """Return what a docstring lacks: a summary, one of the parameters, or an example."""
    text = text or ""
    found = [] if re.match(r"\S.*\.(\n|$)", text) else [f"{name} has no summary"]
    section = re.search(r"^Parameters\n-+\n((?:.*\n)*?)(?=\w[\w ]*\n---|\Z)", text + "\n", re.MULTILINE)
    lines = re.findall(
        r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?\n    \S", section[1] if section else "", re.MULTILINE
    )
    described = {each.lstrip("*") for line in lines for each in line.split(", ")}
    found += [f"{name} does not describe {each!r}" for each in sorted(parameters - described)]
    if not re.search(r"^Examples\n-+\n(?:.*\n)*>>> ", text, re.MULTILINE):
        found.append(f"{name} has no example")
    return found


def parameters_of(function: Any) -> set[str]:
    """Return the names of the parameters that may be given: those of type Never are there for an error."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name for each in parameters if str(each.annotation) not in {"Never", repr(Never)}} - {
        "self",
        "cls",
    }


def faults_of_class(name: str, cls: type) -> list[str]:
    """Return what the docstrings of a class, its methods and its properties lack."""
    text = inspect.getdoc(cls) or ""
    found = faults(
        name, text, parameters_of(cls) if re.search(r"^Parameters\n---", text, re.MULTILINE) else set()
    )
    for owner in filter(is_ours, cls.__mro__):
        for each, value in vars(owner).items():
            member = getattr(value, "__func__", value)
            if each.startswith("_"):
                continue
            if inspect.isfunction(member):
                text = inspect.getdoc(getattr(cls, each)) or ""
                found += faults(f"{name}.{each}", text, parameters_of(member))
            elif isinstance(member, property | functools.cached_property) and not member.__doc__:
                found.append(f"{name}.{each} has no summary")
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_functions_describe_their_own_parameters(name: str) -> None:
    """With a summary, each parameter, and an example, which `test_docstrings_run` runs."""
    assert faults(name, inspect.getdoc(PUBLIC[name]), parameters_of(PUBLIC[name])) == []


# Classes of objects that methods and functions return.
RETURNED = (
    *("_display.copies.ArgumentCopies", "_display.copies.CopyReport", "_display.pool_stats.PoolStats"),
    *("_display.spans.Span", "_display.timeline.Timeline", "_listing.BlockList", "_snapshots.Update"),
    *("_streams.status.ConsumerStatus", "_streams.status.StreamStatus"),
)


@pytest.mark.parametrize("path", RETURNED)
def test_what_is_returned_is_described(path: str) -> None:
    module, name = path.rsplit(".", 1)
    assert faults_of_class(name, getattr(importlib.import_module(f"sharedarray.{module}"), name)) == []


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes_and_methods_describe_their_own_parameters(name: str) -> None:
    """And the methods that a class has from others of this library."""
    assert faults_of_class(name, PUBLIC[name]) == []


def test_the_backend_of_joblib_describes_its_parameters() -> None:
    need_extra("sharedarray.integrations.joblib")
    module = importlib.import_module("sharedarray.integrations.joblib")
    found = faults_of_class("SharedArrayBackend", module.SharedArrayBackend)
    assert found + faults("end_idle_workers", inspect.getdoc(module.end_idle_workers), set()) == []


def test_what_dask_users_call_describes_its_parameters() -> None:
    """Read from the source, because importing it takes a second, and needs Dask."""
    modules = "_dask_sharing", "dask"
    body = [node for name in modules for node in ast.parse(source(f"sharedarray.integrations.{name}")).body]
    public = [
        node for node in body if isinstance(node, ast.FunctionDef) and node.name in ("from_array", "share")
    ]
    assert len(public) == 2
    (pool,) = [node for node in body if isinstance(node, ast.ClassDef) and node.name == "DaskPool"]
    found = []
    for node in [*public, *pool.body]:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            text = ast.get_docstring(node)
            if any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list):
                assert text
                continue
            given = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
            found += faults(node.name, text, {each.arg for each in given} - {"self"})
    assert found + faults("DaskPool", ast.get_docstring(pool), set()) == []
