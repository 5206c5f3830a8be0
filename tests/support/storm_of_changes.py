"""A program that changes what functions depend on, at random, between calls that it does not wait for.

Each call returns all that it reads, typed. It must be what the same call returns here at the moment of its
submit, whatever was queued, moved, or sent before. The functions are those of a main module, so this is a
program.
"""

import functools
import random
import sys

import numpy as np

import sharedarray as sa

NUMBER = 0
NESTED = (1, (2, 3))
TEXT = "a"
TABLE = {"a": 1, "b": [1, 2]}
LIST = [1, 2]
SET = {1, 2}
ARRAY = np.arange(3)
LONG = list(range(300))


class Base:
    value = 0

    def method(self):
        return "base", self.value, NUMBER


class Child(Base):
    items = [1]  # noqa: RUF012  (changed in place)

    @staticmethod
    def static():
        return "static", NUMBER

    @property
    def last(self):
        return self.items[-1]


class Holder:
    def __init__(self):
        self.x = 0
        self.sub = [0]

    def read(self):
        return self.x, list(self.sub), Base().method()


HOLDER = Holder()
REGISTRY = {"base": Base, "holder": HOLDER}


def leaf():
    return "leaf", NUMBER


def middle():
    return "middle", leaf(), TEXT


def top(a=0, *, key=0):
    return "top", middle(), NESTED, a, key, TABLE["a"], list(TABLE["b"])


def containers():
    return list(LIST), sorted(SET), dict(TABLE), ARRAY.tolist(), sum(LONG)


def classes():
    return Base().method(), Child().method(), Child.static(), Child().last, list(Child.items)


def registered():
    return REGISTRY["base"]().method(), REGISTRY["holder"].read(), REGISTRY["base"] is Base


def recursive(n=3):
    return NUMBER, n and recursive(n - 1)


def even(n):
    return NUMBER if n == 0 else odd(n - 1)


def odd(n):
    return ("odd", NUMBER) if n == 0 else even(n - 1)


def missing():
    try:
        return MAYBE
    except NameError:
        return "missing"


def decorate(function):
    @functools.wraps(function)
    def wrapper(*args):
        return "wrapped", NUMBER, function(*args)

    return wrapper


@decorate
def decorated():
    return "inner", TEXT


@functools.lru_cache(maxsize=1)
def cached(key):
    return "cached", key


def call_cached():
    return cached(NUMBER)


def closure(n):
    box = [n]

    def inner():
        return n, box[0], NUMBER

    def change(value):
        nonlocal n
        n = value
        box[0] = value

    return inner, change


def plain_closure(n):
    def inner():
        return n, NUMBER

    def change(value):
        nonlocal n
        n = value

    return inner, change


CLOSED, CHANGE_CLOSED = closure(1)
PLAIN, CHANGE_PLAIN = plain_closure(1)


def default(seen=[]):  # noqa: B006  (that is what is tested)
    return list(seen)


def nested():
    def inner():
        return NUMBER, [lambda: TEXT][0]()

    return inner()


def given(value):
    return value, NUMBER


def apply(function):
    return "applied", NUMBER, function()


def in_place(of, value):
    """Add to a list, but not for ever."""
    if len(of) < 90:
        of.append(value)
    else:
        of.clear()
        of.append(0)


def define(code):
    exec(code, globals())


def toggle():
    global MAYBE
    if "MAYBE" in globals():
        del MAYBE
    else:
        MAYBE = NUMBER


def assign(**values):
    globals().update(values)


# Values that are equal, of different types.
ALIKE = True, 1, 1.0, "1", None, b"1"
CHANGES = [
    lambda n, r: assign(NUMBER=n),
    lambda n, r: assign(NUMBER=r.choice(ALIKE)),
    lambda n, r: assign(NESTED=(n, (n,))),
    lambda n, r: assign(TEXT=str(n)),
    lambda n, r: TABLE.update(a=n),
    lambda n, r: TABLE.update(a=r.choice(ALIKE[:3])),
    lambda n, r: in_place(TABLE["b"], n % 7),
    lambda n, r: assign(TABLE={"a": n, "b": [n]}),
    lambda n, r: in_place(LIST, n),
    lambda n, r: LIST.__setitem__(slice(None), [n]),
    lambda n, r: SET.add(n % 50),
    lambda n, r: ARRAY.__setitem__(n % 3, n),
    lambda n, r: assign(ARRAY=np.arange(3 + n % 5)),
    lambda n, r: LONG.__setitem__(n % 300, n),
    lambda n, r: setattr(Base, "value", n),
    lambda n, r: setattr(Base, "value", r.choice(ALIKE)),
    lambda n, r: in_place(Child.items, n % 9),
    lambda n, r: setattr(Base, "method", eval(f"lambda self: ('replaced', {n}, self.value, NUMBER)")),
    lambda n, r: setattr(HOLDER, "x", n),
    lambda n, r: in_place(HOLDER.sub, n % 5),
    lambda n, r: define(f"def leaf(): return ('leaf {n}', NUMBER)"),
    lambda n, r: setattr(leaf, "__code__", eval(f"lambda: ('code {n}', NUMBER)").__code__),
    lambda n, r: setattr(top, "__defaults__", (n,)),
    lambda n, r: setattr(top, "__kwdefaults__", {"key": n}),
    lambda n, r: top.__kwdefaults__.update(key=r.choice(ALIKE[:3])),
    lambda n, r: CHANGE_CLOSED(n),
    lambda n, r: CHANGE_PLAIN(r.choice((*ALIKE[:3], n))),
    lambda n, r: in_place(default.__defaults__[0], n % 5),
    lambda n, r: toggle(),
    lambda n, r: assign(**dict(zip(("CLOSED", "CHANGE_CLOSED"), closure(n), strict=True))),
    lambda n, r: define(f"def cached(key): return ('plain {n}', key)"),
    lambda n, r: define(f"class Base:\n  value = {n}\n  def method(self): return 'anew', self.value, NUMBER"),
]


def calls(r):
    """Return functions and their arguments."""
    return [
        *[(each, ()) for each in (PLAIN, CLOSED, top, containers, classes, HOLDER.read, recursive, missing)],
        *[
            (each, ())
            for each in (decorated, call_cached, default, nested, Child().method, lambda: (NUMBER, leaf()))
        ],
        *[(apply, (each,)) for each in (leaf, CLOSED, HOLDER.read, decorated)],
        (even, (3,)),
        (functools.partial(top, r.randrange(3), key=r.randrange(3)), ()),
        (given, (r.randrange(100),)),
        (given, (ARRAY.tolist(),)),
        (Base().method, ()),
    ]


def typed(value):
    """Return a value with the types of all its parts."""
    inner = value.items() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else None
    return type(value).__name__, value if inner is None else tuple(map(typed, inner))


def storm(seed, steps, workers, method):
    r = random.Random(seed)
    waiting = []
    with sa.Pool(workers, method) as pool:
        for step in range(steps):
            for _ in range(r.choice([0, 1, 1, 1, 3])):
                r.choice(CHANGES)(r.randrange(10**6), r)
            for function, args in r.sample(calls(r), r.choice([1, 2, 5])):
                expected = typed(function(*args))
                name = getattr(function, "__qualname__", str(function))
                if r.random() < 0.1:
                    found = pool.map(function, *[[arg] * 2 for arg in args]) if args else None
                    if found is not None:
                        waiting.append((step, name, found, ("both", expected)))
                        continue
                waiting.append((step, name, pool.submit(function, *args), expected))
            if r.random() < 0.1 or step == steps - 1:
                r.shuffle(waiting)
                for at, name, found, expected in waiting:
                    if expected[0] == "both":
                        results, expected = list(map(typed, found)), [expected[1]] * 2
                    else:
                        results = typed(found.result(60))
                    assert results == expected, (seed, at, name, results, expected)
                waiting.clear()


if __name__ == "__main__":
    first, count, steps, method = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    for seed in range(first, first + count):
        storm(seed, steps, 1 + seed % 3, method)
    print("as at the submit")
