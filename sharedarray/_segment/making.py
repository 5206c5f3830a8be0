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
from sharedarray._segment.names import RANDOM_PREFIX, check_name, random_name
from sharedarray._segment.options import BlockOptions
from sharedarray._segment.refusals import check_free, translated
from sharedarray._segment.removing import remove
from sharedarray._thresholds import BAR_FROM, REUSED_FROM

_NAME_TRIES = 100  # random names that are tried
_DEFAULT = BlockOptions()


def create(
    size: int,
    options: BlockOptions = _DEFAULT,
    *,
    buffers: Sequence[memoryview] = (),
    fill: Callable[[Write], None] | None = None,
    keeper: registry.Process | None = None,
    prepare: Callable[[Mapping], None] | None = None,
    parts: Sequence[tuple[int, int]] | None = None,
) -> Mapping:
    """Make a block of exactly `size` bytes and attach to it.

    Parameters
    ----------
    size
        Bytes of the block.
    options
        Its name, how long it lives, and so on.
    buffers
        Its first bytes, written one behind the other; the bytes behind them are zero.
    fill
        Called with a function that writes into the block, to write all other bytes. No other process sees
        the block before.
    keeper
        A process that keeps the block without holding it; so does this process then.
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
    name, file = options.name, options.file
    if file is not None and (name is not None or options.persist):
        raise TypeError("file= goes with neither name= nor persist=: a file has its path, and stays")
    directory = registry.directory()
    if file is None:
        registry.warn_of_disk(directory)
    if name is not None:
        if not isinstance(name, str):
            raise hints.not_a_name(name)
        path = registry.path_of(directory, check_name(name))
        # Before the pages are filled, not after; publishing decides again.
        if not options.replace and platform.inode_of(path) is not None and not freed(directory, name):
            raise _taken(name, directory, options.kind)
    shown = _bar(options.progress, size, file or name or "a block")
    content = Content(size, buffers, fill, shown, parts)
    where = None if file is None else registry.absolute(os.fspath(file))
    try:
        with sigint.deferred:
            try:
                return _make(directory, content, where, options, keeper, prepare)
            except (errors.OutOfSharedMemoryError, errors.LimitError):
                if not freelist.clear():
                    raise
            return _make(directory, content, where, options, keeper, prepare)
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
    file: str | None,
    options: BlockOptions,
    keeper: registry.Process | None,
    prepare: Callable[[Mapping], None] | None,
) -> Mapping:
    name = options.name
    if file is not None:
        return _create_file(file, content)
    # A block that persists is a file, also on systems where other blocks are not.
    memory = platform.RECORDS_DECIDE or not options.persist
    generation = -1
    made = None
    reusable = REUSED_FROM <= content.size <= freelist.MOST_BYTES and content.parts is None
    if reusable and not options.persist and keeper is None:
        generation = freelist.generation()
        made = _reuse(directory, content, name)
    draft, mapping = made or _make_afresh(directory, content, options, memory=memory)
    if generation >= 0:
        mapping.generation = generation
        if name is not None:
            mapping.given_names |= {name}
    try:
        if prepare is not None:
            prepare(mapping)
        _publish(draft, mapping, options, keeper)
    except BaseException:
        mapping.release()
        if draft.scratch:
            platform.remove(draft.scratch)
        raise
    return mapping


def _make_afresh(
    directory: str, content: Content, options: BlockOptions, *, memory: bool
) -> tuple[Draft, Mapping]:
    draft, called = _draft_named(directory, content, options, memory=memory)
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
    if name is not None and name.startswith(RANDOM_PREFIX):
        return None  # the list does not remember the random names that a file has had
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
        with sigint.allowed:  # it may take long
            content.put(handle, pages)
        platform.hold(handle)
        status = platform.status(handle)
        called = name or random_name()
        finish(handle, size, "r+", called, directory, status.device, status.inode, mapping)
    except BaseException:
        block.free()
        raise
    block.done()
    mapping.given_names = block.names
    mapping.populated = True
    return Draft(handle, block.pin_file), mapping


def _draft_named(
    directory: str, content: Content, options: BlockOptions, *, memory: bool
) -> tuple[Draft, str]:
    """Return a draft and its future name, which a draft in memory takes now on some systems."""
    called = options.name or random_name()
    for _ in range(_NAME_TRIES):
        try:
            path = registry.path_of(directory, called) if memory else None
            return _draft(directory, content, path=path, replace=options.replace), called
        except FileExistsError:
            if options.name is not None:
                break
            called = random_name()
    raise _taken(called, directory, options.kind)


def _publish(draft: Draft, mapping: Mapping, options: BlockOptions, keeper: registry.Process | None) -> None:
    directory, inode, kind = str(mapping.directory), mapping.inode, options.kind
    pin_name = None
    try:
        janitor.appear(directory)
        for _ in range(_NAME_TRIES):
            try:
                registry.write_record(
                    directory, mapping.name, inode, kind=kind, persist=options.persist, keeper=keeper
                )
                janitor.ensure(directory)
                platform.publish(draft, mapping.path)
            except FileExistsError:
                if options.replace:
                    if pin_name is None:
                        pin_name = registry.pin(directory, draft.handle, inode, once=True)
                    if _replace(directory, mapping.name, pin_name):
                        return
                    continue
                registry.drop_record(directory, mapping.name, inode)
                if options.name is None:
                    mapping.name = random_name()
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


def _replace(directory: str, name: str, successor: str) -> bool:
    """Give a name to the new block; return False if the block that had it was removed meanwhile.

    The successor is a pin, which is the only name of the new block until then. If this process dies in
    between, the janitor finds the pin.
    """
    try:
        remove(directory, name, None, successor=successor)
    except errors.BlockNotFoundError:
        return False  # another process has removed or replaced it
    return True


def freed(directory: str, name: str) -> bool:
    """Return whether a name is free, after removing its block if no process holds that.

    This process attaches and releases: the last holder removes a block.
    """
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
    """Return a draft with its content; it will be a file on disk if `path` is None."""
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
        with sigint.allowed:  # it may take long
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
