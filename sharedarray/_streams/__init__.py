"""Streams of arrays by name.

===============  ===================================================================
words            the control words of a stream's block: their layout
status           the state of a stream, read without joining it
block            the block: making it, attaching to it, its slots and tables
items            the items: their shape and dtype, arrays that are given as items
options          the arguments of `Stream`, and which each side takes
turns            one thread at a time is in a call
view             the display of a stream in a notebook
party            what both sides have in common: the block, the turn, the end
base             `Stream`: the calls of both sides
handover         producers: making a stream, taking one over, replacing one
known_consumers  producers: which consumers there are, and what they need
writer           producers: the ``with`` statement that gives a slot
slots            producers: which slots may be overwritten, publishing items
slot_wait        producers: waiting until a slot may be overwritten
producer         producers: their calls
joining          consumers: an entry of the block, and the first position
holds            consumers: the items in use, until the arrays in them die
cursor           consumers: the position, taking the items there
item_wait        consumers: waiting until there is an item
event_loops      consumers: descriptors for event loops, tasks that wait
consumer         consumers: their calls
waiting          waiting for streams along with other things: `wait`
===============  ===================================================================
"""

from __future__ import annotations

from sharedarray._streams.base import ShutDown, Stream
from sharedarray._streams.consumer import Consumer
from sharedarray._streams.producer import Producer
from sharedarray._streams.waiting import wait

__all__ = ["ShutDown", "Stream", "wait"]

Stream._roles.update(producer=Producer, consumer=Consumer)
