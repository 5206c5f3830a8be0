"""NumPy arrays in shared memory that any process attaches to by name.

The modules and packages, bottom to top; imports go downwards only:

=====================  ===========================================================================
clock                  the time, whatever replaces Python's clocks
errors                 the exception tree
greenlets              programs in which gevent or eventlet has replaced threads
thresholds             sizes from which on data is handled in another way, each with its reason
versions               the versions of other packages that this library registers with
interrupts             Ctrl-C, deferred until book-keeping is complete
progress               progress bars
_platform              the contract with the operating system, and one module for each system
damage                 damaged files of the registry
interpreter            the program that runs Python for helper processes
requirements           what blocks, locks and pools need of a kernel and of a file system
marks                  which bytes are being written, and which writes a death has interrupted
registry               the records beside the blocks, and which process may remove a block
janitor                the process that removes the blocks of processes that died
freelist               blocks that were just freed, whose pages the next ones use
segment                named bytes with a lease
dtypes                 the text for a dtype that travels, and for dtypes that no header can hold
header                 the NPY header of a block: pure encode and decode
display                how arrays, blocks and pools look at a terminal and in a notebook
locks                  locks on the bytes of a block, or of any file
array                  `SharedArray`; attaching by name, opening a file
subclasses             how instances of ndarray subclasses travel
creation               NumPy's creation functions, and `share`
reference              the handle for a view that travels between processes
reloads                modules that were reloaded, and that workers have to reload
picklers               registration with the picklers of other packages
listing                which blocks exist, and which processes hold them
family                 the process that keeps blocks for the processes that have closed them
shareable              the bytes of a `ShareableList`: pure encode and decode
shared_memory          CPython's `SharedMemory` and `ShareableList`, on blocks
objects                any picklable object in one block
managers               CPython's `SharedMemoryManager`, for blocks and arrays
pool                   `Pool`: an executor for arrays
integrations           joblib's backend, and Dask on one machine and on many
demo                   the main job, on real data: public API only
bench                  sharing against pickling and against others, measured
top                    the blocks, live in a terminal: public API only
cli                    the command line: public API only
=====================  ===========================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sharedarray import integrations as _integrations, interrupts as _interrupts, picklers as _picklers
from sharedarray._platform import platform as _platform
from sharedarray.array import (
    SharedArray,
    attach,
    open as open,  # noqa: A004  (NumPy's and tarfile's habit: sharedarray.open)
)
from sharedarray.creation import (
    empty,
    empty_like,
    full,
    full_like,
    ones,
    ones_like,
    share,
    zeros,
    zeros_like,
)
from sharedarray.errors import (
    BlockClosedError,
    BlockExistsError,
    BlockNotFoundError,
    DeadlockError,
    HeaderError,
    InvalidNameError,
    LimitError,
    LockTimeout,
    MaskedArrayError,
    MissingExtraError,
    NotOursError,
    NotPicklableError,
    OutOfSharedMemoryError,
    SharedArrayError,
    UnsupportedDTypeError,
    UnsupportedError,
)
from sharedarray.listing import BlockInfo, blocks, prune
from sharedarray.locks import Lock, lock_file
from sharedarray.reference import Reference
from sharedarray.segment import Segment, exists, unlink

if TYPE_CHECKING:
    from sharedarray.errors import WorkerDied as WorkerDied
    from sharedarray.managers import SharedMemoryManager as SharedMemoryManager
    from sharedarray.objects import get as get, put as put
    from sharedarray.pool import Pool as Pool
    from sharedarray.shared_memory import ShareableList as ShareableList, SharedMemory as SharedMemory

__all__ = [
    "BlockClosedError",
    "BlockExistsError",
    "BlockInfo",
    "BlockNotFoundError",
    "DeadlockError",
    "HeaderError",
    "InvalidNameError",
    "LimitError",
    "Lock",
    "LockTimeout",
    "MaskedArrayError",
    "MissingExtraError",
    "NotOursError",
    "NotPicklableError",
    "OutOfSharedMemoryError",
    "Pool",
    "Reference",
    "Segment",
    "ShareableList",
    "SharedArray",
    "SharedArrayError",
    "SharedMemory",
    "SharedMemoryManager",
    "UnsupportedDTypeError",
    "UnsupportedError",
    "WorkerDied",
    "attach",
    "blocks",
    "empty",
    "empty_like",
    "exists",
    "full",
    "full_like",
    "get",
    "lock_file",
    "ones",
    "ones_like",
    "open",
    "prune",
    "put",
    "share",
    "unlink",
    "zeros",
    "zeros_like",
]

# Imported when first asked for: processes that only attach need neither a pool nor multiprocessing.
_LAZY = {
    "Pool": "sharedarray.pool",
    "ShareableList": "sharedarray.shared_memory",
    "SharedMemory": "sharedarray.shared_memory",
    "SharedMemoryManager": "sharedarray.managers",
    "WorkerDied": "sharedarray.errors",
    "get": "sharedarray.objects",
    "put": "sharedarray.objects",
}

_picklers.install()
_integrations.install()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        with _interrupts.deferred:  # Ctrl-C would be ignored in some of what Python does at an import
            value = getattr(_platform.opened(import_module, _LAZY[name]), name)
    elif name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value = version("numpy-sharedarray")
        except PackageNotFoundError:  # a checkout on the path
            value = "0.0+unknown"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
