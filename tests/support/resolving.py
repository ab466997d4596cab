"""Lookups for tests that ask a resolver for owners and nothing else, and a resolver without any."""

from collections.abc import Collection

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import FlowsInSpans, FlowSpans, Resolution, Resolver
from hogpipe.model import UNATTRIBUTED, Attribution, FlowDelta, FlowKey, ResolverCounts


class BlankResolver:
    """Knows no owner, at any time; a test replaces what it is about."""

    def prepare(self) -> None: ...

    def resolve(self, _flows: FlowSpans, /) -> dict[FlowKey, Resolution]:
        return {}

    def recall(self, flows: FlowsInSpans) -> list[Attribution | None]:
        return [None for _ in flows]

    @property
    def has_history(self) -> bool:
        return False

    def infer(self, _flow: FlowKey) -> Attribution:
        return UNATTRIBUTED

    def infer_sender(self, _flow: FlowKey, _moved: FlowDelta) -> Attribution:
        return UNATTRIBUTED

    def counts(self) -> ResolverCounts:
        return ResolverCounts()

    def close(self) -> None: ...


def attribute(
    resolver: Resolver | ProcfsResolver, flows: Collection[FlowKey]
) -> dict[FlowKey, Attribution]:
    """Look `flows` up as of now; return the attributions alone."""
    found = resolver.resolve(dict.fromkeys(flows, ()))
    return {flow: resolution.attribution for flow, resolution in found.items()}
