// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The programs that run for each packet at its socket: they find the row of the packet's flow in
 * this epoch, and add the packet to its counts.
 */

/* The endpoints of a TCP connection never change, so its socket alone identifies the row. */
INLINE struct traffic_row *find_connection(struct __sk_buff *skb, struct traffic_storage *storage,
					   __u32 now, struct rows_used *used, int transmit)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u64 before = storage->rows[now & 1];
	struct traffic_row *row = find_row(&connections, storage, now, cookie);
	struct endpoints endpoints = {};

	if (row)
		return row;
	read_endpoints(skb, &endpoints, transmit);
	return begin_row(&connections, &used->connections, storage, before, now, cookie,
			 &endpoints);
}

INLINE int are_equal(const struct endpoints *one, const struct endpoints *other)
{
	const __u64 *left = (const __u64 *)one, *right = (const __u64 *)other;

	return left[0] == right[0] && left[1] == right[1] && left[2] == right[2] &&
	       left[3] == right[3] && left[4] == right[4];
}

/* Return the row of a flow through `row_index`, taking one if it has none. */
INLINE struct traffic_row *find_by_key(const struct row_key *key, const struct row_owner *owner,
				       __u32 now, struct rows_used *used)
{
	__u32 *known = bpf_map_lookup_elem(&row_index, key);
	struct traffic_row *row;
	__u32 number;

	if (known)
		return row_at(&other_flows, now, *known);
	row = take_row(&other_flows, &used->other_flows, now, key->cookie, owner, &key->endpoints,
		       &number);
	if (!row)
		return 0;
	if (!bpf_map_update_elem(&row_index, key, &number, BPF_NOEXIST)) {
		row->owner.flags |= ROW_INDEXED;
		return row;
	}
	known = bpf_map_lookup_elem(&row_index, key);
	return known ? row_at(&other_flows, now, *known) : 0;
}

/*
 * All but connections: by socket and endpoints, since a socket may have many peers. Most have one,
 * whose row is found through the socket's storage; 0 for sockets whose storage refers to no row.
 */
INLINE struct traffic_row *find_other_flow(struct __sk_buff *skb, struct traffic_storage *storage,
					   const struct row_owner *owner, __u32 now,
					   struct rows_used *used, int transmit)
{
	struct row_key key = {};
	struct traffic_row *row;

	key.cookie = bpf_get_socket_cookie(skb);
	key.parity = now & 1;
	read_endpoints(skb, &key.endpoints, transmit);
	if (storage) {
		__u64 before = storage->rows[now & 1];

		row = find_row(&other_flows, storage, now, key.cookie);
		if (!row)
			row = begin_row(&other_flows, &used->other_flows, storage, before, now,
					key.cookie, &key.endpoints);
		if (!row)
			return 0;
		if (are_equal(&row->endpoints, &key.endpoints))
			return row;
	}
	return find_by_key(&key, owner, now, used);
}

INLINE struct traffic_row *find_overflow(const struct row_owner *owner, __u32 now,
					 struct rows_used *used)
{
	__u32 pid = owner->process.pid;
	struct traffic_row *row = now & 1 ? bpf_map_lookup_elem(&overflow_odd, &pid)
					  : bpf_map_lookup_elem(&overflow_even, &pid);
	struct traffic_row fresh = {};

	if (row)
		return row;
	fresh.owner = *owner;
	__sync_fetch_and_add(&used->overflow, 1);
	if (now & 1) {
		bpf_map_update_elem(&overflow_odd, &pid, &fresh, BPF_NOEXIST);
		return bpf_map_lookup_elem(&overflow_odd, &pid);
	}
	bpf_map_update_elem(&overflow_even, &pid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&overflow_even, &pid);
}

/* Return the size of the headers that each segment of a packet has; 0 if they are not known. */
INLINE __u32 size_of_headers(struct __sk_buff *skb, int start, __u8 *head)
{
	__u8 protocol, data_offset;
	__u32 offset = find_transport(skb, start, head, &protocol);

	if (!offset)
		return 0;
	switch (protocol) {
	case IPPROTO_TCP:
		if (load(skb, start, offset + 12, &data_offset, 1))
			return 0;
		return offset + (data_offset >> 4) * 4;
	case IPPROTO_UDP:
		return offset + 8;
	case IPPROTO_SCTP:
		return offset + 12;
	}
	return 0;
}

/* What a packet is on the cable. */
struct carried {
	__u64 bytes;
	__u64 packets;
};

/* The least size of TCP segments that Linux uses: TCP_MIN_MSS of include/net/tcp.h. */
#define LEAST_SEGMENT 88

/*
 * The stack handles several segments as one packet with one header: those that are segmented after
 * the hook, by the kernel or by the network card (GSO), and those that were merged before it (GRO).
 * On the cable each segment has its headers.
 *
 * A virtual machine delivers packets without the number of segments and with a size that the kernel
 * has not verified: with a size of 1, a packet of 64 kB would count 2.6 MB. BIG TCP over IPv6 has a hop-by-hop header, of 8 bytes,
 * that no segment has.
 */
INLINE struct carried measure(struct __sk_buff *skb, int start, __u32 length)
{
	struct carried carried = { .bytes = length, .packets = 1 };
	__u32 size = skb->gso_size, segments, headers;
	__u8 head[40];

	if (!size)
		return carried;
	headers = size_of_headers(skb, start, head);
	if (!headers || headers >= length)
		return carried;
	segments = skb->gso_segs;
	if (!segments) {
		if (size < LEAST_SEGMENT)
			return carried;
		segments = (length - headers + size - 1) / size;
	}
	if (head[0] >> 4 == 6 && !head[4] && !head[5] && !head[6] && headers > 8) {
		headers -= 8;
		carried.bytes -= 8;
	}
	carried.packets = segments;
	carried.bytes += (__u64)(segments - 1) * headers;
	return carried;
}

INLINE int count(struct __sk_buff *skb, int transmit)
{
	struct carried carried;
	struct bpf_sock *sk = skb->sk;
	__u32 now = read_epoch();
	struct rows_used *used = rows_used_in(now);
	struct traffic_storage *storage = 0;
	struct row_owner unknown = {}, *owner = &unknown;
	struct traffic_row *row;
	int is_tcp;

	if (!used)
		return 1;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk)
		storage = make_traffic_storage(sk);
	if (storage)
		owner = &storage->owner;
	is_tcp = storage && sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM;
	if (is_tcp && sk->state != BPF_TCP_LISTEN) {
		row = find_connection(skb, storage, now, used, transmit);
		if (row && transmit)
			count_health(sk, storage, find_health(storage, now));
	} else /* a listening socket's storage refers to no row: accepted sockets get a copy of it */
		row = find_other_flow(skb, is_tcp ? 0 : storage, owner, now, used, transmit);
	if (!row)
		row = find_overflow(owner, now, used);
	if (!row) {
		COUNT_LOSS(packets);
		return 1;
	}
	carried = measure(skb, AT_PACKET, skb->len);
	__sync_fetch_and_add(transmit ? &row->counts.transmit_bytes
				      : &row->counts.receive_bytes,
			     carried.bytes);
	__sync_fetch_and_add(transmit ? &row->counts.transmit_packets
				      : &row->counts.receive_packets,
			     carried.packets);
	return 1;
}

SEC("cgroup_skb/ingress")
int count_ingress(struct __sk_buff *skb)
{
	return count(skb, 0);
}

SEC("cgroup_skb/egress")
int count_egress(struct __sk_buff *skb)
{
	return count(skb, 1);
}
