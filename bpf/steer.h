/* SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0 */
/*
 * The layout that the XDP program shares with user space. src/steer/layout.rs repeats it in Rust, and a test
 * compares the two through the program's BTF. Integers are in the machine's byte order unless marked __be.
 */
#ifndef STEER_H
#define STEER_H

/* Router indices are 16 bits wide: they travel in the upper 16 bits of the arrival stamp. */
#define MAX_ROUTERS 65536
#define MAX_WORKERS 64

/* Rings (queues * workers) whose in-flight credits are counted, see struct credits. Those beyond are without a limit. */
#define MAX_CREDITS 512

/* The arrival stamp in front of the header: bits 0-47 nanoseconds of CLOCK_MONOTONIC (78 hours), 48-63 router. */
#define STAMP_ROUTER_SHIFT 48
#define STAMP_TIME_MASK ((1ULL << STAMP_ROUTER_SHIFT) - 1)

/* Moves the head of a steered frame back: 8 bytes of stamp, 8 of IOU header. */
#define STEER_HEAD 16

/*
 * The largest frame that fits into one UMEM chunk: 4096 less the 256 bytes of XDP_PACKET_HEADROOM that the
 * kernel keeps free, less STEER_HEAD; and the largest that is steered where frames may take several.
 */
#define STEER_CHUNK (4096 - 256)
#define STEER_CHUNKS 4
#define MAX_STEERED (STEER_CHUNK - STEER_HEAD)
#define MAX_LARGE (STEER_CHUNKS * STEER_CHUNK - STEER_HEAD)

/* What is fixed before the program is loaded. */
struct options {
	__u32 workers;   /* sockets on each queue */
	__u32 exclusive; /* 1: the host does not use this NIC, broadcast and multicast frames need not reach it */
};

/* A MAC address in its VLAN: the key of a dynamic entry. VIDs are 0 where there is no such tag. */
struct address {
	__u8 mac[6];
	__be16 outer_vid;
	__be16 inner_vid;
	__u16 zero;
};

/* What an address is behind: a router's interface. */
struct port {
	__u8 header[8]; /* IOU header, as the router wants it */
	__u16 router;   /* index into the plan's routers */
	__u16 worker;   /* the worker that owns the router */
	__u32 port;     /* index into the plan's ports */
};

/* What user space says and changes while the program runs; one page-aligned value, mapped by user space. */
enum router_state { ROUTER_READY = 0, ROUTER_PAUSED = 1, ROUTER_DOWN = 2 };

/*
 * In-flight credits of a worker's AF_XDP ring on one queue, at queue * options.workers + worker. Frames on their way to the
 * worker hold chunks that are missing in the queue's fill ring until the worker has refilled it: what exceeds credit_limit is
 * dropped before it costs anything. The counts go up and wrap. Each half has a cache line of its own, and one writer; in
 * generic mode several CPUs may write for a queue and lose a count.
 */
struct credits {
	__u32 steered; /* chunks of frames redirected; written by the queue's CPU */
	__u32 frames;  /* the frames */
	__u32 unused[14];
	__u32 returned; /* of the chunks, those that have been replaced in the fill ring; written by the worker */
	__u32 unused2[15];
} __attribute__((aligned(64)));

struct shared {
	__u8 router_state[MAX_ROUTERS];
	__u32 asleep[MAX_WORKERS]; /* a worker that sleeps wants to be woken for broadcast and multicast frames */
	__u64 bum_workers;       /* bit w: worker w has routers on this LAN */
	__u64 nic_mac;             /* the NIC's own address, bytes 0-5 as on the wire, 6-7 zero */
	__u32 live;                /* 0: pass everything */
	__u32 flood_worker;        /* with flood_unknown: the worker of that port */
	__u32 flood_unknown;       /* 1: unknown unicast is copied to flood_worker's ring as well */
	__u32 bum_owner;         /* with --exclusive: the worker that gets broadcast and multicast frames by redirect */
	__u32 any_dynamic;         /* 0: no address was ever learned, so none is looked up */
	__u32 largest;             /* the largest frame that is steered: MAX_STEERED or MAX_LARGE */
	__u32 credit_limit;          /* chunks that may be on their way on one ring; 0: no limit */
	__u32 credit_head;           /* what STEER_HEAD takes of STEER_CHUNK: all where the kernel copies, 0 with zero-copy */
	struct credits credits[MAX_CREDITS];
};

/* In the stamp of a broadcast or multicast frame that was redirected, in place of a router. */
#define STAMP_BUM (MAX_ROUTERS - 1)

/* A copy of a frame in a worker's ring buffer. */
enum copy_kind { COPY_BUM = 0, COPY_UNKNOWN = 1 };

struct copy_head {
	__u64 time; /* CLOCK_MONOTONIC, ns */
	__u32 len;  /* bytes of the frame, which follows */
	__u32 kind; /* enum copy_kind */
};

#define COPY_SMALL (2048 - (int)sizeof(struct copy_head) - 8)
#define COPY_LARGE (16384 - (int)sizeof(struct copy_head) - 8)

/* An address that was behind a router and now sends from the wire. */
struct moved {
	struct address address;
	__u32 is_static; /* 1: it had an entry in static_fdb, in any VLAN */
};

/* Index into the counters, one array of __u64 a CPU. */
enum counter {
	COUNT_STEERED,          /* frames redirected to a ring */
	COUNT_STEERED_BYTES,    /* their bytes, without stamp and header */
	COUNT_BUM,            /* broadcast and multicast frames seen */
	COUNT_BUM_COPIES,     /* copies of broadcast and multicast frames put into rings */
	COUNT_UNKNOWN_COPIES,   /* copies of unknown unicast put into rings */
	COUNT_PASSED,           /* unicast frames left to the host */
	COUNT_ROUTER_PAUSED,    /* drop: the router's backlog is at its bound */
	COUNT_ROUTER_DOWN,      /* drop: the router has no socket */
	COUNT_TOO_LARGE,        /* drop: frame above shared.largest, copy above COPY_LARGE */
	COUNT_COPY_RING_FULL,   /* drop: a worker's ring buffer was full */
	COUNT_WORKER_BUSY,      /* drop: the worker has not yet taken what is on its way to it */
	COUNT_NO_RING,          /* fault: no AF_XDP ring for this queue, or the head did not move */
	COUNT_MOVED,            /* addresses that moved to the wire */
	COUNT_BUM_STEERED,    /* with --exclusive: broadcast and multicast frames redirected to a ring */
	COUNTERS
};

#endif
