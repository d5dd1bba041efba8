"""How Ray says that an actor has died."""

from __future__ import annotations

from ray.exceptions import OutOfMemoryError, RayActorError

ACTOR_DIED = (RayActorError, OutOfMemoryError)
"""What a call to an actor raises when that has died; killed by Ray's memory monitor it is no RayActorError."""
