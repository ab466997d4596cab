// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The health of connections beside the ledger, where packets are captured and not counted at
 * sockets: rows of `connections` without packets and owners, whose health is that of
 * traffic_health.bpf.h. User space finds the captured flow of each row by its endpoints.
 */

SEC("sockops")
int health_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct traffic_storage *storage;

	if (!sk)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_FIN_WAIT2) {
		storage = TRAFFIC_STORAGE(sk, 0);
		if (storage)
			storage->owner.awaited_sequence = ctx->rcv_nxt;
	}
	if (follow_health(ctx, sk))
		return 1;
	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	storage = make_traffic_storage(sk);
	if (!storage)
		return 1;
	storage->owner.namespace = bpf_get_netns_cookie(ctx);
	follow_established(ctx, storage);
	return 1;
}

SEC("cgroup/sock_release")
int health_release(struct bpf_sock *ctx)
{
	struct traffic_storage *storage = 0;

	if (ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP)
		storage = TRAFFIC_STORAGE(ctx, 0);
	if (storage)
		storage->owner.flags |= ROW_RELEASED;
	return 1;
}

/*
 * What is received, what is transmitted again, and all of a connection that existed before the
 * programs have no callbacks: they are counted when a packet leaves.
 */
SEC("cgroup_skb/egress")
int health_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u32 now = read_epoch();
	struct rows_used *used = rows_used_in(now);
	struct traffic_storage *storage;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (!sk || !used || sk->protocol != IPPROTO_TCP || sk->type != SOCK_STREAM ||
	    sk->state == BPF_TCP_LISTEN)
		return 1;
	storage = make_traffic_storage(sk);
	if (storage && find_connection(skb, storage, now, used, 1))
		count_health(sk, storage, find_health(storage, now));
	return 1;
}
