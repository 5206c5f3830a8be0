"""Objects that break where a worker, or the caller, handles them. Workers import this, without pytest."""

from __future__ import annotations

import builtins
import sys

import sharedarray as sa


def refuse(*given):
    raise ModuleNotFoundError("No module named 'only_here'")


def break_builtin(name):
    setattr(builtins, name, refuse)


def leave(*given):
    sys.exit(7)


def recurse(*given):
    return recurse(*given)


def interrupt(*given):
    raise KeyboardInterrupt("raised by a task")


class Unloadable:
    """A callable that pickles, and of which the loading ends otherwise than by an object."""

    def __init__(self, loader):
        self.loader = loader

    def __call__(self, *given):
        return given[0]

    def __reduce__(self):
        return self.loader, ()


class Silent(Exception):
    def __str__(self):
        raise ValueError("no text")

    __repr__ = __str__


class Quitting(Exception):
    """Ends the process that shows it."""

    def __str__(self):  # noqa: PLE0307
        sys.exit(3)

    __repr__ = __str__


class Closed(Exception):
    """Its constructor does not take its args."""

    def __init__(self, what, why):
        super().__init__(what)


class QuitsPickled(Exception):
    def __reduce__(self):
        sys.exit(4)


class SilentPickled(Exception):
    def __reduce__(self):
        raise Silent


class QuitsLoaded(Exception):
    def __init__(self):
        super().__init__()
        self.state = 1

    def __setstate__(self, state):
        sys.exit(5)


class Frozen(Exception):
    def __setattr__(self, name, value):
        raise AttributeError(f"cannot assign to {name}")


class Annotated(Exception):
    __notes__ = 7


class Causeless(Exception):
    @property
    def __cause__(self):
        raise RuntimeError("no cause")

    @property
    def __traceback__(self):
        raise RuntimeError("no traceback")


class Holding(Exception):
    """Refers to shared memory, and is its own cause's cause."""

    def __init__(self, array):
        super().__init__(array)


def raise_silent(*given):
    raise Silent


def raise_quitting(*given):
    raise Quitting


def raise_closed(*given):
    raise Closed(1, 2)


def raise_quits_pickled(*given):
    raise QuitsPickled


def raise_silent_pickled(*given):
    raise SilentPickled


def raise_quits_loaded(*given):
    raise QuitsLoaded


def raise_frozen(*given):
    raise Frozen("as it is")


def raise_annotated(*given):
    raise Annotated


def raise_causeless(*given):
    raise Causeless


def raise_in_circles(*given):
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def raise_holding(*given):
    one, other = Holding(sa.ones(3)), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    raise one


def raise_groups(*given):
    error = ValueError("within")
    for _ in range(100):
        error = ExceptionGroup("outer", [error, Silent()])
    raise error


def raise_chain(*given):
    error = ValueError("first")
    for number in range(5000):
        later = ValueError(number)
        later.__cause__ = error
        error = later
    raise error


class Meta(type):  # noqa: PLW1641  (its classes cannot be hashed)
    def __eq__(self, other):
        raise ValueError("not to be compared")


class Unhashable(metaclass=Meta):
    pass


class ResultQuits:
    def __reduce__(self):
        sys.exit(1)


class ResultSilent:
    def __reduce__(self):
        raise Silent


class ResultQuitting:
    def __reduce__(self):
        raise Quitting


class Endless:
    def __reduce__(self):
        return Endless, (Endless(),)


class LoadsNowhere:
    def __reduce__(self):
        return refuse, ()


class LoadingQuits:
    def __reduce__(self):
        return leave, ()


class LoadingSilent:
    def __reduce__(self):
        return raise_silent, ()


def return_unhashable(*given):
    return Unhashable()


def return_quits(*given):
    return ResultQuits()


def return_silent(*given):
    return ResultSilent()


def return_quitting(*given):
    return ResultQuitting()


def return_endless(*given):
    return Endless()


def return_loads_nowhere(*given):
    return LoadsNowhere()


def return_loading_quits(*given):
    return LoadingQuits()


def return_loading_silent(*given):
    return LoadingSilent()


class Table(dict):
    """Refuses to be looked through."""

    def values(self):
        raise ValueError("not to be looked through")


def return_table(*given):
    return Table(array=sa.ones(3))


def return_digits(*given):
    return 10**50_000


class Sometimes:
    """Calls a function for the third item only."""

    def __init__(self, function):
        self.function = function

    def __call__(self, item):
        return self.function(item) if item == 2 else item


awaited = None  # a future, in the process of the pool


def await_it():
    return awaited.result() if awaited else None


class Waiting:
    """Waits for a future as it is loaded."""

    def __reduce__(self):
        return await_it, ()


def return_waiting():
    return Waiting()


at_end = None  # what a finalizer calls, in the process of the pool


class Finalized:
    def __del__(self):
        if at_end is not None:
            at_end()

    def __radd__(self, other):
        return other
