// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The programs of the `ebpf` source: which bytes pass at which socket, and whose that is.
 *
 * Owners are noted when sockets are made, bound, connected, sent from or released, in the storage of
 * each socket. No event tells of a socket: its owner lies beside its bytes. An event tells only of a
 * process that is seen for the first time, so that it can be looked at while it lives.
 *
 * The shapes of what is told are mirrored in hogpipe/bpf/traffic.py.
 */

#define EXTENSIONS 6 /* headers of IPv6 between its own and the transport's that are looked at */
#define TELL_AGAIN_NS 10000000000ULL /* a pid may be another process by then */
#define KERNEL_WORKER 0x2f72656b726f776bULL /* "kworker/", whose pid says nothing */

#define BY_LISTENER 1 /* the owner is the listening socket's */
#define RELEASED 2 /* nobody holds the socket any more */
#define TIMESTAMPS 4 /* each segment has the option of that name, RFC 7323 */

#define TCP_OPTION_TIMESTAMPS 8

struct owner {
	__u64 boot_ns; /* when it was noted */
	__u64 cgroup;
	__u32 pid; /* 0: a socket from before us, or the kernel's */
	__u32 uid;
	char comm[16];
};

struct holder {
	struct owner owner;
	__u64 netns;
	__u32 flags;
	__u32 awaited; /* the peer's next sequence number when it had acknowledged our FIN */
};

struct counts {
	__u64 transmit_bytes;
	__u64 transmit_packets;
	__u64 receive_bytes;
	__u64 receive_packets;
};

struct ends {
	__u32 local[4];
	__u32 remote[4];
	__u16 local_port; /* of ICMP echoes: the identifier, on both sides */
	__u16 remote_port;
	__u8 protocol;
	__u8 family;
	__u8 padding[2];
};

/* A TCP connection has the same ends as long as it lasts, so that its socket says it all. */
struct connection {
	struct counts counts;
	struct holder holder;
	struct ends ends;
};

struct exchange_key {
	__u64 cookie;
	struct ends ends;
};

struct exchange {
	struct counts counts;
	struct holder holder;
};

/* A connection whose peer had not closed yet when the kernel let go of its socket. */
struct farewell {
	struct holder holder;
	struct ends ends;
};

struct process_event {
	__u64 boot_ns;
	__u32 pid;
	__u32 padding;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct holder);
} holders SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1 << 13);
	__type(key, __u32);
	__type(value, __u64);
} processes SEC(".maps");

/*
 * Tables come in pairs that take turns: while the ones fill, the others are emptied.
 */
struct connection_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct connection);
} connections_one SEC(".maps"), connections_two SEC(".maps");

/* All but connections: by socket and ends, since a socket may talk to many. */
struct exchange_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, struct exchange_key);
	__type(value, struct exchange);
} exchanges_one SEC(".maps"), exchanges_two SEC(".maps");

/* What found its table full, by process. */
struct overflow_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, __u32);
	__type(value, struct exchange);
} overflow_one SEC(".maps"), overflow_two SEC(".maps");

/* Sockets other than connections that nobody holds any more: their entries cannot be found again. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, __u32);
} released SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__type(key, __u64);
	__type(value, struct farewell);
} farewells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turn SEC(".maps");

/* Putting something into this waits until all programs have ended that now run (syscall.c). */
struct barrier_entry {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} barrier_content SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct barrier_entry);
} barrier SEC(".maps") = { .values = { &barrier_content } };

INLINE int second_turn(void)
{
	__u32 first = 0;
	__u32 *now = bpf_map_lookup_elem(&turn, &first);

	return now && *now;
}

/* --- whose sockets are ------------------------------------------------------------------------ */

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
INLINE void note_running(struct holder *holder)
{
	__u32 pid = bpf_get_current_pid_tgid() >> 32;
	__u64 now = bpf_ktime_get_boot_ns();

	holder->owner.boot_ns = now;
	holder->owner.cgroup = bpf_get_current_cgroup_id();
	holder->owner.pid = pid;
	holder->owner.uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(holder->owner.comm, sizeof(holder->owner.comm));
	holder->flags = 0;
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
		holder->netns = bpf_get_netns_cookie(ctx);
		note_running(holder);
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
	if (holder && holder->owner.pid != bpf_get_current_pid_tgid() >> 32) {
		holder->netns = bpf_get_netns_cookie(ctx);
		note_running(holder);
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
	}
}

/*
 * Who closes first waits for the peer to do so, too, and a socket that nobody holds does not wait
 * for that: all that stays is a struct tcp_timewait_sock, which takes the peer's FIN and answers it
 * past all hooks (tcp_timewait_state_process, tcp_v4_timewait_ack). Such a connection is told, so
 * that it can be asked for later. In all others the FIN had come, which counts as one byte.
 */
INLINE void note_farewell(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct farewell farewell = {};
	struct holder *holder;

	if (!ctx->sk || (ctx->args[0] != BPF_TCP_FIN_WAIT2 && ctx->args[1] != BPF_TCP_FIN_WAIT2))
		return;
	holder = HOLDER_OF(ctx->sk, 0);
	if (!holder)
		return;
	if (ctx->args[1] == BPF_TCP_FIN_WAIT2) {
		holder->awaited = ctx->rcv_nxt;
		return;
	}
	if (ctx->args[1] != BPF_TCP_CLOSE || holder->awaited != ctx->rcv_nxt)
		return;
	farewell.holder = *holder;
	put_ends_of(&farewell.ends, ctx);
	/* Where it is full, the two packets are not told, as if there had been no time to ask. */
	bpf_map_update_elem(&farewells, &cookie, &farewell, BPF_ANY);
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
	holder->netns = bpf_get_netns_cookie(ctx);
	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		holder->flags = BY_LISTENER;
	if (ctx->op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	if (has_timestamps(ctx))
		holder->flags |= TIMESTAMPS;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

/* Who lets go of a connection last has served it, where nothing better is known. */
INLINE void note_server(struct holder *holder)
{
	struct holder last = {};

	if (holder->owner.pid && !(holder->flags & BY_LISTENER))
		return;
	note_running(&last);
	if (*(__u64 *)last.owner.comm == KERNEL_WORKER)
		return;
	holder->owner = last.owner;
	holder->flags &= ~BY_LISTENER;
}

SEC("cgroup/sock_release")
int note_release(struct bpf_sock *ctx)
{
	struct connection *connection;
	struct holder *holder;
	__u64 cookie = bpf_get_socket_cookie(ctx);

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP) {
		__u32 nothing = 0;

		/* Where it is full, the socket is taken for an open one, which costs a look-up. */
		bpf_map_update_elem(&released, &cookie, &nothing, BPF_ANY);
		return 1;
	}
	if (ctx->state == BPF_TCP_LISTEN)
		return 1;
	holder = make_holder(ctx);
	if (!holder)
		return 1;
	holder->netns = bpf_get_netns_cookie(ctx);
	note_server(holder);
	holder->flags |= RELEASED;
	connection = second_turn() ? bpf_map_lookup_elem(&connections_two, &cookie)
				   : bpf_map_lookup_elem(&connections_one, &cookie);
	if (connection)
		connection->holder = *holder;
	return 1;
}

/* --- what passes ------------------------------------------------------------------------------ */

INLINE int has_two_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_UDPLITE ||
	       protocol == IPPROTO_SCTP;
}

INLINE void put_ports(struct ends *ends, const __u16 *ports, int sent)
{
	ends->local_port = ntohs(ports[sent ? 0 : 1]);
	ends->remote_port = ntohs(ports[sent ? 1 : 0]);
}

/* Read what most packets are: headers without extras, in one piece. Returns 0 if it is not so. */
INLINE int read_plain_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	const __u8 *head = (void *)(long)skb->data;
	const __u8 *end = (void *)(long)skb->data_end;

	if (head + 24 > end)
		return 0;
	if (head[0] == 0x45 && has_two_ports(head[9])) {
		ends->family = AF_INET;
		ends->protocol = head[9];
		ends->local[0] = *(__u32 *)(head + (sent ? 12 : 16));
		ends->remote[0] = *(__u32 *)(head + (sent ? 16 : 12));
		put_ports(ends, (const __u16 *)(head + 20), sent);
		return 1;
	}
	if (head[0] >> 4 != 6 || head + 44 > end || !has_two_ports(head[6]))
		return 0;
	ends->family = AF_INET6;
	ends->protocol = head[6];
	COPY_WORDS(ends->local, (__u32 *)(head + (sent ? 8 : 24)));
	COPY_WORDS(ends->remote, (__u32 *)(head + (sent ? 24 : 8)));
	put_ports(ends, (const __u16 *)(head + 40), sent);
	return 1;
}

INLINE void read_other_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	__u8 head[40];
	__u32 offset;
	__u16 ports[2];
	__u8 next;

	if (bpf_skb_load_bytes(skb, 0, head, 20))
		return;
	if (head[0] >> 4 == 4) {
		offset = (head[0] & 15) * 4;
		next = head[9];
		ends->family = AF_INET;
		__builtin_memcpy(sent ? ends->local : ends->remote, head + 12, 4);
		__builtin_memcpy(sent ? ends->remote : ends->local, head + 16, 4);
	} else {
		if (bpf_skb_load_bytes(skb, 0, head, 40))
			return;
		offset = 40;
		next = head[6];
		ends->family = AF_INET6;
		__builtin_memcpy(sent ? ends->local : ends->remote, head + 8, 16);
		__builtin_memcpy(sent ? ends->remote : ends->local, head + 24, 16);
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
	ends->protocol = next;
	if (has_two_ports(next)) {
		if (!bpf_skb_load_bytes(skb, offset, ports, 4))
			put_ports(ends, ports, sent);
	} else if (next == IPPROTO_ICMP || next == IPPROTO_ICMPV6) {
		__u8 echo[6];

		if (!bpf_skb_load_bytes(skb, offset, echo, 6) &&
		    (next == IPPROTO_ICMP ? (echo[0] == 0 || echo[0] == 8)
					  : (echo[0] == 128 || echo[0] == 129)))
			ends->local_port = ends->remote_port = echo[4] << 8 | echo[5];
	}
}

/* Read the ends of a packet; sent ones have the local end first. */
INLINE void read_ends(struct __sk_buff *skb, struct ends *ends, int sent)
{
	if (!read_plain_ends(skb, ends, sent))
		read_other_ends(skb, ends, sent);
}

INLINE void copy_holder(struct holder *to, struct bpf_sock *sk)
{
	struct holder *holder = sk ? HOLDER_OF(sk, 0) : 0;

	if (holder)
		*to = *holder;
}

INLINE struct counts *begin_connection(struct __sk_buff *skb, struct bpf_sock *sk, void *table,
				       __u64 cookie, int sent)
{
	struct connection fresh = {};

	read_ends(skb, &fresh.ends, sent);
	copy_holder(&fresh.holder, sk);
	bpf_map_update_elem(table, &cookie, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(table, &cookie);
}

INLINE struct counts *begin_exchange(struct bpf_sock *sk, void *table, const void *key)
{
	struct exchange fresh = {};

	copy_holder(&fresh.holder, sk);
	bpf_map_update_elem(table, key, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(table, key);
}

INLINE struct counts *count_connection(struct __sk_buff *skb, struct bpf_sock *sk, int second,
				       int sent)
{
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct counts *counts;

	if (second) {
		counts = bpf_map_lookup_elem(&connections_two, &cookie);
		return counts ? counts
			      : begin_connection(skb, sk, &connections_two, cookie, sent);
	}
	counts = bpf_map_lookup_elem(&connections_one, &cookie);
	return counts ? counts : begin_connection(skb, sk, &connections_one, cookie, sent);
}

INLINE struct counts *count_exchange(struct __sk_buff *skb, struct bpf_sock *sk, int second,
				     int sent)
{
	struct exchange_key key = {};
	struct counts *counts;

	key.cookie = bpf_get_socket_cookie(skb);
	read_ends(skb, &key.ends, sent);
	if (second) {
		counts = bpf_map_lookup_elem(&exchanges_two, &key);
		return counts ? counts : begin_exchange(sk, &exchanges_two, &key);
	}
	counts = bpf_map_lookup_elem(&exchanges_one, &key);
	return counts ? counts : begin_exchange(sk, &exchanges_one, &key);
}

INLINE struct counts *count_overflow(struct bpf_sock *sk, int second)
{
	struct holder *holder = sk ? HOLDER_OF(sk, 0) : 0;
	__u32 pid = holder ? holder->owner.pid : 0;
	struct counts *counts;

	if (second) {
		counts = bpf_map_lookup_elem(&overflow_two, &pid);
		return counts ? counts : begin_exchange(sk, &overflow_two, &pid);
	}
	counts = bpf_map_lookup_elem(&overflow_one, &pid);
	return counts ? counts : begin_exchange(sk, &overflow_one, &pid);
}

INLINE int count(struct __sk_buff *skb, int sent)
{
	struct bpf_sock *sk = skb->sk;
	int second = second_turn();
	struct counts *counts;

	if (sk)
		sk = bpf_sk_fullsock(sk);
	if (sk && sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM &&
	    sk->state != BPF_TCP_LISTEN)
		counts = count_connection(skb, sk, second, sent);
	else
		counts = count_exchange(skb, sk, second, sent);
	if (!counts)
		counts = count_overflow(sk, second);
	if (!counts) {
		count_loss(PACKETS_LOST, 1);
		return 1;
	}
	__sync_fetch_and_add(sent ? &counts->transmit_bytes : &counts->receive_bytes, skb->len);
	__sync_fetch_and_add(sent ? &counts->transmit_packets : &counts->receive_packets, 1);
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
