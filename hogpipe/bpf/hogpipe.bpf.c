// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Who made, bound, connected and released which socket, told by the kernel at the time it happens;
 * and, for the `ebpf` source only, which bytes pass at which socket.
 *
 * Nothing here changes what a socket may do: every program returns 1, allowed. Only hooks of control
 * groups are used, which are part of the kernel's stable interface to programs (UAPI), and only the
 * UAPI's headers. The helpers are declared here, so that clang and those headers are enough to build.
 *
 * What is known of a socket is kept in its own storage, which the kernel frees with it: there is no
 * table that could be full. BPF_F_CLONE gives an accepted socket a copy of what its listener had.
 *
 * The shapes of `struct event`, `struct traffic_key` and `struct traffic` are mirrored in
 * hogpipe/ledger/events.py and hogpipe/bpf/traffic.py.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define IPPROTO_UDPLITE 136

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)BPF_FUNC_map_lookup_elem;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)BPF_FUNC_get_current_pid_tgid;
static __u64 (*bpf_get_current_uid_gid)(void) = (void *)BPF_FUNC_get_current_uid_gid;
static long (*bpf_get_current_comm)(void *to, __u32 size) = (void *)BPF_FUNC_get_current_comm;
static __u64 (*bpf_get_current_cgroup_id)(void) = (void *)BPF_FUNC_get_current_cgroup_id;
static __u64 (*bpf_get_socket_cookie)(void *ctx) = (void *)BPF_FUNC_get_socket_cookie;
static __u64 (*bpf_get_netns_cookie)(void *ctx) = (void *)BPF_FUNC_get_netns_cookie;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)BPF_FUNC_ktime_get_boot_ns;
static void *(*bpf_sk_storage_get)(void *map, void *sk, void *value, __u64 flags) =
	(void *)BPF_FUNC_sk_storage_get;
static void *(*bpf_ringbuf_reserve)(void *ring, __u64 size, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_reserve;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)BPF_FUNC_ringbuf_submit;
static struct bpf_sock *(*bpf_sk_fullsock)(struct bpf_sock *sk) = (void *)BPF_FUNC_sk_fullsock;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 size) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*bpf_probe_read_kernel)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;

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

/* Events, sockets, packets, bytes. */
enum loss { EVENTS_LOST, NOTES_LOST, TRAFFIC_OVERFLOWED, TRAFFIC_LOST, LOSSES };

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct socket_note);
} sockets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOSSES);
	__type(key, __u32);
	__type(value, __u64);
} losses SEC(".maps");

INLINE void count_loss(__u32 which, __u64 by)
{
	__u64 *count = bpf_map_lookup_elem(&losses, &which);

	if (count)
		__sync_fetch_and_add(count, by);
}

/* An address of IPv6, word by word: a context may not be read otherwise. */
#define COPY_WORDS(to, from)          \
	do {                          \
		(to)[0] = (from)[0];  \
		(to)[1] = (from)[1];  \
		(to)[2] = (from)[2];  \
		(to)[3] = (from)[3];  \
	} while (0)

INLINE __u16 swap16(__u16 value)
{
	return __builtin_bswap16(value);
}

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define ntohs(value) swap16(value)
#define ntohl(value) __builtin_bswap32(value)
#else
#define ntohs(value) (value)
#define ntohl(value) (value)
#endif

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

/* --- the ledger: hooks of socket time ------------------------------------------------------- */

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
 * socket, nothing new is known.
 */
INLINE struct event *begin_release(struct bpf_sock *ctx)
{
	struct socket_note *note = NOTE_OF(ctx, 0);
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct event *event;

	if (!note || !note->told_end || (note->accepted && note->pid == pid))
		return 0;
	event = begin(note, bpf_get_socket_cookie(ctx), RELEASED, ctx->protocol);
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

/* --- the `ebpf` source: hooks of each packet --------------------------------------------------- */

#define EXTENSIONS 6 /* headers of IPv6 between its own and the transport's that are looked at */

struct traffic_key {
	__u64 cookie;
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port; /* of ICMP echoes: the identifier, on both sides */
	__u16 remote_port;
	__u8 protocol;
	__u8 family;
	__u8 padding[2];
};

struct traffic {
	__u64 transmit_bytes;
	__u64 transmit_packets;
	__u64 receive_bytes;
	__u64 receive_packets;
	__u64 netns;
	__u64 cgroup;
	__u32 pid; /* 0: a socket from before us, or the kernel's */
	__u32 uid;
	char comm[16];
};

/*
 * Two tables take turns: while the one fills, the other is emptied. Putting one into `active` waits
 * until no program still uses the other, so no packet is counted in a table that is being emptied.
 */
struct traffic_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct traffic_key);
	__type(value, struct traffic);
} traffic_one SEC(".maps"), traffic_two SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct traffic_table);
} active SEC(".maps") = { .values = { &traffic_one } };

/* What found its table full, by process. Only ever grows: it is read, and not emptied. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 14);
	__type(key, __u32);
	__type(value, struct traffic);
} overflow SEC(".maps");

/* Read the ends of a packet; sent ones have the local end first. Returns 0 where it is no IP. */
INLINE int read_ends(struct __sk_buff *skb, struct traffic_key *key, int sent)
{
	__u8 head[40];
	__u32 offset;
	__u16 ports[2] = {};
	__u8 next;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return 0;
	if (head[0] >> 4 == 4) {
		offset = (head[0] & 15) * 4;
		next = head[9];
		key->family = AF_INET;
		__builtin_memcpy(sent ? key->local : key->remote, head + 12, 4);
		__builtin_memcpy(sent ? key->remote : key->local, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return 0;
		offset = 40;
		next = head[6];
		key->family = AF_INET6;
		__builtin_memcpy(sent ? key->local : key->remote, head + 8, 16);
		__builtin_memcpy(sent ? key->remote : key->local, head + 24, 16);
#pragma unroll
		for (int i = 0; i < EXTENSIONS; i++) {
			__u8 extension[2];

			if (next != 0 && next != 43 && next != 44 && next != 60)
				break;
			if (bpf_skb_load_bytes(skb, offset, extension, 2))
				break;
			offset += next == 44 ? 8 : (extension[1] + 1) * 8;
			next = extension[0];
		}
	}
	key->protocol = next;
	if (next == IPPROTO_TCP || next == IPPROTO_UDP || next == IPPROTO_UDPLITE || next == 132) {
		if (!bpf_skb_load_bytes(skb, offset, ports, 4)) {
			key->local_port = ntohs(ports[sent ? 0 : 1]);
			key->remote_port = ntohs(ports[sent ? 1 : 0]);
		}
	} else if (next == IPPROTO_ICMP || next == IPPROTO_ICMPV6) {
		__u8 echo[6];

		if (!bpf_skb_load_bytes(skb, offset, echo, 6) &&
		    (next == IPPROTO_ICMP ? (echo[0] == 0 || echo[0] == 8)
					  : (echo[0] == 128 || echo[0] == 129)))
			key->local_port = key->remote_port = echo[4] << 8 | echo[5];
	}
	return 1;
}

INLINE void add(struct traffic *traffic, __u64 length, int sent)
{
	__sync_fetch_and_add(sent ? &traffic->transmit_bytes : &traffic->receive_bytes, length);
	__sync_fetch_and_add(sent ? &traffic->transmit_packets : &traffic->receive_packets, 1);
}

INLINE struct traffic *find(void *table, const void *key, struct socket_note *note)
{
	struct traffic *traffic = bpf_map_lookup_elem(table, key);
	struct traffic fresh = {};

	if (traffic)
		return traffic;
	if (note) {
		fresh.netns = note->netns;
		fresh.cgroup = note->cgroup;
		fresh.pid = note->pid;
		fresh.uid = note->uid;
		__builtin_memcpy(fresh.comm, note->comm, sizeof(fresh.comm));
	}
	bpf_map_update_elem(table, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(table, key);
}

INLINE int count(struct __sk_buff *skb, int sent)
{
	struct traffic_key key = {};
	struct socket_note *note = 0;
	struct traffic *traffic;
	struct bpf_sock *sk = skb->sk;
	__u32 first = 0;
	void *table;

	if (!read_ends(skb, &key, sent))
		return 1;
	key.cookie = bpf_get_socket_cookie(skb);
	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk)
		note = NOTE_OF(sk, 0);
	table = bpf_map_lookup_elem(&active, &first);
	if (!table)
		return 1;
	traffic = find(table, &key, note);
	if (!traffic) {
		__u32 pid = note ? note->pid : 0;

		count_loss(TRAFFIC_OVERFLOWED, 1);
		traffic = find(&overflow, &pid, note);
	}
	if (traffic)
		add(traffic, skb->len, sent);
	else
		count_loss(TRAFFIC_LOST, skb->len);
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

char LICENSE[] SEC("license") = "Dual MIT/GPL";
