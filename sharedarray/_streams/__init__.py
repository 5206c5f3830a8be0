"""Streams of arrays by name.

=========  =========================================================================
words      the control words of a stream's block
status     the state of a stream, read without joining it
block      the block: making it, attaching it, what lies where in it
view       what a notebook shows of a stream
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
