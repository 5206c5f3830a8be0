"""Groups: many arrays in one block, under one name.

A `Group` is a mapping of names to `SharedArray`s that all lie in one block. So one name finds them, one
lease holds them, and one reference carries them to a task. Its bytes are those of `_group_index`: an index
and the members behind it. The members are made when they are first asked for, since a process that attaches
to a hundred arrays may look at two.

A group has its memory through one array of all bytes of the block, as every array that arrives as a reference
has. It is pickled as this array, which each pickler treats as it treats any other `SharedArray`: one that
carries tasks sends a reference, and plain `pickle` stores the data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from sharedarray import (
    _datasets,
    _errors as errors,
    _group_index,
    _header as header,
    _registry as registry,
    _segment as segment,
)
from sharedarray._array import ShapeLike, as_shape, if_taken, persisted
from sharedarray._creation import Path, write_array
from sharedarray._group import Array, Group as Group, bytes_of as bytes_of, index_of as index_of, open_group
from sharedarray._masked import refuse_masked
from sharedarray._progress import Progress
from sharedarray._segment import BlockOptions, Mapping as Attachment, Write, mapping_of

__all__ = ["Group", "group", "share_group"]
_Layouts: TypeAlias = dict[str, tuple[np.dtype[Any], tuple[int, ...], bool]]


# -- making ---------------------------------------------------------------------------------------------


def group(
    name: str | None,
    members: Mapping[str, tuple[ShapeLike, DTypeLike] | ArrayLike] | None = None,
    *,
    attrs: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> Group:
    """Make arrays of zeros in one block, under one name.

    Parameters
    ----------
    name : str or None
        Name to attach by; a random name when None.
    members : mapping
        By name, the shape and dtype of each array: ``{"rgb": ((100, 480, 640, 3), "u1"), "t": (100, "f8")}``.
        A value may also be anything that has a ``shape`` and a ``dtype``, such as an array.
    attrs : mapping, optional
        Attributes of the group, of what JSON can hold: texts, numbers, lists and dicts of these. Numbers and
        arrays of NumPy become such.
    dims : mapping, optional
        Names of the axes of members, as xarray's: ``{"rgb": ("time", "y", "x", "color")}``.
    persist, file, exist_ok, replace, progress
        As for `empty`. With `exist_ok`, the group that is there must have these members, shapes and dtypes.

    Returns
    -------
    Group
        Holds the block until closed or dropped; the last holder of all processes removes it.

    Raises
    ------
    BlockExistsError, OutOfSharedMemoryError, UnsupportedDTypeError, InvalidNameError
        As for `empty`; nothing is left behind.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.group(None, {"position": ((1000, 3), "f4"), "alive": (1000, bool)}) as particles:
    ...     particles["position"][:, 2] = 9.5
    ...     sorted(particles)
    ['alive', 'position']
    """
    if members is None:
        raise _no_contents("group", name, "{'x': (shape, dtype)}")
    if not isinstance(members, Mapping):
        raise TypeError(
            f"the members of a group are a mapping of names to (shape, dtype), not {type(members).__name__}"
        )
    layouts = {_checked_name(key): _spec(key, spec) for key, spec in members.items()}
    options = BlockOptions(name, persist, file, exist_ok, replace, progress, "group")
    return make(layouts, None, options, attrs=attrs, dims=dims)


def share_group(
    name: str | None,
    mapping: Any = None,
    attrs: Mapping[str, Any] | None = None,
    *,
    dims: Mapping[str, Sequence[str]] | None = None,
    persist: bool = False,
    file: Path | None = None,
    exist_ok: bool = False,
    replace: bool = False,
    progress: Progress = None,
) -> Group:
    """Copy arrays into one block, under one name.

    Parameters
    ----------
    name : str or None
        Name to attach by; a random name when None.
    mapping : mapping, DataFrame, Dataset or path_like
        The arrays by name: a dict, what `numpy.load` gives for an ``.npz`` file, another group; a
        `pandas.DataFrame`, whose columns and index become members; an `xarray.Dataset`, with its attributes,
        names of axes and coordinates; or the path of an ``.npz`` or a ``.safetensors`` file.
    attrs : mapping, optional
        Attributes of the group, beside those that a dataset, a group or a file has; see `group`.
    dims : mapping, optional
        Names of the axes of members, beside those that a dataset or a group has; see `group`.
    persist, file, exist_ok, replace, progress
        As for `empty`. With `exist_ok`, a group that is there already keeps its own data.

    Returns
    -------
    Group
        Copies: later changes of the originals do not reach them.

    Raises
    ------
    MaskedArrayError
        An array is masked; its mask would be lost (a `TypeError`).
    HeaderError
        The file is damaged (a `ValueError`).
    BlockExistsError, OutOfSharedMemoryError, UnsupportedDTypeError, InvalidNameError
        As for `empty`; nothing is left behind.

    Notes
    -----
    Text that a frame or a dataset holds as Python strings becomes an array of a fixed width, such as ``U20``.
    The types of a ``.safetensors`` file that NumPy has not (BF16, F8) become unsigned integers of their size;
    ``group.attrs["safetensors"]`` names them.

    Examples
    --------
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> weights = sa.share_group("net_of_share_group", {"w": np.eye(2), "b": np.zeros(2)}, {"epoch": 3})
    >>> found = sa.attach("net_of_share_group", "r")
    >>> found["w"].sum().item(), found.attrs["epoch"]
    (2.0, 3)
    """
    if mapping is None:
        raise _no_contents("share_group", name, "mapping")
    if name is not None:
        segment.check_name(name)
    source = _source(mapping)
    arrays = {_checked_name(key): _as_array(key, values) for key, values in source.arrays.items()}
    layouts = {}
    for key, array in arrays.items():
        layouts[key] = _described(key, array.dtype), array.shape, bool(array.flags.fnc)
    return make(
        layouts,
        arrays,
        BlockOptions(name, persist, file, exist_ok, replace, progress, "group"),
        attrs={**source.attrs, **_plain("attrs", attrs)},
        dims={**source.dims, **(dims or {})},
        member_attrs=source.member_attrs,
        coords=source.coords,
        frame=source.frame,
    )


def _no_contents(function: str, given: object, contents: str) -> TypeError:
    """Return the error for a call without contents: mostly they were given in the place of the name."""
    name = repr(given) if isinstance(given, str) else None
    return TypeError(
        "a group is made of a name, or None for a random one, and of its members: write "
        f"{function}({name}, {contents})"
    )


def _source(given: Any) -> _datasets.Source:
    if not isinstance(given, Group):
        return _datasets.source_of(given)
    known = given._index
    return _datasets.Source(
        dict(given), known.attrs, dict(known.member_attrs), dict(known.dims), known.coords, known.frame
    )


def _as_array(name: str, values: Any) -> Array:
    """Return a member's data as an array."""
    refuse_masked(values, "share")
    if isinstance(values, Mapping):
        raise errors.UnsupportedDTypeError(
            f"the member {name!r} cannot be a mapping: a group has one level of names",
            found=f"a {type(values).__qualname__}",
            expected="an array",
            next_step=f"name its arrays in one level, as '{name}/...', or store all by "
            "sharedarray.put(mapping, name=name) and sharedarray.get(name, 'r+')",
        )
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(f"the member {name!r} cannot be made an array: {error}") from None


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"the name of a member is a str, not {type(name).__name__} ({name!r})")
    if not name or "\0" in name:
        raise errors.InvalidNameError(
            f"{name!r} cannot be the name of a member", name=name, expected="a text without NUL, not empty"
        )
    return name


def _spec(name: str, spec: Any) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return dtype, shape and order of a member that is to be made."""
    shape, dtype, fortran = getattr(spec, "shape", None), getattr(spec, "dtype", None), False
    if shape is not None and dtype is not None:
        fortran = isinstance(spec, np.ndarray) and bool(spec.flags.fnc)
    elif isinstance(spec, tuple | list) and len(spec) == 2:
        shape, dtype = spec
    else:
        raise TypeError(
            f"the member {name!r} is given by a shape and a dtype, as in ((480, 640), 'u1'), not by {spec!r}"
        )
    try:
        axes, kind = as_shape(shape), np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"the member {name!r} cannot have shape {shape!r} and dtype {dtype!r}, in this order: {error}"
        ) from None
    while kind.subdtype is not None:  # NumPy appends a sub-array's axes to the array's
        kind, more = kind.subdtype
        axes += more
    return _described(name, kind), axes, fortran


def _described(name: str, dtype: np.dtype[Any]) -> np.dtype[Any]:
    try:
        return header.check_dtype(dtype)
    except errors.UnsupportedDTypeError as error:
        error.message = f"the member {name!r}: {error.message}"
        raise


def make(
    layouts: _Layouts,
    arrays: Mapping[str, Array] | None,
    options: BlockOptions,
    *,
    attrs: Mapping[str, Any] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    member_attrs: Mapping[str, Mapping[str, Any]] | None = None,
    coords: Sequence[str] = (),
    frame: Mapping[str, Any] | None = None,
) -> Group:
    """Make a block with the index for these members, and attach to it; they are zero without `arrays`."""
    if options.name is not None:
        segment.check_name(options.name)
    options.check()
    head, starts, size = _group_index.encode(
        layouts,
        attrs=_plain("attrs", attrs),
        member_attrs={key: _plain(key, values) for key, values in (member_attrs or {}).items() if values},
        dims=_axes(dims, layouts),
        coords=coords,
        frame=frame,
    )

    def fill(write: Write) -> None:
        assert arrays is not None
        end = len(head)
        for start, array in zip(starts, arrays.values(), strict=True):
            if start > end:
                write(end, [memoryview(bytes(start - end))])
            write_array(write, start, array)
            end = start + array.nbytes

    def create() -> Group:
        mapping = segment.create(
            size, options, buffers=[memoryview(head)], fill=None if arrays is None else fill
        )
        made = open_group(mapping, header.decode(head[: header.PAGE], size, name=mapping.name))
        assert made is not None
        return made

    if options.exist_ok and options.is_named:
        return _found_or_made(create, layouts, options)
    return create()


def _found_or_made(create: Callable[[], Group], layouts: _Layouts, options: BlockOptions) -> Group:
    """Return the group that has the name, if it has these members; if the name is free, make one."""
    name, file = options.name, options.file
    while True:
        try:
            if file is not None:
                found: Any = _open_any(segment.open_file(file))
            elif name is None or segment.freed(registry.directory(), name):
                found = None  # a block that killed processes have left is not taken over
            else:
                found = _open_any(segment.attach(name))
        except errors.BlockNotFoundError:
            found = None
        if found is None:
            try:
                return create()
            except errors.BlockExistsError:
                continue
        _check_same(found, layouts, name=name, file=file)
        if not options.persist or persisted(found, mapping_of(found._bytes)):
            return cast(Group, found)


def _check_same(found: Any, layouts: _Layouts, *, name: str | None, file: Path | None) -> None:
    """Raise `BlockExistsError` if what was found is no group of these members."""
    same = isinstance(found, Group) and {
        key: (member.layout.dtype, member.layout.shape) for key, member in found._index.members.items()
    } == {key: (dtype, shape) for key, (dtype, shape, _) in layouts.items()}
    if not same:
        shown = repr(found).partition("\n")[0] if isinstance(found, Group) else "no group"
        if isinstance(found, Group):
            found.close()
        raise errors.BlockExistsError(
            f"the name {name or os.fspath(file or '')!r} is taken by something else than this group",
            name=name,
            found=shown,
            expected=f"a group of {', '.join(map(repr, layouts))} with these shapes and dtypes",
            next_step=if_taken(file is not None),
        )


def _open_any(mapping: Attachment) -> Group | str:
    """Return the group in a block; if it is none, release the block and return a text for the error."""
    try:
        layout = header.decode(mapping[: header.PAGE], len(mapping), name=mapping.name, more=mapping)
        found = open_group(mapping, layout)
    except errors.HeaderError:
        found = None
    except BaseException:
        mapping.release()
        raise
    if found is None:
        mapping.release()
    return "no group" if found is None else found


def _axes(dims: Mapping[str, Sequence[str]] | None, layouts: _Layouts) -> dict[str, list[str]]:
    """Return the names of the axes, checked."""
    found = {}
    for name, axes in (dims or {}).items():
        if name not in layouts:
            raise ValueError(f"dims names {name!r}, which is no member: {list(layouts)}")
        names = [axes] if isinstance(axes, str) else list(axes)
        shape = layouts[name][1]
        if len(names) != len(shape) or not all(isinstance(axis, str) for axis in names):
            raise ValueError(
                f"the dims of {name!r} are a name for each of its {len(shape)} axes, not {axes!r}"
            )
        found[name] = names
    return found


def _plain(owner: str, attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return attributes as JSON can hold them."""
    if attrs is not None and not isinstance(attrs, Mapping):
        raise TypeError(f"{owner} are a mapping of names to values, not {type(attrs).__qualname__}")
    found = {}
    for key, value in (attrs or {}).items():
        if not isinstance(key, str):
            raise TypeError(f"the name of an attribute is a str, not {type(key).__name__} ({key!r})")
        found[key] = _plain_value(f"{owner}[{key!r}]", value)
    return found


def _plain_value(path: str, value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufU":
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain_value(f"{path}[{key!r}]", each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_value(f"{path}[{number}]", each) for number, each in enumerate(value)]
    raise TypeError(
        f"{path} is a {type(value).__qualname__}, which an attribute cannot be: attributes are texts, "
        "numbers, None, and lists and dicts of these. Next step: store an array as a member"
    )
