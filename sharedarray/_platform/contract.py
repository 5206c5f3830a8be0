"""The functions that the library needs from an operating system.

For each platform, one module keeps this contract. `sharedarray._platform` chooses it, and no other module
asks which platform it is. The terms are the same for all kernels:

block
    Named memory: a file on a memory file system, or named memory of the kernel. Or a file on disk.
draft
    A block that is being made: no process can attach to it yet. It is freed with its last handle.
handle
    An int that stands for an open block; for a file, its descriptor. Closing the handle ends its lease and
    locks.
lease
    A holder's mark on a block, counted by the kernel. It ends when it is released, or when the handle
    and everything made from it is closed, however the process ends.
removal lock
    The lock under which one process at a time may remove a block's name.
metadata link
    A short text under a name, written whole or not at all.
waker
    An object of the kernel with a path, by which a process that waits is woken. That process owns the waker
    until it closes the waker or ends.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import socket

_P = ParamSpec("_P")
_T = TypeVar("_T")

Mode: TypeAlias = Literal["r", "r+", "c"]


class Status(NamedTuple):
    """The status of an open block: its identity, its size in bytes, and the number of its names.

    `reused` is True if the file was another block before, so that another name may have led to it.
    """

    device: int
    inode: int
    size: int
    links: int
    regular: bool
    reused: bool = False


class Draft(NamedTuple):
    """A block that is being made; `scratch` is its temporary path if the file system needs one."""

    handle: int
    scratch: str | None = None


class Watch(Protocol):
    """A descriptor that is readable while one of its wakers is woken or has lost its owner."""

    def fileno(self) -> int:
        """Return the descriptor."""

    def add(self, waker: int, *, own: bool = False) -> None:
        """Watch this process's own waker, or the end of the process that owns another waker."""

    def close(self) -> None:
        """Close the descriptor."""


class Traits(Protocol):
    """The differences between systems by which callers decide, and the settings of users."""

    NEEDS_JANITOR: bool
    """True if a block outlives its last holder's sudden death, so that a janitor must remove it."""

    SEMAPHORES: str | None
    """The directory in which semaphores with names are files; None if there is none."""

    RECORDS_DECIDE: bool
    """True if a block's record decides how long the block lives; the record can change, or name a keeper.

    If False, a block that persists is a file from the start. Any other block is freed with its last holder,
    and no process can keep it without holding it.
    """

    LENGTHENS: bool
    """True if a block can become longer after it was made, as it does for versions."""

    REUSES_PAGES: bool
    """True if a block's file and pages can be used for the next block; see `sharedarray._freelist`.

    If False, the functions of `Reuse` are never called.
    """

    UNSHARES: bool
    """True if `unshare` can make a part of a mapping private; see `sharedarray._snapshots`."""

    NAME_LIMIT: int
    """Bytes that a block's name may have."""

    STILL_MADE: str
    """The text of `FileNotFoundError` for a block that has its name and is not published yet."""

    DEFAULT_DIRECTORY: str
    """Directory of the blocks when the user names none."""

    def setting(self, name: str) -> str | None:
        """Return an environment variable, as it is now; None if it is not set."""

    def user(self) -> str:
        """Return the part of the registry's name that differs between users."""

    def name_problem(self, name: str) -> str | None:
        """Return the reason why this system cannot have a block of this name; None if it can."""

    def missing(self, directory: str) -> str | None:
        """Return in words what blocks in a directory need and the system lacks; None if it lacks nothing."""


class Descriptors(Protocol):
    """Opening descriptors, none of which is that of a standard stream."""

    def opened(self, opener: Callable[_P, _T], *arguments: _P.args, **keywords: _P.kwargs) -> _T:
        """Call a function that opens a descriptor, a socket, a poller, or several; return its result.

        No descriptor in the result is that of a standard stream. A program may run with these closed. The
        kernel then gives their numbers to the next files, and the output of any library would go there.
        """

    def opener(self, path: str, flags: int) -> int:
        """Open a file as `opened` does; for the argument ``opener`` of Python's `open`."""

    def need_descriptors(self, count: int) -> None:
        """Raise `LimitError` if this process cannot open so many descriptors now."""

    def standard_streams(self) -> AbstractContextManager[None]:
        """Open the null device as each standard stream that is closed, until the block ends.

        For calls of other libraries that open descriptors or start processes: these inherit the null device.
        """

    def keep_standard_streams(self) -> None:
        """Open the null device as each standard stream that is closed, for good: in our own processes."""


class Blocks(Protocol):
    """The bytes of a block: making and publishing them, opening and mapping them."""

    def draft(self, directory: str) -> Draft:
        """Start an empty file that no other process can see, or one with a scratch name."""

    def draft_memory(self, directory: str, size: int, path: str | None, *, replace: bool = False) -> Draft:
        """Start a block of memory that will be published as `path`; if that is None, it never is.

        On some systems, memory has its name and its size from the start. The draft then takes the name now
        (`FileExistsError` if it is taken), and a process that opens it before it is published gets a
        `FileNotFoundError`. If it is to `replace` another block, that one keeps the name until then. On other
        systems, the draft is an empty file, as `draft` makes it.
        """

    def reserve(self, handle: int, size: int, start: int = 0) -> None:
        """Make the block `size` bytes long, every page allocated, so that no later write can fail.

        Bytes before `start` have been reserved already.
        """

    def reserve_parts(self, handle: int, size: int, parts: Sequence[tuple[int, int]]) -> None:
        """Make the block `size` bytes long, and allocate the pages of these parts: beginnings and ends.

        A part may be allocated already. A system whose files have no holes allocates all pages.
        """

    def write(self, handle: int, offset: int, buffers: Sequence[memoryview]) -> None:
        """Write `buffers` one behind the other from `offset` on, whole."""

    def read(self, handle: int, count: int, offset: int = 0) -> bytes:
        """Return `count` bytes from `offset` on, or as many as there are."""

    def publish(self, draft: Draft, path: str) -> None:
        """Give the block its name, at once and only if the name is free (`FileExistsError`)."""

    def publish_file(self, draft: Draft, path: str) -> Draft:
        """Give a file its path as `publish` does, also where the file system has no links.

        Return the draft that has the path: it is another one if the content had to be copied.
        """

    def discard(self, draft: Draft) -> None:
        """Give up a draft, published or not; its handle is closed."""

    def open(self, path: str, *, writable: bool) -> int:
        """Open the file, or the block, at `path`, but no link; the caller checks what it is."""

    def close(self, handle: int) -> None:
        """Close a handle."""

    def open_again(self, handle: int) -> int:
        """Return a new handle on the same block, also if its name leads to another one by now."""

    def path_of(self, handle: int, pid: int | None = None) -> str | None:
        """Return a path by which any process of this user can open the memory that process `pid` has open.

        None if the system has no such paths; this process when `pid` is None.
        """

    def shares_handles(self) -> bool:
        """Return whether other processes of this user can open memory of this process by its `path_of`."""

    def open_path_of(self, path: str) -> int:
        """Open memory by a path that `path_of` returned, for reading and writing."""

    def status(self, handle: int) -> Status:
        """Return identity and size of an open block."""

    def allocated(self, handle: int) -> int:
        """Return bytes of the pages that an open block has; fewer than its size if there are holes in it."""

    def others(self, handle: int) -> str | None:
        """Return which other users own an open block or may write to it, in words; None if there are none."""

    def leads_to(self, path: str, handle: int) -> bool:
        """Return whether a path leads to this open file, links followed."""

    def path_behind(self, handle: int) -> str:
        """Return the path that the kernel has for an open file; an empty one if it has none."""

    def born(self, handle: int) -> int:
        """Return a file's time of birth in nanoseconds; 0 if unknown. It tells files with one inode apart."""

    def map(
        self, cls: type[mmap.mmap], handle: int, size: int, mode: Mode, *, ready: bool = False
    ) -> mmap.mmap:
        """Map the first `size` bytes as the mode says; `handle` may be closed afterwards.

        `ready` says that all pages exist, so that they are mapped now, without a page fault for each.
        """

    def sync(self, mapping: mmap.mmap) -> None:
        """Bring what was written to a mapped file onto its disk."""


class Leases(Protocol):
    """Holding a block, and learning which processes hold it."""

    def enter(self, path: str, writable: bool) -> tuple[int, bool, int, int, int, int, bool, bool]:
        """Open a block, take a lease if that needs no waiting, and ask for its status.

        Return the handle, whether it has the lease, and the fields of the status. It is one function instead
        of three, and returns a plain tuple, because attaching is measured in microseconds. `reused` may be
        False if the file became another block before the call.
        """

    def hold(self, handle: int, wait: bool = True) -> bool:
        """Take a lease; wait while a process that released its own checks whether it was the last.

        Return False if `wait` is False and there is such a process.
        """

    def hold_again(self, handle: int) -> int:
        """Return a new handle on the same block with a lease of its own."""

    def can_persist(self, handle: int) -> bool:
        """Return whether this block, as it is, can outlive its holders, if its record says so."""

    def drop_lease(self, handle: int) -> bool:
        """Give up the lease, and return whether no process has one any more."""

    def hold_apart(self, handle: int) -> None:
        """Move the lease to an open file that no mapping shares: a forked child must not keep it."""

    def release(self, handle: int) -> None:
        """Give up the lease, and the removal lock if this handle has it."""

    def lock_removal(self, handle: int) -> None:
        """Take the lock that allows removing this block's name; waits for the process that has it."""

    def alone(self, handle: int) -> bool:
        """Return whether no other process holds a lease; if so, others wait for one until `release`."""

    def held(self, handle: int) -> bool:
        """Return whether another process holds a lease. Takes no lock: for processes that list blocks."""

    def use(self, handle: int) -> None:
        """Mark memory without a name as used through this handle, until that is closed."""

    def used(self, handle: int) -> bool:
        """Return whether memory without a name is used through any handle but this one."""

    def shrink(self, handle: int) -> None:
        """Free the pages of memory without a name, which no process uses, as far as the system can."""

    def holders(self, blocks: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, ...]]:
        """Return the visible pids of the processes with a lease on each block (device, inode)."""


class Reuse(Protocol):
    """Using a block's file and pages for the next block; see `sharedarray._freelist`."""

    def is_memory(self, handle: int) -> bool:
        """Return whether a file is in the memory of this machine, so that `exclusive` knows all its users."""

    def exclusive(self, handle: int) -> bool:
        """Return whether no other open file of any process leads to this file, mapped ones included.

        A child that was forked shares the open files of its parent, and does not count.
        """

    def set_reused(self, handle: int) -> None:
        """Mark a file for good as `Status.reused`: it becomes other blocks later."""

    def resize(self, handle: int, size: int) -> None:
        """Set the size of a file. Pages behind the end are freed; no page is allocated."""

    def move_pages(self, source: mmap.mmap, target: mmap.mmap, handle: int, size: int) -> bool:
        """Move the page table of the first `size` bytes from one mapping of a file to another.

        Return whether the pages are mapped in `target` now. If not, `target` is as it was.
        """

    def detach(self, mapping: mmap.mmap, handle: int) -> None:
        """Replace a mapping that was inherited, and that has views, by private memory.

        All descriptors of its file but this handle are closed.
        """

    def populate(self, mapping: mmap.mmap, start: int = 0, length: int | None = None) -> None:
        """Map all pages of a file, which exist, if the system can do so without a page fault for each.

        With `start`, at a page, and `length`, the pages of these bytes.
        """

    def unshare(self, mapping: mmap.mmap, handle: int, start: int, length: int) -> bool:
        """Make some bytes of a mapping private to it, at a page, so that no write into them reaches the file.

        Return whether that is so now; some systems cannot do so.
        """

    def fork_witness(self) -> tuple[int, int]:
        """Return two descriptors that every process inherits which is forked from now on."""

    def unwitnessed(self, witness: tuple[int, int]) -> bool:
        """Close a witness; return whether no other process has it open."""

    def thread_runs(self, native: int) -> bool:
        """Return whether the system has a thread of this process with this native id."""


class Locks(Protocol):
    """Locks on the bytes of a file."""

    def open_to_lock(self, file: str | int) -> int:
        """Open the file with this path or handle once more, for locks; links are followed.

        The handle may read and write, as far as this is permitted: a shared lock needs a handle that may
        read, an exclusive one a handle that may write (``EBADF``).
        """

    def lock(self, handle: int, start: int, length: int, shared: bool, wait: bool) -> bool:
        """Lock bytes `start` to `start + length` of the file; False if taken and `wait` is False.

        The bytes may lie behind the end of the file. The lock is the handle's, so two handles exclude each
        other in one process too, and the kernel frees it with the handle. It is advisory: a process that does
        not lock can read and write. An unlock names the range that was locked. The handle is one of
        `open_to_lock`, or of a file.
        """

    def locked(self, handle: int, start: int, length: int, *, exclusively: bool = False) -> bool:
        """Return whether another handle has a lock on these bytes; if `exclusively`, an exclusive one.

        A lock that is taken for the question ends with the call.
        """

    def unlock(self, handle: int, start: int, length: int) -> None:
        """Unlock these bytes, as they were locked."""


class Wakers(Protocol):
    """Waking a process that waits, and learning of its end."""

    def make_waker(self, path: str) -> int:
        """Make the waker at this path for this process, or take over that of an owner that has ended.

        The caller holds a lock, so that no other process does so. `FileExistsError` is raised if another kind
        of file has the path.
        """

    def open_waker(self, path: str, pid: int) -> int | None:
        """Open the waker of the process with this pid, to wake it; None if it has no owner any more."""

    def wake(self, waker: int) -> bool:
        """Wake the owner, now or when it next waits; return False if it has ended or closed the waker."""

    def drain(self, waker: int) -> None:
        """Forget that this process was woken by its own waker."""

    def close_waker(self, waker: int, path: str | None = None) -> None:
        """Close a waker. Its owner gives the path, which is removed."""

    def wait_for_wakers(self, own: int, others: Sequence[int], seconds: float | None) -> tuple[bool, bool]:
        """Wait until this process is woken, the owner of another waker has gone, or the time is over.

        Return whether it was woken, and whether an owner has gone. Ctrl-C ends the wait. There may be at most
        62 others.
        """

    def watch(self) -> Watch:
        """Return a descriptor for pollers and event loops, to which wakers are added."""

    def remove_unused_waker(self, path: str) -> bool:
        """Remove a waker whose owner was killed; return whether it was removed.

        `FileExistsError` is raised if another kind of file has the path.
        """


class Names(Protocol):
    """The names of blocks, the directories that they are in, and metadata links."""

    def inode_of(self, path: str) -> int | None:
        """Return the inode that the name leads to, None if there is no such name."""

    def ended(self, inode: int) -> bool:
        """Return whether the memory of this inode is certainly freed: no process holds it, or a pin of it.

        False if the system cannot know, because a file is found by its names only, and may be getting one.
        """

    def pin(self, handle: int, path: str) -> None:
        """Give the open block one more name, which keeps exactly this block alive."""

    def remove(self, path: str, inode: int | None = None) -> bool:
        """Remove a name; False if it was not there.

        On some systems the kernel removes the name of a block with its last holder, even while its removal is
        locked. So if `inode` is given, a name that leads to another inode is not removed.
        """

    def move(self, source: str, target: str) -> None:
        """Give the block with the pin `source` the name `target`, which another block may have.

        It is one step: a process that opens `target` meanwhile finds the one block or the other. The pin is
        gone after it.
        """

    def make_private_directory(self, path: str) -> None:
        """Create a directory that only this user can enter; `PermissionError` if another file is there."""

    def remove_directory(self, path: str) -> None:
        """Remove a directory if it is empty."""

    def names(self, directory: str) -> list[str]:
        """Return the names in a directory; none if there is no such directory."""

    def write_metadata(self, path: str, text: str, *, replace: bool = False) -> None:
        """Write a metadata link, whole or not at all; without `replace` it must not exist.

        A replacement that is broken off may leave a file ``n.PID.RANDOM`` beside it.
        """

    def read_metadata(self, path: str) -> str | None:
        """Return the text of a metadata link, None if there is none."""


class Processes(Protocol):
    """Other processes, and this one."""

    def process_started(self, pid: int) -> int | None:
        """Return the start of a live process, in the kernel's own ticks; None if no process has the pid."""

    def command_line(self, pid: int) -> list[str]:
        """Return the words of the command that a process runs; on some systems only the program.

        The list is empty if the process has ended or cannot be seen.
        """

    def process_space(self) -> int:
        """Return the number of this process's pid namespace; other containers have others."""

    def runs(self, program: str) -> bool:
        """Return whether this process runs the program at this path."""

    def adopts_orphans(self) -> bool:
        """Return whether processes whose parents have ended become children of this process."""

    def peer(self, connection: socket.socket) -> int:
        """Return the pid of the process that connected a local socket; 0 if it cannot be seen."""

    def uptime(self) -> tuple[int, float]:
        """Return the number of a clock that no user can set, and the seconds on it.

        Processes for which the number is the same have the same clock; 0 stands for no clock.
        """

    def await_end(self, pid: int, started: int) -> None:
        """Wait until the process with this pid, which started at this tick, has ended."""


class Resources(Protocol):
    """Memory and processors, as the machine and its limits leave them."""

    def free_bytes(self, directory: str, *, memory: bool) -> int:
        """Return bytes free for blocks in `directory`, or for files there."""

    def on_disk(self, directory: str) -> bool:
        """Return whether a directory is known to be on a disk, so that blocks there are written to it."""

    def capacity(self, directory: str) -> int:
        """Return the bytes that all blocks in `directory` together may have."""

    def processors(self) -> int:
        """Return how many processors this process may use: by its affinity and by quotas; at least 1."""

    def memory(self) -> int:
        """Return bytes of memory that the machine has."""

    def free_memory(self) -> int | None:
        """Return the bytes that this process may take before the kernel kills processes; None if unknown."""


class Platform(
    Traits, Descriptors, Blocks, Leases, Reuse, Locks, Wakers, Names, Processes, Resources, Protocol
):
    """The contract. Functions raise `OSError` as the kernel gives it; callers turn it into our errors."""

    def terminal(self) -> AbstractContextManager[Callable[[float], str | None]]:
        """Put the terminal into raw mode, without echo, until the block ends.

        Escape sequences work meanwhile, if the terminal can. The ``with`` statement gives a function that
        waits for keys, for a number of seconds. It returns the typed text; keys that are no characters are
        escape sequences. The text is empty if the time is over or the terminal has a new size. The function
        returns None if the terminal is closed.
        """
