"""PURE: what a pipeline needs of an aggregator: types only.

`Aggregator` makes records of the traffic. One that takes its place, as the live flows of
`hogpipe top`, may pass the traffic on without records.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Protocol

from hogpipe.aggregation.selectors import Selector
from hogpipe.flows.packet_rows import FlowSums
from hogpipe.model import Attribution, Networks, Process, ServicePorts
from hogpipe.records.schema import TrafficBody


class WindowAggregator(Protocol):
    """Adds up the traffic of one window after the other; `Aggregator` is one."""

    bytes_by_quality: dict[str, int]
    """Of the window that was drained last, as the next two."""
    folded_groups: int
    uncounted_flows: int
    needs_service_ports: bool
    """Whether it uses `service_ports`."""
    service_ports: ServicePorts
    """What is known of this host's ports."""

    def ingest(self, sums: FlowSums) -> None:
        """Add what flows moved; may be called several times in a window."""

    def regroup(
        self,
        group_by: Collection[str],
        only: Sequence[Selector],
        max_records: int,
        networks: Networks,
    ) -> None:
        """Use other dimensions, selectors and named networks, from the next window on."""

    def invalidate_routes(self) -> None:
        """Describe processes again, as the description of one has changed.

        The caller has ingested what the flow table had until then.
        """

    def recall_processes(self, attributions: Iterable[Attribution]) -> None:
        """Describe the processes of this window's traffic that is not ingested yet as of now."""

    @property
    def processes(self) -> Collection[Process]:
        """The processes that had traffic in this window or in the one before."""

    def drain(self) -> Iterator[TrafficBody]:
        """End the window and return the bodies of its records."""
