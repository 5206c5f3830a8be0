"""The preparation of a new process: the data that it reads before its process object.

`multiprocessing.spawn.prepare` does the preparation in the child. This package's part of it is a call that
the child makes as it unpickles the preparation data (`Preset`), before it imports this package.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import sys
from multiprocessing import context, process, util
from multiprocessing.reduction import ForkingPickler
from typing import Any

from sharedarray._pool.processes import interpreters

__all__ = ["Preset", "end_of_imports", "new_interpreter", "orders"]


class Preset:
    """A call that the child makes when it unpickles the preparation data."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def new_interpreter(variables: dict[str, str]) -> Preset:
    """Return what a new interpreter does before any import of this package: set variables of the environment.

    `PYTHONHASHSEED` is the caller's again afterwards: the new interpreter has read its own. Collections of
    garbage, which find nothing while NumPy and this package are loaded, are disabled until `end_of_imports`.
    """
    name = interpreters.HASH_SEED
    chosen = os.environ.get(name)
    if chosen is not None:
        variables = {name: chosen, **variables}
    bytecode = sys.dont_write_bytecode, sys.pycache_prefix
    return Preset(
        exec,
        f"import gc, os, sys; gc.disable(); "
        f"os.environ.pop({name!a}, None); os.environ.update({variables!a}); "
        f"sys.dont_write_bytecode, sys.pycache_prefix = {bytecode!a}",
    )


def end_of_imports() -> None:
    """Enable collections of garbage, in a new interpreter; what is loaded by now is left out of them."""
    gc.freeze()
    gc.enable()


def orders(popen: Any, child: process.BaseProcess, preset: Preset) -> memoryview:
    """Return the bytes that a child reads first: the preparation data, and its process object."""
    preparation = {"sharedarray_preset": preset, **_preparation(child.name)}
    file = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        ForkingPickler(file).dump(preparation)
        ForkingPickler(file).dump(child)
    finally:
        context.set_spawning_popen(None)
    return memoryview(file.getvalue())  # not the buffer, which complains when both are garbage


def _preparation(name: str) -> dict[str, Any]:
    """Return the preparation data of multiprocessing, without the main module.

    `multiprocessing.spawn.get_preparation_data` fails if the main module has no ``__spec__``, as under pdb,
    and if the working directory was removed.
    """
    found: dict[str, Any] = {
        "log_to_stderr": getattr(util, "_log_to_stderr", False),
        "authkey": process.current_process().authkey,
        "name": name,
        "sys_path": interpreters.import_path(),
        "sys_argv": getattr(sys, "argv", [""]),
        "orig_dir": getattr(process, "ORIGINAL_DIR", None),
        "start_method": multiprocessing.get_start_method(allow_none=True),
    }
    if found["start_method"] not in multiprocessing.get_all_start_methods():
        del found["start_method"]  # none was chosen, or one of a library that the child has not loaded (loky)
    logger = getattr(util, "_logger", None)
    if logger is not None:
        found["log_level"] = logger.getEffectiveLevel()
    return {key: value for key, value in found.items() if value is not None}
