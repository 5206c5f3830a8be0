"""The functions that the contestants' workers run. Every library sends these by name."""

from __future__ import annotations

import mmap
import time
from multiprocessing.shared_memory import SharedMemory
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]


def noop(value: Any) -> Any:
    """Do nothing."""
    return value


def noops(values: list[Any]) -> list[Any]:
    """Do nothing, many times."""
    return [noop(value) for value in values]


def pause(seconds: float) -> float:
    """Sleep; return how long it was, which is some 0.1 ms longer."""
    start = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - start


def first(array: Array) -> float:
    """Look at an array."""
    return float(array[0])


def root(array: Array) -> Array:
    """Return the square root, for those who take no functions of NumPy's own."""
    found: Array = np.sqrt(array)
    return found


_files: dict[str, memoryview] = {}


def stored(path: str, size: int) -> Array:
    """Return the first so many bytes of the array in an ``.npy`` file on the memory file system.

    It is the same memory in all processes of all contestants, so that a gigabyte is there once and not
    twenty times, and yet none of the libraries sees anything but a plain array of a worker.
    """
    if path not in _files:
        with open(path, "rb") as file:
            np.lib.format.read_magic(file)
            np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            _files[path] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[start:]
    return np.frombuffer(_files[path], count=size // 8)


def stored_tensor(path: str, size: int) -> Any:
    """Return the same as a tensor."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it is read-only
        return torch.from_numpy(stored(path, size))


_kept: dict[int, Array] = {}


def kept(size: int) -> Array:
    """Return an array of so many bytes that the worker made in an earlier task."""
    if size not in _kept:
        _kept[size] = np.ones(size // 8)
    return _kept[size]


def keep(size: int) -> float:
    """Make that array."""
    return first(kept(size))


def made(size: int) -> Array:
    """Return a new array of so many bytes."""
    return np.ones(size // 8)


def made_only(size: int) -> float:
    """Make the array, and return one element."""
    return first(made(size))


def collatz(block: Array) -> Array:
    """Count steps to 1 of the Collatz sequence: pure Python, which holds the interpreter's lock."""
    counts = []
    for number in block.tolist():
        count = 0
        while number > 1:
            number = 3 * number + 1 if number % 2 else number // 2
            count += 1
        counts.append(count)
    return np.array(counts, dtype=block.dtype)


# By hand: blocks of `multiprocessing.shared_memory`, and of the SharedArray of PyPI


def first_of_block(name: str, shape: tuple[int, ...], dtype: Any) -> float:
    """Look at an array that lies in a block."""
    block = SharedMemory(name)
    value = first(np.ndarray(shape, dtype, block.buf))
    block.close()
    return value


def to_block(function: Any, *args: Any) -> tuple[str, tuple[int, ...], Any]:
    """Put a result into a new block."""
    array = function(*args)
    block = SharedMemory(create=True, size=array.nbytes)
    np.ndarray(array.shape, array.dtype, block.buf)[:] = array
    block.close()
    return block.name, array.shape, array.dtype


_views: list[Array] = []
_blocks: list[SharedMemory] = []  # keeps them open


def attach_both(there: str, back: str, shape: tuple[int, ...], dtype: Any) -> None:
    """Attach an input and an output, for as long as this worker lives."""
    for name in there, back:
        block = SharedMemory(name)
        _blocks.append(block)
        _views.append(np.ndarray(shape, dtype, block.buf))


def block_by_hand(order: tuple[Any, int, int]) -> None:
    """Compute one block of what is attached."""
    function, start, stop = order
    given, result = _views
    function(given[start:stop], out=result[start:stop])


def first_of_theirs(name: str) -> float:
    """Look at an array of the SharedArray of PyPI."""
    import SharedArray

    return first(SharedArray.attach(name))


def to_theirs(name: str, function: Any, *args: Any) -> None:
    """Put a result into a new array of theirs."""
    import SharedArray

    array = function(*args)
    SharedArray.create(name, array.shape, array.dtype)[:] = array
