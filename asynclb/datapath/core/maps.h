/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where the core's memory is: the plain form, for the native library. BPF twin: maps_bpf.h gives the same names to maps.
 *
 * The image was checked when it was published (native.c), so its own indexes are believed here.
 */
#ifndef ASYNCLB_MAPS_H
#define ASYNCLB_MAPS_H

#include "work.h"

#define POINTER(type, word) ((type *)(uptr)(word))
#define FLOWS_BY_HASH 1	 /* the flow table's place for a key comes from its hash */
#define FLOWS_MOVE 1	 /* one flow makes room for another by moving */
#define HOST_ROUTES 0	 /* nobody else forwards what cannot leave by itself */

INLINE const struct image *core_image(const struct core_memory *core)
{
	return POINTER(const struct image, core->image);
}

INLINE const struct image *work_image(const struct work *w)
{
	return w->image;
}

INLINE const void *image_item(const struct image *image, struct section section, u32 index, u32 size)
{
	return (const u8 *)image + section.offset + (u64)index * size;
}

#define ITEM(image, section, type, index) ((const struct type *)image_item(image, section, index, sizeof(struct type)))

/* Returns a member by its id, or 0 when these tables do not have it. */
INLINE const struct member_record *image_member(const struct image *image, u32 id)
{
	const struct member_record *member;

	if (id >= image->members.count)
		return 0;
	member = ITEM(image, image->members, member_record, id);
	return member->flags & MEMBER_PRESENT ? member : 0;
}

INLINE struct hop *core_hop(const struct core_memory *core, u32 index)
{
	return index < core->hop_limit ? POINTER(struct hop, core->hops) + index : 0;
}

INLINE struct hop *find_hop(const struct work *w, u32 index)
{
	return core_hop(w->core, index);
}

INLINE struct count *core_rule(const struct core_memory *core, u32 rule)
{
	return POINTER(struct count, core->rules) + (rule < core->rule_limit ? rule : 0);
}

INLINE struct count *core_member(const struct core_memory *core, u32 member)
{
	return POINTER(struct count, core->members) + (member < core->member_limit ? member : 0);
}

INLINE struct count *rule_count(const struct work *w, u32 rule)
{
	return core_rule(w->core, rule);
}

INLINE struct count *member_count(const struct work *w, u32 member)
{
	return core_member(w->core, member);
}

INLINE void count_drop(const struct core_memory *core, u32 reason)
{
	if (reason < core->drop_limit)
		POINTER(u64, core->drops)[reason]++;
}

INLINE void count_reason(const struct work *w, u32 reason)
{
	count_drop(w->core, reason);
}

/* Says under which hash it is noted that the guard was shown a flow on its way to a member, so that nobody has to read
 * the frame for it. Key, member and port give the ends that it leaves with. What note.h shows always is left to it.
 */
INLINE void passage_note(const struct work *w)
{
	const struct passage *way = &w->way;
	u64 target = (u64)way->member << 16 | way->target_port;

	if (w->in.form != FORM_PLAIN || w->in.net.fragment != WHOLE || way->translated || is_first_syn(&w->in))
		return;
	w->p->note = (way->hash ^ target * 0x9e3779b97f4a7c15ull) | 2;
}

INLINE void count_stateless(const struct work *w)
{
	w->core->stateless++;
}

/* Whether frames cannot leave by a hop's interface, but the host's routing can send them there. */
INLINE int must_route(const struct work *w, const struct hop *hop)
{
	(void)w, (void)hop;
	return 0;
}

/* Our link address on an interface, or 0. */
INLINE const u8 *our_link(const struct work *w, u32 ifindex)
{
	const struct interface *known = w->core->interfaces;

	for (u32 i = 0; i < INTERFACES && known[i].ifindex; i++)
		if (known[i].ifindex == ifindex)
			return known[i].link;
	return 0;
}

/* How large a packet may be that leaves by an interface; 0 when that is not known. */
INLINE struct icmp_limit *icmp_limit_of(struct work *w)
{
	return &w->core->icmp;
}

INLINE u32 our_mtu(const struct work *w, u32 ifindex)
{
	const struct interface *known = w->core->interfaces;

	for (u32 i = 0; i < INTERFACES && known[i].ifindex; i++)
		if (known[i].ifindex == ifindex)
			return known[i].mtu;
	return 0;
}

/* Remembers our link address on an interface; what was told outweighs what was learnt. */
INLINE void learn_interface(struct core_memory *core, u32 ifindex, const u8 *link, u32 mtu, int fixed)
{
	for (u32 i = 0; i < INTERFACES; i++) {
		struct interface *known = &core->interfaces[i];

		if (known->ifindex && known->ifindex != ifindex)
			continue;
		if (!known->ifindex || fixed) {
			known->ifindex = ifindex;
			known->fixed = (u16)fixed;
			copy_link(known->link, link);
			known->mtu = mtu ? mtu : known->mtu;
		}
		return;
	}
}

INLINE void learn_link(const struct work *w)
{
	if (!our_link(w, w->p->ifindex))
		learn_interface(w->core, w->p->ifindex, w->p->data, 0, 0);
}

INLINE u64 link_word(const u8 *link)
{
	return 1ull << 48 | (u64)load_be16(link) << 32 | load_be32(link + 2);
}

INLINE u32 link_slot(u64 link)
{
	return (u32)(link * 0x9e3779b97f4a7c15ull >> 50) & (APPLIANCES - 1);
}

/* Whether a link address belongs to a member that frames are routed through. */
INLINE int is_appliance(const struct work *w, const u8 *link)
{
	const u64 *table = POINTER(const u64, w->core->appliances);
	u64 word = link_word(link);
	u32 slot = link_slot(word);

	for (u32 i = 0; i < 64; i++) {
		u64 found = table[(slot + i) & (APPLIANCES - 1)];

		if (found == word)
			return 1;
		if (!found)
			return 0;
	}
	return 0;
}

/* The place of a client who has no flow; two clients may have the same. */
INLINE struct client *client_place(const struct work *w, const struct address *address)
{
	u64 mixed = (address->high ^ address->low) * 0x9e3779b97f4a7c15ull;

	return POINTER(struct client, w->core->clients) + ((mixed >> 40) & (CLIENTS - 1));
}

/* Remembers where a client is, for whom there was no room in the flow table: its answers must find it. */
INLINE void remember_sender(const struct work *w)
{
	struct client *client = client_place(w, &w->in.net.source);
	const u8 *h = at(w->p, 0, 12);

	if (!h)
		return;
	client->address = w->in.net.source;
	client->seen_ms = w->now_ms;
	client->ifindex = w->p->ifindex;
	client->used = 1;
	copy_link(client->link, h + 6);
}

/* Where the packet's destination was a moment ago, or 0. */
INLINE const struct client *recall_sender(const struct work *w)
{
	const struct client *client = client_place(w, &w->in.net.destination);

	if (!client->used || !same_address(&client->address, &w->in.net.destination))
		return 0;
	return w->now_ms - client->seen_ms < CLIENT_MS ? client : 0;
}

#include "table.h"

#include "fragment.h"

#endif
