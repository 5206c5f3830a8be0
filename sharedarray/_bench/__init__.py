"""``sharedarray bench``: sharing against pickling, against other libraries, against the physical limit.

The modules, bottom to top; imports go downwards only:

==============  ====================================================================
race            medians and ratios of interleaved rounds
tasks           what workers do
limits          the least that it can cost
machine         what is known of the machine
memory          the memory of processes
processor_time  how long processes were on a processor
contestant      what a contestant is; the limit, this library, Python's own pools
rivals          other libraries
contestants     every contestant by its name
hosts           each contestant in a program of its own
short_tasks     short tasks as people write them in a script
script          functions that the main module defines
results         stored races
rows            rows about the pool itself, and what it is to cost at most
summary         what the races say
picture         curves and bars
report          tables, pictures and reasons as files
command         the command line
==============  ====================================================================

The project's ``benchmarks/`` are races of these contestants, run by pytest-benchmark.
"""
