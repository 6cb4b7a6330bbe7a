/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The native flow table: two buckets for every key, nine flows a bucket. Python twin: oracle/memory.py (a dictionary);
 * BPF has sets of four, and the kernel's hash map for IPv6 (sets.h, maps_bpf.h).
 *
 * A key's hash gives its first bucket and its tag; the tag and one bucket give the other, so that a flow can be moved
 * without its key being hashed again. A new flow goes into the emptier bucket; when both are full, one of theirs moves
 * to its other bucket. So a table takes all but a few of the flows that it has room for, and no operation looks at more
 * than 20 buckets. Deletion frees the tag: no tombstones, no chains.
 *
 * Source: Pagh and Rodler, Cuckoo hashing (2004); Fan et al., Cuckoo Filter (2014), for the move by tag.
 */
#ifndef ASYNCLB_TABLE_H
#define ASYNCLB_TABLE_H

#include "hash.h"
#include "maps.h"

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

INLINE int same_key(const struct key *one, const struct key *other)
{
	return same_address(&one->source, &other->source) && same_address(&one->destination, &other->destination) &&
	       one->source_port == other->source_port && one->destination_port == other->destination_port &&
	       one->protocol == other->protocol && one->kind == other->kind;
}

INLINE struct flow_ref bucket_find(struct bucket *bucket, const struct key *key, u32 tag)
{
	for (u32 i = 0; i < WAYS; i++)
		if (bucket->tag[i] == tag && same_key(&bucket->key[i], key))
			return (struct flow_ref){&bucket->flow[i], &bucket->deadline_ms[i]};
	return (struct flow_ref){0, 0};
}

/* Whether a flow is one of those that are told of: by its ends alone, and without a seed, so on every node alike.
 * Python twin: is_sampled in packet/lifetimes.py. */
INLINE int is_told(const struct core_memory *core, const struct key *key)
{
	const u64 key1 = 0x9e3779b97f4a7c15ull; /* of seed 0: KEY1_TWEAK in flowhash.py */

	return core->tell_sample <= 1 ||
	       !((key_hash(key, 0, key1, DISTRIBUTION_FIVE_TUPLE, 1) >> 32) * core->tell_sample >> 32);
}

/* Tells who listens of a flow that begins or is over; what there is no room for is lost, and counted. */
INLINE void flow_tell(struct core_memory *core, const struct key *key, struct flow_ref found, u32 what)
{
	struct told_flow *slot;
	u32 wanted = what == TOLD_BEGUN ? TELL_STARTS : TELL_ENDS;

	if (!(core->tells & wanted) || found.flow->flags & FLOW_RETURN || !is_told(core, key))
		return;
	if (core->told_head - __atomic_load_n(&core->told_tail, __ATOMIC_ACQUIRE) >= TOLD_ROOM) {
		core->untold++;
		return;
	}
	slot = POINTER(struct told_flow, core->told) + (core->told_head & (TOLD_ROOM - 1));
	*slot = (struct told_flow){.key = *key, .flow = *found.flow, .told = what};
	slot->flow.deadline_ms = *found.deadline_ms;
	__atomic_store_n(&core->told_head, core->told_head + 1, __ATOMIC_RELEASE);
}

/* Ends a flow and what is counted of it. */
INLINE void flow_end(struct core_memory *core, struct bucket *bucket, u32 way, u32 why)
{
	struct flow *flow = &bucket->flow[way];

	bucket->tag[way] = 0;
	if (flow->state == CONN_EXPIRED)
		return;
	flow_tell(core, &bucket->key[way], (struct flow_ref){flow, &bucket->deadline_ms[way]}, why);
	core->flow_count--;
	if (flow->flags & FLOW_RETURN)
		return;
	core_rule(core, flow->rule)->flows--;
	core_member(core, flow->member)->flows--;
}

/* Keeps a connection that idled out in mind, where nobody needs its room: it is open no more. */
INLINE void flow_expire(struct core_memory *core, struct bucket *bucket, u32 way)
{
	struct flow *flow = &bucket->flow[way];

	flow_tell(core, &bucket->key[way], (struct flow_ref){flow, &bucket->deadline_ms[way]}, TOLD_LATE);
	flow->state = CONN_EXPIRED;
	core->flow_count--;
	core_rule(core, flow->rule)->flows--;
	core_member(core, flow->member)->flows--;
	core->expired++;
}

/* Whether a way has a flow that is over and forgotten. */
INLINE int is_forgotten(const struct bucket *bucket, u32 way, u32 now_ms)
{
	return bucket->tag[way] && is_late(bucket->deadline_ms[way], now_ms) &&
	       !is_remembered(&bucket->flow[way], bucket->deadline_ms[way], now_ms);
}

/* Frees the ways whose flows are over and forgotten; returns how many are free. */
INLINE u32 bucket_free(struct core_memory *core, struct bucket *bucket, u32 now_ms)
{
	u32 free = 0;

	for (u32 i = 0; i < WAYS; i++) {
		if (is_forgotten(bucket, i, now_ms)) {
			core->expired += bucket->flow[i].state != CONN_EXPIRED;
			flow_end(core, bucket, i, TOLD_LATE);
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

/* Forgets a connection of a full bucket that idled out; returns the freed way, or WAYS. */
INLINE u32 bucket_forget(struct core_memory *core, struct bucket *bucket, u32 now_ms)
{
	for (u32 i = 0; i < WAYS; i++) {
		if (!is_late(bucket->deadline_ms[i], now_ms))
			continue;
		core->expired += bucket->flow[i].state != CONN_EXPIRED;
		flow_end(core, bucket, i, TOLD_LATE);
		return i;
	}
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
		other->key[way] = full->key[i];
		other->deadline_ms[way] = full->deadline_ms[i];
		other->tag[way] = full->tag[i];
		full->tag[i] = 0;
		return i;
	}
	return WAYS;
}

/* The hash by which the table knows a key. */
INLINE u64 flow_hash(const struct work *w, const struct key *key)
{
	return key_hash(key, w->image->key0, w->image->key1, DISTRIBUTION_FIVE_TUPLE, 0);
}

/* Whether a flow that was found has idled out. */
INLINE int flow_late(const struct work *w, struct flow_ref found)
{
	return is_late(*found.deadline_ms, w->now_ms);
}

/* Finds a flow that is not past its deadline, or is remembered. */
INLINE struct flow_ref flow_find(const struct work *w, const struct key *key, u64 hash)
{
	u32 tag = hash_tag(hash), index = scale((u32)(hash >> 32), w->core->bucket_count);
	struct flow_ref found = bucket_find(core_bucket(w->core, index), key, tag);

	if (!found.flow)
		found = bucket_find(core_bucket(w->core, other_bucket(w->core, index, tag)), key, tag);
	if (found.flow && flow_late(w, found) && !is_remembered(found.flow, *found.deadline_ms, w->now_ms))
		found.flow = 0;
	return found;
}

/* Finds a way for a key: a free one of its two buckets, or one that is made free, by forgetting first and by moving then.
 * Returns its bucket, or 0.
 */
INLINE struct bucket *table_room(struct core_memory *core, u64 hash, u32 now_ms, u32 *way)
{
	u32 one = scale((u32)(hash >> 32), core->bucket_count), two = other_bucket(core, one, hash_tag(hash));
	u32 free_one = bucket_free(core, core_bucket(core, one), now_ms);
	u32 free_two = bucket_free(core, core_bucket(core, two), now_ms);
	u32 index = free_two > free_one ? two : one;

	if (core->flow_count >= core->flow_limit)
		return 0;
	*way = free_way(core_bucket(core, index));
	for (u32 i = 0; i < 4 && *way == WAYS; i++) {
		index = i & 1 ? two : one;
		*way = i < 2 ? bucket_forget(core, core_bucket(core, index), now_ms) : bucket_relieve(core, index);
	}
	return *way == WAYS ? 0 : core_bucket(core, index);
}

/* Puts a flow in whose key is not in the table (but may be there past its deadline). Others may move: references to
 * them are void.
 */
INLINE struct flow_ref flow_insert(const struct work *w, const struct key *key, u64 hash, const struct flow *flow)
{
	u32 way;
	struct bucket *bucket = table_room(w->core, hash, w->now_ms, &way);

	if (!bucket)
		return (struct flow_ref){0, 0};
	bucket->tag[way] = hash_tag(hash);
	bucket->key[way] = *key;
	bucket->flow[way] = *flow;
	bucket->deadline_ms[way] = flow->deadline_ms;
	w->core->flow_count++;
	return (struct flow_ref){&bucket->flow[way], &bucket->deadline_ms[way]};
}

/* Puts `w->fresh` in under a key that no other flow has. */
INLINE u32 flow_claim(const struct work *w, const struct key *key)
{
	u64 hash = flow_hash(w, key);

	if (flow_find(w, key, hash).flow)
		return CLAIM_TAKEN;
	return flow_insert(w, key, hash, &w->fresh).flow ? CLAIM_DONE : CLAIM_FULL;
}

/* What few packets ask of a flow that was found. */
INLINE struct flow_rest *flow_rest(const struct work *w, struct flow_ref found)
{
	(void)w;
	return &found.flow->rest;
}

/* Starts a flow anew, as `w->fresh`. */
INLINE void flow_renew(const struct work *w, struct flow_ref found)
{
	*found.flow = w->fresh;
}

INLINE void flow_touch(struct flow_ref found, u32 deadline_ms)
{
	*found.deadline_ms = deadline_ms;
}

/* Tells of a flow that begins, and of one whose place it takes. */
INLINE void flow_begun(const struct work *w, struct flow_ref found)
{
	flow_tell(w->core, &w->way.key, found, TOLD_BEGUN);
}

INLINE void flow_replaced(const struct work *w, struct flow_ref found)
{
	if (found.flow->state != CONN_EXPIRED)
		flow_tell(w->core, &w->way.key, found, TOLD_REPLACED);
}

/* Counts a flow as its rule's and member's, or no more. */
INLINE void count_flow(const struct work *w, const struct flow *flow, int present)
{
	u64 change = present ? 1 : ~0ull;

	if (flow->state == CONN_EXPIRED) {
		w->core->flow_count++; /* a new one takes its place */
		return;
	}
	rule_count(w, flow->rule)->flows += change;
	member_count(w, flow->member)->flows += change;
}

#endif
