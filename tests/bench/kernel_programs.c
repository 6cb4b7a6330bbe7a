/* The benchmark's BPF programs: a floor, a load, a sink, and a clock at the member.
 *
 *     tc, xdp              the floor: parse Ethernet, IPv4 and UDP, and redirect to the interface EGRESS
 *     xdp/load             writes a UDP frame of the next flow over each frame that it is run on, and redirects it
 *     tc/drop, xdp/drop    the end of UDP: what comes is counted by the device, and goes nowhere
 *     tc/watch             the same, but for each of 1,024 destinations it keeps when the first and the last came
 *
 * The load is run by BPF_PROG_TEST_RUN with live frames, which takes no socket and no copy, so one processor sends
 * millions a second. Each has `flows` of its own, from number `first` on, as the queues of a card have (RSS). It goes
 * through them in turn, so that all of them are made, or takes one by chance for each frame (`random`): in the order in
 * which flows were made, many tables have them side by side in memory, and packets do not come in that order. Flow i has
 * source address `source` + i / 50,000 and source port 1024 + i % 50,000. A frame of 60 bytes is one of 64 on a wire, where
 * a checksum of 4 follows. All checksums are right, so that who rewrites a frame has them to change.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

/* What <linux/bpf.h> calls struct __sk_buff and struct xdp_md, as far as it is used here. */
struct tc_context {
	u32 unused[19], data, data_end;
};

struct xdp_context {
	u32 data, data_end, data_meta;
};

enum { TC_NEXT = -1, TC_DROP = 2, XDP_DROP = 1, XDP_PASS = 2 };
enum { FRAME = 60, TYPE = 12, IP = 14, UDP = 34, PORTS = 50000, STEP = 7919, DESTINATIONS = 1024 };

#ifndef EGRESS
#define EGRESS 1
#endif

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static u64 (*const now_ns)(void) = (void *)5;
static long (*const redirect)(u32 ifindex, u64 flags) = (void *)23;

INLINE const u8 *udp_frame(u64 data, u64 end)
{
	const u8 *frame = (const u8 *)data;

	if (data + UDP + 8 > end || *(const u16 *)(frame + TYPE) != 0x0008)
		return 0;
	if (frame[IP] != 0x45 || *(const u16 *)(frame + IP + 6) & 0xff3f || frame[IP + 9] != 17)
		return 0;
	u32 length = (u32)frame[UDP + 4] << 8 | frame[UDP + 5];

	return length >= 8 && data + UDP + length <= end ? frame : 0;
}

SECTION("tc") int floor_tc(struct tc_context *context)
{
	return udp_frame(context->data, context->data_end) ? (int)redirect(EGRESS, 0) : TC_NEXT;
}

SECTION("xdp") int floor_xdp(struct xdp_context *context)
{
	return udp_frame(context->data, context->data_end) ? (int)redirect(EGRESS, 0) : XDP_PASS;
}

SECTION("tc/drop") int drop_tc(struct tc_context *context)
{
	return udp_frame(context->data, context->data_end) ? TC_DROP : TC_NEXT;
}

SECTION("xdp/drop") int drop_xdp(struct xdp_context *context)
{
	return udp_frame(context->data, context->data_end) ? XDP_DROP : XDP_PASS;
}

struct load {
	u8 frame[64];
	u32 ifindex, source, flows, flow;
	u32 random, first;
};

/* A value for each processor, so that several send at once. */
struct {
	int (*type)[6]; /* BPF_MAP_TYPE_PERCPU_ARRAY */
	u32 *key;
	struct load *value;
	int (*max_entries)[1];
} load SECTION(".maps");

/* STEP is a prime that no number of flows here is a multiple of, so every flow has its turn. */
INLINE u32 next_flow(struct load *state)
{
	u32 flow = state->flow, next = flow + STEP, random = state->random;

	if (random) { /* xorshift: Marsaglia (2003) */
		random ^= random << 13;
		random ^= random >> 17;
		random ^= random << 5;
		state->random = random;
		return (u32)((u64)random * state->flows >> 32);
	}
	if (next >= state->flows)
		next = state->flows > STEP ? next - state->flows : next % (state->flows | !state->flows);
	state->flow = next;
	return flow;
}

/* The ones' complement sum of `count` 16-bit words, folded. */
INLINE u32 sum_words(const u8 *words, int count, u32 sum)
{
	for (int i = 0; i < count; i++)
		sum += *(const u16 *)(words + 2 * i);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* Both checksums are 0 in the frame that the state has, and all of the datagram but its header is zeroes. */
INLINE void complete(u8 *frame)
{
	u32 length = *(const u16 *)(frame + UDP + 4);

	*(u16 *)(frame + IP + 10) = (u16)~sum_words(frame + IP, 10, 0);
	*(u16 *)(frame + UDP + 6) = (u16)~sum_words(frame + IP + 12, 8, length + (17 << 8));
}

SECTION("xdp/load") int load_xdp(struct xdp_context *context)
{
	u8 *frame = (u8 *)(u64)context->data;
	struct load *state = map_lookup(&load, &(u32){0});
	u32 flow;

	if (!state || (u64)frame + FRAME > context->data_end)
		return XDP_DROP;
	flow = state->first + next_flow(state);
	for (int i = 0; i < UDP + 8; i += 2) /* a frame comes back as it left: rewritten */
		*(u16 *)(frame + i) = *(u16 *)(state->frame + i);
	*(u32 *)(frame + IP + 12) = __builtin_bswap32(state->source + flow / PORTS);
	*(u16 *)(frame + UDP) = __builtin_bswap16((u16)(1024 + flow % PORTS));
	complete(frame);
	return (int)redirect(state->ifindex, 0);
}

struct seen {
	u64 first_ns, last_ns, frames;
};

struct {
	int (*type)[2]; /* BPF_MAP_TYPE_ARRAY */
	u32 *key;
	struct seen *value;
	int (*max_entries)[DESTINATIONS];
} seen SECTION(".maps");

/* The last ten bits of a destination number it. The clock is CLOCK_MONOTONIC. */
SECTION("tc/watch") int watch_tc(struct tc_context *context)
{
	const u8 *frame = udp_frame(context->data, context->data_end);
	struct seen *at;

	if (!frame)
		return TC_NEXT;
	at = map_lookup(&seen, &(u32){((u32)frame[IP + 18] << 8 | frame[IP + 19]) % DESTINATIONS});
	if (!at)
		return TC_NEXT;
	at->last_ns = now_ns();
	if (!at->first_ns)
		at->first_ns = at->last_ns;
	__atomic_fetch_add(&at->frames, 1, __ATOMIC_RELAXED);
	return TC_DROP;
}

char licence[] SECTION("license") = "Dual BSD/GPL";
