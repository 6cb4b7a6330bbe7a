/* Frames as fast as packet sockets go: the load, the bare loop that is the limit, and a single question at a time.
 *
 *     packet_load send INTERFACE LINK SOURCE ADDRESS PORT FLOWS SECONDS   UDP frames of 64 bytes; prints `sent N`
 *     packet_load loop v2|v3 IN OUT      swaps the link addresses of what comes by IN and sends it by OUT, until killed
 *     packet_load count v2|v3 IN         receives and does nothing else; prints `frames N lost N` when interrupted
 *     packet_load ask INTERFACE LINK COUNT   one frame at a time, answered by a loop; prints `median_us N`
 *
 * `send` goes through its flows in a fixed shuffle: flow i has source address SOURCE + i / 50,000 and source port
 * 1024 + i % 50,000. A frame of 60 bytes is one of 64 on a wire, where a checksum of 4 follows. The UDP checksum is 0,
 * none, as IPv4 allows.
 *
 * `loop` maps its receive ring and sends right out of it, one sendmmsg(2) for a batch: no copy, no lookup, no state.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, FRAME = 60, SLOT = 2048, BLOCK = 1 << 16, BLOCKS = 32, PORTS = 50000 };
enum { LINK = 12, IP = 14, UDP = 34 };

struct ring {
	unsigned char *map;
	int fd, version;
	unsigned at; /* slot of V2, block of V3 */
};

static volatile sig_atomic_t stopped;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static void stop(int number)
{
	(void)number;
	stopped = 1;
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void set(int fd, int option, int value)
{
	if (setsockopt(fd, SOL_PACKET, option, &value, sizeof(value)) < 0)
		fail("setsockopt");
}

static void attach(int fd, const char *interface, int protocol)
{
	struct sockaddr_ll where = {.sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)protocol)};

	where.sll_ifindex = (int)if_nametoindex(interface);
	if (!where.sll_ifindex || bind(fd, (struct sockaddr *)&where, sizeof(where)) < 0)
		fail(interface);
}

static int sender(const char *interface)
{
	int fd = socket(AF_PACKET, SOCK_RAW, 0);

	if (fd < 0)
		fail("socket");
	attach(fd, interface, 0);
	return fd;
}

/* 2 MiB either way: 1,024 slots, or 32 blocks that are handed over when full or after a millisecond, the least. */
static struct ring receiver(const char *version, const char *interface)
{
	struct ring ring = {.version = strcmp(version, "v3") ? TPACKET_V2 : TPACKET_V3};
	struct tpacket_req3 request = {.tp_block_size = BLOCK, .tp_block_nr = BLOCKS, .tp_frame_size = SLOT,
				       .tp_frame_nr = BLOCK / SLOT * BLOCKS, .tp_retire_blk_tov = 1};
	socklen_t size = ring.version == TPACKET_V3 ? sizeof(struct tpacket_req3) : sizeof(struct tpacket_req);

	ring.fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (ring.fd < 0)
		fail("socket");
	set(ring.fd, PACKET_VERSION, ring.version);
	set(ring.fd, PACKET_IGNORE_OUTGOING, 1);
	if (setsockopt(ring.fd, SOL_PACKET, PACKET_RX_RING, &request, size) < 0)
		fail("PACKET_RX_RING");
	ring.map = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, ring.fd, 0);
	if (ring.map == MAP_FAILED)
		fail("mmap");
	attach(ring.fd, interface, ETH_P_ALL);
	return ring;
}

/* Calls the kernel for what was collected; what a device does not take is lost, as on a wire. */
static void flush(int fd, struct mmsghdr *messages, unsigned count)
{
	for (unsigned sent = 0; sent < count;) {
		int more = sendmmsg(fd, messages + sent, count - sent, 0);

		sent += more > 0 ? (unsigned)more : 1;
	}
}

static void swap_links(unsigned char *frame)
{
	unsigned char link[6];

	memcpy(link, frame, 6);
	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, link, 6);
}

static void add(struct mmsghdr *message, struct iovec *part, unsigned char *frame, size_t length)
{
	swap_links(frame);
	*part = (struct iovec){frame, length};
	message->msg_hdr = (struct msghdr){.msg_iov = part, .msg_iovlen = 1};
}

/* Takes at most BATCH frames off a V2 ring and sends them by `out`, if there is one. Returns how many. */
static unsigned serve_slots(struct ring *ring, int out)
{
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	unsigned slots = BLOCK / SLOT * BLOCKS, count = 0;

	for (; count < BATCH; count++) {
		struct tpacket2_hdr *head = (void *)(ring->map + (size_t)((ring->at + count) % slots) * SLOT);

		if (!(__atomic_load_n(&head->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			break;
		if (out >= 0)
			add(&messages[count], &parts[count], (unsigned char *)head + head->tp_mac, head->tp_snaplen);
	}
	if (out >= 0)
		flush(out, messages, count);
	for (unsigned i = 0; i < count; i++) {
		struct tpacket2_hdr *head = (void *)(ring->map + (size_t)((ring->at + i) % slots) * SLOT);

		__atomic_store_n(&head->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
	ring->at = (ring->at + count) % slots;
	return count;
}

/* Takes one block off a V3 ring, if there is one. */
static unsigned serve_block(struct ring *ring, int out)
{
	static struct mmsghdr messages[BLOCK / 128];
	static struct iovec parts[BLOCK / 128];
	struct tpacket_block_desc *block = (void *)(ring->map + (size_t)ring->at * BLOCK);
	unsigned count = 0, at;

	if (!(__atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
		return 0;
	at = block->hdr.bh1.offset_to_first_pkt;
	for (; count < block->hdr.bh1.num_pkts && count < BLOCK / 128; count++) {
		struct tpacket3_hdr *head = (void *)((unsigned char *)block + at);

		if (out >= 0)
			add(&messages[count], &parts[count], (unsigned char *)head + head->tp_mac, head->tp_snaplen);
		at += head->tp_next_offset;
	}
	if (out >= 0)
		flush(out, messages, count);
	__atomic_store_n(&block->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	ring->at = (ring->at + 1) % BLOCKS;
	return count;
}

static uint64_t serve(struct ring *ring, int out)
{
	struct pollfd readable = {.fd = ring->fd, .events = POLLIN};
	uint64_t frames = 0;

	while (!stopped) {
		unsigned count = ring->version == TPACKET_V3 ? serve_block(ring, out) : serve_slots(ring, out);

		frames += count;
		if (!count)
			poll(&readable, 1, -1);
	}
	return frames;
}

static int count_frames(const char *version, const char *interface)
{
	struct ring ring = receiver(version, interface);
	struct tpacket_stats_v3 lost = {0};
	socklen_t size = sizeof(lost);
	uint64_t frames = serve(&ring, -1);

	getsockopt(ring.fd, SOL_PACKET, PACKET_STATISTICS, &lost, &size);
	printf("frames %llu lost %u\n", (unsigned long long)frames, lost.tp_drops);
	return 0;
}

static void parse_link(const char *text, unsigned char *link)
{
	if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", link, link + 1, link + 2, link + 3, link + 4, link + 5) != 6)
		fail(text);
}

static uint16_t checksum(const unsigned char *head)
{
	uint32_t sum = 0;

	for (int i = 0; i < 20; i += 2)
		sum += (uint32_t)head[i] << 8 | head[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~(sum + (sum >> 16));
}

static void write_frame(unsigned char *frame, const unsigned char *head, uint32_t source, uint32_t flow)
{
	uint32_t address = htonl(source + flow / PORTS);
	uint16_t port = htons((uint16_t)(1024 + flow % PORTS)), sum;

	memcpy(frame, head, FRAME);
	memcpy(frame + IP + 12, &address, 4);
	memcpy(frame + UDP, &port, 2);
	sum = htons(checksum(frame + IP));
	memcpy(frame + IP + 10, &sum, 2);
}

static int send_frames(char **words)
{
	static unsigned char frames[BATCH][FRAME];
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	unsigned char head[FRAME] = {[LINK] = 8, [IP] = 0x45, [IP + 3] = FRAME - IP, [IP + 8] = 64, [IP + 9] = 17};
	uint32_t flows = (uint32_t)atoi(words[5]), source = ntohl(inet_addr(words[2])), flow = 0;
	uint16_t port = htons((uint16_t)atoi(words[4])), size = htons(FRAME - UDP);
	uint64_t sent = 0, end = now_ns() + (uint64_t)(atof(words[6]) * 1e9);
	int fd = sender(words[0]);

	parse_link(words[1], head);
	head[6] = 2; /* any address of our own that nobody has */
	inet_pton(AF_INET, words[3], head + IP + 16);
	memcpy(head + UDP + 2, &port, 2);
	memcpy(head + UDP + 4, &size, 2);
	for (int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){frames[i], FRAME};
		messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
	}
	while (!stopped && now_ns() < end) {
		for (int i = 0; i < BATCH; i++) {
			write_frame(frames[i], head, source, flow);
			flow = (flow + 7919) % flows; /* a prime that no count of flows here is a multiple of */
		}
		flush(fd, messages, BATCH);
		sent += BATCH;
	}
	printf("sent %llu\n", (unsigned long long)sent);
	return 0;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int ask(const char *interface, const char *link, int count)
{
	struct timeval patience = {.tv_sec = 1};
	unsigned char frame[FRAME] = {[6] = 2, [LINK] = 0x88, [LINK + 1] = 0xb5}; /* a type for local experiments */
	uint64_t *took = calloc((size_t)count, sizeof(*took));
	int fd = sender(interface);

	if (!took)
		fail("calloc");
	set(fd, PACKET_IGNORE_OUTGOING, 1);
	attach(fd, interface, 0x88b5);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	parse_link(link, frame);
	for (int i = 0; i < count; i++) {
		unsigned char answer[SLOT];
		uint64_t before = now_ns();

		if (send(fd, frame, FRAME, 0) < 0 || recv(fd, answer, sizeof(answer), 0) < 0)
			fail("no answer");
		took[i] = now_ns() - before;
	}
	qsort(took, (size_t)count, sizeof(*took), by_size);
	printf("median_us %.1f\n", (double)took[count / 2] / 1e3);
	return 0;
}

static int loop(const char *version, const char *in, const char *out)
{
	struct ring ring = receiver(version, in);

	serve(&ring, sender(out));
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = stop};

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (argc == 9 && strcmp(argv[1], "send") == 0 && atoi(argv[7]) > 0)
		return send_frames(argv + 2);
	if (argc == 5 && strcmp(argv[1], "loop") == 0)
		return loop(argv[2], argv[3], argv[4]);
	if (argc == 4 && strcmp(argv[1], "count") == 0)
		return count_frames(argv[2], argv[3]);
	if (argc == 5 && strcmp(argv[1], "ask") == 0 && atoi(argv[4]) > 0)
		return ask(argv[2], argv[3], atoi(argv[4]));
	fprintf(stderr, "usage: packet_load send|loop|count|ask ..., as at the top of packet_load.c\n");
	return 2;
}
