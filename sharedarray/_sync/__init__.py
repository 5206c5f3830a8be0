"""Events, semaphores, conditions and barriers by name.

==========  ========================================================================
primitive   the block, the processes that use it, and how one waits for the others
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
