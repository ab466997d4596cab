"""PURE: which attributions of known flows are due for another lookup, and how many at a time.

In: flows in use whose attribution is due, in that order. Out: questions for a lookup, the oldest
first; an attribution is used until its question is answered.

One question for many flows
---------------------------
Flows of one local endpoint without connections share a question, unless their own sockets were
seen: their owner is that of the unconnected socket on the port (`question_of`). An answer that is
not by the port counts for the flow that was asked about alone (`is_by_port`).

Budget
------
Rechecks and comparisons take at most `_SHARE` of a core, by measured cost, however many flows are
known: with more flows each is looked up less often, in turn. A comparison that the budget does not
permit is a recheck, so that its bytes are not pending.

Flows that no lookup reached while they were pending have a queue of their own, with a `share` that
only the budget of all lookups bounds: they are looked up as soon as new flows leave room.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from itertools import islice

from hogpipe.attribution.budget import CpuBudget
from hogpipe.model import Attribution, FlowKey, Quality
from hogpipe.protocols import TCP, WITH_PORTS

_SHARE, UNBOUNDED_SHARE = 0.02, 1.0
_FIRST_COST, _LEAST_COST = 50e-6, 1e-6
_JUDGED_SECONDS = 12e-6  # of CPU, on the event loop, for each flow
_DROPPED = 4096  # questions, some 8 ms; no more flows begin with a lookup
_WEIGHT = 0.25  # of a measured cost beside those before


def question_of(flow: FlowKey, attribution: Attribution) -> Hashable:
    """Return what flows have in common that one answer serves."""
    if flow.protocol == TCP or flow.protocol not in WITH_PORTS or not is_by_port(attribution):
        return flow
    return flow.protocol, flow.local_address, flow.local_port, flow.interface, flow.namespace


def is_by_port(attribution: Attribution) -> bool:
    """Return whether an attribution follows from the local port, or from no socket there."""
    is_none_or_listener = attribution.quality in (Quality.LISTENER, Quality.NONE)
    return is_none_or_listener and not attribution.is_translated


class RecheckQueue:
    """Flows in use whose attribution is older than `interval` seconds.

    They are looked up together with new flows. Alone they are worth a lookup once in `interval`.
    `share` is that of one core which they may take, by default the one of rechecks.
    """

    def __init__(self, interval: float, now: float, *, share: float | None = None) -> None:
        self.interval = interval
        self._flows_by_question: dict[Hashable, list[FlowKey]] = {}
        self.flows = 0
        """How many flows there are; one that was evicted meanwhile may be there again."""
        self._budget = CpuBudget(_SHARE if share is None else share, now, burst=max(interval, 1.0))
        self._cost = _FIRST_COST
        """CPU seconds of a question, on average."""
        self._last_lookup = -math.inf
        self._due = math.inf

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self._flows_by_question)

    def add(self, flow: FlowKey, attribution: Attribution) -> None:
        """Add a flow that is due for a recheck of `attribution`; it is in the queue once."""
        question = question_of(flow, attribution)
        self._flows_by_question.setdefault(question, []).append(flow)
        self.flows += 1
        self._due = self._last_lookup + self.interval

    def permits_comparison(self, now: float) -> bool:
        """Return whether a flow may be compared now; then the comparison is paid for."""
        if self._budget.credit(now) <= 0:
            return False
        self._budget.spend(self._cost + _JUDGED_SECONDS, now)
        return True

    def next_due(self) -> float:
        """Return when the flows are worth a lookup of their own; infinity for never."""
        return self._due

    def take(self, max_questions: int, now: float) -> list[Sequence[FlowKey]]:
        """Return questions for a lookup that begins `now`: their flows, the one to ask about first.

        There are at most as many as the budget permits.
        """
        credit = self._budget.credit(now)
        permitted = math.ceil(credit / self._cost) if credit > 0 else 0
        number = min(max(0, max_questions), permitted)
        taken = list(islice(self._flows_by_question, number))
        self._last_lookup = now
        if len(taken) == len(self._flows_by_question):
            self._due = math.inf
        else:
            self._due = now if permitted > max_questions else now + self.interval
        questions: list[Sequence[FlowKey]] = [
            self._flows_by_question.pop(question) for question in taken
        ]
        self.flows -= sum(map(len, questions))
        return questions

    def drop_unknown(self, is_known: Callable[[FlowKey], bool]) -> None:
        """Drop flows that are not known any more, of the `_DROPPED` oldest questions.

        The others among those come last then, so that further calls look at all.
        """
        for question in list(islice(self._flows_by_question, _DROPPED)):
            flows = self._flows_by_question.pop(question)
            kept = [flow for flow in dict.fromkeys(flows) if is_known(flow)]
            self.flows += len(kept) - len(flows)
            if kept:
                self._flows_by_question[question] = kept
        if not self._flows_by_question:
            self._due = math.inf

    def answered(
        self, questions: Sequence[Sequence[FlowKey]], cpu_seconds: float, now: float
    ) -> None:
        """Pay for `questions`, which took a lookup this much CPU time."""
        if questions:
            flows = sum(map(len, questions))
            self._budget.spend(cpu_seconds + _JUDGED_SECONDS * flows, now)
            cost = max(cpu_seconds / len(questions), _LEAST_COST)
            self._cost += _WEIGHT * (cost - self._cost)
