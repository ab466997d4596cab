"""Lookups for tests that ask a resolver for owners and nothing else."""

from collections.abc import Collection

from hogpipe.attribution.procfs.procfs_resolver import ProcfsResolver
from hogpipe.attribution.resolver import Resolver
from hogpipe.model import Attribution, FlowKey


def attribute(
    resolver: Resolver | ProcfsResolver, flows: Collection[FlowKey]
) -> dict[FlowKey, Attribution]:
    """Look `flows` up as of now; return the attributions alone."""
    found = resolver.resolve(dict.fromkeys(flows, ()))
    return {flow: resolution.attribution for flow, resolution in found.items()}
