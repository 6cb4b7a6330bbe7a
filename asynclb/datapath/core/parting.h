/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which flows end with their member's time, wherever flows are kept. Python twin: tally.parting. */
#ifndef ASYNCLB_PARTING_H
#define ASYNCLB_PARTING_H

#include "types.h"
#include "layout.h"

/* Whether a sorted list of words has one. */
static inline int has_word(const u64 *words, u32 count, u64 word)
{
	u32 low = 0, high = count;

	while (low < high) {
		u32 middle = (low + high) / 2;

		if (words[middle] == word)
			return 1;
		if (words[middle] < word)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

/* Whether a flow ends. `fates` has a byte for each of so many member ids; PART_SOME are flows that `words` name, by rule,
 * member and target port.
 */
static inline int is_parting(const struct flow *flow, const u8 *fates, u32 members, const u64 *words, u32 count)
{
	u32 fate = flow->member < members ? fates[flow->member] : 0;

	if (fate != PART_SOME)
		return fate == PART_ALL;
	return has_word(words, count, (u64)flow->rule << 40 | (u64)flow->member << 16 | flow->target_port);
}

#endif
