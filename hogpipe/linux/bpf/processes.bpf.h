// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * One event for each process that uses a socket for the first time, so that user space can read its
 * /proc/PID while it lives. Both sets of programs report it.
 */

#define EVENT_PAUSE_NS 10000000000ULL /* after which the pid may be another process */

/* Decoded in process_events.py. */
struct process_event {
	__u64 boot_ns;
	__u32 pid;
	__u32 padding;
};

SIZE_IS(struct process_event, 16);
OFFSET_IS(struct process_event, boot_ns, 0);
OFFSET_IS(struct process_event, pid, 8);
DESCRIBE(process_event);

/* The time of the last event of each pid. */
struct {
	MAP(BPF_MAP_TYPE_LRU_HASH, 1 << 13, __u32, __u64);
} process_events SEC(".maps");

/* Apart from other events, so that whoever reads these can be woken by each. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} new_processes SEC(".maps");

/* Report a process that has had no event for EVENT_PAUSE_NS. */
INLINE void report_process(__u32 pid, __u64 now)
{
	__u64 *last = bpf_map_lookup_elem(&process_events, &pid);
	struct process_event *event;

	if (last && now - *last < EVENT_PAUSE_NS)
		return;
	bpf_map_update_elem(&process_events, &pid, &now, BPF_ANY);
	event = bpf_ringbuf_reserve(&new_processes, sizeof(*event), 0);
	if (!event)
		return; /* user space counts the processes that it could not read */
	event->boot_ns = now;
	event->pid = pid;
	event->padding = 0;
	bpf_ringbuf_submit(event, 0);
}
