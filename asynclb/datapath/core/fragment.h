/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Later fragments have no ports: a small table remembers those of the first. Python twin: oracle/fragments.py.
 *
 * Bounded: 8,192 datagrams; a new one takes the place of the one in its set that would go first. IPv6 fragments are
 * matched without their protocol, which later ones need not repeat (RFC 8200, 4.5).
 */
#ifndef ASYNCLB_FRAGMENT_H
#define ASYNCLB_FRAGMENT_H

#include "table.h"

INLINE struct fragment *fragment_set(const struct work *w)
{
	const struct network *net = &w->in.net;
	struct key key = {.source = net->source,
			  .destination = net->destination,
			  .source_port = (u16)(net->fragment_id >> 16),
			  .destination_port = (u16)net->fragment_id,
			  .protocol = (u16)fragment_protocol(net)};

	return POINTER(struct fragment, w->core->fragments) + scale((u32)flow_hash(w, &key), FRAGMENT_SETS) * FRAGMENT_WAYS;
}

INLINE int is_datagram(const struct fragment *record, const struct network *net, u32 now_ms)
{
	return record->used == fragment_protocol(net) + 1 && record->id == net->fragment_id &&
	       same_address(&record->source, &net->source) && same_address(&record->destination, &net->destination) &&
	       !is_late(record->deadline_ms, now_ms);
}

/* Remembers the ports of a first fragment. */
INLINE void fragment_record(const struct work *w)
{
	struct fragment *set = fragment_set(w), *oldest = set;
	const struct network *net = &w->in.net;
	u32 now_ms = w->now_ms;

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
				    .source_port = w->in.key.source_port,
				    .destination_port = w->in.key.destination_port,
				    .protocol = net->protocol,
				    .used = (u16)(fragment_protocol(net) + 1)};
}

/* Gives a later fragment the ports and the protocol of its first; tells whether they are known. */
INLINE int fragment_recall(struct work *w)
{
	const struct fragment *set = fragment_set(w);
	struct key *key = &w->in.key;
	struct network *net = &w->in.net;

	for (u32 i = 0; i < FRAGMENT_WAYS; i++) {
		if (!is_datagram(&set[i], net, w->now_ms))
			continue;
		key->source_port = set[i].source_port;
		key->destination_port = set[i].destination_port;
		key->protocol = net->protocol = (u8)set[i].protocol;
		return 1;
	}
	return 0;
}

#endif
