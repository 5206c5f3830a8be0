"""Worker processes: how each start method starts one, what it inherits, and what its end means.

A worker is a `multiprocessing.process.BaseProcess`, so `multiprocessing.active_children()`,
`parent_process()`, `current_process()`, authentication keys, loggers, ``sys.path`` and the working directory
are as they are for any other process of that module. Three things differ:

- **The main module is not imported.** multiprocessing imports the script again in each child, which is what
  makes ``if __name__ == "__main__"`` necessary. Here the preparation data (`orders`) leave it out; functions
  of the main module travel by value instead (see `functions`).
- **The fork server is our own** (`fork_server`), with NumPy and the worker loaded once. multiprocessing's
  fork server is not touched. The pools of a process share ours. Pools that preload other modules have servers
  of their own. So have workers that start after a change of the environment variables that an interpreter or
  a numeric library reads only once. A server ends when this process has ended; a fork of this process starts
  a server for itself.
- **Signals that reach all processes**, such as Ctrl-C, are left to the program: see `group_signals`. On
  systems without a mask of signals, a child has a process group of its own, which Ctrl-C does not reach.

The variables that limit thread numbers are part of the preparation data, which a new interpreter unpickles
before its first import of this package.

A worker inherits what the caller has at the worker's start: the environment, removed variables included, the
working directory, ``sys.path``, ``sys.argv`` and the use of bytecode files.

The modules of this package, bottom to top; imports go downwards only:

==================  =====================================================================
exit_codes          what an exit code says
copies              processes that a fork in the middle of the pool's work leaves
group_signals       signals that reach all processes of a program at once
threads             how many threads numeric libraries may use in a worker
seeds               random numbers that differ between workers
credits             how many items a worker may begin
interpreters        the commands that start new interpreters
orders              how a new process prepares itself
fork_server_main    the program of the fork server: a process that forks itself for each worker
fork_server         the fork servers of this process
posix               the start methods fork, spawn and forkserver
windows             the start method spawn on Windows
worker_process      `WorkerProcess`
==================  =====================================================================
"""

from sharedarray._pool.processes.worker_process import (
    WorkerProcess,
    default_method,
    make_ready,
    method_of,
    start,
)

__all__ = ["WorkerProcess", "default_method", "make_ready", "method_of", "start"]
