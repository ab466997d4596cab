// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * TCP connections as they are established and closed, for the traffic programs: that the owner of an
 * accepted one is still that of its listening socket, and which connections were freed here while
 * the peer's FIN was still to come.
 */

#define TCP_OPTION_TIMESTAMPS 8

INLINE void put_endpoints(struct endpoints *endpoints, struct bpf_sock_ops *ctx)
{
	endpoints->protocol = IPPROTO_TCP;
	endpoints->local_port = ctx->local_port;
	endpoints->remote_port = ntohl(ctx->remote_port);
	if (ctx->family == AF_INET || has_mapped_remote(ctx)) {
		endpoints->family = AF_INET;
		endpoints->local_address[0] = ctx->local_ip4;
		endpoints->remote_address[0] = ctx->remote_ip4;
	} else {
		endpoints->family = AF_INET6;
		COPY_WORDS(endpoints->local_address, ctx->local_ip6);
		COPY_WORDS(endpoints->remote_address, ctx->remote_ip6);
		/*
		 * Without this the compiler merges the reads of both branches into one at a variable
		 * offset, which the verifier rejects for a context.
		 */
		__asm__ volatile("" : : : "memory");
	}
}

/* Return the row of a connection in this epoch, taking one if it has none. */
INLINE struct traffic_row *find_or_begin_row(struct bpf_sock_ops *ctx,
					     struct traffic_storage *storage)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 now = read_epoch();
	struct rows_used *used = rows_used_in(now);
	__u64 before = storage->rows[now & 1];
	struct traffic_row *row = find_row(&connections, storage, now, cookie);
	struct endpoints endpoints = {};

	if (row || !used)
		return row;
	put_endpoints(&endpoints, ctx);
	return begin_row(&connections, &used->connections, storage, before, now, cookie,
			 &endpoints);
}

/*
 * The side that closes first enters FIN_WAIT2 until the peer closes, too. When no process has the
 * socket any more, the kernel replaces it by a struct tcp_timewait_sock, which receives the peer's
 * FIN and acknowledges it without passing any hook (tcp_timewait_state_process,
 * tcp_v4_timewait_ack). The row of such a connection is marked, so that user space can count these
 * two packets later (time_wait.py).
 *
 * A connection closed in FIN_WAIT2 is one of these if no FIN has come, which would count as one
 * sequence number.
 */
INLINE void follow_close(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct traffic_storage *storage;
	struct traffic_row *row;

	if (ctx->args[0] != BPF_TCP_FIN_WAIT2 && ctx->args[1] != BPF_TCP_FIN_WAIT2)
		return;
	storage = TRAFFIC_STORAGE(sk, 0);
	if (!storage)
		return;
	if (ctx->args[1] == BPF_TCP_FIN_WAIT2) {
		storage->owner.awaited_sequence = ctx->rcv_nxt;
		return;
	}
	if (ctx->args[1] != BPF_TCP_CLOSE || storage->owner.awaited_sequence != ctx->rcv_nxt)
		return;
	row = find_or_begin_row(ctx, storage);
	/* If the map is full, the two packets are not counted. */
	if (!row)
		return;
	update_owner(row, storage);
	row->owner.flags |= ROW_AWAITS_FIN;
}

/* Return the health of a connection in this epoch, 0 if all rows are taken. */
INLINE struct tcp_health *find_or_begin_health(struct bpf_sock_ops *ctx,
					       struct traffic_storage *storage)
{
	__u32 now = read_epoch();
	struct tcp_health *health = find_health(storage, now);

	if (health)
		return health;
	return find_or_begin_row(ctx, storage) ? find_health(storage, read_epoch()) : 0;
}

INLINE void follow_rtt(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct traffic_storage *storage = TRAFFIC_STORAGE(sk, 0);
	struct tcp_health *health;

	if (!storage)
		return;
	health = find_or_begin_health(ctx, storage);
	/* Since Linux 6.11 the new value is passed; until then the socket has that before it. */
	if (!health)
		return;
	sample_rtt(&storage->health, health, ctx->args[1] ? ctx->args[1] : ctx->srtt_us,
		   ctx->rtt_min);
	count_acknowledged(sk, &storage->health, health);
}

/* Count the rest of a connection's totals, and how it ended. */
INLINE void follow_end(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct traffic_storage *storage = TRAFFIC_STORAGE(sk, 0);
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk);
	__u32 before = ctx->args[0];
	struct payload_totals totals;
	struct health_state *state;
	struct tcp_health *health;
	int fin_acked, fin_came;

	if (!storage || !tcp || !(storage->health.flags & HEALTH_FOLLOWED))
		return;
	state = &storage->health;
	health = find_or_begin_health(ctx, storage);
	if (health) {
		fin_acked = before == BPF_TCP_FIN_WAIT2 ||
			    ((before == BPF_TCP_CLOSING || before == BPF_TCP_LAST_ACK) &&
			     tcp->snd_una == tcp->snd_nxt);
		fin_came = before == BPF_TCP_FIN_WAIT2
				   ? storage->owner.awaited_sequence != tcp->rcv_nxt
				   : before != BPF_TCP_FIN_WAIT1 &&
					     is_one_of(before, FIN_MAY_HAVE_COME);
		totals = read_totals(tcp, state->flags, fin_acked, fin_came);
		count_totals(state, health, tcp, &totals);
		if (!(state->flags & HEALTH_SAMPLED))
			sample_rtt(state, health, tcp->srtt_us, tcp->rtt_min);
		count_end(state, health, before, tcp->segs_in != 0,
			  storage->owner.flags & ROW_RELEASED, fin_acked);
	}
	state->flags = 0;
}

INLINE int has_timestamps(struct bpf_sock_ops *ctx)
{
	__u8 option[12] = { TCP_OPTION_TIMESTAMPS };

	return bpf_load_hdr_opt(ctx, option, sizeof(option), 0) > 0;
}

INLINE void follow_callbacks(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | HEALTH_CALLBACKS);
}

/* A process connects, before the SYN leaves. */
INLINE void follow_attempt(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct traffic_storage *storage = make_traffic_storage(sk);

	if (!storage)
		return;
	storage->owner.namespace = bpf_get_netns_cookie(ctx);
	begin_attempt(&storage->health);
	follow_callbacks(ctx);
}

INLINE void follow_established(struct bpf_sock_ops *ctx, struct traffic_storage *storage)
{
	/* A simultaneous open ends as an accepted connection does. */
	int active = ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB ||
		     storage->health.flags & HEALTH_ACTIVE;
	struct tcp_health *health = find_or_begin_health(ctx, storage);

	if (health) {
		count_established(&storage->health, health, active);
		/* The handshake's time came before the callbacks of an accepted connection. */
		if (!active)
			sample_rtt(&storage->health, health, ctx->srtt_us, ctx->rtt_min);
	}
	follow_callbacks(ctx);
}

/* Return whether the callback was one for the health of a connection alone. */
INLINE int follow_health(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct traffic_storage *storage;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		follow_attempt(ctx, sk);
		return 1;
	case BPF_SOCK_OPS_RTT_CB:
		follow_rtt(ctx, sk);
		return 1;
	case BPF_SOCK_OPS_RTO_CB:
		storage = TRAFFIC_STORAGE(sk, 0);
		if (storage && ctx->args[2])
			storage->health.flags |= HEALTH_TIMED_OUT;
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			follow_end(ctx, sk);
		return 1;
	}
	return 0;
}

/*
 * The storage of an accepted socket is a copy of its listening socket's, or empty if the listening
 * socket existed before the programs.
 */
SEC("sockops")
int owner_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct traffic_storage *storage;

	if (!sk)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB)
		follow_close(ctx, sk);
	if (follow_health(ctx, sk))
		return 1;
	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB &&
	    ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	storage = make_traffic_storage(sk);
	if (!storage)
		return 1;
	storage->owner.namespace = bpf_get_netns_cookie(ctx);
	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		storage->owner.flags = ROW_BY_LISTENER;
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	if (has_timestamps(ctx))
		storage->owner.flags |= ROW_TIMESTAMPS;
	follow_established(ctx, storage);
	return 1;
}
