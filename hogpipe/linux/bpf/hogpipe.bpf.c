// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The ledger's programs: who made, bound, connected and released which socket, told by the kernel at
 * the time it happens. Those of the `ebpf` source, which count, are in counting.bpf.h.
 *
 * Nothing here changes what a socket may do: every program returns 1, allowed. Only hooks of control
 * groups are used, which are part of the kernel's stable interface to programs (UAPI).
 *
 * What is known of a socket is kept in its own storage, which the kernel frees with it: there is no
 * table that could be full. BPF_F_CLONE gives an accepted socket a copy of what its listener had.
 *
 * The shape of `struct event` is mirrored in hogpipe/ledger/events.py.
 */
#include "common.bpf.h"

/* What a socket is known by, in its storage. */
struct socket_note {
	__u64 cgroup;
	__u64 netns;
	__u32 pid; /* 0: it was there before us */
	__u32 uid;
	char comm[16];
	__u8 told_end; /* an event named this socket whose end matters, too */
	__u8 told_port;
	__u8 accepted;
	__u8 padding[5];
};

enum kind { BOUND = 1, LISTENING = 2, CONNECTED = 3, ACCEPTED = 4, SENT = 5, RELEASED = 6 };

struct event {
	__u64 boot_ns;
	__u64 cookie;
	__u64 netns;
	__u64 cgroup;
	__u32 pid;
	__u32 uid;
	__u8 kind;
	__u8 family; /* of the addresses: AF_INET or AF_INET6 */
	__u8 protocol;
	__u8 padding;
	__u16 local_port; /* 0: not known yet */
	__u16 remote_port;
	__u32 local[4];
	__u32 remote[4];
	char comm[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_note);
} sockets SEC(".maps");

/* Note the running process as the owner. Only for hooks that run in the caller's own context. */
INLINE void note_owner(struct socket_note *note)
{
	note->cgroup = bpf_get_current_cgroup_id();
	note->pid = bpf_get_current_pid_tgid() >> 32;
	note->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(note->comm, sizeof(note->comm));
}

INLINE struct event *begin(struct socket_note *note, __u64 cookie, __u8 kind, __u8 protocol)
{
	struct event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count_loss(EVENTS_LOST, 1);
		return 0;
	}
	event->boot_ns = bpf_ktime_get_boot_ns();
	event->cookie = cookie;
	event->netns = note->netns;
	event->cgroup = note->cgroup;
	event->pid = note->pid;
	event->uid = note->uid;
	event->kind = kind;
	event->family = AF_INET;
	event->protocol = protocol;
	event->padding = 0;
	event->local_port = 0;
	event->remote_port = 0;
	__builtin_memset(event->local, 0, sizeof(event->local));
	__builtin_memset(event->remote, 0, sizeof(event->remote));
	__builtin_memcpy(event->comm, note->comm, sizeof(event->comm));
	/* A port of TCP is not free before its connection is, and that is told by the next one. */
	note->told_end = protocol != IPPROTO_TCP || kind != CONNECTED;
	note->accepted = kind == ACCEPTED;
	return event;
}

/* Storage of a socket in the hooks whose context is the socket itself. */
#define NOTE_OF(sk, flags) bpf_sk_storage_get(&sockets, sk, 0, flags)

INLINE int has_ports(__u32 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_ICMP ||
	       protocol == IPPROTO_ICMPV6;
}

INLINE struct socket_note *note_caller(struct bpf_sock *ctx)
{
	struct socket_note *note = NOTE_OF(ctx, BPF_SK_STORAGE_GET_F_CREATE);

	if (!note) {
		count_loss(NOTES_LOST, 1);
		return 0;
	}
	note->netns = bpf_get_netns_cookie(ctx);
	note_owner(note);
	return note;
}

SEC("cgroup/sock_create")
int on_create(struct bpf_sock *ctx)
{
	note_caller(ctx);
	return 1;
}

SEC("cgroup/post_bind4")
int on_bind4(struct bpf_sock *ctx)
{
	struct socket_note *note = note_caller(ctx);
	struct event *event;

	if (!note || !has_ports(ctx->protocol))
		return 1;
	event = begin(note, bpf_get_socket_cookie(ctx), BOUND, ctx->protocol);
	if (!event)
		return 1;
	event->local_port = ctx->src_port;
	event->local[0] = ctx->src_ip4;
	bpf_ringbuf_submit(event, 0);
	note->told_port = 1;
	return 1;
}

SEC("cgroup/post_bind6")
int on_bind6(struct bpf_sock *ctx)
{
	struct socket_note *note = note_caller(ctx);
	struct event *event;

	if (!note || !has_ports(ctx->protocol))
		return 1;
	event = begin(note, bpf_get_socket_cookie(ctx), BOUND, ctx->protocol);
	if (!event)
		return 1;
	event->family = AF_INET6;
	event->local_port = ctx->src_port;
	COPY_WORDS(event->local, ctx->src_ip6);
	bpf_ringbuf_submit(event, 0);
	note->told_port = 1;
	return 1;
}

/* Who connects or sends is the owner, whoever made the socket. */
INLINE struct socket_note *note_user(struct bpf_sock_addr *ctx)
{
	struct socket_note *note;

	if (!ctx->sk)
		return 0;
	note = NOTE_OF(ctx->sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!note) {
		count_loss(NOTES_LOST, 1);
		return 0;
	}
	note->netns = bpf_get_netns_cookie(ctx);
	note_owner(note);
	return note;
}

/* TCP is told by the hook of connections, where all four parts are known. */
INLINE struct event *begin_remote(struct bpf_sock_addr *ctx, struct socket_note *note, __u8 kind)
{
	struct event *event = begin(note, bpf_get_socket_cookie(ctx), kind, ctx->protocol);

	if (!event)
		return 0;
	event->local_port = ctx->sk->src_port;
	event->remote_port = ntohs((__u16)ctx->user_port);
	note->told_port = event->local_port != 0;
	return event;
}

INLINE void tell4(struct bpf_sock_addr *ctx, struct socket_note *note, __u8 kind)
{
	struct event *event = begin_remote(ctx, note, kind);

	if (!event)
		return;
	event->remote[0] = ctx->user_ip4;
	bpf_ringbuf_submit(event, 0);
}

INLINE void tell6(struct bpf_sock_addr *ctx, struct socket_note *note, __u8 kind)
{
	struct event *event = begin_remote(ctx, note, kind);

	if (!event)
		return;
	event->family = AF_INET6;
	COPY_WORDS(event->remote, ctx->user_ip6);
	bpf_ringbuf_submit(event, 0);
}

SEC("cgroup/connect4")
int on_connect4(struct bpf_sock_addr *ctx)
{
	struct socket_note *note = note_user(ctx);

	if (note && has_ports(ctx->protocol))
		tell4(ctx, note, CONNECTED);
	return 1;
}

SEC("cgroup/connect6")
int on_connect6(struct bpf_sock_addr *ctx)
{
	struct socket_note *note = note_user(ctx);

	if (note && has_ports(ctx->protocol))
		tell6(ctx, note, CONNECTED);
	return 1;
}

/* Datagrams of an unconnected socket: the first one tells its port, the others only ask. */
INLINE struct socket_note *note_sender(struct bpf_sock_addr *ctx)
{
	struct socket_note *note;

	if (!ctx->sk)
		return 0;
	note = NOTE_OF(ctx->sk, 0);
	if (note && note->told_port)
		return 0;
	return note_user(ctx);
}

SEC("cgroup/sendmsg4")
int on_send4(struct bpf_sock_addr *ctx)
{
	struct socket_note *note = note_sender(ctx);

	if (note)
		tell4(ctx, note, SENT);
	return 1;
}

SEC("cgroup/sendmsg6")
int on_send6(struct bpf_sock_addr *ctx)
{
	struct socket_note *note = note_sender(ctx);

	if (note)
		tell6(ctx, note, SENT);
	return 1;
}

/*
 * TCP. A connection that is made is told before its SYN leaves, an accepted one in softirq, where
 * there is no process: its storage is a copy of its listener's, or new if that was there before us.
 */
SEC("sockops")
int on_tcp(struct bpf_sock_ops *ctx)
{
	struct socket_note *note;
	struct event *event;
	__u8 kind;

	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		kind = CONNECTED;
	else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		kind = ACCEPTED;
	else if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		kind = LISTENING;
	else
		return 1;
	if (!ctx->sk)
		return 1;
	note = NOTE_OF(ctx->sk, BPF_SK_STORAGE_GET_F_CREATE);
	if (!note) {
		count_loss(NOTES_LOST, 1);
		return 1;
	}
	note->netns = bpf_get_netns_cookie(ctx);
	event = begin(note, bpf_get_socket_cookie(ctx), kind, IPPROTO_TCP);
	if (!event)
		return 1;
	event->local_port = ctx->local_port;
	if (kind != LISTENING)
		event->remote_port = ntohl(ctx->remote_port);
	/* An IPv6 socket that speaks IPv4 may not have its mapped addresses yet. */
	if (ctx->family == AF_INET ||
	    (kind != LISTENING && !ctx->remote_ip6[0] && !ctx->remote_ip6[1] &&
	     ctx->remote_ip6[2] == ntohl(0xffff))) {
		event->local[0] = ctx->local_ip4;
		event->remote[0] = ctx->remote_ip4;
	} else {
		event->family = AF_INET6;
		COPY_WORDS(event->local, ctx->local_ip6);
		if (kind != LISTENING) {
			COPY_WORDS(event->remote, ctx->remote_ip6);
		}
	}
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/*
 * Who lets go of an accepted socket last is who served it. Where that is the owner of the listening
 * socket, nothing new is known. Of a socket from before us the end is told, whatever it was: what is
 * known of it comes from elsewhere, and nothing else tells that it is gone.
 */
INLINE struct event *begin_release(struct bpf_sock *ctx)
{
	struct socket_note *note = NOTE_OF(ctx, 0);
	struct socket_note before = {};
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct event *event;

	if (note) {
		if (!note->told_end || (note->accepted && note->pid == pid))
			return 0;
		event = begin(note, bpf_get_socket_cookie(ctx), RELEASED, ctx->protocol);
	} else {
		before.netns = bpf_get_netns_cookie(ctx);
		event = begin(&before, bpf_get_socket_cookie(ctx), RELEASED, ctx->protocol);
	}
	if (!event)
		return 0;
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = pid;
	event->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	return event;
}

SEC("cgroup/sock_release")
int on_release(struct bpf_sock *ctx)
{
	struct event *event = begin_release(ctx);

	if (event)
		bpf_ringbuf_submit(event, 0);
	return 1;
}

/*
 * A refinement that loads where it may. A UDP socket that connects without a bind gets its port
 * after the hook of connect, and no hook of socket time shows it again. The first 18 bytes of the
 * kernel's struct sock_common have had this order since Linux 3.9: the bytes here are believed only
 * where the family is the one that the stable interface tells.
 */
struct sock_common_head {
	__u32 addresses[2];
	__u32 hash;
	__u16 remote_port; /* network order */
	__u16 local_port;
	__u16 family;
	__u16 padding;
};

SEC("cgroup/sock_release")
int on_release_with_port(struct bpf_sock *ctx)
{
	struct event *event = begin_release(ctx);
	struct sock_common_head head = {};

	if (!event)
		return 1;
	if (!bpf_probe_read_kernel(&head, sizeof(head), ctx) && head.family == ctx->family) {
		event->local_port = head.local_port;
		event->remote_port = ntohs(head.remote_port);
	}
	bpf_ringbuf_submit(event, 0);
	return 1;
}

#include "counting.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
