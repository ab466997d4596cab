"""PURE: owners of packets, as options and comments of a pcapng file.

A comment for each local side of a packet: the direction, the owner and the quality:

    transmit: nginx, pid 4242, user www-data, unit nginx.service; exact
    receive: nginx, pid 77, user root, container web, pod shop/web-1; exact
    transmit: kernel: vxlan; inferred

The process id of the packet is that of the selected side; of two, the one that transmits.
"""

from hogpipe.capture.formats.pcapng_encoder import INBOUND, OUTBOUND, encode_annotation
from hogpipe.model import Attribution, ContainerNames, Process
from hogpipe.packets.packet_buffer import Packet
from hogpipe.text import printable

_MAX_ANNOTATIONS = 4096
_ID_DIGITS = 12  # of the id of a container, as its runtime lists it


class Annotator:
    """Returns the options of packets; at most `_MAX_ANNOTATIONS` are kept for the next packet."""

    def __init__(self) -> None:
        self._known: dict[tuple[Attribution | None, Attribution | None, bool], bytes] = {}

    def annotate(self, packet: Packet) -> bytes:
        """Return the options of a packet."""
        prefers_receiver = packet.selects_receiver and not packet.selects_transmitter
        sides = packet.transmitter, packet.receiver
        key = *sides, prefers_receiver
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MAX_ANNOTATIONS:
                self._known.clear()
            known = self._known[key] = annotate(*sides, prefers_receiver=prefers_receiver)
        return known


def annotate(
    transmitter: Attribution | None, receiver: Attribution | None, *, prefers_receiver: bool
) -> bytes:
    """Return the options of a packet with these local sides; None where a side is not local."""
    comments = []
    if transmitter is not None:
        comments.append(f"transmit: {describe(transmitter)}")
    if receiver is not None:
        comments.append(f"receive: {describe(receiver)}")
    sides = (receiver, transmitter) if prefers_receiver else (transmitter, receiver)
    owners = [one.process for one in sides if one is not None and one.process]
    direction = 0
    if (transmitter is None) != (receiver is None):
        direction = OUTBOUND if receiver is None else INBOUND
    return encode_annotation(comments, owners[0].pid if owners else 0, direction)


def describe(attribution: Attribution) -> str:
    """Return an owner and its quality in one printable line."""
    parts = []
    if process := attribution.process:
        parts += [process.name, f"pid {process.pid}"]
        user = process.user_name or process.user_id
        parts += [f"user {user}"] if user is not None else []
        parts += [f"unit {process.unit}"] if process.unit else []
        parts += _describe_container(process)
    elif attribution.user is not None:
        parts.append(f"user {attribution.user.name or attribution.user.id}")
    elif attribution.kernel is not None:
        parts.append(f"kernel: {attribution.kernel}")
    elif attribution.is_translated:
        parts.append("translated copy")
    else:
        parts.append("no owner")
    return printable(f"{', '.join(parts)}; {attribution.quality}")


def _describe_container(process: Process) -> list[str]:
    """Return the container and the pod by their names, which are their ids where unknown."""
    names = process.container_names or ContainerNames()
    parts = []
    if process.container:
        parts.append(f"container {names.name or process.container[:_ID_DIGITS]}")
    if process.pod and names.pod_name:
        parts.append(f"pod {names.pod_namespace}/{names.pod_name}")
    elif process.pod:
        parts.append(f"pod {process.pod}")
    return parts
