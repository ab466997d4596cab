// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Whose sockets are: noted when they are made, bound, connected, sent from or released, in the
 * storage of each socket, and copied from there beside its bytes. No event tells of a socket; one
 * tells only of a process that is seen for the first time, so that it can be looked at while it
 * lives. Its shape is mirrored in hogpipe/bpf/entries.py.
 */

#define TELL_AGAIN_NS 10000000000ULL /* a pid may be another process by then */
#define KERNEL_WORKER 0x2f72656b726f776bULL /* "kworker/", whose pid says nothing */

struct process_event {
	__u64 boot_ns;
	__u32 pid;
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, __u32);
	__type(value, __u64);
} processes SEC(".maps");

/* Tell of a process that is new to us, or may be another one by now. */
INLINE void tell_process(__u32 pid, __u64 now)
{
	__u64 *told = bpf_map_lookup_elem(&processes, &pid);
	struct process_event *event;

	if (told && now - *told < TELL_AGAIN_NS)
		return;
	bpf_map_update_elem(&processes, &pid, &now, BPF_ANY);
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count_loss(EVENTS_LOST, 1);
		return;
	}
	event->boot_ns = now;
	event->pid = pid;
	event->padding = 0;
	bpf_ringbuf_submit(event, 0);
}

/* Note the running process. Only for hooks that run in the caller's own context. */
INLINE void note_running(struct note *note)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 now = bpf_ktime_get_boot_ns();

	note->owner.boot_ns = now;
	note->owner.cgroup = bpf_get_current_cgroup_id();
	note->owner.pid = pid;
	note->owner.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(note->owner.comm, sizeof(note->owner.comm));
	note->flags = 0;
	tell_process(pid, now);
}

#define HOLDER_OF(sk, flags) bpf_sk_storage_get(&holders, sk, 0, flags)

INLINE struct holder *make_holder(struct bpf_sock *sk)
{
	struct holder *holder = HOLDER_OF(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!holder)
		count_loss(NOTES_LOST, 1);
	return holder;
}

INLINE int note_caller_of(struct bpf_sock *ctx)
{
	struct holder *holder = make_holder(ctx);

	if (holder) {
		holder->note.netns = bpf_get_netns_cookie(ctx);
		note_running(&holder->note);
	}
	return 1;
}

SEC("cgroup/sock_create")
int note_create(struct bpf_sock *ctx)
{
	return note_caller_of(ctx);
}

SEC("cgroup/post_bind4")
int note_bind4(struct bpf_sock *ctx)
{
	return note_caller_of(ctx);
}

SEC("cgroup/post_bind6")
int note_bind6(struct bpf_sock *ctx)
{
	return note_caller_of(ctx);
}

/* Who connects or sends is the owner, whoever made the socket; mostly it is noted already. */
INLINE int note_user_of(struct bpf_sock_addr *ctx)
{
	struct holder *holder;

	if (!ctx->sk)
		return 1;
	holder = make_holder(ctx->sk);
	if (holder && holder->note.owner.pid != bpf_get_current_pid_tgid() >> 32) {
		holder->note.netns = bpf_get_netns_cookie(ctx);
		note_running(&holder->note);
	}
	return 1;
}

SEC("cgroup/connect4")
int note_connect4(struct bpf_sock_addr *ctx)
{
	return note_user_of(ctx);
}

SEC("cgroup/connect6")
int note_connect6(struct bpf_sock_addr *ctx)
{
	return note_user_of(ctx);
}

SEC("cgroup/sendmsg4")
int note_send4(struct bpf_sock_addr *ctx)
{
	return note_user_of(ctx);
}

SEC("cgroup/sendmsg6")
int note_send6(struct bpf_sock_addr *ctx)
{
	return note_user_of(ctx);
}

/* Who lets go of a connection last has served it, where nothing better is known. */
INLINE void note_server(struct note *note)
{
	struct note last = {};

	if (note->owner.pid && !(note->flags & BY_LISTENER))
		return;
	note_running(&last);
	if (*(__u64 *)last.owner.comm == KERNEL_WORKER)
		return;
	note->owner = last.owner;
	note->flags &= ~BY_LISTENER;
}

SEC("cgroup/sock_release")
int note_release(struct bpf_sock *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	__u32 now = read_turn();
	struct holder *holder;
	struct flow *flow;

	if (ctx->type == SOCK_STREAM && ctx->protocol == IPPROTO_TCP) {
		if (ctx->state == BPF_TCP_LISTEN)
			return 1;
		holder = make_holder(ctx);
		if (!holder)
			return 1;
		holder->note.netns = bpf_get_netns_cookie(ctx);
		note_server(&holder->note);
		holder->note.flags |= RELEASED;
		flow = find_row(&connections, holder, now, cookie);
		if (flow)
			renew_note(flow, holder);
		return 1;
	}
	holder = HOLDER_OF(ctx, 0);
	if (!holder)
		return 1;
	holder->note.flags |= RELEASED;
	/* Other rows of the socket are known by its cookie. */
	flow = find_row(&exchanges, holder, now, cookie);
	if (flow)
		flow->note.flags |= RELEASED;
	return 1;
}
