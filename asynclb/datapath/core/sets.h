/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The table of IPv4 flows in the kernel: sets of four, as in a processor's cache. Each way is a line of memory that has
 * a flow's key beside its state; what few packets ask of a flow (struct flow_rest) is in a map beside. So most packets
 * wait for memory once, and fetch but one line, where the kernel's hash maps take two or three, one after the other. That
 * is what a packet costs when there are more flows than the processor's caches hold.
 *
 * A key's hash names two sets, and a way in each where the flow is looked for first. A flow goes into its own way in the
 * first set, or the one beside it, or another; and into the second set where the first is full, or nearly so and the
 * second is nearly empty. When there are five flows to twelve ways, four of five are in their own ways, and one in 25 is
 * in its second set; one in 2,400 of them has found both full.
 *
 * No locks. The second word of a key says whose a way is: 0 nobody's, SET_CLAIMED that somebody writes it. Whoever
 * exchanges it may write the way, and shows the key when all else is written. Then it looks for the key once more: of two
 * who put it in at the same time, the later one sees both, and the one stays that look-ups find. The process frees a way
 * by exchanging its word for 0. Whoever has found a flow the moment before another one got its way takes one packet for
 * one of the other's, as with the kernel's own maps, which use their memory again at once; on processors that read out of
 * order, also who finds the other one in that very moment.
 *
 * Where both sets are full, a flow of the second gives its way: one that is over for SET_OVER_MS, else a SYN that was
 * neither answered nor repeated for SET_SYN_MS, else the one that is over soonest.
 *
 * Source: Dietzfelbinger, Universal hashing and k-wise independent random variables via integer arithmetic without primes
 * (1996), for the hash: whoever does not know the seed makes no two keys meet more often than by chance. Azar et al.,
 * Balanced allocations (1994), for the choice of two.
 */
#ifndef ASYNCLB_SETS_H
#define ASYNCLB_SETS_H

#include "hash.h"

#define SET_TRIES 2 /* for a place that another processor wants at the same moment */
#define WAY_BYTES sizeof(((struct flow_way *)0)->state)

_Static_assert(WAY_BYTES == __builtin_offsetof(struct flow, rest), "a way's key is where other flows have their rest");

/* Never 0 in the second word, also where protocol and ports are. */
INLINE struct key4_words key4_of(const struct key *key)
{
	return (struct key4_words){{(u32)key->source.low | key->destination.low << 32,
				    key->source_port | (u64)key->destination_port << 16 |
					    (u64)(u8)key->protocol << 32 | (u64)(u8)key->kind << 40 | 1ull << 48}};
}

INLINE u64 set_hash(const struct key4_words *key)
{
	u64 one = key->words[0], two = key->words[1];

	return (u32)one * settings.seed[0] + (one >> 32) * settings.seed[1] + (u32)two * settings.seed[2] +
	       (two >> 32) * settings.seed[3];
}

/* Where a flow is looked for first in each of its sets: the number of a set and a way. */
INLINE u32 first_place(u64 hash)
{
	return scale((u32)(hash >> 32), settings.sets * SET_WAYS);
}

INLINE u32 second_place(u64 hash)
{
	return first_place(hash * 0x9e3779b97f4a7c15ull);
}

/* A way by its number, which is masked, for the verifier. */
INLINE struct flow_way *set_way(struct flow_set *set, u32 way)
{
	return &set->way[bound(way, SET_WAYS - 1)];
}

INLINE struct flow *set_flow(struct flow_set *set, u32 way)
{
	return (struct flow *)set_way(set, way);
}

/* 0 if a way has a key. */
INLINE u64 way_lacks(const struct flow_way *way, const struct key4_words *key)
{
	return (way->word[0] ^ key->words[0]) | (way->word[1] ^ key->words[1]);
}

/* 1 for 0, else 0. Without a branch, which the verifier would follow to the end of the program, for each of four ways. */
INLINE u32 is_zero(u64 number)
{
	u64 negative = -number;

	SETTLED(negative);
	return (u32)((number | negative) >> 63) ^ 1;
}

/* The ways that have a key, a bit for each: none or one, and two for the moment that two processors put it in. */
INLINE u32 ways_of(const struct flow_set *set, const struct key4_words *key)
{
	return is_zero(way_lacks(&set->way[0], key)) | is_zero(way_lacks(&set->way[1], key)) << 1 |
	       is_zero(way_lacks(&set->way[2], key)) << 2 | is_zero(way_lacks(&set->way[3], key)) << 3;
}

INLINE u32 ways_free(const struct flow_set *set)
{
	return is_zero(set->way[0].word[1]) | is_zero(set->way[1].word[1]) << 1 | is_zero(set->way[2].word[1]) << 2 |
	       is_zero(set->way[3].word[1]) << 3;
}

/* The lowest bit of four, and how many there are: two bits for each of sixteen numbers, and four. */
#define LOWEST_WAY(ways) (0x12131210u >> ((ways) * 2) & 3)
#define COUNT_WAYS(ways) (0x4332322132212110ull >> ((ways) * 4) & 7)

/* The free way that a flow takes: its own, the one beside it, or the lowest. */
INLINE u32 way_of_free(u32 free, u32 own)
{
	own &= SET_WAYS - 1;
	if (free >> own & 1)
		return own;
	return free >> (own ^ 1) & 1 ? own ^ 1 : LOWEST_WAY(free);
}

/* A set by its number; `index` is memory to ask the map by. */
INLINE struct flow_set *set_at(u32 number, u32 *index)
{
	*index = number;
	return bpf_map_lookup_elem(&flows4, index);
}

/* Finds the flow of a key in a set, where `place` is looked at first, then the way beside it. The number is kept in memory:
 * without CAP_PERFMON the verifier wants to know it everywhere, or nowhere.
 */
INLINE struct flow_ref set_look(struct work *w, const struct key4_words *key, u32 place)
{
	struct flow_set *set = set_at(place / SET_WAYS, &w->index);
	u64 lacks;
	u32 ways;

	w->place = place;
	if (!set)
		return (struct flow_ref){0, NONE};
	lacks = way_lacks(set_way(set, w->place), key);
	if (lacks) {
		w->place ^= 1;
		lacks = way_lacks(set_way(set, w->place), key);
	}
	if (lacks) {
		ways = ways_of(set, key);
		if (!ways)
			return (struct flow_ref){0, NONE};
		w->place = w->index * SET_WAYS + LOWEST_WAY(ways);
	}
	return (struct flow_ref){set_flow(set, w->place), w->place};
}

INLINE struct flow_ref set_find(struct work *w, const struct key4_words *key)
{
	u64 hash = set_hash(key);
	struct flow_ref found = set_look(w, key, first_place(hash));

	return found.flow ? found : set_look(w, key, second_place(hash));
}

/* Where the flow of a key is: the number of its set and way, or NONE. */
STEP u32 set_place(struct work *w, const struct key *key)
{
	struct key4_words small;

	if (!w || !(w = own_memory(w)) || !key)
		return NONE;
	small = key4_of(key);
	return set_find(w, &small).place;
}

/* The flow at a place; `index` as above. */
INLINE struct flow *place_flow(u32 place, u32 *index)
{
	struct flow_set *set = set_at(place / SET_WAYS, index);

	return set ? set_flow(set, place) : 0;
}

/* Counts a flow that has a place, and `w->over`. */
INLINE u32 count_made(struct work *w)
{
	struct kernel_totals *all;

	w->index = 0;
	all = bpf_map_lookup_elem(&totals, &w->index);
	if (!all)
		return CLAIM_DONE;
	all->over += w->over; /* before the other: who reads both never finds too many evicted */
	all->made++;
	return CLAIM_DONE;
}

/* How dear a flow is that may give its way, in milliseconds; 0 for one that nobody misses. */
INLINE u32 way_worth(const struct work *w, const struct flow *flow)
{
	u32 left = flow->deadline_ms + SET_OVER_MS - w->now_ms;
	u32 missed = flow->state == CONN_SYN ? SET_OVER_MS + SYN_MS - SET_SYN_MS : 0;

	return (s32)left <= (s32)missed ? 0 : left;
}

/* The way whose flow is missed least. */
INLINE u32 set_least(const struct work *w, struct flow_set *set)
{
	u32 least = NONE, way = 0;

	UNROLL
	for (u32 i = 0; i < SET_WAYS; i++) {
		u32 worth = set->way[i].word[1] == SET_CLAIMED ? NONE : way_worth(w, (struct flow *)&set->way[i]);

		if (worth < least) {
			least = worth;
			way = i;
		}
	}
	return way;
}

/* Claims a way; 0 if another processor was faster. Notes whether it had a flow that was over, or one of the same key. */
INLINE int way_claim(struct work *w, struct flow_set *set, u32 way)
{
	struct flow_way *at = set_way(set, way);
	u64 held = at->word[1];

	w->over = held && (is_late(set_flow(set, way)->deadline_ms, w->now_ms) ||
			   (held == w->small.words[1] && at->word[0] == w->small.words[0]));
	return held != SET_CLAIMED && __sync_val_compare_and_swap(&at->word[1], held, SET_CLAIMED) == held;
}

/* Frees a way of those that still have the key `w->small`; tells whether it did. */
INLINE u32 way_free(struct work *w, struct flow_set *set, u32 ways)
{
	u64 key = w->small.words[1];

	return ways && __sync_val_compare_and_swap(&set_way(set, LOWEST_WAY(ways))->word[1], key, 0) == key;
}

/* A bit for the way of `w->place` if that is in the set `w->index` and wants to be alone, else 0. */
INLINE u32 ways_own(const struct work *w)
{
	return w->alone && w->index == w->place / SET_WAYS ? 1u << w->place % SET_WAYS : 0;
}

/* Sees that the key which `w->place` shows is there once: another processor may have put it in at the same moment. The one
 * stays that look-ups find; with `w->alone`, whoever sees another one takes its own back. Returns whether ours may stay.
 */
INLINE int set_single(struct work *w)
{
	struct flow_set *set;
	u32 first, second;

	set = set_at(first_place(w->hash) / SET_WAYS, &w->index);
	if (!set)
		return 1;
	first = ways_of(set, &w->small) & ~ways_own(w);
	if (!w->alone && first)
		w->over += way_free(w, set, first & ~(1u << way_of_free(first, first_place(w->hash))));
	set = set_at(second_place(w->hash) / SET_WAYS, &w->index);
	if (!set)
		return 1;
	second = w->index == first_place(w->hash) / SET_WAYS ? 0 : ways_of(set, &w->small) & ~ways_own(w);
	if (!w->alone && second)
		w->over += way_free(w, set, first ? second : second & ~(1u << way_of_free(second, second_place(w->hash))));
	if (!w->alone || !(first | second))
		return 1;
	set = set_at(w->place / SET_WAYS, &w->index);
	if (set)
		way_free(w, set, 1u << w->place % SET_WAYS);
	return 0;
}

/* Chooses the place for a key that has none: a free way, or one that a flow gives. */
INLINE u32 set_choose(struct work *w)
{
	struct flow_set *set;
	u32 free, others;

	set = set_at(first_place(w->hash) / SET_WAYS, &w->index);
	if (!set)
		return NONE;
	free = ways_free(set);
	if (COUNT_WAYS(free) > 1 || free >> first_place(w->hash) % SET_WAYS & 1)
		return w->index * SET_WAYS + way_of_free(free, first_place(w->hash));
	set = set_at(second_place(w->hash) / SET_WAYS, &w->index);
	if (!set)
		return NONE;
	others = ways_free(set);
	if (COUNT_WAYS(others) > 2 * COUNT_WAYS(free))
		return w->index * SET_WAYS + way_of_free(others, second_place(w->hash));
	if (free)
		return (first_place(w->hash) & ~(SET_WAYS - 1)) + LOWEST_WAY(free);
	return w->index * SET_WAYS + set_least(w, set);
}

/* Claims a place for the key `w->small`: that of the flow that has it, or one that is chosen, and another one if another
 * processor was faster. Returns its set, or 0; the way is in `w->place`. With `w->alone` no flow may have the key.
 */
INLINE struct flow_set *set_claim(struct work *w)
{
	struct flow_ref found;

	w->hash = set_hash(&w->small);
	found = set_find(w, &w->small);
	if (w->alone && flow_counts(w, found.flow))
		return 0;
	w->place = found.place;
	UNROLL
	for (u32 i = 0; i < SET_TRIES; i++) {
		struct flow_set *set;
		u32 place;

		if (w->place == NONE)
			w->place = set_choose(w);
		place = w->place; /* from memory: the verifier does not know which, and goes on but once */
		set = set_at(place / SET_WAYS, &w->index);
		if (set && way_claim(w, set, place % SET_WAYS))
			return set;
		w->place = NONE;
	}
	return 0;
}

/* Puts `w->fresh` in under the key `w->small`. Returns what flow_put does. */
INLINE u32 set_put(struct work *w)
{
	struct flow_set *set = set_claim(w);
	struct flow_way *way;
	struct flow_rest *rest;
	u64 *mark;

	if (!set)
		return CLAIM_TAKEN;
	way = set_way(set, w->place);
	way->word[0] = w->small.words[0];
	__builtin_memcpy(way->state, &w->fresh, WAY_BYTES);
	w->index = w->place;
	rest = bpf_map_lookup_elem(&rests4, &w->index);
	if (rest)
		*rest = w->fresh.rest;
	__sync_lock_test_and_set(&way->word[1], w->small.words[1]);
	if (!set_single(w)) {
		w->over++; /* ours */
		count_made(w);
		return CLAIM_TAKEN;
	}
	w->index = w->place / (SET_WAYS * SET_GROUP);
	mark = bpf_map_lookup_elem(&marks4, &w->index);
	if (mark)
		*mark = 1;
	return count_made(w);
}

#endif
