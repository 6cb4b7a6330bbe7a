/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Which of the frames that leave the guard has to see.
 *
 * The guard (packet/ruleset.py) notes flows to members as their frames leave, and pays for it with a third of the
 * time that a frame takes. Its notes last for minutes, so of each flow it is shown a frame every few seconds; the
 * others leave quietly. Laws:
 *
 *   1. What leaves quietly goes to nobody whom a `nat` rule delivers to, or the same ends and protocol were shown less
 *      than `interval_ms` ago, under the tables that are in force.
 *   2. In doubt a frame is shown: fragments, ICMP errors, first SYNs, what cannot be read, flows that found no room.
 *
 * What was shown is remembered by its keyed hash, four in a line of memory, where the oldest gives way. The caller takes
 * a note back when its frame could not be sent: the guard has not seen it. Who decides a frame has hashed its flow
 * already and says so (passage_note in maps.h); only where nobody has said anything the frame is read again.
 */
#ifndef ASYNCLB_NOTE_H
#define ASYNCLB_NOTE_H

#include "lookup.h"
#include "parse.h"

#define NOTE_WAYS 4

struct note {
	u64 hash; /* 0: none */
	u32 shown_ms, generation;
};

struct note_set {
	struct note way[NOTE_WAYS];
};

/* Returns 0 for a flow that was shown a moment ago, else its note, which says from now on that it was. */
INLINE struct note *note_renew(struct note_set *set, u64 hash, u32 generation, u32 now_ms, u32 interval_ms)
{
	struct note *oldest = &set->way[0];

	for (u32 i = 0; i < NOTE_WAYS; i++) {
		struct note *note = &set->way[i];

		if (note->hash == hash && note->generation == generation && now_ms - note->shown_ms < interval_ms)
			return 0;
		if (note->hash == hash || !note->hash) {
			oldest = note;
			break;
		}
		if (now_ms - note->shown_ms > now_ms - oldest->shown_ms)
			oldest = note;
	}
	*oldest = (struct note){.hash = hash, .shown_ms = now_ms, .generation = generation};
	return oldest;
}

#define NOTE_QUIET 0 /* this frame may leave quietly, whatever was shown */
#define NOTE_SHOWN 1 /* this frame is shown, and not remembered */

/* Returns under which hash it is remembered that a frame was shown, or one of the two above. */
INLINE u64 note_hash(const struct image *image, struct packet *p)
{
	struct parsed in = {0};
	const struct place *to;

	if (!image || parse_link(p, &in) || (in.type != TYPE_IPV4 && in.type != TYPE_IPV6) || parse_packet(p, &in))
		return NOTE_SHOWN;
	to = place_find(image, &in.net.destination, 0, 0, KIND_ADDRESS);
	if (!to || !(to->flags & ADDRESS_MEMBER))
		return NOTE_QUIET;
	if (in.form != FORM_PLAIN || in.net.fragment != WHOLE || is_first_syn(&in))
		return NOTE_SHOWN;
	return key_hash(&in.key, image->key0, image->key1, DISTRIBUTION_FIVE_TUPLE, 0) | 2;
}

INLINE struct note_set *note_place(const struct outlet *outlet, u64 hash)
{
	return POINTER(struct note_set, outlet->notes) + scale((u32)(hash >> 32), outlet->note_sets);
}

/* Whether a frame may leave quietly; if not, `number` is one more than its note's, or 0. */
INLINE int is_quiet(const struct image *image, const struct outlet *outlet, u64 hash, u32 now_ms, u32 *number)
{
	struct note *note;

	*number = 0;
	if (hash == NOTE_QUIET || hash == NOTE_SHOWN)
		return hash == NOTE_QUIET;
	note = note_renew(note_place(outlet, hash), hash, image->generation, now_ms, outlet->interval_ms);
	*number = note ? (u32)(note - POINTER(struct note, outlet->notes)) + 1 : 0;
	return !note;
}

#endif
