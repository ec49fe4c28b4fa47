"""Tells whether short jobs are better run by one thread alone, found out by trying."""

from __future__ import annotations

from math import inf

#: Seconds between two looks, so that one of them says something.
MOMENT = 0.001
#: How many processors this process keeps busy when the interpreter, which runs one thread at a time, is what all wait
#: for.
CROWDED = (0.85, 1.15)
#: How many times as much several threads have to get done to be worth it.
WORTH = 1.3
#: Seconds for which one thread is left alone before several are tried again: at first, and when that has never helped.
FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.5


class Rivalry:
    """Judges from how much got done. Several threads may ask; one that asks in between gets the last answer.

    A process that keeps about one processor busy cannot win anything by more threads. One that keeps less busy may wait
    for something outside, and then several threads get more done; or other processes have the processors, and then they
    do not: which of the two it is, only a try tells.
    """

    def __init__(self) -> None:
        #: What is better, as far as is known.
        self.alone = False
        #: Processor time, real time and jobs at the last look.
        self._looked = 0.0, -inf, 0
        #: Jobs a second that one thread got done by itself (inf: not known yet); when to try several; the pause then.
        self._rate = inf
        self._again = 0.0
        self._pause = FIRST_PAUSE

    def look(self, busy: float, now: float, begun: int) -> bool:
        """Return whether one thread shall go on alone: `busy` is the processor time of this process (seconds).

        `now` is any clock (seconds), `begun` how many jobs have begun so far.
        """
        busy_before, before, begun_before = self._looked
        took = now - before
        if took < MOMENT:
            return self.alone
        self._looked = busy, now, begun
        rate, share = (begun - begun_before) / took, (busy - busy_before) / took
        if CROWDED[0] <= share <= CROWDED[1]:
            self.alone = True
        elif self.alone:
            self._rate = rate
            self.alone = now < self._again
        elif rate > WORTH * self._rate:
            self._pause = FIRST_PAUSE
        else:
            self._again, self._pause = now + self._pause, min(2 * self._pause, LONGEST_PAUSE)
            self.alone = True
        return self.alone
