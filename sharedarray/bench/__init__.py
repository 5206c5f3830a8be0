"""``sharedarray bench``: sharing against pickling, against other libraries, against the physical limit.

The rooms, bottom to top: `race` (medians and ratios of interleaved rounds), `tasks` (what workers do),
`limits` (the least that it can cost), `contestants` (everybody's way to do it), `machine` and `memory` (what
is known of them here), `hosts` (each contestant in a program of its own), `results` (stored races), `summary`
and `picture` (what they say), `report` (all of it as files), and `command`.

The project's ``benchmarks/`` are races of these contestants, run by pytest-benchmark.
"""
