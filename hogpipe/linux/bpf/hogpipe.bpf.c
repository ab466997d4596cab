// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * All programs of hogpipe, compiled into one object. User space attaches one of two sets, at the
 * root of the control group tree, so that they run for every process of the host:
 *
 * - the ledger's (ledger.bpf.h) report who uses which socket, one event for each change; beside them,
 *   those of ledger_health.bpf.h count the health of connections;
 * - the traffic programs (traffic_*.bpf.h) count every packet at its socket, by owner and flow; to
 *   measure a block of a program, those of payload.bpf.h beside them count the payload of TCP.
 *
 * Each set has one more program where the kernel permits it, attached to interfaces, for the packets
 * that pass no hook of a control group (packet_sockets.bpf.h).
 *
 * They only observe: every program returns what permits that which the hook asks about. All hooks are
 * part of the kernel's stable interface (UAPI).
 *
 * Structs, enums and maps that user space reads or writes are described in shapes.py, too. The
 * assertions beside them fail the build when the sizes or offsets change in C alone; when they
 * change in Python alone, the loader refuses the object.
 */
#include "common.bpf.h"

#include "processes.bpf.h"

#include "ledger.bpf.h"

#include "traffic_maps.bpf.h"

#include "traffic_owners.bpf.h"

#include "traffic_health.bpf.h"

#include "traffic_connections.bpf.h"

#include "traffic_endpoints.bpf.h"

#include "traffic_count.bpf.h"

#include "ledger_health.bpf.h"

#include "packet_sockets.bpf.h"
#include "payload.bpf.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
