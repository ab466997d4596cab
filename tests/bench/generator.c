/* The load generator of growth.py: datagrams at a chosen rate, a server.

     generator send LOCAL PORT REMOTE PORT PAYLOAD FLOWS sockets|ports
     generator flood INTERFACE MAC NETWORK ADDRESS PORT PAYLOAD FLOWS
     generator receive ADDRESS PORT

   Each role prints "ready" when its sockets exist. generator.py starts it.

   send: FLOWS connected sockets on consecutive local ports to one remote port (`sockets`), or one
   socket to FLOWS consecutive remote ports (`ports`).
   flood: frames on an interface, from FLOWS addresses that follow NETWORK, to the host with that
   address of hardware, so that the sender has no socket that hogpipe or the kernel would know.
   Both read lines "RATE SECONDS" and send RATE datagrams a second for that time, to the flows in
   turn (RATE 0: as many as possible; late ones at once, none after the end). The answer is a line:
   datagrams sent, failed, nanoseconds.
   receive: empties a socket.

   A role ends with its parent. Errors end it with 1 or 2 and a line on stderr. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <netinet/ether.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <netpacket/packet.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64           /* datagrams of one system call */
#define TICK_NS 1000000ULL /* the pause between bursts of a paced load */
#define RECEIVE_BUFFER (8 << 20)
#define MOST_PAYLOAD 1400
#define FLOOD_PORT 40000

static void fail(const char *what)
{
	fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void refuse(const char *why)
{
	fprintf(stderr, "generator: %s\n", why);
	exit(2);
}

static unsigned long long now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

static void sleep_until(unsigned long long due)
{
	struct timespec at = {due / 1000000000ULL, due % 1000000000ULL};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
		;
}

static struct sockaddr_in make_address(const char *text, long port)
{
	struct sockaddr_in made = {.sin_family = AF_INET, .sin_port = htons(port)};

	if (port < 1 || port > 65535)
		refuse("a port is beyond 1 to 65535: use fewer flows");
	if (inet_pton(AF_INET, text, &made.sin_addr) != 1)
		refuse("an address is not one of IPv4");
	return made;
}

static int open_socket(const struct sockaddr_in *local)
{
	int made = socket(AF_INET, SOCK_DGRAM, 0);

	if (made < 0)
		fail("socket");
	if (bind(made, (const struct sockaddr *)local, sizeof(*local)))
		fail("bind");
	return made;
}

static void allow_descriptors(long number)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = number + 100;
	if (limit.rlim_cur > limit.rlim_max)
		refuse("more sockets than the hard limit of descriptors allows: use fewer flows");
	setrlimit(RLIMIT_NOFILE, &limit);
}

static void *allocate(long number, size_t size)
{
	void *made = calloc(number, size);

	if (!made)
		fail("calloc");
	return made;
}

static void print_ready(void)
{
	puts("ready");
	fflush(stdout);
}

/* What a sender sends from and to. */
struct flows {
	long number;
	size_t payload;
	int most;                    /* flows of one batch: 1 if each has a socket of its own */
	int *sockets;
	struct sockaddr_in *remotes; /* NULL: the sockets are connected */
	struct frame *frames;        /* of a batch of a flood; NULL: the kernel adds the headers */
	in_addr_t network;
};

struct frame {
	struct ethhdr link;
	struct iphdr ip;
	struct udphdr udp;
	char payload[MOST_PAYLOAD];
} __attribute__((packed));

static struct flows make_flows(const char *payload_size, const char *number)
{
	struct flows made = {.number = atol(number), .payload = atol(payload_size), .most = BATCH};

	if (made.payload < 1 || made.payload > MOST_PAYLOAD || made.number < 1)
		refuse("the payload has 1 to 1400 bytes, and there is at least one flow");
	made.sockets = allocate(made.number, sizeof(int));
	return made;
}

static struct flows open_flows(char **words)
{
	struct flows made = make_flows(words[4], words[5]);
	int by_socket = !strcmp(words[6], "sockets");
	struct sockaddr_in local, remote;
	long flow;

	allow_descriptors(by_socket ? made.number : 1);
	if (!by_socket)
		made.remotes = allocate(made.number, sizeof(struct sockaddr_in));
	else if (made.number > 1)
		made.most = 1;
	for (flow = 0; flow < made.number; flow++) {
		remote = make_address(words[2], atol(words[3]) + (by_socket ? 0 : flow));
		if (by_socket || flow == 0) {
			local = make_address(words[0], atol(words[1]) + flow);
			made.sockets[flow] = open_socket(&local);
		} else {
			made.sockets[flow] = made.sockets[0];
		}
		if (!by_socket)
			made.remotes[flow] = remote;
		else if (connect(made.sockets[flow], (struct sockaddr *)&remote, sizeof(remote)))
			fail("connect");
	}
	return made;
}

static struct flows open_flood(char **words)
{
	struct flows made = make_flows(words[5], words[6]);
	struct sockaddr_in target = make_address(words[3], atol(words[4]));
	struct sockaddr_ll link = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP)};
	struct ether_addr *hardware = ether_aton(words[1]);
	long one;

	link.sll_ifindex = if_nametoindex(words[0]);
	if (!link.sll_ifindex || !hardware)
		refuse("there is no such interface, or MAC is not an address of hardware");
	made.network = ntohl(make_address(words[2], 1).sin_addr.s_addr);
	made.sockets[0] = socket(AF_PACKET, SOCK_RAW, 0);
	if (made.sockets[0] < 0 || bind(made.sockets[0], (struct sockaddr *)&link, sizeof(link)))
		fail("a socket of packets");
	for (one = 1; one < made.number; one++)
		made.sockets[one] = made.sockets[0];
	made.frames = allocate(BATCH, sizeof(struct frame));
	for (one = 0; one < BATCH; one++) {
		struct frame *frame = &made.frames[one];

		memcpy(frame->link.h_dest, hardware, ETH_ALEN);
		frame->link.h_source[0] = 2; /* locally administered */
		frame->link.h_proto = htons(ETH_P_IP);
		frame->ip.version = 4;
		frame->ip.ihl = 5;
		frame->ip.ttl = 64;
		frame->ip.protocol = IPPROTO_UDP;
		frame->ip.tot_len = htons(sizeof(frame->ip) + sizeof(frame->udp) + made.payload);
		frame->ip.daddr = target.sin_addr.s_addr;
		frame->udp.source = htons(FLOOD_PORT);
		frame->udp.dest = target.sin_port;
		frame->udp.len = htons(sizeof(frame->udp) + made.payload);
	}
	return made;
}

static void address_frame(struct frame *frame, in_addr_t source)
{
	unsigned short words[sizeof(frame->ip) / 2];
	unsigned sum = 0;
	int one;

	frame->ip.saddr = htonl(source);
	frame->ip.check = 0;
	memcpy(words, &frame->ip, sizeof(words));
	for (one = 0; one < (int)(sizeof(words) / 2); one++)
		sum += words[one];
	sum = (sum & 0xFFFF) + (sum >> 16);
	frame->ip.check = ~((sum & 0xFFFF) + (sum >> 16));
}

/* Send up to `number` datagrams to flows from `first` on; return how many were sent, or -1. */
static int send_batch(const struct flows *flows, long first, int number)
{
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	static char payload[MOST_PAYLOAD];
	int one;

	if (number > flows->most)
		number = flows->most;
	for (one = 0; one < number; one++) {
		struct msghdr *header = &messages[one].msg_hdr;
		long flow = (first + one) % flows->number;

		parts[one] = (struct iovec){payload, flows->payload};
		*header = (struct msghdr){.msg_iov = &parts[one], .msg_iovlen = 1};
		if (flows->remotes) {
			header->msg_name = &flows->remotes[flow];
			header->msg_namelen = sizeof(struct sockaddr_in);
		}
		if (flows->frames) {
			address_frame(&flows->frames[one], flows->network + 1 + flow);
			parts[one].iov_base = &flows->frames[one];
			parts[one].iov_len += offsetof(struct frame, payload);
		}
	}
	return sendmmsg(flows->sockets[first], messages, number, 0);
}

static void send_load(const struct flows *flows, long *next, double rate, double seconds)
{
	unsigned long long begun = now_ns(), end = begun + seconds * 1e9, now = begun;
	unsigned long long wanted = rate > 0 ? rate * seconds + 0.5 : ~0ULL, sent = 0, failed = 0;

	while (sent + failed < wanted && now < end) {
		unsigned long long due = rate > 0 ? (now - begun) * rate / 1e9 + 1 : sent + failed + BATCH;

		if (due > wanted)
			due = wanted;
		while (sent + failed < due) {
			unsigned long long left = due - sent - failed;
			int done = send_batch(flows, *next, left < BATCH ? left : BATCH);

			if (done > 0)
				sent += done;
			else
				failed++, done = 1;
			*next = (*next + done) % flows->number;
		}
		if (rate > 0 && sent + failed < wanted)
			sleep_until(now_ns() + TICK_NS);
		now = now_ns();
	}
	printf("%llu %llu %llu\n", sent, failed, now_ns() - begun);
	fflush(stdout);
}

static void run_sender(struct flows flows)
{
	double rate, seconds;
	long next = 0;

	print_ready();
	while (scanf("%lf %lf", &rate, &seconds) == 2)
		send_load(&flows, &next, rate, seconds);
}

static void run_receiver(char **words)
{
	static char data[BATCH];
	static struct mmsghdr messages[BATCH];
	static struct iovec parts[BATCH];
	struct sockaddr_in local = make_address(words[0], atol(words[1]));
	int server = open_socket(&local), buffer = RECEIVE_BUFFER, one;

	if (setsockopt(server, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer)))
		fail("SO_RCVBUFFORCE");
	for (one = 0; one < BATCH; one++) {
		parts[one] = (struct iovec){&data[one], 1}; /* the rest is cut off */
		messages[one].msg_hdr = (struct msghdr){.msg_iov = &parts[one], .msg_iovlen = 1};
	}
	print_ready();
	while (recvmmsg(server, messages, BATCH, MSG_WAITFORONE, NULL) > 0)
		sleep_until(now_ns() + TICK_NS); /* few wake-ups, large batches */
	fail("recvmmsg");
}

int main(int count, char **words)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (count == 9 && !strcmp(words[1], "send"))
		run_sender(open_flows(words + 2));
	else if (count == 9 && !strcmp(words[1], "flood"))
		run_sender(open_flood(words + 2));
	else if (count == 4 && !strcmp(words[1], "receive"))
		run_receiver(words + 2);
	else
		refuse("usage: send | flood | receive, see the source");
	return 0;
}
