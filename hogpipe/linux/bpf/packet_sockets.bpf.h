// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * IP packets that processes write to packet sockets (AF_PACKET): DHCP clients, injectors, packet
 * generators. They pass no hook of a control group, but the egress hook of their interface (tcx,
 * Linux 6.6), in the system call that sends them: the current process is the sender. The helper that
 * names it may be called there since Linux 6.10.
 *
 * User space attaches one of two programs, by the set that it belongs to: the ledger's records who
 * sent a flow last, the traffic program counts. The ledger's also records the owners of raw and ping
 * sockets, whose identifiers no other hook and no socket table shows. Any other packet costs a few
 * instructions.
 *
 * Known limits: what bypasses the queues (PACKET_QDISC_BYPASS) passes neither this hook nor a capture.
 * A packet that an upper interface queues reaches the lower one in softirq; see the programs.
 */

#define AF_PACKET 17
#define SOCK_RAW 3
#define ETH_P_8021Q 0x8100
#define ETH_P_8021AD 0x88a8
#define VLAN_TAG 4
#define MOST_TAGS 2
#define NEXT_PROGRAM -1 /* TCX_NEXT: whatever other programs and the kernel decide */
#define SENDER_EXPIRES_NS 60000000000ULL

/* Return where the IP header is, from the network header on: behind tags that the sender wrote. */
INLINE __u32 find_ip_header(struct __sk_buff *skb)
{
	__u16 protocol = skb->protocol;
	__u32 start = 0;

#pragma unroll
	for (int i = 0; i < MOST_TAGS; i++) {
		if (protocol != ntohs(ETH_P_8021Q) && protocol != ntohs(ETH_P_8021AD))
			break;
		if (load(skb, start, 2, &protocol, sizeof(protocol)))
			break;
		start += VLAN_TAG;
	}
	return start;
}

/*
 * Return the length of an IP packet; 0 if there is none, or if it claims to be longer than its frame,
 * as a capture would not decode it.
 */
INLINE __u32 read_ip_length(struct __sk_buff *skb, __u32 start)
{
	__u32 length = 0;
	__u8 head[6], last;

	if (load(skb, start, 0, head, sizeof(head)))
		return 0;
	if (head[0] >> 4 == 4)
		length = head[2] << 8 | head[3];
	else if (head[0] >> 4 == 6)
		length = 40 + (head[4] << 8 | head[5]);
	if (length < 20 || load(skb, start, length - 1, &last, 1))
		return 0;
	return length;
}

/* Read where a frame's packet goes; return its length, 0 if it has none. */
INLINE __u32 read_frame(struct __sk_buff *skb, __u32 *start, struct endpoints *endpoints)
{
	__u32 length;

	*start = find_ip_header(skb);
	length = read_ip_length(skb, *start);
	if (length)
		read_other_endpoints(skb, *start, endpoints, 1);
	return length;
}

/* Who sent a flow through packet sockets, or raw ones, last. */
struct packet_sender {
	__u64 boot_ns; /* since when it has been the only one */
	__u64 last_ns;
	__u64 cookie; /* of the socket */
	__u64 cgroup;
	__u32 pid;
	__u32 user_id;
	__u32 interface; /* that its packets pass first */
	__u32 is_shared; /* another process sent the same flow shortly before */
	char command[16];
};

SIZE_IS(struct packet_sender, 64);
OFFSET_IS(struct packet_sender, boot_ns, 0);
OFFSET_IS(struct packet_sender, last_ns, 8);
OFFSET_IS(struct packet_sender, cookie, 16);
OFFSET_IS(struct packet_sender, cgroup, 24);
OFFSET_IS(struct packet_sender, pid, 32);
OFFSET_IS(struct packet_sender, user_id, 36);
OFFSET_IS(struct packet_sender, interface, 40);
OFFSET_IS(struct packet_sender, is_shared, 44);
OFFSET_IS(struct packet_sender, command, 48);

struct {
	MAP(BPF_MAP_TYPE_LRU_HASH, 1 << 13, struct endpoints, struct packet_sender);
} packet_senders SEC(".maps");

/* How many flows were recorded, so that user space need not ask in vain. */
struct {
	MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, __u64);
} senders_recorded SEC(".maps");

/* Fill in the current process. Not for softirq. */
INLINE void name_current(struct packet_sender *sender)
{
	sender->cgroup = bpf_get_current_cgroup_id();
	sender->pid = bpf_get_current_pid_tgid() >> 32;
	sender->user_id = bpf_get_current_uid_gid();
	bpf_get_current_comm(sender->command, sizeof(sender->command));
}

INLINE void record_sender(struct __sk_buff *skb, const struct endpoints *endpoints,
			  struct packet_sender *sender)
{
	struct packet_sender *known = bpf_map_lookup_elem(&packet_senders, endpoints);
	__u64 now = bpf_ktime_get_boot_ns();
	__u32 first = 0;
	__u64 *recorded;

	sender->cookie = bpf_get_socket_cookie(skb);
	if (known && now - known->last_ns < SENDER_EXPIRES_NS) {
		/* On a further interface of its way the packet may be in softirq, in any process. */
		if (known->cookie == sender->cookie && known->interface != skb->ifindex)
			return;
		if (known->pid == sender->pid) {
			known->last_ns = now;
			return;
		}
		sender->is_shared = 1;
	}
	sender->boot_ns = sender->last_ns = now;
	sender->interface = skb->ifindex;
	bpf_map_update_elem(&packet_senders, endpoints, sender, BPF_ANY);
	recorded = bpf_map_lookup_elem(&senders_recorded, &first);
	if (recorded)
		__sync_fetch_and_add(recorded, 1);
	report_process(sender->pid, now);
}

/* Fill in the owner of a raw or ping socket that a process made since the programs are attached. */
INLINE int name_raw_owner(struct packet_sender *sender, struct bpf_sock *sk)
{
	struct ledger_storage *storage = LEDGER_STORAGE(sk, 0);

	if (!storage || !storage->pid)
		return 0;
	sender->cgroup = storage->cgroup;
	sender->pid = storage->pid;
	sender->user_id = storage->user_id;
	__builtin_memcpy(sender->command, storage->command, sizeof(sender->command));
	return 1;
}

/* `sk` is a raw or ping socket, 0 for a packet socket. */
INLINE void record_frame(struct __sk_buff *skb, struct bpf_sock *sk)
{
	struct packet_sender sender = {};
	struct endpoints endpoints = {};
	__u32 start;

	if (!sk)
		name_current(&sender);
	else if (!name_raw_owner(&sender, sk))
		return;
	if (read_frame(skb, &start, &endpoints))
		record_sender(skb, &endpoints, &sender);
}

/*
 * Attached to every interface: the first one that a packet passes names its sender. That of a raw or
 * ping socket is the process that made it: the packet may be sent in softirq, once the address of the
 * neighbour is known. The kernel's own sockets have no storage.
 */
SEC("tc")
int ledger_packet_socket(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk)
		return NEXT_PROGRAM;
	if (sk->family == AF_PACKET) {
		record_frame(skb, 0);
		return NEXT_PROGRAM;
	}
	sk = bpf_sk_fullsock(sk);
	if (sk && (sk->type == SOCK_RAW || sk->protocol == IPPROTO_ICMP ||
		   sk->protocol == IPPROTO_ICMPV6))
		record_frame(skb, sk);
	return NEXT_PROGRAM;
}

INLINE void count_frame(struct __sk_buff *skb)
{
	struct row_owner owner = {};
	struct carried carried;
	struct row_key key = {};
	struct traffic_row *row;
	struct rows_used *used;
	__u32 start, length, now;

	length = read_frame(skb, &start, &key.endpoints);
	now = read_epoch();
	used = rows_used_in(now);
	if (!length || !used)
		return;
	record_owner(&owner);
	owner.flags = ROW_PACKET_SOCKET | ROW_RELEASED;
	key.cookie = bpf_get_socket_cookie(skb);
	key.parity = (__u64)owner.process.pid << 32 | (now & 1);
	row = find_by_key(&key, &owner, now, used);
	if (!row)
		row = find_overflow(&owner, now, used);
	if (!row) {
		COUNT_LOSS(packets);
		return;
	}
	carried = measure(skb, start, length);
	__sync_fetch_and_add(&row->counts.transmit_bytes, carried.bytes);
	__sync_fetch_and_add(&row->counts.transmit_packets, carried.packets);
}

/*
 * Attached to interfaces of which each packet passes one. A row for each sender of a flow; it is
 * marked as released, because nothing that happens to the socket later changes who sent.
 */
SEC("tc")
int count_packet_socket(struct __sk_buff *skb)
{
	if (skb->sk && skb->sk->family == AF_PACKET)
		count_frame(skb);
	return NEXT_PROGRAM;
}
