"""PURE: capture files: bytes in, frames out, and back; no bytes raise but MalformedFileError.

    make_parser.py       the parser of a file, chosen by its first bytes
      savefile_parser.py   what each parser returns
      record_chain.py      where the records of a chunk begin
      pcap_format.py       classic pcap
      pcapng_format.py     pcapng: a parser that keeps the state of a section
        pcapng_blocks.py     the blocks of a section, as columns
        pcapng_interface.py  an interface description, and the clock of its timestamps
        pcapng_packets.py    the frames in packet blocks
    pcapng_encoder.py    blocks of a file with owners of packets
    filter_program.py    a compiled BPF filter applied to many frames at once

Constraints
    - libpcap reads only pcapng files whose interfaces have one link type and one snaplen, and
      pcapy-ng's fast way of reading gives no original lengths. So hogpipe parses the files, and
      libpcap only compiles the filters.
    - Cost: the headers of a chunk of the file are read as columns. The way from one record to the
      next is a loop, 0.1 us a frame; so many such loops run side by side, as columns, too.
    - Memory: a file is parsed in chunks. A record or block beyond a bound ends the reading.
"""
