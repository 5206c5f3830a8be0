"""The block of an event, a semaphore, a condition or a barrier, and the processes that use it.

The block is an ``.npy`` array of words of 8 bytes::

    0 MAGIC    the kind, and the version of its format
    1 SETTING  the initial value of a semaphore, the number of parties of a barrier
    2 CHANGES  how many times a party has joined or left so far
    3 DEATHS   how many parties have been found dead so far
    4 …        the words of each kind
    16 …       `ENTRIES` entries of 8 words: PID, ASLEEP, and those of each kind

Each object that changes or awaits the state is a *party* of the block (see `sharedarray._wakers`), with an
entry. A word is changed by one store, under a lock on the first word that the kernel frees if its holder
dies. So a process may be killed between any two steps, and the state is whole.

A process that is killed after it has changed the state, and before it has woken those that wait, must not
leave them asleep. So a sleeper waits for the end of all other parties too: each end wakes it, and it looks
again. A process that joins wakes the sleepers, so that they wait for its end as well. The first to find a
party dead clears its entry (`_settle`), under the lock and with the dead party's lease.

Here a party holds units, arrives, and is notified, as one, and is watched by all others. So an object is one
party, and one of its threads sleeps for all. On a `sharedarray._control_page`, each thread that sleeps is a
party, and what the page refers to must not keep the block.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from sharedarray import (
    _array,
    _errors as errors,
    _header as header,
    _segment as segment,
    _sigint as sigint,
)
from sharedarray._array import SharedArray
from sharedarray._clock import time
from sharedarray._platform import platform
from sharedarray._spin import spin_wait
from sharedarray._wakers import (
    ENDING,
    FIRST_LEASE,
    Fence,
    Waker,
    at_process_end,
    deadline_after,
    seconds_until,
)

if TYPE_CHECKING:
    from sharedarray._platform.contract import Watch

__all__ = ["DEATHS", "ENTRIES", "FIRST", "OWN", "SETTING", "Primitive"]

ENTRIES = 64  # parties at once; each sleeper watches all others, with one descriptor each
MAGIC, SETTING, CHANGES, DEATHS, FIRST = range(5)
_ENTRY, _ENTRY_WORDS = 16, 8
PID, ASLEEP, OWN = range(3)  # words of an entry; those from OWN on are each kind's
_WORDS = _ENTRY + ENTRIES * _ENTRY_WORDS
_FORMAT = 1
_MUTEX = FIRST_LEASE - 1  # the byte that is locked while the state is changed
_LOOK = 0.05  # seconds after which a thread checks whether the leader's call was broken off by Ctrl-C
_PAUSE = 0.005  # seconds between two wake-ups of a thread that sleeps for an object which is closed


class _Leadership:
    """Marks the thread that sleeps for all; the mark goes when that thread's call ends, however it ends."""

    __slots__ = ("__weakref__", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class _Mutex:
    """The lock under which the state is changed: of the threads of an object, and of all processes.

    It is taken and released in a deferred block. Ctrl-C breaks off the wait alone.
    """

    __slots__ = ("_file", "_threads")

    def __init__(self, mapping: segment.Mapping) -> None:
        self._threads: Any = threading.RLock()  # which tells whether this thread has it
        self._file = segment.guarded_open(mapping)

    def take(self) -> bool:
        """Wait for the lock and take it; return False if it is closed."""
        try:
            with sigint.allowed:
                self._threads.acquire()
                if self._file >= 0:
                    platform.lock(self._file, _MUTEX, 1, shared=False, wait=True)
        except BaseException:
            if self._threads._is_owned():
                self.release()
            raise
        if self._file < 0:  # closed by another thread
            self._threads.release()
            return False
        return True

    def take_at_once(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        if not self._threads.acquire(blocking=False):
            return False
        if platform.lock(self._file, _MUTEX, 1, shared=False, wait=False):
            return True
        self._threads.release()
        return False

    def release(self) -> None:
        """Release the lock."""
        if self._file >= 0:
            platform.unlock(self._file, _MUTEX, 1)
        self._threads.release()

    def close(self) -> None:
        """Close the file by which it is locked, once no thread has the lock."""
        with self._threads:
            file, self._file = self._file, -1
            if file >= 0:
                segment.guarded_close(file)


class Primitive:
    """The base of the four kinds: the block, its parties, and waiting."""

    _KIND: ClassVar[str]  # of the block's record
    _MAGIC: ClassVar[int]

    _array: SharedArray

    def __init__(self, name: str | None, setting: int | None, default: int) -> None:
        self._array = self._made(name, setting, default)
        self._begin()

    def _made(self, name: str | None, setting: int | None, default: int) -> SharedArray:
        """Make the block, or attach to the one that has the name."""
        given: object = name
        if isinstance(given, int):  # as those of threading and multiprocessing, which have no name
            kind = type(self).__name__
            raise TypeError(
                f"{kind}() takes its name first, or None for a random one: write {kind}(None, {name}) or "
                f"{kind}('name', {name})"
            )
        while True:
            if name is not None:
                try:
                    return self._attached(name, setting)
                except errors.BlockNotFoundError:
                    pass
            try:
                return self._create(name, default if setting is None else setting)
            except errors.BlockExistsError:
                continue  # made since, by another process

    def _create(self, name: str | None, setting: int) -> SharedArray:
        page = header.encode(np.dtype(np.uint64), (_WORDS,), fortran=False)
        words = np.zeros(_WORDS, np.uint64)
        words[MAGIC] = self._magic()
        words[SETTING] = setting
        self._initialise(words, setting)
        mapping = segment.create(
            len(page) + words.nbytes,
            segment.BlockOptions(name, kind=self._KIND),
            buffers=[memoryview(page), memoryview(words.tobytes())],
        )
        return _array.from_mapping(mapping, header.decode(page, len(mapping), name=mapping.name))

    def _initialise(self, words: np.ndarray[Any, Any], setting: int) -> None:
        """Write the first state."""

    @classmethod
    def _magic(cls) -> int:
        return int.from_bytes(b"sasync", "little") | _FORMAT << 48 | cls._MAGIC << 56

    def _attached(self, name: str, setting: int | None) -> SharedArray:
        try:
            array = _array.attach(name)
        except errors.HeaderError as error:
            raise self._other_kind(name) from error
        if not self._fits(array):
            raise self._other_kind(name)
        if setting is not None and int(array[SETTING]) != setting:
            raise errors.BlockExistsError(
                f"the {self._KIND} {name!r} exists with another value",
                name=name,
                found=str(int(array[SETTING])),
                expected=str(setting),
                next_step=f"sharedarray.{type(self).__name__}({name!r}) uses the one that is there",
            )
        return array

    @classmethod
    def _fits(cls, array: np.ndarray[Any, Any]) -> bool:
        return array.dtype == np.uint64 and array.shape == (_WORDS,) and int(array[MAGIC]) == cls._magic()

    def _other_kind(self, name: str) -> errors.BlockExistsError:
        return errors.BlockExistsError(
            f"the name {name!r} is taken",
            name=name,
            found=f"a block that is no {self._KIND}",
            expected=f"{'an' if self._KIND == 'event' else 'a'} {self._KIND}, or a free name",
            next_step="choose another name, or sharedarray.unlink(name)",
        )

    def _begin(self) -> None:
        """Set up what belongs to this process alone: at first, and in a forked child."""
        mapping = segment.mapping_of(self._array)
        assert mapping is not None
        self._mapping = mapping
        self.name: str = mapping.name
        self._words = self._array.data.cast("B").cast("Q")
        self._process = os.getpid()
        self._closed = True  # until it is whole
        self._local = threading.Condition()  # of the threads of this process that wait
        self._epoch = 0  # changes when they shall check again
        self._leader: Callable[[], _Leadership | None] = lambda: None  # the one that sleeps for all
        words = self._words
        pid_of = lambda party: int(words[_ENTRY + party * _ENTRY_WORDS + PID])  # noqa: E731  (it knows no `self`)
        opened: list[Any] = []
        try:
            opened.append(_Mutex(mapping))
            opened.append(Waker(mapping, pid_of))
            opened.append(Waker(mapping, pid_of))
        except BaseException:
            for each in opened:
                each.close() if isinstance(each, _Mutex) else each.release()
            raise
        # The last one wakes the others, under `_changing`.
        self._changing, self._sleeper, self._waker = opened
        self._sleeping = Fence()
        self._waking = Fence()
        self._token = time.monotonic_ns() | 1
        self._woken: dict[int, int] = {}
        self._known: tuple[int, list[int]] = -1, []
        self._spin = spin_wait()
        _live[:] = [reference for reference in _live if reference() is not None]
        _live.append(weakref.ref(self))
        self._closed = False

    # -- parties

    @property
    def _own(self) -> int:
        """The first word of this party's own words."""
        return int(_ENTRY + self._sleeper.index * _ENTRY_WORDS + OWN)

    def _parties(self) -> list[int]:
        """Return the parties with an entry."""
        words = self._words
        changes, found = self._known
        if changes != words[CHANGES]:
            changes = words[CHANGES]
            found = [party for party in range(ENTRIES) if words[_ENTRY + party * _ENTRY_WORDS + PID]]
            self._known = changes, found
        return found

    def _changed(self) -> None:
        """Note that a party has joined or left."""
        self._words[CHANGES] = (self._words[CHANGES] + 1) % (1 << 64)

    def _own_words(self) -> Iterator[int]:
        """Return the first own word of each party that has an entry."""
        for party in self._parties():
            yield _ENTRY + party * _ENTRY_WORDS + OWN

    @contextmanager
    def _change(self) -> Iterator[memoryview]:
        """Hold the lock under which the state is changed, as a party."""
        if self._process != os.getpid():
            self._begin()
        if self._closed:
            raise self._is_closed()
        with sigint.deferred:
            if not self._changing.take():
                raise self._is_closed()
            try:
                if self._closed:  # by another thread, in the meantime
                    raise self._is_closed()
                if self._sleeper.index < 0:
                    self._join()
                yield self._words
            finally:
                self._changing.release()

    def _join(self) -> None:
        words = self._words
        for party in range(ENTRIES):
            if self._sleeper.claim(party):
                break
        else:
            raise errors.LimitError(
                f"{ENTRIES} processes use the {self._KIND} {self.name!r}",
                name=self.name,
                found=f"{ENTRIES} parties",
                expected="one entry that is free",
                next_step="close it where it is not used any more",
            )
        entry = _ENTRY + party * _ENTRY_WORDS
        if words[entry + PID]:
            self._died(party)
        words[entry + ASLEEP] = 0
        words[entry + PID] = self._process
        self._changed()
        self._wake_sleepers()

    def _died(self, party: int) -> None:
        """Clear the entry of a dead party. The caller holds `_changing`, and the party's lease."""
        words, entry = self._words, _ENTRY + party * _ENTRY_WORDS
        self._settle(entry + OWN)
        for k in range(OWN, _ENTRY_WORDS):
            words[entry + k] = 0
        words[DEATHS] = (words[DEATHS] + 1) % (1 << 64)
        words[entry + ASLEEP] = 0
        words[entry + PID] = 0
        self._changed()
        self._waker.forget(party)

    def _settle(self, own: int) -> None:
        """Undo or finish what a dead party had begun; `own` is the first of its own words."""

    def _clear_dead(self) -> None:
        """Clear the entries of parties that have died."""
        with self._change():
            dead = False
            for party in self._parties():
                if party != self._sleeper.index and self._waker.take(party):
                    try:
                        self._died(party)
                        dead = True
                    finally:
                        self._waker.give_back(party)
            if dead:
                self._wake_sleepers()

    def _wake_sleepers(self) -> None:
        """Wake each party that sleeps. The caller holds `_changing`, and has changed the state."""
        words, own = self._words, self._sleeper.index
        self._waking()
        for party in self._parties():
            token = words[_ENTRY + party * _ENTRY_WORDS + ASLEEP]
            if token and party != own and self._woken.get(party) != token:
                self._woken[party] = token
                self._waker.wake(party)
        if own >= 0 and words[_ENTRY + own * _ENTRY_WORDS + ASLEEP]:
            self._sleeper.wake_self()
        self._tell_threads()

    # -- waiting

    @staticmethod
    def _check_blocking(blocking: object) -> None:
        if not isinstance(blocking, bool | np.bool_) and blocking not in (0, 1):
            raise TypeError(
                f"blocking is True or False, not {blocking!r}; for seconds to wait write timeout={blocking!r}"
            )

    def _wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `ready` returns True; return False if the time is over before.

        Of several threads of this process, one sleeps for all, the leader; the others wait for it to wake.
        """
        end = deadline_after(timeout)
        if ready():
            return True
        if end is not None and time.monotonic() >= end:
            return False
        with self._change():
            pass  # to be a party
        start = time.perf_counter()
        while True:
            epoch = self._epoch
            if self._closed:
                raise self._is_closed()
            if ready():
                self._spin.last = time.perf_counter() - start
                return True
            remaining = seconds_until(end)
            if remaining is not None and remaining <= 0:
                return False
            leadership = _Leadership()
            with self._local:
                if self._leader() is None:
                    self._leader = weakref.ref(leadership)
                else:
                    if self._epoch == epoch:
                        self._local.wait(_LOOK if remaining is None else min(remaining, _LOOK))
                    continue
            try:
                if (self._spin.worthwhile() and self._spin.poll(ready)) or self._sleep(ready, end):
                    self._spin.last = time.perf_counter() - start
                    return True
            finally:
                del leadership
                self._tell_threads()

    def _tell_threads(self) -> None:
        """Let the threads of this process that wait look again."""
        with self._local:
            self._epoch += 1
            self._local.notify_all()

    def _sleep(self, ready: Callable[[], bool], end: float | None) -> bool:
        """Sleep until another party changes the state, or dies, or time is over; return what was ready."""
        words, waker = self._words, self._sleeper
        asleep = _ENTRY + waker.index * _ENTRY_WORDS + ASLEEP
        waker.drain()
        self._token += 2
        words[asleep] = self._token
        try:
            self._sleeping()
            joined = words[CHANGES]
            others = [party for party in self._parties() if party != waker.index]
            if ready():
                return True
            if words[CHANGES] != joined:
                return False
            if not all(map(waker.alive, others)):
                self._clear_dead()
            elif waker.wait(others, seconds_until(end)) and all(map(waker.alive, others)):
                time.sleep(ENDING)
        finally:
            words[asleep] = 0
        return False

    def _watch(self, watch: Watch, ready: Callable[[], object]) -> bool:
        """Sleep until `watch` can be read; return False if a party has died that is to be cleared.

        It can be read at once if `ready` returns true.
        """
        with self._change() as words:
            waker = self._sleeper
            platform.drain(waker.handle)
            watch.add(waker.handle, own=True)
            self._token += 2
            words[_ENTRY + waker.index * _ENTRY_WORDS + ASLEEP] = self._token
            self._sleeping()
            others = [party for party in self._parties() if party != waker.index]
            for party in range(ENTRIES):
                waker.forget(party)  # it may be that of a former party
            for end in waker.ends(others):
                watch.add(end)
            if ready():
                waker.wake_self()
            return all(map(waker.alive, others))

    # -- the end

    def close(self) -> None:
        """Give up this object's part in it. Others keep theirs; idempotent.

        The block is freed when the last object that uses it is closed or collected, or its process ends.

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("closed_event")  # the same for a semaphore, a condition and a barrier
        >>> event.close()
        >>> event.closed
        True
        """
        if not self._closed:
            with sigint.deferred:
                self._end(wait=True)

    def _end(self, *, wait: bool) -> None:
        """Close this object; if it cannot clear its entry without waiting, others do so as for the dead."""
        own = self._process == os.getpid()
        if own:
            if self._changing.take() if wait else self._changing.take_at_once():
                try:
                    if self._closed:
                        return
                    self._closed = True
                    if self._sleeper.index >= 0:
                        self._clear_own()
                finally:
                    self._changing.release()
            self._closed = True
            self._end_waits()
        self._closed = True
        self._sleeper.release()
        self._waker.release()
        if own:
            self._changing.close()
        del self._words, self._array, self._mapping  # and so the block, if no other object uses it

    def _clear_own(self) -> None:
        entry = _ENTRY + self._sleeper.index * _ENTRY_WORDS
        self._release_party(entry + OWN)
        for k in range(OWN, _ENTRY_WORDS):
            self._words[entry + k] = 0
        self._words[entry + PID] = 0
        self._changed()
        self._wake_sleepers()

    def _end_waits(self) -> None:
        """Wait until no other thread sleeps for this object."""
        while (leader := self._leader()) is not None and leader.thread != threading.get_ident():
            del leader
            self._sleeper.wake_self()
            self._tell_threads()
            with self._local:
                self._local.wait(_PAUSE)

    def __getattr__(self, name: str) -> Any:
        if name in ("_words", "_array", "_mapping") and self.__dict__.get("_closed"):
            raise self._is_closed()
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _is_closed(self) -> errors.BlockClosedError:
        return errors.BlockClosedError(
            f"the {self._KIND} {self.name!r} is closed", name=self.name, next_step="open it again by its name"
        )

    def _release_party(self, own: int) -> None:
        """Give back what this party has; `own` is the first of its own words."""

    @property
    def closed(self) -> bool:
        """True if this object is closed."""
        return self._closed

    def unlink(self) -> None:
        """Remove the name now. Objects that use it keep it.

        Raises
        ------
        BlockClosedError
            This object is closed (a `ValueError`).
        BlockNotFoundError
            The name is gone, or leads to another block (a `FileNotFoundError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> event = sa.Event("unlinked_event")  # the same for a semaphore, a condition and a barrier
        >>> event.unlink()
        >>> event.set()  # still works
        >>> sa.exists("unlinked_event")
        False
        """
        segment.unlink_mapping(self._mapping)

    @sigint.finalizer
    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            sigint.finalize(lambda: self._end(wait=False))

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (type(self), self._array)

    @classmethod
    def _of(cls, array: object) -> Self:
        if not isinstance(array, SharedArray) or array.closed or not cls._fits(array):
            raise errors.NotPicklableError(
                f"{cls.__name__} objects travel to other processes of this machine only",
                found="a copy of its data, as from pickle.dump",
                next_step="send its name",
            )
        made = cls.__new__(cls)
        made._array = array
        made._begin()
        return made


def _arrived(cls: type[Primitive], array: object) -> Primitive:
    return cls._of(array)


_live: list[weakref.ref[Primitive]] = []  # all that are not closed


@at_process_end
def _close_all() -> None:
    for reference in _live[:]:
        primitive = reference()
        if primitive is not None:
            primitive.close()
