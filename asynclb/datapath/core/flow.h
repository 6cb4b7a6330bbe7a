/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a flow is, wherever flows are kept: TCP's states, deadlines, and whose it is. Python twin: oracle/state.py. */
#ifndef ASYNCLB_FLOW_H
#define ASYNCLB_FLOW_H

#include "lookup.h"

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

/* Whether a member of an entry's pool is the one of that name that a flow has: an appliance has another address on each
 * of its sides; any other member with another address is another machine.
 */
INLINE int same_machine(const struct image *image, const struct entry *entry, const struct member_record *member, u32 found)
{
	const struct member_record *other = image_member(image, found & POOL_MEMBER);

	return entry->delivery == DELIVERY_ROUTED || (other && same_address(&other->address, &member->address));
}

/* Whether flows stay with a member that goes down. */
INLINE int stays_down(const struct entry *entry, u32 protocol)
{
	return protocol == IP_TCP ? !(entry->flags & ENTRY_MOVES) : !!(entry->flags & ENTRY_STAYS);
}

/* The flow's member as the passage's entry knows it, or NONE when it has gone, or takes no more of this protocol.
 * Asked anew after each publication; TCP connections stay where they are for as long as the pool has the member, and
 * for its drain period. Python twin: Forward._flow_target.
 */
INLINE u32 flow_member(struct work *w, const struct image *image, const struct entry *entry, const struct flow *flow)
{
	const struct member_record *member = image_member(image, flow->member);
	u32 found, stay = NONE;

	if (!member)
		return NONE;
	if (flow->rule == entry->rule && flow->generation == (u16)image->generation)
		return flow->member;
	if (w->way.key.protocol == IP_TCP && entry->leaving.count)
		stay = leaving_find(w, w->way.entry,
				    entry->delivery == DELIVERY_ROUTED ? member->identity : flow->member);
	if (stay != NONE && member->flags & MEMBER_LEFT)
		return stay;
	found = pool_find(w, w->way.entry, member->identity);
	if (found == NONE || !same_machine(image, entry, member, found))
		return stay;
	if (!(found & POOL_KEEPS) && !stays_down(entry, w->way.key.protocol))
		return NONE;
	if (w->way.key.protocol == IP_UDP && entry->flags & ENTRY_UNTRACKED && flow->rule == entry->rule &&
	    choose(w) != (found & POOL_MEMBER))
		return NONE;
	if (flow->rule == entry->rule && flow->member == (found & POOL_MEMBER))
		w->way.renewed = 1;
	return found & POOL_MEMBER;
}

#endif
