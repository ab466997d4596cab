// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Owners of sockets, for the traffic programs: recorded in the storage of each socket when it is
 * created, bound, connected, sent from or released, and copied from there into its rows. There is no
 * event for a socket, only one for a new process (processes.bpf.h).
 */

#define KERNEL_WORKER 0x2f72656b726f776bULL /* "kworker/": a kernel thread, which owns nothing */

/* Record the current process as the owner, and clear the flags. Not for softirq. */
INLINE void record_owner(struct row_owner *owner)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 now = bpf_ktime_get_boot_ns();

	owner->process.boot_ns = now;
	owner->process.cgroup = bpf_get_current_cgroup_id();
	owner->process.pid = pid;
	owner->process.user_id = bpf_get_current_uid_gid();
	bpf_get_current_comm(owner->process.command, sizeof(owner->process.command));
	owner->flags = 0;
	report_process(pid, now);
}

#define TRAFFIC_STORAGE(sk, flags) bpf_sk_storage_get(&traffic_sockets, sk, 0, flags)

INLINE struct traffic_storage *make_traffic_storage(struct bpf_sock *sk)
{
	struct traffic_storage *storage = TRAFFIC_STORAGE(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage)
		COUNT_LOSS(sockets);
	return storage;
}

INLINE int own_by_caller(struct bpf_sock *ctx)
{
	struct traffic_storage *storage = make_traffic_storage(ctx);

	if (storage) {
		storage->owner.namespace = bpf_get_netns_cookie(ctx);
		record_owner(&storage->owner);
	}
	return 1;
}

PROGRAM("cgroup/sock_create", owner_create, bpf_sock, own_by_caller)
PROGRAM("cgroup/post_bind4", owner_bind4, bpf_sock, own_by_caller)
PROGRAM("cgroup/post_bind6", owner_bind6, bpf_sock, own_by_caller)

/*
 * The process that connects or sends is the owner, whichever process created the socket; mostly it
 * is recorded already.
 */
INLINE int own_by_user(struct bpf_sock_addr *ctx)
{
	struct traffic_storage *storage;

	if (!ctx->sk)
		return 1;
	storage = make_traffic_storage(ctx->sk);
	if (storage && storage->owner.process.pid != bpf_get_current_pid_tgid() >> 32) {
		storage->owner.namespace = bpf_get_netns_cookie(ctx);
		record_owner(&storage->owner);
	}
	return 1;
}

PROGRAM("cgroup/connect4", owner_connect4, bpf_sock_addr, own_by_user)
PROGRAM("cgroup/connect6", owner_connect6, bpf_sock_addr, own_by_user)
PROGRAM("cgroup/sendmsg4", owner_sendmsg4, bpf_sock_addr, own_by_user)
PROGRAM("cgroup/sendmsg6", owner_sendmsg6, bpf_sock_addr, own_by_user)

/*
 * The process that closes the last descriptor of a connection is taken for the one that served it,
 * unless a better owner is known.
 */
INLINE void record_server(struct row_owner *owner)
{
	struct row_owner last = {};

	if (owner->process.pid && !(owner->flags & ROW_BY_LISTENER))
		return;
	record_owner(&last);
	if (*(__u64 *)last.process.command == KERNEL_WORKER)
		return;
	owner->process = last.process;
	owner->flags &= ~ROW_BY_LISTENER;
}

SEC("cgroup/sock_release")
int owner_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 now = read_epoch();
	struct traffic_storage *storage;
	struct traffic_row *row;

	if (ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP) {
		if (ctx->state == BPF_TCP_LISTEN)
			return 1;
		storage = make_traffic_storage(ctx);
		if (!storage)
			return 1;
		storage->owner.namespace = bpf_get_netns_cookie(ctx);
		record_server(&storage->owner);
		storage->owner.flags |= ROW_RELEASED;
		row = find_row(&connections, storage, now, cookie);
		if (row)
			update_owner(row, storage);
		return 1;
	}
	storage = TRAFFIC_STORAGE(ctx, 0);
	if (!storage)
		return 1;
	storage->owner.flags |= ROW_RELEASED;
	/* User space finds the socket's other rows by its cookie. */
	row = find_row(&other_flows, storage, now, cookie);
	if (row)
		row->owner.flags |= ROW_RELEASED;
	return 1;
}
