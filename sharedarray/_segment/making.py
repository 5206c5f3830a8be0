"""Making a block: draft, content, lease, record, name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from sharedarray import (
    _errors as errors,
    _freelist as freelist,
    _hints as hints,
    _janitor as janitor,
    _registry as registry,
    _requirements as requirements,
    _sigint as sigint,
)
from sharedarray._platform import Draft, platform
from sharedarray._progress import IN_BYTES, NO_BAR, Bar, Progress, bar
from sharedarray._segment.attaching import attach
from sharedarray._segment.content import Content, Write
from sharedarray._segment.mapping import Mapping, finish, guard, guarded, handles
from sharedarray._segment.names import CHANCE, chance_name, check_name
from sharedarray._segment.refusals import check_free, translated
from sharedarray._segment.removing import remove
from sharedarray._thresholds import BAR_FROM, REUSED_FROM

_NAME_TRIES = 100  # names of chance until we give up


def create(
    size: int,
    *,
    buffers: Sequence[memoryview] = (),
    fill: Callable[[Write], None] | None = None,
    name: str | None = None,
    persist: bool = False,
    keeper: registry.Process | None = None,
    file: str | os.PathLike[str] | None = None,
    kind: str = "bytes",
    replace: bool = False,
    progress: Progress = None,
    prepare: Callable[[Mapping], None] | None = None,
    parts: Sequence[tuple[int, int]] | None = None,
) -> Mapping:
    """Make a block of exactly `size` bytes and attach to it.

    Parameters
    ----------
    size
        Bytes of the block.
    buffers
        Its first bytes, written one behind the other; what they leave free is zero.
    fill
        Called with what writes bytes into the block, to write all the rest before another process can see it.
    name
        The block's name, a random name if None.
    persist
        Whether the block outlives its holders.
    keeper
        A process that keeps the block without holding it, as this process then does too.
    file
        A path, for a file instead of a block.
    kind
        What the bytes are, for the record.
    replace
        Whether a block that has the name already loses it to this one, once this one is whole.
    progress
        Whether to show how far it is, for what takes long; see `sharedarray._progress.bar`.
    prepare
        Called with the attachment when all bytes are there, before the block has its name.
    parts
        The beginnings and ends of those parts of the block whose pages are reserved now; all when None. The
        process that writes into others reserves them first.

    Raises
    ------
    BlockExistsError, InvalidNameError, OutOfSharedMemoryError, NotOursError
        Nothing is left behind.
    """
    if file is not None and (name is not None or persist):
        raise TypeError("file= goes with neither name= nor persist=: a file has its path, and stays")
    directory = registry.directory()
    if file is None:
        registry.warn_of_disk(directory)
    if name is not None:
        if not isinstance(name, str):
            raise hints.not_a_name(name)
        path = registry.path_of(directory, check_name(name))
        # Before the pages are filled, not after; publishing decides again.
        if not replace and platform.inode_of(path) is not None and not freed(directory, name):
            raise _taken(name, directory, kind)
    shown = _bar(progress, size, file or name or "a block")
    content = Content(size, buffers, fill, shown, parts)
    where = None if file is None else registry.absolute(os.fspath(file))
    try:
        with sigint.deferred:
            try:
                return _make(directory, content, name, where, kind, persist, keeper, replace, prepare)
            except (errors.OutOfSharedMemoryError, errors.LimitError):
                if not freelist.clear():
                    raise
            return _make(directory, content, name, where, kind, persist, keeper, replace, prepare)
    except OSError as error:
        if file is not None or isinstance(error, errors.SharedArrayError):
            raise
        raise requirements.explained(error, directory) from None
    finally:
        shown.close()


def _bar(progress: Progress, size: int, what: str | os.PathLike[str]) -> Bar:
    if progress is None and size < BAR_FROM:
        return NO_BAR
    return bar(progress, size, desc=f"filling {what}", **IN_BYTES)


def _make(
    directory: str,
    content: Content,
    name: str | None,
    file: str | None,
    kind: str,
    persist: bool,
    keeper: registry.Process | None,
    replace: bool,
    prepare: Callable[[Mapping], None] | None,
) -> Mapping:
    if file is not None:
        return _create_file(file, content)
    # What persists is a file also where memory is none.
    memory = platform.RECORDS_DECIDE or not persist
    generation = -1
    made = None
    reusable = REUSED_FROM <= content.size <= freelist.MOST_BYTES and content.parts is None
    if reusable and not persist and keeper is None:
        generation = freelist.generation()
        made = _reuse(directory, content, name)
    draft, mapping = made or _make_afresh(directory, content, name, kind=kind, memory=memory, replace=replace)
    if generation >= 0:
        mapping.generation = generation
        if name is not None:
            mapping.given_names |= {name}
    try:
        if prepare is not None:
            prepare(mapping)
        _publish(
            draft, mapping, kind=kind, persist=persist, keeper=keeper, choose=name is None, replace=replace
        )
    except BaseException:
        mapping.release()
        if draft.scratch:
            platform.remove(draft.scratch)
        raise
    return mapping


def _make_afresh(
    directory: str, content: Content, name: str | None, *, kind: str, memory: bool, replace: bool
) -> tuple[Draft, Mapping]:
    draft, called = _draft_named(directory, content, name, kind=kind, memory=memory, replace=replace)
    try:
        platform.hold(draft.handle)
        status = platform.status(draft.handle)
        mapping = finish(draft.handle, content.size, "r+", called, directory, status.device, status.inode)
    except BaseException:
        _discard(draft)
        raise
    return draft, mapping


def _reuse(directory: str, content: Content, name: str | None) -> tuple[Draft, Mapping] | None:
    """Make a block from a free block; return None if none suits."""
    if name is not None and name.startswith(CHANCE):
        return None  # the list does not remember the names of chance that a file has had
    block = freelist.take(directory, content.size, name)
    if block is None:
        return None
    handle, size = block.handle, content.size
    try:
        mapping: Mapping = platform.map(Mapping, handle, size, "r+")  # type: ignore[assignment]
    except OSError:  # there can be no more mappings
        block.free()
        return None
    except BaseException:
        block.free()
        raise
    try:
        pages = freelist.Pages(block, mapping)
        with sigint.allowed:  # what may take long
            content.put(handle, pages)
        platform.hold(handle)
        status = platform.status(handle)
        called = name or chance_name()
        finish(handle, size, "r+", called, directory, status.device, status.inode, mapping)
    except BaseException:
        block.free()
        raise
    block.done()
    mapping.given_names = block.names
    mapping.populated = True
    return Draft(handle, block.pin_file), mapping


def _draft_named(
    directory: str, content: Content, name: str | None, *, kind: str, memory: bool, replace: bool
) -> tuple[Draft, str]:
    """Return a draft and the name that it is to get, which memory may need, and so take, from now on."""
    called = name or chance_name()
    for _ in range(_NAME_TRIES):
        try:
            path = registry.path_of(directory, called) if memory else None
            return _draft(directory, content, path=path, replace=replace), called
        except FileExistsError:
            if name is not None:
                break
            called = chance_name()
    raise _taken(called, directory, kind)


def _publish(
    draft: Draft,
    mapping: Mapping,
    *,
    kind: str,
    persist: bool,
    keeper: registry.Process | None,
    choose: bool,
    replace: bool,
) -> None:
    directory, inode = str(mapping.directory), mapping.inode
    pin_name = None
    try:
        janitor.appear(directory)
        for _ in range(_NAME_TRIES):
            try:
                registry.write_record(
                    directory, mapping.name, inode, kind=kind, persist=persist, keeper=keeper
                )
                janitor.ensure(directory)
                platform.publish(draft, mapping.path)
            except FileExistsError:
                if replace:
                    if pin_name is None:
                        pin_name = registry.pin(directory, draft.handle, inode, once=True)
                    if _make_way(directory, mapping.name, pin_name):
                        return
                    continue
                registry.drop_record(directory, mapping.name, inode)
                if choose:
                    mapping.name = chance_name()
                elif not freed(directory, mapping.name):
                    raise _taken(mapping.name, directory, kind) from None
            else:
                return
        raise _taken(mapping.name, directory, kind)
    except BaseException:
        registry.drop_record(directory, mapping.name, inode)
        raise
    finally:
        if pin_name is not None:
            registry.unpin(directory, pin_name)  # if it has not become the block's name
            if draft.scratch:
                platform.remove(draft.scratch)


def _make_way(directory: str, name: str, successor: str) -> bool:
    """Take a name from the block that has it; whether the successor has it now.

    The successor is a pin, as of a reference on its way: a name that the new block has until then, and that
    the janitor finds, should we die in between.
    """
    try:
        remove(directory, name, None, successor=successor)
    except errors.BlockNotFoundError:
        return False  # it has gone, or been replaced, by itself
    return True


def freed(directory: str, name: str) -> bool:
    """True if a name is free after this process attached and let go: the last holder removes a block."""
    try:
        attach(name, "r", directory=directory).release()
    except errors.BlockNotFoundError:
        return True
    except errors.LimitError:
        raise
    except (errors.SharedArrayError, OSError):
        return False  # not one of ours
    return platform.inode_of(registry.path_of(directory, name)) is None


def _taken(name: str, directory: str, kind: str) -> errors.BlockExistsError:
    path = f"{directory}/{name}"
    if _held_here(directory, name):
        cause = "this process holds it, as after a notebook's cell that has run before"
    else:
        cause = "a process that holds it lives on, it persists, or another program made it"
    use = "get" if kind == "object" else "attach"
    next_step = f"sharedarray.{use}(name) to use it, sharedarray.unlink(name) to remove it"
    if kind == "array":
        next_step += (
            "; exist_ok=True to use it where it is there and make it where it is not, replace=True to make a "
            "new one in its place"
        )
    return errors.BlockExistsError(
        f"the name {name!r} is taken",
        name=name,
        found=f"something at {path}",
        expected="a free name",
        cause=cause,
        next_step=next_step,
    )


def _held_here(directory: str, name: str) -> bool:
    """Return whether this process holds the block of that name."""
    inode = platform.inode_of(registry.path_of(directory, name))
    for reference in handles.copy().values():
        mapping = None if reference is None else reference()
        if mapping is not None and (mapping.directory, mapping.inode) == (directory, inode):
            return True
    return False


def _create_file(path: str, content: Content) -> Mapping:
    try:
        draft = _draft(os.path.dirname(path), content)
    except errors.BlockNotFoundError as error:
        error.expected, error.next_step = None, "make it, or choose another path"
        raise
    try:
        # Mapped first: a file that cannot be mapped must not stay.
        mapping = _finish_file(draft, content, path)
        with guard:
            made = draft.handle
            draft = platform.publish_file(draft, path)
            if draft.handle != made:
                handles.pop(made, None)
                handles[draft.handle] = None
        if draft.handle != made:
            mapping = _finish_file(draft, content, path)
    except FileExistsError:
        raise errors.BlockExistsError(
            f"the file {path} exists",
            name=path,
            next_step="sharedarray.open(path) to use it, or remove it first",
        ) from None
    finally:
        _discard(draft)
    return mapping


def _finish_file(draft: Draft, content: Content, path: str) -> Mapping:
    status = platform.status(draft.handle)
    return finish(draft.handle, content.size, "r+", path, None, status.device, status.inode)


def _draft(directory: str, content: Content, *, path: str | None = None, replace: bool = False) -> Draft:
    """Return a draft with its content; of a file where `path` is None."""
    memory = path is not None
    size = content.size
    check_free(directory, content.pages, memory=memory)
    drafts: list[Draft] = []

    def start() -> int:
        drafts.append(
            platform.draft_memory(directory, size, path, replace=replace)
            if memory
            else platform.draft(directory)
        )
        return drafts[0].handle

    try:
        handle = guarded(start)
    except FileNotFoundError:
        raise registry.no_directory(directory) from None
    except OSError as error:
        raise translated(error, directory, size, memory=memory) from None
    try:
        with sigint.allowed:  # what may take long
            content.put(handle)
    except OSError as error:
        _discard(drafts[0])
        raise translated(error, directory, size, memory=memory) from None
    except BaseException:
        _discard(drafts[0])
        raise
    return drafts[0]


def _discard(draft: Draft) -> None:
    with guard:
        handles.pop(draft.handle, None)
        platform.discard(draft)
