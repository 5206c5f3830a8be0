"""``exist_ok=True``: the array that has the name is used if it is such a one as was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sharedarray import _errors as errors, _header as header, _registry as registry, _segment as segment
from sharedarray._array.block_methods import BlockMethods
from sharedarray._growth import grows, growth_of
from sharedarray._platform import platform
from sharedarray._segment import BlockOptions, Mapping, mapping_of

if TYPE_CHECKING:
    from sharedarray._array.array import SharedArray


def persisted(found: Any, mapping: Mapping | None) -> bool:
    """Make an array or a group that was found persist; return False if it was removed meanwhile."""
    if mapping is None or mapping.directory is None:
        return True
    try:
        found.persist()
    except (errors.BlockNotFoundError, errors.NotOursError):
        # A file without a record stays anyway: another program or another user put it there.
        return platform.inode_of(mapping.path) == mapping.inode
    return True


def if_taken(file: bool) -> str:
    """Return what to do if something else has the name, or the path of a file."""
    if file:
        return "another path, or remove the file first"
    return "another name, or replace=True to make a new one in its place"


_KINDS = "an array of", "an array that grows to"  # a shape


def found_or_made(
    create: Callable[[], SharedArray],
    find: Callable[[], Any],
    layout: header.Layout,
    options: BlockOptions,
    *,
    growing: bool,
) -> SharedArray:
    """Return the array that has the name, if it is as asked for; if the name is free, make one.

    Of several processes that ask at once, one makes the array and the others get it. `create` and `find` fail
    if another process makes or removes the block in between; then both are tried again, so that each turn of
    the loop is one in which another process got on.

    Parameters
    ----------
    create
        Makes the array.
    find
        Attaches to whatever has the name: the array, a group, or an error.
    layout, options
        As `create` uses them.
    growing
        Whether the array grows, up to the length that `layout` has.
    """
    while True:
        found = _found(find, options.name, options.file)
        if found is None:
            try:
                return create()
            except errors.BlockExistsError:
                continue
        _check_same(found, layout, growing)
        if not options.persist or persisted(found, mapping_of(found)):
            return found


def _found(
    find: Callable[[], Any], name: str | None, file: str | os.PathLike[str] | None
) -> SharedArray | None:
    """Return the array that has the name, None if the name is free."""
    try:
        if file is None:
            assert name is not None
            if segment.freed(registry.directory(), name):
                return None  # a block that killed processes have left is not taken over
        found = find()
        if isinstance(found, BlockMethods):
            return found  # type: ignore[return-value]
        found.close()
        raise errors.BlockExistsError(
            f"the name {name or file!r} is taken by something else than an array",
            name=name,
            found=f"a {type(found).__name__}",
            expected="such an array as was asked for, or a free name",
            next_step=if_taken(file is not None),
        )
    except errors.BlockNotFoundError:
        return None
    except errors.HeaderError as error:
        raise errors.BlockExistsError(
            f"the name {name or file!r} is taken by something else than an array",
            name=error.name,
            found=error.found,
            expected="such an array as was asked for, or a free name",
            next_step=error.next_step,
        ) from error


def _check_same(found: SharedArray, layout: header.Layout, growing: bool) -> None:
    """Raise an error if an array is not as it was asked for, and close it."""
    mapping = mapping_of(found)
    order = "F" if found.flags.fnc else "C"
    shape = found.shape
    found_grows = mapping is not None and grows(mapping)
    if mapping is not None and found_grows:
        shape = growth_of(mapping).capacity, *shape[1:]
    if (shape, found.dtype, found_grows) == (layout.shape, layout.dtype, growing) and (
        order == layout.order or (found.flags.forc and found.flags.c_contiguous == found.flags.f_contiguous)
    ):
        return
    name = "" if mapping is None else mapping.name
    found.close()
    raise errors.BlockExistsError(
        f"the name {name!r} is taken by another kind of array",
        name=name,
        found=f"{_KINDS[found_grows]} shape {shape}, dtype {found.dtype}, order {order}",
        expected=f"{_KINDS[growing]} shape {layout.shape}, dtype {layout.dtype}, order {layout.order}",
        next_step=if_taken(mapping is not None and mapping.directory is None),
    )
