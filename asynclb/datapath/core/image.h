/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The whole image is checked once, when it is published, so that no frame has to. Python twin: image.py makes it. */
#ifndef ASYNCLB_IMAGE_H
#define ASYNCLB_IMAGE_H

#include "maps.h"

INLINE int section_fits(const struct image *image, struct section section, u32 size)
{
	return section.offset >= sizeof(*image) && section.offset % 8 == 0 &&
	       section.offset + (u64)section.count * size <= image->size;
}

INLINE int part_fits(struct section part, struct section whole)
{
	return (u64)part.offset + part.count <= whole.count;
}

INLINE int index_fits(u32 index, u32 count)
{
	return index == NONE || index < count;
}

static int places_fit(const struct image *image)
{
	for (u32 i = 0; i < image->places.count; i++) {
		const struct place *place = ITEM(image, image->places, place, i);

		if (place->kind == KIND_EMPTY)
			continue;
		if (!index_fits(place->entry, place->kind == KIND_SNAT ? image->snats.count : image->entries.count) ||
		    !index_fits(place->reverse, image->entries.count))
			return 0;
	}
	return 1;
}

/* Every slot of an entry's table is one of its choices; tables that entries share are looked at again each time. */
static int slots_fit(const struct image *image, const struct entry *entry)
{
	const u16 *slots = image_item(image, image->slots, entry->slots.offset, 2);

	for (u32 i = 0; i < entry->slots.count; i++)
		if (slots[i] >= entry->choices.count)
			return 0;
	return 1;
}

static int entries_fit(const struct core_memory *core, const struct image *image)
{
	const struct entry *previous = 0;

	for (u32 i = 0; i < image->entries.count; i++) {
		const struct entry *entry = ITEM(image, image->entries, entry, i);

		if (!part_fits(entry->slots, image->slots) || !part_fits(entry->choices, image->choices) ||
		    !part_fits(entry->pool, image->pools) || !part_fits(entry->leaving, image->pools) ||
		    !part_fits(entry->allow, image->allows) ||
		    entry->rule >= core->rule_limit || !index_fits(entry->return_hop, core->hop_limit))
			return 0;
		if (previous && previous->slots.offset == entry->slots.offset &&
		    previous->slots.count == entry->slots.count && previous->choices.count <= entry->choices.count)
			continue;
		if (!slots_fit(image, entry))
			return 0;
		previous = entry;
	}
	return 1;
}

static int members_fit(const struct core_memory *core, const struct image *image)
{
	const u32 *choices = image_item(image, image->choices, 0, 4);

	if (image->members.count > core->member_limit)
		return 0;
	for (u32 i = 0; i < image->choices.count; i++)
		if (choices[i] >= image->members.count)
			return 0;
	for (u32 i = 0; i < image->pools.count; i++)
		if ((ITEM(image, image->pools, pool_member, i)->member & POOL_MEMBER) >= image->members.count)
			return 0;
	return 1;
}

static int snats_fit(const struct core_memory *core, const struct image *image)
{
	for (u32 i = 0; i < image->snats.count; i++) {
		const struct snat *snat = ITEM(image, image->snats, snat, i);

		if (snat->rule >= core->rule_limit || snat->member >= image->members.count ||
		    !part_fits(snat->slices, image->slices) || !part_fits(snat->direct, image->allows))
			return 0;
	}
	for (u32 i = 0; i < image->slices.count; i++) {
		const struct snat_slice *slice = ITEM(image, image->slices, snat_slice, i);
		struct section blocks = {slice->first, slice->count / SNAT_BLOCK};

		if (slice->source >= image->sources.count || slice->count % SNAT_BLOCK || !part_fits(blocks, image->blocks))
			return 0;
	}
	return 1;
}

/* Tells whether an image of `size` bytes is whole and every index in it leads somewhere. */
static int image_fits(const struct core_memory *core, const struct image *image, u64 size)
{
	if (size < sizeof(*image) || image->magic != MAGIC || image->version != LAYOUT_VERSION || image->size != size)
		return 0;
	if (!section_fits(image, image->places, sizeof(struct place)) ||
	    !section_fits(image, image->entries, sizeof(struct entry)) || !section_fits(image, image->choices, 4) ||
	    !section_fits(image, image->slots, 2) || !section_fits(image, image->pools, sizeof(struct pool_member)) ||
	    !section_fits(image, image->members, sizeof(struct member_record)) ||
	    !section_fits(image, image->allows, sizeof(struct allow)) ||
	    !section_fits(image, image->snats, sizeof(struct snat)) ||
	    !section_fits(image, image->slices, sizeof(struct snat_slice)) || !section_fits(image, image->blocks, 2) ||
	    !section_fits(image, image->sources, sizeof(struct address)))
		return 0;
	if (!image->places.count || image->places.count & (image->places.count - 1))
		return 0;
	return places_fit(image) && entries_fit(core, image) && members_fit(core, image) && snats_fit(core, image);
}

#endif
