"""Rows about the pool itself: what a task costs, beside rivals and beside the least that it can cost.

The modules, bottom to top; each row measures, and yields its races:

=============  =====================================================================
scale          how much of a row is measured
calls          no-op tasks: one at a time, many at once, `as_completed`
maps           `map` of NumPy functions of 40 µs to 5 ms
arrays         plain arrays as arguments and results; `share` again and again
growth         sleeping tasks on 1 to 64 workers
idle           processor time of pools that have nothing to do, or only to wait
aims           what the pool is to cost at most, and whether it does
=============  =====================================================================
"""

from sharedarray._bench.rows.aims import AIMS, GROUPS, Aim, judged, sentences
from sharedarray._bench.rows.arrays import plain_arrays, share_again
from sharedarray._bench.rows.calls import completed, round_trips, submitted
from sharedarray._bench.rows.growth import many_workers
from sharedarray._bench.rows.idle import idleness
from sharedarray._bench.rows.maps import mapped_tasks
from sharedarray._bench.rows.scale import FULL, QUICK, TINY, Row, Scale

ROWS: dict[str, Row] = {
    "round-trip": round_trips,
    "map": mapped_tasks,
    "arrays": plain_arrays,
    "share": share_again,
    "submit": submitted,
    "growth": many_workers,
    "idle": idleness,
    "as-completed": completed,
}
"""Every row by its name on the command line."""

__all__ = [
    "AIMS",
    "FULL",
    "GROUPS",
    "QUICK",
    "ROWS",
    "TINY",
    "Aim",
    "Row",
    "Scale",
    "judged",
    "sentences",
]
