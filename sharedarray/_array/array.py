"""`SharedArray`: how one is made, found by name, and how NumPy uses it."""

from __future__ import annotations

import inspect
import math
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from sharedarray import (
    _dtypes as dtypes,
    _errors as errors,
    _header as header,
    _registry as registry,
    _segment as segment,
    _versions as versions,
)
from sharedarray._array.block_methods import BlockMethods
from sharedarray._array.cures import cure_of
from sharedarray._array.exist_ok import found_or_made
from sharedarray._array.facts import facts_of_array, facts_of_block, is_whole_object, object_text
from sharedarray._array.growth_methods import GrowthMethods
from sharedarray._array.memory import span_of
from sharedarray._array.plain_results import return_plain_results
from sharedarray._array.shapes import ShapeLike, as_dtype, as_shape
from sharedarray._array.version_methods import VersionMethods
from sharedarray._array.wait_methods import WaitMethods
from sharedarray._growth import grows, growth_of, is_growing, lay_out, lost_control, restore, set_length
from sharedarray._platform import Mode, platform
from sharedarray._process_end import halting
from sharedarray._segment import BlockOptions, Mapping, mapping_of
from sharedarray._version_buffers import show_again, versions_of

# NumPy 1 made scalars of all 0-d results, and had no way to say which.
_BEFORE_RETURN_SCALAR = np.lib.NumpyVersion(np.__version__) < "2.0.0"


_BYTE = np.dtype(np.uint8)
_frombuffer, _new_array = np.frombuffer, np.ndarray.__new__
_getitem = np.ndarray.__getitem__  # super() takes as long as the slice


_of_subclasses: list[Callable[[type[Any]], None]] = []


def on_subclass(call: Callable[[type[Any]], None]) -> None:
    """Call a function with each subclass of `SharedArray` that is defined from now on."""
    _of_subclasses.append(call)


class SharedArray(WaitMethods):
    """An array in shared memory, which any process attaches to by its name.

    Making one makes a block; its elements are zero until written. The block lives as long as any process
    holds it: the last one to close it, drop its last view or end, removes it, unless it persists.

    Parameters
    ----------
    shape : int or tuple of int
        Lengths of the axes.
    dtype : dtype_like, default float
        Type of the elements; any but ``object``.
    order : {'C', 'F'}
        Whether the last or the first axis varies fastest.
    name : str, optional
        Name to attach by, one path component; a random name if None.
    persist : bool
        Whether the block outlives its holders until `unlink`.
    file : path_like, optional
        Make an ``.npy`` file there instead of a block. It is never removed.
    exist_ok, replace : bool
        What to do where the name is taken; see `empty`.

    Attributes
    ----------
    name : str or None
        The block's name, a file's path, None where the memory is not shared (the result of a function
        that keeps the class but not the memory).
    mode : {'r', 'r+', 'c'} or None
        Read-only, read and write, or copy-on-write. 'c' is no snapshot: pages that were not written yet
        still show what others write.
    segment : Segment or None
        The block below.
    closed : bool
        Whether the lease is given up.

    Raises
    ------
    BlockExistsError
        The name is taken (a `FileExistsError`).
    OutOfSharedMemoryError
        There is not enough memory (an `OSError` with ``ENOSPC``).
    UnsupportedDTypeError
        The dtype holds Python objects (a `TypeError` and a `ValueError`).
    InvalidNameError
        The name is no plain path component (a `ValueError`).

    Notes
    -----
    Other processes see every write at once, in the order in which the processor makes it visible; `lock`
    keeps a reader from seeing half of one. Plain pickling, `numpy.save` and `copy` store the data;
    multiprocessing, joblib and Dask send a small reference instead.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.SharedArray((2, 3), "int32") as a:
    ...     a[:] = 7
    ...     b = sa.attach(a.name)
    ...     int(b.sum())
    42
    >>> b.close()
    """

    # Slots, not attributes: `numpy.ma` copies an array's attributes into what is made of it, which would hold
    # the block. Each is unset until it is needed: `_plan` by a
    # snapshot, the others when the array is sent.
    __slots__ = ("__dict__", "_call", "_packed", "_plan")
    _packed: tuple[Any, bytes, Mapping]  # see `sharedarray._reference.pack_held`
    _plan: Any  # see `VersionMethods._planned`
    _call: Any  # see `sharedarray._pool.codec.call.short_call`

    __array_priority__ = -100.0  # numpy.memmap's: a plain array's class wins

    def __new__(
        cls,
        shape: ShapeLike,
        dtype: DTypeLike = float,
        order: str = "C",
        *,
        name: str | None = None,
        persist: bool = False,
        file: str | os.PathLike[str] | None = None,
        exist_ok: bool = False,
        replace: bool = False,
    ) -> Self:
        if order not in ("C", "F"):
            raise ValueError(f"order is 'C' or 'F', not {order!r}")
        made = make(
            as_shape(shape),
            as_dtype(dtype),
            BlockOptions(name, persist, file, exist_ok, replace, kind="array"),
            fortran=order == "F",
        )
        return made if type(made) is cls else made.view(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for call in _of_subclasses:
            call(cls)

    def current(self) -> SharedArray:
        """Return the array that has this one's name now: another one if it was replaced, else this one.

        Examples
        --------
        >>> import sharedarray as sa
        >>> table = sa.zeros(2, name="table_of_current")
        >>> table.current() is table
        True
        >>> other = sa.ones(3, name="table_of_current", replace=True)
        >>> table.current().tolist()
        [1.0, 1.0, 1.0]
        """
        mapping = self._mapping("look for the successor of")
        return self if not is_replaced(mapping) else attached_again(mapping)

    # -- NumPy's hooks --------------------------------------------------------------------------------

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False, /) -> Any:
        if array is self:
            return array
        if mapping_of(array) is not None:  # squeeze() and its like wrap a view
            return array.view(type(self))
        if return_scalar or (_BEFORE_RETURN_SCALAR and array.shape == ()):
            return array[()]
        return array.view(np.ndarray)

    def __getitem__(self, key: Any) -> Any:
        found = _getitem(self, key)
        # A view's base is a SharedArray, or the array over the mapping; a fancy result's is neither.
        if type(found) is SharedArray and type(found.base) is not SharedArray and mapping_of(found) is None:
            return found.view(np.ndarray)
        return found

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        versions.warn_of_data()
        return np.asarray(self).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()

    def __copy__(self) -> Any:
        return np.array(self, order="K")

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        return np.array(self, order="K")

    def __repr__(self) -> str:
        mapping = mapping_of(self)
        if mapping is not None and is_whole_object(self, mapping):
            return object_text(mapping)
        text = super().__repr__()
        if mapping is None or not text.endswith(")"):
            return text
        state = ", closed" if mapping.released else self._contents_text(mapping)
        return f"{text[:-1]}, name={mapping.name!r}{state})"

    def _contents_text(self, mapping: Mapping) -> str:
        """Return the capacity or the version, if this is all of the array in its block."""
        try:
            if grows(mapping):
                return f", capacity={self._growth('show')[1].capacity}"
            versions = versions_of(self._whole("show"))
        except (ValueError, OSError):
            return ""  # a part, or damaged
        return "" if versions is None else f", version={versions.version}"

    def __str__(self) -> str:
        mapping = mapping_of(self)
        if mapping is not None and is_whole_object(self, mapping):
            return object_text(mapping)
        return super().__str__()

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the facts, and a picture from a sample of the data."""
        from sharedarray import _display as display  # here: only notebooks ask

        data, mapping = self.view(np.ndarray), mapping_of(self)
        if mapping is not None and is_whole_object(self, mapping):
            facts = [fact for fact in facts_of_block(mapping, len(mapping)) if fact[0] != "mode"]
            return display.card("object", [*facts, ("get it", f"sa.get({mapping.name!r})")])
        if mapping is not None and mapping.directory is None and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_RANDOM)  # or the kernel reads ahead at each sample: 11 s for 10 GiB
        try:
            drawn, below = display.picture(data), display.values(data)
        finally:
            if mapping is not None and mapping.directory is None and hasattr(mapping, "madvise"):
                mapping.madvise(mmap.MADV_NORMAL)
        return display.card(type(self).__name__, facts_of_array(self), drawn=drawn, below=below)


SharedArray._class_of_rows = SharedArray
return_plain_results(SharedArray)
# By these names Python's messages call the methods, as in "SharedArray.append() missing 1 argument".
for _part in (BlockMethods, GrowthMethods, VersionMethods, WaitMethods):
    for _name, _method in vars(_part).items():
        if inspect.isfunction(_method):
            _method.__qualname__ = f"SharedArray.{_name}"


_TOO_BIG = (  # NumPy's words
    "array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size."
)


@halting
def make(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: BlockOptions,
    *,
    fortran: bool,
    data: Sequence[memoryview] = (),
    fill: Callable[[segment.Write, int], None] | None = None,
) -> SharedArray:
    """Make a block with the header for this array, and attach to it.

    `data` is the array's bytes in memory order; `fill(write, offset)` writes them instead. Without either
    they are zero. Metadata of the dtype stays with the array, and with references to it; the block has no
    place for it.
    """
    options.check()
    while dtype.subdtype is not None:  # NumPy appends a sub-array's axes to the array's
        dtype, axes = dtype.subdtype
        shape = as_shape(shape + axes)
    header.check_dtype(dtype)
    if math.prod(length for length in shape if length) * dtype.itemsize > sys.maxsize:
        raise ValueError(_TOO_BIG)
    if len(shape) < 2:
        fortran = False
    page = header.encode(dtype, shape, fortran=fortran)
    try:
        layout = header.decode(page, len(page) + math.prod(shape) * dtype.itemsize, name="the new array")
    except errors.HeaderError as error:
        raise ValueError(f"an array cannot have this shape: {error.found}") from None

    def create() -> SharedArray:
        mapping = segment.create(
            layout.size,
            options,
            buffers=[memoryview(page), *data],
            fill=None if fill is None else (lambda write: fill(write, layout.offset)),
        )
        return from_mapping(mapping, layout)

    if options.is_named and dtypes.has_metadata(dtype):
        warnings.warn(
            "an NPY header stores no metadata of a dtype: attach() and open() will give the dtype without it",
            UserWarning,
            stacklevel=registry.level_of_caller(),
        )
    if options.exist_ok and options.is_named:
        made = found_or_made(create, _find(options), layout, options, growing=False)
    else:
        made = create()
    # A header tells nothing of metadata, nor of records' scalar class or alignment.
    if dtype.metadata or dtype.names is not None:
        made = np.ndarray.view(made, dtype)  # type: ignore[assignment]
    return made


def from_mapping(mapping: Mapping, layout: header.Layout) -> SharedArray:
    """Return the array that a block's header describes."""
    return _new_array(
        SharedArray,
        layout.shape,
        layout.dtype,
        _frombuffer(mapping, _BYTE),  # which keeps the mapping open: `ndarray` alone would not
        layout.offset,
        None,
        layout.order,
    )


def _growing(mapping: Mapping, layout: header.Layout) -> SharedArray:
    """Return the array in a block in which it grows, with its current length."""
    mapping.__dict__["grows"] = True
    growth = growth_of(mapping)
    shape = growth.capacity, *layout.shape[1:]
    # Made with the length that it may have, so that NumPy counts it as contiguous in this one order.
    array = from_mapping(mapping, layout._replace(shape=shape))
    set_length(array, max(growth.length(), layout.shape[0]))
    return array


def _find(options: BlockOptions) -> Callable[[], Any]:
    """Return a function that attaches to what has the name, or the path, that a caller asks for."""
    name, file = options.name, options.file
    return lambda: attach(str(name)) if file is None else open(file)


@halting
def make_growing(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    options: BlockOptions,
    *,
    capacity: int,
) -> SharedArray:
    """Make a block with an array of zeros whose first axis grows up to `capacity`."""
    options.check()
    while dtype.subdtype is not None:
        dtype, axes = dtype.subdtype
        shape += axes
    header.check_dtype(dtype)
    if not shape or not shape[0] <= capacity <= header.MOST_ROWS:
        raise ValueError(
            f"an array of shape {shape} cannot grow to a length of {capacity}: capacity is the most that the "
            f"first axis can have, which is not less than its length and at most {header.MOST_ROWS:,}"
        )
    head, control, size, parts = lay_out(dtype, shape, capacity)
    try:
        layout = header.decode(head, size, name="the new array")
    except errors.HeaderError as error:
        raise ValueError(f"an array cannot have this shape: {error.found}") from None

    def create() -> SharedArray:
        mapping = segment.create(
            size,
            options,
            buffers=[memoryview(head)],
            fill=lambda write: write(size - len(control), [memoryview(control)]),
            parts=parts,
        )
        return _growing(mapping, layout)

    if options.exist_ok and options.is_named:
        grown = layout._replace(shape=(capacity, *shape[1:]))
        find = _find(options)

        def find_log() -> Any:
            if options.file is not None:
                _restore_log(options.file, grown)
            return find()

        return found_or_made(create, find_log, grown, options, growing=True)
    return create()


def _restore_log(file: str | os.PathLike[str], asked: header.Layout) -> None:
    """Write the control page of a file anew if it is the log that is asked for and has lost that page."""
    mapping = segment.open_file(file)
    try:
        layout = header.decode(mapping[: header.PAGE], len(mapping), name=mapping.name, more=mapping)
        same = (layout.dtype, layout.shape[1:]) == (asked.dtype, asked.shape[1:])
        if same and lost_control(mapping, layout) and layout.shape[0] <= asked.shape[0]:
            restore(mapping, layout, asked.shape[0])
    except errors.HeaderError:
        pass  # `open` reports it
    finally:
        mapping.release()


def is_all(array: SharedArray, mapping: Mapping) -> bool:
    """Return whether an array has all elements that `attach` finds in its block.

    Of an array that grows, it has them also if it has not taken over the latest rows.
    """
    page = mapping[: header.PAGE]
    layout = header.decode(page, len(mapping), name=mapping.name, more=mapping)
    low, high = span_of(array, mapping)
    if not grows(mapping):
        length = layout.size - layout.offset
        return array.nbytes == length and (not length or (low, high) == (layout.offset, layout.size))
    growth = growth_of(mapping)
    length = growth.length() * growth.row
    if array.nbytes == length and (not length or (low, high) == (growth.start, growth.start + length)):
        return True
    return array.nbytes < length and not isinstance(array.base, SharedArray) and low in (0, growth.start)


def is_replaced(mapping: Mapping) -> bool:
    """Return whether another block, or file, has the name of an attachment."""
    inode = platform.inode_of(mapping.path)
    return inode is not None and inode != mapping.inode


def attached_again(mapping: Mapping) -> Any:
    """Attach to the block, or the file, that has the name of an attachment now."""
    if mapping.directory is None:
        return open(mapping.name, mapping.mode)
    now = segment.attach(mapping.name, mapping.mode, directory=mapping.directory)
    return _view(now, platform.read(now.handle, header.PAGE))


@halting
def attach(name: str, mode: Mode = "r+", *, timeout: float | None = None) -> SharedArray:
    """Attach to the array of that name, in any process.

    Parameters
    ----------
    name : str
        The block's name.
    mode : {'r+', 'r', 'c'}
        Read and write; read-only, which the hardware enforces; or copy-on-write, where what is written
        stays private.
    timeout : float, optional
        Seconds to wait for a block of that name if there is none yet; ``math.inf`` to wait as long as it
        takes. None does not wait. Ctrl-C ends the wait.

    Returns
    -------
    SharedArray or Group
        Shape, dtype and order are the block's. It holds the block until closed or dropped. A `Group` if the
        name is that of one.

    Raises
    ------
    BlockNotFoundError
        There is none of that name, or none came in time (a `FileNotFoundError`).
    HeaderError
        What is there is no array (a `ValueError`); it is left as it is.
    InvalidNameError
        The name is no plain path component (a `ValueError`).

    Examples
    --------
    >>> import sharedarray as sa
    >>> frames = sa.share([1, 2, 3])
    >>> sa.attach(frames.name, "r")[1:].tolist()
    [2, 3]
    """
    mapping = segment.attach(name, mode, timeout=timeout)
    # Read by a call, not through the mapping: a page fault costs several times as much.
    return _view(mapping, platform.read(mapping.handle, header.PAGE))


def open(path: str | os.PathLike[str], mode: Mode = "r+") -> SharedArray:
    """Open an ``.npy`` file on disk as a shared array.

    Every process that opens it shares its pages. The file needs no lease, and is never removed; `flush`
    brings what was written onto the disk.

    Parameters
    ----------
    path : path_like
        The file.
    mode : {'r+', 'r', 'c'}
        Read and write, read-only, or copy-on-write.

    Raises
    ------
    BlockNotFoundError
        There is no such file (a `FileNotFoundError`).
    HeaderError
        It is no NPY file, or one of Python objects (a `ValueError`).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import sharedarray as sa
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "table.npy")
    ...     np.save(path, np.arange(3))
    ...     table = sa.open(path)
    ...     print(int(table.sum()))
    ...     del table
    3
    """
    mapping = segment.open_file(path, mode)
    return _view(mapping, mapping[: header.PAGE])


# Functions of modules above this one, such as `Group`'s. Each is called with an attachment of an array
# of bytes. It returns the object that these bytes are, or None if they are not of its kind.
opened_as: list[Callable[[Mapping, header.Layout], Any]] = []


def _view(mapping: Mapping, page: bytes) -> SharedArray:
    """Return the array, or another object, in an attachment whose first page is `page`."""
    try:
        layout = header.decode(page, len(mapping), name=mapping.name, more=mapping)
        if layout.size < len(mapping):
            if is_growing(mapping, layout):
                return _growing(mapping, layout)
            show_again(mapping, layout)
        if layout.dtype is _BYTE and len(layout.shape) == 1:
            for opener in opened_as:
                found = opener(mapping, layout)
                if found is not None:
                    return found  # type: ignore[no-any-return]
        return from_mapping(mapping, layout)
    except errors.HeaderError as error:
        error.next_step = cure_of(mapping)
        mapping.release()
        raise
    except BaseException:
        mapping.release()
        raise
