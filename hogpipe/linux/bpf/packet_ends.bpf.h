// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Where a packet comes from and goes to, by its headers: IP, those of IPv6 that stand between, and
 * the ports, or the identifier of an ICMP echo.
 */

#define EXTENSIONS 6 /* headers of IPv6 between its own and the transport's that are looked at */

INLINE int has_two_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP;
}

INLINE void put_ports(struct ends *ends, const __u16 *ports, int sent)
{
	ends->local_port = ntohs(ports[sent ? 0 : 1]);
	ends->remote_port = ntohs(ports[sent ? 1 : 0]);
}

/* Read what most packets are: headers without extras, in one piece. Returns 0 if it is not so. */
INLINE int read_plain_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	const __u8 *head = (void *)(long)skb->data;
	const __u8 *end = (void *)(long)skb->data_end;

	if (head + 24 > end)
		return 0;
	if (head[0] == 0x45 && has_two_ports(head[9])) {
		ends->family = AF_INET;
		ends->protocol = head[9];
		ends->local[0] = *(__u32 *)(head + (sent ? 12 : 16));
		ends->remote[0] = *(__u32 *)(head + (sent ? 16 : 12));
		put_ports(ends, (const __u16 *)(head + 20), sent);
		return 1;
	}
	if (head[0] >> 4 != 6 || head + 44 > end || !has_two_ports(head[6]))
		return 0;
	ends->family = AF_INET6;
	ends->protocol = head[6];
	COPY_WORDS(ends->local, (__u32 *)(head + (sent ? 8 : 24)));
	COPY_WORDS(ends->remote, (__u32 *)(head + (sent ? 24 : 8)));
	put_ports(ends, (const __u16 *)(head + 40), sent);
	return 1;
}

INLINE void read_other_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	__u8 head[40];
	__u32 offset;
	__u16 ports[2];
	__u8 next;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return;
	if (head[0] >> 4 == 4) {
		offset = (head[0] & 15) * 4;
		next = head[9];
		ends->family = AF_INET;
		__builtin_memcpy(sent ? ends->local : ends->remote, head + 12, 4);
		__builtin_memcpy(sent ? ends->remote : ends->local, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return;
		offset = 40;
		next = head[6];
		ends->family = AF_INET6;
		__builtin_memcpy(sent ? ends->local : ends->remote, head + 8, 16);
		__builtin_memcpy(sent ? ends->remote : ends->local, head + 24, 16);
#pragma unroll
		for (int i = 0; i < EXTENSIONS; i++) {
			__u8 extension[2];

			if (next != 0 && next != 43 && next != 44 && next != 60)
				break;
			if (bpf_skb_load_bytes(skb, offset, extension, 2))
				break;
			offset += next == 44 ? 8 : (extension[1] + 1) * 8;
			next = extension[0];
		}
	}
	ends->protocol = next;
	if (has_two_ports(next)) {
		if (!bpf_skb_load_bytes(skb, offset, ports, 4))
			put_ports(ends, ports, sent);
	} else if (next == IPPROTO_ICMP || next == IPPROTO_ICMPV6) {
		__u8 echo[6];

		if (!bpf_skb_load_bytes(skb, offset, echo, 6) &&
		    (next == IPPROTO_ICMP ? (echo[0] == 0 || echo[0] == 8)
					  : (echo[0] == 128 || echo[0] == 129)))
			ends->local_port = ends->remote_port = echo[4] << 8 | echo[5];
	}
}

/* Read the ends of a packet; sent ones have the local end first. */
INLINE void read_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	if (!read_plain_ends(skb, ends, sent))
		read_other_ends(skb, ends, sent);
}
