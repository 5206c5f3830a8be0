"""`Timeline`: the spans of a pool's last tasks, as a sequence, a picture and a file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, overload

from sharedarray._display import timeline_svg, timeline_text
from sharedarray._display.chrome_trace import chrome_trace
from sharedarray._display.spans import Span, count_tasks, lanes_of, time_window
from sharedarray._display.text import human_time, quantity
from sharedarray._platform import platform

__all__ = ["Timeline"]


class Timeline(Sequence[Span]):
    """The spans of a pool's last tasks, in the order in which the tasks ended.

    A sequence of `Span`; a slice of it is a timeline. As text (`repr` and `str`) it is a picture of one row
    for each worker, in a notebook a larger one with tooltips.

    Parameters
    ----------
    spans : iterable of Span
        Of one pool.
    dropped : int, default 0
        How many older tasks the pool has forgotten.
    pid : int, optional
        The process of the pool; this one when None.

    Attributes
    ----------
    dropped : int
        How many older tasks the pool had forgotten at that time. It keeps the last 50 000 spans.
    pid : int
        The process of the pool.

    Examples
    --------
    >>> import sharedarray as sa
    >>> with sa.Pool(1) as pool:
    ...     text = pool.submit("{} and {}".format, 1, 2).result()
    ...     timeline = pool.timeline()
    >>> timeline[-1].label, timeline[-1].outcome
    ('str.format', 'done')
    >>> slow = type(timeline)(span for span in timeline if span.seconds > 60)
    >>> print(slow)
    no tasks
    """

    __slots__ = ("_spans", "dropped", "pid")

    def __init__(self, spans: Iterable[Span], dropped: int = 0, pid: int | None = None) -> None:
        self._spans = tuple(spans)
        self.dropped = dropped
        self.pid = os.getpid() if pid is None else pid

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, index: int) -> Span: ...

    @overload
    def __getitem__(self, index: slice) -> Timeline: ...

    def __getitem__(self, index: int | slice) -> Span | Timeline:
        if isinstance(index, slice):
            return Timeline(self._spans[index], self.dropped, self.pid)
        return self._spans[index]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return (self._spans, self.dropped, self.pid) == (other._spans, other.dropped, other.pid)

    def __hash__(self) -> int:
        return hash((self._spans, self.dropped, self.pid))

    @property
    def seconds(self) -> float:
        """From the beginning of the first task to the end of the last one."""
        start, end = time_window(self._spans)
        return (end - start) / 1e9

    @property
    def utilisation(self) -> dict[str, float]:
        """Part of these seconds during which each worker ran tasks, by the worker's name: 0 to 1."""
        start, end = time_window(self._spans)
        return {
            lane.worker: lane.busy / (end - start) if end > start else 1.0 for lane in lanes_of(self._spans)
        }

    def _headline(self) -> str:
        if not self._spans:
            return "no tasks"
        lanes = lanes_of(self._spans)
        start, end = time_window(self._spans)
        busy = sum([lane.busy for lane in lanes]) / max(1, end - start)
        tasks, workers = quantity(count_tasks(self._spans), "task"), quantity(len(lanes), "worker")
        return f"{tasks} in {workers}, {human_time(self.seconds)}, {busy:.1f} busy on average"

    def _forgotten(self) -> str | None:
        if not self.dropped:
            return None
        return f"{quantity(self.dropped, 'older task')} {'is' if self.dropped == 1 else 'are'} forgotten"

    def __repr__(self) -> str:
        return "\n".join(timeline_text.draw(self._spans, self._headline(), self._forgotten()))

    def _repr_html_(self) -> str:
        # A page that is narrower than the picture scrolls it: smaller, its labels could not be read.
        note = self._forgotten()
        return f'<div style="overflow-x:auto">{self.to_svg()}</div>' + (f"<p>{note}</p>" if note else "")

    def to_svg(self) -> str:
        """Return a picture of one lane for each worker, with a tooltip for each task.

        Returns
        -------
        str
            An SVG document, of less than a megabyte however many tasks there are: neighbours that are too
            narrow to be told apart are drawn as one, the paler the longer the worker was idle between them.
            Each function has a colour. A task that did not return has a border and a letter.

        Examples
        --------
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     result = pool.submit(pow, 2, 10).result()
        ...     svg = pool.timeline().to_svg()
        >>> svg.startswith("<svg"), "pow" in svg
        (True, True)
        """
        return timeline_svg.draw(self._spans, self._headline())

    def to_chrome_trace(self) -> dict[str, Any]:
        """Return the timeline as a trace for ``chrome://tracing``, https://ui.perfetto.dev and other viewers.

        Returns
        -------
        dict
            An object for `json.dump`. The pool is the process and its workers are the threads. All times are
            floats in microseconds, of the monotonic clock, so that traces of several pools fit together.
            The category of a task is its outcome.

        Notes
        -----
        The format is the JSON Object Format of the *Trace Event Format* of the Chromium project:
        https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU

        Examples
        --------
        >>> span = Span(8, 3, "blur", "worker-1", 4711, 1_000_000, 3_000_000, 15_000_000, "done")
        >>> event = Timeline([span], pid=7).to_chrome_trace()["traceEvents"][-1]
        >>> event["name"], event["ph"], event["ts"], event["dur"], event["args"]["waited"]
        ('blur', 'X', 3000.0, 12000.0, 2000.0)
        """
        return chrome_trace(self._spans, self.pid, self.dropped)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the timeline to a file, in the format of the file's suffix.

        Parameters
        ----------
        path : str or path-like
            ``.json`` or ``.json.gz`` for the trace of `to_chrome_trace`, ``.svg`` for the picture,
            ``.txt`` for the text. A file of that name is replaced when the new one is
            complete; if the name is a link, the link's target is replaced.

        Raises
        ------
        ValueError
            Another suffix.
        OSError
            The file cannot be written. A file that was there is unchanged.

        Examples
        --------
        >>> import os, tempfile
        >>> import sharedarray as sa
        >>> with sa.Pool(1) as pool:
        ...     result = pool.submit(pow, 2, 10).result()
        ...     timeline = pool.timeline()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     timeline.save(os.path.join(folder, "run.json"))
        ...     os.listdir(folder)
        ['run.json']
        """
        name = os.fspath(path)
        lowered = os.path.basename(name).lower()
        import gzip  # here: few timelines are saved
        import json

        if lowered.endswith((".json", ".json.gz")):
            data = json.dumps(self.to_chrome_trace(), separators=(",", ":")).encode()
            if lowered.endswith(".gz"):
                data = gzip.compress(data, mtime=0)  # the same bytes for the same timeline
        elif lowered.endswith(".svg"):
            data = self.to_svg().encode()
        elif lowered.endswith(".txt"):
            data = f"{self}\n".encode()
        else:
            found = os.path.splitext(lowered)[1] or "no suffix"
            raise ValueError(
                f"a timeline cannot be saved as {name!r}; found {found}; "
                "expected .json, .json.gz, .svg or .txt. Next step: save('timeline.json') writes a "
                "trace for chrome://tracing and https://ui.perfetto.dev, save('timeline.svg') a picture"
            )
        _write(os.path.realpath(name), data)


def _write(target: str, data: bytes) -> None:
    """Write the data under a temporary name, then rename the file."""
    import secrets

    temporary = os.path.join(os.path.dirname(target), f".sharedarray-{secrets.token_hex(8)}.tmp")
    # Not by tempfile, whose files only their owner may read: this one's mode follows the umask.
    try:
        handle = platform.opened(os.open, temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        error.filename = target  # not the temporary name
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
