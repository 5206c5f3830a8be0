"""Objects of a script that are known by their identity, and classes that record themselves.

A program of its own asks each worker as often as the caller, so that what was sent once is met again.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import Any

import pytest
from helpers import ANSWER, ROOT, environment
from needs import EACH_METHOD

LIBRARY = """
SEEN, KINDS = [], {}


class Plugin:
    def __init_subclass__(cls, /, kind=None, **more):
        super().__init_subclass__(**more)
        cls.kind = kind
        KINDS[kind] = cls
        SEEN.append((cls.__name__, kind))


class Strict:
    def __init_subclass__(cls, /, *, label):
        cls.label = label


class Options(type):
    def __new__(meta, name, bases, namespace, *, option):
        made = super().__new__(meta, name, bases, namespace)
        made.option = option
        SEEN.append((name, option))
        return made

    def __init__(cls, name, bases, namespace, *, option):
        super().__init__(name, bases, namespace)
"""

PROGRAM = """
import abc
import contextlib
import contextvars
import random
import sys
import threading
import typing
import weakref

import numpy as np
import sharedarray as sa

import library

MISSING = object()


class Nothing:
    pass


NOTHING = Nothing()


class Keyed:
    known = {}

    def __new__(cls, key="other"):
        if key not in cls.known:
            cls.known[key] = made = super().__new__(cls)
            made.key, made.count = key, 0
        return cls.known[key]


class Arguments:
    known = {}

    def __new__(cls, key):
        if key not in cls.known:
            cls.known[key] = made = super().__new__(cls)
            made.key, made.count = key, 0
        return cls.known[key]

    def __getnewargs__(self):
        return (self.key,)


class Reduces:
    known = {}

    def __new__(cls, key):
        if key not in cls.known:
            cls.known[key] = made = super().__new__(cls)
            made.key, made.count = key, 0
        return cls.known[key]

    def __reduce__(self):
        return Reduces, (self.key,)


class Slotted:
    __slots__ = "key", "count"
    known = []

    def __new__(cls, key):
        for each in cls.known:
            if each.key == key:
                return each
        made = super().__new__(cls)
        made.key, made.count = key, 0
        cls.known.append(made)
        return made


class Calls(type):
    made = {}

    def __call__(cls, key):
        if (cls, key) not in Calls.made:
            Calls.made[cls, key] = super().__call__(key)
        return Calls.made[cls, key]


class ByMeta(metaclass=Calls):
    def __init__(self, key):
        self.key, self.count = key, 0


table = {}


class InGlobal:
    def __new__(cls, key):
        if key not in table:
            table[key] = made = super().__new__(cls)
            made.key, made.count = key, 0
        return table[key]


class Weakly:
    known = weakref.WeakValueDictionary()

    def __new__(cls, key):
        made = cls.known.get(key)
        if made is None:
            made = cls.known[key] = super().__new__(cls)
            made.key, made.count = key, 0
        return made

    def __reduce__(self):
        return Weakly, (self.key,)


class Single:
    one = None

    def __new__(cls):
        if cls.one is None:
            cls.one = super().__new__(cls)
            cls.one.count = 0
        return cls.one


KINDS = [Keyed, Arguments, Reduces, Slotted, ByMeta, InGlobal, Weakly]
FIRST, SECOND = [kind("a") for kind in KINDS], [kind("b") for kind in KINDS]
SINGLE = Single()


def is_one(kind, x, y, number):
    return x is kind("a") is FIRST[number], y is kind("b") is SECOND[number], x.key + y.key


def default(x=FIRST[0], y=SECOND[1], missing=MISSING, nothing=NOTHING):
    return x is Keyed("a"), y is Arguments("b"), missing is MISSING, nothing is NOTHING


def default_too(missing=MISSING, nothing=NOTHING):
    return missing is MISSING, nothing is NOTHING


def is_nothing(x, y):
    return x is MISSING, y is NOTHING


def count(x):
    x.count += 1
    return x.count


def count_globals():
    FIRST[0].count += 1
    SINGLE.count += 1
    return Keyed("a").count, Single().count, Single() is SINGLE, sorted(Keyed.known)


def read():
    return Keyed("a").count


LOG, NAMES = [], {}


class Records:
    def __init_subclass__(cls, /, *, name, **more):
        super().__init_subclass__(**more)
        LOG.append(name)
        NAMES[name] = cls


class Recorded(Records, name="one"):
    pass


class Again(Recorded, name="two"):
    pass


T = typing.TypeVar("T")


class Generic(typing.Generic[T], Records, name="generic"):
    pass


class Abstract(abc.ABC):
    made = []

    def __init_subclass__(cls, tag="none"):
        Abstract.made.append((cls.__name__, tag))

    @abc.abstractmethod
    def method(self): ...


class Concrete(Abstract, tag="concrete"):
    def method(self):
        return Abstract.made


class Meta(type):
    seen = []

    def __new__(meta, name, bases, namespace, **options):
        made = super().__new__(meta, name, bases, namespace)
        Meta.seen.append((name, options))
        return made

    def __init__(cls, name, bases, namespace, **options):
        super().__init__(name, bases, namespace)


class WithMeta(metaclass=Meta, x=1):
    pass


LABEL = "label"


class Plugged(library.Plugin, kind="plugged"):
    pass


class Both(Records, library.Plugin, name="both", kind="both"):
    pass


class Strict(library.Strict, label=LABEL):
    pass


class Options(metaclass=library.Options, option=3):
    pass


def recorded(x):
    return LOG, sorted(NAMES), NAMES["one"] is Recorded, type(x) is Again


def plugged(x):
    return library.SEEN.count((type(x).__name__, x.kind)), library.KINDS[x.kind] is type(x), x.kind


def of_library():
    return Strict.label, Options.option, library.SEEN.count(("Options", 3))


variable = contextvars.ContextVar("variable", default="default")
local = threading.local()
local.x = 5


@contextlib.contextmanager
def having(value):
    token = variable.set(value)
    try:
        yield value
    finally:
        variable.reset(token)


@having("decorated")
def decorated():
    return variable.get()


def in_context():
    with having("within"):
        return variable.get()


def set_variable():
    variable.set("set")
    local.x += 1
    return local.x


def get_variable():
    return variable.get()


class Left:
    side = "left"


class Right:
    side = "right"


class Child(Left):
    pass


def tell(name, *values):
    print(name, repr(list(values)), sep="\\t")


def ask(call, *args):
    try:
        return pool.submit(call, *args).result()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


with sa.Pool(1, sys.argv[1]) as pool:
    for number, kind in enumerate(KINDS):
        one, two = FIRST[number], SECOND[number]
        asked = [ask(is_one, kind, one, two, number) for _ in range(2)]
        mapped = [each is two for each in pool.map(lambda x: x, [two])]
        tell(kind.__name__, *asked, ask(lambda: one) is one, mapped)
    tell("defaults", ask(default), ask(default), ask(default_too), ask(default_too))
    tell("without content", ask(is_nothing, MISSING, NOTHING), ask(lambda: MISSING) is MISSING)
    tell("state", ask(count, FIRST[4]), ask(count, FIRST[4]), FIRST[4].count)
    tell("state of globals", ask(count_globals), ask(count_globals))
    FIRST[0].count = 7
    tell("changed", ask(read), ask(count, FIRST[0]), ask(read))
    third = Keyed("c")
    tell("made later", ask(lambda: (Keyed("c") is third, sorted(Keyed.known))))
    made = ask(lambda: Keyed("d"))
    tell("made there", made.key, sorted(Keyed.known))
    tell("recorded", ask(recorded, Again()), ask(recorded, Again()))
    tell("generic", ask(lambda: Generic.__parameters__ == (T,)))
    tell("abstract", ask(lambda: Concrete().method()))
    tell("metaclass", ask(lambda: (Meta.seen, type(WithMeta) is Meta)))
    tell("importable", ask(plugged, Plugged()), ask(plugged, Both()), ask(plugged, Both()))
    first = ask(lambda: Child().side)
    Child.__bases__ = (Right,)
    tell("other bases", first, ask(lambda: Child().side))
    drawn = [ask(random.random) for _ in range(5)], list(pool.map(random.gauss, [0] * 5, [1] * 5))
    drawn += [ask(np.random.rand) for _ in range(5)], list(pool.map(np.random.normal, [0] * 5))
    tell("random numbers", *[len(set(each)) for each in drawn])
    functions = decorated, in_context, set_variable, get_variable, set_variable
    tell("variables", *[ask(each) for each in functions])
    tell("importable, keywords", ask(of_library))
"""

ONE = [(True, True, "ab"), (True, True, "ab"), True, [True]]
NAMES = ["one", "two", "generic", "both"]
RIGHT: dict[str, list[Any]] = {
    **dict.fromkeys(("Keyed", "Arguments", "Reduces", "Slotted", "ByMeta", "InGlobal", "Weakly"), ONE),
    "defaults": [(True,) * 4] * 2 + [(True, True)] * 2,
    "without content": [(True, True), True],
    "state": [1, 2, 0],
    "state of globals": [(1, 1, True, ["a", "b"]), (2, 2, True, ["a", "b"])],
    "changed": [7, 8, 8],
    "made later": [(True, ["a", "b", "c"])],
    "made there": ["d", ["a", "b", "c"]],
    "recorded": [(NAMES, sorted(NAMES), True, True)] * 2,
    "generic": [True],
    "abstract": [[("Concrete", "concrete")]],
    "metaclass": [([("WithMeta", {"x": 1})], True)],
    "importable": [(1, True, "plugged"), (1, True, "both"), (1, True, "both")],
    "other bases": ["left", "right"],
    "random numbers": [5, 5, 5, 5],
    "variables": ["decorated", "within", 6, "set", 7],
    "importable, keywords": [("label", 3, 1)],
}


@pytest.fixture(scope="module", params=EACH_METHOD)
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = tmp_path_factory.mktemp("identity") / "script.py"
    script.write_text(PROGRAM)
    script.with_name("library.py").write_text(LIBRARY)
    done = subprocess.run(
        [sys.executable, str(script), request.param],
        capture_output=True,
        text=True,
        timeout=2 * ANSWER,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert (done.stderr, done.returncode) == ("", 0)
    lines = [line.partition("\t") for line in done.stdout.splitlines()]
    return {name: ast.literal_eval(value) for name, _, value in lines}


@pytest.mark.parametrize("what", RIGHT)
def test_the_same_as_in_one_module(what: str, answered: dict[str, Any]) -> None:
    assert answered[what] == RIGHT[what]
