"""Functions and classes of the main module on their way to workers, and the ``__main__`` that a worker has.

A fresh process cannot import a script or a notebook, so its functions and classes travel *by value*, by
cloudpickle. They belong to one module all the same: each worker has one ``__main__``, and every function and
class of the caller's main module that arrives there refers to it.

::

    caller's __main__                                     worker's __main__
    work()  ── code, and the globals that it names ──▶    work()
    DATA    ── value and version ─────────────────────▶   DATA   assigned if the version is another one
    Model   ── token, state and version ──────────────▶   Model  one class; its state is set if the version
                                                                 is another one

A *version* tells whether the caller has changed a value since it was sent last. It is derived from the pickle
of the value. So a change by the caller arrives with the next call. A value that the worker has assigned
itself, in an initializer or in a task, stays until the caller changes its own. A value that the worker had
assigned before the caller ever sent one stays as well.

Everything else that a function refers to (defaults, closure, the instance of a bound method) belongs to one
call. A global that leads to a shared array is removed after the call: the worker must not keep its block.

Lambdas and inner functions of an importable module have a copy of the globals that they name. Those that the
initializer has assigned there are the worker's.

Functions and classes that the caller sent come back by their token or name, and are the caller's own there.
The same is done for other modules that a fresh process cannot import (`is_by_value`), and for namespaces that
are no module's, such as those of `exec` (`Namespaces`).

Limits. A change of a function's ``__doc__``, ``__name__`` or ``__annotations__`` alone is not noticed. Names
that the code does not spell, as in ``globals()[name]``, are not sent. A worker keeps the globals that it was
sent.

The modules of this package, bottom to top; imports go downwards only:

===========  =====================================================================
modules      which modules travel by value, and their namespaces
tokens       what identifies a function or class in all processes
class_hooks  making a class that arrives, and what a class statement calls
snapshots    whether a function is as it was: `Snapshot`, `FunctionCache`
received     what has arrived from the caller: globals, functions and classes
decorated    reducers of what decorators make: caches, dispatchers, descriptors
kept         objects of which a program keeps one: singletons, instances by key
named        objects that are known by their identity, by name or because they are kept
pickler      `CodePickler`, and the versions of values
start        the ``__main__`` of a worker that starts
===========  =====================================================================
"""

from sharedarray._functions.modules import importable, is_by_value
from sharedarray._functions.pickler import CALL, COPY, RESULT, CodePickler
from sharedarray._functions.received import release, version
from sharedarray._functions.snapshots import SCALARS, SENT_ONCE, FunctionCache, Snapshot
from sharedarray._functions.start import Inherited, before_fork, begin_worker, initialize

__all__ = [
    "CALL",
    "COPY",
    "RESULT",
    "SCALARS",
    "SENT_ONCE",
    "CodePickler",
    "FunctionCache",
    "Inherited",
    "Snapshot",
    "before_fork",
    "begin_worker",
    "importable",
    "initialize",
    "is_by_value",
    "release",
    "version",
]
