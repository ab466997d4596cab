// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The health of TCP connections: payload beside what passed on the cable, retransmitted segments,
 * the smoothed round-trip time, and how connections begin and end (docs/health.md).
 *
 * Sums. A connection has sums in each epoch, beside its row. They are the growth of the kernel's own
 * totals (struct tcp_sock) since they were counted last; the socket's storage has the totals that are
 * counted. So the sums of all epochs add up to the totals, whatever is counted when. TCP holds the
 * lock of the socket whenever it is counted, so that no two CPUs count one connection at once, and
 * nothing is atomic here. (Not where a packet is queued between TCP and the hook, by NFQUEUE or by
 * asynchronous IPsec: then one growth may count twice.)
 *
 * When. Growth is counted at each round trip of what is sent, and when the connection closes; and by
 * the program of transmitted packets, among them the acknowledgement of what is received; the hook of
 * received ones precedes TCP. Samples of the round-trip time come from TCP itself, one a round trip
 * (BPF_SOCK_OPS_RTT_CB of tcp_rtt_estimator, net/ipv4/tcp_input.c). A connection that existed before
 * the programs has no callbacks: it is sampled once an epoch.
 *
 * SYN and FIN count as a byte each in the kernel's totals, but not here: acknowledging our SYN is
 * subtracted from the beginning; of a direction in which a FIN may have counted already, one byte is
 * held back until it is known, at the latest when the connection closes.
 *
 * How connections end. The kernel does not pass the error of a socket to these programs. A connection
 * that closes without a callback of an expired retransmission timer, and not by FINs in both
 * directions, was reset, by this end or by the other. A connection attempt to which a segment came
 * was refused; to which none came, it was abandoned by its process if that closed the socket, and
 * else unreachable (ICMP).
 */

enum health_flag {
	HEALTH_COUNTED = 1, /* the totals that are counted are known */
	HEALTH_ACTIVE = 2, /* this end sent the SYN */
	HEALTH_FOLLOWED = 4, /* callbacks are requested */
	HEALTH_ESTABLISHED = 8,
	HEALTH_TIMED_OUT = 16,
	HEALTH_SAMPLED = 32,
};

#define HEALTH_CALLBACKS \
	(BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG)
#define NS_PER_US 1000

/* Move a total on that is counted, and add its growth to `sum`. */
#define COUNT_GROWTH(counted, total, sum)                                   \
	do {                                                                \
		typeof(*(counted)) before_ = *(counted), total_ = (total);  \
                                                                            \
		if (total_ > before_) {                                     \
			*(counted) = total_;                                \
			*(sum) += total_ - before_;                         \
		}                                                           \
	} while (0)

/* The totals of a connection, without what SYN and FIN count. */
struct payload_totals {
	__u64 transmit;
	__u64 receive;
};

INLINE int is_one_of(__u32 state, __u32 states)
{
	return states >> state & 1;
}

/* States in which our FIN may have been acknowledged, and those in which a FIN may have come. */
#define FIN_MAY_BE_ACKED                                                                      \
	(1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 | 1 << BPF_TCP_CLOSING |             \
	 1 << BPF_TCP_LAST_ACK)
#define FIN_MAY_HAVE_COME                                                                     \
	(1 << BPF_TCP_FIN_WAIT1 | 1 << BPF_TCP_FIN_WAIT2 | 1 << BPF_TCP_CLOSE_WAIT |          \
	 1 << BPF_TCP_CLOSING | 1 << BPF_TCP_LAST_ACK)

INLINE __u64 read_transmitted(const struct bpf_tcp_sock *tcp, __u32 flags, int fin_acked)
{
	__u64 acked = tcp->bytes_acked;
	__u64 signals = (flags & HEALTH_ACTIVE ? 1 : 0) + (fin_acked ? 1 : 0);

	return acked > signals ? acked - signals : 0;
}

INLINE struct payload_totals read_totals(const struct bpf_tcp_sock *tcp, __u32 flags,
					 int fin_acked, int fin_came)
{
	__u64 received = tcp->bytes_received;

	return (struct payload_totals){
		.transmit = read_transmitted(tcp, flags, fin_acked),
		.receive = received && fin_came ? received - 1 : received,
	};
}

INLINE void count_totals(struct health_state *state, struct tcp_health *health,
			 const struct bpf_tcp_sock *tcp, const struct payload_totals *totals)
{
	COUNT_GROWTH(&state->transmit_payload, totals->transmit, &health->transmit_payload);
	COUNT_GROWTH(&state->receive_payload, totals->receive, &health->receive_payload);
	COUNT_GROWTH(&state->retransmits, tcp->total_retrans, &health->retransmits);
}

/* Count what the peer has acknowledged; what it sent is not processed yet at that moment. */
INLINE void count_acknowledged(struct bpf_sock *sk, struct health_state *state,
			       struct tcp_health *health)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);

	if (!tcp || !(state->flags & HEALTH_COUNTED))
		return;
	COUNT_GROWTH(&state->transmit_payload,
		     read_transmitted(tcp, state->flags, is_one_of(sk->state, FIN_MAY_BE_ACKED)),
		     &health->transmit_payload);
	COUNT_GROWTH(&state->retransmits, tcp->total_retrans, &health->retransmits);
}

/* Add a sample of the smoothed round-trip time, in eighths of a microsecond as TCP has it. */
INLINE void sample_rtt(struct health_state *state, struct tcp_health *health, __u32 eighths,
		       __u32 least)
{
	__u32 smoothed = eighths >> 3;

	if (!eighths)
		return;
	if (!smoothed)
		smoothed = 1;
	/* The least of all may be above a smoothed time that began with a better one. */
	if (!least || least > smoothed)
		least = smoothed;
	state->flags |= HEALTH_SAMPLED;
	health->rtt_samples += 1;
	health->rtt_sum_us += smoothed;
	if (!health->rtt_min_us || least < health->rtt_min_us)
		health->rtt_min_us = least;
}

/* Count the growth of a connection; `health` may be 0. */
INLINE void count_health(struct bpf_sock *sk, struct traffic_storage *storage,
			 struct tcp_health *health)
{
	struct health_state *state = &storage->health;
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	struct payload_totals totals;
	__u32 at = sk->state;

	if (!health || !tcp)
		return;
	totals = read_totals(tcp, state->flags, is_one_of(at, FIN_MAY_BE_ACKED),
			     is_one_of(at, FIN_MAY_HAVE_COME));
	if (!(state->flags & HEALTH_COUNTED)) { /* it existed before the programs */
		state->transmit_payload = totals.transmit;
		state->receive_payload = totals.receive;
		state->retransmits = tcp->total_retrans;
		state->flags |= HEALTH_COUNTED;
	}
	count_totals(state, health, tcp, &totals);
	if (!(state->flags & HEALTH_FOLLOWED) && !health->rtt_samples)
		sample_rtt(state, health, tcp->srtt_us, tcp->rtt_min);
}

/* A process connects: the attempt begins, and the totals of an earlier one of the socket are void. */
INLINE void begin_attempt(struct health_state *state)
{
	state->since_ns = bpf_ktime_get_boot_ns();
	state->transmit_payload = 0;
	state->receive_payload = 0;
	state->retransmits = 0;
	state->flags = HEALTH_COUNTED | HEALTH_ACTIVE | HEALTH_FOLLOWED;
}

INLINE void count_established(struct health_state *state, struct tcp_health *health, int active)
{
	__u64 now = bpf_ktime_get_boot_ns();

	if (active) {
		health->opened += 1;
		if (state->flags & HEALTH_ACTIVE)
			health->opening_us += (now - state->since_ns) / NS_PER_US;
	} else {
		health->accepted += 1;
		state->transmit_payload = 0;
		state->receive_payload = 0;
		state->retransmits = 0;
		state->flags = HEALTH_COUNTED | HEALTH_FOLLOWED;
	}
	state->since_ns = now;
	state->flags |= HEALTH_ESTABLISHED;
}

/* Count how a connection, or an attempt, ended that was in the state `before`. */
INLINE void count_end(struct health_state *state, struct tcp_health *health, __u32 before,
		      int was_answered, int was_released, int fin_acked)
{
	if (!(state->flags & HEALTH_ESTABLISHED)) {
		if (state->flags & HEALTH_TIMED_OUT)
			health->timed_out += 1;
		else if (was_answered)
			health->refused += 1;
		else if (was_released)
			health->abandoned += 1;
		else
			health->unreachable += 1;
		return;
	}
	health->closed += 1;
	health->lifetime_us += (bpf_ktime_get_boot_ns() - state->since_ns) / NS_PER_US;
	if (state->flags & HEALTH_TIMED_OUT)
		health->timed_out += 1;
	else if (before != BPF_TCP_FIN_WAIT2 && !fin_acked)
		health->reset += 1;
}
