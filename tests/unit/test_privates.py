"""Private names of the standard library: none is needed at the import, and programs run without them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import sharedarray as sa

PACKAGE = Path(sa.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTED = {"_thread", "__future__", "os._exit", "sys._getframe", "sys._current_frames"}


def read_at_import(tree: ast.Module) -> list[str]:
    """Return the private names of the standard library that a module reads when it is imported, unguarded."""
    standard: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            standard |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            standard |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    standard = {
        name: full for name, full in standard.items() if full.split(".")[0] in sys.stdlib_module_names
    }
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for part in (*getattr(node, "decorator_list", ()), *node.args.defaults):
                visit(part)
            return
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.Try) and any(
            handler.type is not None and ast.unparse(handler.type) in ("ImportError", "AttributeError")
            for handler in node.handlers
        ):
            return
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.ImportFrom):
            module = str(node.module)
            if module.split(".")[0] in sys.stdlib_module_names:
                names = [module] if module.startswith("_") else [alias.name for alias in node.names]
                found.extend(name for name in names if name.startswith("_"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root: ast.AST = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in standard:
                found.append(ast.unparse(node))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return [name for name in found if name not in DOCUMENTED]


def test_no_private_name_is_read_at_import_without_a_fallback() -> None:
    read = {path: read_at_import(ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES}
    assert {str(path.relative_to(PACKAGE)): names for path, names in read.items() if names} == {}


def test_the_search_for_private_names_finds_them() -> None:
    text = "import _signal, os, threading\nfrom _weakref import ref\nclass A:\n    x = threading._shutdown\n"
    text += "def f(y=os._data):\n    return os._hidden\n"
    assert read_at_import(ast.parse(text)) == ["_signal", "_weakref", "threading._shutdown", "os._data"]


WITHOUT = """
import atexit, io, os, pickle, signal, subprocess, sys, threading, weakref
from collections import ChainMap
from multiprocessing import process, reduction, util

def without_signal():
    sys.modules["_signal"] = None

def without_environment():
    class Environ(dict):
        pass
    os.environ = Environ(os.environ)

def without_reducers():
    kind = reduction.ForkingPickler
    table = kind._extra_reducers
    del kind._extra_reducers
    def begin(self, *args):
        pickle.Pickler.__init__(self, *args)
        self.dispatch_table = ChainMap(table)
    kind.__init__ = begin
    kind.register = classmethod(lambda cls, type, reduce: table.__setitem__(type, reduce))
    reduction.register = kind.register

def without_weak():
    for kind in (weakref.WeakValueDictionary, weakref.WeakKeyDictionary, weakref.WeakSet):
        kind._remove = property(lambda self: None, lambda self, value: self.__dict__.update(_gone=value))

def without_small():
    import concurrent.futures.process  # which needs the first one itself
    for module, name in ((threading, "_register_atexit"), (atexit, "_clear"), (atexit, "_run_exitfuncs"),
                         (sys, "_base_executable")):
        if hasattr(module, name):
            delattr(module, name)

if __name__ == "__main__":
    globals()["without_" + sys.argv[1]]()
    import numpy as np
    import sharedarray as sa
    a = sa.share(np.arange(1000.0))
    with a.lock(timeout=60):
        a += 1
    held = sa.put({"a": a})
    assert sa.get(held)["a"].sum() == a.sum()
    memory = sa.SharedMemory(create=True, size=10)
    memory.buf[:2] = b"xy"
    memory.close()
    memory.unlink()
    with sa.Pool(1) as pool:
        assert pool.submit(np.sum, a).result(60) == 500500
        assert list(pool.map(lambda n: float(a[n]), range(3))) == [1, 2, 3]
    print("in order")
"""


@pytest.mark.parametrize(
    "name",
    [
        "signal",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("environment", "weak", "small")),
        "reducers",
    ],
)
def test_a_program_runs_without_a_private_name(tmp_path: Path, name: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(WITHOUT)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(script), name]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    assert (ran.returncode, ran.stdout.strip(), ran.stderr) == (0, "in order", "")
