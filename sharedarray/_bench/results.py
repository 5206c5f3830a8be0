"""Stored races: written and read again, in this program's own JSON or in pytest-benchmark's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sharedarray as sa
from sharedarray._bench import machine
from sharedarray._bench.race import Race

FORMAT = 1
"""Of our own JSON; a file with a higher number comes from a newer version."""


@dataclass
class Results:
    """The races of one machine.

    Attributes
    ----------
    machine : dict
        As `machine.described` tells it.
    races : list of Race
        In the order in which they were run.
    """

    machine: dict[str, Any]
    races: list[Race]

    def group(self, name: str) -> list[Race]:
        """Return the races about one question, by size."""
        return sorted((race for race in self.races if race.group == name), key=lambda race: race.size or 0)

    def curve(self, group: str, contestant: str) -> tuple[list[int], list[float]]:
        """Return sizes in bytes, and a contestant's median at each."""
        races = [race for race in self.group(group) if race.size and contestant in race.figures]
        return [race.size or 0 for race in races], [race.median(contestant) for race in races]

    def contestants(self, group: str) -> list[str]:
        """Return the contestants of a group's races, in the order of the tables."""
        return list(dict.fromkeys(name for race in self.group(group) for name in race.figures))

    def missing(self) -> dict[str, str]:
        """Return the contestants of no race at all, with the reasons."""
        there = {name for race in self.races for name in race.figures}
        return {name: why for race in self.races for name, why in race.missing.items() if name not in there}

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        races = [race.as_json() for race in self.races]
        document = {"sharedarray-bench": FORMAT, "machine": self.machine, "races": races}
        path.write_text(json.dumps(document, indent=1) + "\n")


def measured_here(races: list[Race]) -> Results:
    """Return results of this machine, now."""
    return Results(machine.described(), races)


def load(paths: Iterable[Path]) -> Results:
    """Return what these files store; of a race that is in several of them, what the last one says.

    Raises
    ------
    HeaderError
        (a `ValueError`) A file is no stored result, or one of a newer version.
    OSError
        A file cannot be read.
    """
    races: dict[str, Race] = {}
    of_machine: dict[str, Any] = {}
    for path in paths:
        try:
            document = json.loads(path.read_text())
            of_machine, records = _read(document)
            races |= {record["title"]: Race.from_json(record) for record in records}
        except (KeyError, TypeError, ValueError) as error:
            raise sa.HeaderError(
                f"{path} stores no races",
                name=str(path),
                found=f"{type(error).__name__}: {error}",
                expected="what 'sharedarray bench --json' or 'pytest benchmarks --report' writes",
                next_step="measure again with this version",
            ) from error
    return Results(of_machine, list(races.values()))


def _read(document: dict[str, Any]) -> tuple[dict[str, Any], Sequence[dict[str, Any]]]:
    if "benchmarks" in document:  # pytest-benchmark's, with our conftest
        tests = document["benchmarks"]
        return document["machine_info"], [race for test in tests for race in test["extra_info"]["races"]]
    if document["sharedarray-bench"] > FORMAT:
        raise ValueError(f"format {document['sharedarray-bench']}")
    return document["machine"], document["races"]
