"""The seam between the attribution stage and whatever finds the owners of flows.

The stage asks for a batch of flows, each with the time spans in which its packets passed. The
resolver reads the host once for the whole batch and returns a `Resolution` for each flow that it
looked at. A Resolution is complete: nothing about a batch is asked afterwards.

Two questions remain for later, when flows must be emitted without another lookup: `recall` and
`infer`. Both are answered from memory and are safe from any thread, also while `resolve` runs.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from hogpipe.model import Attribution, FlowDelta, FlowKey, ResolverCounts, Span

FlowsInSpans = Sequence[tuple[FlowKey, Span | None]]
"""Flows, each with the span in which its packets passed, None for now."""
FlowSpans = Mapping[FlowKey, Sequence[Span]]
"""Flows to look up, each with the spans in which its packets passed, in order. Without a span the
owner at the time of the lookup is asked for."""


class Resolution(msgspec.Struct, frozen=True, gc=False):
    """All that one lookup found out about one flow."""

    attribution: Attribution
    """UNATTRIBUTED: the flow has no socket any more. Quality NONE with a user: the socket exists,
    its owner is not known."""
    is_final: bool = False
    """Whether a later lookup would find the same."""
    may_be_refined: bool = False
    """Whether the socket exists and its holder may be found later: `attribution` is the owner that
    counts if it is not. Never together with `is_final`."""
    awaits_accept: bool = False
    """Whether no process has accepted the connection yet: `attribution` is that of its listener."""
    may_be_reused: bool = False
    """Whether another process may use the five-tuple at once, so that packets of the two must not
    be summed before they are looked up."""
    open_for: float = 0.0
    """For how many seconds the socket has been open, as far as is known; infinity if its release
    will be reported (`StaleFlows`)."""
    owners_by_span: tuple[Attribution, ...] | None = None
    """One attribution for each span, where several processes used the five-tuple one after the
    other; None where one process used it in all spans."""


class Resolver(Protocol):
    """Finds the owners of flows. `prepare`, `resolve` and `close` block; one thread calls them."""

    def prepare(self) -> None:
        """Read ahead what later lookups build upon.

        Raises OSError like `resolve`, and HogpipeError where a required source is not available.
        """

    def describe(self) -> str:
        """Return where owners come from, in words for the user, once `prepare` has returned."""

    def describe_reading(self) -> str:
        """Return what is being read of the host, or was read last, in words for the user.

        Safe from any thread, also while a lookup runs.
        """

    @property
    def has_history(self) -> bool:
        """Whether owners are recorded as sockets change, once `prepare` has returned.

        Then packets of several processes on one five-tuple are kept apart by the time when they
        passed, and what a later lookup finds is the same. Otherwise spans do not matter.
        """

    def resolve(self, flows: FlowSpans) -> dict[FlowKey, Resolution]:
        """Return what one look at the host finds out about `flows`.

        A flow is absent if it was not looked for, or if what was found is ambiguous; it may be
        looked up again. Raises OSError if the host cannot be read.
        """

    def recall(self, flows: FlowsInSpans) -> Sequence[Resolution | None]:
        """Return the recorded owner of each flow that no lookup reached, without reading the host.

        UNATTRIBUTED if several processes used the flow in its span; None if nothing is recorded.
        Safe from any thread. Takes some 10 us a flow, for which a lookup may have to wait.
        """

    def infer(self, flow: FlowKey) -> Attribution:
        """Apply the endpoint heuristic to a flow without a socket, without reading the host.

        UNATTRIBUTED if the heuristic names no owner. Safe from any thread.
        """

    def infer_sender(self, flow: FlowKey, moved: FlowDelta) -> Attribution:
        """Return who may have sent a flow of which nothing is known, without reading the host.

        `moved` is what it moved while it was pending. UNATTRIBUTED if no rule names a sender. Safe
        from any thread.
        """

    def counts(self) -> ResolverCounts:
        """Return the counters; they only grow."""

    def close(self) -> None:
        """Release what `prepare` acquired, whether `prepare` succeeded or not."""
