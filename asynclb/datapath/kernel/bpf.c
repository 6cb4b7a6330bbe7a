/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The core in the kernel: an XDP program and a tc program over the same text as the native library.
 *
 * A frame that needs thought is copied, as far as headers can reach, into memory of this processor; the core decides on
 * the copy, and what it has changed is written back. Neither program is interrupted by another of its kind on the same
 * processor: both run where the kernel receives frames.
 */
#include "fast.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Who takes the place of a hook's first program, by tail calls, where a packet is not a usual one of IPv4: who decides the
 * usual ones of IPv6, and who decides any. So each has the whole stack, is verified for itself, and a usual packet meets
 * one return less, which costs 10 ns on processors that are told not to guess them. Where nobody is found a frame goes on
 * undecided; that happens to none that comes by an interface.
 */
#define TAILS(name)                                        \
	struct {                                           \
		MAP_NUMBER(type, BPF_MAP_TYPE_PROG_ARRAY); \
		MAP_NUMBER(max_entries, TAIL_ANY + 1);     \
		MAP_NUMBER(key_size, 4);                   \
		MAP_NUMBER(value_size, 4);                 \
	} name SEC(".maps")

TAILS(tails_tc);
TAILS(tails_xdp);

#define NS_PER_MS 1000000
#define HANDED_ON 0xa51b0001 /* in a frame's control block; what is there otherwise is left from who had the frame before */

/* Reads the clock when it has moved: asking costs 23 ns, asking for the tick, which the kernel inlines, costs one. The
 * coarse clock moves with the tick.
 */
INLINE void tell_time(struct work *w)
{
	u64 tick = bpf_jiffies64(), now_ns;

	if (w->tick == tick)
		return;
	now_ns = bpf_ktime_get_coarse_ns();
	w->tick = tick;
	w->now_ms = (u32)(now_ns / NS_PER_MS);
	w->now_s = (u32)(now_ns / (1000ull * NS_PER_MS));
}

/* Begins a frame: finds this processor's memory, the time, and the image that is current. Returns 0 where the frame goes
 * on undecided: XDP leaves it to tc while packet sockets are to see it.
 */
INLINE struct work *begin_in(u32 place, u32 ifindex, u32 redirects_all)
{
	u32 zero = 0;
	struct work *w = bpf_map_lookup_elem(&scratch, &place);
	const struct kernel_control *now = bpf_map_lookup_elem(&control, &zero);

	if (!w || !now || (!redirects_all && now->flags & CONTROL_ASIDE))
		return 0;
	tell_time(w);
	w->active = now->active;
	w->redirects_all = redirects_all;
	w->p->ifindex = ifindex;
	return w;
}

INLINE struct work *begin(u32 ifindex, u32 redirects_all)
{
	return begin_in(0, ifindex, redirects_all);
}

/* Goes on with a frame that the hook's first program has begun. */
INLINE struct work *go_on(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* Prepares the decision on a copy. */
INLINE void begin_copy(struct work *w, u32 place, u32 length)
{
	w->p->place = place;
	w->p->length = length;
	w->p->csum_start = NONE;
	w->p->csum_offset = 0;
	w->p->segmented = 0;
	w->p->deferred = 0;
	w->p->asked = 0;
	w->p->front = w->p->turned = 0;
	w->p->addresses = w->p->ports = 0;
}

/* Whether frames without an image, or fragments that would have to wait, go on. */
INLINE u32 decide(struct work *w)
{
	u32 verdict = process(w);

	if (verdict != VERDICT_HOLD)
		return verdict;
	count_reason(w, DROP_FRAGMENT_LOST); /* the kernel keeps nothing back */
	return VERDICT_DROP;
}

/* Copies `size` bytes, a constant. */
INLINE void copy(u8 *to, const u8 *from, u32 size)
{
	u32 i = 0;

	UNROLL
	for (; i + 8 <= size; i += 8)
		*(u64 *)(to + i) = *(const u64 *)(from + i);
	UNROLL
	for (; i < size; i++)
		to[i] = from[i];
}

/* The halves of the largest copy, which together make every size. Without CAP_PERFMON only constants may be added to
 * where a frame is, so the pointers move on by these.
 */
#define HALVES(step) step(256) step(128) step(64) step(32) step(16) step(8) step(4) step(2) step(1)

/* Copies what headers can be. */
INLINE u32 xdp_copy(struct packet *p, const u8 *data, const u8 *end)
{
	u8 *to = p->data;
	u32 done = 0;

	if (data + COPY_BYTES <= end) {
		copy(to, data, COPY_BYTES);
		return COPY_BYTES;
	}
#define STEP_IN(size)                \
	if (data + (size) <= end) {  \
		copy(to, data, size); \
		data += (size);      \
		to += (size);        \
		done += (size);      \
	}
	HALVES(STEP_IN)
#undef STEP_IN
	return done;
}

/* Writes the copy back. */
INLINE void xdp_write(const struct packet *p, u8 *data, const u8 *end)
{
	const u8 *from = p->data;

	if (data + COPY_BYTES <= end) {
		copy(data, from, COPY_BYTES);
		return;
	}
#define STEP_OUT(size)                 \
	if (data + (size) <= end) {    \
		copy(data, from, size); \
		data += (size);        \
		from += (size);        \
	}
	HALVES(STEP_OUT)
#undef STEP_OUT
}

#define DATA(context) ((u8 *)(uptr)(context)->data)
#define DATA_END(context) ((u8 *)(uptr)(context)->data_end)

/* How long a frame is. On kernels without the helper the pointers into it are subtracted, which takes CAP_PERFMON. */
INLINE u32 xdp_length(struct xdp_md *frame)
{
	return settings.xdp_length ? (u32)bpf_xdp_get_buff_len(frame) : (u32)(DATA_END(frame) - DATA(frame));
}

/* How long the frame of a packet is, or 0 when it is cut short. Frames end with their packet, unless they were filled up
 * to the least that Ethernet sends: so the helper, which costs 11 ns, is seldom asked where CAP_PERFMON allows another way.
 */
INLINE u32 xdp_frame_length(struct xdp_md *frame, u32 packet, u32 constant)
{
	const u8 *end;
	u32 length;

	if (constant) {
		length = (u32)bpf_xdp_get_buff_len(frame);
		return length < ETHERNET_BYTES + packet ? 0 : length;
	}
	end = DATA(frame) + ETHERNET_BYTES + bound(packet, 0x7fff);
	if (packet > 0x7fff || end > DATA_END(frame))
		return 0;
	return end + 1 > DATA_END(frame) ? ETHERNET_BYTES + packet : xdp_length(frame);
}

/* Sends a frame. XDP_TX is for devices that turn frames around themselves: a veth's other end would not be woken. */
INLINE int xdp_leave(struct xdp_md *frame, struct work *w, u32 ifindex)
{
	const struct interface *known;

	if (ifindex != frame->ingress_ifindex)
		return (int)bpf_redirect(ifindex, 0);
	known = find_interface(w, ifindex);
	return known && known->flags & INTERFACE_TURN ? XDP_TX : (int)bpf_redirect(ifindex, 0);
}

/* Decides an ordinary packet of a flow that goes on; 0 when it is none. */
INLINE int xdp_fast(struct xdp_md *frame, struct work *w, u32 version, u32 constant)
{
	struct glance g;
	struct course course;
	u8 *data = DATA(frame);
	struct change change;

	g.segmented = 0;
	if (!glance_at(&g, data, DATA_END(frame), version))
		return 0;
	w->p->length = xdp_frame_length(frame, g.size, constant);
	if (!w->p->length || !fast_decide(w, &g, data, &course))
		return 0;
	change = fast_rewrite(&g, &course, data);
	if (change.addresses | change.ports)
		put_check(g.check, change.addresses + change.ports, g.key.protocol == IP_UDP);
	return xdp_leave(frame, w, course.ifindex);
}

/* Cuts the frame, which was `before` bytes long, to what a reply of our own needs. */
INLINE int xdp_cut(struct xdp_md *frame, const struct work *w, u32 before)
{
	u32 length = w->answer->length;

	return !length || length >= before || !bpf_xdp_adjust_tail(frame, (int)(length - before));
}

/* Whether a message of our own has to take the host's routing: a veth whose other end has no ring for frames loses what
 * is sent back. Then it is addressed to us again.
 */
INLINE int xdp_routes(struct work *w)
{
	const struct interface *known = find_interface(w, w->p->ifindex);

	if (!w->p->turned || (known && known->flags & (INTERFACE_REDIRECT | INTERFACE_TURN)))
		return 0;
	turn_back(w);
	return 1;
}

/* Decides any frame, on a copy. */
INLINE int xdp_slow(struct xdp_md *frame, struct work *w, u32 length)
{
	u32 verdict;
	int routes;

	begin_copy(w, 0, length);
	w->p->copied = xdp_copy(w->p, DATA(frame), DATA_END(frame));
	verdict = decide(w);
	if (verdict == VERDICT_DROP)
		return XDP_DROP;
	if (verdict != VERDICT_TX)
		return XDP_PASS;
	if (!xdp_cut(frame, w, length))
		return XDP_DROP;
	routes = xdp_routes(w);
	xdp_write(w->p, DATA(frame), DATA_END(frame));
	return w->answer->ifindex && !routes ? xdp_leave(frame, w, w->answer->ifindex) : XDP_PASS;
}

/* The XDP programs, twice: they differ in how they learn how long frames are. */
#define XDP_PROGRAMS(section, name, constant)                                                               \
	SEC(section) int name(struct xdp_md *frame)                                                         \
	{                                                                                                   \
		struct work *w = begin(frame->ingress_ifindex, 0);                                          \
		u32 version = glance_version(DATA(frame), DATA_END(frame));                                 \
		int action;                                                                                 \
                                                                                                            \
		if (!w)                                                                                     \
			return XDP_PASS;                                                                    \
		if (version == 6)                                                                           \
			bpf_tail_call(frame, &tails_xdp, TAIL_SIX);                                         \
		action = version == 4 ? xdp_fast(frame, w, 4, constant) : 0;                                \
		if (action)                                                                                 \
			return action;                                                                      \
		bpf_tail_call(frame, &tails_xdp, TAIL_ANY);                                                 \
		return XDP_PASS;                                                                            \
	}                                                                                                   \
	SEC(section) int name##6(struct xdp_md * frame)                                                     \
	{                                                                                                   \
		struct work *w = go_on();                                                                   \
		int action = w ? xdp_fast(frame, w, 6, constant) : XDP_PASS;                                \
                                                                                                            \
		if (action)                                                                                 \
			return action;                                                                      \
		bpf_tail_call(frame, &tails_xdp, TAIL_ANY);                                                 \
		return XDP_PASS;                                                                            \
	}                                                                                                   \
	SEC(section) int name##_any(struct xdp_md *frame)                                                   \
	{                                                                                                   \
		struct work *w = go_on();                                                                   \
                                                                                                            \
		if (!w)                                                                                     \
			return XDP_PASS;                                                                    \
		return xdp_slow(frame, w, constant ? (u32)bpf_xdp_get_buff_len(frame) : xdp_length(frame)); \
	}

XDP_PROGRAMS("xdp", asynclb_xdp, 0)

/* For a loader without CAP_PERFMON, on Linux 5.18 or newer; loaded only when it is asked for. */
XDP_PROGRAMS("?xdp", asynclb_xdp_plain, 1)

INLINE u16 swap16(u32 word)
{
	return __builtin_bswap16((u16)word);
}

/* Lets the kernel change the checksum of the transport, of which it alone knows whether it is yet to be completed. */
INLINE void tc_follow(struct __sk_buff *frame, const struct work *w, u32 missing)
{
	const struct network *net = &w->in.net;
	u32 offset = net->l4 + checksum_offset(net) - missing;
	u64 flags = net->protocol == IP_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (w->p->addresses)
		bpf_l4_csum_replace(frame, offset, 0, swap16(w->p->addresses), flags | BPF_F_PSEUDO_HDR);
	if (w->p->ports)
		bpf_l4_csum_replace(frame, offset, 0, swap16(w->p->ports), flags);
}

/* Writes the copy back, of whose link header the frame has `missing` bytes not. A sum over the whole packet
 * (CHECKSUM_COMPLETE), which some devices give, must stay right: it begins behind the link header; the checksum of the
 * transport follows ports, so that these change nothing in it, unless UDP has none.
 */
INLINE void tc_write(struct __sk_buff *frame, const struct work *w, u32 copied, u32 missing)
{
	const struct packet *p = w->p;
	u32 l4 = w->in.net.l4, network = ETHERNET_BYTES - missing, rest;
	int checked = w->in.net.protocol != IP_UDP || RAW(u16, p->data + bound(l4 + 6, COPY_BYTES - 1));

	if (!missing)
		bpf_skb_store_bytes(frame, 0, p->data, ETHERNET_BYTES, 0);
	if (checked && (p->addresses || p->ports)) {
		rest = bound(l4 - ETHERNET_BYTES, COPY_BYTES - 1);
		if (rest && rest <= COPY_BYTES - ETHERNET_BYTES)
			bpf_skb_store_bytes(frame, network, p->data + ETHERNET_BYTES, rest, BPF_F_RECOMPUTE_CSUM);
		bpf_skb_store_bytes(frame, l4 - missing, p->data + bound(l4, COPY_BYTES - 1), 4, 0);
		tc_follow(frame, w, missing);
		return;
	}
	rest = bound(copied - ETHERNET_BYTES, COPY_BYTES - 1);
	if (rest && rest <= COPY_BYTES - ETHERNET_BYTES)
		bpf_skb_store_bytes(frame, network, p->data + ETHERNET_BYTES, rest, BPF_F_RECOMPUTE_CSUM);
}

/* Sends a frame. Where the interface is a veth into another network namespace, the frame goes on there at once, without
 * a queue and another turn of the processor, which is 6 % of all that a small request costs. There it is taken for what it
 * was here, so it must have been for us. A frame is handed on only once: two balancers that are each other's members
 * would otherwise keep this processor until the end of time.
 */
INLINE int tc_leave(struct __sk_buff *frame, struct work *w, u32 ifindex)
{
	const struct interface *known = find_interface(w, ifindex);

	if (!known || !(known->flags & INTERFACE_PEER) || frame->pkt_type != PACKET_HOST || frame->cb[4] == HANDED_ON)
		return (int)bpf_redirect(ifindex, 0);
	frame->cb[4] = HANDED_ON;
	return (int)bpf_redirect_peer(ifindex, 0);
}

/* Whether the device may be yet to complete the checksum of the transport, which only the kernel knows: then the field has
 * the sum of the pseudo-header as it was before the change. One in 65,535 of those that are complete looks like it.
 */
INLINE int may_be_partial(const u8 *data, u32 version, u32 field, struct change change)
{
	const u8 *l3 = data + ETHERNET_BYTES, *addresses = l3 + (version == 4 ? 12 : 8);
	u32 size = version == 4 ? WIRE16(WIRE16(RAW(const u16, l3 + 2)) - 20) : RAW(const u16, l3 + 4);
	u64 sum = size + WIRE16(version == 4 ? l3[9] : l3[6]) + (u16)~change.addresses;

	UNROLL
	for (u32 i = 0; i < (version == 4 ? 8 : 32); i += 4)
		sum += RAW(const u32, addresses + i);
	sum = (sum & 0xffffffff) + (sum >> 32);
	return fold((u32)(sum & 0xffff) + (u32)(sum >> 16)) == field;
}

/* Lets the checksum of the transport follow. The kernel does it for one that is yet to be completed; any other is written
 * here, which is half as dear. What the change made of a sum over the whole packet (CHECKSUM_COMPLETE) the kernel hears,
 * if it has one: a checksum takes from it what it covers, IPv4's header the addresses, the transport these and the ports.
 * The kernel's helper counts on the former, which IPv6 has not. The helpers come last: they void pointers.
 */
INLINE void tc_change(struct __sk_buff *frame, u8 *data, u8 *check, u32 version, struct change change)
{
	u32 offset = ETHERNET_BYTES + (version == 4 ? 20 : 40), addresses = version == 4 ? 0 : change.addresses;
	int udp = data[ETHERNET_BYTES + (version == 4 ? 9 : 6)] == IP_UDP;
	u64 flags = udp ? BPF_F_MARK_MANGLED_0 : 0;

	offset += udp ? 6 : 16;
	if (udp && !RAW(u16, check)) {
		bpf_csum_update(frame, addresses + change.ports);
		return;
	}
	if (!frame->gso_size && !may_be_partial(data, version, RAW(u16, check), change)) {
		put_check(check, change.addresses + change.ports, udp);
		if (version == 4 && change.addresses)
			bpf_csum_update(frame, ~change.addresses);
		return;
	}
	if (change.addresses)
		bpf_l4_csum_replace(frame, offset, 0, change.addresses, flags | BPF_F_PSEUDO_HDR);
	if (change.ports)
		bpf_l4_csum_replace(frame, offset, 0, change.ports, flags);
	if (addresses)
		bpf_csum_update(frame, addresses);
}

/* Decides an ordinary packet of a flow that goes on; -1 when it is none. */
INLINE int tc_fast(struct __sk_buff *frame, struct work *w, u32 version)
{
	struct glance g;
	struct course course;
	u8 *data = DATA(frame);
	struct change change;

	w->p->length = frame->len;
	g.segmented = frame->gso_size;
	if (!glance_at(&g, data, DATA_END(frame), version) || ETHERNET_BYTES + g.size > frame->len)
		return -1;
	if (!fast_decide(w, &g, data, &course))
		return -1;
	change = fast_rewrite(&g, &course, data);
	if (change.addresses | change.ports)
		tc_change(frame, data, g.check, version, change);
	return tc_leave(frame, w, course.ifindex);
}

/* Gives a segment of our own its checksum. Where the device completes it, which shows in that the helper leaves the field
 * as it is, the field has to hold the sum of the pseudo-header.
 */
INLINE void tc_complete(struct __sk_buff *frame, const struct work *w, u32 offset)
{
	const u8 *field = w->p->data + bound(offset, COPY_BYTES - 1);
	u16 check = (u16)(field[0] | field[1] << 8), now = check;

	bpf_l4_csum_replace(frame, offset, 0, 1, 0);
	bpf_skb_load_bytes(frame, offset, &now, 2);
	if (now == check)
		check = swap16(w->p->addresses);
	bpf_skb_store_bytes(frame, offset, &check, 2, 0);
}

/* Sends a reply of our own, which is shorter than the frame that it answers. */
INLINE int tc_reply(struct __sk_buff *frame, const struct work *w)
{
	u32 length = bound(w->answer->length, COPY_BYTES - 1), rest = bound(length - ETHERNET_BYTES, COPY_BYTES - 1);

	if (!rest || rest > COPY_BYTES - ETHERNET_BYTES || bpf_skb_change_tail(frame, length, 0))
		return TC_DROP;
	bpf_skb_store_bytes(frame, 0, w->p->data, ETHERNET_BYTES, 0);
	bpf_skb_store_bytes(frame, ETHERNET_BYTES, w->p->data + ETHERNET_BYTES, rest, BPF_F_RECOMPUTE_CSUM);
	if (w->in.net.protocol == IP_TCP)
		tc_complete(frame, w, w->in.net.l4 + 16);
	return (int)bpf_redirect(w->answer->ifindex, 0);
}

/* Keeps a message right whose quote has a checksum that the device is yet to complete: in its place will be the sum of
 * what is quoted from the transport on. Where no device completes it, nobody looks at either checksum.
 */
INLINE void tc_quote(struct __sk_buff *frame, struct work *w)
{
	const struct network *net = &w->in.net;
	u32 start = net->l4 + w->p->front, length = w->answer->length, offset = checksum_offset(net);
	u8 *quote = w->p->data + bound(start, COPY_BYTES - 1);
	u8 *check = w->p->data + bound(net->l3 + w->p->front - 6, COPY_BYTES - 1);
	u16 before, now = 0, after;
	s64 sum;

	if (!offset || start + offset + 2 > length)
		return;
	before = RAW(u16, w->p->data + bound(start + offset, COPY_BYTES - 1));
	bpf_l4_csum_replace(frame, start + offset, 0, 1, 0);
	bpf_skb_load_bytes(frame, start + offset, &now, 2);
	if (now != before) {
		bpf_skb_store_bytes(frame, start + offset, &before, 2, 0);
		return;
	}
	sum = bpf_csum_diff(0, 0, quote, bound(length - start, COPY_BYTES - 4), 0);
	after = (u16)~fold((u32)sum);
	after = !after && net->protocol == IP_UDP ? 0xffff : after;
	put_check(check, (u16)~before + after, 0);
}

/* Tells the sender what does not fit. The quote stays where it is, for a checksum that is yet to be completed stands in
 * it, and headers are put before it.
 */
INLINE int tc_tell(struct __sk_buff *frame, struct work *w)
{
	u32 front = bound(w->p->front, 63);

	if (w->in.net.l3 != ETHERNET_BYTES || front < 28 || bpf_skb_change_tail(frame, w->answer->length - front, 0) ||
	    bpf_skb_adjust_room(frame, (int)front, BPF_ADJ_ROOM_MAC, 0))
		return TC_DROP;
	tc_quote(frame, w);
	bpf_skb_store_bytes(frame, 0, w->p->data, ETHERNET_BYTES, 0);
	bpf_skb_store_bytes(frame, ETHERNET_BYTES, w->p->data + ETHERNET_BYTES, front, BPF_F_RECOMPUTE_CSUM);
	return (int)bpf_redirect(w->answer->ifindex, 0);
}

/* Gives the copy the link header that its frame has not: no addresses, so that nobody is answered by them. */
INLINE void begin_bare(struct __sk_buff *frame, struct packet *p)
{
	*(u64 *)p->data = 0;
	*(u32 *)(p->data + 8) = 0;
	*(u16 *)(p->data + 12) = (u16)frame->protocol;
}

/* Sends what was decided on a copy. A bare frame gets the link header when it leaves by itself, which an interface without
 * such headers takes off again. A function of its own, so that what it needs of the stack is not there while deciding.
 */
static __attribute__((noinline)) int tc_send(struct __sk_buff *frame, struct work *w, u32 bare)
{
	u32 ifindex = w->answer->ifindex, copied = bound(w->p->copied - 1, COPY_BYTES - 1) + 1;

	if (bare && ifindex && bpf_skb_change_head(frame, ETHERNET_BYTES, 0))
		return TC_DROP;
	if (w->p->front)
		return tc_tell(frame, w);
	if (w->answer->length)
		return tc_reply(frame, w);
	if (!ifindex) {
		tc_write(frame, w, copied, bare ? ETHERNET_BYTES : 0);
		return TC_NEXT;
	}
	tc_write(frame, w, copied, 0);
	return bare ? (int)bpf_redirect(ifindex, 0) : tc_leave(frame, w, ifindex);
}

/* Decides any frame, on a copy; a bare one begins with its IP header. */
INLINE int tc_slow(struct __sk_buff *frame, struct work *w, u32 bare)
{
	u32 missing = bare ? ETHERNET_BYTES : 0, length = frame->len + missing, verdict;
	u32 copied = length < COPY_BYTES ? length : COPY_BYTES;

	begin_copy(w, 0, length);
	w->p->segmented = frame->gso_size;
	w->p->copied = copied;
	w->p->deferred = 1;
	if (bare)
		begin_bare(frame, w->p);
	if (bpf_skb_load_bytes(frame, 0, w->p->data + missing, bound(copied - missing - 1, COPY_BYTES - 1) + 1))
		return TC_NEXT;
	verdict = decide(w);
	if (verdict == VERDICT_DROP)
		return TC_DROP;
	return verdict == VERDICT_TX ? tc_send(frame, w, bare) : TC_NEXT;
}

SEC("tc") int asynclb_tc(struct __sk_buff *frame)
{
	struct work *w = begin(frame->ifindex, 1);
	u32 version = glance_version(DATA(frame), DATA_END(frame));
	int action;

	if (!w)
		return TC_NEXT;
	if (version == 6)
		bpf_tail_call(frame, &tails_tc, TAIL_SIX);
	action = version == 4 ? tc_fast(frame, w, 4) : -1;
	if (action >= 0)
		return action;
	bpf_tail_call(frame, &tails_tc, TAIL_ANY);
	return TC_NEXT;
}

SEC("tc") int asynclb_tc6(struct __sk_buff *frame)
{
	struct work *w = go_on();
	int action = w ? tc_fast(frame, w, 6) : -1;

	if (action >= 0)
		return action;
	bpf_tail_call(frame, &tails_tc, TAIL_ANY);
	return TC_NEXT;
}

SEC("tc") int asynclb_tc_any(struct __sk_buff *frame)
{
	struct work *w = go_on();

	return w ? tc_slow(frame, w, 0) : TC_NEXT;
}

/* For interfaces whose frames have no link header, as those of most tunnels. */
SEC("tc") int asynclb_tc_bare(struct __sk_buff *frame)
{
	struct work *w = begin(frame->ifindex, 1);

	return w ? tc_slow(frame, w, 1) : TC_NEXT;
}

/* Answers a question of the process: who would get this packet? It is never attached, so no frame comes here; it reads the
 * tables that the others read. Returns 4 bits of the verdict, 8 of the reason, one for MEMBER_KNOWN
 * (of four), 16 of the member. Python twin: ask.py.
 */
SEC("tc") int asynclb_ask(struct __sk_buff *frame)
{
	u32 copied = frame->len < COPY_BYTES ? frame->len : COPY_BYTES, verdict, member;
	struct work *w = begin_in(1, frame->ifindex, 1);

	if (!w)
		return 0;
	begin_copy(w, 1, frame->len);
	w->p->asked = 1;
	w->p->copied = copied;
	copied = bound(copied - 1, COPY_BYTES - 1) + 1;
	if (bpf_skb_load_bytes(frame, 0, w->p->data, copied))
		return 0;
	verdict = process(w);
	member = w->answer->member;
	if (member != NONE && member & MEMBER_KNOWN)
		member = (member & 0xffff) | 1 << 16;
	return (int)(verdict << 28 | (w->answer->reason & 0xff) << 20 | (member & 0x1ffff));
}
