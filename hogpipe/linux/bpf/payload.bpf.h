// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The payload of TCP connections by epoch, each byte once: for measurements with borders in time
 * (hogpipe.measuring). Attached beside the traffic programs, and only while something is measured.
 *
 * A transmitted byte counts when it passes the hook for the first time: the socket's storage has the
 * sequence number behind the last one. A received byte counts when it passes the hook in order. The
 * kernel's own total of those (bytes_received) is behind by what passed the hook and is not processed
 * yet, so that is added: `expected` is the sequence number that comes next, as seen at the hook.
 * What fills a gap counts alone at first; what was received behind the gap counts with the next
 * packet in either direction, mostly the acknowledgement.
 *
 * The kernel's total counts a FIN as a byte, which is subtracted.
 *
 * A connection that existed before the programs begins with the totals of its first packet.
 */

enum payload_flag {
	PAYLOAD_EXPECTED = 1, /* `expected` is known */
	PAYLOAD_FIN = 2, /* `fin_end` is known */
};

struct payload_state {
	__u64 received; /* counted so far */
	__u32 transmit_end; /* the sequence number behind the last byte that was counted */
	__u32 expected;
	__u32 fin_end; /* the sequence number behind the peer's FIN */
	enum payload_flag flags;
};

struct payload {
	__u64 transmit;
	__u64 receive;
};

SIZE_IS(struct payload, 16);
OFFSET_IS(struct payload, transmit, 0);
OFFSET_IS(struct payload, receive, 8);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct payload_state);
} payload_sockets SEC(".maps");

/* By socket cookie. */
struct {
	__uint(map_flags, BPF_F_NO_PREALLOC);
	MAP(BPF_MAP_TYPE_HASH, 1 << 16, __u64, struct payload);
} payload_even SEC(".maps"), payload_odd SEC(".maps");

#define PAYLOAD_STORAGE(sk, flags) bpf_sk_storage_get(&payload_sockets, sk, 0, flags)

/* What a segment carries. */
struct segment {
	__u32 sequence;
	__u32 end; /* behind the payload */
	__u32 length;
	int has_fin;
};

INLINE int is_behind(__u32 one, __u32 other)
{
	return (__s32)(one - other) > 0;
}

/* Returns 0 if there is no whole header of TCP. */
INLINE int read_segment(struct __sk_buff *skb, struct segment *segment)
{
	__u8 head[40], protocol, flags[2];
	__u32 offset = find_transport(skb, 0, head, &protocol), headers, sequence;

	if (!offset || protocol != IPPROTO_TCP || bpf_skb_load_bytes(skb, offset + 4, &sequence, 4) ||
	    bpf_skb_load_bytes(skb, offset + 12, flags, 2))
		return 0;
	headers = offset + (flags[0] >> 4) * 4;
	/* A SYN, which takes a number before the payload, has one with TCP Fast Open only. */
	segment->sequence = ntohl(sequence) + (flags[1] >> 1 & 1);
	segment->length = skb->len > headers ? skb->len - headers : 0;
	segment->end = segment->sequence + segment->length;
	segment->has_fin = flags[1] & 1;
	return 1;
}

INLINE struct payload *find_payload(struct __sk_buff *skb)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	__u32 now = read_epoch();
	struct payload fresh = {}, *found;

	if (now & 1) {
		found = bpf_map_lookup_elem(&payload_odd, &cookie);
		if (found)
			return found;
		bpf_map_update_elem(&payload_odd, &cookie, &fresh, BPF_NOEXIST);
		return bpf_map_lookup_elem(&payload_odd, &cookie);
	}
	found = bpf_map_lookup_elem(&payload_even, &cookie);
	if (found)
		return found;
	bpf_map_update_elem(&payload_even, &cookie, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&payload_even, &cookie);
}

INLINE void add_payload(struct __sk_buff *skb, __u64 bytes, int transmit)
{
	struct payload *payload = find_payload(skb);

	if (!payload) {
		COUNT_LOSS(packets);
		return;
	}
	__sync_fetch_and_add(transmit ? &payload->transmit : &payload->receive, bytes);
}

INLINE void count_first_transmission(struct __sk_buff *skb, struct payload_state *state,
				     const struct segment *segment)
{
	__u32 before = state->transmit_end, growth = segment->end - before;

	if (!segment->length || !is_behind(segment->end, before))
		return;
	if (growth > segment->length)
		growth = segment->length;
	if (__sync_val_compare_and_swap(&state->transmit_end, before, segment->end) == before)
		add_payload(skb, growth, 1);
}

/* Count what was received until now; with `segment`, that included. */
INLINE void count_received(struct __sk_buff *skb, struct payload_state *state,
			   const struct bpf_tcp_sock *tcp, const struct segment *segment)
{
	__u32 next = tcp->rcv_nxt, expected = state->expected;
	__u64 total = tcp->bytes_received, before = state->received;

	if (!(state->flags & PAYLOAD_EXPECTED) || is_behind(next, expected))
		expected = next;
	if (state->flags & PAYLOAD_FIN && next == state->fin_end)
		total -= 1;
	if (segment) {
		if (!is_behind(segment->sequence, expected) && is_behind(segment->end, expected))
			expected = segment->end;
		if (segment->has_fin) {
			state->fin_end = segment->end + 1;
			state->flags |= PAYLOAD_FIN;
		}
	}
	state->expected = expected;
	state->flags |= PAYLOAD_EXPECTED;
	total += expected - next;
	if (total > before &&
	    __sync_val_compare_and_swap(&state->received, before, total) == before)
		add_payload(skb, total - before, 0);
}

INLINE int count_payload(struct __sk_buff *skb, int transmit)
{
	struct bpf_sock *sk = skb->sk;
	struct payload_state *state;
	struct bpf_tcp_sock *tcp;
	struct segment segment;

	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk || sk->protocol != IPPROTO_TCP || sk->type != SOCK_STREAM ||
	    sk->state == BPF_TCP_LISTEN)
		return 1;
	tcp = bpf_tcp_sock(sk);
	if (!tcp)
		return 1;
	state = PAYLOAD_STORAGE(sk, 0);
	if (!state) {
		state = PAYLOAD_STORAGE(sk, BPF_SK_STORAGE_GET_F_CREATE);
		if (!state) {
			COUNT_LOSS(sockets);
			return 1;
		}
		state->transmit_end = tcp->snd_nxt;
		state->received = tcp->bytes_received;
	}
	if (!read_segment(skb, &segment))
		return 1;
	if (transmit)
		count_first_transmission(skb, state, &segment);
	if (sk->state != BPF_TCP_SYN_SENT) /* which knows no sequence number of the peer yet */
		count_received(skb, state, tcp, transmit ? 0 : &segment);
	return 1;
}

SEC("cgroup_skb/ingress")
int payload_ingress(struct __sk_buff *skb)
{
	return count_payload(skb, 0);
}

SEC("cgroup_skb/egress")
int payload_egress(struct __sk_buff *skb)
{
	return count_payload(skb, 1);
}

/*
 * The acknowledgement that establishes an accepted connection may have a payload, and passes the hook
 * of the listening socket.
 */
SEC("sockops")
int payload_sockops(struct bpf_sock_ops *ctx)
{
	struct payload_state *state;

	if (ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB || !ctx->sk)
		return 1;
	state = PAYLOAD_STORAGE(ctx->sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!state) {
		COUNT_LOSS(sockets);
		return 1;
	}
	state->transmit_end = ctx->snd_nxt;
	state->received = 0;
	return 1;
}
