"""Subclasses of ndarray as programs have them, for tests in which they travel. Workers import this."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import sharedarray as sa
from sharedarray._segment import mapping_of


class Tagged(np.ndarray):
    """Has an attribute, and no reduction of its own."""

    def __array_finalize__(self, obj: Any) -> None:
        self.tag = getattr(obj, "tag", None)


class Measured(Tagged):
    """Adds its attribute to NumPy's reduction, as the examples in NumPy's documentation do."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, (*state, self.tag)

    def __setstate__(self, state: Any) -> None:
        self.tag = state[-1]
        super().__setstate__(state[:-1])


class Nested(Tagged):
    """Puts NumPy's state into one of its own, as astropy's quantities do, and derives something from it."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, [state, {"tag": self.tag}]

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[0])
        self.__dict__.update(state[1])
        self.total = float(np.asarray(self).sum())


class Rebuilt(Tagged):
    """Is made anew from a plain array."""

    def __reduce__(self) -> Any:
        return rebuilt, (np.asarray(self), self.tag)


def rebuilt(data: Any, tag: Any) -> Rebuilt:
    made: Rebuilt = np.asarray(data).view(Rebuilt)
    made.tag = tag
    return made


class Halved(Measured):
    """Has an attribute that views its own memory."""

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.half = np.asarray(self)[::2]


class Explicit(Tagged):
    """Calls ndarray's methods by name."""

    def __reduce__(self) -> Any:
        make, args, state = np.ndarray.__reduce__(self)  # type: ignore[misc]
        return make, args, (*state, self.tag)

    def __setstate__(self, state: Any) -> None:
        np.ndarray.__setstate__(self, state[:-1])
        self.tag = state[-1]


class Strict(np.ndarray):
    """Finds an attribute in whatever array it is made of; its constructor makes it of none."""

    tag: Any = None

    def __array_finalize__(self, obj: Any) -> None:
        if obj is not None:
            self.tag = obj.tag


class StrictAndMeasured(Strict):
    """Reduces itself as well."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, (*state, self.tag)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state[:-1])
        self.tag = state[-1]


def constructed(kind: type[Any], data: Any) -> Any:
    made = kind(data.shape, data.dtype, data)
    made.tag = "m"
    return made


class Telling(Measured):
    """Tells its class in its state, and has views of itself."""

    def __reduce__(self) -> Any:
        make, args, state = super().__reduce__()  # type: ignore[misc]
        return make, args, (*state[:-1], {"kind": type(self), "tag": self.tag})

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.tag = state[-1]["tag"]
        self.first = self[:1]


class Meta(type):
    """Knows of each class that it makes."""

    made: ClassVar[list[str]] = []

    def __init__(cls, name: str, bases: Any, namespace: Any) -> None:
        Meta.made.append(name)
        super().__init__(name, bases, namespace)


class Known(Measured, metaclass=Meta):
    """Has a metaclass."""


class Registered(Measured):
    """Is told of its subclasses."""

    known: ClassVar[list[str]] = []

    def __init_subclass__(cls, **options: Any) -> None:
        Registered.known.append(cls.__name__)


class Slotted(np.ndarray):
    """Has a slot, and nothing else."""

    __slots__ = ("tag",)
    tag: Any


class Frame(sa.SharedArray):
    """A user's kind of shared array."""


class Noted(np.ma.MaskedArray):  # type: ignore[type-arg]
    """A masked array with an attribute."""


def in_block(data: Any) -> Any:
    return sa.share(data)


def private(data: Any) -> Any:
    return np.array(data)


def tagged(kind: type[Any], data: Any) -> Any:
    made = data.view(kind)
    made.tag = "m"
    return made


def masked(data: Any, mask: Any, **options: Any) -> Any:
    return np.ma.array(data, mask=mask, copy=False, **options)


RECORD = [("a", "i4"), ("b", "f8")]

# Functions that make an array of each class, of `n` elements, in the memory that `hold` gives to data.
CASES: dict[str, Any] = {
    "masked": lambda n, hold: masked(hold(np.arange(float(n))), np.arange(n) > 3),
    "masked, no mask": lambda n, hold: np.ma.array(hold(np.arange(n)), copy=False),
    "masked, hard": lambda n, hold: masked(
        hold(np.arange(float(n))), np.arange(n) > 3, hard_mask=True, fill_value=-7
    ),
    "masked, with its mask in a block": lambda n, hold: masked(
        hold(np.arange(float(n))), hold(np.arange(n) > 3)
    ),
    "masked by fields": lambda n, hold: masked(hold(np.zeros(n, RECORD)), [(1, 0)] * n),
    "masked record": lambda n, hold: masked(hold(np.zeros(n, RECORD)), [(1, 0)] * n)[1],
    "masked without axes": lambda n, hold: masked(hold(np.arange(float(n))), np.arange(n) > 3)[4:5].reshape(
        ()
    ),
    "masked matrix": lambda n, hold: masked(hold(np.ones((2, n // 2))).view(np.matrix), np.eye(2, n // 2)),
    "masked, with a note": lambda n, hold: tagged(Noted, masked(hold(np.arange(n)), np.arange(n) > 3)),
    "masked objects": lambda n, hold: masked(
        np.array(["x", None] * (n // 2), object), np.arange(n) > 3, hard_mask=True
    ),
    "matrix": lambda n, hold: hold(np.ones((2, n // 2))).view(np.matrix),
    "recarray": lambda n, hold: hold(np.ones(n, RECORD)).view(np.recarray),
    "an attribute": lambda n, hold: tagged(Tagged, hold(np.arange(n))),
    "an attribute, dates": lambda n, hold: tagged(Tagged, hold(np.arange(n).astype("M8[25s]"))),
    "an attribute, objects": lambda n, hold: tagged(Tagged, np.array(["x", None] * (n // 2), object)),
    "its own reduction": lambda n, hold: tagged(Measured, hold(np.arange(n))),
    "its own reduction, reversed": lambda n, hold: tagged(Measured, hold(np.arange(n))[::-1]),
    "its own reduction, Fortran": lambda n, hold: tagged(
        Measured, hold(np.asfortranarray(np.arange(n).reshape(2, -1)))
    ),
    "a state in a state": lambda n, hold: tagged(Nested, hold(np.arange(n))),
    "made anew": lambda n, hold: rebuilt(hold(np.arange(n)), "m"),
    "a slot": lambda n, hold: tagged(Slotted, hold(np.arange(n))),
}


def facts(value: Any) -> list[Any]:
    """Return what must be the same after a journey."""
    plain = np.asarray(value)
    found = [type(value), value.dtype, value.shape, plain.tolist(), getattr(value, "tag", None)]
    if isinstance(value, np.ma.MaskedArray):
        mask: Any = None if value.mask is np.ma.nomask else value.mask.tolist()
        found += [mask, value.hardmask, value.fill_value.tolist() if value.dtype != object else None]
    return found


def facts_there(value: Any) -> list[Any]:
    return facts(value)


def identity(value: Any) -> Any:
    return value


def is_in_block(value: Any) -> bool:
    return mapping_of(value) is not None


def overwrite(value: Any) -> None:
    np.asarray(value)[...] = 0


def is_writable(value: Any) -> bool:
    return np.asarray(value).flags.writeable
