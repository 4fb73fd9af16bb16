/*
 * Reads blocks of 4 KiB of /dev/vda in a random order, past the page cache, and then all of it from
 * the beginning, and says what that took by the guest's clock. Runs as the guest's command, see
 * benches/blk.sh.
 *
 *     blk READS ROUNDS    a line for each round: nanoseconds of one of its READS, and of a MiB of
 *                         those in order; then it sleeps
 *
 * Where instructions are counted, a nanosecond is one instruction, of whoever ran on the one
 * processor there is.
 *
 * Build: cc -O2 -static -Wall -Wextra -o blk blk.c
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MIB = 1 << 20 };

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int argc, char **argv)
{
	static char buffer[MIB] __attribute__((aligned(BLOCK)));
	uint64_t state = 1;
	int disk = open("/dev/vda", O_RDONLY | O_DIRECT);
	off_t blocks = disk < 0 ? -1 : lseek(disk, 0, SEEK_END) / BLOCK;

	if (argc != 3 || blocks <= 0)
		err(1, "/dev/vda");
	for (int round = atoi(argv[2]); round > 0; round--) {
		double start = now();
		for (int read = 0; read < atoi(argv[1]); read++) {
			/* Knuth's MMIX generator */
			state = state * 6364136223846793005 + 1442695040888963407;
			if (pread(disk, buffer, BLOCK, (state >> 33) % blocks * BLOCK) != BLOCK)
				err(1, "pread");
		}
		double read = (now() - start) / atoi(argv[1]);
		int mib = blocks / (MIB / BLOCK);
		start = now();
		for (int i = 0; i < mib; i++)
			if (pread(disk, buffer, MIB, (off_t)i * MIB) != MIB)
				err(1, "pread");
		printf("round %.0f %.0f\n", read, (now() - start) / mib);
	}
	puts("done");
	fflush(stdout);
	/* The VM's exits are counted while it lives. */
	sleep(1000);
}
