"""NumPy arrays in shared memory that any process attaches to by name.

A `SharedArray` is a NumPy array whose data lie in a block of shared memory. The block's header holds
the shape and the dtype, so that another process needs its name alone.

>>> import numpy as np
>>> import sharedarray as sa
>>> frames = sa.share(np.arange(6.0).reshape(2, 3), name="frames")  # one copy, into a new block
>>> other = sa.attach("frames")  # in any process: the same memory, no copy
>>> other[0, 0] = 10.0
>>> float(frames[0, 0])
10.0

The block is freed when the last process that holds it lets go of it or dies.

>>> del frames, other
>>> sa.exists("frames")
False

Where to start:

===================================  ===================================================================
`share`, `empty`, `zeros`, `attach`  make an array, and find it by name
`group`, `share_group`               many arrays under one name
`Pool`                               run functions in worker processes, with arrays that are not copied
`Stream`                             a camera and its readers: arrays that come one after the other, by name
`wait`                               waits for several streams and futures
`put`, `get`                         any picklable object, by name
`SharedArray.lock`, `lock_file`      locks between processes, for arrays and for files
`open`, and ``file=``                arrays in ``.npy`` files
`blocks`, `prune`, `unlink`          which blocks exist, and removing them
`SharedMemory`, `ShareableList`      the interfaces of `multiprocessing.shared_memory`
===================================  ===================================================================

The command ``sharedarray --help`` lists what can be done from a terminal.
"""

# The modules and packages, bottom to top; imports go downwards only (a test compares this list):
#
#   _sizes         how numbers of bytes are written for people
#   _call_site     the line of the program that called this package; warnings for it
#   _hints         what was probably meant by a wrong name, or by another object in its place
#   _clock         the time, whatever replaces Python's clocks
#   _errors        the exception tree
#   _greenlets     programs in which gevent or eventlet has replaced threads
#   _thresholds    sizes from which on data is handled in another way, each with its reason
#   _versions      the versions of other packages that this library registers with
#   _forks         what is done before and after each fork, in one order
#   _process_end   what leaves when the process ends, and the daemon threads that still run
#   _sigint        Ctrl-C, deferred until book-keeping is complete
#   _progress      progress bars
#   _platform      the contract with the operating system, and one module for each system
#   _spin          polling for a short time before a thread sleeps
#   _pipes         the pipes between two processes; wakers; descriptors for the ends of processes
#   _poller        waiting for many descriptors at once
#   _damage        damaged files of the registry
#   _interpreter   the program that runs Python for helper processes
#   _requirements  what blocks, locks and pools need of a kernel and of a file system
#   _intent_table  the table of write intents: what lies where in it, and its damage
#   _intents       which bytes are being written, and which writes a death has interrupted
#   _registry      the records beside the blocks, and which process may remove a block
#   _janitor_process  what the janitor does, in a process of its own
#   _janitor       starts the process that removes the blocks of processes that died
#   _freelist      blocks that were just freed, whose pages the next ones use
#   _segment       named bytes with a lease
#   _made_once     objects of which an attachment has one
#   _wakers        waking a process that uses the same block, and learning of its end
#   _control_page  waiting for what other processes write into a block, by a page of control words
#   _notices       notices of new data in a block, for which processes wait
#   _dtypes        the text for a dtype that travels, and for dtypes that no header can hold
#   _masked        which arrays have a mask, that a plain array of them would lose
#   _header        the NPY header of a block: pure encode and decode
#   _object_layout the bytes of an object in a block: pure encode and decode
#   _programs      the names of the programs that processes run
#   _group_index   the index of a group: pure encode and decode
#   _snapshots     versions of what is in a block
#   _version_buffers  the buffers of versions: finding those of a block, and making them
#   _growth        arrays whose first axis grows
#   _display       how arrays, blocks and pools look at a terminal and in a notebook
#   _lock_holds    what this process holds of locks
#   _locks         locks on the bytes of a block
#   _file_locks    locks on the bytes of any file
#   _array         `SharedArray`; attaching by name, opening a file
#   _subclasses    how instances of ndarray subclasses travel
#   _filling       data of any kind, written into a block before it is mapped
#   _sharing       shared copies of data: `share`, `array`, `asarray`
#   _creation      NumPy's creation functions
#   _datasets      npz files, frames, datasets and safetensors files, for groups
#   _group_block   the block of a group: closing, removing, keeping, locking it
#   _group_exports  the members of a group for other libraries
#   _group         `Group`: many arrays in one block
#   _groups        making groups
#   _grips         whether arrays that arrived as references still use an attachment
#   _arrivals      views that arrive as references, and the attachments that they share
#   _reference     the handle for a view that travels between processes
#   _reloads       modules that were reloaded, and that workers have to reload
#   _picklers      registration with the picklers of other packages
#   _functions     functions and classes of the main module on their way to workers, and their ``__main__``
#   _sync          events, semaphores, conditions and barriers by name
#   _streams       `Stream`: a producer and its consumers, by name
#   _listing       which blocks exist, and which processes hold them
#   _process_tree  the process that keeps blocks for the processes that have closed them
#   _shareable     the bytes of a `ShareableList`: pure encode and decode
#   _shared_memory CPython's `SharedMemory` and `ShareableList`, on blocks
#   _managers      CPython's `SharedMemoryManager`, for blocks and arrays
#   _pool          the core of a `Pool`: its workers, and the calls that they run
#   _executor      `Pool`, an executor for arrays; what it has in common with `DaskPool`
#   _objects       any picklable object in one block
#   integrations   joblib's backend, and Dask on one machine and on many
#   _demo          the main job, on real data: public API only
#   _bench         sharing against pickling and against others, measured
#   _recording     streams in files: public API only
#   _top           the blocks, live in a terminal: public API only
#   _cli_messages  what the command line says
#   _cli_files     blocks are copied into files
#   _cli           the command line: public API only

from __future__ import annotations

from importlib import import_module
from sys import modules as _modules
from typing import TYPE_CHECKING, Any

from sharedarray import _picklers as _picklers, _sigint as _sigint, integrations as _integrations
from sharedarray._array import (
    SharedArray,
    attach,
    open as open,  # noqa: A004  (NumPy's and tarfile's habit: sharedarray.open)
)
from sharedarray._creation import (
    array,
    asarray,
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
from sharedarray._errors import (
    BlockClosedError,
    BlockExistsError,
    BlockNotFoundError,
    CapacityError,
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
    ProducerDied,
    SharedArrayError,
    UnconsumedResultsWarning,
    UnsupportedDTypeError,
    UnsupportedError,
)
from sharedarray._file_locks import lock_file
from sharedarray._groups import Group, group, share_group
from sharedarray._listing import BlockInfo, blocks, prune
from sharedarray._locks import Lock
from sharedarray._platform import platform as _platform
from sharedarray._reference import Reference
from sharedarray._segment import Segment, exists, unlink

if TYPE_CHECKING:
    from sharedarray._errors import WorkerDied as WorkerDied
    from sharedarray._executor.pool import Pool as Pool
    from sharedarray._managers import SharedMemoryManager as SharedMemoryManager
    from sharedarray._objects import get as get, put as put
    from sharedarray._shared_memory import ShareableList as ShareableList, SharedMemory as SharedMemory
    from sharedarray._streams import ShutDown as ShutDown, Stream as Stream, wait as wait
    from sharedarray._sync import (
        Barrier as Barrier,
        Condition as Condition,
        Event as Event,
        Semaphore as Semaphore,
    )

__all__ = [
    "Barrier",
    "BlockClosedError",
    "BlockExistsError",
    "BlockInfo",
    "BlockNotFoundError",
    "CapacityError",
    "Condition",
    "DeadlockError",
    "Event",
    "Group",
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
    "ProducerDied",
    "Reference",
    "Segment",
    "Semaphore",
    "ShareableList",
    "SharedArray",
    "SharedArrayError",
    "SharedMemory",
    "SharedMemoryManager",
    "ShutDown",
    "Stream",
    "UnconsumedResultsWarning",
    "UnsupportedDTypeError",
    "UnsupportedError",
    "WorkerDied",
    "array",
    "asarray",
    "attach",
    "blocks",
    "empty",
    "empty_like",
    "exists",
    "full",
    "full_like",
    "get",
    "group",
    "lock_file",
    "ones",
    "ones_like",
    "open",
    "prune",
    "put",
    "share",
    "share_group",
    "unlink",
    "wait",
    "zeros",
    "zeros_like",
]

# Imported when first asked for: processes that only attach need neither a pool nor multiprocessing.
_LAZY = {
    "Barrier": "sharedarray._sync",
    "Condition": "sharedarray._sync",
    "Event": "sharedarray._sync",
    "Pool": "sharedarray._executor.pool",
    "Semaphore": "sharedarray._sync",
    "ShareableList": "sharedarray._shared_memory",
    "SharedMemory": "sharedarray._shared_memory",
    "SharedMemoryManager": "sharedarray._managers",
    "ShutDown": "sharedarray._streams",
    "Stream": "sharedarray._streams",
    "WorkerDied": "sharedarray._errors",
    "get": "sharedarray._objects",
    "put": "sharedarray._objects",
    "wait": "sharedarray._streams",
}

# Names of PyPI's SharedArray, NumPy, multiprocessing, Ray and the shell, and the names here.
_OTHER_WORDS = {
    **dict.fromkeys(("copy", "from_array", "fromarray", "from_numpy", "Array"), "sharedarray.share(array)"),
    **dict.fromkeys(("create", "new", "ndarray"), "sharedarray.zeros(shape, dtype, name=...)"),
    **dict.fromkeys(("delete", "remove", "rm", "destroy", "free"), "sharedarray.unlink(name)"),
    **dict.fromkeys(("list", "ls"), "sharedarray.blocks()"),
    **dict.fromkeys(("load", "memmap", "open_memmap"), "sharedarray.open(path)"),
    **dict.fromkeys(("save", "savez"), "numpy.save(path, array)"),
    **dict.fromkeys(("close", "detach"), "array.close()"),
    **dict.fromkeys(("map", "submit", "Executor", "ProcessPool", "ProcessPoolExecutor"), "sharedarray.Pool"),
    "Manager": "sharedarray.SharedMemoryManager",
    "Parallel": "joblib.Parallel, in joblib.parallel_config(backend='sharedarray')",
    **dict.fromkeys(("stream", "Queue", "Ring"), "sharedarray.Stream(name)"),
    **dict.fromkeys(("lock", "RLock"), "array.lock() and sharedarray.lock_file(path)"),
}

_picklers.install()
_integrations.install()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        with _sigint.deferred:  # Ctrl-C would be ignored in some of what Python does at an import
            value = getattr(_platform.opened(import_module, _LAZY[name]), name)
    elif name == "cli":  # for programs that run a command themselves; no public name of the package
        return _platform.opened(import_module, "sharedarray._cli")
    elif name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            value = version("numpy-sharedarray")
        except PackageNotFoundError:  # a checkout on the path
            value = "0.0+unknown"
    else:
        text = f"module {__name__!r} has no attribute {name!r}"
        if name in _OTHER_WORDS:
            text += f": see {_OTHER_WORDS[name]}"
        elif callable(getattr(_modules["numpy"], name, None)):
            text += f": share the result of NumPy's, as in sharedarray.share(numpy.{name}(...))"
        raise AttributeError(text, name=name, obj=_modules[__name__])
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
