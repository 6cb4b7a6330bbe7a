/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What is known of one frame while it is decided. In BPF all of it is in a map, one for each processor, so it holds
 * no pointers into other maps: what the image says is copied or kept as an index.
 */
#ifndef ASYNCLB_WORK_H
#define ASYNCLB_WORK_H

#include "parse.h"

/* What became of a key that is to be nobody else's: another flow has it, ours does, or the flow table is full. */
#define CLAIM_TAKEN 0
#define CLAIM_DONE 1
#define CLAIM_FULL 2

/* What the image says of an address. */
struct known {
	u32 flags, entry, reverse;
};

/* A flow as one packet meets it. */
struct passage {
	struct key key; /* as in the flow table */
	u64 hash;	/* of the key, where the flow table needs it: see FLOWS_BY_HASH */
	u32 entry;
	u32 member;
	u32 event;
	u16 target_port;
	u16 translated; /* the port that stands for the client of a hairpin, or 0 */
	u8 swapped;	/* the packet's source is the key's destination */
	u8 outward;	/* the packet comes from the other end than the flow's first */
	u8 fresh;	/* the flow starts (again) with this packet */
	u8 renewed;	/* the flow's member is still the one that the tables have */
	u8 late;	/* the flow idled out */
};

#ifdef __bpf__
/* What the map of interfaces said, for as long as the tick lasts. */
struct recent {
	struct interface known;
	u64 tick;
};

/* A key of IPv4 in words of 64 bits: what is compared, and what a helper hashes, which would wait for smaller parts to
 * reach memory.
 */
struct key4_words {
	u64 words[2];
};

#define RECENT 4 /* by the lowest bits of the ifindex; a power of two */
#endif

struct work {
#ifdef __bpf__
	struct packet p[1];	/* first, for its alignment */
	struct icmp_limit icmp; /* each processor's own */
	u64 tick;		/* when now_ms and now_s were set */
	struct recent recent[RECENT];
	u32 active;		/* which of the two images this frame meets */
	u32 redirects_all;	/* tc: frames can leave by every interface */
	struct key asked;	 /* what a table is asked for: here, since the stack is short of room */
	struct key4_words small; /* as well, for IPv4 */
	u32 index;		 /* as well */
	u64 hash;		 /* by which its sets are known */
	volatile u32 place;	 /* of a flow that was found, or for a new one */
	u32 over;		 /* flows that were over whose ways were taken */
	u32 alone;		 /* what is put in may not take the place of a flow */
#else
	struct core_memory *core;
	const struct image *image;
	struct packet *p;
#endif
	PART(struct answer, answer);
	struct parsed in;
	struct known to, from, quoted;
	struct key key; /* of the packet in its own direction; an error goes against what it quotes */
	struct passage way;
	struct key back;   /* of the other half of a hairpin */
	struct flow fresh; /* about to be put into the flow table */
	struct address source; /* that a member's own connection leaves from; a member's; that a message comes from */
	u32 now_ms, now_s;
};

INLINE int is_late(u32 deadline_ms, u32 now_ms)
{
	return (s32)(now_ms - deadline_ms) >= 0;
}

/* Whether a flow past its deadline is remembered: a connection that was open when it idled out. What its ends say from
 * then on is not balanced anew. A connection of a member's own is not: its port is free. Python twin: State.is_remembered.
 */
INLINE int is_remembered(const struct flow *flow, u32 deadline_ms, u32 now_ms)
{
	return REMEMBERED >> (flow->state & 7) & 1 && !(flow->flags & FLOW_SNAT) &&
	       !is_late(deadline_ms + EXPIRED_MS, now_ms);
}

INLINE u32 fragment_protocol(const struct network *net)
{
	return net->version == 4 ? net->protocol : 0;
}

#endif
