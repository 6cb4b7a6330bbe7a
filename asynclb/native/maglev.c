/* The weighted Maglev fill. Python twin: fill_python in asynclb/tables/maglev.py, which explains the idea.
 *
 * Members of equal weight always take their turns together and form one group. The groups wait in a binary
 * heap ordered by (round of the next turn, position), so that the cost does not depend on how far the
 * weights are apart: O(size log size) probes for free slots and O(turns log groups) for the order.
 */
#include "native.h"

#define FREE 0xFFFF /* a slot that nobody took; hence at most 65,535 members */

struct group {
	u64 due;   /* the round of the next turn */
	u32 turns; /* turns taken so far */
	u32 weight;
	u32 first; /* members [first, end) */
	u32 end;
};

_Static_assert(sizeof(struct group) == 3 * sizeof(u64), "the caller sizes the scratch memory by this");

static u32 make_groups(struct group *groups, const u32 *weights, u32 members)
{
	u32 count = 0;

	for (u32 first = 0; first < members;) {
		u32 end = first + 1;

		while (end < members && weights[end] == weights[first])
			end++;
		groups[count++] = (struct group){
			.due = 1, .turns = 0, .weight = weights[first], .first = first, .end = end};
		first = end;
	}
	return count;
}

/* The turn after `turns` others falls into the round in which the weight, counted in units of the heaviest
 * weight and rounded to the nearest, reaches it: ceil((2 * turns + 1) * heaviest / (2 * weight)).
 */
static u64 next_due(u32 turns, u32 weight, u32 heaviest)
{
	u64 twice = 2 * (u64)weight;

	return ((2 * (u64)turns + 1) * heaviest + twice - 1) / twice;
}

static int before(const struct group *one, const struct group *other)
{
	return one->due < other->due || (one->due == other->due && one->first < other->first);
}

/* Restores the heap after its top has got a later round. */
static void sift_down(struct group *heap, u32 count)
{
	struct group moved = heap[0];
	u32 at = 0;

	for (u32 child = 1; child < count; child = 2 * at + 1) {
		if (child + 1 < count && before(&heap[child + 1], &heap[child]))
			child++;
		if (!before(&heap[child], &moved))
			break;
		heap[at] = heap[child];
		at = child;
	}
	heap[at] = moved;
}

static u32 step(u32 position, u32 skip, u32 size)
{
	position += skip;
	return position >= size ? position - size : position;
}

/* Gives each member of the group the next free slot of its own permutation; returns the slots filled. */
static u32 take_turn(const struct group *group, u16 *slots, u32 size, u32 filled, const u16 *ids, u32 *positions,
		     const u32 *skips)
{
	for (u32 i = group->first; i < group->end && filled < size; i++, filled++) {
		u32 position = positions[i], skip = skips[i];

		while (slots[position] != FREE)
			position = step(position, skip, size);
		slots[position] = ids[i];
		positions[i] = step(position, skip, size);
	}
	return filled;
}

/* Fills `slots`, all FREE on entry. The members stand heaviest first; `size` is prime, larger than `members`
 * and at most 2^31; `positions` (each member's first choice) is used up; `scratch` has room for `members` groups.
 */
ASYNCLB_EXPORT void asynclb_maglev_fill(u16 *slots, u32 size, const u16 *ids, const u32 *weights, u32 *positions,
					const u32 *skips, u32 members, u64 *scratch)
{
	struct group *heap = (struct group *)(void *)scratch;
	u32 count = make_groups(heap, weights, members), heaviest = weights[0];

	/* In round 1 everybody is due, heaviest first: the groups as made are a heap already. */
	for (u32 filled = 0; filled < size;) {
		filled = take_turn(heap, slots, size, filled, ids, positions, skips);
		heap->turns++;
		heap->due = next_due(heap->turns, heap->weight, heaviest);
		sift_down(heap, count);
	}
}
