// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * What all programs share: the kernel's helpers, declared here so that clang and the UAPI headers
 * suffice to compile; assertions on the layout of structs; the ring buffer; the counters of losses.
 */
#include <linux/bpf.h>

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define __uint(name, value) int(*name)[value]
#define __type(name, value) typeof(value) *name
#define __array(name, value) typeof(value) *name[]
#define MAP(map_type, entries, key_type, value_type) \
	__uint(type, map_type);                      \
	__uint(max_entries, entries);                \
	__type(key, key_type);                       \
	__type(value, value_type)

/* A program that returns what a function returns for its context and further arguments. */
#define PROGRAM(section, name, context, call, ...) \
	SEC(section)                               \
	int name(struct context *ctx)              \
	{                                          \
		return call(ctx, ##__VA_ARGS__);   \
	}

/* The layout of a struct that user space reads or writes; the numbers are those of shapes.py. */
#define SIZE_IS(type, size) \
	_Static_assert(sizeof(type) == (size), #type ": not the size in shapes.py")
#define OFFSET_IS(type, member, offset)                              \
	_Static_assert(__builtin_offsetof(type, member) == (offset), \
		       #type "." #member ": not the offset in shapes.py")

/*
 * The object's BTF, by which the loader checks layouts, describes the keys and values of maps. A
 * struct that only passes through the ring buffer is described because a pointer to it stands in a
 * section that libbpf skips.
 */
#define DESCRIBE(name) static struct name *described_##name SEC("described")

#define SOCK_STREAM 1

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define IPPROTO_SCTP 132
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
static struct bpf_tcp_sock *(*bpf_tcp_sock)(struct bpf_sock *sk) = (void *)BPF_FUNC_tcp_sock;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 size) =
	(void *)BPF_FUNC_skb_load_bytes;
static long (*bpf_skb_load_bytes_relative)(const void *skb, __u32 offset, void *to, __u32 size,
					   __u32 start) =
	(void *)BPF_FUNC_skb_load_bytes_relative;
static long (*bpf_sock_ops_cb_flags_set)(struct bpf_sock_ops *ctx, int flags) =
	(void *)BPF_FUNC_sock_ops_cb_flags_set;
static long (*bpf_load_hdr_opt)(struct bpf_sock_ops *ctx, void *option, __u32 size, __u64 flags) =
	(void *)BPF_FUNC_load_hdr_opt;
static long (*bpf_probe_read_kernel)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} events SEC(".maps");

/* What found no room since the programs were loaded. */
struct losses {
	__u64 events; /* the ring buffer was full */
	__u64 sockets; /* no memory for a socket's storage */
	__u64 packets; /* every map was full */
};

SIZE_IS(struct losses, 24);
OFFSET_IS(struct losses, events, 0);
OFFSET_IS(struct losses, sockets, 8);
OFFSET_IS(struct losses, packets, 16);

struct {
	MAP(BPF_MAP_TYPE_ARRAY, 1, __u32, struct losses);
} losses SEC(".maps");

INLINE struct losses *find_losses(void)
{
	__u32 index = 0;

	return bpf_map_lookup_elem(&losses, &index);
}

#define COUNT_LOSS(member)                                     \
	do {                                                   \
		struct losses *all = find_losses();            \
                                                               \
		if (all)                                       \
			__sync_fetch_and_add(&all->member, 1); \
	} while (0)

/* An IPv6 address, word by word: the verifier permits no other access to a context. */
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

/* Whether an IPv6 socket's remote address is a v4-mapped one, so that its packets are IPv4. */
INLINE int has_mapped_remote(struct bpf_sock_ops *ctx)
{
	return !ctx->remote_ip6[0] && !ctx->remote_ip6[1] && ctx->remote_ip6[2] == ntohl(0xffff);
}
