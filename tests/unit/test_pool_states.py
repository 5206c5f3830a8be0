"""States of pools, workers and the reader's role: each event in each state, and how the code uses them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from helpers import wait_until

import sharedarray as sa
from sharedarray._pool import states, worker_handle
from sharedarray._pool.states import ForbiddenChangeError, Table, advance

POOL_DIRECTORY = Path(states.__file__).parent

# A row for each event, a column for each state. `=`: the state stays; `!`: this must not happen.
WORKER = """
               starting   idle       busy       revoking   stopping   hung up    killing    dead
ready          idle       !          !          !          =          =          =          !
dispatch       !          busy       =          !          !          !          !          !
reply          !          !          =          =          !          =          =          !
last reply     !          !          idle       =          !          =          =          !
revoke         !          !          revoking   =          !          =          =          !
some dropped   !          !          !          =          !          =          =          !
all dropped    !          !          !          idle       !          =          =          !
stop           stopping   stopping   !          !          =          !          !          !
end of file    hung up    hung up    hung up    hung up    hung up    =          =          !
kill           killing    killing    killing    killing    killing    killing    =          !
exit           dead       dead       dead       dead       dead       dead       dead       !
"""
POOL = """
               running    draining   aborting   broken     closed     foreign
shut down      draining   =          =          =          =          =
abort          aborting   aborting   =          =          =          =
fail           broken     broken     =          =          !          !
empty          !          closed     closed     =          !          !
fork           foreign    foreign    foreign    foreign    foreign    =
"""
READER = """
               watched    held       leased     closed
take           held       !          held       !
release        !          leased     !          !
watch          =          =          watched    =
close          closed     closed     closed     !
"""
WIDTHS = 15, 11  # of the first column, of each other one

TABLES: dict[str, tuple[Table, str]] = {
    "worker": (states.WORKER, WORKER),
    "pool": (states.POOL, POOL),
    "reader": (states.READER, READER),
}


def cells(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield event, state and expectation of each cell of a table."""
    first, width = WIDTHS
    head, *rows = text.strip("\n").splitlines()

    def columns(line: str) -> list[str]:
        return [line[at : at + width].strip() for at in range(first, len(line), width)]

    names = columns(head)
    for row in rows:
        expected = columns(row)
        assert len(expected) == len(names), row
        for state, cell in zip(names, expected, strict=True):
            yield row[:first].strip(), state, cell


def states_of(table: Table) -> set[str]:
    return {state for row in table.values() for pair in row.items() for state in pair}


@pytest.mark.parametrize("name", TABLES)
def test_each_event_in_each_state_does_what_is_written(name, internal_errors):
    table, text = TABLES[name]
    refused = 0
    for event, state, expected in cells(text):
        if expected == "!":
            with pytest.raises(ForbiddenChangeError, match=f"'{event}'.*'{state}'"):
                advance(table, event, state)
            refused += 1
        else:
            assert advance(table, event, state) == (state if expected == "=" else expected), (event, state)
    assert len(internal_errors) == refused  # each of them is noticed, see `no_internal_errors`
    internal_errors.clear()


@pytest.mark.parametrize("name", TABLES)
def test_the_written_tables_are_whole(name):
    table, text = TABLES[name]
    found = list(cells(text))
    assert {event for event, _, _ in found} == set(table)
    assert {state for _, state, _ in found} == states_of(table)
    assert len(found) == len(table) * len(states_of(table))


def test_states_have_names_of_the_module():
    constants = {value for name, value in vars(states).items() if name.isupper() and isinstance(value, str)}
    assert constants == {state for table, _ in TABLES.values() for state in states_of(table)}
    workers = states_of(states.WORKER)
    assert states.ACCEPTING | states.ENDING | {states.STARTING, states.REVOKING} == workers
    assert not states.ACCEPTING & states.ENDING
    assert set(states.WORKER["dispatch"]) == states.ACCEPTING


@pytest.mark.parametrize("name", TABLES)
def test_an_unknown_event_is_refused(name):
    with pytest.raises(KeyError):
        advance(TABLES[name][0], "no such event", "starting")


@pytest.mark.parametrize("waits", ["in result", "in wait"])
def test_a_forbidden_change_ends_the_workers_is_noticed_and_loses_no_outcome(
    waits, monkeypatch, internal_errors
):
    with sa.Pool(1) as pool:
        first = pool.submit(os.getpid).result()
        table = {**states.WORKER, "last reply": states._Row("last reply", {})}
        monkeypatch.setattr(worker_handle, "WORKER", table)
        future = pool.submit(os.getpid)
        if waits == "in result":
            with pytest.raises(ForbiddenChangeError, match=r"'last reply'.*'busy'"):
                future.result(60)
        else:
            assert not wait([future], 20).not_done  # the pool's thread reads
        assert future.result(60) == first
        wait_until(lambda: internal_errors, "the mistake is noted")
        monkeypatch.undo()
        if waits == "in result":
            assert pool.submit(os.getpid).result(60) != first
        else:
            with pytest.raises(sa.WorkerDied, match="management thread failed"):
                pool.submit(os.getpid).result(60)
    internal_errors.clear()


# -- how the code uses the tables -----------------------------------------------------------------------


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(POOL_DIRECTORY.rglob("*.py")):
        where = path.relative_to(POOL_DIRECTORY).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield where, node


def texts(node: ast.expr) -> list[str]:
    """Return the literal texts that an argument may be."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def events_in_the_code() -> Iterator[tuple[str, str, str]]:
    """Yield the file, the table and the event of each call that changes a state."""
    for where, node in nodes():
        if isinstance(node, ast.Subscript) and ast.unparse(node.value).lower() in TABLES:
            for event in texts(node.slice):
                yield where, ast.unparse(node.value).lower(), event
        if not isinstance(node, ast.Call) or not node.args:
            continue
        if isinstance(node.func, ast.Name) and node.func.id == "advance":
            table = ast.unparse(node.args[0]).lower()
            for event in texts(node.args[1]):
                yield where, table, event
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("advance", "advance_pool", "_end"):
            # Of a `WorkerHandle`; of a `PoolCore`.
            table = "worker" if node.func.attr == "advance" else "pool"
            for event in texts(node.args[0]):
                yield where, table, event


def test_each_event_that_the_code_names_is_in_its_table_and_each_event_is_named():
    used: dict[str, set[str]] = {name: set() for name in TABLES}
    for where, table, event in events_in_the_code():
        assert event in TABLES[table][0], f"{where} names the event {event!r}, which the table lacks"
        used[table].add(event)
    assert used == {name: set(table) for name, (table, _) in TABLES.items()}


def test_only_advance_changes_a_state():
    """Constructors name the first state; all other assignments look the next one up in a table."""
    first = {"core.py": "RUNNING", "worker_handle.py": "STARTING", "reader.py": "WATCHED"}
    begun = set()
    for where, node in nodes():
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) or where.startswith("codec/"):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Attribute) and target.attr == "state" for target in targets):
            value = ast.unparse(node.value) if node.value is not None else ""
            if not value.startswith(("advance(", "POOL[", "READER[", "WORKER[")):
                assert first.get(where) == value, f"{where}:{node.lineno} changes a state by itself"
                begun.add(where)
    assert begun == set(first)


def test_states_are_compared_with_names():
    """A literal text in a comparison could be wrong for ever without an error."""
    for where, node in nodes():
        if isinstance(node, ast.Compare) and any(
            isinstance(side, ast.Attribute) and side.attr == "state"
            for side in (node.left, *node.comparators)
        ):
            assert not any(texts(side) for side in (node.left, *node.comparators)), f"{where}:{node.lineno}"
