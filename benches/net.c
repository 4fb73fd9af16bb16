/*
 * Asks and sends by way of eth0, and says what that took by the guest's clock; and the other end of it,
 * on the host. See benches/net.sh.
 *
 *     net serve                 answers each datagram to port 7, swallows what is sent to port 9
 *     net ADDRESS ASKS ROUNDS   a line for each round: nanoseconds of one of its ASKS datagrams of 64
 *                               bytes and back, and of one of its 4 MiB of TCP; then it sleeps
 *
 * Where instructions are counted, a nanosecond is one instruction, of whoever ran on the one processor
 * there is.
 *
 * Build: cc -O2 -static -Wall -Wextra -o net net.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ASK = 64, MIB = 1 << 20, BULK = 4 };
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
	return fd;
}

static void serve(void)
{
	int asked = opened(SOCK_DGRAM, bind, "0.0.0.0", 7);
	int sink = opened(SOCK_STREAM, bind, "0.0.0.0", 9);
	if (listen(sink, 8))
		err(1, "listen");
	if (fork() == 0)
		for (;;) {
			int from = accept(sink, NULL, NULL);
			while (read(from, buffer, sizeof buffer) > 0)
				;
			/* Tells the sender that all has arrived. */
			if (write(from, "", 1) != 1)
				warn("write");
			close(from);
		}
	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof from;
		ssize_t got = recvfrom(asked, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &len);
		if (got < 0 || sendto(asked, buffer, got, 0, (struct sockaddr *)&from, len) != got)
			err(1, "datagram");
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "serve"))
		serve();
	if (argc != 4)
		errx(1, "usage: net serve | net ADDRESS ASKS ROUNDS");
	int ask = opened(SOCK_DGRAM, connect, argv[1], 7);
	for (int round = atoi(argv[3]); round > 0; round--) {
		double start = now();
		for (int i = 0; i < atoi(argv[2]); i++)
			if (write(ask, buffer, ASK) != ASK || read(ask, buffer, sizeof buffer) != ASK)
				err(1, "datagram");
		double asked = (now() - start) / atoi(argv[2]);
		int bulk = opened(SOCK_STREAM, connect, argv[1], 9);
		start = now();
		for (int i = 0; i < BULK; i++)
			for (int sent = 0; sent < MIB;) {
				ssize_t n = write(bulk, buffer + sent, MIB - sent);
				if (n < 0)
					err(1, "stream");
				sent += n;
			}
		shutdown(bulk, SHUT_WR);
		if (read(bulk, buffer, 1) != 1)
			err(1, "end of stream");
		printf("round %.0f %.0f\n", asked, (now() - start) / BULK);
		close(bulk);
	}
	puts("done");
	fflush(stdout);
	/* The VM's exits are counted while it lives. */
	sleep(1000);
}
