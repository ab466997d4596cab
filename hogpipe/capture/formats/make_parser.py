"""PURE: the parser of a capture file, chosen by the first bytes of the file."""

from hogpipe.capture.formats.pcap_format import PcapParser, find_byte_order
from hogpipe.capture.formats.pcapng_blocks import SECTION_BYTES
from hogpipe.capture.formats.pcapng_format import PcapngParser
from hogpipe.capture.formats.savefile_parser import MalformedFileError, SavefileParser

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
}


def make_parser(head: bytes) -> SavefileParser:
    """Return a parser for the file that begins with `head`: 24 bytes or more, or the whole file.

    Raises MalformedFileError if the file is neither pcap nor pcapng.
    """
    if head.startswith(SECTION_BYTES):
        return PcapngParser()
    order = find_byte_order(head)
    if order is not None:
        return PcapParser(head, order)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise MalformedFileError(f"it is compressed with {name}; decompress it first")
    raise MalformedFileError("it is neither pcap nor pcapng")
