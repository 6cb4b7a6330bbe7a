/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A performance exception: packets of established flows without anything unusual are decided where they are, in a few
 * look-ups; all others, and all of doubt, are left to process(), which decides on a copy. Here nothing is dropped,
 * nothing is started and nothing is counted before it is certain that the packet leaves. What leaves is byte for byte
 * what process() makes of it: tests/property/test_kernel_oracle.py holds both to the same oracle.
 *
 * What makes it fast: a flow whose generation is current needs no look at its pool, its source or its member's health,
 * for these were looked at when it got the generation. It takes one line of memory, TCP's another that nobody waits for.
 */
#ifndef ASYNCLB_FAST_H
#define ASYNCLB_FAST_H

#include "process.h"

/* What is understood here; whatever else is said of a flow or of a destination is for process(). */
#define USUAL_FLOW (FLOW_SWAPPED | FLOW_RESET | FLOW_NAT)
#define USUAL_ADDRESS (ADDRESS_VIP | ADDRESS_LOCAL | ADDRESS_MEMBER | ADDRESS_LEFT)

/* What an ordinary packet says. */
struct glance {
	struct key key;
	u8 *check;  /* the checksum of the transport */
	u32 size;   /* from the network header on */
	u32 widest; /* what the network sees of it at once: packet_size */
	u32 ack;
	u32 segmented;
	u8 version;
	u8 tcp_flags;
};

/* Where it goes. */
struct course {
	const u8 *to, *from; /* link addresses */
	u32 ifindex;
	struct address address; /* in the place of one of the packet's, unless high and low are 0 */
	u32 port;		/* as well, unless it is 0 */
	u32 outward; /* the source is replaced, else the destination */
};

/* What the checksum of the transport takes notice of, as the wire has its words. */
struct change {
	u32 addresses, ports;
};

#define WIRE16(number) __builtin_bswap16((u16)(number))
#define WIRE32(number) __builtin_bswap32((u32)(number))
#define WIRE64(number) __builtin_bswap64((u64)(number))
#define RAW(type, place) (*(type *)(place))

/* Which version the frame is of, by its type; 0 for neither. From here on the version is a constant to the compiler: the
 * verifier does not remember that what was found in a header for one version is not looked for in that of the other.
 */
INLINE u32 glance_version(const u8 *data, const u8 *end)
{
	if (data + ETHERNET_BYTES > end || data[0] & 1)
		return 0;
	if (RAW(const u16, data + 12) == WIRE16(TYPE_IPV4))
		return 4;
	return RAW(const u16, data + 12) == WIRE16(TYPE_IPV6) ? 6 : 0;
}

/* Reads the network header; 0 unless it is 20 bytes of IPv4 and no fragment, or 40 bytes of IPv6. */
INLINE int glance_network(struct glance *g, u8 *h, u32 version)
{
	g->version = (u8)version;
	if (version == 4) {
		if (h[0] != 0x45 || RAW(u16, h + 6) & WIRE16(0x3fff))
			return 0;
		g->size = WIRE16(RAW(u16, h + 2));
		g->key.protocol = h[9];
		g->key.source = (struct address){0, MAPPED | WIRE32(RAW(u32, h + 12))};
		g->key.destination = (struct address){0, MAPPED | WIRE32(RAW(u32, h + 16))};
		return 1;
	}
	if (h[0] >> 4 != 6)
		return 0;
	g->size = 40 + WIRE16(RAW(u16, h + 4));
	g->key.protocol = h[6];
	g->key.source = (struct address){WIRE64(RAW(u64, h + 8)), WIRE64(RAW(u64, h + 16))};
	g->key.destination = (struct address){WIRE64(RAW(u64, h + 24)), WIRE64(RAW(u64, h + 32))};
	return !is_mapped(&g->key.source) && !is_mapped(&g->key.destination);
}

/* Reads a frame; 0 unless it is TCP or UDP whose lengths agree, and does not begin a connection. Whether the frame is as
 * long as the packet is for the caller to find out.
 */
INLINE int glance_at(struct glance *g, u8 *data, const u8 *end, u32 version)
{
	u32 header = version == 4 ? 20 : 40, room, transport = 8;
	u8 *h = data + ETHERNET_BYTES + header;

	if (h + 8 > end || !glance_network(g, data + ETHERNET_BYTES, version))
		return 0;
	room = g->size - header;
	if (g->size < header + 8)
		return 0;
	g->check = h + 6;
	g->tcp_flags = 0;
	if (g->key.protocol == IP_TCP) {
		if (h + 20 > end || room < 20)
			return 0;
		g->check = h + 16;
		g->tcp_flags = h[13];
		g->ack = WIRE32(RAW(u32, h + 8));
		transport = (h[12] >> 4) * 4u;
		if (transport < 20 || transport > room || (g->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN)
			return 0;
	} else if (g->key.protocol != IP_UDP || WIRE16(RAW(u16, h + 4)) != room) {
		return 0;
	}
	g->widest = g->segmented ? header + transport + g->segmented : g->size;
	g->key.source_port = WIRE16(RAW(u16, h));
	g->key.destination_port = WIRE16(RAW(u16, h + 2));
	g->key.kind = 0;
	return 1;
}

/* What key_order does, for an IPv4 key and without a branch, which the verifier would follow. */
INLINE u32 fast_order4(struct key *key)
{
	u64 source = (u64)(u32)key->source.low << 16 | key->source_port;
	u64 destination = (u64)(u32)key->destination.low << 16 | key->destination_port;
	u64 swapped = (destination - source) >> 63, change;

	SETTLED(swapped);
	change = (source ^ destination) & -swapped;
	source ^= change;
	destination ^= change;
	key->source = (struct address){0, MAPPED | source >> 16};
	key->destination = (struct address){0, MAPPED | destination >> 16};
	key->source_port = (u16)source;
	key->destination_port = (u16)destination;
	return (u32)swapped;
}

/* Finds the flow of a key. What is asked of memory between this and the first look at the flow, the processor does while it
 * waits. Here, not as a step: a return costs 8 ns on processors that are told not to guess them. IPv6's key is `w->asked`.
 */
INLINE struct flow *fast_find(struct work *w, const struct glance *g, const struct key *key)
{
	if (g->version != 4)
		return bpf_map_lookup_elem(&flows6, &w->asked);
	w->small = key4_of(key);
	return set_find(w, &w->small).flow;
}

/* Whether a flow goes on as usual. */
INLINE int is_usual(const struct work *w, const struct flow *flow)
{
	return !(flow->flags & ~USUAL_FLOW) && !is_late(flow->deadline_ms, w->now_ms);
}

/* Lets counters and the flow take notice, as flow_notice does. */
INLINE void fast_notice(struct work *w, const struct glance *g, const struct entry *entry, u32 member,
			struct flow *flow, u32 outward)
{
	struct flow_ref found = {flow, g->version == 4 ? w->place : NONE};

	count_packet(rule_count(w, entry->rule), w->p->length, (int)outward);
	count_packet(member_count(w, member), w->p->length, (int)outward);
	flow_advance(flow, w->p->length, outward);
	if (g->key.protocol == IP_TCP)
		flow_hear(w, found, g->tcp_flags, g->ack, outward);
	flow_touch(found, w->now_ms + timeout_ms(flow, entry->idle_ms));
}

/* Finds the way to a member, if a frame can leave by it as it is. */
INLINE int course_to(struct work *w, const struct glance *g, const struct member_record *member, struct course *course)
{
	const struct hop *hop = find_hop(w, member->next_hop);

	if (!hop || !hop->resolved || must_route(w, hop))
		return 0;
	if (hop->mtu && g->widest > hop->mtu)
		return 0;
	course->ifindex = hop->ifindex;
	course->to = hop->destination;
	course->from = hop->source;
	return 1;
}

INLINE void put_link(u8 *to, const u8 *from)
{
	RAW(u32, to) = RAW(const u32, from);
	RAW(u16, to + 4) = RAW(const u16, from + 4);
}

INLINE void remember_client(struct work *w, struct flow *flow, const u8 *data)
{
	flow->ifindex = w->p->ifindex;
	put_link(flow->client_link, data + 6);
}

/* Whether a frame comes from where the flow's client was last: that was no appliance. Saves 34 ns for most. */
INLINE int is_client(struct work *w, const struct flow *flow, const u8 *data)
{
	const u8 *known = flow->client_link;

	return flow->ifindex == w->p->ifindex && RAW(const u32, known) == RAW(const u32, data + 6) &&
	       RAW(const u16, known + 4) == RAW(const u16, data + 10);
}

/* To a VIP: the flow is the client's. Twin: forward. */
INLINE int fast_forward(struct work *w, const struct image *image, const struct place *vip, const struct glance *g,
			const u8 *data, struct course *course)
{
	const struct place *exact;
	const struct entry *entry;
	const struct member_record *member;
	struct flow *flow;

	if (g->version != 4)
		w->asked = g->key;
	flow = fast_find(w, g, &g->key);
	if (!flow)
		return 0;
	exact = place_find(image, &g->key.destination, g->key.destination_port, g->key.protocol, KIND_FRONTEND);
	entry = entry_at(image, exact ? exact->entry : vip->entry);
	if (!entry || !is_usual(w, flow) || flow->flags & FLOW_SWAPPED || entry->flags & ENTRY_SYMMETRIC)
		return 0;
	if (flow->generation != (u16)image->generation || flow->rule != entry->rule)
		return 0;
	member = image_member(image, flow->member);
	if (!member || entry->delivery == DELIVERY_ROUTED || !course_to(w, g, member, course))
		return 0;
	course->outward = 0;
	course->address = (struct address){0, 0};
	course->port = flow->target_port;
	if (entry->delivery == DELIVERY_NAT)
		course->address = member->address;
	fast_notice(w, g, entry, flow->member, flow, 0);
	remember_client(w, flow, data);
	return 1;
}

/* From a member: the flow is that of the client it answers. Twin: reverse_by. */
INLINE int fast_reverse(struct work *w, const struct image *image, const struct place *from, const struct glance *g,
			struct course *course)
{
	const struct place *exact = place_find(image, &g->key.source, g->key.source_port, g->key.protocol, KIND_REVERSE);
	const struct entry *entry = entry_at(image, exact ? exact->entry : from->reverse);
	const struct member_record *member;
	struct flow *flow;
	struct key key;
	u32 mtu;

	if (!entry || is_martian(&g->key.source, g->version) || same_address(&g->key.source, &g->key.destination))
		return 0;
	key = (struct key){.source = g->key.destination,
			   .destination = entry->vip,
			   .source_port = g->key.destination_port,
			   .destination_port = entry->backend_port ? entry->port : g->key.source_port,
			   .protocol = g->key.protocol};
	if (g->version != 4)
		w->asked = key;
	flow = fast_find(w, g, &key);
	if (!flow || !is_usual(w, flow))
		return 0;
	member = image_member(image, flow->member);
	if (!member || (entry->delivery == DELIVERY_NAT && !same_address(&member->address, &g->key.source)))
		return 0;
	course->from = our_link(w, flow->ifindex);
	mtu = our_mtu(w, flow->ifindex);
	if (!course->from || (mtu && g->widest > mtu))
		return 0;
	course->to = flow->client_link;
	course->ifindex = flow->ifindex;
	course->outward = 1;
	course->address = (struct address){0, 0};
	if (entry->delivery == DELIVERY_NAT)
		course->address = entry->vip;
	course->port = key.destination_port;
	fast_notice(w, g, entry, flow->member, flow, 1);
	return 1;
}

/* The member of a routed flow as the entry of this direction knows it, or NONE. Twin: flow_member. */
INLINE u32 fast_member(const struct image *image, const struct entry *entry, const struct flow *flow, u32 protocol)
{
	const struct member_record *member;
	u32 found;

	if (flow->rule == entry->rule)
		return flow->generation == (u16)image->generation ? flow->member : NONE;
	member = image_member(image, flow->member);
	if (!member || entry->leaving.count)
		return NONE;
	found = part_find(image, entry->pool, member->identity);
	if (found == NONE || (!(found & POOL_KEEPS) && !stays_down(entry, protocol)))
		return NONE;
	return found & POOL_MEMBER;
}

/* Through an appliance: nothing is rewritten but the link addresses. Twin: forward. */
INLINE int fast_routed(struct work *w, const struct image *image, const struct glance *g, const u8 *data,
		       struct course *course)
{
	struct address interface = {.high = g->version, .low = w->p->ifindex};
	const struct member_record *member;
	const struct place *gate;
	const struct entry *entry;
	u32 swapped, outward, id;
	struct key key;
	struct flow *flow;

	key = g->key;
	key.kind = KEY_SYMMETRIC;
	if (g->version == 4) {
		swapped = fast_order4(&key);
	} else {
		w->asked = key;
		swapped = (u32)key_order(&w->asked);
	}
	flow = fast_find(w, g, &key);
	if (!flow)
		return 0;
	gate = place_find(image, &interface, 0, 0, KIND_INTERFACE);
	entry = gate ? entry_at(image, gate->entry) : 0;
	if (!entry || !(entry->flags & ENTRY_SYMMETRIC) || is_link_scope(&g->key.destination, g->version) ||
	    is_martian(&g->key.source, g->version) || same_address(&g->key.source, &g->key.destination))
		return 0;
	if (!is_usual(w, flow))
		return 0;
	outward = swapped != (flow->flags & FLOW_SWAPPED);
	if (!outward && (flow->rule != entry->rule || flow->generation != (u16)image->generation))
		return 0; /* whether its source is allowed is to be looked at anew */
	id = fast_member(image, entry, flow, g->key.protocol);
	member = id == NONE ? 0 : image_member(image, id);
	if ((outward || !is_client(w, flow, data)) && is_appliance(w, data + 6))
		return 0;
	if (!member || !course_to(w, g, member, course))
		return 0;
	course->outward = 0; /* neither end is replaced */
	course->address = (struct address){0, 0};
	course->port = 0;
	fast_notice(w, g, entry, id, flow, outward);
	if (!outward)
		remember_client(w, flow, data);
	return 1;
}

/* Decides; 0 leaves the packet to process(). */
INLINE int fast_decide(struct work *w, const struct glance *g, const u8 *data, struct course *course)
{
	const struct image *image = work_image(w);
	const struct place *to, *from;

	if (!image)
		return 0;
	to = place_find(image, &g->key.destination, 0, 0, KIND_ADDRESS);
	if (to && to->flags & ~USUAL_ADDRESS)
		return 0;
	if (to && to->flags & ADDRESS_VIP)
		return fast_forward(w, image, to, g, data, course);
	if (to && to->flags & ADDRESS_LOCAL)
		return 0;
	from = place_find(image, &g->key.source, 0, 0, KIND_ADDRESS);
	if (from && from->flags & ADDRESS_MEMBER)
		return fast_reverse(w, image, from, g, course);
	if (from && from->flags & ~USUAL_ADDRESS)
		return 0;
	return fast_routed(w, image, g, data, course);
}

/* Replaces 32 bits and returns the difference. */
INLINE u32 put32(u8 *field, u32 value)
{
	u32 old = ~RAW(u32, field);

	RAW(u32, field) = value;
	return (old & 0xffff) + (old >> 16) + (value & 0xffff) + (value >> 16);
}

INLINE u32 put_address(u8 *l3, u32 version, u32 outward, const struct address *to)
{
	u8 *field = l3 + (version == 4 ? 12 : 8);
	u32 sum;

	if (!outward) {
		field += version == 4 ? 4 : 16;
		SETTLED(field);
	}
	if (version == 4)
		return put32(field, WIRE32(to->low));
	sum = put32(field, WIRE32(to->high >> 32)) + put32(field + 4, WIRE32(to->high));
	return sum + put32(field + 8, WIRE32(to->low >> 32)) + put32(field + 12, WIRE32(to->low));
}

/* Lets a checksum follow. Twin: follow. */
INLINE void put_check(u8 *field, u32 difference, int zero_is_none)
{
	u32 check = RAW(u16, field), sum;

	if (zero_is_none && !check)
		return;
	sum = fold((u16)~check + fold(difference)) ^ 0xffff;
	RAW(u16, field) = (u16)(zero_is_none && !sum ? 0xffff : sum);
}

/* Rewrites all but the checksum of the transport. */
INLINE struct change fast_rewrite(const struct glance *g, const struct course *course, u8 *data)
{
	struct change change = {0, 0};
	u8 *l3 = data + ETHERNET_BYTES, *port = l3 + (g->version == 4 ? 20 : 40);
	u16 old;

	if (!course->outward) {
		port += 2;
		SETTLED(port);
	}
	put_link(data, course->to);
	put_link(data + 6, course->from);
	if (course->address.high || course->address.low) {
		change.addresses = fold(put_address(l3, g->version, course->outward, &course->address));
		if (g->version == 4)
			put_check(l3 + 10, change.addresses, 0);
	}
	old = RAW(u16, port);
	if (!course->port || old == WIRE16(course->port))
		return change; /* tc pays for each call that follows a change */
	RAW(u16, port) = WIRE16(course->port);
	change.ports = fold((u32)(u16)~old + WIRE16(course->port));
	return change;
}

#endif
