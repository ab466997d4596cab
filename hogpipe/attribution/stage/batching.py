"""PURE: how early new flows have to be looked up, and so how long they may be gathered before.

Gathering makes look-ups cheap. As long as sockets are still there when they are looked for, the
pause between look-ups grows; when some are gone it shrinks to a few times the CPU time that one
takes, and grows again no further than to where that happened, for a while. Where nearly all are
gone, their connections are too short for any look-up, and nothing is gained by being early; but
look-ups go on often for a while, as whose they are may be found out by chance (`sampling`). And
where the answers to nearly all would be the same later, nobody waits for them but a reader of
records. Some flows of a look-up are always fresh, so connections that live longer show soon.

What two owners move one after the other under the same ends cannot be told apart once it is
gathered. The ports of datagrams are free as soon as their sockets are gone, and of some 28,000 the
kernel gives any: of `n` exchanges that are gathered one in 28,000 / `n` meets another. Little is
gathered then, and where that was seen to happen.
"""

from collections.abc import Sequence

import msgspec

from hogpipe.attribution.resolver import Resolution
from hogpipe.model import UNATTRIBUTED, Quality

_SHORTEST = 4.0  # times the CPU time of a look-up
_SHORT_BOUND, _IN_VAIN, _LONG, _LONGEST = 0.006, 0.01, 0.025, 0.15  # seconds
_GROWTH, _RECOVERY = 1.25, 1.02
_TOLERATED, _NEARLY_ALL = 0.02, 0.98  # of the flows are gone
_OFTEN = 64  # look-ups in vain
_MIXED = 16  # exchanges that may be gathered where their ports pass on
_BELOW = 0.7  # of the pause at which sockets were gone
_EARLY, _LATE, _LATEST = 0.004, 0.02, 0.12  # seconds that packets may gather


class LookupVerdict(msgspec.Struct, frozen=True):
    """How early a look-up came for those of its flows by which that is judged."""

    flows: int
    gone: int = 0
    """Whose sockets were gone."""
    lasting: int = 0
    """That would have had the same answer later."""
    passing: int = 0
    """Whose ports may be another's at once."""
    mixed: int = 0
    """That several owners had in turn before the look-up."""


def judge(resolutions: Sequence[Resolution]) -> LookupVerdict:
    """Return how early the answers came that were just found."""
    owners = [one.attribution for one in resolutions]
    is_gone = (one == UNATTRIBUTED or one.quality is Quality.INFERRED for one in owners)
    return LookupVerdict(
        flows=len(resolutions),
        gone=sum(is_gone),
        lasting=sum(one.is_final for one in resolutions),
        passing=sum(one.may_be_reused for one in resolutions),
        mixed=sum(one.owners_by_span is not None for one in resolutions),
    )


class AdaptiveInterval:
    """The pause after each look-up, in seconds."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._ceiling = _LONG
        self._in_vain = 0  # look-ups, one after the other
        self.patience = _LATE
        """How long packets may gather before they are told of, in seconds."""

    def next_pause(self, cpu_seconds: float, verdict: LookupVerdict) -> float:
        """Return how long to wait after a look-up that took so much CPU time."""
        flows, gone = verdict.flows, verdict.gone
        if not flows:
            return self._pause
        shortest = min(_SHORTEST * cpu_seconds, _SHORT_BOUND)
        in_vain, self._in_vain = self._in_vain, 0
        if verdict.mixed or verdict.passing > _MIXED:
            self._pause = shortest
            self.patience = _EARLY
        elif verdict.lasting >= _NEARLY_ALL * flows:
            # By steps: a moment in which this host stood still looks the same.
            self._pause = min(max(self._pause, shortest) * _GROWTH, _LONGEST)
            self.patience = _LATEST if self._pause > _LONG else _LATE
        elif gone >= _NEARLY_ALL * flows:
            self._in_vain = in_vain + 1
            hopeless = in_vain >= _OFTEN
            self._pause = _LONGEST if hopeless else _IN_VAIN
            self.patience = _LATEST if hopeless else _LATE
        elif gone > _TOLERATED * flows:
            self._ceiling = max(shortest, _BELOW * min(self._pause, _LONG))
            self._pause = shortest
            self.patience = _EARLY
        else:
            self._ceiling = min(self._ceiling * _RECOVERY, _LONG)
            self._pause = min(max(self._pause, shortest) * _GROWTH, self._ceiling)
            if self._ceiling == _LONG:
                self.patience = _LATE
        return self._pause
