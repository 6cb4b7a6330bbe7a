/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The flow table: two buckets for every key, nine flows a bucket. Python twin: oracle/flows.py (a dictionary).
 *
 * A key's hash gives its first bucket and its tag; the tag and one bucket give the other, so that a flow can be moved
 * without its key being hashed again. A new flow goes into the emptier bucket; when both are full, one of theirs moves
 * to its other bucket. So a table takes all but a few of the flows that it has room for, and no operation looks at more
 * than 20 buckets. Deletion frees the tag: no tombstones, no chains.
 *
 * Source: Pagh and Rodler, Cuckoo hashing (2004); Fan et al., Cuckoo Filter (2014), for the move by tag.
 */
#ifndef ASYNCLB_FLOW_H
#define ASYNCLB_FLOW_H

#include "lookup.h"
#include "parse.h"

struct flow_ref {
	struct flow *flow; /* 0: none */
	u32 *deadline_ms;
};

INLINE struct bucket *core_bucket(const struct core_memory *core, u32 index)
{
	return POINTER(struct bucket, core->buckets) + index;
}

INLINE u32 hash_tag(u64 hash)
{
	return (u32)hash ? (u32)hash : 1;
}

INLINE u32 other_bucket(const struct core_memory *core, u32 bucket, u32 tag)
{
	u32 sum = scale(tag * 0x9e3779b1u, core->bucket_count);

	return sum >= bucket ? sum - bucket : sum + core->bucket_count - bucket;
}

INLINE int is_late(u32 deadline_ms, u32 now_ms)
{
	return (s32)(now_ms - deadline_ms) >= 0;
}

INLINE int same_key(const struct key *one, const struct key *other)
{
	return same_address(&one->source, &other->source) && same_address(&one->destination, &other->destination) &&
	       one->source_port == other->source_port && one->destination_port == other->destination_port &&
	       one->protocol == other->protocol && one->kind == other->kind;
}

INLINE struct flow_ref bucket_find(struct bucket *bucket, const struct key *key, u32 tag)
{
	for (u32 i = 0; i < WAYS; i++)
		if (bucket->tag[i] == tag && same_key(&bucket->flow[i].key, key))
			return (struct flow_ref){&bucket->flow[i], &bucket->deadline_ms[i]};
	return (struct flow_ref){0, 0};
}

/* Ends a flow and what is counted of it. */
INLINE void flow_end(struct core_memory *core, struct bucket *bucket, u32 way)
{
	struct flow *flow = &bucket->flow[way];

	bucket->tag[way] = 0;
	core->flow_count--;
	if (flow->flags & FLOW_RETURN)
		return;
	rule_count(core, flow->rule)->flows--;
	member_count(core, flow->member)->flows--;
}

/* Finds a flow that is not past its deadline. */
INLINE struct flow_ref flow_find(struct core_memory *core, const struct key *key, u64 hash, u32 now_ms)
{
	u32 tag = hash_tag(hash), index = scale((u32)(hash >> 32), core->bucket_count);
	struct flow_ref found = bucket_find(core_bucket(core, index), key, tag);

	if (!found.flow)
		found = bucket_find(core_bucket(core, other_bucket(core, index, tag)), key, tag);
	if (found.flow && is_late(*found.deadline_ms, now_ms))
		found.flow = 0;
	return found;
}

/* Frees the ways that are past their deadline; returns how many are free. */
INLINE u32 bucket_free(struct core_memory *core, struct bucket *bucket, u32 now_ms)
{
	u32 free = 0;

	for (u32 i = 0; i < WAYS; i++) {
		if (bucket->tag[i] && is_late(bucket->deadline_ms[i], now_ms)) {
			flow_end(core, bucket, i);
			core->expired++;
		}
		free += !bucket->tag[i];
	}
	return free;
}

INLINE u32 free_way(const struct bucket *bucket)
{
	for (u32 i = 0; i < WAYS; i++)
		if (!bucket->tag[i])
			return i;
	return WAYS;
}

/* Moves one flow of a full bucket to its other bucket; returns the freed way, or WAYS. */
INLINE u32 bucket_relieve(struct core_memory *core, u32 index)
{
	struct bucket *full = core_bucket(core, index);

	for (u32 i = 0; i < WAYS; i++) {
		struct bucket *other = core_bucket(core, other_bucket(core, index, full->tag[i]));
		u32 way = free_way(other);

		if (way == WAYS)
			continue;
		other->flow[way] = full->flow[i];
		other->deadline_ms[way] = full->deadline_ms[i];
		other->tag[way] = full->tag[i];
		full->tag[i] = 0;
		return i;
	}
	return WAYS;
}

/* Makes room for a key that is not in the table (but may be there past its deadline), and puts it there.
 * Other flows may move: references to them are void.
 */
INLINE struct flow_ref flow_insert(struct core_memory *core, const struct key *key, u64 hash, u32 now_ms)
{
	u32 tag = hash_tag(hash), one = scale((u32)(hash >> 32), core->bucket_count);
	u32 two = other_bucket(core, one, tag), index, way;
	u32 free_one = bucket_free(core, core_bucket(core, one), now_ms);
	u32 free_two = bucket_free(core, core_bucket(core, two), now_ms);
	struct bucket *bucket;

	if (core->flow_count >= core->flow_limit)
		return (struct flow_ref){0, 0};
	index = free_two > free_one ? two : one;
	way = free_way(core_bucket(core, index));
	if (way == WAYS)
		way = bucket_relieve(core, index);
	if (way == WAYS) {
		index = two;
		way = bucket_relieve(core, index);
	}
	if (way == WAYS)
		return (struct flow_ref){0, 0};
	bucket = core_bucket(core, index);
	bucket->tag[way] = tag;
	bucket->flow[way] = (struct flow){.key = *key};
	core->flow_count++;
	return (struct flow_ref){&bucket->flow[way], &bucket->deadline_ms[way]};
}

INLINE u32 tcp_event(u32 flags)
{
	return flags & TCP_RST ? EVENT_RST : flags & TCP_SYN ? EVENT_SYN : flags & TCP_FIN ? EVENT_FIN : EVENT_OTHER;
}

/* Python twin: layout.TRANSITIONS, packed four bits a state. */
INLINE u8 tcp_next(u32 state, u32 event, int outward)
{
	u32 word;

	switch (event) {
	case EVENT_SYN:
		word = outward ? TRANSITION_OUT_SYN : TRANSITION_IN_SYN;
		break;
	case EVENT_FIN:
		word = outward ? TRANSITION_OUT_FIN : TRANSITION_IN_FIN;
		break;
	case EVENT_RST:
		word = outward ? TRANSITION_OUT_RST : TRANSITION_IN_RST;
		break;
	default:
		word = outward ? TRANSITION_OUT_OTHER : TRANSITION_IN_OTHER;
	}
	return word >> (4 * (state & 7)) & 15;
}

/* How long a flow may be silent. Python twin: Oracle.timeout_ms. */
INLINE u32 timeout_ms(const struct flow *flow, u32 idle_ms)
{
	u32 most = flow->state == CONN_CLOSED ? CLOSED_MS : flow->state == CONN_SYN ? SYN_MS : idle_ms;

	return most < idle_ms ? most : idle_ms;
}

/* The flow's member as this entry knows it, or NONE when it has gone, or takes no more of this protocol.
 * Asked anew after each publication; TCP connections stay where they are for as long as the pool has the member.
 * Python twin: Oracle.flow_member.
 */
INLINE u32 flow_member(const struct image *image, const struct entry *entry, struct flow *flow)
{
	const struct member_record *member = image_member(image, flow->member);
	u32 found;

	if (!member)
		return NONE;
	if (flow->rule == entry->rule && flow->generation == image->generation)
		return flow->member;
	found = pool_find(image, entry, member->identity);
	if (found == NONE || (flow->key.protocol != IP_TCP && !(found & POOL_KEEPS)))
		return NONE;
	if (flow->rule == entry->rule && flow->member == (found & POOL_MEMBER))
		flow->generation = image->generation;
	return found & POOL_MEMBER;
}

#endif
