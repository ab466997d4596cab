"""`hogpipe capture`: packets of chosen owners, written to a pcapng file.

    packet_buffer     PURE: packets in the order of capture, until their owners are known
    packet_owners     which packets a flow table has attributed to whom: the tap of a pipeline
    annotation        PURE: an owner, as the options and the comments of a packet
    packet_file       the file: blocks, rotation, reopening; or the standard output
    packet_counts     PURE: what became of the packets, by interface
    packet_writer     writes what is released, in a thread of its own

The order of data: the source shows its frames to the tap and counts their packets in the flow
table. The table says with each packet, at once or after a lookup, which owner it was counted for.
So a packet is attributed as its bytes are in the records of `hogpipe run`. What `only` selects is
written once all packets before it are decided.
"""
