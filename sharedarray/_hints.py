"""Suggestions for a wrong name, or for another object in the place of a name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import islice

__all__ = ["likely", "no_attribute", "not_a_name", "path_of"]

_LIKENESS = 0.6  # of 1: difflib's own default
_MOST_COMPARED = 1000  # names: to compare a name with so many takes some 10 ms


def likely(name: str, names: Iterable[str], likeness: float = _LIKENESS) -> str | None:
    """Return the one of these names that was probably meant, None if none is as alike as that (of 1).

    Examples
    --------
    >>> likely("frame", ["counts", "frames"])
    'frames'
    """
    import difflib  # here: only those who make a mistake need it

    wanted = name.lower()
    known = {each.lower(): each for each in islice(names, _MOST_COMPARED) if each != name}
    found = difflib.get_close_matches(wanted, known, 1, likeness)
    return known[found[0]] if found else None


def no_attribute(obj: object, name: str, cures: Mapping[str, str]) -> AttributeError:
    """Return the error for an attribute that an object has not.

    Parameters
    ----------
    obj, name
        The object, and the attribute's name.
    cures
        What to write, by the name of a method that such objects of other packages have.
    """
    kind = type(obj).__name__
    if name in cures:
        return AttributeError(f"{kind} has no method {name!r}. Next step: {cures[name]}")
    return AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=obj)


def not_a_name(given: object) -> TypeError:
    """Return the error for an object that was given in the place of a block's name."""
    text = f"a block's name is a str, not {type(given).__name__}"
    if isinstance(given, os.PathLike):
        return TypeError(f"{text}: for an .npy file at a path use sharedarray.open(path) or file=path")
    if isinstance(given, bytes):
        return TypeError(f"{text}: decode it, as in name.decode()")
    name = getattr(given, "name", None)
    array = hasattr(given, "__array_interface__")
    if isinstance(name, str):
        text += f": this array has the block {name!r} already" if array else f": give its name, {name!r}"
    elif array:
        text += ": this array has none, since its memory is not shared; sharedarray.share(array) copies it"
    return TypeError(text)


def path_of(given: object) -> str:
    """Return a path as a str; raise the error for an object that is given in the place of one."""
    if isinstance(given, str | bytes | os.PathLike):
        return os.fsdecode(given)
    text = f"the path of an .npy file is a str or a pathlib.Path, not {type(given).__name__}"
    if hasattr(given, "__array_interface__"):
        text += ": for an array that is there, sharedarray.share(array)"
    elif hasattr(given, "read"):
        text += ": give the path of the file"
    raise TypeError(text)
