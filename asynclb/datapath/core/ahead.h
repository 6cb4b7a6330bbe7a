/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* A performance exception: with many flows, most of a packet's time is waiting for its flow to come from memory. So
 * the flows of the next frames in the ring are fetched while this one is decided: the bucket's tags eight frames
 * ahead, the flow itself four frames ahead. It guesses, and a wrong guess costs time only. tests/bench/core_bench.py
 * shows what it buys; tables that fit the caches go without.
 */
#ifndef ASYNCLB_AHEAD_H
#define ASYNCLB_AHEAD_H

#include "ring.h"

#define AHEAD_FLOWS 256 /* a few ten KiB: more do not stay in the nearest cache, beside what the kernel does in between */
#define AHEAD_TAGS 8
#define AHEAD_FLOW 4
#define AHEAD_WINDOW 16 /* a power of two above AHEAD_TAGS */

#define AHEAD_FRAMES 10

/* Starts to fetch a frame some places ahead: its header and the first bytes of its data, that another processor wrote. */
INLINE void fetch_frame(const struct ingress *rx)
{
	u32 slot = rx->head + AHEAD_FRAMES;
	const u8 *frame = (const u8 *)ring_at(rx->ring, slot >= rx->frame_count ? slot - rx->frame_count : slot, rx->frame_size);

	__builtin_prefetch(frame);
	__builtin_prefetch(frame + 64);
	__builtin_prefetch(frame + 128);
}

struct ahead {
	u64 hash[AHEAD_WINDOW]; /* 0: no guess */
};

INLINE u64 hash_of(const struct image *image, const struct key *key)
{
	return key_hash(key, image->key0, image->key1, DISTRIBUTION_FIVE_TUPLE, 0);
}

/* Starts to fetch the tags and deadlines of a key's two buckets. */
INLINE void fetch_buckets(const struct core_memory *core, u64 hash)
{
	u32 index = scale((u32)(hash >> 32), core->bucket_count);
	const struct bucket *other = core_bucket(core, other_bucket(core, index, hash_tag(hash)));

	__builtin_prefetch(core_bucket(core, index)->tag);
	__builtin_prefetch(core_bucket(core, index)->deadline_ms + 8);
	__builtin_prefetch(other->tag);
	__builtin_prefetch(other->deadline_ms + 8);
}

/* Guesses the hash of a member's own connection; of one that begins, fetches what finds its first port free, too. */
static u64 guess_own(const struct core_memory *core, const struct image *image, const struct parsed *in)
{
	const struct place *place = place_find(image, &in->net.source, 0, in->key.protocol, KIND_SNAT);
	const struct snat *snat = place ? snat_at(image, place->entry) : 0;
	struct key key = snat_key(&in->key), back;
	u64 hash = hash_of(image, &key);
	const struct snat_slice *slice;
	const struct address *source;
	u32 first, block;

	if (!snat || !snat->slices.count || !(in->tcp_flags & TCP_SYN))
		return hash;
	slice = ITEM(image, image->slices, snat_slice, snat->slices.offset);
	source = source_at(image, slice->source);
	if (!source || !slice->count)
		return hash;
	first = scale((u32)(hash >> 32), slice->count);
	block = *(const u16 *)image_item(image, image->blocks, slice->first + first / SNAT_BLOCK, 2);
	back = snat_back_key(&key, source, block * SNAT_BLOCK + first % SNAT_BLOCK);
	fetch_buckets(core, hash_of(image, &back));
	return hash;
}

/* Guesses the hash under which the flow of a frame is kept. */
static u64 guess_hash(const struct core_memory *core, struct packet *p)
{
	const struct image *image = core_image(core);
	struct parsed in = {0};
	const struct place *to, *from, *exact;
	const struct entry *entry;
	struct key key;

	if (parse_link(p, &in) || (in.type != TYPE_IPV4 && in.type != TYPE_IPV6) || parse_packet(p, &in))
		return 0;
	to = place_find(image, &in.net.destination, 0, 0, KIND_ADDRESS);
	if (to && to->flags & ADDRESS_VIP)
		return hash_of(image, &in.key);
	from = place_find(image, &in.net.source, 0, 0, KIND_ADDRESS);
	if (from && (from->flags & (ADDRESS_MEMBER | ADDRESS_OUTBOUND)) == ADDRESS_OUTBOUND)
		return guess_own(core, image, &in);
	if (!from || !(from->flags & ADDRESS_MEMBER)) {
		key_order(&in.key);
		return hash_of(image, &in.key);
	}
	key = reversed(&in.key);
	exact = place_find(image, &from->address, key.destination_port, key.protocol, KIND_REVERSE);
	entry = entry_at(image, exact ? exact->entry : from->reverse);
	if (!entry)
		return from->flags & ADDRESS_OUTBOUND ? guess_own(core, image, &in) : 0;
	key.destination = entry->vip;
	key.destination_port = entry->backend_port ? entry->port : key.destination_port;
	return hash_of(image, &key);
}

/* Starts to fetch the tags and deadlines of the flow of the frame in a slot. */
static void fetch_tags(const struct core_memory *core, const struct ingress *rx, struct ahead *ahead, u32 number, u32 slot)
{
	struct ring_frame *frame = ring_at(rx->ring, slot, rx->frame_size);
	struct packet p = {.csum_start = NONE};
	u64 hash = 0;

	if (__atomic_load_n(&frame->status, __ATOMIC_ACQUIRE) & FRAME_USER && frame->mac + frame->snapped <= rx->frame_size) {
		p.data = (u8 *)frame + frame->mac;
		p.length = frame->snapped;
		hash = guess_hash(core, &p);
	}
	ahead->hash[number & (AHEAD_WINDOW - 1)] = hash;
	if (hash)
		fetch_buckets(core, hash);
}

static void fetch_flow(const struct core_memory *core, const struct ahead *ahead, u32 number)
{
	u64 hash = ahead->hash[number & (AHEAD_WINDOW - 1)];
	u32 index = scale((u32)(hash >> 32), core->bucket_count);

	for (u32 i = 0; hash && i < 2 * WAYS; i++) {
		const struct bucket *bucket = core_bucket(core, i < WAYS ? index : other_bucket(core, index, hash_tag(hash)));
		const u8 *key = (const u8 *)&bucket->key[i % WAYS];

		if (bucket->tag[i % WAYS] != hash_tag(hash))
			continue;
		__builtin_prefetch(&bucket->flow[i % WAYS], 1);
		__builtin_prefetch(key);
		__builtin_prefetch(key + sizeof(struct key) - 1);
		__builtin_prefetch(&bucket->deadline_ms[i % WAYS], 1);
		return;
	}
}

/* Fetches for the frames behind `rx->head`, of which `number` came before in this batch. */
static void look_ahead(const struct core_memory *core, const struct ingress *rx, struct ahead *ahead, u32 number)
{
	u32 from = number ? AHEAD_TAGS : 0; /* the first time, all that are in the window */

	if (core->flow_count < AHEAD_FLOWS || !core->image || rx->frame_count <= AHEAD_WINDOW)
		return;
	for (u32 i = from; i <= AHEAD_TAGS; i++) {
		u32 slot = rx->head + i;

		fetch_tags(core, rx, ahead, number + i, slot >= rx->frame_count ? slot - rx->frame_count : slot);
	}
	fetch_flow(core, ahead, number + AHEAD_FLOW);
}

#endif
