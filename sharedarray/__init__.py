"""NumPy arrays in shared memory that any process attaches to by name.

The rooms, bottom to top; imports go downwards only:

=====================  ===========================================================================
clock                  the time, whatever a program's tests do to it
errors                 the exception tree
greenlets              programs that gevent or eventlet has patched
thresholds             sizes from which on data is handled in another way
versions               which versions of other packages are registered with
interrupts             Ctrl-C, at a moment when nothing is half done
progress               bars, where a person looks on and it takes long
_platform              what is asked of an operating system, and one file for each that does it
damage                 files of the registry that are not as they should be
interpreter            the program that runs Python for helper processes
requirements           what is needed of a kernel and of a file system
marks                  which bytes are being written, and which were left half-written
registry               the records beside the blocks, and who may remove what
janitor                the process that removes what sudden death left
freelist               blocks that were just freed, whose pages the next ones use
segment                named bytes with a lease
dtypes                 the text that stands for a dtype, and what no header holds
header                 the NPY page: pure encode and decode
display                how arrays, blocks and pools look at a terminal and in a notebook
locks                  locks on the bytes of a block, or of any file
array                  `SharedArray`; attaching by name, opening a file
subclasses             how instances of ndarray subclasses travel
creation               NumPy's creation functions, and `share`
reference              the handle that stands for a view while it travels
reloads                modules that were loaded anew, and workers that have to do the same
picklers               registration with the picklers that carry tasks
listing                which blocks there are, and who holds them
family                 the process that keeps a block for those who have closed it
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
