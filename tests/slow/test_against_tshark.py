"""Five-tuples and lengths are those that tshark finds, or the difference has a reason.

Frames: generated ones of every link type, mutated ones, and the captures in the sources of tcpdump,
libpcap and Wireshark. `REASONS` are all differences that exist, in the words of
docs/hostile-input.md; any other one fails.
"""

import gzip
import platform
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from support.captures import Captured, pcap_file
from support.mutated_frames import PACKETS, mutated_batches, wrap_variously
from support.namespaces import require
from support.tshark import DissectedPacket, Dissection, count_frames, dissect

from hogpipe.capture.decode.link_type_names import is_decodable
from hogpipe.capture.decode.scalar_ip import DecodedFrame, decode_frame
from hogpipe.capture.decode.scalar_link import LinkType, Rejection
from hogpipe.capture.decode.wire_key import unpack_key
from hogpipe.capture.formats.make_parser import make_parser
from hogpipe.capture.formats.savefile_parser import MalformedFileError

MUTATED = 2000
SOURCES = ("tcpdump", "libpcap", "wireshark")
SUFFIXES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz")
LEAST_CAPTURES, LEAST_FRAMES = 700, 15_000
DOCS = Path(__file__).parents[2] / "docs" / "hostile-input.md"
# Raw IP has another number in a file; tshark does not read PPP with a direction in place of the
# address byte, so it gets the address byte.
IN_A_FILE = {12: 101, 14: 101, 166: 9}


class Difference(NamedTuple):
    """A frame of which hogpipe and tshark say different things."""

    link_type: int
    frame: Captured
    mine: DissectedPacket | Rejection
    theirs: Dissection

    @property
    def is_missing(self) -> bool:
        """Whether only tshark finds a packet."""
        return isinstance(self.mine, Rejection) and self.theirs.is_reachable

    @property
    def header_at(self) -> int:
        """Where tshark's packet begins, found by its version and addresses; -1 without a packet."""
        packet, frame = self.theirs.packet, self.frame.frame
        if packet is None:
            return -1
        version, before = (4, 12) if len(packet.source) == 4 else (6, 8)
        addresses = packet.source + packet.destination
        begins = (at for at, octet in enumerate(frame) if octet >> 4 == version)
        return next((at for at in begins if frame.startswith(addresses, at + before)), -1)

    @property
    def claimed(self) -> int:
        """The number in the length field of the packet."""
        at = self.header_at + (2 if self.is_ipv4 else 4)
        return int.from_bytes(self.frame.frame[at : at + 2])

    @property
    def is_ipv4(self) -> bool:
        return "ip" in self.theirs.layers and self.theirs.layers[len(self.theirs.path)] == "ip"

    def differs_in(self, *names: str) -> bool:
        """Return whether both find the packet, and only these fields of it differ."""
        mine, theirs = self.mine, self.theirs.packet
        if isinstance(mine, Rejection) or theirs is None:
            return False
        same = mine._replace(**{name: getattr(theirs, name) for name in names})
        return same == theirs


def _exceeds_frame(one: Difference) -> bool:
    packet, length = one.theirs.packet, one.frame.length or len(one.frame.frame)
    return one.is_missing and packet is not None and one.header_at + packet.length > length


def _has_no_length(one: Difference) -> bool:
    ports = ("source_port", "destination_port", "length")
    return one.claimed == 0 and (one.differs_in(*ports) or one.is_missing)


def _has_two_lengths(one: Difference) -> bool:
    return one.claimed > 0 and not one.is_ipv4 and one.differs_in("length")


def _lacks_options(one: Difference) -> bool:
    frame, layers = one.frame.frame, one.theirs.layers
    if one.theirs.packet is not None or layers[-1] != "ip" or isinstance(one.mine, Rejection):
        return False
    at = frame.find(one.mine.source + one.mine.destination) - 12
    return len(frame) < at + 4 * (frame[at] & 15)


def _is_cut_extension(one: Difference) -> bool:
    return not one.is_ipv4 and one.differs_in("protocol") and one.theirs.layers[-1][:5] == "ipv6."


def _is_wrong_ppp(one: Difference) -> bool:
    return "pppoes" in one.theirs.layers or one.link_type in (9, 50, 51, 166)


REASONS: dict[str, Callable[[Difference], bool]] = {
    "the IP header claims more bytes than the frame has": _exceeds_frame,
    "DCCP": lambda one: "dccp" in one.theirs.layers,
    "no length in the IP header (BIG TCP)": _has_no_length,
    "a payload length and a jumbo option": _has_two_lengths,
    "IPv4 options that are cut": _lacks_options,
    "an extension header that is cut, or longer than its packet": _is_cut_extension,
    "the former number of the mobility header": lambda one: "mipv6" in one.theirs.layers,
    "ICMP in IPv6": lambda one: "icmp" in one.theirs.layers and not one.is_ipv4,
    "a PPP or PPPoE header with a wrong field": _is_wrong_ppp,
}


def compare(link_type: int, frames: Iterable[Captured], folder: Path) -> list[Difference]:
    """Return the differences for frames of a link type."""
    frames = [frame for frame in frames if frame.frame]
    shown = [one._replace(frame=b"\xff" + one.frame[1:]) for one in frames]
    path = folder / f"{link_type}.pcap"
    path.write_bytes(
        pcap_file(shown if link_type == LinkType.PPP_PPPD else frames,
                  IN_A_FILE.get(int(link_type), int(link_type)))
    )  # fmt: skip
    found = dissect(path)
    assert len(found) == len(frames)
    pairs = zip(frames, found, strict=True)
    differences = [Difference(link_type, one, decode(link_type, one), it) for one, it in pairs]
    return [one for one in differences if not is_same(one)]


def decode(link_type: int, one: Captured) -> DissectedPacket | Rejection:
    decoded = decode_frame(link_type, one.frame, one.length or len(one.frame))
    if not isinstance(decoded, DecodedFrame):
        return decoded
    key = unpack_key(decoded.key)
    return DissectedPacket(
        key.protocol,
        key.source, key.source_port, key.destination, key.destination_port,
        decoded.length,
    )  # fmt: skip


def is_same(one: Difference) -> bool:
    if isinstance(one.mine, Rejection):
        return not one.theirs.is_reachable
    return one.theirs.is_reachable and one.mine == one.theirs.packet


def explain(differences: Iterable[Difference]) -> Counter[str]:
    """Return how many differences have each reason; fails if one has none."""
    reasons, unexplained = Counter[str](), []
    for one in differences:
        reason = next((name for name, holds in REASONS.items() if holds(one)), None)
        if reason is None:
            layers = ":".join(one.theirs.layers)
            frame = f"{one.frame.frame.hex()} of {one.frame.length}"
            unexplained.append(f"{layers}: {one.mine}, {one.theirs.packet}, {frame}")
        else:
            reasons[reason] += 1
    assert not unexplained, "\n".join(unexplained)
    return reasons


@pytest.mark.parametrize("link_type", LinkType)
def test_generated_frames_are_dissected_alike(tmp_path: Path, link_type: LinkType) -> None:
    require("tshark")
    jumbo = 70_100  # as long as the longest packet claims to be
    frames = [
        Captured(1, frame, max(len(frame), jumbo if b"\xc2\x04\0\1" in frame else 0))
        for packet in PACKETS
        for frame in wrap_variously(link_type, packet)
    ]
    reasons = explain(compare(link_type, frames, tmp_path))
    assert set(reasons) <= {"no length in the IP header (BIG TCP)"}


@pytest.mark.parametrize("link_type", LinkType)
def test_mutated_frames_are_dissected_alike_or_for_a_reason(
    tmp_path: Path, link_type: LinkType
) -> None:
    require("tshark")
    frames = []
    for batch in mutated_batches(link_type, MUTATED, seed=link_type + 1):
        assert batch.original_lengths is not None
        for (*_, start, size), length in zip(
            batch.records.tolist(), batch.original_lengths.tolist(), strict=True
        ):
            frames.append(Captured(1, batch.data[start : start + size], length))
    reasons = explain(compare(link_type, frames, tmp_path))
    print(link_type.name, dict(reasons))
    assert sum(reasons.values()) < MUTATED // 4


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The captures in the sources of SOURCES, as Debian has them."""
    require("apt-get", "tshark", "capinfos")
    folder = tmp_path_factory.mktemp("sources")
    (folder / "lists" / "partial").mkdir(parents=True)
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)",
         "Created-By: Packages", "Component: main",
         f"Codename: {platform.freedesktop_os_release()['VERSION_CODENAME']}"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    lines = {f"deb-src {one}\n" for one in targets.splitlines()}
    (folder / "sources.list").write_text("".join(sorted(lines)))
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    subprocess.run([*apt, "update"], check=True, cwd=folder)
    subprocess.run([*apt, "source", "--download-only", *SOURCES], check=True, cwd=folder)
    return [path for one in sorted(folder.glob("*.orig.tar.*")) for path in _extract(one, folder)]


def _extract(archive: Path, folder: Path) -> Iterator[Path]:
    """Yield the captures in an archive, once extracted and decompressed."""
    if archive.suffix == ".asc":
        return
    target = folder / archive.name.partition("_")[0]
    with tarfile.open(archive) as opened:
        for member in opened:
            if not member.isfile() or not member.name.endswith(SUFFIXES):
                continue
            opened.extract(member, target, filter="data")
            path = target / member.name
            if path.suffix == ".gz":
                path = path.with_suffix("")
                path.write_bytes(gzip.decompress((target / member.name).read_bytes()))
            yield path


def read_frames(path: Path) -> list[tuple[int, Captured]] | None:
    """Return link type and frame of each frame in a capture file; None if it is none."""
    data, found = path.read_bytes(), []
    try:
        parser = make_parser(data)
    except MalformedFileError:
        return None
    used = 1
    while used and parser.failure is None:
        parsed = parser.parse(data)
        assert parsed.frames.original_lengths is not None
        rows = parsed.frames.records.tolist(), parsed.frames.original_lengths.tolist()
        for (*_, start, size), length, index in zip(*rows, parsed.interface.tolist(), strict=True):
            frame = parsed.frames.data[start : start + size]
            found.append((parser.interfaces[index].link_type, Captured(1, frame, length)))
        used, data = parsed.used, data[parsed.used :]
    return found


def test_public_captures_are_read_and_dissected_alike_or_for_a_reason(
    captures: list[Path], tmp_path: Path
) -> None:
    assert len(captures) > LEAST_CAPTURES
    counts = count_frames(captures)  # of those that Wireshark can read
    by_link_type: dict[int, list[Captured]] = {}
    for path in captures:
        frames = read_frames(path)
        if path in counts:
            assert frames is not None, path
            assert len(frames) == counts[path], path
        for link_type, frame in frames or []:
            by_link_type.setdefault(link_type, []).append(frame)
    decodable = {kind: frames for kind, frames in by_link_type.items() if is_decodable(kind)}
    assert sum(map(len, decodable.values())) > LEAST_FRAMES
    reasons = Counter[str]()
    for link_type, frames in decodable.items():
        reasons += explain(compare(link_type, frames, tmp_path))
    print(sum(map(len, decodable.values())), "frames of", sorted(decodable), dict(reasons))


def test_each_reason_is_explained() -> None:
    text = " ".join(DOCS.read_text().split())
    assert [reason for reason in REASONS if reason not in text] == []
