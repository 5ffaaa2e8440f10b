// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0
/*
 * The product's XDP program as a function of one that moves the head back where it was: test-run repeats a program
 * on one packet, whose head would have nowhere left to move to after some rounds.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

int undone(struct xdp_md *ctx);

/* Its `SEC("xdp.frags") int steer(...) {` becomes a declaration that is never used, and the body of a function. */
#define steer(parameter)               \
	undone(parameter);             \
	static __always_inline int steer_body(parameter)
#include "../bpf/steer.bpf.c"
#undef steer

SEC("xdp.frags")
int steer(struct xdp_md *ctx)
{
	int verdict = steer_body(ctx);

	if (verdict == XDP_REDIRECT && bpf_xdp_adjust_head(ctx, STEER_HEAD))
		return XDP_ABORTED;
	return verdict;
}

static __u32 turn;

/* The same program on a frame from another station each time, of 256: what follows a station that moved finds one. */
SEC("xdp.frags")
int steer_from_many(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	eth->h_source[5] = turn++;
	return steer_body(ctx);
}
