// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What is noted of TCP connections as they come and go, for the `ebpf` source: that an accepted one
 * is its listener's so far, and which ones were closed here while the peer's FIN was awaited.
 */

#define TCP_OPTION_TIMESTAMPS 8

INLINE void put_ends_of(struct ends *ends, struct bpf_sock_ops *ctx)
{
	ends->protocol = IPPROTO_TCP;
	ends->local_port = ctx->local_port;
	ends->remote_port = ntohl(ctx->remote_port);
	/* An IPv6 socket may speak IPv4, with mapped addresses. */
	if (ctx->family == AF_INET || (!ctx->remote_ip6[0] && !ctx->remote_ip6[1] &&
				       ctx->remote_ip6[2] == ntohl(0xffff))) {
		ends->family = AF_INET;
		ends->local[0] = ctx->local_ip4;
		ends->remote[0] = ctx->remote_ip4;
	} else {
		ends->family = AF_INET6;
		COPY_WORDS(ends->local, ctx->local_ip6);
		COPY_WORDS(ends->remote, ctx->remote_ip6);
		/* Else both reads become one, from either place, which a context does not allow. */
		__asm__ volatile("" : : : "memory");
	}
}

/* Return the row of a connection in this turn, and begin it where it had none. */
INLINE struct flow *row_of_connection(struct bpf_sock_ops *ctx, struct holder *holder)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 now = read_turn();
	struct fill *fill = fill_of(now);
	__u64 before = holder->places[now & 1];
	struct flow *flow = find_row(&connections, holder, now, cookie);
	struct ends ends = {};

	if (flow || !fill)
		return flow;
	put_ends_of(&ends, ctx);
	return begin_row(&connections, &fill->connections, holder, before, now, cookie, &ends);
}

/*
 * Who closes first waits for the peer to do so, too, and a socket that nobody holds does not wait
 * for that: all that stays is a struct tcp_timewait_sock, which takes the peer's FIN and answers it
 * past all hooks (tcp_timewait_state_process, tcp_v4_timewait_ack). Such a connection is told, so
 * that it can be asked for later. In all others the FIN had come, which counts as one byte.
 */
INLINE void note_farewell(struct bpf_sock_ops *ctx)
{
	struct holder *holder;
	struct flow *flow;

	if (!ctx->sk || (ctx->args[0] != BPF_TCP_FIN_WAIT2 && ctx->args[1] != BPF_TCP_FIN_WAIT2))
		return;
	holder = HOLDER_OF(ctx->sk, 0);
	if (!holder)
		return;
	if (ctx->args[1] == BPF_TCP_FIN_WAIT2) {
		holder->note.awaited = ctx->rcv_nxt;
		return;
	}
	if (ctx->args[1] != BPF_TCP_CLOSE || holder->note.awaited != ctx->rcv_nxt)
		return;
	flow = row_of_connection(ctx, holder);
	/* Where there is no room, the two packets are not told, as if there had been no time to ask. */
	if (!flow)
		return;
	renew_note(flow, holder);
	flow->note.flags |= AWAITS_FIN;
}

INLINE int has_timestamps(struct bpf_sock_ops *ctx)
{
	__u8 option[12] = { TCP_OPTION_TIMESTAMPS };

	return bpf_load_hdr_opt(ctx, option, sizeof(option), 0) > 0;
}

/* An accepted socket has a copy of its listener's note, or none if that was there before us. */
SEC("sockops")
int note_tcp(struct bpf_sock_ops *ctx)
{
	struct holder *holder;

	if (ctx->op == BPF_SOCK_OPS_STATE_CB) {
		note_farewell(ctx);
		return 1;
	}
	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB &&
	    ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	if (!ctx->sk)
		return 1;
	holder = make_holder(ctx->sk);
	if (!holder)
		return 1;
	holder->note.netns = bpf_get_netns_cookie(ctx);
	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		holder->note.flags = BY_LISTENER;
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	if (has_timestamps(ctx))
		holder->note.flags |= TIMESTAMPS;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

