"""PURE: the processes of attributions as they are described last.

In: attributions, whose processes may have executed another program or moved to another control
group since. Out: attributions to the same processes as `recall` describes them, which is called
once for each process in a generation.

Bounds: two generations are kept, of at most 4,096 processes each.
"""

from collections.abc import Callable

import msgspec

from hogpipe.model import Attribution, Process

_MAX_PROCESSES = 4096


class LatestProcesses:
    """Processes of the present generation and the one before."""

    def __init__(self, recall: Callable[[Process], Process]) -> None:
        self._recall = recall
        # A process as it was described, by its identity as an object, and as of late.
        self._latest: dict[int, tuple[Process, Process]] = {}
        self._former_latest: dict[int, tuple[Process, Process]] = {}

    def describe(self, attribution: Attribution) -> Attribution:
        """Return an attribution to the same process as it is described last."""
        process = attribution.process
        if process is None:
            return attribution
        known = self._latest.get(id(process))
        if known is None:
            if len(self._latest) >= _MAX_PROCESSES:
                self.start_generation()
            known = self._latest[id(process)] = process, self._recall(process)
        latest = known[1]
        if latest is process:
            return attribution
        return msgspec.structs.replace(attribution, process=latest)

    def start_generation(self) -> None:
        """Recall processes again from now on."""
        self._former_latest, self._latest = self._latest, {}

    def list_all(self) -> list[Process]:
        """Return the processes of both generations; one may be there more than once."""
        return [latest for _, latest in (*self._former_latest.values(), *self._latest.values())]
