"""`Group`: many arrays in one block, as a mapping of names to arrays."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from operator import index
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import _errors as errors, _group_index, _header as header
from sharedarray._array import (
    SharedArray,
    attached_again,
    bytes_behind,
    facts_of_block,
    facts_of_contents,
    is_replaced,
    opened_as,
)
from sharedarray._group_block import GroupBlock
from sharedarray._group_exports import GroupExports
from sharedarray._group_index import Index
from sharedarray._header import Layout
from sharedarray._masked import refuse_masked
from sharedarray._process_end import halting
from sharedarray._segment import Mapping as Attachment, mapping_of
from sharedarray._snapshots import Reader, Update
from sharedarray._version_buffers import made_versions_of, versions_of

if TYPE_CHECKING:
    pass


Array: TypeAlias = np.ndarray[Any, Any]
_new_array = np.ndarray.__new__


class Group(GroupBlock, GroupExports):
    """Arrays in one block of shared memory, by name.

    Made by `group` and `share_group`, found by `attach` and `open`. A mapping, as a dict of arrays is one:
    ``group["rgb"]`` is a `SharedArray`, and what you write into it every process sees. The set of members,
    their shapes and their dtypes stay as they were made. The block lives as a shared array's does: the last
    process that closes the group, drops its last view or ends removes it, unless it persists.

    Attributes
    ----------
    name : str or None
        The block's name, or the path of a file; None if the memory is not shared (what plain `pickle`
        has loaded).
    mode : {'r', 'r+', 'c'} or None
        How the block is mapped, as for a `SharedArray`.
    attrs : mapping
        The attributes that the group was made with; read-only.
    dims : mapping
        The names of the axes, by name of the member, of those members that have some; read-only.
    nbytes : int
        Bytes of all members.
    segment : Segment or None
        The block below.
    closed : bool
        Whether the lease is given up.

    See Also
    --------
    group : Make one of zeros.
    share_group : Copy a mapping of arrays, a file, a frame or a dataset into one.

    Notes
    -----
    A group that is an argument or a result of a task travels as one small reference, with all its members.
    Plain pickling stores its data.

    Examples
    --------
    >>> import sharedarray as sa
    >>> camera = sa.group("camera_of_group", {"rgb": ((4, 48, 64, 3), "u1"), "t": (4, "f8")})
    >>> same = sa.attach("camera_of_group")  # in any process
    >>> same["t"][2] = 0.5
    >>> camera["t"].tolist()
    [0.0, 0.0, 0.5, 0.0]
    >>> list(camera), camera["rgb"].shape
    (['rgb', 't'], (4, 48, 64, 3))
    """

    __slots__ = ("__weakref__", "_arrays", "_bytes", "_index", "_reader", "_version")

    def __init__(self, memory: Array | None = None, contents: Index | None = None) -> None:
        if memory is None or contents is None:
            raise TypeError(
                "a group is made by sharedarray.group(name, members) or share_group(name, mapping), and is "
                "found by attach(name)"
            )
        self._bytes = memory  # all of the block, from its first byte on
        self._index = contents
        self._reader: Reader | None = None
        self._version: int | None = None  # of a snapshot
        self._arrays: dict[str, SharedArray] = {}

    # -- the mapping ----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> SharedArray:
        try:
            found = self._arrays.get(name)
        except TypeError:
            raise self._no_member(name) from None
        if found is None:
            try:
                member = self._index.members[name]
            except KeyError:
                raise self._no_member(name) from None
            layout = member.layout
            # The bytes are not shared if plain `pickle` has loaded them.
            kind: Any = np.ndarray if mapping_of(self._bytes) is None else SharedArray
            made = _new_array(kind, layout.shape, layout.dtype, self._bytes, member.start, None, layout.order)
            found = self._arrays.setdefault(name, made)  # another thread may have been faster
        return found

    def __setitem__(self, name: str, values: ArrayLike) -> None:
        """Write into a member, as ``group[name][...] = values`` does."""
        array = self[name]
        if values is not array:  # as in `group[name] += 1`, which has written already
            refuse_masked(values, "write into a group")
            array[...] = values

    def _no_member(self, name: object) -> Exception:
        if isinstance(name, str):
            return KeyError(f"{name!r} is no member of the group {self.name!r}; its members are {list(self)}")
        first = repr(next(iter(self), "name"))
        return TypeError(
            f"a group is indexed by the name of a member, not by {name!r}; its members are {list(self)}. For "
            f"a part of one: group[{first}][2:5]"
        )

    def __delitem__(self, name: str) -> None:
        raise TypeError(
            f"the members of a group stay as they were made: {name!r} cannot be removed from {self.name!r}"
        )

    def __getattr__(self, name: str) -> Any:
        hint = ""
        if not name.startswith("_") and name in self._index.members:
            hint = f"; the member of this name is group[{name!r}]"
        raise AttributeError(f"a group has no attribute {name!r}{hint}", name=name, obj=self)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        raise TypeError(
            f"the group {self.name!r} is no array, but a mapping of arrays: {list(self)}. Take one of them, "
            f"as group[{next(iter(self), 'name')!r}], or all by dict(group)"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._index.members)

    def __len__(self) -> int:
        return len(self._index.members)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._index.members

    __eq__ = object.__eq__  # comparing arrays gives arrays
    __hash__ = object.__hash__

    # -- its contents ---------------------------------------------------------------------------------

    @property
    def attrs(self) -> Mapping[str, Any]:
        """The attributes that the group was made with."""
        return MappingProxyType(self._index.attrs)

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the axes of members, as far as they have some."""
        return MappingProxyType(self._index.dims)

    @property
    def nbytes(self) -> int:
        """Bytes of all members."""
        return sum(member.layout.size for member in self._index.members.values())

    # -- versions -------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Number of versions that `update` has published since the group was made.

        A snapshot has the number of the version that it shows.
        """
        if self._version is not None:
            return self._version
        versions = versions_of(self._mapping("ask for the version"))
        return 0 if versions is None else versions.version

    @halting
    def update(self, *, copy: bool = True, timeout: float | None = None) -> Update[Group]:
        """Write a whole new version of all members, while readers keep the old one.

        As `SharedArray.update`; it gives a group, of which all members are published at once.

        Parameters
        ----------
        copy : bool, default True
            Whether the members begin as copies of the current version; otherwise they hold an old one, or
            zeros, and you write all of them.
        timeout : float, optional
            Seconds to wait for another writer, and for readers that hold all old versions; None to wait as
            long as it takes.

        Returns
        -------
        context manager
            It gives the group to write to, and publishes it at the end of the ``with`` statement.

        Raises
        ------
        LockTimeout
            On entering, when another process wrote, or readers held all old versions, all the time (a
            `TimeoutError`).

        Examples
        --------
        >>> import sharedarray as sa
        >>> net = sa.group("net_of_update", {"w": ((2, 2), "f4"), "b": (2, "f4")})
        >>> with net.update() as new:
        ...     new["w"][:] = 1
        ...     new["b"][:] = 2
        >>> whole = sa.attach("net_of_update").snapshot()
        >>> whole["w"].sum().item(), whole["b"].sum().item()
        (4.0, 4.0)
        """
        mapping = self._mapping("update")
        if mapping.mode != "r+":
            raise ValueError(f"cannot update {mapping.name!r}: it is read-only (mode {mapping.mode!r})")
        return Update(
            made_versions_of(mapping),
            mapping,
            copy,
            timeout,
            lambda memory: Group(memory, self._index),
            _references,
        )

    @halting
    def snapshot(self) -> Group:
        """Return a group over the current version of all members, which is whole and never changes.

        As `SharedArray.snapshot`: its members are read-only arrays, and nothing is copied.

        Returns
        -------
        Group
            Its `version` tells which one it is. It is kept for as long as one of its members lives.

        Examples
        --------
        >>> import sharedarray as sa
        >>> net = sa.group("net_of_snapshot", {"w": (2, "f4")})
        >>> before = net.snapshot()
        >>> with net.update() as new:
        ...     new["w"] = 1
        >>> before["w"].tolist(), net.snapshot()["w"].tolist()
        ([0.0, 0.0], [1.0, 1.0])
        >>> before.version, net.snapshot().version
        (0, 1)
        """
        reader = self._reader
        if reader is None or not reader.versions.usable:
            mapping = self._mapping("take a snapshot")
            reader = self._reader = made_versions_of(mapping).reader(mapping)
        memory: Any = reader.hold()
        found = Group(_new_array(np.ndarray, reader.versions.bytes, np.uint8, memory), self._index)
        found._version = reader.versions.version_of(found._bytes)
        return found

    @halting
    def wait(
        self,
        version: SupportsIndex | float | None = None,
        timeout: float | None = None,
        *,
        since: int | None = None,
    ) -> int:
        """Wait until a process calls `notify`, or until the group has a version; see `SharedArray.wait`.

        Parameters
        ----------
        version : int, optional
            Wait until `version` is this one, or a later one. A number of type float is the timeout.
        timeout : float, optional
            Seconds to wait at most; no limit when None.
        since : int, optional
            The number that an earlier `wait` or `notify` returned: wait for a notice after that one.

        Returns
        -------
        int
            The version; or how many notices there have been, for the next `since`.

        Raises
        ------
        TimeoutError
            It did not come in that time.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("awaited_group", {"x": (3, "f8")})
        >>> with g.update() as new:
        ...     new["x"] = 1
        >>> g.wait(1, timeout=5.0)  # in any process
        1
        """
        mapping = self._mapping("wait")
        if version is None or isinstance(version, float) or since is not None:
            return self._data().wait(version, timeout, since=since)
        versions = made_versions_of(mapping)
        if not versions.wait_for(index(version), timeout):
            raise TimeoutError(f"{mapping.name!r} has no version {version} after {timeout} s")
        return versions.version

    def current(self) -> Any:
        """Return what has this group's name now: another one if it was replaced, else this one.

        Returns
        -------
        Group or SharedArray
            What `attach` gives for the name now; this group itself if it is still that.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("replaced_group", {"x": (3, "f8")})
        >>> g.current() is g
        True
        >>> other = sa.group("replaced_group", {"y": (2, "f8")}, replace=True)
        >>> list(g.current())
        ['y']
        """
        mapping = self._mapping("look for the successor")
        return attached_again(mapping) if is_replaced(mapping) else self

    def freeze(self) -> None:
        """Make the members that were asked for read-only, here alone.

        Examples
        --------
        >>> import sharedarray as sa
        >>> g = sa.group("frozen_group", {"x": (3, "f8")})
        >>> x = g["x"]
        >>> g.freeze()
        >>> x.flags.writeable
        False
        """
        for array in self._arrays.values():
            array.flags.writeable = False

    # -- copies ---------------------------------------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (_new_array(SharedArray, len(self._bytes), np.uint8, self._bytes),)

    def __copy__(self) -> dict[str, Any]:
        return {name: array.copy() for name, array in self.items()}

    def __deepcopy__(self, memo: dict[int, Any] | None) -> dict[str, Any]:
        return self.__copy__()

    # -- how it looks ---------------------------------------------------------------------------------

    def __repr__(self) -> str:
        from sharedarray._display import human

        mapping = mapping_of(self._bytes)
        facts = [] if mapping is None else facts_of_contents(mapping)
        if self._version is not None:
            facts = [("snapshot of version", str(self._version))]
        state = ", closed" if self.closed else "".join(f", {title} {text}" for title, text in facts)
        count = "1 member" if len(self) == 1 else f"{len(self)} members"
        rows = [
            (repr(name), str(member.layout.shape), str(member.layout.dtype))
            for name, member in self._index.members.items()
        ]
        shown, more = rows[:_SHOWN], len(rows) - _SHOWN
        widths = [max((len(row[column]) for row in shown), default=0) for column in range(2)]
        lines = [f"    {name:<{widths[0]}}  {shape:<{widths[1]}}  {dtype}" for name, shape, dtype in shown]
        lines += [f"    ... {more} more"] if more > 0 else []
        head = f"<{type(self).__name__} {self.name!r}: {count}, {human(self.nbytes)}{state}>"
        return "\n".join([head, *lines])

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: the facts, and each member, folded away, as xarray shows a dataset."""
        from sharedarray._display import dataset

        mapping = mapping_of(self._bytes)
        facts = [("members", f"{len(self):,}"), *facts_of_block(mapping, self.nbytes)]
        facts[2:2] = [] if mapping is None else facts_of_contents(mapping)
        found = self._index
        return dataset(
            type(self).__name__,
            facts,
            {name: array.view(np.ndarray) for name, array in self.items()},
            dims=found.dims,
            coords=found.coords,
            attrs=found.attrs,
            member_attrs=found.member_attrs,
        )


_SHOWN = 60  # members that are printed


def _most_references(arrays: dict[str, Any]) -> int:
    """Return how many references there are to the array that has most."""
    return max(map(sys.getrefcount, arrays.values()), default=0)


_ALONE = _most_references({"": np.empty(0)})  # the references if the dict alone has the array


def _references(given: Group) -> int:
    """Return how many references a group has to its memory; 0 if a member of it is in use elsewhere."""
    arrays = given._arrays
    return 1 + len(arrays) if _most_references(arrays) <= _ALONE else 0


def _restored(memory: Array) -> Group:
    """Return the group whose block, from its first byte on, is in an array: what a pickle of one calls."""
    mapping = mapping_of(memory)
    name = "a pickled group" if mapping is None else mapping.name
    block = memory.data
    layout = header.decode(bytes(block[: header.PAGE]), len(memory), name=name)
    if not _group_index.is_group(layout, block):
        raise errors.HeaderError(f"{name} is no group", name=name, found="other bytes")
    return Group(memory.view(np.ndarray), _group_index.decode(block, layout.size, name=name))


def open_group(mapping: Attachment, layout: Layout) -> Group | None:
    """Return the group in a block; None if the block is an array of bytes."""
    if not _group_index.is_group(layout, mapping):
        return None
    return Group(
        np.frombuffer(mapping, np.uint8), _group_index.decode(mapping, layout.size, name=mapping.name)
    )


opened_as.append(open_group)


def bytes_of(group: Group) -> tuple[Array, Attachment | None]:
    """Return all bytes of a group's block, and its attachment."""
    mapping = mapping_of(group._bytes)
    return (group._bytes if mapping is None else bytes_behind(group._bytes, mapping)), mapping


def index_of(group: Group) -> Index:
    """Return what the index of a group says."""
    return group._index


# By these names Python's messages call the methods, as in "Group.unlink() takes 1 positional argument".
for _part in (GroupBlock, GroupExports):
    for _name, _method in vars(_part).items():
        if inspect.isfunction(_method):
            _method.__qualname__ = f"Group.{_name}"
