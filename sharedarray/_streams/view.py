"""The display of a stream in a notebook: its last item, and its parties."""

from __future__ import annotations

from typing import Any

import numpy as np

from sharedarray import _header as header, _segment as segment
from sharedarray._streams import words as w
from sharedarray._streams.block import Block
from sharedarray._streams.status import StreamStatus, status_of

__all__ = ["html_of"]

_TRIES = 5  # attempts to read the last item, which the producer may overwrite meanwhile


def html_of(title: str, name: str, block: Block) -> str:
    """Return HTML with the facts of a stream, a picture of its last item, and a table of its parties."""
    from sharedarray import _display as display
    from sharedarray._display import block_table
    from sharedarray._programs import programs_of

    mapping = block.mapping
    layout = header.decode(
        bytes(memoryview(mapping)[: header.PAGE]), len(mapping), name=mapping.name, more=mapping
    )
    status = segment.with_handle(mapping, lambda handle: status_of(handle, layout, len(mapping)))
    facts = [
        ("name", name),
        ("shape", str(block.shape)),
        ("dtype", block_table.dtype_text(block.dtype)),
        ("slots", f"{block.slots:,}, full={'drop_oldest' if block.drops else 'wait'!r}"),
        ("size", display.human(len(mapping))),
    ]
    below = ""
    if status is not None:
        facts.append(("published", f"{status.published:,}"))
        facts.append(("state", _state(status)))
        pids = {each.pid for each in status.consumers} | {status.producer or 0}
        below = _parties(status, programs_of(pids - {0}))
    return display.card(title, facts, drawn=_last_item(block), below=below)


def _state(status: StreamStatus) -> str:
    if status.closed:
        return "closed"
    if status.producer is None:
        return "no producer"
    return "the producer waits for a slot" if status.waits else "open"


def _parties(status: StreamStatus, programs: Any) -> str:
    from sharedarray import _display as display
    from sharedarray._display import block_table

    rows = [["", "process", "next item", "lag", "lost", "kind", "waits"]]
    if status.producer is not None:
        waits = "for a slot" if status.waits else ""
        rows.append(["producer", block_table.process(status.producer, programs), "", "", "", "", waits])
    rows += [
        [
            "consumer",
            block_table.process(each.pid, programs),
            f"{each.position:,}",
            f"{each.lag:,}",
            f"{each.lost:,}",
            "lossless" if each.lossless else "lossy",
            "for an item" if each.waits else "",
        ]
        for each in status.consumers
    ]
    return display.table("parties", rows, named=True, right=(2, 3, 4))


def _last_item(block: Block) -> str:
    """Return a picture of the newest item that is whole; nothing if there is none."""
    from sharedarray import _display as display

    words, (index, whole, *_) = block.words, block.tables
    for _ in range(_TRIES):
        head = words[w.HEAD]
        found = words[index + (head - 1) % block.slots]
        slot = found & w.NO_SLOT
        if not head or slot >= block.slots or block.dtype.names is not None:
            return ""
        drawn: str = display.picture(np.asarray(block.items[slot]))
        if words[whole + slot] == head:
            return drawn
    return ""
