"""One outcome on its way through the settler, and how far it has come."""

from __future__ import annotations

import msgspec

from .job import Ended, Job


class Entry(msgspec.Struct, eq=False, gc=False):
    """What a job came to; settled when all of it is True."""

    job: Job
    ended: Ended
    #: Whether what follows it has been sent, and its report stored.
    published: bool
    stored: bool
    #: Whether the fans that it concerns have been told.
    told: bool
    #: True once others may be sent that its call kept out (unique.py).
    released: bool = False
    #: True once the broker was told, though perhaps its answer never came.
    tried: bool = False
    #: True once it has made room for other work while it waits for the backend, or for a fuller request.
    parked: bool = False
