// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The programs of the `ebpf` source: which bytes pass at which socket, and whose that is. This file
 * has those that run for each packet; what they are built on comes before.
 */
#include "traffic_tables.bpf.h"

#include "owners.bpf.h"

#include "connections.bpf.h"

#include "packet_ends.bpf.h"

/* A TCP connection has the same ends as long as it lasts, so that its socket says it all. */
INLINE struct flow *find_connection(struct __sk_buff *skb, struct holder *holder, __u32 now,
				    struct fill *fill, int sent)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u64 before = holder->places[now & 1];
	struct flow *flow = find_row(&connections, holder, now, cookie);
	struct ends ends = {};

	if (flow)
		return flow;
	read_ends(skb, &ends, sent);
	return begin_row(&connections, &fill->connections, holder, before, now, cookie, &ends);
}

INLINE int are_equal(const struct ends *one, const struct ends *other)
{
	const __u64 *left = (const __u64 *)one, *right = (const __u64 *)other;

	return left[0] == right[0] && left[1] == right[1] && left[2] == right[2] &&
	       left[3] == right[3] && left[4] == right[4];
}

/* Return the row of a flow by all that tells it apart, and begin it where it has none. */
INLINE struct flow *find_by_key(const struct place_key *key, const struct note *note, __u32 now,
				struct fill *fill)
{
	__u32 *known = bpf_map_lookup_elem(&places, key);
	struct flow *flow;
	__u32 row;

	if (known)
		return row_at(&exchanges, now, *known);
	flow = take_row(&exchanges, &fill->exchanges, now, key->cookie, note, &key->ends, &row);
	if (!flow)
		return 0;
	if (!bpf_map_update_elem(&places, key, &row, BPF_NOEXIST)) {
		flow->note.flags |= KEYED;
		return flow;
	}
	known = bpf_map_lookup_elem(&places, key);
	return known ? row_at(&exchanges, now, *known) : 0;
}

/*
 * All but connections: by socket and ends, since a socket may talk to many. Most talk to one, which
 * is found by the socket alone. `own` is where that is noted, if anywhere.
 */
INLINE struct flow *find_exchange(struct __sk_buff *skb, struct holder *own,
				  const struct note *note, __u32 now, struct fill *fill, int sent)
{
	struct place_key key = {};
	struct flow *flow;

	key.cookie = bpf_get_socket_cookie(skb);
	key.parity = now & 1;
	read_ends(skb, &key.ends, sent);
	if (own) {
		__u64 before = own->places[now & 1];

		flow = find_row(&exchanges, own, now, key.cookie);
		if (!flow)
			flow = begin_row(&exchanges, &fill->exchanges, own, before, now, key.cookie,
					 &key.ends);
		if (!flow)
			return 0;
		if (are_equal(&flow->ends, &key.ends))
			return flow;
	}
	return find_by_key(&key, note, now, fill);
}

INLINE struct flow *find_overflow(const struct note *note, __u32 now, struct fill *fill)
{
	__u32 pid = note->owner.pid;
	struct flow *flow = now & 1 ? bpf_map_lookup_elem(&overflow_odd, &pid)
				    : bpf_map_lookup_elem(&overflow_even, &pid);
	struct flow fresh = {};

	if (flow)
		return flow;
	fresh.note = *note;
	__sync_fetch_and_add(&fill->overflow, 1);
	if (now & 1) {
		bpf_map_update_elem(&overflow_odd, &pid, &fresh, BPF_NOEXIST);
		return bpf_map_lookup_elem(&overflow_odd, &pid);
	}
	bpf_map_update_elem(&overflow_even, &pid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&overflow_even, &pid);
}

INLINE int count(struct __sk_buff *skb, int sent)
{
	struct bpf_sock *sk = skb->sk;
	__u32 now = read_turn();
	struct fill *fill = fill_of(now);
	struct holder *holder = 0;
	struct note nobody = {}, *note = &nobody;
	struct flow *flow;
	int is_tcp;

	if (!fill)
		return 1;
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk)
		holder = make_holder(sk);
	if (holder)
		note = &holder->note;
	is_tcp = holder && sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM;
	if (is_tcp && sk->state != BPF_TCP_LISTEN)
		flow = find_connection(skb, holder, now, fill, sent);
	else /* an accepted socket would have a copy of where its listener's first flow is */
		flow = find_exchange(skb, is_tcp ? 0 : holder, note, now, fill, sent);
	if (!flow)
		flow = find_overflow(note, now, fill);
	if (!flow) {
		count_loss(PACKETS_LOST, 1);
		return 1;
	}
	__sync_fetch_and_add(sent ? &flow->counts.transmit_bytes : &flow->counts.receive_bytes,
			     skb->len);
	__sync_fetch_and_add(sent ? &flow->counts.transmit_packets : &flow->counts.receive_packets,
			     1);
	return 1;
}

SEC("cgroup_skb/ingress")
int on_receive(struct __sk_buff *skb)
{
	return count(skb, 0);
}

SEC("cgroup_skb/egress")
int on_transmit(struct __sk_buff *skb)
{
	return count(skb, 1);
}
