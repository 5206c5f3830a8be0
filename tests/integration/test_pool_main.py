"""One ``__main__`` for each worker: what functions, classes and globals of a script are to each other there.

The programs are scripts, since only their functions are the main module's. One program asks many things, so
that not each of them costs a start; a test looks at one answer.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from helpers import METHODS, ROOT, SUPPORT, environment
from needs import EACH_METHOD, few


def run(arguments: list[str], *, seconds: float = 60, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=environment(PYTHONPATH=str(ROOT)),
        **options,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def answers(text: str) -> dict[str, Any]:
    """Return what a program printed: lines of a name, a tab, and a value."""
    return {
        name: ast.literal_eval(value)
        for name, _, value in (line.partition("\t") for line in text.splitlines())
    }


PROGRAM = """
import functools
import pickle
import sys
from dataclasses import dataclass

import numpy as np
import sharedarray as sa

RATE = 1
LATE = None
memo = {}
names = ["a"]
table = np.zeros(3)
large = np.zeros(50_000)
settings = {"scale": 1}
count = 0
gone = 5
shared = sa.zeros(4)


def begin(value):
    global LATE, only_there, large
    LATE, only_there = value, value + 1
    memo["begun"] = True
    large = np.full(3, value)
    Model.begun = value


def late():
    return LATE


def there():
    return only_there


def through():
    return there() + late()


def read_large():
    return large.tolist()


def read_begun():
    return Model.begun


def counting():
    global count
    count += 1
    return count


def remember(key):
    memo[key] = key
    return sorted(map(str, memo))


def read():
    return RATE, settings["scale"], len(names), float(table.sum())


def helper():
    return RATE * 10


def call_helper():
    return helper()


def missing():
    return gone


def default(x, seen=[]):
    seen.append(x)
    return len(seen)


def counter():
    n = 0

    def inner():
        nonlocal n
        n += 1
        return n

    return inner


class Model:
    begun = None
    factor = 2
    made = 0

    def __init__(self):
        self.n = 0
        Model.made += 1

    def run(self):
        self.n += 1
        return self.n

    def __call__(self, x):
        return x * self.factor + LATE

    def late(self):
        return LATE

    @classmethod
    def other(cls):
        return cls.factor


class Node:
    kind = None

    def has_kind(self):
        return type(self) is Node.kind is self.kind


Node.kind = Node


class Child(Model):
    def __init__(self):
        super().__init__()
        self.parent = Model()


@dataclass
class Point:
    x: int


def same_class(point):
    return type(point) is Point and isinstance(point, Point) and pickle.loads(pickle.dumps(point)) == point


def make(x):
    return Point(x)


def apply(function, *args):
    return function(*args)


HANDLERS = {helper: "helper", Point: "Point"}


def handler(key):
    return HANDLERS[key]


def main_name():
    return __name__, sys.modules["__main__"].__dict__["main_name"] is main_name


def of_block(block):
    return block * 0 + LATE + RATE


def of_shared():
    return shared.tolist()


def holds_shared():
    return "shared" in sys.modules["__main__"].__dict__


def tell(name, *values):
    print(name, repr(list(values)), sep="\\t")


def ask(call, *args, **kwargs):
    try:
        return pool.submit(call, *args, **kwargs).result()
    except Exception as error:
        return type(error).__name__


with sa.Pool(1, sys.argv[1], initializer=begin, initargs=(42,)) as pool:
    tell("late", ask(late), ask(there), ask(through))
    given = functools.partial(apply, there)
    tell("passed", ask(apply, late), ask(apply, there), ask(given), ask(lambda: only_there))
    tell("mapped", *pool.map(lambda x: x + only_there, [0, 1]), *pool.map(Model(), [0, 1]))
    tell("unordered", *pool.imap_unordered(lambda x: LATE, [0]), *pool.starmap(apply, [(there,)]))
    tell("bound", ask(Model().late), ask(Model.other), ask(Child().late))
    reduced = pool.reduce_blocks(of_block, np.maximum, np.ones(1))
    tell("blocks", pool.map_blocks(of_block, np.ones(2)).tolist(), float(reduced[0]))
    tell("large", ask(read_large))
    tell("class attribute", ask(read_begun), ask(Model().__call__, 1), Model.begun)
    tell("counted", *[ask(counting) for _ in range(3)], count, *pool.map(lambda _: counting(), [0, 1]))
    tell("remembered", ask(remember, 1), ask(remember, 2), memo)
    tell("own default", *[ask(default, 1) for _ in range(3)])
    tell("nonlocal", *[ask(inner) for inner in [counter()] for _ in range(3)])
    tell("self", *[ask(model.run) for model in [Model()] for _ in range(3)])
    made = ask(make, 2)
    tell("one class", ask(same_class, Point(1)), type(made) is Point, made == Point(2))
    tell("a base class", *ask(lambda c: [isinstance(c, Model), isinstance(c.parent, Model)], Child()))
    tell("a class in itself", ask(Node().has_kind), ask(Node).kind is Node)
    tell("by identity", ask(handler, helper), ask(handler, Point))
    tell("a function as a result", ask(lambda: helper) is helper, ask(lambda: Point) is Point)
    tell("main", *ask(main_name))
    first = ask(of_shared), ask(holds_shared)
    mapped = [float(value) for value in pool.map(lambda _: shared[0], [0])]
    tell("shared", *first, mapped, ask(holds_shared))
    first = ask(read)
    RATE, settings["scale"], table[0] = 2, 7, 5
    names.append("b")
    tell("changed", first, ask(read))
    first = ask(call_helper), ask(Child().other)
    RATE = 3
    second = ask(call_helper)
    Model.factor = 9
    exec("def helper(): return -1")
    tell("redefined", first, second, ask(call_helper), ask(Child().other), ask(handler, Point))
    first = ask(missing)
    del gone
    tell("deleted", first, ask(missing))
    RATE = 10
    futures = []
    for RATE in range(40):
        futures.append((RATE, pool.submit(call_helper), pool.submit(lambda: RATE)))
    tell("as submitted", all(one.result() == -1 and two.result() == rate for rate, one, two in futures))
    RATE = 1
    early = pool.map(lambda x: (x, RATE), range(300))
    RATE = 2
    after = pool.map(lambda x: (x, RATE), range(300))
    tell("maps side by side", {rate for _, rate in early}, {rate for _, rate in after})
    Model.factor = 20
    model = ask(lambda model: setattr(Model, "factor", 1) or model, Model())
    tell("class of the caller", model.factor, Model.factor)
"""

RIGHT: dict[str, list[Any]] = {
    "late": [42, 43, 85],
    "passed": [42, 43, 43, 43],
    "mapped": [43, 44, 42, 44],
    "unordered": [42, 43],
    "bound": [42, 2, 42],
    "blocks": [[43.0, 43.0], 43.0],
    "large": [[42, 42, 42]],
    "class attribute": [42, 44, None],
    "counted": [1, 2, 3, 0, 4, 5],
    "remembered": [["1", "begun"], ["1", "2", "begun"], {}],
    "own default": [1, 1, 1],
    "nonlocal": [1, 1, 1],
    "self": [1, 1, 1],
    "one class": [True, True, True],
    "a base class": [True, True],
    "a class in itself": [True, True],
    "by identity": ["helper", "Point"],
    "a function as a result": [True, True],
    "main": ["__main__", True],
    "shared": [[0.0] * 4, False, [0.0], False],
    "changed": [(1, 1, 1, 0.0), (2, 7, 2, 5.0)],
    "redefined": [(20, 2), 30, -1, 9, "Point"],
    "deleted": [5, "NameError"],
    "as submitted": [True],
    "maps side by side": [{1}, {2}],
    "class of the caller": [20, 20],
}


@pytest.fixture(scope="module", params=EACH_METHOD)
def answered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = tmp_path_factory.mktemp("main") / "script.py"
    script.write_text(PROGRAM)
    return answers(run([str(script), request.param]))


@pytest.mark.parametrize("what", RIGHT)
def test_main_is_one_module(what: str, answered: dict[str, Any]) -> None:
    found = answered[what]
    if what == "shared" and found[1] is True:
        found = [*found[:1], False, found[2], False]  # a fork has the caller's own
    assert found == RIGHT[what]


SHORT = """
import sys
import sharedarray as sa

def begin(value):
    global DATA
    DATA = value

def work(i):
    return DATA[i]

with sa.Pool(1, initializer=begin, initargs=([10, 20],)) as pool:
    print(list(pool.map(work, range(2))), pool.submit(work, 1).result())
"""


@pytest.mark.parametrize("way", few(["-", "-c", "-m", "cProfile"]))
def test_from_wherever_the_main_module_comes(way, tmp_path):
    (tmp_path / "program.py").write_text(SHORT)
    arguments: dict[str, tuple[list[str], dict[str, Any]]] = {
        "-": (["-"], {"input": SHORT}),
        "-c": (["-c", SHORT], {}),
        "-m": (["-m", "program"], {}),
        "cProfile": (["-m", "cProfile", "-o", "profile", "program.py"], {}),  # runs it in another namespace
    }
    given, options = arguments[way]
    assert run(given, cwd=tmp_path, **options) == "[10, 20] 20\n"


def test_in_a_child_of_multiprocessing(tmp_path):
    """There the main module is called ``__mp_main__`` and was imported from the script."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import multiprocessing, sys
            import sharedarray as sa

            DATA = None

            def begin(value):
                global DATA
                DATA = value

            class Work:
                def __call__(self, i):
                    return DATA[i]

            def work(i):
                return Work()(i), Work()

            def child(queue):
                for method in sys.argv[1:]:
                    with sa.Pool(1, method, initializer=begin, initargs=([10, 20],)) as pool:
                        value, made = pool.submit(work, 1).result()
                        queue.put([value, type(made) is Work, *pool.map(Work(), range(2))])

            if __name__ == "__main__":
                context = multiprocessing.get_context("spawn")
                queue = context.Queue()
                process = context.Process(target=child, args=(queue,))
                process.start()
                for _ in sys.argv[1:]:
                    print(queue.get(timeout=50))
                process.join()
            """
        )
    )
    methods = [name for name in ("fork", "forkserver") if name in METHODS] or METHODS
    assert run([str(tmp_path / "script.py"), *methods]) == "[20, True, 10, 20]\n" * len(methods)


def test_joblibs_batches_see_what_the_initializer_set(tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import joblib
            import sharedarray

            def begin(value):
                global DATA
                DATA = value

            class Work:
                def __init__(self, i):
                    self.i = i

                def value(self):
                    return DATA[self.i]

            def work(each):
                return each.value() if isinstance(each, Work) else None

            with joblib.parallel_config(
                backend="sharedarray", n_jobs=2, initializer=begin, initargs=([10, 20],)
            ):
                print(joblib.Parallel()(joblib.delayed(work)(Work(i)) for i in range(2)))
            """
        )
    )
    assert run([str(tmp_path / "script.py")]) == "[10, 20]\n"


BY_VALUE = """
import functools
import importlib.util
import os
import sys
import types
from pathlib import Path

import sharedarray as sa

SOURCE = '''
import functools
import math

SCALE = 2
state = None


def begin(value):
    global state
    state = value


def scale(x):
    return x * SCALE, state


@functools.lru_cache
def half(x):
    return math.floor(x / SCALE)


class Thing:
    def __init__(self, x):
        self.x = x

    def scaled(self):
        return scale(self.x)[0]


def same(thing):
    return isinstance(thing, Thing), thing.scaled(), thing
'''


def by_path(name, folder, entered=True):
    Path(folder).mkdir()
    path = Path(folder) / f"{name}.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    if entered:
        sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def made(name):
    module = sys.modules[name] = types.ModuleType(name)
    exec(SOURCE, module.__dict__)
    return module


def left(name, folder):
    Path(folder).mkdir()
    (Path(folder) / f"{name}.py").write_text(SOURCE)
    sys.path.insert(0, os.path.abspath(folder))
    module = importlib.import_module(name)
    del sys.path[0]
    return module


def uses_module(x):
    return module.scale(x)


modules = [by_path("plugin", "elsewhere"), made("generated"), left("left_behind", "gone")]
for module in [*modules, by_path("json.tool", "other"), by_path("loose", "third", entered=False)]:
    with sa.Pool(1, sys.argv[1], initializer=module.begin, initargs=("ready",)) as pool:
        thing = module.Thing(3)
        *same, back = pool.submit(module.same, thing).result()
        print(pool.submit(module.scale, 1).result(), *pool.map(module.scale, [2]), same, end=" ")
        print(type(back) is module.Thing)
        print(pool.submit(module.half, 5).result(), pool.submit(uses_module, 3).result(), end=" ")
        module.SCALE = 10
        print(pool.submit(uses_module, 3).result(), pool.submit(lambda: module.SCALE).result())
"""


def test_modules_that_no_other_process_can_import_travel_by_value(first_method, tmp_path):
    (tmp_path / "script.py").write_text(BY_VALUE)
    right = "(2, 'ready') (4, 'ready') [True, 6] True\n2 (6, 'ready') (30, 'ready') 10\n"
    assert run([str(tmp_path / "script.py"), first_method], cwd=tmp_path) == 5 * right


def test_tests_in_importlib_mode_use_their_own_functions(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_own.py").write_text(
        textwrap.dedent(
            """
            import sharedarray as sa

            SCALE = 2

            def scale(x):
                return x * SCALE

            class Thing:
                x = 3

            def test_scale():
                with sa.Pool(1) as pool:
                    assert pool.submit(scale, 2).result() == 4
                    assert list(pool.map(scale, [2])) == [4]
                    assert type(pool.submit(Thing).result()) is Thing
            """
        )
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    tests = ["--import-mode=importlib", str(tmp_path / "tests")]
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    assert "1 passed" in run(arguments, cwd=elsewhere)


RELOADS = """
import importlib
import sys
from pathlib import Path

import sharedarray as sa

sys.dont_write_bytecode = True
folder = Path("added")
folder.mkdir()


def write(name, text):
    (folder / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def edit(word, *, both=True):
    write("lower", f"def word():\\n    return {word!r}\\n")
    if not both:
        return
    both = f"def both():\\n    return {word!r}, lower.word()\\n"
    write("upper", f"import lower\\n{both}class Kind:\\n    word = {word!r}\\n")


with sa.Pool(1, sys.argv[1]) as pool:
    pool.submit(abs, -1).result()
    edit("a")
    sys.path.insert(0, str(folder))  # after the start of the worker
    import lower, upper
    from upper import both

    thing = upper.Kind()

    def of_main():
        return both(), upper.both(), thing.word

    print(pool.submit(upper.both).result(), pool.submit(of_main).result())
    edit("bb")
    importlib.reload(upper)
    print(pool.submit(upper.both).result(), pool.submit(getattr, upper.Kind(), "word").result())
    importlib.reload(lower)
    print(*pool.map(lambda _: upper.both(), [0]), pool.submit(upper.both).result())
    from upper import both

    thing = upper.Kind()
    print(pool.submit(of_main).result())

edit("ccc")
importlib.reload(lower)
importlib.reload(upper)
with sa.Pool(1, sys.argv[1], preload=["upper"]) as pool:
    print(pool.submit(upper.both).result())
    edit("dddd", both=False)
    importlib.reload(lower)
    print(pool.submit(upper.both).result(), upper.both())
with sa.Pool(1, sys.argv[1], preload=["upper"]) as pool:
    print(pool.submit(upper.both).result())
"""


def test_workers_load_anew_what_the_caller_has_loaded_anew(first_method, tmp_path):
    (tmp_path / "script.py").write_text(RELOADS)
    assert run([str(tmp_path / "script.py"), first_method], cwd=tmp_path).splitlines() == [
        "('a', 'a') (('a', 'a'), ('a', 'a'), 'a')",
        "('bb', 'a') bb",
        "('bb', 'bb') ('bb', 'bb')",
        "(('bb', 'bb'), ('bb', 'bb'), 'bb')",
        "('ccc', 'ccc')",
        "('ccc', 'dddd') ('ccc', 'dddd')",
        "('ccc', 'dddd')",
    ]


DECORATED = """
import dataclasses
import enum
import functools
import sys
import threading
import types
import typing

import aliased
import library
import numpy as np
import sharedarray as sa
from collections.abc import Mapping


@typing.runtime_checkable
class HasArea(typing.Protocol):
    area: float


@functools.lru_cache(maxsize=8)
def cached(x):
    return x * x


@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


@functools.singledispatch
def kind_of(x):
    return "other"


@kind_of.register
def _(x: int):
    return "int"


class Methods:
    side = 3

    @functools.cached_property
    def area(self):
        return self.side**2

    @staticmethod
    @functools.lru_cache
    def square(x):
        return x * x

    @functools.lru_cache
    def times(self, x):
        return self.side * x

    @functools.singledispatchmethod
    def kind(self, x):
        return "other"

    @kind.register
    def _(self, x: int):
        return "int"

    def two(self, a, b):
        return a, b

    one = functools.partialmethod(two, 1)
    replaced = lambda self: self.side


def with_area():
    made = Methods()
    made.area
    return made


@np.vectorize
def vectorized(x):
    return x + 1


def wrapped_by(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner


@wrapped_by
def wrapped(x):
    return x * x


class Slots:
    __slots__ = "a", "__b"

    def __init__(self):
        self.a, self.__b = 1, 2

    def both(self):
        return self.a, self.__b


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: int


class Pair(typing.NamedTuple):
    a: int
    b: int


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = 3


class Place(bytes, enum.Enum):
    X = 2

    def __new__(cls, value):
        made = bytes.__new__(cls, [value])
        made._value_ = value
        return made


class Planet(enum.Enum):
    EARTH = 6, 3

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius

    @property
    def density(self):
        return self.mass / self.radius


class Box(typing.Generic[typing.TypeVar("T")]):
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


class Outer:
    @dataclasses.dataclass
    class Inner:
        x: int


Made = dataclasses.make_dataclass("Made", ["x"])  # of the module `types` before Python 3.12
Local = library.local()


# Objects that pickle by the name of a global alone.
NAMED = '''
import typing


class Sentinel:
    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return self.name


class Slotted:
    __slots__ = ()

    def __eq__(self, other):
        return isinstance(other, Slotted)

    def __reduce__(self):
        return "SLOTTED"


Number = typing.NewType("Number", int)
MISSING, SLOTTED = Sentinel("MISSING"), Slotted()
Sentinel.inner = Sentinel("Sentinel.inner")
T, P, Ts = typing.TypeVar("T", int, str), typing.ParamSpec("P"), typing.TypeVarTuple("Ts")


class Holds(typing.Generic[T]):
    def value(self, x: T, *_: typing.Unpack[Ts]) -> T:
        return x


def same(x, y=MISSING):
    return x is MISSING, y is MISSING, x is SLOTTED, x is Sentinel.inner


def typed(x: Number, f: typing.Callable[P, int] = abs) -> Number:
    return Number(f(x)), typed.__annotations__["x"] is Number, T.__constraints__ == (int, str)


def objects():
    return [Number, MISSING, SLOTTED, Sentinel.inner, T, P, Ts]
'''
exec(NAMED)
unfound = sys.modules["unfound"] = types.ModuleType("unfound")
exec(NAMED, unfound.__dict__)
nowhere = types.ModuleType("nowhere")
exec(NAMED, nowhere.__dict__)


def by_name(of):
    objects, came = of.objects(), ask(of.objects)
    yield [one is other for one, other in zip(objects, came)]
    yield [one is other for one, other in zip(objects, ask(lambda x: x, objects))]
    yield [ask(of.same, x) for x in objects[1:4]] + list(pool.map(of.same, objects[1:4]))
    yield ask(of.typed, -2), ask(of.Number, 3), ask(of.Holds().value, 4), ask(lambda x: x.name, of.MISSING)


ufunc = np.frompyfunc(lambda x: x + 1, 1, 1)
lock = threading.Lock()
factor = 1


@functools.cache
def of_global(x):
    return x * factor



def uses_ufunc():
    return ufunc(1)


def uses_lock():
    with lock:
        return 1


def tell(name, *values):
    print(name, repr(list(values)), sep="\\t")


def ask(call, *args):
    try:
        return pool.submit(call, *args).result()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


with sa.Pool(1, initializer=functools.partial(library.begin, 7)) as pool:
    blocks = pool.map_blocks(lambda block: block * cached(2), np.ones(1))
    tell("cached", ask(cached, 3), *pool.map(cached, [2, 3]), float(blocks[0]))
    size = ask(lambda: cached.cache_parameters()["maxsize"])
    tell("its cache stays", ask(lambda: cached.cache_info().hits > 0), size)
    first = ask(of_global, 3)
    factor = 2
    tell("emptied by a change", first, ask(of_global, 3))
    tell("as a result", ask(lambda: cached)(5), ask(lambda: functools.lru_cache(lambda x: x))(4))
    part = functools.partial(fibonacci, 10)
    tell("recursive", ask(fibonacci, 30), ask(part), ask(lambda f: f(9), fibonacci))
    tell("dispatch", ask(kind_of, 1), ask(kind_of, "a"), *pool.map(kind_of, [1, "a"]))
    kind_of.register(str, lambda x: "str")
    tell("registered later", ask(kind_of, 1), ask(kind_of, "a"), ask(kind_of, 1.0))
    read = lambda m: m.area
    tell("cached property", ask(read, Methods()), ask(read, with_area()), ask(with_area).area)
    methods = Methods()
    kinds = ask(methods.kind, 1), ask(methods.kind, "a")
    tell("methods", ask(methods.square, 3), ask(methods.times, 3), *kinds)
    tell("more methods", ask(methods.one, 2), ask(methods.replaced))
    tell("vectorize", ask(vectorized, [1, 2]).tolist(), ask(wrapped, 3))
    tell("slots", ask(Slots).both(), ask(lambda s: s.both(), Slots()), ask(Frozen, 1) == Frozen(1))
    pair, box = ask(Pair, 1, 2), ask(Box, 3)
    both = ask(lambda p: p.a + p.b, pair)
    tell("kinds of classes", tuple(pair), type(pair) is Pair, both, box.x, type(box) is Box)
    red = ask(lambda colour: colour, Colour.RED)
    tell("an enumeration", red is Colour.RED, ask(lambda colour: colour is Colour.RED, red))
    tell("its members' attributes", ask(lambda: (Planet.EARTH.density, Planet(Planet.EARTH.value).mass)))
    names = ask(lambda: (Colour["CRIMSON"] is Colour.CRIMSON is Colour.RED, Access.BOTH.name, Access["BOTH"]))
    tell("its aliases", *names[:2], names[2] is Access.BOTH)
    tell("its members' data", ask(lambda: (bytes(Place.X), Place.X.value, Place(2) is Place.X)))
    tell("names of classes", ask(lambda: repr(Outer.Inner(1))), ask(Outer.Inner, 2) == Outer.Inner(2))
    local = ask(Local(1).next)
    read = lambda x: (type(x).__qualname__, x.step)
    tell("classes made by importable modules", ask(Made, 1) == Made(1), local.x, type(local) is Local)
    first = ask(read, local)
    Local.step = 5
    tell("their attributes", first, ask(read, local), ask(lambda x: x.next().x, local))
    tell("protocols", ask(lambda x: (isinstance(x, Mapping), isinstance(x, HasArea)), with_area()))
    tell("another name of a module", ask(lambda thing: id(type(thing)) == thing.made_by, aliased.Thing()))
    tell("lambdas of importable modules", *library.begun(pool), library.STATE)
    spaces = [library.space(number) for number in range(40)]  # more than a worker keeps
    first, other = spaces[:2]
    tell("namespaces of exec", ask(first["set"], 9), ask(first["get"]), ask(other["get"]), first["K"])
    first["K"] = 5
    del other["K"]
    tell("their changes", ask(first["get"]), ask(other["get"])[:9], ask(first["Reads"]().get))
    sums = [ask(lambda get: get() + 1, space["get"]) for space in spaces[2:]]
    called = ask(lambda calls: [call() for call in calls], [space["get"] for space in spaces[2:]])
    tell("many of them", sums == list(range(3, 41)), called == list(range(2, 40)))
    tell("without names", ask(eval("lambda x: x * y", {"y": 3}), 2), ask(first["get"]))
    tell("they are few", ask(library.kept) <= 32)
    tell("by name", *by_name(sys.modules["__main__"]))
    tell("by name in a module that is not found", *by_name(unfound))
    tell("by name in a namespace", *by_name(nowhere))
    tell("no ufunc", ask(uses_ufunc))
    tell("no lock", ask(uses_lock))
"""

BY_NAME = [
    [True] * 7,
    [True] * 7,
    [(True, True, False, False), (False, True, True, False), (False, True, False, True)] * 2,
    ((2, True, True), 3, 4, "MISSING"),
]
RIGHT_DECORATED: dict[str, list[Any]] = {
    "cached": [9, 4, 9, 4.0],
    "its cache stays": [True, 8],
    "emptied by a change": [3, 6],
    "as a result": [25, 4],
    "recursive": [832040, 55, 34],
    "dispatch": ["int", "other", "int", "other"],
    "registered later": ["int", "str", "other"],
    "cached property": [9, 9, 9],
    "methods": [9, 9, "int", "other"],
    "more methods": [(1, 2), 3],
    "vectorize": [[2, 3], 9],
    "slots": [(1, 2), (1, 2), True],
    "kinds of classes": [(1, 2), True, 3, 3, True],
    "an enumeration": [True, True],
    "its members' attributes": [(2.0, 6)],
    "its aliases": [True, "BOTH", True],
    "its members' data": [(b"\x02", 2, True)],
    "names of classes": ["Outer.Inner(x=1)", True],
    "classes made by importable modules": [True, 2, True],
    "their attributes": [("local.<locals>.Local", 1), ("local.<locals>.Local", 5), 7],
    "protocols": [(False, True)],
    "another name of a module": [True],
    "lambdas of importable modules": [(7, 1), (7, 1), (7, 2), None],
    "namespaces of exec": [None, 9, 1, 0],
    "their changes": [5, "NameError", 5],
    "many of them": [True, True],
    "without names": [6, 5],
    "they are few": [True],
    "by name": BY_NAME,
    "by name in a module that is not found": BY_NAME,
    "by name in a namespace": BY_NAME,
}

# As `collections` does from Python 3.13 on.
ALIASED = """
import sys
from aliased import _given
sys.modules["aliased.given"] = _given
from aliased.given import Thing
Thing.made_by = id(Thing)  # a copy would have the number of the original
"""

LIBRARY = """
from sharedarray._functions import received


def space(number):
    made = {"__name__": "__main__", "K": number}
    exec(SOURCE, made)
    return made


SOURCE = '''
def get():
    return K


def set(value):
    global K
    K = value


class Reads:
    def get(self):
        return K
'''


STATE, OTHER = None, 1


def begin(value):
    global STATE
    STATE = value


def begun(pool):
    global OTHER
    results = [pool.submit(lambda: (STATE, OTHER)).result() for _ in range(2)]
    OTHER = 2
    return *results, pool.submit(lambda: (STATE, OTHER)).result()


def kept():
    return len(received.arrived.modules)


def local():
    class Local:
        step = 1

        def __init__(self, x):
            self.x = x

        def next(self):
            return Local(self.x + self.step)

    return Local
"""


@pytest.fixture(scope="module")
def decorated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    script = tmp_path_factory.mktemp("decorated") / "script.py"
    script.with_name("library.py").write_text(LIBRARY)
    package = script.with_name("aliased")
    package.mkdir()
    (package / "__init__.py").write_text(ALIASED)
    (package / "_given.py").write_text("__name__ = 'aliased.given'\n\n\nclass Thing:\n    pass\n")
    script.write_text(DECORATED)
    return answers(run([str(script)]))


@pytest.mark.parametrize("what", RIGHT_DECORATED)
def test_decorated_functions(what: str, decorated: dict[str, Any]) -> None:
    assert decorated[what] == RIGHT_DECORATED[what]


@pytest.mark.parametrize("name", ["ufunc", "lock"])
def test_what_cannot_be_sent_fails_in_the_caller_by_its_name(name: str, decorated: dict[str, Any]) -> None:
    (text,) = decorated[f"no {name}"]
    assert text.startswith(f"NotPicklableError: the call of uses_{name} cannot be sent to a worker")
    if name == "lock":
        assert "a lock of threads as the global variable 'lock', which uses_lock uses" in text
    else:
        assert f"the global {name!r} of __main__, a {name}" in text


def test_functions_of_numba(tmp_path):
    pytest.importorskip("numba")
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import numba
            import sharedarray as sa

            FACTOR = 2

            @numba.njit
            def times(x):
                return x * FACTOR

            @numba.njit
            def fibonacci(n):
                return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

            with sa.Pool(1) as pool:
                print(pool.submit(times, 3).result(), *pool.map(times, [1, 2]), end=" ")
                print(pool.submit(fibonacci, 10).result())
            """
        )
    )
    assert run([str(tmp_path / "script.py")]) == "6 2 4 55\n"


@pytest.mark.parametrize(
    ("first", "count", "steps"), [(0, 3, 60), pytest.param(3, 12, 2000, marks=pytest.mark.slow)]
)
def test_no_call_sees_what_was_changed_after_its_submit(first, count, steps, method):
    program = [str(SUPPORT / "storm_of_changes.py"), first, count, steps, method]
    assert run(list(map(str, program)), seconds=900) == "as at the submit\n"


def test_the_cache_of_functions_keeps_none_alive(tmp_path):
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            import gc
            import weakref
            import sharedarray as sa

            FACTOR = 2

            def make():
                class Local:
                    def double(self, x):
                        return x * FACTOR
                return Local, lambda x: Local().double(x)

            def itself(x):
                return x and itself(x - 1)

            with sa.Pool(1) as pool:
                local, function = make()
                assert [pool.submit(function, n).result() for n in range(3)] == [0, 2, 4]
                assert [pool.submit(itself, n).result() for n in range(3)] == [0, 0, 0]
                alive = list(map(weakref.ref, (local, function, itself)))
                del local, function, itself
                pool.submit(abs, -1).result()
                gc.collect()
                print([each() for each in alive])
            """
        )
    )
    assert run([str(tmp_path / "script.py")]) == "[None, None, None]\n"


CELLS = [
    """
import sharedarray as sa

%load_ext autoreload
%autoreload 2

def begin(value):
    global DATA
    DATA = value

class Work:
    factor = 1

    def __call__(self, i):
        return DATA[i] * self.factor

def work(i):
    return Work()(i), Work()
""",
    "%%writefile beside.py\ndef word():\n    return 'old'\n",
    """
import beside
from beside import word

pool = sa.Pool(1, initializer=begin, initargs=([10, 20],))
value, made = pool.submit(work, 1).result()
print(value, type(made) is Work, *pool.map(lambda i: DATA[i], range(2)), pool.submit(word).result())
""",
    "%%writefile beside.py\ndef word():\n    return 'newer'\n",
    """
class Work:
    def __call__(self, i):
        return -DATA[i]
""",
    "print(pool.submit(work, 1).result()[0], pool.submit(beside.word).result(), pool.submit(word).result())",
    "pool.shutdown()",
]


NOTEBOOK = """
import json, sys
import nbformat
from nbclient import NotebookClient

cells = [nbformat.v4.new_code_cell(text) for text in json.load(sys.stdin)]
book = nbformat.v4.new_notebook(cells=cells)
NotebookClient(book, timeout=60, kernel_name="python3").execute()
print([cell.outputs[-1].get("text") if cell.outputs else "" for cell in book.cells])
"""


@pytest.mark.slow
def test_in_a_notebook_with_autoreload(tmp_path):
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=json.dumps(CELLS),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT), IPYTHONDIR=str(tmp_path), JUPYTER_PREFER_ENV_PATH="1"),
    )
    printed = ast.literal_eval(done.stdout)
    assert printed[2] == "20 True 10 20 old\n"
    assert printed[5] == "-20 newer newer\n"
