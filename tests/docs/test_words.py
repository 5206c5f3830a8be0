"""Names, comments, messages and pages keep to plain words: no private terms, no sentences without a subject.

Identifiers are read by their parts, ``_take_back`` as ``take back``, so that no longer name hides a term. A
word with an ordinary meaning beside the private one is listed only in the form that was private.
"""

from __future__ import annotations

import re

from helpers import ROOT

SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for folder in ("sharedarray", "tests", "benchmarks", "docs", ".")
    for path in ((ROOT / folder).rglob("*") if folder != "." else [ROOT / "README.md"])
    if path.suffix in (".py", ".md") and "report" not in path.parts and "_build" not in path.parts
}

# Private terms as regular expressions of whole words, and what to write instead.
TERMS = {
    r"rooms?": "free bytes, free memory, result slot; module, layer",
    r"engines?": "core, scheduler, supervisor, reader",
    r"ledgers?": "task log, statistics",
    r"outbox|outboxes": "result buffer",
    r"glances?": "SpinWait, poll",
    r"bell|rope|hush|nudges?|nudged|ears?": "Waker, wake, drain",
    r"mourns?|mourned|bury|buried|bereaved|estate": "handle_exit, reap, fail_or_retry, requeue",
    r"condemns?|condemned|doomed": "kill pending, kill(reason)",
    r"silence": "unresponsive",
    r"owed|take back": "pending revocations, unfinished, revoke",
    r"family|families": "process tree",
    r"parked|borrowed": "lease dropped, in use without lease",
    r"departs?|start leaving|on leave": "release, remove if unheld, removal lock",
    r"write note|read note": "write_metadata, read_metadata",
    r"parcels?|stows?|stowed|set aside|sets aside": "out-of-band buffer, add_buffer, copy_now, quarantine",
    r"tally": "counter, state",
    r"loans?|lends?|lent|shelf|shelves": "slot view, borrow_slot, slot mappings",
    r"interrupts as|import interrupts": "SIGINT deferral: _sigint",
    r"naps?|coming by": "pause, periodic check",
    r"short way": "fast path",
    r"gathering": "outcomes, OrderedResults",
    r"whoever|nobody|somebody|someone|anybody|he|him|his": "the process, the thread, it",
    r"see to it|take note|word of chance|what becomes of": "the verb itself",
}
# By place: the ordinary use of a word, and the reason.
EXCEPTIONS = {
    "tests/docs/test_words.py": (".*", "this list"),
    "benchmarks/bench_streams.py": ("loan_slice_uninit", "a method of iceoryx2"),
    "tests/integration/test_dask.py": ("silence_logs", "an option of Dask"),
    "tests/unit/test_reference.py": ("silence_logs", "an option of Dask"),
    "tests/contract/test_pools.py": ("silence_logs", "an option of Dask"),
    "tests/unit/test_lock_file.py": ("(?i)nobody", "the name of a user"),
    "tests/integration/test_places.py": ("the user nobody", "the name of a user"),
    "tests/contract/test_pool_inherits.py": ("su nobody", "the name of a user"),
    "sharedarray/_display/tables.py": ("font-family", "CSS"),
    "sharedarray/_display/timeline_svg.py": ("font-family", "SVG"),
}


TERM = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(TERMS)})(?![a-z])".replace(" ", "[ _]"), re.IGNORECASE)
ALTERNATIVES = "|".join(TERMS).split("|")
WORD = re.compile("|".join(each for each in ALTERNATIVES if " " not in each))
PHRASES = [form for each in ALTERNATIVES if " " in each for form in (each, each.replace(" ", "_"))]


def has_term(text: str) -> bool:
    """Return whether a text has a word or a phrase of a term; most have none, and the search takes long."""
    words = {word.lower() for word in set(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text))}
    lower = text.lower()
    return any(phrase in lower for phrase in PHRASES) or any(map(WORD.fullmatch, words))


def test_no_private_terms() -> None:
    found = []
    for path, text in SOURCES.items():
        for match in TERM.finditer(text) if has_term(text) else ():
            line = text[text.rfind("\n", 0, match.start()) + 1 :].split("\n", 1)[0]
            if not re.search(EXCEPTIONS.get(path, ("(?!)", ""))[0], line):
                number = text.count("\n", 0, match.start()) + 1
                found.append(f"{path}:{number}: {match.group()!r} in {line}")
    assert found == []


def test_each_exception_is_needed() -> None:
    for path, (allowed, reason) in EXCEPTIONS.items():
        assert reason
        uses = [line for line in SOURCES[path].splitlines() if re.search(allowed, line)]
        assert any(TERM.search(line) for line in uses), path


# How no docstring begins. The module of a benchmark may ask a question.
BEGINNINGS = re.compile(
    r"^ *\"{3}(?:Have|See to it|Hears?|Be|Take note|Say|What|Where|Who|Whoever|Whether|How|Why|When)\b.*$",
    re.MULTILINE,
)


# Beginnings that no comment has.
COMMENTS = re.compile(r"^ *# (?:What|Where|Who|Whoever|Nobody|Somebody)\b.*$", re.MULTILINE)


def test_comments_begin_with_their_subject() -> None:
    found = [
        f"{path}: {match.group().strip()}"
        for path, text in SOURCES.items()
        if path.endswith(".py")
        for match in COMMENTS.finditer(text)
        if not match.group().endswith("?")
    ]
    assert found == []


def test_docstrings_begin_with_what_an_object_does_or_is() -> None:
    found = [
        f"{path}: {match.group().strip()}"
        for path, text in SOURCES.items()
        if path.endswith(".py")
        for match in BEGINNINGS.finditer(text)
        if not match.group().rstrip('"').endswith("?")
    ]
    assert found == []
