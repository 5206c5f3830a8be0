"""Conversions to and from groups: npz files, frames, datasets, safetensors files.

Nothing is imported that the program has not imported itself, except for what a ``to_`` method makes.

A ``.safetensors`` file is a little-endian 64-bit number n, n bytes of JSON, and the data. The JSON object
maps each name to ``{"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}``, counted from behind the
JSON; ``__metadata__`` may map texts to texts. Such a file is data from outside: it is checked field by field.
"""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from sharedarray import _errors as errors
from sharedarray._header import MAGIC
from sharedarray._platform import platform
from sharedarray._sizes import exact

if TYPE_CHECKING:
    import pandas
    import xarray

    from sharedarray._group_index import Index

__all__ = ["Source", "source_of", "to_pandas", "to_xarray", "write_npz"]

_Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(slots=True)
class Source:
    """Arrays by name, with what belongs to them; see `sharedarray._group_index.Index`."""

    arrays: dict[str, Any]
    attrs: dict[str, Any] = field(default_factory=dict)
    member_attrs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    dims: dict[str, Sequence[str]] = field(default_factory=dict)
    coords: tuple[str, ...] = ()
    frame: dict[str, Any] | None = None


def source_of(given: Any) -> Source:
    """Return the arrays of what `sharedarray.share_group` was given."""
    if isinstance(given, str | os.PathLike):
        return _of_file(os.fspath(given))
    if _is_a(given, "pandas", "DataFrame"):
        return _of_frame(given)
    if _is_a(given, "xarray", "Dataset"):
        return _of_dataset(given)
    if isinstance(given, Mapping):
        return Source({name: given[name] for name in given})
    kind = type(given)
    shown = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    raise TypeError(
        "a group is made of a mapping of names to arrays, a pandas.DataFrame, an xarray.Dataset, or the path "
        f"of an .npz or .safetensors file, not of a {shown}"
    )


def _is_a(given: Any, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(given, kind)


# -- npz ------------------------------------------------------------------------------------------------


def write_npz(file: Any, arrays: Mapping[str, _Array], *, compressed: bool) -> None:
    """Write arrays into an npz file; `numpy.savez` would take none that is named 'file'."""
    if not hasattr(file, "write"):
        path = os.fspath(file)
        with open(path if path.endswith(".npz") else f"{path}.npz", "wb", opener=platform.opener) as opened:
            write_npz(opened, arrays, compressed=compressed)
        return
    from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

    from numpy.lib import format as npy

    with ZipFile(file, "w", ZIP_DEFLATED if compressed else ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                npy.write_array(stream, np.asarray(array), allow_pickle=False)


def _of_file(path: str) -> Source:
    with open(path, "rb", opener=platform.opener) as file:
        start = file.read(len(MAGIC))
        if start.startswith(b"PK"):
            return _of_npz(path, file)
        if start == MAGIC:
            raise errors.HeaderError(
                f"{path} is an .npy file",
                name=path,
                found="one array, or a group",
                expected="an .npz or a .safetensors file",
                next_step=f"sharedarray.open({path!r}) opens it; share_group copies a group that was opened",
            )
        return _of_safetensors(path, file)


def _of_npz(path: str, file: Any) -> Source:
    import zlib
    from zipfile import BadZipFile

    file.seek(0)
    try:
        with np.load(file, allow_pickle=False) as archive:
            return Source({name: archive[name] for name in archive.files})
    except (BadZipFile, EOFError, zlib.error) as error:
        raise errors.HeaderError(
            f"{path} is no usable npz file",
            name=path,
            found=str(error) or type(error).__name__,
            expected="a whole archive, as numpy.savez writes it",
            cause="it was damaged or cut off",
            next_step="write or copy the file again",
        ) from error


# -- safetensors ----------------------------------------------------------------------------------------

_LONGEST = 100_000_000  # bytes of the JSON: the format's own limit
_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
}  # fmt: skip
# Types that NumPy has not: their members are arrays of the bits.
_AS_BITS = {"BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E8M0": "u1"}


def _of_safetensors(path: str, file: Any) -> Source:
    def bad(found: str, expected: str) -> errors.HeaderError:
        return errors.HeaderError(
            f"{path} is no usable safetensors file",
            name=path,
            found=found,
            expected=expected,
            cause="it is another kind of file, or it was damaged or cut off",
        )

    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise bad(exact(size), "a length of 8 bytes and a header, or an .npz file")
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(_LONGEST, size - 8):
        raise bad(f"a header of {exact(length)} in a file of {exact(size)}", "a header that fits the file")
    described = _json_object(file.read(length), bad)
    metadata = described.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise bad("metadata of another form", "texts by name")
    data = size - 8 - length
    places: list[tuple[int, int, str]] = []
    shapes: dict[str, tuple[np.dtype[Any], list[int]]] = {}
    bits: dict[str, str] = {}
    for name, entry in described.items():
        kind, shape, begin, end = _tensor(name, entry, bad)
        text = _TYPES.get(kind) or _AS_BITS.get(kind)
        if text is None:
            raise bad(f"the dtype {kind!r} of {name!r}", f"one of {', '.join([*_TYPES, *_AS_BITS])}")
        dtype = np.dtype(text)
        if kind in _AS_BITS:
            bits[name] = kind
        if end > data or end - begin != math.prod(shape) * dtype.itemsize:
            raise bad(
                f"bytes {begin} to {end} of {data} for {name!r} of shape {shape} and dtype {kind}",
                "as many bytes as the tensor has, within the file",
            )
        places.append((begin, end, name))
        shapes[name] = dtype, shape
    _check_places(places, data, bad)
    memory: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = {}
    for begin, _, name in places:
        dtype, shape = shapes[name]
        arrays[name] = np.ndarray(shape, dtype, memory, 8 + length + begin)
    ordered = {name: arrays[name] for name in described}
    return Source(ordered, {**metadata, **({"safetensors": bits} if bits else {})})


def _json_object(text: bytes, bad: Any) -> dict[str, Any]:
    import json

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise bad(f"a header that is no JSON ({str(error)[:80]})", "a JSON object") from None
    if type(found) is not dict:
        raise bad("a header that is no JSON object", "a JSON object")
    return found


def _tensor(name: str, entry: Any, bad: Any) -> tuple[str, list[int], int, int]:
    """Return dtype, shape, and the bytes of a tensor."""
    if type(entry) is dict and entry.keys() >= {"dtype", "shape", "data_offsets"}:
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = type(kind) is str and _are_counts(shape) and _are_counts(offsets) and len(offsets) == 2
        if counts and offsets[0] <= offsets[1] and len(shape) <= 32 and max([*shape, 0]) < 1 << 62:
            return kind, shape, offsets[0], offsets[1]
    shown = repr(entry)
    raise bad(
        f"the tensor {name!r}: {shown[:100]}",
        "an object with a dtype, a shape and the beginning and end of its data",
    )


def _are_counts(values: Any) -> bool:
    return type(values) is list and all(type(value) is int and value >= 0 for value in values)


def _check_places(places: list[tuple[int, int, str]], data: int, bad: Any) -> None:
    end = 0
    for begin, stop, name in sorted(places):
        if begin != end:
            raise bad(
                f"{name!r} from byte {begin} on", f"byte {end}: tensors that neither overlap nor leave gaps"
            )
        end = stop
    if end != data:
        raise bad(f"{data} bytes of data", f"{end} bytes, as the tensors have")


# -- text -----------------------------------------------------------------------------------------------


def _as_text(name: str, values: _Array) -> _Array:
    """Return an array of Python strings as one of a fixed width; other arrays as they are."""
    if values.dtype.kind not in "OT":
        return values
    listed = values.tolist() if values.ndim else [values.item()]
    if not all(isinstance(each, str) for each in np.asarray(listed, dtype=object).flat):
        raise errors.UnsupportedDTypeError(
            f"{name!r} cannot be a member of a group",
            found="Python objects other than text, or missing values",
            expected="numbers, dates or text",
            next_step="fill what is missing and convert it first, as by .fillna() and .astype()",
        )
    text = np.asarray(values, dtype=str)
    return text if text.dtype.itemsize else text.astype("U1")


# -- pandas ---------------------------------------------------------------------------------------------


_LABELS = str, int, float, bool  # what JSON can hold
_ROW = "row"  # the axis of the members of a frame, in a dataset


def _of_frame(frame: pandas.DataFrame) -> Source:
    """Return the columns of a frame, and its index if it is not the numbers of the rows.

    The key `frame` of a source has ``columns`` and ``index``: lists of pairs of a member's name and a label;
    ``zones``, the time zones of members that are UTC; ``categories``, of members that are codes, with whether
    they are in order; ``name``, a list of the name of the columns.
    """
    import pandas

    arrays: dict[str, _Array] = {}
    zones: dict[str, str] = {}
    categories: dict[str, Any] = {}

    def add(wish: str, values: Any) -> str:
        name = wish
        while name in arrays:
            name += "_"
        if isinstance(values.dtype, pandas.CategoricalDtype):
            kinds = values.dtype.categories.tolist()
            if not all(isinstance(kind, str | int | float | bool) for kind in kinds):
                raise TypeError(f"the categories of {wish!r} are no texts or numbers")
            categories[name] = [kinds, bool(values.dtype.ordered)]
            arrays[name] = np.asarray(values.cat.codes)
        elif isinstance(values.dtype, pandas.DatetimeTZDtype):
            zones[name] = str(values.dtype.tz)
            arrays[name] = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        else:
            numpy_type = getattr(values.dtype, "numpy_dtype", None)
            if numpy_type is not None and numpy_type.kind not in "OT" and not values.isna().any():
                arrays[name] = values.to_numpy(dtype=numpy_type)
            else:
                arrays[name] = _as_text(wish, values.to_numpy())
        return name

    columns = []
    for position, label in enumerate(frame.columns):
        if not isinstance(label, _LABELS):
            raise TypeError(f"a column of a group is named by a text or a number, not by {label!r}")
        columns.append([add(str(label), frame.iloc[:, position]), label])
    found: dict[str, Any] = {"columns": columns, "zones": zones, "categories": categories}
    if frame.columns.name is not None:
        found["name"] = [_name_of(frame.columns.name)]
    index = frame.index
    if (
        not (isinstance(index, pandas.RangeIndex) and index.equals(pandas.RangeIndex(len(frame))))
        or index.name is not None
    ):
        found["index"] = []
        for level in range(index.nlevels):
            values = index.get_level_values(level)
            usual = "index" if index.nlevels == 1 else f"level_{level}"
            label = _name_of(values.name)
            wish = usual if label is None or label == "" else str(label)
            found["index"].append([add(wish, values.to_series()), label])
    attrs = {str(name): value for name, value in frame.attrs.items()}
    return Source(arrays, attrs, frame={key: value for key, value in found.items() if value})


def _name_of(name: Any) -> Any:
    """Return the name of an index as JSON can hold it."""
    return name if name is None or isinstance(name, _LABELS) else str(name)


def to_pandas(arrays: Mapping[str, _Array], index: Index, name: str | None) -> pandas.DataFrame:
    """Return the frame that the members of a group are, over their memory."""
    import pandas

    frame = index.frame or {"columns": [[key, key] for key in arrays]}
    lengths = {key: array.shape for key, array in arrays.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        raise ValueError(f"the members of a frame have one axis, of one length; these have {lengths}")
    try:
        levels = [(_column(arrays[key], frame, key), label) for key, label in frame.get("index", ())]
        columns = [(_column(arrays[key], frame, key), label) for key, label in frame["columns"]]
        (name_of_columns,) = frame.get("name", (None,))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise errors.HeaderError(
            f"the group {name!r} does not tell what frame it was",
            name=name,
            found=repr(frame)[:80],
            cause=f"the index was damaged ({error!r})",
        ) from error
    rows: Any = None
    if len(levels) == 1:
        rows = pandas.Index(levels[0][0], name=levels[0][1])
    elif levels:
        rows = pandas.MultiIndex.from_arrays(
            [values for values, _ in levels], names=[label for _, label in levels]
        )
    by_number: Any = {number: values for number, (values, _) in enumerate(columns)}
    made = pandas.DataFrame(by_number, index=rows, copy=False)
    made.columns = pandas.Index([label for _, label in columns], name=name_of_columns)
    made.attrs = dict(index.attrs)
    return made


def _column(array: _Array, frame: Mapping[str, Any], name: str) -> Any:
    import pandas

    values: Any = np.asarray(array)
    zone = frame.get("zones", {}).get(name)
    if zone is not None:
        return pandas.Series(values, copy=False).dt.tz_localize("UTC").dt.tz_convert(zone).array
    kinds = frame.get("categories", {}).get(name)
    if kinds is not None:
        return pandas.Categorical.from_codes(values, categories=kinds[0], ordered=kinds[1])
    return values


# -- xarray ---------------------------------------------------------------------------------------------


def _of_dataset(dataset: xarray.Dataset) -> Source:
    for name in dataset.variables:
        if not isinstance(name, str):
            raise TypeError(f"the name of a member is a str, not {type(name).__name__} ({name!r})")
    variables = {str(name): variable for name, variable in dataset.variables.items()}
    return Source(
        {name: _as_text(name, variable.values) for name, variable in variables.items()},
        dict(dataset.attrs),
        {name: dict(variable.attrs) for name, variable in variables.items()},
        {name: [str(axis) for axis in variable.dims] for name, variable in variables.items()},
        tuple(map(str, dataset.coords)),
    )


def to_xarray(arrays: Mapping[str, _Array], index: Index) -> xarray.Dataset:
    """Return the dataset that the members of a group are, over their memory."""
    import xarray

    variables = {}
    for name, array in arrays.items():
        axes = index.dims.get(name) or tuple(f"{name}_{axis}" for axis in range(array.ndim))
        if index.frame and array.ndim == 1:
            axes = (_ROW,)
        variables[name] = (axes, np.asarray(array), index.member_attrs.get(name, {}))
    return xarray.Dataset(
        {name: value for name, value in variables.items() if name not in index.coords},
        coords={name: variables[name] for name in index.coords},
        attrs=index.attrs,
    )
