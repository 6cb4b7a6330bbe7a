/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The core as a library: what Python calls. Python twin and owner of all memory: core.py.
 *
 * One thread at a time may use a core. Nothing here allocates, blocks or keeps a pointer that the caller did not hand
 * over with struct core_memory.
 */
#include "ahead.h"
#include "image.h"
#include "note.h"
#include "parting.h"

#define EXPORT __attribute__((visibility("default")))

/* A freestanding compiler may still ask for these two. The pragma keeps it from turning the loops into calls. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ size);
void *memset(void *to, int value, __SIZE_TYPE__ size);

#ifndef ASYNCLB_HOSTED
__attribute__((visibility("hidden"), no_builtin("memcpy"))) void *memcpy(void *to, const void *from, __SIZE_TYPE__ size)
{
	for (__SIZE_TYPE__ i = 0; i < size; i++)
		((volatile u8 *)to)[i] = ((const u8 *)from)[i];
	return to;
}

__attribute__((visibility("hidden"), no_builtin("memset"))) void *memset(void *to, int value, __SIZE_TYPE__ size)
{
	for (__SIZE_TYPE__ i = 0; i < size; i++)
		((volatile u8 *)to)[i] = (u8)value;
	return to;
}
#endif

/* Tells which layout.py this library was built from. */
EXPORT u32 asynclb_core_layout(void)
{
	return LAYOUT_DIGEST;
}

/* Hashes a key. Python twin: flow_hash. */
EXPORT u64 asynclb_core_hash(u64 key0, u64 key1, const struct key *key, u32 distribution, u32 symmetric)
{
	return key_hash(key, key0, key1, distribution, symmetric);
}

/* Parses a frame `times` times and does nothing else: what a benchmark compares with. */
EXPORT u32 asynclb_core_parse_many(u8 *data, u32 length, struct key *key, u32 times)
{
	struct packet p = {.data = data, .length = length, .csum_start = NONE};
	u32 reason = DROP_NONE;

	for (u32 i = 0; i < times; i++) {
		struct parsed in = {0};

		reason = parse_link(&p, &in);
		if (!reason && (in.type == TYPE_IPV4 || in.type == TYPE_IPV6))
			reason = parse_packet(&p, &in);
		*key = in.key;
		__asm__ volatile("" ::: "memory"); /* each time anew */
	}
	return reason;
}

static void add_appliance(const struct core_memory *core, const u8 *link)
{
	u64 *table = POINTER(u64, core->appliances), word = link_word(link);

	for (u32 i = 0; i < 64; i++) {
		u64 *found = &table[(link_slot(word) + i) & (APPLIANCES - 1)];

		if (*found && *found != word)
			continue;
		*found = word;
		return;
	}
}

/* Collects the link addresses of the members that frames are routed through. */
static void renew_appliances(struct core_memory *core)
{
	const struct image *image = core_image(core);
	u64 *table = POINTER(u64, core->appliances);

	for (u32 i = 0; i < APPLIANCES; i++)
		table[i] = 0;
	for (u32 i = 0; image && i < image->members.count; i++) {
		const struct member_record *member = image_member(image, i);
		const struct hop *hop = member && member->flags & MEMBER_ROUTED ? core_hop(core, member->next_hop) : 0;

		if (hop && hop->resolved)
			add_appliance(core, hop->destination);
	}
}

/* Whether an image is whole and within this core's limits: what can be published. */
EXPORT u32 asynclb_core_fits(const struct core_memory *core, const struct image *image, u64 size)
{
	return image_fits(core, image, size) != 0;
}

/* Publishes an image; 0 when it is damaged, and then the old one stays. */
EXPORT u32 asynclb_core_publish(struct core_memory *core, const struct image *image, u64 size)
{
	if (!image_fits(core, image, size))
		return 0;
	__atomic_store_n(&core->image, (u64)(__UINTPTR_TYPE__)image, __ATOMIC_RELEASE);
	renew_appliances(core);
	return 1;
}

/* Replaces a next hop. */
EXPORT void asynclb_core_set_hop(struct core_memory *core, u32 index, const struct hop *to)
{
	struct hop *hop = core_hop(core, index);

	if (!hop)
		return;
	*hop = *to;
	if (to->resolved)
		learn_interface(core, to->ifindex, to->source, to->mtu, 1);
	renew_appliances(core);
}

EXPORT void asynclb_core_set_interface(struct core_memory *core, u32 ifindex, const u8 *link, u32 mtu)
{
	learn_interface(core, ifindex, link, mtu, 1);
}

/* Collects the unresolved next hops that were wanted; returns how many. */
EXPORT u32 asynclb_core_wanted(struct core_memory *core, u32 *indexes, u32 limit)
{
	u32 count = 0;

	for (u32 i = 0; i < core->hop_limit && count < limit; i++) {
		struct hop *hop = core_hop(core, i);

		if (!hop->wanted)
			continue;
		hop->wanted = 0;
		indexes[count++] = i;
	}
	return count;
}

static void held_lost(struct core_memory *core, struct held *held)
{
	held->used = 0;
	core->held_count--;
	count_drop(core, DROP_FRAGMENT_LOST);
}

/* Keeps a fragment until its first comes; DROP when there is no room. */
static u32 hold(struct core_memory *core, const struct packet *p, u32 vlan, u64 now_ns, struct answer *answer)
{
	u32 now_ms = (u32)(now_ns / 1000000);

	for (u32 i = 0; i < HELD && p->length <= HELD_BYTES; i++) {
		struct held *held = POINTER(struct held, core->held) + i;

		if (held->used && is_late(held->deadline_ms, now_ms))
			held_lost(core, held);
		if (held->used)
			continue;
		held->source = answer->source;
		held->destination = answer->destination;
		held->id = answer->id;
		held->protocol = answer->protocol;
		held->deadline_ms = now_ms + HELD_MS;
		held->length = p->length;
		held->ifindex = p->ifindex;
		held->vlan = vlan;
		held->used = 1;
		copy_bytes(held->data, p->data, p->length);
		core->held_count++;
		return VERDICT_HOLD;
	}
	count_drop(core, DROP_FRAGMENT_LOST);
	answer->reason = DROP_FRAGMENT_LOST;
	return answer->verdict = VERDICT_DROP;
}

/* Takes the next fragment that `first` sets free; 0 when there is none. */
static struct held *next_released(struct core_memory *core, const struct answer *first, u32 now_ms)
{
	for (u32 i = 0; i < HELD && core->held_count; i++) {
		struct held *held = POINTER(struct held, core->held) + i;

		if (!held->used)
			continue;
		if (is_late(held->deadline_ms, now_ms)) {
			held_lost(core, held);
			continue;
		}
		if (held->id != first->id || held->protocol != first->protocol ||
		    !same_address(&held->source, &first->source) ||
		    !same_address(&held->destination, &first->destination))
			continue;
		held->used = 0;
		core->held_count--;
		return held;
	}
	return 0;
}

/* Decides a frame with a core's memory. */
static u32 decide(struct core_memory *core, struct packet *p, u64 now_ns, struct answer *answer)
{
	struct work w;

	w.core = core;
	w.image = core_image(core);
	w.p = p;
	w.answer = answer;
	w.now_ms = (u32)(now_ns / 1000000);
	w.now_s = (u32)(now_ns / 1000000000);
	return process(&w);
}

/* Decides one frame in place. `now_ns` is a monotonic clock's; `segmented` is that of struct packet. */
EXPORT u32 asynclb_core_process(struct core_memory *core, u8 *data, u32 length, u32 ifindex, u32 csum_start,
				u32 csum_offset, u32 segmented, u64 now_ns, struct answer *answer)
{
	struct packet p = {.data = data,
			   .length = length,
			   .ifindex = ifindex,
			   .csum_start = csum_start,
			   .csum_offset = csum_offset,
			   .segmented = segmented};

	if (decide(core, &p, now_ns, answer) == VERDICT_HOLD)
		return hold(core, &p, NONE, now_ns, answer);
	return answer->verdict;
}

/* Answers who would get a frame: nothing is sent, kept or counted. */
EXPORT u32 asynclb_core_ask(struct core_memory *core, u8 *data, u32 length, u32 ifindex, u64 now_ns, struct answer *answer)
{
	struct packet p = {.data = data, .length = length, .ifindex = ifindex, .csum_start = NONE, .asked = 1};

	return decide(core, &p, now_ns, answer);
}

/* Decides the next fragment that `first` set free, in `held`'s own memory; returns where that is, or 0. */
EXPORT struct held *asynclb_core_release(struct core_memory *core, const struct answer *first, u64 now_ns,
					 struct answer *answer)
{
	struct held *held = next_released(core, first, (u32)(now_ns / 1000000));
	struct packet p = {.csum_start = NONE};

	if (!held)
		return 0;
	p.data = held->data;
	p.length = held->length;
	p.ifindex = held->ifindex;
	decide(core, &p, now_ns, answer);
	return held;
}

/* Counts a verdict and does what it asks for. */
static void settle(struct core_memory *core, const struct packet *p, const struct virtio_header *virtio, u32 vlan,
		   const struct answer *answer, struct batch_record *batch)
{
	static const struct virtio_header none = {0};
	u32 reason;

	switch (answer->verdict) {
	case VERDICT_TX:
		reason = ring_send(core, p, answer->length ? &none : virtio, vlan, answer->ifindex, &batch->dirty);
		batch->sent += !reason;
		batch->dropped += !!reason;
		if (reason)
			count_drop(core, reason);
		break;
	case VERDICT_DROP:
		batch->dropped++;
		break;
	case VERDICT_HOLD:
		batch->held++;
		break;
	default:
		batch->passed++;
	}
}

/* Decides one received frame and the fragments that it sets free. */
static void receive_one(struct core_memory *core, struct packet *p, const struct virtio_header *virtio, u32 vlan,
			u64 now_ns, struct batch_record *batch)
{
	static const struct virtio_header none = {0};
	struct answer answer, released;

	if (decide(core, p, now_ns, &answer) == VERDICT_HOLD)
		hold(core, p, vlan, now_ns, &answer);
	settle(core, p, virtio, vlan, &answer, batch);
	for (u32 i = 0; answer.release && i < HELD; i++) {
		struct held *held = asynclb_core_release(core, &answer, now_ns, &released);
		struct packet later = {.csum_start = NONE};

		if (!held)
			break;
		later.data = held->data;
		later.length = held->length;
		later.ifindex = held->ifindex;
		settle(core, &later, &none, held->vlan, &released, batch);
	}
}

/* Reads the frame in a slot of the receive ring. */
static void receive_frame(struct core_memory *core, const struct ingress *rx, struct ring_frame *frame, u32 status,
			  u64 now_ns, struct batch_record *batch)
{
	struct packet p = {.length = frame->snapped, .ifindex = rx->ifindex, .csum_start = NONE};
	struct virtio_header virtio = {0};
	u32 vlan = NONE;

	if (((u8 *)frame)[FRAME_PKTTYPE] >= PKT_OTHERHOST || frame->mac + frame->snapped > rx->frame_size ||
	    frame->mac < FRAME_DATA + rx->vnet_bytes) {
		batch->passed++;
		return;
	}
	p.data = (u8 *)frame + frame->mac;
	if (rx->vnet_bytes)
		copy_bytes((u8 *)&virtio, p.data - VNET_BYTES, VNET_BYTES);
	if (virtio.flags & VIRTIO_NEEDS_CSUM) {
		p.csum_start = virtio.csum_start;
		p.csum_offset = virtio.csum_offset;
	}
	virtio.flags &= VIRTIO_NEEDS_CSUM;
	p.segmented = virtio.gso_type ? virtio.gso_bytes : 0;
	if (status & FRAME_VLAN)
		vlan = (status & FRAME_TPID ? (u32)frame->tpid : TYPE_VLAN) << 16 | frame->tci;
	receive_one(core, &p, &virtio, vlan, now_ns, batch);
}

/* Takes at most `budget` frames off a receive ring, and no more once they have BATCH_BYTES; decides each, and gives its
 * slot back.
 */
EXPORT void asynclb_core_receive(struct core_memory *core, struct ingress *rx, u32 budget, u64 now_ns,
				 struct batch_record *batch)
{
	struct ahead ahead = {0};
	u32 bytes = 0;

	batch->dirty = 0;
	batch->frames = batch->passed = batch->dropped = batch->sent = batch->held = batch->more = 0;
	for (; batch->frames < budget && bytes < BATCH_BYTES; batch->frames++) {
		struct ring_frame *frame = ring_at(rx->ring, rx->head, rx->frame_size);
		u32 status = __atomic_load_n(&frame->status, __ATOMIC_ACQUIRE);

		if (!(status & FRAME_USER))
			return;
		fetch_frame(rx);
		look_ahead(core, rx, &ahead, batch->frames);
		bytes += frame->snapped;
		receive_frame(core, rx, frame, status, now_ns, batch);
		__atomic_store_n(&frame->status, FRAME_KERNEL, __ATOMIC_RELEASE);
		rx->head = rx->head + 1 == rx->frame_count ? 0 : rx->head + 1;
	}
	batch->more = ring_at(rx->ring, rx->head, rx->frame_size)->status & FRAME_USER;
}

static void sweep_held(struct core_memory *core, u32 now_ms)
{
	for (u32 i = 0; i < HELD && core->held_count; i++) {
		struct held *held = POINTER(struct held, core->held) + i;

		if (held->used && is_late(held->deadline_ms, now_ms))
			held_lost(core, held);
	}
}

/* Whether a device has nothing to complete in a frame: neither a checksum nor segments. */
INLINE u32 needs_nothing(const struct egress *egress, const struct ring_frame *frame)
{
	const struct virtio_header *virtio = (const void *)((const u8 *)frame + FRAME_DATA);

	return egress->vnet_bytes && !(virtio->flags | virtio->gso_type);
}

/* Takes the headers off frames that are plain: reading them costs the kernel a copy of its own. */
static void strip(struct io_vector *vectors, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		vectors[i].base += VNET_BYTES;
		vectors[i].length -= VNET_BYTES;
	}
}

/* Takes a frame off an egress buffer, and begins to fetch its note: the next ones are looked at meanwhile. */
static u64 collect_one(const struct core_memory *core, const struct egress *egress, struct outlet *outlet,
		       struct ring_frame *frame, struct io_vector *vector)
{
	struct packet p = {.data = (u8 *)frame + FRAME_DATA + egress->vnet_bytes,
			   .length = frame->length - egress->vnet_bytes,
			   .csum_start = NONE};
	u64 hash = frame->note;

	if (!outlet->note_sets)
		hash = NOTE_QUIET;
	else if (!hash)
		hash = note_hash(core_image(core), &p);

	frame->status = FRAME_KERNEL;
	vector->base = (u64)(__UINTPTR_TYPE__)frame + FRAME_DATA;
	vector->length = frame->length;
	outlet->tail = egress_behind(egress, outlet->tail, frame->length);
	if (hash > NOTE_SHOWN)
		__builtin_prefetch(note_place(outlet, hash), 1);
	return hash;
}

/* Describes the frames that wait in an egress buffer, for one sendmmsg(2), and takes them off: the caller sends before it
 * receives again. A frame that the guard has to see gets the message's control part, which is for the caller to fill;
 * none does when there is no room for notes. Returns how many; negative when a device has nothing to complete in any of
 * them: then they are without a virtio_net_hdr. Python twin and user: packet/ring.py, Egress.
 */
EXPORT s32 asynclb_core_collect(struct core_memory *core, u32 index, struct outlet *outlet, u64 now_ns)
{
	struct egress *egress = &core->egresses[index];
	struct message *messages = POINTER(struct message, outlet->messages);
	struct io_vector *vectors = POINTER(struct io_vector, outlet->vectors);
	u32 count = 0, plain = 1;

	for (; count < outlet->limit; count++) {
		struct ring_frame *frame = egress_at(egress, outlet->tail);

		if (is_buffer(egress) ? outlet->tail == egress->head : frame->status != FRAME_REQUEST)
			break;
		plain &= needs_nothing(egress, frame);
		messages[count].control_bytes = /* its hash, until the note is there */
			collect_one(core, egress, outlet, frame, vectors + count);
	}
	if (is_buffer(egress) && outlet->tail == egress->head)
		outlet->tail = egress->head = 0;
	if (plain)
		strip(vectors, count);
	for (u32 i = 0; i < count; i++) {
		u64 hash = messages[i].control_bytes;
		int quiet = is_quiet(core_image(core), outlet, hash, (u32)(now_ns / 1000000), &messages[i].note);

		messages[i].control_bytes = quiet ? 0 : CONTROL_BYTES;
	}
	return plain ? -(s32)count : (s32)count;
}

/* Visits `budget` buckets from where the last call stopped; connections that idled out and want a reset are copied out,
 * once, and when there is no room for more, the call stops. Returns how many resets there are; `done` tells that the table's end was reached.
 */
EXPORT u32 asynclb_core_sweep(struct core_memory *core, u64 now_ns, u32 budget, struct keyed_flow *resets,
			       u32 limit, u32 *done)
{
	u32 now_ms = (u32)(now_ns / 1000000), count = 0;

	sweep_held(core, now_ms);
	*done = 0;
	for (; budget && !*done; budget--) {
		struct bucket *bucket = core_bucket(core, core->cursor);

		if (limit - count < WAYS)
			break;
		for (u32 i = 0; i < WAYS; i++) {
			struct flow *flow = &bucket->flow[i];

			if (is_forgotten(bucket, i, now_ms)) {
				if (flow->flags & FLOW_SNAT && flow->flags & FLOW_RESET && REMEMBERED >> (flow->state & 7) & 1)
					resets[count++] = (struct keyed_flow){bucket->key[i], *flow};
				core->expired += flow->state != CONN_EXPIRED;
				flow_end(core, bucket, i, TOLD_LATE);
			}
			if (!bucket->tag[i] || !is_late(bucket->deadline_ms[i], now_ms) || flow->state == CONN_EXPIRED)
				continue;
			if (flow->flags & FLOW_RESET)
				resets[count++] = (struct keyed_flow){bucket->key[i], *flow};
			flow_expire(core, bucket, i);
		}
		core->cursor++;
		if (core->cursor == core->bucket_count) {
			core->cursor = 0;
			*done = 1;
		}
	}
	return count;
}

/* Counts the flows of a table that a core which is gone has left, perhaps in the midst of a change. */
EXPORT void asynclb_core_recount(struct core_memory *core)
{
	for (u32 i = 0; i < core->rule_limit; i++)
		if (core_rule(core, i)->flows) /* a page that was never written stays that way */
			core_rule(core, i)->flows = 0;
	for (u32 i = 0; i < core->member_limit; i++)
		if (core_member(core, i)->flows)
			core_member(core, i)->flows = 0;
	core->flow_count = 0;
	for (u32 b = 0; b < core->bucket_count; b++) {
		const struct bucket *bucket = core_bucket(core, b);

		for (u32 i = 0; i < WAYS; i++) {
			if (!bucket->tag[i] || bucket->flow[i].state == CONN_EXPIRED)
				continue;
			core->flow_count++;
			if (bucket->flow[i].flags & FLOW_RETURN)
				continue;
			core_rule(core, bucket->flow[i].rule)->flows++;
			core_member(core, bucket->flow[i].member)->flows++;
		}
	}
}

/* Visits `budget` buckets from `*cursor` on for flows that end with their member's time. The first pass (`last` 0)
 * silences connections, so that what the ends acknowledge comes to rest; the last removes all that end. Either copies
 * connections out for their resets, and stops when there is no room for more; returns how many.
 */
EXPORT u32 asynclb_core_part(struct core_memory *core, const u8 *fates, const u64 *words, u32 count, u32 last,
			     u32 *cursor, u32 budget, struct keyed_flow *resets, u32 limit)
{
	u32 found = 0;

	for (; budget && *cursor < core->bucket_count && limit - found >= WAYS; budget--, ++*cursor) {
		struct bucket *bucket = core_bucket(core, *cursor);

		for (u32 i = 0; i < WAYS; i++) {
			struct flow *flow = &bucket->flow[i];

			if (!bucket->tag[i] || !is_parting(flow, fates, core->member_limit, words, count))
				continue;
			if (bucket->key[i].protocol == IP_TCP && flow->state != CONN_CLOSED &&
			    flow->state != CONN_EXPIRED && (!(flow->flags & FLOW_RETURN) || flow->flags & FLOW_SNAT)) {
				resets[found++] = (struct keyed_flow){bucket->key[i], *flow};
				flow->flags |= FLOW_OVER;
			}
			if (last)
				flow_end(core, bucket, i, TOLD_PARTED);
		}
	}
	return found;
}

/* Marks the SNAT ports that are in use: a bit for each, 8,192 bytes for each number of an address and protocol (TCP, UDP). */
EXPORT void asynclb_core_snat_marks(const struct core_memory *core, u32 now_ms, u8 *marks, u32 sources)
{
	for (u32 b = 0; b < core->bucket_count; b++) {
		const struct bucket *bucket = core_bucket(core, b);

		for (u32 i = 0; i < WAYS; i++) {
			const struct flow *flow = &bucket->flow[i];
			const struct key *key = &bucket->key[i];

			if (!bucket->tag[i] || is_late(bucket->deadline_ms[i], now_ms) ||
			    (flow->flags & (FLOW_RETURN | FLOW_SNAT)) != (FLOW_RETURN | FLOW_SNAT) ||
			    flow->rest.hairpin_port >= sources)
				continue;
			marks[(flow->rest.hairpin_port * 2 + (key->protocol == IP_UDP)) * 8192 + key->destination_port / 8] |=
				(u8)(1u << (key->destination_port & 7));
		}
	}
}

/* Takes flows that begin and end off the ring, which the reader has at another address; returns how many. */
EXPORT u32 asynclb_core_told(struct core_memory *core, const struct told_flow *ring, struct told_flow *flows, u32 limit)
{
	u32 tail = core->told_tail, count = __atomic_load_n(&core->told_head, __ATOMIC_ACQUIRE) - tail;

	count = count < limit ? count : limit;
	for (u32 i = 0; i < count; i++)
		flows[i] = ring[(tail + i) & (TOLD_ROOM - 1)];
	__atomic_store_n(&core->told_tail, tail + count, __ATOMIC_RELEASE);
	return count;
}

/* Copies whole buckets of flows, from bucket `*cursor`, for as long as there is room; returns how many flows. */
EXPORT u32 asynclb_core_flows(const struct core_memory *core, u32 *cursor, struct keyed_flow *flows,
			       u32 limit)
{
	u32 count = 0;

	for (; *cursor < core->bucket_count && limit - count >= WAYS; ++*cursor) {
		const struct bucket *bucket = core_bucket(core, *cursor);

		for (u32 i = 0; i < WAYS; i++) {
			if (!bucket->tag[i] || bucket->flow[i].flags & FLOW_RETURN || bucket->flow[i].state == CONN_EXPIRED)
				continue;
			flows[count] = (struct keyed_flow){bucket->key[i], bucket->flow[i]};
			flows[count++].flow.deadline_ms = bucket->deadline_ms[i];
		}
	}
	return count;
}
