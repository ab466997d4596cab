"""The seams of attribution: who looks owners up, and what the stage tells of its work."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from hogpipe.model import (
    Attribution,
    FlowKey,
    ResolverCounts,
    Span,
)

FlowTimes = Mapping[FlowKey, Sequence[Span]]
"""Flows to look up: when the packets passed whose owner is asked for, piece by piece; nothing where
it is the owner of the moment."""


class Resolver(Protocol):
    """Finds the owners of flows. It blocks, and is called by one executor thread at a time."""

    def prepare(self) -> None:
        """Read ahead what later look-ups build upon; raises OSError like `resolve`.

        Raises HogpipeError where what was asked for cannot be had.
        """

    def resolve(self, flows: FlowTimes) -> dict[FlowKey, Attribution]:
        """Return what is known of `flows` after one look at the host.

        A flow that is UNATTRIBUTED in the answer has no socket any more. One with quality NONE and
        a user has, and one that is absent was not looked for: both may be asked for again. Raises
        OSError if the host could not be looked at.
        """

    def infer(self, flow: FlowKey) -> Attribution:
        """Return what follows for `flow` from what look-ups have seen, without a look.

        UNATTRIBUTED if nothing does. Cheap, and may be called while another thread resolves.
        """

    def shares(self, flow: FlowKey) -> Sequence[Attribution] | None:
        """Return whose each piece of `flow` was, looked up just now, if several had it in turn.

        None if it is all of one. Cheap, and may be called while another thread resolves.
        """

    def recall(self, flow: FlowKey, span: Span | None) -> Attribution | None:
        """Return whose `flow` was then as far as that is known without a look; None if it is not.

        UNATTRIBUTED if several had it in turn. For flows that no look-up came to. Cheap, and may be
        called while another thread resolves.
        """

    def can_wait(self, flow: FlowKey, answer: Attribution) -> bool:
        """Return whether a later look-up would have given `flow` the same answer.

        Cheap, and may be called while another thread resolves.
        """

    def may_pass_on(self, flow: FlowKey) -> bool:
        """Return whether others may use the ends of `flow`, looked up just now, and be told so.

        What they move must not be gathered with it then. Cheap, and may be called while another
        thread resolves.
        """

    def counts(self) -> ResolverCounts:
        """Return what was done so far."""

    def close(self) -> None:
        """Let go of what `prepare` took, whether it came to its end or not."""
