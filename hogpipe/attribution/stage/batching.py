"""PURE: when the next lookup may begin, and for how long packets may be summed in the capture.

A longer interval makes lookups cheaper, because more new flows share each of them. It costs owners
where sockets are closed before the lookup reaches them, and where two processes use a five-tuple
one after the other without a SYN: summed packets of the two cannot be separated. So both intervals
follow what the last lookup found (`LookupVerdict`).

Regimes
-------
The first regime that applies decides. `shortest` is four times the CPU time of the lookup, 6 ms at
most.

| regime                                              | lookup interval          | batch interval |
|-----------------------------------------------------|--------------------------|----------------|
| reused: a flow was contested, or more than 16 flows | shortest                 | 4 ms           |
| have a five-tuple that may be reused at once        |                          |                |
| final: 98 % would have the same resolution later    | grows to 300 ms          | 20 ms; 150 ms  |
|                                                     |                          | beyond 25 ms   |
| too late: 98 % had no socket any more               | 10 ms; 150 ms after 64   | 20 ms; 120 ms  |
|                                                     | such lookups             | after 64       |
| one end too late: 98 % had no socket any more, of   | 10 ms                    | 20 ms          |
| those that are not final with a socket              |                          |                |
| late: more than 2 % had no socket any more          | shortest                 | 4 ms           |
| in time                                             | grows to a ceiling       | 20 ms once the |
|                                                     |                          | ceiling is 25  |

The ceiling is 25 ms. Where sockets were closed it falls to 70 % of the interval at that time, and
recovers by 2 % a lookup.

Reasons
-------
- Reused: the port of a datagram socket is free once the socket is closed, and the kernel picks one
  of some 28,000. Of n exchanges that are summed one in 28,000 / n meets another on its port.
- Final: only the records are later. The interval grows step by step, because a moment in which the
  host stood still looks the same.
- Too late: connections that short escape every lookup, so haste gains nothing. Lookups stay
  frequent for a while, because the endpoint heuristic learns from sockets that a sample meets by
  chance.
- One end too late: where both ends of connections are on this host, the flow of the server has its
  listener and is final; that does not mean that the client can be found. Lookups stay frequent,
  because the heuristic needs the few samples of clients.
- The flows that are judged are those that came last, so connections that live longer show soon.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from hogpipe.attribution.budget import CpuBudget
from hogpipe.attribution.resolver import Resolution
from hogpipe.model import UNATTRIBUTED, Attribution, Quality

_COST_FACTOR = 4.0
_MAX_SHORTEST, _FREQUENT, _MAX_INTERVAL = 0.006, 0.01, 0.025  # seconds
_MAX_FINAL_INTERVAL, _MAX_LATE_INTERVAL = 0.3, 0.15
_GROWTH, _RECOVERY = 1.25, 1.02
_TOLERATED, _NEARLY_ALL = 0.02, 0.98
_MAX_FREQUENT = 64
_MAX_REUSABLE = 16
_CEILING_AFTER_LATE = 0.7
_SHORT_BATCH, _BATCH = 0.004, 0.02  # seconds
_FINAL_BATCH, _LATE_BATCH = 0.15, 0.12


class LookupVerdict(msgspec.Struct, frozen=True):
    """How early a lookup was for the flows by which it is judged; all are numbers of flows."""

    flows: int
    gone: int = 0
    """Without a socket of their own any more."""
    final: int = 0
    """Whose resolution is final."""
    final_with_socket: int = 0
    """Whose resolution is final, and that have a socket: haste gains nothing for them."""
    reusable: int = 0
    """Whose five-tuple may be reused at once."""
    contested: int = 0
    """Whose five-tuple several processes have used."""


def judge(resolutions: Sequence[Resolution]) -> LookupVerdict:
    """Return the verdict on a lookup by some of its resolutions."""
    gone = [one for one in resolutions if _is_gone(one.attribution)]
    final = sum(one.is_final for one in resolutions)
    return LookupVerdict(
        flows=len(resolutions),
        gone=len(gone),
        final=final,
        final_with_socket=final - sum(one.is_final for one in gone),
        reusable=sum(one.may_be_reused for one in resolutions),
        contested=sum(one.owners_by_span is not None for one in resolutions),
    )


def _is_gone(attribution: Attribution) -> bool:
    return attribution == UNATTRIBUTED or attribution.quality is Quality.INFERRED


class AdaptiveInterval:
    """The interval from one lookup to the next, and the batch interval of the capture."""

    def __init__(self) -> None:
        self._interval = 0.0
        self._ceiling = _MAX_INTERVAL
        self._too_late = 0
        """Lookups in a row that were too late."""
        self.batch_interval = _BATCH
        """For how long the capture may sum packets, in seconds."""

    def next_interval(self, cpu_seconds: float, verdict: LookupVerdict) -> float:
        """Return how many seconds to wait after a lookup that took this much CPU time."""
        if verdict.flows:
            shortest = min(_COST_FACTOR * cpu_seconds, _MAX_SHORTEST)
            regime = next(one for one in _REGIMES if one.applies(verdict))
            self._too_late = self._too_late + 1 if regime is _TOO_LATE else 0
            regime.adapt(self, shortest)
        return self._interval

    def adapt_to_reuse(self, shortest: float) -> None:
        """Keep packets of two processes apart."""
        self._interval, self.batch_interval = shortest, _SHORT_BATCH

    def adapt_to_final(self, shortest: float) -> None:
        """Save lookups: a later one finds the same."""
        self._grow(shortest, _MAX_FINAL_INTERVAL)
        self.batch_interval = _FINAL_BATCH if self._interval > _MAX_INTERVAL else _BATCH

    def adapt_to_too_late(self, _shortest: float) -> None:
        """Save lookups after some that found no socket."""
        is_hopeless = self._too_late > _MAX_FREQUENT
        self._interval = _MAX_LATE_INTERVAL if is_hopeless else _FREQUENT
        self.batch_interval = _LATE_BATCH if is_hopeless else _BATCH

    def adapt_to_late(self, shortest: float) -> None:
        """Look up sooner, and stay below the interval at which sockets were closed."""
        at_loss = min(self._interval, _MAX_INTERVAL)
        self._ceiling = max(shortest, _CEILING_AFTER_LATE * at_loss)
        self._interval, self.batch_interval = shortest, _SHORT_BATCH

    def adapt_to_in_time(self, shortest: float) -> None:
        """Save lookups up to the ceiling, and raise the ceiling a little."""
        self._ceiling = min(self._ceiling * _RECOVERY, _MAX_INTERVAL)
        self._grow(shortest, self._ceiling)
        if self._ceiling == _MAX_INTERVAL:
            self.batch_interval = _BATCH

    def _grow(self, shortest: float, bound: float) -> None:
        self._interval = min(max(self._interval, shortest) * _GROWTH, bound)


class _Regime(NamedTuple):
    applies: Callable[[LookupVerdict], bool]
    adapt: Callable[[AdaptiveInterval, float], None]


_REUSED = _Regime(
    lambda one: one.contested > 0 or one.reusable > _MAX_REUSABLE, AdaptiveInterval.adapt_to_reuse
)
_FINAL = _Regime(lambda one: one.final >= _NEARLY_ALL * one.flows, AdaptiveInterval.adapt_to_final)
_TOO_LATE = _Regime(
    lambda one: one.gone >= _NEARLY_ALL * one.flows, AdaptiveInterval.adapt_to_too_late
)
_ONE_END_TOO_LATE = _Regime(
    lambda one: one.gone >= _NEARLY_ALL * (one.flows - one.final_with_socket),
    AdaptiveInterval.adapt_to_too_late,
)
_LATE = _Regime(lambda one: one.gone > _TOLERATED * one.flows, AdaptiveInterval.adapt_to_late)
_IN_TIME = _Regime(lambda _one: True, AdaptiveInterval.adapt_to_in_time)

_REGIMES = (_REUSED, _FINAL, _TOO_LATE, _ONE_END_TOO_LATE, _LATE, _IN_TIME)


class LookupPacer:
    """When the next lookup may begin: after the adaptive interval, and within the CPU budget.

    `set_batch_interval` is called with the batch interval of the capture after each lookup of flows
    that were not known.
    """

    def __init__(
        self, cpu_budget: float, now: float, set_batch_interval: Callable[[float], None]
    ) -> None:
        self.interval = AdaptiveInterval()
        self._budget = CpuBudget(cpu_budget, now)
        self._not_before = now
        self._set_batch_interval = set_batch_interval

    def ready_at(self) -> float:
        """Return the earliest time of the next lookup."""
        return max(self._budget.ready_at(), self._not_before)

    def lookup_ended(self, cpu_seconds: float, verdict: LookupVerdict, now: float) -> None:
        """Adapt to a lookup that took so much CPU time and ended `now`."""
        self._budget.spend(cpu_seconds, now)
        self._not_before = now + self.interval.next_interval(cpu_seconds, verdict)
        if verdict.flows:
            self._set_batch_interval(self.interval.batch_interval)
