// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The maps of the traffic programs: what passed at each socket, by owner and flow.
 *
 * Two buffers. Time is cut into epochs, numbered by user space. Rows with even indexes are the
 * buffer of even epochs, rows with odd indexes that of odd ones: while programs fill one buffer,
 * user space reads the other.
 *
 * Rows are taken one after the other, so that user space reads only those in use: `rows_used` has
 * how many were taken in each buffer. The storage of a socket refers to its row, so that a packet of
 * a connection needs no hash lookup.
 *
 * A full map loses resolution, not bytes: what finds no row is added to a row of its process.
 */

/* What the owner of a row, or of a socket, comes with. */
enum row_flag {
	ROW_BY_LISTENER = 1, /* the owner is that of the listening socket */
	ROW_RELEASED = 2, /* no process has the socket any more */
	ROW_TIMESTAMPS = 4, /* segments carry the timestamps option (RFC 7323) */
	ROW_FRESH = 8, /* the first epoch of a connection */
	ROW_AWAITS_FIN = 16, /* the kernel freed the socket before the peer closed */
	ROW_INDEXED = 32, /* the row is in `row_index` */
	ROW_PACKET_SOCKET = 64, /* sent by its owner through a packet socket */
};

/* The process that used a socket last, as seen at the hook. */
struct process {
	__u64 boot_ns; /* when it did */
	__u64 cgroup;
	__u32 pid; /* 0: the socket existed before the programs, or is the kernel's own */
	__u32 user_id;
	char command[16];
};

struct row_owner {
	struct process process;
	__u64 namespace;
	enum row_flag flags;
	__u32 awaited_sequence; /* expected of the peer next when it acknowledged our FIN */
};

struct traffic_counts {
	__u64 transmit_bytes;
	__u64 transmit_packets;
	__u64 receive_bytes;
	__u64 receive_packets;
};

/* Both ends of a flow, as seen from this host; all zero where no flow is known. */
struct endpoints {
	__u32 local_address[4];
	__u32 remote_address[4];
	__u16 local_port; /* of ICMP echoes: the identifier, on both sides */
	__u16 remote_port;
	__u8 protocol;
	__u8 family;
	__u8 padding[2];
};

/* A row without a packet lost a race for its flow: it has no meaning but that of ROW_AWAITS_FIN. */
struct traffic_row {
	__u64 cookie;
	struct traffic_counts counts;
	struct row_owner owner;
	struct endpoints endpoints;
};

/*
 * The health of one TCP connection in one epoch (traffic_health.bpf.h). A row of `connections` and the
 * one of `connection_health` with the same index belong together.
 */
struct tcp_health {
	__u64 transmit_payload; /* bytes that the peer acknowledged */
	__u64 receive_payload; /* bytes received in order, each once */
	__u64 rtt_sum_us; /* of the smoothed round-trip time, one sample a round trip */
	__u64 opening_us; /* from connect() to established */
	__u64 lifetime_us; /* from established to closed */
	__u32 retransmits; /* segments */
	__u32 rtt_samples;
	__u32 rtt_min_us; /* 0: no sample */
	/* Events, at most some an epoch: a socket connects again after a failure. */
	__u16 opened;
	__u16 accepted;
	__u16 refused;
	__u16 timed_out;
	__u16 unreachable;
	__u16 abandoned;
	__u16 reset;
	__u16 closed;
	__u32 padding;
};

/* What is known of a connection's health so far. */
struct health_state {
	__u64 since_ns; /* of connect(), then of the establishment */
	__u64 transmit_payload; /* counted so far */
	__u64 receive_payload;
	__u32 retransmits;
	__u32 flags; /* of enum health_flag */
};

/* What the storage of a socket holds. */
struct traffic_storage {
	struct row_owner owner;
	__u64 rows[2]; /* its last row in the even and in the odd buffer; see make_reference */
	struct health_state health;
};

struct row_key {
	__u64 cookie;
	struct endpoints endpoints;
	__u64 parity; /* of the epoch; of a packet socket's row with the pid of its owner above */
};

/* How many rows programs took, per buffer. */
struct rows_used {
	__u64 connections;
	__u64 other_flows;
	__u64 overflow;
};

SIZE_IS(struct traffic_counts, 32);
OFFSET_IS(struct traffic_counts, transmit_bytes, 0);
OFFSET_IS(struct traffic_counts, transmit_packets, 8);
OFFSET_IS(struct traffic_counts, receive_bytes, 16);
OFFSET_IS(struct traffic_counts, receive_packets, 24);

SIZE_IS(struct traffic_row, 136);
OFFSET_IS(struct traffic_row, cookie, 0);
OFFSET_IS(struct traffic_row, counts, 8);
OFFSET_IS(struct traffic_row, owner.process.boot_ns, 40);
OFFSET_IS(struct traffic_row, owner.process.cgroup, 48);
OFFSET_IS(struct traffic_row, owner.process.pid, 56);
OFFSET_IS(struct traffic_row, owner.process.user_id, 60);
OFFSET_IS(struct traffic_row, owner.process.command, 64);
OFFSET_IS(struct traffic_row, owner.namespace, 80);
OFFSET_IS(struct traffic_row, owner.flags, 88);
OFFSET_IS(struct traffic_row, owner.awaited_sequence, 92);
OFFSET_IS(struct traffic_row, endpoints, 96);

SIZE_IS(struct tcp_health, 72);
OFFSET_IS(struct tcp_health, transmit_payload, 0);
OFFSET_IS(struct tcp_health, receive_payload, 8);
OFFSET_IS(struct tcp_health, rtt_sum_us, 16);
OFFSET_IS(struct tcp_health, opening_us, 24);
OFFSET_IS(struct tcp_health, lifetime_us, 32);
OFFSET_IS(struct tcp_health, retransmits, 40);
OFFSET_IS(struct tcp_health, rtt_samples, 44);
OFFSET_IS(struct tcp_health, rtt_min_us, 48);
OFFSET_IS(struct tcp_health, opened, 52);
OFFSET_IS(struct tcp_health, accepted, 54);
OFFSET_IS(struct tcp_health, refused, 56);
OFFSET_IS(struct tcp_health, timed_out, 58);
OFFSET_IS(struct tcp_health, unreachable, 60);
OFFSET_IS(struct tcp_health, abandoned, 62);
OFFSET_IS(struct tcp_health, reset, 64);
OFFSET_IS(struct tcp_health, closed, 66);

SIZE_IS(struct endpoints, 40);
OFFSET_IS(struct endpoints, local_address, 0);
OFFSET_IS(struct endpoints, remote_address, 16);
OFFSET_IS(struct endpoints, local_port, 32);
OFFSET_IS(struct endpoints, remote_port, 34);
OFFSET_IS(struct endpoints, protocol, 36);
OFFSET_IS(struct endpoints, family, 37);

SIZE_IS(struct row_key, 56);
OFFSET_IS(struct row_key, cookie, 0);
OFFSET_IS(struct row_key, endpoints, 8);
OFFSET_IS(struct row_key, parity, 48);

SIZE_IS(struct rows_used, 24);
OFFSET_IS(struct rows_used, connections, 0);
OFFSET_IS(struct rows_used, other_flows, 8);
OFFSET_IS(struct rows_used, overflow, 16);

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct traffic_storage);
} traffic_sockets SEC(".maps");

/* `other_flows`: all but TCP connections; the handshakes of a listening socket are there, too. */
struct {
	__uint(map_flags, BPF_F_MMAPABLE);
	MAP(BPF_MAP_TYPE_ARRAY, 1 << 17, __u32, struct traffic_row);
} connections SEC(".maps"), other_flows SEC(".maps");

/* By the indexes of `connections`. */
struct {
	__uint(map_flags, BPF_F_MMAPABLE);
	MAP(BPF_MAP_TYPE_ARRAY, 1 << 17, __u32, struct tcp_health);
} connection_health SEC(".maps");

/* The rows of `other_flows` to which no storage refers: a socket's second flow and further ones. */
struct {
	MAP(BPF_MAP_TYPE_HASH, 1 << 17, struct row_key, __u32);
} row_index SEC(".maps");

/* Rows by pid, for packets that find the maps above full. */
struct {
	MAP(BPF_MAP_TYPE_HASH, 1 << 12, __u32, struct traffic_row);
} overflow_even SEC(".maps"), overflow_odd SEC(".maps");

struct {
	__uint(map_flags, BPF_F_MMAPABLE);
	MAP(BPF_MAP_TYPE_ARRAY, 2, __u32, struct rows_used);
} rows_used SEC(".maps");

struct {
	MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, __u32);
} epoch SEC(".maps");

/*
 * An update of a map of maps waits until all programs that are running have ended
 * (maybe_wait_bpf_programs of kernel/bpf/syscall.c), so that user space can read the buffer of the
 * epoch before.
 */
struct barrier_map {
	MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, __u32);
} barrier_content SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct barrier_map);
} barrier SEC(".maps") = { .values = { &barrier_content } };

INLINE __u32 read_epoch(void)
{
	__u32 first = 0;
	__u32 *number = bpf_map_lookup_elem(&epoch, &first);

	return number ? *number : 0;
}

INLINE struct rows_used *rows_used_in(__u32 now)
{
	__u32 parity = now & 1;

	return bpf_map_lookup_elem(&rows_used, &parity);
}

INLINE struct traffic_row *row_at(void *map, __u32 now, __u32 number)
{
	__u32 index = number << 1 | (now & 1);

	return bpf_map_lookup_elem(map, &index);
}

/* A reference to a row: the epoch and one, so that 0 refers to none, and the row's number. */
INLINE __u64 make_reference(__u32 now, __u32 number)
{
	return ((__u64)now + 1) << 32 | number;
}

INLINE struct tcp_health *health_at(__u32 now, __u32 number)
{
	__u32 index = number << 1 | (now & 1);

	return bpf_map_lookup_elem(&connection_health, &index);
}

/* Return the health of a connection that has a row in this epoch, 0 if it has none. */
INLINE struct tcp_health *find_health(struct traffic_storage *storage, __u32 now)
{
	__u64 reference = storage->rows[now & 1];

	return reference >> 32 == (__u64)now + 1 ? health_at(now, (__u32)reference) : 0;
}

/* Return the row of a socket in this epoch, 0 if it has none. */
INLINE struct traffic_row *find_row(void *map, struct traffic_storage *storage, __u32 now,
				    __u64 cookie)
{
	__u64 reference = storage->rows[now & 1];
	struct traffic_row *row;

	if (reference >> 32 != (__u64)now + 1)
		return 0;
	row = row_at(map, now, (__u32)reference);
	/* An accepted socket has a copy of its listening socket's storage, references included. */
	return row && row->cookie == cookie ? row : 0;
}

/* Take the next row; `used` counts those taken. Returns 0 if all are. */
INLINE struct traffic_row *take_row(void *map, __u64 *used, __u32 now, __u64 cookie,
				    const struct row_owner *owner,
				    const struct endpoints *endpoints, __u32 *number)
{
	struct traffic_row *row;

	/* If all are taken, `used` is not increased, so that it never wraps to rows in use. */
	if (!row_at(map, now, *used))
		return 0;
	*number = __sync_fetch_and_add(used, 1);
	row = row_at(map, now, *number);
	if (!row)
		return 0;
	__builtin_memset(&row->counts, 0, sizeof(row->counts));
	row->cookie = cookie;
	row->owner = *owner;
	row->endpoints = *endpoints;
	return row;
}

/*
 * Take a row for a socket that has none in this epoch; `before` is what its storage referred to. If
 * another CPU did so first, return that row and leave ours without a packet.
 */
INLINE struct traffic_row *begin_row(void *map, __u64 *used, struct traffic_storage *storage,
				     __u64 before, __u32 now, __u64 cookie,
				     const struct endpoints *endpoints)
{
	struct traffic_row *row;
	__u32 number;

	row = take_row(map, used, now, cookie, &storage->owner, endpoints, &number);
	if (!row)
		return 0;
	if (map == &connections) {
		struct tcp_health *health = health_at(now, number);

		if (health)
			__builtin_memset(health, 0, sizeof(*health));
	}
	if (!storage->rows[0] && !storage->rows[1])
		row->owner.flags |= ROW_FRESH;
	if (__sync_val_compare_and_swap(&storage->rows[now & 1], before,
					make_reference(now, number)) == before)
		return row;
	return find_row(map, storage, now, cookie);
}

/* Copy the owner that the storage has by now into a row. */
INLINE void update_owner(struct traffic_row *row, const struct traffic_storage *storage)
{
	__u32 fresh = row->owner.flags & ROW_FRESH;

	row->owner = storage->owner;
	row->owner.flags |= fresh;
}
