/*
 * What the host's side of a disk costs: pread(2) on a thread, as src/virtio/blk has it, beside
 * io_uring (docs/adr/0013-requests-on-a-thread.md).
 *
 *     io FILE READS [ROUNDS]
 *
 * FILE is read first, so that the host's page cache answers: what is measured is the way there and
 * back. One thread asks and waits for the answer, as a guest does; it has up to DEPTH reads in
 * flight (but `here` one), and asks again for each that came back. Who reads is
 *
 * - thread: another thread, woken by an eventfd if it sleeps, that calls pread(2) for one request
 *   after the other and tells of each by a second eventfd;
 * - here: the asking thread, by preadv2(2) with RWF_NOWAIT, which fails where the page cache does not
 *   answer: no waking, and no ring either (without the flag where FILE's file system has none of it,
 *   as tmpfs has not);
 * - uring: io_uring, where the asking thread calls io_uring_enter(2) to submit and to wait. An
 *   answer that the page cache has is there when that returns: no thread, no waking;
 * - uring thread: another thread, woken by an eventfd, with a ring: what a VMM would do whose vCPU
 *   must not stand still while the host's file system is at work.
 *
 * Printed: nanoseconds an operation by CLOCK_MONOTONIC, the median of ROUNDS rounds and all of
 * them. In the testbed with --icount that clock counts instructions.
 *
 * Build: cc -O2 -static -pthread -Wall -Wextra -o build/io benches/io.c
 *
 * Sources: io_uring(7), io_uring_setup(2), io_uring_enter(2), preadv2(2), eventfd(2).
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
	RING = 64,             /* more than are ever in flight */
	MOST_ROUNDS = 64,
	WAYS = 4,
	SMALL = 4 << 10,       /* 4 KiB */
	LARGE = 1 << 20,       /* 1 MiB */
};

/* A row of requests from one thread to one other. */
struct row {
	_Atomic uint32_t head, tail;
	uint64_t at[RING];
	_Atomic int asleep;
	int bell;
};

static int file;
static uint64_t file_size;
static uint8_t *buffers;
static size_t size;            /* of one read */

static int ok(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void put(struct row *row, uint64_t at)
{
	uint64_t one = 1;
	uint32_t tail = atomic_load(&row->tail);

	row->at[tail % RING] = at;
	atomic_store(&row->tail, tail + 1);
	/* As with virtio: who is awake looks again before it sleeps. */
	if (atomic_load(&row->asleep))
		ok(write(row->bell, &one, sizeof(one)), "eventfd");
}

static int is_empty(struct row *row)
{
	return atomic_load(&row->head) == atomic_load(&row->tail);
}

static uint64_t take(struct row *row)
{
	uint64_t count, at;
	uint32_t head;

	while (is_empty(row)) {
		atomic_store(&row->asleep, 1);
		if (is_empty(row))
			ok(read(row->bell, &count, sizeof(count)), "eventfd");
		atomic_store(&row->asleep, 0);
	}
	head = atomic_load(&row->head);
	at = row->at[head % RING];
	atomic_store(&row->head, head + 1);
	return at;
}

static struct row requests, answers;
static const uint64_t END = UINT64_MAX;

/* ---- io_uring -------------------------------------------------------------------------------- */

struct ring {
	int fd;
	_Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t *sq_array, sq_mask, cq_mask;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes;
};

static struct ring ring;

static void *map(int fd, size_t len, off_t what)
{
	void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, what);

	if (at == MAP_FAILED)
		err(1, "mmap of a ring");
	return at;
}

static int open_ring(void)
{
	struct io_uring_params p = { .flags = 0 };
	uint8_t *sq, *cq;

	ring.fd = (int)syscall(SYS_io_uring_setup, RING, &p);
	if (ring.fd < 0)
		return 0;
	sq = map(ring.fd, p.sq_off.array + p.sq_entries * sizeof(uint32_t), IORING_OFF_SQ_RING);
	cq = map(ring.fd, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	ring.sqes = map(ring.fd, p.sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	ring.sq_tail = (void *)(sq + p.sq_off.tail);
	ring.sq_mask = *(uint32_t *)(sq + p.sq_off.ring_mask);
	ring.sq_array = (void *)(sq + p.sq_off.array);
	ring.cq_head = (void *)(cq + p.cq_off.head);
	ring.cq_tail = (void *)(cq + p.cq_off.tail);
	ring.cq_mask = *(uint32_t *)(cq + p.cq_off.ring_mask);
	ring.cqes = (void *)(cq + p.cq_off.cqes);
	return 1;
}

static void submit(uint64_t at, unsigned slot)
{
	uint32_t tail = atomic_load(ring.sq_tail), index = tail & ring.sq_mask;

	ring.sqes[index] = (struct io_uring_sqe){
		.opcode = IORING_OP_READ,
		.fd = file,
		.addr = (uintptr_t)(buffers + (slot % RING) * size),
		.len = (uint32_t)size,
		.off = at,
		.user_data = at,
	};
	ring.sq_array[index] = index;
	atomic_store(ring.sq_tail, tail + 1);
}

static void enter(unsigned count, unsigned wait_for)
{
	unsigned flags = wait_for ? IORING_ENTER_GETEVENTS : 0;

	ok((int)syscall(SYS_io_uring_enter, ring.fd, count, wait_for, flags, NULL, 0), "io_uring_enter");
}

/* Takes one answer, if there is one. */
static int complete(uint64_t *at)
{
	uint32_t head = atomic_load(ring.cq_head);
	struct io_uring_cqe *cqe = &ring.cqes[head & ring.cq_mask];

	if (head == atomic_load(ring.cq_tail))
		return 0;
	if (cqe->res != (int)size)
		errx(1, "io_uring read %d bytes", cqe->res);
	*at = cqe->user_data;
	atomic_store(ring.cq_head, head + 1);
	return 1;
}

/* ---- who reads ------------------------------------------------------------------------------- */

static void *by_pread(void *unused)
{
	unsigned slot = 0;
	uint64_t at;

	while ((at = take(&requests)) != END) {
		if (pread(file, buffers + (slot++ % RING) * size, size, (off_t)at) != (ssize_t)size)
			err(1, "pread");
		put(&answers, at);
	}
	return unused;
}

static void *by_ring(void *unused)
{
	unsigned slot = 0, flying = 0, count;
	uint64_t at;
	int ended = 0;

	while (!ended || flying) {
		for (count = 0; !ended && (!is_empty(&requests) || (!flying && !count));) {
			at = take(&requests);
			if (at == END) {
				ended = 1;
			} else {
				submit(at, slot++);
				count++;
			}
		}
		flying += count;
		if (flying)
			enter(count, 1);
		while (complete(&at)) {
			flying--;
			put(&answers, at);
		}
	}
	return unused;
}

/* ---- who asks -------------------------------------------------------------------------------- */

static uint64_t seed = 1, in_order;

/* Where the next read begins: anywhere, or behind the last. */
static uint64_t next_place(void)
{
	uint64_t places = file_size / size;

	if (size == LARGE)
		return in_order++ % places * size;
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL; /* Knuth's MMIX generator */
	return (seed >> 33) % places * size;
}

static double ask_a_thread(void *(*how)(void *), unsigned reads, unsigned depth)
{
	pthread_t thread;
	uint64_t start;
	unsigned asked;

	ok(-pthread_create(&thread, NULL, how, NULL), "pthread_create");
	start = now();
	for (asked = 0; asked < depth; asked++)
		put(&requests, next_place());
	for (unsigned done = 0; done < reads; done++) {
		take(&answers);
		if (asked < reads) {
			put(&requests, next_place());
			asked++;
		}
	}
	start = now() - start;
	put(&requests, END);
	pthread_join(thread, NULL);
	return (double)start / reads;
}

static double by_thread(unsigned reads, unsigned depth)
{
	return ask_a_thread(by_pread, reads, depth);
}

static double by_ring_thread(unsigned reads, unsigned depth)
{
	return ask_a_thread(by_ring, reads, depth);
}

/* RWF_NOWAIT, where FILE knows it. */
static int no_wait;

static double by_nobody_else(unsigned reads, unsigned depth)
{
	uint64_t start = now();

	(void)depth;
	for (unsigned done = 0; done < reads; done++) {
		struct iovec place = { buffers + (done % RING) * size, size };

		if (preadv2(file, &place, 1, (off_t)next_place(), no_wait) != (ssize_t)size)
			err(1, "preadv2");
	}
	return (double)(now() - start) / reads;
}

static double by_own_ring(unsigned reads, unsigned depth)
{
	uint64_t start = now(), at;
	unsigned asked = 0, done = 0, count;

	while (done < reads) {
		for (count = 0; asked < reads && asked - done < depth; asked++, count++)
			submit(next_place(), asked);
		enter(count, 1);
		while (complete(&at))
			done++;
	}
	return (double)(now() - start) / reads;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void print(const char *name, unsigned depth, const double *all, int rounds)
{
	double sorted[MOST_ROUNDS];

	memcpy(sorted, all, sizeof(sorted));
	qsort(sorted, (size_t)rounds, sizeof(double), compare);
	printf("%7zu bytes, depth %2u, %-12s %9.0f   all:", size, depth, name, sorted[rounds / 2]);
	for (int r = 0; r < rounds; r++)
		printf(" %.0f", all[r]);
	printf("\n");
	fflush(stdout);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		double (*how)(unsigned reads, unsigned depth);
		int needs_ring;
	} ways[WAYS] = {
		{ "thread", by_thread, 0 },
		{ "here", by_nobody_else, 0 },
		{ "uring", by_own_ring, 1 },
		{ "uring thread", by_ring_thread, 1 },
	};
	static const size_t sizes[] = { SMALL, LARGE };
	static const unsigned depths[] = { 1, 32 };
	static double all[WAYS][MOST_ROUNDS];
	int rounds = argc > 3 ? atoi(argv[3]) : 7, has_ring;
	unsigned reads = argc > 2 ? (unsigned)atoi(argv[2]) : 0;
	struct stat stat;

	if (argc < 3 || reads < 64 || rounds < 1 || rounds > MOST_ROUNDS)
		errx(1, "usage: io FILE READS [ROUNDS], 64 reads or more, 1 to 64 rounds");
	file = ok(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
	ok(fstat(file, &stat), argv[1]);
	file_size = (uint64_t)stat.st_size;
	if (file_size < LARGE)
		errx(1, "%s is smaller than 1 MiB", argv[1]);
	buffers = mmap(NULL, (size_t)RING * LARGE, PROT_READ | PROT_WRITE,
	               MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (buffers == MAP_FAILED)
		err(1, "mmap");
	for (uint64_t at = 0; at + LARGE <= file_size; at += LARGE)
		if (pread(file, buffers, LARGE, (off_t)at) != LARGE)
			err(1, "pread");
	no_wait = preadv2(file, &(struct iovec){ buffers, 1 }, 1, 0, RWF_NOWAIT) == 1 ? RWF_NOWAIT : 0;
	requests.bell = ok(eventfd(0, EFD_CLOEXEC), "eventfd");
	answers.bell = ok(eventfd(0, EFD_CLOEXEC), "eventfd");
	has_ring = open_ring();
	if (!has_ring)
		warn("no io_uring here");
	if (!no_wait)
		warnx("%s has no RWF_NOWAIT", argv[1]);
	for (unsigned s = 0; s < 2; s++)
		for (unsigned d = 0; d < 2; d++) {
			/* A MiB takes as long as many small reads. */
			unsigned count = sizes[s] == LARGE ? reads / 32 + 32 : reads;

			size = sizes[s];
			/* The ways take turns, so that a busy host is busy for each of them; the first
			 * round is not counted, it warms up. */
			for (int r = -1; r < rounds; r++)
				for (unsigned w = 0; w < WAYS; w++)
					if (has_ring || !ways[w].needs_ring)
						all[w][r < 0 ? 0 : r] = ways[w].how(count, depths[d]);
			for (unsigned w = 0; w < WAYS; w++)
				if (has_ring || !ways[w].needs_ring)
					print(ways[w].name, depths[d], all[w], rounds);
		}
	return 0;
}
