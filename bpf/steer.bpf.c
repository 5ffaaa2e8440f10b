// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * Steers what arrives on a NIC: unicast to a router into the AF_XDP ring of the router's worker, with the
 * 8-byte IOU header already in front; a copy of every broadcast or multicast frame into the workers' ring buffers; everything
 * else, and every broadcast or multicast frame itself, to the host.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "steer.h"

/* Set before the program is loaded. */
const volatile struct options options = { .workers = 1 };

/* AF_XDP sockets, at queue * options.workers + worker. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct address);
	__type(value, struct port);
} dynamic_fdb SEC(".maps");

/* Addresses that images derive for the bridged interfaces, in any VLAN; the key is the address in bytes 0-5. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, struct port);
} static_fdb SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct shared);
} shared_map SEC(".maps");

struct counters {
	__u64 count[COUNTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters_map SEC(".maps");

struct copies {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
};

/* One ring buffer per worker; user space makes and inserts them. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_WORKERS);
	__type(key, __u32);
	__array(values, struct copies);
} copy_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 16);
} moves SEC(".maps");

/* For the BTF that the layout test reads: types and numbers that appear in no map's definition. */
enum layout {
	LAYOUT_MAX_ROUTERS = MAX_ROUTERS,
	LAYOUT_MAX_WORKERS = MAX_WORKERS,
	LAYOUT_MAX_CREDITS = MAX_CREDITS,
	LAYOUT_STAMP_ROUTER_SHIFT = STAMP_ROUTER_SHIFT,
	LAYOUT_STAMP_BUM = STAMP_BUM,
	LAYOUT_STEER_HEAD = STEER_HEAD,
	LAYOUT_MAX_STEERED = MAX_STEERED,
	LAYOUT_MAX_LARGE = MAX_LARGE,
	LAYOUT_COPY_SMALL = COPY_SMALL,
	LAYOUT_COPY_LARGE = COPY_LARGE,
};

const struct layout_types {
	struct copy_head copy_head;
	struct moved moved;
	enum copy_kind copy_kind;
	enum router_state router_state;
	enum counter counter;
	enum layout layout;
} *layout_types __attribute__((unused));

struct tag {
	__be16 tci;
	__be16 ethertype;
};

static __always_inline int is_tag(__be16 ethertype)
{
	return ethertype == bpf_htons(ETH_P_8021Q) || ethertype == bpf_htons(ETH_P_8021AD) ||
	       ethertype == bpf_htons(ETH_P_QINQ1);
}

/* The VLANs of the frame. */
static __always_inline void read_vlans(const void *data, const void *end, struct address *to)
{
	const struct ethhdr *eth = data;
	const struct tag *tag = (const void *)(eth + 1);

	if (!is_tag(eth->h_proto) || (const void *)(tag + 1) > end)
		return;
	to->outer_vid = tag->tci & bpf_htons(0x0fff);
	if (!is_tag(tag->ethertype) || (const void *)(tag + 2) > end)
		return;
	to->inner_vid = tag[1].tci & bpf_htons(0x0fff);
}

static __always_inline __u64 mac_word(const __u8 *mac)
{
	__u64 word = 0;

	__builtin_memcpy(&word, mac, ETH_ALEN);
	return word;
}

/* All static entries have the U/L bit set (src/iou/mac.rs tests it): other addresses need no look-up among them. */
static __always_inline int may_be_static(const __u8 *mac)
{
	return mac[0] & 2;
}

static __always_inline void report_move(const struct address *address, __u32 static_fdb)
{
	struct moved *moved = bpf_ringbuf_reserve(&moves, sizeof(*moved), 0);

	if (!moved)
		return; /* user space counts the reports, and compares its table with the maps if one is missing */
	moved->address = *address;
	moved->is_static = static_fdb;
	bpf_ringbuf_submit(moved, 0);
}

/* A source address that has an entry sends from the wire: it is there now, so the entry is removed. */
static __always_inline void follow_source(const struct address *source, const struct shared *shared,
					  struct counters *counters)
{
	if (shared->any_dynamic && bpf_map_lookup_elem(&dynamic_fdb, source)) {
		if (bpf_map_delete_elem(&dynamic_fdb, source) == 0) {
			counters->count[COUNT_MOVED]++;
			report_move(source, 0);
		}
	}
	if (may_be_static(source->mac)) {
		__u64 word = mac_word(source->mac);

		if (bpf_map_lookup_elem(&static_fdb, &word) && bpf_map_delete_elem(&static_fdb, &word) == 0) {
			counters->count[COUNT_MOVED]++;
			report_move(source, 1);
		}
	}
}

/* Puts a copy of the frame into one worker's ring buffer. Returns 0, or the counter of why not. */
static __always_inline int copy_to_worker(struct xdp_md *ctx, __u32 worker, __u32 kind, __u64 len, __u64 time,
					  struct shared *shared)
{
	void *ring = bpf_map_lookup_elem(&copy_rings, &worker);
	struct copy_head *head;
	__u64 flags;

	if (!ring)
		return COUNT_NO_RING;
	if (len > COPY_LARGE)
		return COUNT_TOO_LARGE;
	if (len <= COPY_SMALL) {
		head = bpf_ringbuf_reserve(ring, sizeof(*head) + COPY_SMALL, 0);
		if (!head)
			return COUNT_COPY_RING_FULL;
		/*
		 * Looked at again, which the compiler must not leave out: Linux 6.1 forgets the bounds of a value
		 * that has been on the stack meanwhile, and refuses the program.
		 */
		barrier_var(len);
		if (len < ETH_HLEN || len > COPY_SMALL || bpf_xdp_load_bytes(ctx, 0, head + 1, len)) {
			bpf_ringbuf_discard(head, BPF_RB_NO_WAKEUP);
			return COUNT_NO_RING;
		}
	} else {
		head = bpf_ringbuf_reserve(ring, sizeof(*head) + COPY_LARGE, 0);
		if (!head)
			return COUNT_COPY_RING_FULL;
		barrier_var(len);
		if (len < ETH_HLEN || len > COPY_LARGE || bpf_xdp_load_bytes(ctx, 0, head + 1, len)) {
			bpf_ringbuf_discard(head, BPF_RB_NO_WAKEUP);
			return COUNT_NO_RING;
		}
	}
	head->time = time;
	head->len = len;
	head->kind = kind;
	/*
	 * A worker that is awake polls its ring; only one that sleeps is woken. The locked exchange orders the
	 * reservation, which is visible to the worker, before the load of its flag; the worker sets the flag,
	 * fences, and looks at the ring once more before it sleeps. One of the two sees the other.
	 */
	if (__sync_fetch_and_add(&shared->asleep[worker & (MAX_WORKERS - 1)], 0))
		flags = BPF_RB_FORCE_WAKEUP;
	else
		flags = BPF_RB_NO_WAKEUP;
	bpf_ringbuf_submit(head, flags);
	return 0;
}

static __always_inline int redirect(struct xdp_md *ctx, __u64 len, __u64 stamp, __u64 header, __u32 worker,
				    struct shared *shared, struct counters *counters)
{
	__u32 number = ctx->rx_queue_index * options.workers + worker;
	struct credits *credits = NULL;
	__u32 chunks = 1;
	void *data, *end;
	__u64 *head;

	/* As the worker reckons, too, however the driver fills them. */
	len += shared->credit_head;
	if (len > STEER_CHUNK)
		chunks = ((__u32)len + STEER_CHUNK - 1) / STEER_CHUNK;
	if (number < MAX_CREDITS && shared->credit_limit) {
		credits = &shared->credits[number];
		/* Signed: where a count was lost, more may have been taken than steered. */
		__s32 after = credits->steered + chunks - *(volatile __u32 *)&credits->returned;

		if (after > (__s32)shared->credit_limit) {
			counters->count[COUNT_WORKER_BUSY]++;
			return XDP_DROP;
		}
	}
	if (bpf_xdp_adjust_head(ctx, -STEER_HEAD)) {
		counters->count[COUNT_NO_RING]++;
		return XDP_DROP;
	}
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	head = data;
	if ((void *)(head + 2) > end)
		return XDP_DROP; /* never: for the verifier */
	head[0] = stamp;
	head[1] = header;
	if (bpf_redirect_map(&rings, number, XDP_DROP) != XDP_REDIRECT) {
		counters->count[COUNT_NO_RING]++;
		return XDP_DROP;
	}
	if (credits) {
		credits->steered += chunks;
		credits->frames++;
	}
	return XDP_REDIRECT;
}

/* Copies a broadcast or multicast frame for the workers in `mask`. */
static __always_inline void copy_bum(struct xdp_md *ctx, __u64 mask, __u64 len, struct shared *shared,
				       struct counters *counters)
{
	__u64 time = bpf_ktime_get_ns();
	__u32 worker;

	for (worker = 0; worker < MAX_WORKERS; worker++) {
		int failed;

		if (worker >= options.workers)
			break;
		if (!(mask >> worker & 1))
			continue;
		failed = copy_to_worker(ctx, worker, COPY_BUM, len, time, shared);
		if (failed == 0)
			counters->count[COUNT_BUM_COPIES]++;
		else if (failed < COUNTERS)
			counters->count[failed]++;
	}
}

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	const void *data = (const void *)(long)ctx->data;
	const void *end = (const void *)(long)ctx->data_end;
	const struct ethhdr *eth = data;
	struct address address = {};
	struct counters *counters;
	struct shared *shared;
	struct port *port;
	__u64 len, header, stamp, word;
	__u32 zero = 0, worker;
	__u8 state;

	if ((const void *)(eth + 1) > end)
		return XDP_PASS;
	shared = bpf_map_lookup_elem(&shared_map, &zero);
	counters = bpf_map_lookup_elem(&counters_map, &zero);
	if (!shared || !counters || !shared->live)
		return XDP_PASS;

	read_vlans(data, end, &address);
	__builtin_memcpy(address.mac, eth->h_source, ETH_ALEN);
	follow_source(&address, shared, counters);

	len = bpf_xdp_get_buff_len(ctx);
	if (eth->h_dest[0] & 1) {
		__u64 mask = shared->bum_workers;

		counters->count[COUNT_BUM]++;
		if (options.exclusive && mask && len <= shared->largest) {
			worker = shared->bum_owner;
			copy_bum(ctx, mask & ~(1ULL << (worker & 63)), len, shared, counters);
			stamp = (bpf_ktime_get_ns() & STAMP_TIME_MASK) | (__u64)STAMP_BUM << STAMP_ROUTER_SHIFT;
			if (redirect(ctx, len, stamp, 0, worker, shared, counters) != XDP_REDIRECT)
				return XDP_DROP;
			counters->count[COUNT_BUM_STEERED]++;
			return XDP_REDIRECT;
		}
		copy_bum(ctx, mask, len, shared, counters);
		return XDP_PASS;
	}

	word = mac_word(eth->h_dest);
	if (word == shared->nic_mac)
		goto host;
	__builtin_memcpy(address.mac, eth->h_dest, ETH_ALEN);
	port = shared->any_dynamic ? bpf_map_lookup_elem(&dynamic_fdb, &address) : NULL;
	if (!port && may_be_static(eth->h_dest))
		port = bpf_map_lookup_elem(&static_fdb, &word);
	if (!port)
		goto unknown;

	state = shared->router_state[port->router];
	if (state) {
		counters->count[state == ROUTER_PAUSED ? COUNT_ROUTER_PAUSED : COUNT_ROUTER_DOWN]++;
		return XDP_DROP;
	}
	if (len > shared->largest) {
		counters->count[COUNT_TOO_LARGE]++;
		return XDP_DROP;
	}
	__builtin_memcpy(&header, port->header, sizeof(header));
	stamp = (bpf_ktime_get_ns() & STAMP_TIME_MASK) | (__u64)port->router << STAMP_ROUTER_SHIFT;
	worker = port->worker;
	if (redirect(ctx, len, stamp, header, worker, shared, counters) != XDP_REDIRECT)
		return XDP_DROP;
	counters->count[COUNT_STEERED]++;
	counters->count[COUNT_STEERED_BYTES] += len;
	return XDP_REDIRECT;

unknown:
	if (shared->flood_unknown) {
		int failed = copy_to_worker(ctx, shared->flood_worker, COPY_UNKNOWN, len, bpf_ktime_get_ns(), shared);

		if (failed == 0)
			counters->count[COUNT_UNKNOWN_COPIES]++;
		else if (failed < COUNTERS)
			counters->count[failed]++;
	}
host:
	counters->count[COUNT_PASSED]++;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
