"""Methods of `numpy.ndarray` whose result may have memory of its own: it is a plain array then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharedarray._segment import mapping_of

if TYPE_CHECKING:
    from sharedarray._array.array import SharedArray

# Methods whose result may have memory of its own; of each, an example of that: the data, and the call.
_MAY_COPY = {
    "argpartition": ("[3, 1, 2]", "argpartition(1)"),
    "argsort": ("[3, 1, 2]", "argsort()"),
    "astype": ("[3, 1, 2]", "astype(float)"),
    "byteswap": ("[3, 1, 2]", "byteswap()"),
    "choose": ("[0, 1, 0]", "choose([[1, 2, 3], [4, 5, 6]])"),
    "compress": ("[3, 1, 2]", "compress([True, False, True])"),
    "conj": ("[3j, 1, 2]", "conj()"),
    "conjugate": ("[3j, 1, 2]", "conjugate()"),
    "copy": ("[3, 1, 2]", "copy()"),
    "dot": ("[3, 1, 2]", "dot(2)"),
    "flatten": ("[[3, 1], [2, 4]]", "flatten()"),
    "ravel": ("[[3, 1], [2, 4]]", "T.ravel()"),
    "repeat": ("[3, 1, 2]", "repeat(2)"),
    "reshape": ("[[3, 1], [2, 4]]", "T.reshape(4)"),
    "searchsorted": ("[1, 2, 3]", "searchsorted([2, 3])"),
    "take": ("[3, 1, 2]", "take([0, 2])"),
}

_PLAIN_DOC = """As `numpy.ndarray.{name}`; a plain array if the result has memory of its own.

    Parameters
    ----------
    *args, **kwargs
        As for `numpy.ndarray.{name}`.

    Returns
    -------
    ndarray
        A `SharedArray` only if it is a view of this array's block.

    Examples
    --------
    >>> import sharedarray as sa
    >>> type(sa.share({data}).{call}).__name__
    'ndarray'
    """


def _plain(cls: type[SharedArray], name: str, data: str, call: str) -> Any:
    """Return the method of that name, such that a result with memory of its own is a plain array."""
    method = getattr(np.ndarray, name)

    def plain(self: SharedArray, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if isinstance(result, cls) and mapping_of(result) is None:
            return result.view(np.ndarray)
        return result

    plain.__name__ = name
    plain.__qualname__ = f"SharedArray.{name}"
    plain.__doc__ = _PLAIN_DOC.format(name=name, data=data, call=call)
    return plain


def return_plain_results(cls: type[SharedArray]) -> None:
    """Override the methods of `SharedArray` whose result may have memory of its own."""
    for name, (data, call) in _MAY_COPY.items():
        setattr(cls, name, _plain(cls, name, data, call))
