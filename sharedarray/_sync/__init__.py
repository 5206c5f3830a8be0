"""Events, semaphores, conditions and barriers by name.

==========  ========================================================================
block       the words of a block; making it, and finding it by name
mutex       the lock under which the words are changed
parties     the processes that use a block
primitive   how they wait for each other
events      `Event`
semaphores  `Semaphore`
conditions  `Condition`
barriers    `Barrier`
==========  ========================================================================
"""

from __future__ import annotations

from sharedarray._sync.barriers import Barrier
from sharedarray._sync.conditions import Condition
from sharedarray._sync.events import Event
from sharedarray._sync.semaphores import Semaphore

__all__ = ["Barrier", "Condition", "Event", "Semaphore"]
