// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The ledger's programs: an event for each socket that is bound, listens, connects, is accepted,
 * first sends without being connected, or is released, with the process that did so.
 *
 * Storage. What is known of a socket is in its own storage (BPF_MAP_TYPE_SK_STORAGE), which the
 * kernel frees with the socket: no map can be full. BPF_F_CLONE gives an accepted socket a copy of
 * its listening socket's storage; one whose listening socket existed before the programs has none.
 *
 * Context. The hooks of control groups run in the process that makes the system call, so that the
 * current process is the one that uses the socket. An accepted connection appears in softirq,
 * without a process; its event names the owner of the listening socket.
 */

/* What the storage of a socket holds. */
struct ledger_storage {
	__u64 cgroup;
	__u64 namespace;
	__u32 pid; /* 0: the socket existed before the programs */
	__u32 user_id;
	char command[16];
	__u8 report_release; /* an earlier event makes the socket's release matter, too */
	__u8 reported_port;
	__u8 accepted;
	__u8 padding[5];
};

enum event_kind {
	SOCKET_BOUND = 1,
	SOCKET_LISTENING = 2,
	SOCKET_CONNECTED = 3,
	SOCKET_ACCEPTED = 4,
	SOCKET_SENT = 5,
	SOCKET_RELEASED = 6,
} __attribute__((packed));

/* Decoded in hogpipe/attribution/ledger/socket_events.py. */
struct socket_event {
	__u64 boot_ns;
	__u64 cookie;
	__u64 namespace;
	__u64 cgroup;
	__u32 pid;
	__u32 user_id;
	enum event_kind kind;
	__u8 family; /* of the addresses: AF_INET or AF_INET6 */
	__u8 protocol;
	__u8 padding;
	__u16 local_port; /* 0: not known yet */
	__u16 remote_port;
	__u32 local_address[4];
	__u32 remote_address[4];
	char command[16];
};

SIZE_IS(struct socket_event, 96);
OFFSET_IS(struct socket_event, boot_ns, 0);
OFFSET_IS(struct socket_event, cookie, 8);
OFFSET_IS(struct socket_event, namespace, 16);
OFFSET_IS(struct socket_event, cgroup, 24);
OFFSET_IS(struct socket_event, pid, 32);
OFFSET_IS(struct socket_event, user_id, 36);
OFFSET_IS(struct socket_event, kind, 40);
OFFSET_IS(struct socket_event, family, 41);
OFFSET_IS(struct socket_event, protocol, 42);
OFFSET_IS(struct socket_event, local_port, 44);
OFFSET_IS(struct socket_event, remote_port, 46);
OFFSET_IS(struct socket_event, local_address, 48);
OFFSET_IS(struct socket_event, remote_address, 64);
OFFSET_IS(struct socket_event, command, 80);
DESCRIBE(socket_event);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct ledger_storage);
} ledger_sockets SEC(".maps");

#define LEDGER_STORAGE(sk, flags) bpf_sk_storage_get(&ledger_sockets, sk, 0, flags)

INLINE struct ledger_storage *make_ledger_storage(void *sk)
{
	struct ledger_storage *storage = LEDGER_STORAGE(sk, BPF_SK_STORAGE_GET_F_CREATE);

	if (!storage)
		COUNT_LOSS(sockets);
	return storage;
}

/* Record the current process as the socket's owner. Not for softirq. */
INLINE void record_process(struct ledger_storage *storage)
{
	storage->cgroup = bpf_get_current_cgroup_id();
	storage->pid = bpf_get_current_pid_tgid() >> 32;
	storage->user_id = bpf_get_current_uid_gid();
	bpf_get_current_comm(storage->command, sizeof(storage->command));
	report_process(storage->pid, bpf_ktime_get_boot_ns());
}

/* Reserve an event of an IPv4 socket without addresses and ports. Returns 0 if the ring is full. */
INLINE struct socket_event *begin_event(struct ledger_storage *storage, __u64 cookie,
					enum event_kind kind, __u8 protocol)
{
	struct socket_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		COUNT_LOSS(events);
		return 0;
	}
	event->boot_ns = bpf_ktime_get_boot_ns();
	event->cookie = cookie;
	event->namespace = storage->namespace;
	event->cgroup = storage->cgroup;
	event->pid = storage->pid;
	event->user_id = storage->user_id;
	event->kind = kind;
	event->family = AF_INET;
	event->protocol = protocol;
	event->padding = 0;
	event->local_port = 0;
	event->remote_port = 0;
	__builtin_memset(event->local_address, 0, sizeof(event->local_address));
	__builtin_memset(event->remote_address, 0, sizeof(event->remote_address));
	__builtin_memcpy(event->command, storage->command, sizeof(event->command));
	/* A TCP port stays in use until its connection ends; the next event of the port says so. */
	storage->report_release = protocol != IPPROTO_TCP || kind != SOCKET_CONNECTED;
	storage->accepted = kind == SOCKET_ACCEPTED;
	return event;
}

/* Whether sockets are reported at bind, connect and sendmsg; TCP has a hook of its own. */
INLINE int is_datagram(__u32 protocol)
{
	return protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE || protocol == IPPROTO_ICMP ||
	       protocol == IPPROTO_ICMPV6;
}

INLINE struct ledger_storage *record_caller(struct bpf_sock *ctx)
{
	struct ledger_storage *storage = make_ledger_storage(ctx);

	if (!storage)
		return 0;
	storage->namespace = bpf_get_netns_cookie(ctx);
	record_process(storage);
	return storage;
}

SEC("cgroup/sock_create")
int ledger_create(struct bpf_sock *ctx)
{
	record_caller(ctx);
	return 1;
}

/* `family` is a constant in each hook, which leaves one of the two branches. */
INLINE int report_bind(struct bpf_sock *ctx, __u8 family)
{
	struct ledger_storage *storage = record_caller(ctx);
	struct socket_event *event;

	if (!storage || !is_datagram(ctx->protocol))
		return 1;
	event = begin_event(storage, bpf_get_socket_cookie(ctx), SOCKET_BOUND, ctx->protocol);
	if (!event)
		return 1;
	event->local_port = ctx->src_port;
	if (family == AF_INET) {
		event->local_address[0] = ctx->src_ip4;
	} else {
		event->family = AF_INET6;
		COPY_WORDS(event->local_address, ctx->src_ip6);
	}
	bpf_ringbuf_submit(event, 0);
	storage->reported_port = 1;
	return 1;
}

PROGRAM("cgroup/post_bind4", ledger_bind4, bpf_sock, report_bind, AF_INET)
PROGRAM("cgroup/post_bind6", ledger_bind6, bpf_sock, report_bind, AF_INET6)

/* The process that connects or sends is the owner, whichever process created the socket. */
INLINE struct ledger_storage *record_user(struct bpf_sock_addr *ctx)
{
	struct ledger_storage *storage;

	if (!ctx->sk)
		return 0;
	storage = make_ledger_storage(ctx->sk);
	if (!storage)
		return 0;
	storage->namespace = bpf_get_netns_cookie(ctx);
	record_process(storage);
	return storage;
}

INLINE void report_remote(struct bpf_sock_addr *ctx, struct ledger_storage *storage,
			  enum event_kind kind, __u8 family)
{
	struct socket_event *event =
		begin_event(storage, bpf_get_socket_cookie(ctx), kind, ctx->protocol);

	if (!event)
		return;
	event->local_port = ctx->sk->src_port;
	event->remote_port = ntohs((__u16)ctx->user_port);
	storage->reported_port = event->local_port != 0;
	if (family == AF_INET) {
		event->remote_address[0] = ctx->user_ip4;
	} else {
		event->family = AF_INET6;
		COPY_WORDS(event->remote_address, ctx->user_ip6);
	}
	bpf_ringbuf_submit(event, 0);
}

INLINE int report_connect(struct bpf_sock_addr *ctx, __u8 family)
{
	struct ledger_storage *storage = record_user(ctx);

	if (storage && is_datagram(ctx->protocol))
		report_remote(ctx, storage, SOCKET_CONNECTED, family);
	return 1;
}

PROGRAM("cgroup/connect4", ledger_connect4, bpf_sock_addr, report_connect, AF_INET)
PROGRAM("cgroup/connect6", ledger_connect6, bpf_sock_addr, report_connect, AF_INET6)

/* Of an unconnected socket only the datagram that gives it its port is reported. */
INLINE int report_send(struct bpf_sock_addr *ctx, __u8 family)
{
	struct ledger_storage *storage;

	if (!ctx->sk)
		return 1;
	storage = LEDGER_STORAGE(ctx->sk, 0);
	if (storage && storage->reported_port)
		return 1;
	storage = record_user(ctx);
	if (storage)
		report_remote(ctx, storage, SOCKET_SENT, family);
	return 1;
}

PROGRAM("cgroup/sendmsg4", ledger_sendmsg4, bpf_sock_addr, report_send, AF_INET)
PROGRAM("cgroup/sendmsg6", ledger_sendmsg6, bpf_sock_addr, report_send, AF_INET6)

/* TCP: a connection of this host is reported before its SYN leaves. */
SEC("sockops")
int ledger_sockops(struct bpf_sock_ops *ctx)
{
	struct ledger_storage *storage;
	struct socket_event *event;
	enum event_kind kind;

	if (ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		kind = SOCKET_CONNECTED;
	else if (ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		kind = SOCKET_ACCEPTED;
	else if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		kind = SOCKET_LISTENING;
	else
		return 1;
	if (!ctx->sk)
		return 1;
	storage = make_ledger_storage(ctx->sk);
	if (!storage)
		return 1;
	storage->namespace = bpf_get_netns_cookie(ctx);
	event = begin_event(storage, bpf_get_socket_cookie(ctx), kind, IPPROTO_TCP);
	if (!event)
		return 1;
	event->local_port = ctx->local_port;
	if (kind != SOCKET_LISTENING)
		event->remote_port = ntohl(ctx->remote_port);
	/* An IPv6 socket that connects to IPv4 may not have its mapped local address yet. */
	if (ctx->family == AF_INET || (kind != SOCKET_LISTENING && has_mapped_remote(ctx))) {
		event->local_address[0] = ctx->local_ip4;
		event->remote_address[0] = ctx->remote_ip4;
	} else {
		event->family = AF_INET6;
		COPY_WORDS(event->local_address, ctx->local_ip6);
		if (kind != SOCKET_LISTENING)
			COPY_WORDS(event->remote_address, ctx->remote_ip6);
	}
	bpf_ringbuf_submit(event, 0);
	return 1;
}

/*
 * The process that closes the last descriptor of an accepted socket is taken for the one that served
 * it. If that is the owner of the listening socket, there is nothing new to report. The release of a
 * socket from before the programs is always reported: it is the only event that ends the validity of
 * what user space read elsewhere about the socket.
 */
INLINE struct socket_event *begin_release(struct bpf_sock *ctx)
{
	struct ledger_storage *storage = LEDGER_STORAGE(ctx, 0);
	struct ledger_storage unknown = {};
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct socket_event *event;

	if (storage) {
		if (!storage->report_release || (storage->accepted && storage->pid == pid))
			return 0;
		event = begin_event(storage, bpf_get_socket_cookie(ctx), SOCKET_RELEASED,
				    ctx->protocol);
	} else {
		unknown.namespace = bpf_get_netns_cookie(ctx);
		event = begin_event(&unknown, bpf_get_socket_cookie(ctx), SOCKET_RELEASED,
				    ctx->protocol);
	}
	if (!event)
		return 0;
	report_process(pid, event->boot_ns);
	event->cgroup = bpf_get_current_cgroup_id();
	event->pid = pid;
	event->user_id = bpf_get_current_uid_gid();
	bpf_get_current_comm(event->command, sizeof(event->command));
	return event;
}

SEC("cgroup/sock_release")
int ledger_release(struct bpf_sock *ctx)
{
	struct socket_event *event = begin_release(ctx);

	if (event)
		bpf_ringbuf_submit(event, 0);
	return 1;
}

/*
 * The first 18 bytes of the kernel's struct sock_common, in this order since Linux 3.9. They are not
 * part of the stable interface, so they are used only if the family is the one in the context.
 */
struct sock_common_head {
	__u32 addresses[2];
	__u32 hash;
	__u16 remote_port; /* network order */
	__u16 local_port;
	__u16 family;
	__u16 padding;
};

/*
 * Attached in place of ledger_release where the kernel permits bpf_probe_read_kernel. A UDP socket
 * that connects without a bind gets its port after the hook of connect; no other hook has it.
 */
SEC("cgroup/sock_release")
int ledger_release_with_port(struct bpf_sock *ctx)
{
	struct socket_event *event = begin_release(ctx);
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
