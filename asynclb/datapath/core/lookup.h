/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the image says of an address, a source, a flow. Python twin: oracle/tables.py, asynclb/tables/lookup.py. */
#ifndef ASYNCLB_LOOKUP_H
#define ASYNCLB_LOOKUP_H

#include "hash.h"
#include "maps.h"

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

INLINE const struct entry *entry_at(const struct image *image, u32 index)
{
	return index < image->entries.count ? ITEM(image, image->entries, entry, index) : 0;
}

/* The rule of a VIP: the exact port and protocol, else HA ports. Python twin: Tables.find. */
INLINE const struct entry *frontend_find(const struct image *image, const struct place *vip, u32 port, u32 protocol)
{
	const struct place *exact = place_find(image, &vip->address, port, protocol, KIND_FRONTEND);

	return entry_at(image, exact ? exact->entry : vip->entry);
}

/* Whether a source may use an entry: binary search in disjoint ranges. Python twin: is_allowed. */
INLINE int is_allowed(const struct image *image, const struct entry *entry, const struct address *source)
{
	u32 low = 0, high = entry->allow.count;

	for (u32 i = 0; i < SEARCH_STEPS && low < high; i++) {
		u32 middle = (low + high) / 2;
		const struct allow *range = ITEM(image, image->allows, allow, entry->allow.offset + middle);

		if (address_above(&range->first, source))
			high = middle;
		else if (address_above(source, &range->last))
			low = middle + 1;
		else
			return 1;
	}
	return 0;
}

/* Finds the member of an entry's pool that has a name, so that rules over pools of the same names agree.
 * Python twin: Oracle.same_name.
 */
INLINE u32 pool_find(const struct image *image, const struct entry *entry, u32 identity)
{
	u32 low = 0, high = entry->pool.count;

	for (u32 i = 0; i < SEARCH_STEPS && low < high; i++) {
		u32 middle = (low + high) / 2;
		const struct pool_member *found = ITEM(image, image->pools, pool_member, entry->pool.offset + middle);

		if (found->identity == identity)
			return found->member;
		if (found->identity < identity)
			low = middle + 1;
		else
			high = middle;
	}
	return NONE;
}

/* Returns the id of the member that the Maglev table gives a key, or NONE. Python twin: lookup.choose. */
INLINE u32 choose(const struct image *image, const struct entry *entry, const struct key *key, u64 five_tuple_hash)
{
	int symmetric = entry->flags & ENTRY_SYMMETRIC;
	u64 hash = five_tuple_hash;
	const u16 *slot;
	const u32 *choice;

	if (!entry->slots.count)
		return NONE;
	if (entry->distribution != DISTRIBUTION_FIVE_TUPLE)
		hash = key_hash(image->key0, image->key1, *key, entry->distribution, symmetric);
	slot = image_item(image, image->slots, entry->slots.offset + scale((u32)(hash >> 32), entry->slots.count), 2);
	choice = image_item(image, image->choices, entry->choices.offset + *slot, 4);
	return *choice;
}

#endif
