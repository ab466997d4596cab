// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The endpoints of a packet, from its headers: IP, up to six extension headers of IPv6, and the
 * ports, or the identifier of an ICMP echo. The local endpoint of a transmitted packet is its
 * source, that of a received one its destination.
 */

#define MOST_EXTENSIONS 6
#define AT_PACKET (-1) /* the data of the packet begin with its IP header */

/*
 * Copy bytes at an offset into the IP packet. It begins where the data do (AT_PACKET), or `start`
 * bytes behind the network header of a frame.
 */
INLINE long load(struct __sk_buff *skb, int start, __u32 offset, void *to, __u32 size)
{
	if (start == AT_PACKET)
		return bpf_skb_load_bytes(skb, offset, to, size);
	return bpf_skb_load_bytes_relative(skb, start + offset, to, size, BPF_HDR_START_NET);
}

INLINE int has_two_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP;
}

INLINE void put_ports(struct endpoints *endpoints, const __u16 *ports, int transmit)
{
	endpoints->local_port = ntohs(ports[transmit ? 0 : 1]);
	endpoints->remote_port = ntohs(ports[transmit ? 1 : 0]);
}

INLINE void put_addresses(struct endpoints *endpoints, const __u8 *source,
			  const __u8 *destination, __u32 size, int transmit)
{
	__builtin_memcpy(transmit ? endpoints->local_address : endpoints->remote_address, source,
			 size);
	__builtin_memcpy(transmit ? endpoints->remote_address : endpoints->local_address,
			 destination, size);
}

/*
 * Read headers without options or extensions that lie in the linear part of the packet, as those of
 * most packets do. Returns 0 for all others.
 */
INLINE int read_plain_endpoints(struct __sk_buff *skb, struct endpoints *endpoints, int transmit)
{
	const __u8 *head = (void *)(long)skb->data;
	const __u8 *end = (void *)(long)skb->data_end;

	if (head + 24 > end)
		return 0;
	if (head[0] == 0x45 && has_two_ports(head[9])) {
		endpoints->family = AF_INET;
		endpoints->protocol = head[9];
		endpoints->local_address[0] = *(__u32 *)(head + (transmit ? 12 : 16));
		endpoints->remote_address[0] = *(__u32 *)(head + (transmit ? 16 : 12));
		put_ports(endpoints, (const __u16 *)(head + 20), transmit);
		return 1;
	}
	if (head[0] >> 4 != 6 || head + 44 > end || !has_two_ports(head[6]))
		return 0;
	endpoints->family = AF_INET6;
	endpoints->protocol = head[6];
	COPY_WORDS(endpoints->local_address, (__u32 *)(head + (transmit ? 8 : 24)));
	COPY_WORDS(endpoints->remote_address, (__u32 *)(head + (transmit ? 24 : 8)));
	put_ports(endpoints, (const __u16 *)(head + 40), transmit);
	return 1;
}

/*
 * Copy the IP header to `head`, which has 40 bytes, and return where the transport header begins:
 * behind extension headers, up to MOST_EXTENSIONS. `protocol` becomes that of the last header that
 * was reached. Returns 0 if there is no IP header.
 */
INLINE __u32 find_transport(struct __sk_buff *skb, int start, __u8 *head, __u8 *protocol)
{
	__u32 offset = 40;
	__u8 next;

	if (load(skb, start, 0, head, 20))
		return 0;
	if (head[0] >> 4 == 4) {
		*protocol = head[9];
		return (head[0] & 15) * 4;
	}
	if (load(skb, start, 0, head, 40))
		return 0;
	next = head[6];
#pragma unroll
	for (int i = 0; i < MOST_EXTENSIONS; i++) {
		__u8 extension[2];

		/* hop-by-hop options, routing, fragment, destination options */
		if (next != 0 && next != 43 && next != 44 && next != 60)
			break;
		if (load(skb, start, offset, extension, 2))
			break;
		offset += next == 44 ? 8 : (extension[1] + 1) * 8;
		next = extension[0];
	}
	*protocol = next;
	return offset;
}

/* Read any headers, by copies; what is missing or beyond MOST_EXTENSIONS stays 0. */
INLINE void read_other_endpoints(struct __sk_buff *skb, int start, struct endpoints *endpoints,
				 int transmit)
{
	__u8 head[40];
	__u16 ports[2];
	__u8 next;
	__u32 offset = find_transport(skb, start, head, &next);

	if (!offset)
		return;
	if (head[0] >> 4 == 4) {
		endpoints->family = AF_INET;
		put_addresses(endpoints, head + 12, head + 16, 4, transmit);
	} else {
		endpoints->family = AF_INET6;
		put_addresses(endpoints, head + 8, head + 24, 16, transmit);
	}
	endpoints->protocol = next;
	if (has_two_ports(next)) {
		if (!load(skb, start, offset, ports, 4))
			put_ports(endpoints, ports, transmit);
	} else if (next == IPPROTO_ICMP || next == IPPROTO_ICMPV6) {
		__u8 echo[6];

		if (!load(skb, start, offset, echo, 6) &&
		    (next == IPPROTO_ICMP ? (echo[0] == 0 || echo[0] == 8)
					  : (echo[0] == 128 || echo[0] == 129)))
			endpoints->local_port = endpoints->remote_port = echo[4] << 8 | echo[5];
	}
}

INLINE void read_endpoints(struct __sk_buff *skb, struct endpoints *endpoints, int transmit)
{
	if (!read_plain_endpoints(skb, endpoints, transmit))
		read_other_endpoints(skb, AT_PACKET, endpoints, transmit);
}
