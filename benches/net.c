/*
 * Asks and sends by way of eth0, and says what that took by the guest's clock; and the other end of it,
 * on the host. See benches/net.sh.
 *
 *     net serve                 answers each datagram to port 7, swallows what is sent to port 9, sends
 *                               to who asks at port 19; port 5 tells what KVM counted
 *     net ADDRESS ASKS ROUNDS   ROUNDS lines for each of "request", ASKS datagrams of 64 bytes and back,
 *                               "sent" and "received", 16 MiB of TCP; then it sleeps. A line has for one
 *                               request or MiB: nanoseconds; frames of eth0 out and in; interrupts of
 *                               the card; and KVM's exits, see COUNTERS
 *
 * Where instructions are counted, a nanosecond is one instruction, of whoever ran on the one processor
 * there is. Counting is outside of the time.
 *
 * Build: cc -O2 -static -Wall -Wextra -o net net.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { ASK = 64, MIB = 1 << 20, BULK = 16, KVM = 5, FRAMES = 2, COUNTS = KVM + FRAMES + 1 };
static const char *const COUNTERS[KVM] = { "exits", "mmio_exits", "io_exits", "irq_exits", "halt_exits" };
static char buffer[MIB];

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(port) };
	if (inet_pton(AF_INET, text, &to.sin_addr) != 1)
		errx(1, "%s is no address", text);
	return to;
}

static int opened(int kind, int (*how)(int, const struct sockaddr *, socklen_t), const char *text, int port)
{
	struct sockaddr_in at = address(text, port);
	int one = 1, fd = socket(AF_INET, kind, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || how(fd, (struct sockaddr *)&at, sizeof at))
		err(1, "port %d of %s", port, text);
	if (kind == SOCK_STREAM && how == bind && listen(fd, 8))
		err(1, "listen");
	return fd;
}

static void put(int to, long len)
{
	while (len > 0) {
		ssize_t n = write(to, buffer, len < MIB ? len : MIB);
		if (n < 0)
			err(1, "stream");
		len -= n;
	}
}

static long number_in(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		err(1, "%s", path);
	close(fd);
	return atol(text);
}

/* For each byte of the asker's: KVM's counters. */
static void tell_counts(int to)
{
	while (read(to, buffer, 1) == 1) {
		long counts[KVM];
		for (int i = 0; i < KVM; i++) {
			char path[64];
			snprintf(path, sizeof path, "/sys/kernel/debug/kvm/%s", COUNTERS[i]);
			counts[i] = number_in(path);
		}
		if (write(to, counts, sizeof counts) != sizeof counts)
			err(1, "counts");
	}
}

/* Tells the sender that all has arrived. */
static void swallow(int from)
{
	while (read(from, buffer, sizeof buffer) > 0)
		;
	if (write(from, "", 1) != 1)
		warn("write");
}

static void send_on_request(int to)
{
	if (read(to, buffer, 1) == 1)
		put(to, BULK * MIB);
}

/* Does `what` for one connection after the other. */
static void service(int port, void (*what)(int))
{
	int door = opened(SOCK_STREAM, bind, "0.0.0.0", port);
	if (fork() != 0)
		return;
	for (;;) {
		int guest = accept(door, NULL, NULL);
		what(guest);
		close(guest);
	}
}

static void serve(void)
{
	int asked = opened(SOCK_DGRAM, bind, "0.0.0.0", 7);
	service(5, tell_counts);
	service(9, swallow);
	service(19, send_on_request);
	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof from;
		ssize_t got = recvfrom(asked, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &len);
		if (got < 0 || sendto(asked, buffer, got, 0, (struct sockaddr *)&from, len) != got)
			err(1, "datagram");
	}
}

/* The interrupts of all virtio devices: there is one. */
static long interrupts(void)
{
	FILE *file = fopen("/proc/interrupts", "r");
	char line[256];
	long sum = 0;
	if (!file)
		err(1, "/proc/interrupts");
	while (fgets(line, sizeof line, file))
		if (strstr(line, "virtio") && strchr(line, ':'))
			sum += atol(strchr(line, ':') + 1);
	fclose(file);
	return sum;
}

static void count(int counter, long counts[COUNTS])
{
	counts[0] = number_in("/sys/class/net/eth0/statistics/tx_packets");
	counts[1] = number_in("/sys/class/net/eth0/statistics/rx_packets");
	counts[FRAMES] = interrupts();
	if (write(counter, "", 1) != 1 ||
	    recv(counter, counts + FRAMES + 1, KVM * sizeof *counts, MSG_WAITALL) != KVM * sizeof *counts)
		err(1, "counts");
}

static void ask(const char *of, int times)
{
	static int fd;
	if (!fd)
		fd = opened(SOCK_DGRAM, connect, of, 7);
	for (int i = 0; i < times; i++)
		if (write(fd, buffer, ASK) != ASK || read(fd, buffer, sizeof buffer) != ASK)
			err(1, "datagram");
}

static void send_bulk(const char *to, int mib)
{
	int fd = opened(SOCK_STREAM, connect, to, 9);
	put(fd, mib * (long)MIB);
	shutdown(fd, SHUT_WR);
	if (read(fd, buffer, 1) != 1)
		err(1, "end of stream");
	close(fd);
}

static void receive_bulk(const char *from, int mib)
{
	int fd = opened(SOCK_STREAM, connect, from, 19);
	long len = mib * (long)MIB;
	ssize_t n = write(fd, "", 1);
	while (n > 0 && len > 0)
		len -= n = read(fd, buffer, sizeof buffer);
	if (len != 0)
		err(1, "stream");
	close(fd);
}

static void measure(const char *name, void (*what)(const char *, int), const char *whom, int times)
{
	static int counter;
	if (!counter)
		counter = opened(SOCK_STREAM, connect, whom, 5);
	long before[COUNTS], after[COUNTS];
	count(counter, before);
	double start = now();
	what(whom, times);
	double took = now() - start;
	count(counter, after);
	printf("%s %.0f", name, took / times);
	for (int i = 0; i < COUNTS; i++)
		printf(" %.2f", (double)(after[i] - before[i]) / times);
	puts("");
}

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && !strcmp(argv[1], "serve"))
		serve();
	if (argc != 4)
		errx(1, "usage: net serve | net ADDRESS ASKS ROUNDS");
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	int rounds = atoi(argv[3]);
	/* One after the other: what the host's scheduler learned in one shall not be paid in the next. */
	for (int round = 0; round < rounds; round++)
		measure("request", ask, argv[1], atoi(argv[2]));
	for (int round = 0; round < rounds; round++)
		measure("sent", send_bulk, argv[1], BULK);
	for (int round = 0; round < rounds; round++)
		measure("received", receive_bulk, argv[1], BULK);
	puts("done");
	fflush(stdout);
	/* Its lines are to be read before the VM ends. */
	sleep(1000);
}
