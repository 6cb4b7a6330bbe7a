/* UDP as fast as sockets go, so that a balancer between the two ends is what is measured.
 *
 *     udp_load echo PORT                               answers until killed
 *     udp_load load ADDRESS PORT SESSIONS SECONDS      asks, and prints `replies N lost N seconds S`
 *
 * `load` is a closed loop: every session is a connected socket with one question on its way, and the answer to
 * it is what sends the next one. A question without an answer within LOST_NS is counted as lost and asked again.
 * The clock starts when every session has had an answer, so opening sessions is not measured.
 *
 * `echo` sends back what comes; to `who` it answers with the address and the port that it sees.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, SIZE = 64, ROOM = 2048, MAX_SESSIONS = 4096 };
#define LOST_NS 200000000ull /* a thousand times a round trip of the lab */
#define SWEEP_NS 50000000ull
#define PATIENCE_NS 5000000000ull /* for the first answers */

struct session {
	uint64_t sequence;
	uint64_t asked_ns;
	int fd;
	int answered;
};

struct tally {
	uint64_t replies, lost, answered;
};

static struct session sessions[MAX_SESSIONS];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static int udp_socket(int flags)
{
	int size = 4 << 20, fd = socket(AF_INET, SOCK_DGRAM | flags, 0);

	if (fd < 0)
		fail("socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)); /* the kernel caps it: as much as there is */
	return fd;
}

static size_t answer_who(char *data, const struct sockaddr_in *peer)
{
	char address[INET_ADDRSTRLEN];

	inet_ntop(AF_INET, &peer->sin_addr, address, sizeof(address));
	return (size_t)snprintf(data, ROOM, "%s %u", address, ntohs(peer->sin_port));
}

static int echo(int port)
{
	static char data[BATCH][ROOM];
	static struct sockaddr_in peers[BATCH];
	static struct iovec parts[BATCH];
	static struct mmsghdr messages[BATCH];
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = udp_socket(0);

	if (bind(fd, (struct sockaddr *)&here, sizeof(here)) < 0)
		fail("bind");
	for (;;) {
		for (int i = 0; i < BATCH; i++) {
			parts[i] = (struct iovec){data[i], ROOM};
			messages[i].msg_hdr = (struct msghdr){
				.msg_name = &peers[i], .msg_namelen = sizeof(peers[i]),
				.msg_iov = &parts[i], .msg_iovlen = 1};
		}
		int count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);

		for (int i = 0; i < count; i++) {
			parts[i].iov_len = messages[i].msg_len;
			if (messages[i].msg_len == 3 && memcmp(data[i], "who", 3) == 0)
				parts[i].iov_len = answer_who(data[i], &peers[i]);
		}
		for (int sent = 0; sent < count;) {
			int more = sendmmsg(fd, messages + sent, (unsigned)(count - sent), 0);

			sent += more > 0 ? more : 1; /* an answer that cannot be sent is lost, as on a wire */
		}
	}
}

static void ask(struct session *session, uint64_t now)
{
	char data[SIZE] = {0};

	session->sequence++;
	session->asked_ns = now;
	memcpy(data, &session->sequence, sizeof(session->sequence));
	(void)!send(session->fd, data, sizeof(data), 0); /* what fails here is found by the sweep */
}

/* Take every answer of a session; an answer to an earlier question was counted as lost already. */
static void take(struct session *session, struct tally *tally, uint64_t now)
{
	char data[ROOM];
	uint64_t sequence;

	for (;;) {
		ssize_t size = recv(session->fd, data, sizeof(data), 0);

		if (size < 0 && errno == ECONNREFUSED)
			continue;
		if (size < (ssize_t)sizeof(sequence))
			return;
		memcpy(&sequence, data, sizeof(sequence));
		if (sequence != session->sequence)
			continue;
		tally->replies++;
		tally->answered += !session->answered;
		session->answered = 1;
		ask(session, now);
	}
}

static void sweep(int count, struct tally *tally, uint64_t now)
{
	for (int i = 0; i < count; i++) {
		if (now - sessions[i].asked_ns < LOST_NS)
			continue;
		tally->lost++;
		ask(&sessions[i], now);
	}
}

static int open_sessions(const char *address, int port, int count)
{
	struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int poll = epoll_create1(0);

	if (poll < 0 || inet_pton(AF_INET, address, &there.sin_addr) != 1)
		fail("epoll or address");
	for (int i = 0; i < count; i++) {
		struct epoll_event interest = {.events = EPOLLIN, .data.ptr = &sessions[i]};

		sessions[i].fd = udp_socket(SOCK_NONBLOCK);
		if (connect(sessions[i].fd, (struct sockaddr *)&there, sizeof(there)) < 0)
			fail("connect");
		if (epoll_ctl(poll, EPOLL_CTL_ADD, sessions[i].fd, &interest) < 0)
			fail("epoll_ctl");
	}
	return poll;
}

static int load(const char *address, int port, int count, double seconds)
{
	struct epoll_event events[BATCH];
	struct tally tally = {0};
	int poll = open_sessions(address, port, count), measuring = 0;
	uint64_t start = now_ns(), now = start, swept = start;
	uint64_t end = start + PATIENCE_NS;

	for (int i = 0; i < count; i++)
		ask(&sessions[i], now);
	while (now < end) {
		int ready = epoll_wait(poll, events, BATCH, SWEEP_NS / 1000000);

		now = now_ns();
		for (int i = 0; i < ready; i++)
			take(events[i].data.ptr, &tally, now);
		if (now - swept > SWEEP_NS) {
			sweep(count, &tally, now);
			swept = now;
		}
		if (!measuring && tally.answered == (uint64_t)count) {
			measuring = 1;
			tally = (struct tally){0};
			start = now;
			end = now + (uint64_t)(seconds * 1e9);
		}
	}
	if (!measuring) {
		fprintf(stderr, "%d of %d sessions had an answer\n", (int)tally.answered, count);
		return 1;
	}
	printf("replies %llu lost %llu seconds %.6f\n", (unsigned long long)tally.replies,
	       (unsigned long long)tally.lost, (double)(now - start) / 1e9);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "echo") == 0)
		return echo(atoi(argv[2]));
	if (argc == 6 && strcmp(argv[1], "load") == 0 && atoi(argv[4]) > 0 && atoi(argv[4]) <= MAX_SESSIONS)
		return load(argv[2], atoi(argv[3]), atoi(argv[4]), atof(argv[5]));
	fprintf(stderr, "usage: udp_load echo PORT | load ADDRESS PORT SESSIONS SECONDS\n");
	return 2;
}
