/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the image says of an address, a source, a flow. Python twin: oracle/tables.py, asynclb/tables/lookup.py. */
#ifndef ASYNCLB_LOOKUP_H
#define ASYNCLB_LOOKUP_H

#include "hash.h"
#ifdef __bpf__
#include "maps_bpf.h"
#else
#include "maps.h"
#endif

/* Spreads places. Not keyed: the operator chooses what is in the table. Python twin: image.place_hash. */
INLINE u32 place_hash(const struct address *address, u32 port, u32 protocol, u32 kind)
{
	u64 mixed = address->high ^ turn(address->low, 29) ^ ((u64)port << 16 | protocol << 8 | kind);

	mixed *= 0x9e3779b97f4a7c15ull;
	mixed ^= mixed >> 32;
	mixed *= 0x9e3779b97f4a7c15ull;
	return (u32)(mixed >> 32);
}

INLINE const struct place *place_find(const struct image *image, const struct address *address, u32 port, u32 protocol,
				      u32 kind)
{
	u32 start = place_hash(address, port, protocol, kind);

	UNROLL
	for (u32 i = 0; i < PROBES; i++) {
		u32 index = (start + i) & (image->places.count - 1);
		const struct place *place = ITEM(image, image->places, place, index);

		if (place->kind == KIND_EMPTY)
			return 0;
		if (place->kind == kind && place->port == port && place->protocol == protocol &&
		    same_address(&place->address, address))
			return place;
	}
	return 0;
}

/* Returns the entry of a place, or NONE. */
STEP u32 place_entry(const struct work *w, const struct address *address, u32 port, u32 protocol, u32 kind)
{
	const struct image *image;
	const struct place *place;

	OWN(w);
	GIVEN(address);
	image = work_image(w);
	place = image ? place_find(image, address, port, protocol, kind) : 0;
	return place ? place->entry : NONE;
}

/* Reads what the image says of an address; tells whether it says anything. */
STEP u32 known_find(const struct work *w, const struct address *address, struct known *known)
{
	const struct image *image;
	const struct place *place;

	OWN(w);
	GIVEN(address);
	GIVEN(known);
	*known = (struct known){.entry = NONE, .reverse = NONE};
	image = work_image(w);
	place = image ? place_find(image, address, 0, 0, KIND_ADDRESS) : 0;
	if (!place)
		return 0;
	known->flags = place->flags;
	known->entry = place->entry;
	known->reverse = place->reverse;
	return 1;
}

INLINE const struct entry *entry_at(const struct image *image, u32 index)
{
	return index < image->entries.count ? ITEM(image, image->entries, entry, index) : 0;
}

/* The entry of a VIP: that of the exact port and protocol, else HA ports. Python twin: Tables.find. */
INLINE u32 frontend_entry(const struct work *w, const struct key *key, const struct known *vip)
{
	u32 exact = place_entry(w, &key->destination, key->destination_port, key->protocol, KIND_FRONTEND);

	return exact == NONE ? vip->entry : exact;
}

/* Sorted lists are halved without a branch: the verifier keeps few states within a loop, so that one that branches in
 * each round takes it too long. What compares tells 0 or 1; that of addresses is a step of its own.
 */
STEP u32 range_begins(const struct work *w, u32 item, const struct address *source)
{
	const struct image *image;

	OWN(w);
	GIVEN(source);
	image = work_image(w);
	return image && !address_above(&ITEM(image, image->allows, allow, item)->first, source);
}

INLINE u32 name_begins(const struct image *image, u32 item, u32 identity)
{
	u64 below = (u64)identity - ITEM(image, image->pools, pool_member, item)->identity;

	SETTLED(below);
	return (u32)(below >> 63) ^ 1;
}

/* Whether an address is in one of `left` disjoint ranges from `base` on: binary search. */
STEP u32 in_ranges(const struct work *w, u32 base, u32 left, const struct address *source)
{
	const struct allow *range;
	const struct image *image;

	OWN(w);
	GIVEN(source);
	image = work_image(w);
	if (!image || !left)
		return 0;
	UNROLL
	for (u32 i = 0; i < SEARCH_STEPS; i++) {
		if (apart(left) < 2)
			break;
		base += left / 2 * range_begins(w, base + left / 2, source);
		left -= left / 2;
	}
	range = ITEM(image, image->allows, allow, base);
	return !address_above(&range->first, source) && !address_above(source, &range->last);
}

/* Whether a source may use an entry. Python twin: is_allowed. */
INLINE u32 is_allowed(const struct work *w, u32 index, const struct address *source)
{
	const struct image *image = work_image(w);
	const struct entry *entry = image ? entry_at(image, index) : 0;

	return entry && in_ranges(w, entry->allow.offset, entry->allow.count, source);
}

/* Finds an identity in a part of the pools, which is sorted by it; returns what is said of the member, or NONE. */
INLINE u32 part_find(const struct image *image, struct section part, u32 identity)
{
	const struct pool_member *found;
	u32 base = part.offset, left = part.count;

	if (!left)
		return NONE;
	UNROLL
	for (u32 i = 0; i < SEARCH_STEPS; i++) {
		if (apart(left) < 2)
			break;
		base += left / 2 * name_begins(image, base + left / 2, identity);
		left -= left / 2;
	}
	found = ITEM(image, image->pools, pool_member, base);
	return found->identity == identity ? found->member : NONE;
}

/* Finds the member of an entry's pool that has a name, so that rules over pools of the same names agree.
 * Python twin: Forward._flow_target.
 */
STEP u32 pool_find(const struct work *w, u32 index, u32 identity)
{
	const struct image *image;
	const struct entry *entry;

	OWN(w);
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	return entry ? part_find(image, entry->pool, identity) : NONE;
}

/* Finds whom established connections may stay with though the entry's pool has them no more: a member by its id, or by
 * its name where frames are routed. Python twin: Forward._stay.
 */
STEP u32 leaving_find(const struct work *w, u32 index, u32 identity)
{
	const struct image *image;
	const struct entry *entry;

	OWN(w);
	image = work_image(w);
	entry = image ? entry_at(image, index) : 0;
	return entry ? part_find(image, entry->leaving, identity) : NONE;
}

/* Hashes the five-tuple, unless the flow table has done so. */
INLINE u64 passage_hash(const struct image *image, const struct passage *way)
{
	if (FLOWS_BY_HASH)
		return way->hash;
	return key_hash(&way->key, image->key0, image->key1, DISTRIBUTION_FIVE_TUPLE, 0);
}

/* Returns the id of the member that the Maglev table gives a flow, or NONE. Python twin: lookup.choose. */
STEP u32 choose(const struct work *w)
{
	const struct image *image;
	const struct entry *entry;
	const u16 *slot;
	const u32 *choice;
	u64 hash;

	OWN(w);
	image = work_image(w);
	entry = image ? entry_at(image, w->way.entry) : 0;
	if (!entry || !entry->slots.count)
		return NONE;
	if (entry->distribution == DISTRIBUTION_FIVE_TUPLE)
		hash = passage_hash(image, &w->way);
	else
		hash = key_hash(&w->way.key, image->key0, image->key1, entry->distribution, entry->flags & ENTRY_SYMMETRIC);
	slot = image_item(image, image->slots, entry->slots.offset + scale((u32)(hash >> 32), entry->slots.count), 2);
	choice = image_item(image, image->choices, entry->choices.offset + *slot, 4);
	return *choice;
}

#endif
