"""The seams of attribution: who looks owners up, and what the stage tells of its work."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from hogpipe.attribution.latency import Latency
from hogpipe.model import Attribution, FlowKey, Span, Tally

FlowTimes = Mapping[FlowKey, Sequence[Span]]
"""Flows to look up: when the packets passed whose owner is asked for, piece by piece; nothing where
it is the owner of the moment."""


class LedgerUse(msgspec.Struct):
    """What a ledger in use has done; the numbers only grow, but for `sockets`."""

    sockets: int = 0
    """Sockets that it knows now."""
    events: int = 0
    """What the kernel told of sockets."""
    events_lost: int = 0
    """Events that the kernel had no room to tell."""
    sockets_lost: int = 0
    """Sockets that the kernel had no memory to note."""
    malformed: int = 0
    """Events that made no sense."""
    forgotten: int = 0
    """Sockets and answers that were forgotten before their time, because there were too many, or
    because events were lost."""
    unknown: int = 0
    """Sockets that were released and had not been known."""
    shared: int = 0
    """Answers not given because sockets of several owners fit, at once or in turn."""
    unidentified: int = 0
    """Times that a process was gone before its start could be read."""
    seeded: int = 0
    """Times that the sockets that are there were taken in: at first, and after losses of events."""
    not_entered: int = 0
    """Times that another network namespace could not be entered to be recognised."""

    def since(self, earlier: "LedgerUse") -> "LedgerUse":
        """Return what was done after `earlier`, with the sockets known now."""
        grown = _subtract(msgspec.structs.asdict(self), msgspec.structs.asdict(earlier))
        return LedgerUse(**grown | {"sockets": self.sockets})


def _subtract(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {name: now[name] - before[name] for name in now}


class ResolverCounts(msgspec.Struct):
    """What a resolver has done since it was made; the numbers only grow."""

    reads: int = 0
    """Socket tables read."""
    tuples_asked: int = 0
    """Single connections asked for over sock_diag, in place of a whole table."""
    dumps_interrupted: int = 0
    """Tables over sock_diag that may miss sockets because they changed meanwhile."""
    dumps_refused: int = 0
    """Times that sock_diag failed and /proc/net was read in its place."""
    fds_read: int = 0
    """Links of /proc/PID/fd read."""
    fds_forgotten: int = 0
    """Fds that were forgotten because there were too many: they may be read again."""
    walks: int = 0
    """Look-ups that read fds beyond verifying what was known."""
    not_permitted: int = 0
    """Processes whose descriptors the kernel refused to show."""
    malformed_files: int = 0
    """Files of processes that made no sense."""
    rows_skipped: int = 0
    """Rows of a socket table that could not be read."""
    put_off: int = 0
    """Sockets whose owner, and flows of other namespaces whose socket, was left to the next
    look-up, once for each."""
    shared: int = 0
    """Sockets without an owner because strangers hold them, once for each look-up."""
    ledger: LedgerUse | None = None
    """None where no ledger is in use."""

    def since(self, earlier: "ResolverCounts") -> "ResolverCounts":
        """Return what was done after `earlier`."""
        before, now = msgspec.structs.asdict(earlier), msgspec.structs.asdict(self)
        ledger = now.pop("ledger")
        grown = _subtract(now, before)
        if ledger is not None:
            ledger = ledger.since(before["ledger"] or LedgerUse())
        return ResolverCounts(**grown, ledger=ledger)


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

    def take_stale(self) -> Collection[FlowKey]:
        """Return the flows whose answers may be others now, each once.

        Cheap, and may be called while another thread resolves; what is being resolved meanwhile may
        be answered as it was before.
        """

    def counts(self) -> ResolverCounts:
        """Return what was done so far."""

    def close(self) -> None:
        """Let go of what `prepare` took, whether it came to its end or not."""


class AttributionCounts(msgspec.Struct):
    """What the attribution stage did since the last time it was asked."""

    new_flows: int = 0
    """Flows that had to be looked up."""
    batches: int = 0
    """Look-ups, each for all flows that were due."""
    failed_batches: int = 0
    """Look-ups that the host refused."""
    forgotten_flows: int = 0
    """Flows dropped from memory because they were idle or too many."""
    overflowed: Tally = msgspec.field(default_factory=Tally)
    """What was told without an owner because too many flows were waiting."""
    pending_flows: int = 0
    """Flows that wait for an owner now."""
    pending_bytes: int = 0
    """Bytes of both directions that wait for an owner now."""
    lookup_seconds: float = 0.0
    """CPU time of the look-ups."""
    latency: Latency | None = None
    """How long new flows waited for an answer; None where none got its first one."""
    resolver: ResolverCounts = msgspec.field(default_factory=ResolverCounts)
    """What the resolver did in the same time."""
