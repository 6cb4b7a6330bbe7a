/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Later fragments have no ports: a small table remembers those of the first. Python twin: oracle/fragments.py.
 *
 * Bounded: 8,192 datagrams; a new one takes the place of the one in its set that would go first. IPv6 fragments are
 * matched without their protocol, which later ones need not repeat (RFC 8200, 4.5).
 */
#ifndef ASYNCLB_FRAGMENT_H
#define ASYNCLB_FRAGMENT_H

#include "flow.h"

INLINE u32 fragment_protocol(const struct network *net)
{
	return net->version == 4 ? net->protocol : 0;
}

INLINE struct fragment *fragment_set(const struct core_memory *core, const struct network *net)
{
	struct key key = {.source = net->source,
			  .destination = net->destination,
			  .source_port = (u16)(net->fragment_id >> 16),
			  .destination_port = (u16)net->fragment_id,
			  .protocol = (u16)fragment_protocol(net)};
	const struct image *image = core_image(core);
	u64 hash = key_hash(image->key0, image->key1, key, DISTRIBUTION_FIVE_TUPLE, 0);

	return POINTER(struct fragment, core->fragments) + scale((u32)hash, FRAGMENT_SETS) * FRAGMENT_WAYS;
}

INLINE int is_datagram(const struct fragment *record, const struct network *net, u32 now_ms)
{
	return record->used == fragment_protocol(net) + 1 && record->id == net->fragment_id &&
	       same_address(&record->source, &net->source) && same_address(&record->destination, &net->destination) &&
	       !is_late(record->deadline_ms, now_ms);
}

INLINE void fragment_record(const struct core_memory *core, const struct network *net, const struct key *key, u32 now_ms)
{
	struct fragment *set = fragment_set(core, net), *oldest = set;

	for (u32 i = 0; i < FRAGMENT_WAYS; i++) {
		if (!set[i].used || is_late(set[i].deadline_ms, now_ms) || is_datagram(&set[i], net, now_ms)) {
			oldest = &set[i];
			break;
		}
		if ((s32)(oldest->deadline_ms - set[i].deadline_ms) > 0)
			oldest = &set[i];
	}
	*oldest = (struct fragment){.source = net->source,
				    .destination = net->destination,
				    .id = net->fragment_id,
				    .deadline_ms = now_ms + FRAGMENT_MS,
				    .source_port = key->source_port,
				    .destination_port = key->destination_port,
				    .protocol = net->protocol,
				    .used = (u16)(fragment_protocol(net) + 1)};
}

/* Gives a later fragment the ports and the protocol of its first; tells whether they are known. */
INLINE int fragment_recall(const struct core_memory *core, struct network *net, struct key *key, u32 now_ms)
{
	const struct fragment *set = fragment_set(core, net);

	for (u32 i = 0; i < FRAGMENT_WAYS; i++) {
		if (!is_datagram(&set[i], net, now_ms))
			continue;
		key->source_port = set[i].source_port;
		key->destination_port = set[i].destination_port;
		key->protocol = net->protocol = (u8)set[i].protocol;
		return 1;
	}
	return 0;
}

#endif
