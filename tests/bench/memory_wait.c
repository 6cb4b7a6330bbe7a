/* How long a processor waits for a line of memory that it asks for by chance:
 *
 *     memory_wait MEGABYTES      prints nanoseconds, the mean of STEPS lines
 *
 * Each line names the next one, in one cycle through all of them, so that no two are asked for at a time.
 *
 * Source: Sattolo, An algorithm to generate a random cyclic permutation (1986).
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LINE = 64, STEPS = 2000000 };

struct line {
	uint64_t next;
	uint8_t rest[LINE - 8];
};

static uint64_t random_below(uint64_t bound)
{
	static uint64_t state = 0x9e3779b97f4a7c15;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % bound;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int count, char **words)
{
	uint64_t lines = count == 2 ? strtoull(words[1], 0, 10) * 1000000 / LINE : 0, at = 0;
	struct line *memory = lines > 1 ? aligned_alloc(LINE, lines * LINE) : 0;
	double begun;

	if (!memory) {
		fprintf(stderr, "usage: memory_wait MEGABYTES (which there must be)\n");
		return 2;
	}
	for (uint64_t i = 0; i < lines; i++)
		memory[i].next = i;
	for (uint64_t i = lines - 1; i > 0; i--) {
		uint64_t other = random_below(i), held = memory[i].next;

		memory[i].next = memory[other].next;
		memory[other].next = held;
	}
	begun = seconds();
	for (uint32_t i = 0; i < STEPS; i++)
		at = *(volatile uint64_t *)&memory[at].next;
	printf("%.1f\n", (seconds() - begun) * 1e9 / STEPS);
	return 0;
}
