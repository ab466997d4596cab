// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The tables of the `ebpf` source: what passed at each socket, and whose that is.
 *
 * Rows are given out one after the other, so that they can be read without a look at those that are
 * free: programs take the next one (`fills` has how many were taken) and note in the storage of the
 * socket which one it is. Tables are used in turns: while the rows of one turn fill, those of the
 * one before are read. Rows of even and of odd turns alternate.
 *
 * The shapes are mirrored in hogpipe/bpf/entries.py.
 */

#define BY_LISTENER 1 /* the owner is the listening socket's */
#define RELEASED 2 /* nobody holds the socket any more */
#define TIMESTAMPS 4 /* each segment has the option of that name, RFC 7323 */
#define FRESH 8 /* a connection's first turn */
#define AWAITS_FIN 16 /* the kernel let go of it before the peer had closed */
#define KEYED 32 /* a flow that is found by `places` */

struct owner {
	__u64 boot_ns; /* when it was noted */
	__u64 cgroup;
	__u32 pid; /* 0: a socket from before us, or the kernel's */
	__u32 uid;
	char comm[16];
};

struct note {
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

/* A row. One without a packet, but for those that await a FIN, is nobody's. */
struct flow {
	__u64 cookie;
	struct counts counts;
	struct note note;
	struct ends ends;
};

/* What a socket has in its storage. */
struct holder {
	struct note note;
	__u64 places[2]; /* its row of the last even and of the last odd turn: turn + 1, and row */
};

struct place_key {
	__u64 cookie;
	struct ends ends;
	__u64 parity; /* of the turn */
};

struct fill {
	__u64 connections;
	__u64 exchanges;
	__u64 overflow;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct holder);
} holders SEC(".maps");

struct flow_table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 17);
	__type(key, __u32);
	__type(value, struct flow);
} connections SEC(".maps"), exchanges SEC(".maps");

/* The rows of `exchanges` but for the first one of each socket in a turn. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__type(key, struct place_key);
	__type(value, __u32);
} places SEC(".maps");

/* What found its table full, by process. */
struct overflow_table {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 12);
	__type(key, __u32);
	__type(value, struct flow);
} overflow_even SEC(".maps"), overflow_odd SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct fill);
} fills SEC(".maps");

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

INLINE __u32 read_turn(void)
{
	__u32 first = 0;
	__u32 *now = bpf_map_lookup_elem(&turn, &first);

	return now ? *now : 0;
}

INLINE struct fill *fill_of(__u32 now)
{
	__u32 parity = now & 1;

	return bpf_map_lookup_elem(&fills, &parity);
}

INLINE struct flow *row_at(void *table, __u32 now, __u32 row)
{
	__u32 index = row << 1 | (now & 1);

	return bpf_map_lookup_elem(table, &index);
}

INLINE __u64 place_of(__u32 now, __u32 row)
{
	return ((__u64)now + 1) << 32 | row;
}

/* Return the row of a socket in this turn, if it has one. */
INLINE struct flow *find_row(void *table, struct holder *holder, __u32 now, __u64 cookie)
{
	__u64 place = holder->places[now & 1];
	struct flow *flow;

	if (place >> 32 != (__u64)now + 1)
		return 0;
	flow = row_at(table, now, (__u32)place);
	/* An accepted socket has a copy of what its listener had. */
	return flow && flow->cookie == cookie ? flow : 0;
}

/* Take the next row; `used` counts them. Returns 0 where all are taken. */
INLINE struct flow *take_row(void *table, __u64 *used, __u32 now, __u64 cookie,
			     const struct note *note, const struct ends *ends, __u32 *row)
{
	struct flow *flow;

	/* Where all are taken `used` stays, so that it never comes round to rows that are in use. */
	if (!row_at(table, now, *used))
		return 0;
	*row = __sync_fetch_and_add(used, 1);
	flow = row_at(table, now, *row);
	if (!flow)
		return 0;
	__builtin_memset(&flow->counts, 0, sizeof(flow->counts));
	flow->cookie = cookie;
	flow->note = *note;
	flow->ends = *ends;
	return flow;
}

/*
 * Take a row for a socket that had none in this turn: `before` is what it had at that place. Where
 * another CPU was faster, its row is returned, and ours stays without a packet.
 */
INLINE struct flow *begin_row(void *table, __u64 *used, struct holder *holder, __u64 before,
			      __u32 now, __u64 cookie, const struct ends *ends)
{
	struct flow *flow;
	__u32 row;

	flow = take_row(table, used, now, cookie, &holder->note, ends, &row);
	if (!flow)
		return 0;
	if (!holder->places[0] && !holder->places[1])
		flow->note.flags |= FRESH;
	if (__sync_val_compare_and_swap(&holder->places[now & 1], before, place_of(now, row)) ==
	    before)
		return flow;
	return find_row(table, holder, now, cookie);
}

/* Have a row tell what is noted of its socket by now. */
INLINE void renew_note(struct flow *flow, const struct holder *holder)
{
	__u32 fresh = flow->note.flags & FRESH;

	flow->note = holder->note;
	flow->note.flags |= fresh;
}
