"""From a call to a task: find the function, pack the arguments, copy what is large."""

from __future__ import annotations

import itertools
import marshal
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from sharedarray import _sigint as sigint
from sharedarray._functions import SCALARS, SENT_ONCE, FunctionCache, Snapshot
from sharedarray._pool.calls import Arguments, Function, Raised, Task, name_of, new_number
from sharedarray._pool.codec.account import Account, names_of
from sharedarray._pool.codec.arrays import KnownBuffers
from sharedarray._pool.codec.call import (
    are_scalars,
    dump_call,
    importable_name,
    is_flat,
    short_call,
)
from sharedarray._pool.codec.culprits import culprit_of_call
from sharedarray._pool.codec.pickled import Pickled
from sharedarray._pool.codec.pickler import dumps
from sharedarray._pool.futures import PoolFuture
from sharedarray._pool.outcomes import unsendable
from sharedarray._pool.sinks import Results
from sharedarray._pool.transport.messages import PLAIN
from sharedarray._reference import FORMAT
from sharedarray._segment import follow, has_name
from sharedarray._thresholds import LONG_TEXT

if TYPE_CHECKING:
    from sharedarray._pool.core import PoolCore

__all__ = ["Intake"]

# Functions that can be imported, of which workers keep the names.
IMPORTED: Final = 512
_TEXT = frozenset((str, bytes))
# Names of the function and one argument, and the bytes of a function that workers have.
_ONE, _NOTHING = names_of(1, ()), (0, 0, 0, 0)


class Intake:
    """Make tasks of calls, and give them to the core.

    Parameters
    ----------
    core
        Runs them.
    retries
        How often a task is run again if its worker died, unless the call says otherwise.
    """

    def __init__(self, core: PoolCore, retries: int) -> None:
        self._core = core
        self._retries = retries
        self._cache = FunctionCache()
        self._imported: dict[tuple[str | None, str], Function] = {}

    def submit(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        retries: int | None = None,
        limit: float | None = None,
    ) -> Future[Any]:
        """Accept a call of ``function``; return the future of the outcome.

        Parameters
        ----------
        function, args, kwargs
            The call.
        retries
            How often it is run again if its worker died; the pool's number if None.
        limit
            Seconds that it may run, before its worker is killed.
        """
        core = self._core
        future = PoolFuture(core)
        try:
            shipped = self._shipped(function)
            pickled = _packed(shipped, function, args, kwargs)
        except Exception as reason:
            core.check_open()
            shown = name_of(function)
            culprit = culprit_of_call(function, args, kwargs, shown)
            future.set_exception(unsendable(shown, reason, culprit))
            return future
        if shipped is not None:
            task = Task(future, shipped.label, shipped.stats)
        else:
            label = name_of(function)
            task = Task(future, label, core.statistics.function(function, label))
        task.function = shipped
        task.pickled = pickled
        if type(pickled) is Arguments:
            task.is_small = True
        elif pickled.blocks or pickled.buffers:
            task.kept = (function, args, kwargs)
        if retries or self._retries or limit is not None:
            self._set_options(task, retries, limit)
        future.assign(task)
        with sigint.deferred:
            if not pickled.sendable:
                core.check_open()
                try:
                    self._copy_arguments(task, pickled)
                except Exception as reason:  # a dtype that is not to be copied as bytes, no memory
                    task.release()
                    future.set_exception(unsendable(task.label, reason))
                    return future
            core.enqueue([task], pickled)
        return future

    def _set_options(
        self, task: Task, retries: int | None, limit: float | None, deadline: float | None = None
    ) -> None:
        again = self._retries if retries is None else retries
        if again:
            task.retries = again
        if limit is not None:
            task.limit = limit
        if deadline is not None:
            task.deadline = deadline

    def map(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        *,
        label: str | None = None,
        way: str = "map",
        noun: str = "item",
        parted: bool = False,
        names: Sequence[str] | None = None,
        part_of: Results | None = None,
        retries: int | None = None,
        limit: float | None = None,
        deadline: float | None = None,
    ) -> Results:
        """Accept calls of ``function`` with each tuple of arguments; return the outcomes, in order.

        Parameters
        ----------
        function, calls
            What is called, on what.
        label, way, noun
            What messages call the function, the method of the pool, and an item.
        parted
            Whether each worker rather gets calls of a part of its own, the same one each time: then it has
            the memory mapped already that these are about.
        names
            What reports call the arguments; their positions if None.
        part_of
            What `map` has returned for another part of what is one call to the user.
        retries, limit
            As for `submit`.
        deadline
            When all calls must have ended, in seconds of the monotonic clock.
        """
        core = self._core
        core.check_open()
        with sigint.allowed:  # nothing is submitted yet
            shared = self.function_of(function, label)
            call = new_number() if part_of is None else part_of.call
            origin = noun, f"{way}({shared.label})"
            first = 0 if part_of is None else part_of.count
            results = Results(core, len(calls), call=call, origin=origin, first=first)
            options = (retries, limit, deadline)
            core.statistics.called_many(call, shared.label, shared.pickled, len(calls))
            tasks = self._tasks(shared, results, calls, function, options, names, parted=parted)
        if tasks:
            try:
                with sigint.deferred:
                    core.enqueue(tasks)
            except BaseException as raised:  # Ctrl-C as well, which came meanwhile
                results.end()
                core.cancel_all(results, running=isinstance(raised, KeyboardInterrupt))
                raise
        return results

    def _tasks(
        self,
        shared: Function,
        results: Results,
        calls: Sequence[tuple[Any, ...]],
        function: Callable[..., Any],
        options: tuple[int | None, float | None, float | None],
        names: Sequence[str] | None,
        *,
        parted: bool,
    ) -> list[Task]:
        """Return the tasks of a map; the outcomes of calls that cannot be sent are put into its results."""
        core = self._core
        tasks: list[Task] = []
        known: KnownBuffers = {}
        start = 0
        groups: Iterable[tuple[bool, Iterable[tuple[Any, ...]]]] = itertools.groupby(calls, _are_small)
        if _are_small(itertools.chain.from_iterable(calls), calls):  # all at once, at a quarter of the time
            groups = [(True, calls)] if calls else []
        for small, group in groups:
            items = group if isinstance(group, list) else list(group)
            if small:
                parts = core.workers if parted and len(items) >= 2 * core.workers else 1
                for part in range(parts):
                    first, stop = (len(items) * at // parts for at in (part, part + 1))
                    task = Task(results, shared.label, shared.stats, results.call)
                    task.function = shared
                    task.items = calls
                    task.is_small = True
                    task.first, task.count = start + first, stop - first
                    task.independent = True
                    task.lazy = options[1] is None and len(items) > 1
                    task.slot = part if parts > 1 else None
                    self._set_options(task, *options)
                    tasks.append(task)
            else:
                for index, args in enumerate(items, start):
                    made = self._item(shared, results, args, known, options, names, function)
                    if isinstance(made, Raised):
                        results.put(index, [made])
                        continue
                    task, pickled = made
                    task.first = index
                    core.statistics.sends(task.call, pickled)
                    tasks.append(task)
            start += len(items)
        return tasks

    def add(
        self,
        function: Function,
        results: Results,
        args: tuple[Any, ...],
        *,
        original: Callable[..., Any],
        retries: int | None = None,
        limit: float | None = None,
        deadline: float | None = None,
    ) -> None:
        """Accept one more item, whose outcome is taken as it arrives.

        If this is broken off, by Ctrl-C while the arguments are packed for instance, there is no such item.
        """
        core = self._core
        core.check_open()
        made = self._item(function, results, args, None, (retries, limit, deadline), None, original)
        with sigint.deferred:
            if not isinstance(made, Raised):
                task, pickled = made
                try:
                    self._copy_arguments(task, pickled)
                except Exception as reason:
                    made = Raised(unsendable(task.label, reason))
            index = results.count
            results.expect()
            if isinstance(made, Raised):
                core.statistics.more(results.call)
                results.put(index, [made])
                return
            task.first = index
            try:
                core.enqueue([task])
            except BaseException:
                results.expect(-1)
                raise
            core.statistics.more(results.call)
            core.statistics.sends(results.call, pickled)

    def flush(self, function: Function, results: Results) -> None:
        """Do nothing: `add` keeps no item back to send it with later ones."""

    def _item(
        self,
        function: Function,
        results: Results,
        args: tuple[Any, ...],
        known: KnownBuffers | None,
        options: tuple[int | None, float | None, float | None],
        names: Sequence[str] | None,
        original: Callable[..., Any],
    ) -> tuple[Task, Pickled] | Raised:
        """Return the task for one item and its arguments; if they cannot be sent, the outcome of the item.

        Messages call the arguments by the parameters of the ``original`` function.
        """
        task = Task(results, function.label, function.stats, results.call)
        task.function = function
        task.independent = True
        self._set_options(task, *options)
        try:
            task.pickled = pickled = _packed(function, None, args, {}, known)
        except Exception as reason:
            culprit = culprit_of_call(original, args, {}, function.label)
            return Raised(unsendable(function.label, reason, culprit))
        self.follow(pickled)
        if names is not None and pickled.account is not None:
            pickled.account.names = ("function", *names)
        task.kept = args if pickled.blocks or pickled.buffers else None
        task.is_small = type(pickled) is Arguments
        return task, pickled

    # Functions

    def _shipped(self, function: Callable[..., Any]) -> Function | None:
        """Return a function that workers keep; None if it travels with its call."""
        home = importable_name(function)
        if home is not None:
            return self._imported.get(home) or self._import(home, function)
        if type(function) in SENT_ONCE:
            found: Function | None = self._cache.get(function, self._send_once)
            return found
        return None

    def _import(self, home: tuple[str | None, str], function: Callable[..., Any]) -> Function:
        if len(self._imported) >= IMPORTED:
            self._imported.clear()
        pickled = Pickled(marshal.dumps(home, FORMAT), layout=PLAIN)
        made = self._imported[home] = self._made_of(pickled, function, name_of(function))
        return made

    def _send_once(self, function: Callable[..., Any], snapshot: Snapshot) -> Function | None:
        """Return a function that workers keep; None if it depends on what may change unseen, or is large."""
        pickled = dumps(function, snapshot=snapshot)
        snapshot.fixed &= pickled.short and not pickled.data and not pickled.blocks
        return self._made_of(pickled, function, name_of(function)) if snapshot.fixed else None

    def function_of(self, function: Callable[..., Any], label: str | None = None) -> Function:
        """Return a function that is sent once to each worker for many items.

        Raises
        ------
        NotPicklableError
            It cannot be sent.
        """
        try:
            if label is None:
                shipped = self._shipped(function)
                if shipped is not None:
                    return shipped
            pickled = dumps(function, many=True)
        except Exception as reason:
            shown = label or name_of(function)
            raise unsendable(shown, reason, culprit_of_call(function, (), {}, shown)) from reason
        self.follow(pickled)
        return self._made_of(pickled, function, label or name_of(function))

    def _made_of(self, pickled: Pickled, function: Callable[..., Any], label: str) -> Function:
        core = self._core
        made = Function(label, pickled, function, core.statistics.function(function, label))
        weakref.finalize(made, _forget, weakref.ref(core), made.number).atexit = False
        return made

    # Arguments

    def follow(self, pickled: Pickled) -> None:
        """Follow a block that workers were sent, so that they learn when this process releases it."""
        for mapping in pickled.blocks:
            follow(mapping, self._core.housekeeping)

    def _copy_arguments(self, task: Task, pickled: Pickled) -> None:
        """Copy large arguments, unless they are too large, so that the caller may change its arrays.

        They go to slots, or to this process's own memory if there are none. `Copier` copies the others, when
        there is a worker for them. Small arguments were copied by `_packed`.
        """
        store = self._core.store
        if not pickled.copy_to_slots(store, private=task.retries > 0, within=store.limits[0]):
            pickled.copy_now(store)


def _forget(core: weakref.ref[PoolCore], number: int) -> None:
    """Tell a core that a function is not needed any more. A finalizer must not keep the core alive."""
    found = core()
    if found is not None:
        found.housekeeping.forget_function(number)


def _packed(
    shipped: Function | None,
    function: Callable[..., Any] | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    known: KnownBuffers | None = None,
) -> Pickled:
    """Return the arguments of a call, and the function if workers do not keep it."""
    if shipped is not None and not kwargs:
        if SCALARS.issuperset(map(type, args)):
            stream = marshal.dumps(args, FORMAT)
            if len(stream) < LONG_TEXT:
                return Arguments(stream)
        else:
            call = short_call(args)
            if call is not None and has_name(call.blocks[0]):
                return call
            if len(args) == 1 and is_flat(args[0]):
                stream = marshal.dumps(args, FORMAT)
                if len(stream) < LONG_TEXT:
                    return Arguments(stream, Account(_ONE, (_NOTHING, (0, 0, len(stream), 0))))
    return dump_call(function if shipped is None else None, args, kwargs, known)


def _are_small(values: Iterable[Any], calls: Sequence[tuple[Any, ...]] | None = None) -> bool:
    """Return whether these are numbers and short text, of which many can be sent in one message.

    If ``calls`` is given, they are also the values of these, and can be iterated over only once.
    """
    try:
        kinds = set(map(type, values))
    except Exception:  # the hash of a class is its metaclass's
        return False
    if not are_scalars(kinds):
        return False
    if kinds.isdisjoint(_TEXT):
        return True
    again = values if calls is None else itertools.chain.from_iterable(calls)
    return all(len(value) <= LONG_TEXT for value in again if type(value) in _TEXT)
