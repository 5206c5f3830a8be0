"""Streams of arrays by name.

=========  =========================================================================
words      the control words of a stream's block: their layout
status     the state of a stream, read without joining it
block      the block: making it, attaching to it, its slots and tables
view       the display of a stream in a notebook
base       `Stream`, and what both sides have in common
producer   the side that writes
waiting    waiting for streams along with other things: descriptors for event loops, `wait`
consumer   the side that reads
=========  =========================================================================
"""

from __future__ import annotations

from sharedarray._streams.base import ShutDown, Stream
from sharedarray._streams.consumer import Consumer
from sharedarray._streams.producer import Producer
from sharedarray._streams.waiting import wait

__all__ = ["ShutDown", "Stream", "wait"]

Stream._roles.update(producer=Producer, consumer=Consumer)
