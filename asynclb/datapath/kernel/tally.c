/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Loops over what was read from the kernel's maps in batches: Python twins in tally.py. Arrays in, arrays out. */
#include "../../native/native.h"
#include "../core/parting.h"

/* Adds up the values of each processor. Shape: `values` is [count][cpus][words], `sums` is [count][words]. */
ASYNCLB_EXPORT void asynclb_kernel_sum(const u64 *values, u32 count, u32 cpus, u32 words, u64 *sums)
{
	for (u32 i = 0; i < count; i++)
		for (u32 cpu = 0; cpu < cpus; cpu++)
			for (u32 w = 0; w < words; w++)
				sums[(u64)i * words + w] += values[((u64)i * cpus + cpu) * words + w];
}

/* Whether a group of sets has no flow. */
static int is_empty(const struct flow_set *sets)
{
	for (u32 i = 0; i < SET_GROUP; i++)
		for (u32 way = 0; way < SET_WAYS; way++)
			if (__atomic_load_n(&sets[i].way[way].word[1], __ATOMIC_ACQUIRE))
				return 0;
	return 1;
}

/* Copies the flows of a window of sets from a position (set and way) on, until `room` are taken or the window is over, with
 * the numbers of their places, which begin at `base`. A group that is not marked has none. The mark of one that is found
 * empty is cleared, and set again if a flow has come meanwhile; who puts one in sets it afterwards. Python twin:
 * _gather_slowly.
 */
ASYNCLB_EXPORT u32 asynclb_kernel_gather(const struct flow_set *sets, const struct flow_rest *rests, u64 *marks, u32 groups,
				u32 *position, u32 base, u32 room, u64 *keys, struct flow *flows, u32 *places)
{
	const u32 ways = SET_GROUP * SET_WAYS;
	u32 at = *position, end = groups * ways, found = 0;

	while (at < end && found < room) {
		u32 number = at / SET_WAYS, way = at % SET_WAYS, group = at / ways;
		const struct flow_way *from = &sets[number].way[way];
		u64 key;

		if (at % ways == 0) {
			int empty = !__atomic_load_n(&marks[group], __ATOMIC_ACQUIRE);

			if (!empty && is_empty(&sets[number])) {
				__atomic_exchange_n(&marks[group], 0, __ATOMIC_SEQ_CST);
				empty = is_empty(&sets[number]);
				if (!empty)
					__atomic_store_n(&marks[group], 1, __ATOMIC_SEQ_CST);
			}
			if (empty) {
				at += ways;
				continue;
			}
		}
		at++;
		key = __atomic_load_n(&from->word[1], __ATOMIC_ACQUIRE);
		if (!key || key == SET_CLAIMED)
			continue;
		keys[2 * found] = from->word[0];
		keys[2 * found + 1] = key;
		__builtin_memcpy(&flows[found], from->state, sizeof from->state);
		flows[found].rest = rests[at - 1];
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (__atomic_load_n(&from->word[1], __ATOMIC_RELAXED) != key)
			continue; /* it has gone, or another one has come */
		places[found++] = base + number * SET_WAYS + way;
	}
	*position = at;
	return found;
}

/* Frees a way if it still has the key; tells whether it had. */
ASYNCLB_EXPORT u32 asynclb_kernel_free(u64 *word, u64 held)
{
	return __atomic_compare_exchange_n(word, &held, 0, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/* Whether something is to be done about a flow past its deadline: connections that idled out are remembered, and told of
 * once, by the first pass after it. Python twin: is_due.
 */
static int is_due(const struct flow *flow, u32 now_ms, u32 since_ms)
{
	if (!(REMEMBERED >> (flow->state & 7) & 1) || flow->flags & FLOW_SNAT ||
	    (s32)(now_ms - flow->deadline_ms - EXPIRED_MS) >= 0)
		return 1;
	return (s32)(since_ms - flow->deadline_ms) < 0;
}

/* Marks the SNAT ports that are in use: a bit for each, 8,192 bytes for each number of an address and protocol (TCP, UDP).
 * The destination's port and the protocol stand side by side in the key, from `port_at` on.
 */
ASYNCLB_EXPORT void asynclb_kernel_marks(const u8 *keys, u32 key_bytes, u32 port_at, const struct flow *flows, u32 count,
				u32 now_ms, u8 *marks, u32 sources)
{
	for (u32 i = 0; i < count; i++) {
		const struct flow *flow = &flows[i];
		const u8 *key = keys + (u64)i * key_bytes + port_at;
		u32 port = *(const u16 *)key;

		if ((s32)(now_ms - flow->deadline_ms) >= 0 || flow->rest.hairpin_port >= sources ||
		    (flow->flags & (FLOW_RETURN | FLOW_SNAT)) != (FLOW_RETURN | FLOW_SNAT))
			continue;
		marks[(flow->rest.hairpin_port * 2 + (key[2] == 17)) * 8192 + port / 8] |= (u8)(1u << (port & 7));
	}
}

/* Lists the flows that began from `since_s` on and before `until_s`; returns how many. Python twin: begun. */
ASYNCLB_EXPORT u32 asynclb_kernel_begun(const struct flow *flows, u32 count, u32 since_s, u32 until_s, u32 *found)
{
	u32 number = 0;

	for (u32 i = 0; i < count; i++)
		if (!(flows[i].flags & FLOW_RETURN) && flows[i].rest.created_s - since_s < until_s - since_s)
			found[number++] = i;
	return number;
}

/* Counts live flows by rule and by member, and lists those past their deadline that are due. Returns how many those are.
 * `closed` are those among the live ones that have ended and are remembered for their last packets. The other half of a
 * hairpin (FLOW_RETURN) is listed, and counted as nobody's.
 */
ASYNCLB_EXPORT u32 asynclb_kernel_judge(const struct flow *flows, u32 count, u32 now_ms, u32 since_ms, u32 *rules,
				u32 rule_limit, u32 *members, u32 member_limit, u32 *late, u32 *live, u32 *closed)
{
	u32 found = 0;

	for (u32 i = 0; i < count; i++) {
		const struct flow *flow = &flows[i];

		if ((s32)(now_ms - flow->deadline_ms) >= 0) {
			if (is_due(flow, now_ms, since_ms))
				late[found++] = i;
			continue;
		}
		++*live;
		*closed += flow->state == CONN_CLOSED;
		if (flow->flags & FLOW_RETURN)
			continue;
		if (flow->rule < rule_limit)
			rules[flow->rule]++;
		if (flow->member < member_limit)
			members[flow->member]++;
	}
	return found;
}

/* Lists the flows that end with their member's time; returns how many. Python twin: parting. */
ASYNCLB_EXPORT u32 asynclb_kernel_parting(const struct flow *flows, u32 count, const u8 *fates, u32 members,
				const u64 *words, u32 word_count, u32 *found)
{
	u32 ending = 0;

	for (u32 i = 0; i < count; i++)
		if (is_parting(&flows[i], fates, members, words, word_count))
			found[ending++] = i;
	return ending;
}
