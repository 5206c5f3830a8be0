"""Functions of a script: the main module defines them, so a pool cannot import them by name."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace


@contextlib.contextmanager
def in_main(module: ModuleType) -> Iterator[SimpleNamespace]:
    """Run a module's source in ``__main__``; give a namespace of what it defines there.

    The functions are those that a user's script would have: ``__module__`` is ``__main__``, and their globals
    are those of the main module. On exit, the main module's names are what they were before.
    """
    names = vars(sys.modules["__main__"])
    before = dict(names)
    try:
        exec(compile(inspect.getsource(module), str(module.__file__), "exec", dont_inherit=True), names)
        yield SimpleNamespace(**{name: value for name, value in names.items() if name in vars(module)})
    finally:
        for name in names.keys() - before.keys():
            del names[name]
        names.update(before)
