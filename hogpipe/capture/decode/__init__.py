"""PURE: frames to packets with their wire keys, as columns. Bytes in, values out; no input raises.

    decoder.py         a batch of frames -> `DecodedFrames`, a row a packet; in one of two ways
      vector_link.py     many frames at once: where the IP packets begin
      vector_ip.py       many packets at once: wire keys and lengths
      scalar_link.py     one frame: where the IP packet begins; the numbers of the link layer
      scalar_ip.py       one packet: wire key and length
      link_type_names.py which link types can be decoded, and the names of others in messages
      fragments.py       later fragments, matched to the flow of their first one
    columns.py         frames and headers as NumPy columns
    wire_packets.py    the packets as columns; those of several reads and interfaces gathered
    wire_key.py        the five-tuple as on the wire, packed

Constraints
    - Cost: some 0.05 us a packet in large batches, 3 to 4 us one by one. So ordinary packets
      take the vectorised way, and only what that leaves over takes the scalar one.
    - The scalar decoders are the reference: a property test holds both ways to the same packets for
      arbitrary frames. A new link type or header is added to both; CONTRIBUTING.md has the steps.

Known limits
    - Only the outermost IP packet is decoded; tunnels are captured on their own interface.
    - IPv6 extension headers beyond `MAX_EXTENSIONS` are not followed: no ports are known then.
"""
