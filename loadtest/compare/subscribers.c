/*
 * subscribers: many clients of one server in one process, so cheap that the server remains the bottleneck.
 *
 *   cc -O2 -o subscribers subscribers.c
 *   ./subscribers PORT CLIENTS EVENTS SECONDS READY REQUEST [SAY]
 *
 * Each client connects to 127.0.0.1, sends REQUEST with its number in place of the "#", then SAY as a WebSocket text frame,
 * and is ready when READY has arrived after the response's head. What arrives then is not parsed, only searched for the time
 * of publishing that each event carries: 19 digits of nanoseconds between two carets. When all clients are ready, or have
 * failed, it prints "ready <clients>"; after EVENTS events, or SECONDS without one,
 * "events <n> closed <n> bytes <n> p50 <us> p99 <us> max <us>".
 *
 * It does not answer pings: a run ends before a server would close the connection for that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { OPENING_AT_ONCE = 100, PORTS_PER_ADDRESS = 20000, EARLY = 4096, DIGITS = 19 };

struct client {
    int fd, early_length;
    char *early;    /* what arrived before it was ready; NULL from then on */
    int stamp_read; /* characters of the current timestamp read so far, including the first caret */
    int64_t stamp;
    char said, ready;
};

static const char *ready_text, *request, *say;
static int64_t events, closed, bytes, last_event;
static uint32_t *latencies;
static int64_t wanted;
static int ready, opening, ended;

static int64_t now(int clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void count(struct client *c, const char *at, const char *end)
{
    int64_t arrived = 0;
    while (at < end) {
        if (!c->stamp_read) {
            if (!(at = memchr(at, '^', end - at))) return;
            c->stamp_read = 1, c->stamp = 0, at++;
        } else if (c->stamp_read <= DIGITS && *at >= '0' && *at <= '9') {
            c->stamp = c->stamp * 10 + (*at++ - '0'), c->stamp_read++;
        } else if (c->stamp_read == DIGITS + 1 && *at == '^') {
            if (!arrived) arrived = now(CLOCK_REALTIME), last_event = now(CLOCK_MONOTONIC);
            if (events < wanted) latencies[events] = arrived > c->stamp ? (arrived - c->stamp) / 1000 : 0;
            events++, c->stamp_read = 0, at++;
        } else {
            c->stamp_read = 0; /* not a timestamp; this character may be a caret, so it is read again */
        }
    }
}

static void say_it(struct client *c)
{
    char frame[256] = {(char)0x81, 0, 'm', 'a', 's', 'k'};
    int length = strlen(say);
    frame[1] = (char)(0x80 | length);
    for (int i = 0; i < length; i++) frame[6 + i] = say[i] ^ frame[2 + i % 4];
    if (send(c->fd, frame, 6 + length, MSG_NOSIGNAL) < 0) perror("say");
    c->said = 1;
}

static void become_ready(struct client *c, const char *data, int length)
{
    if (length > EARLY - 1 - c->early_length) length = EARLY - 1 - c->early_length;
    memcpy(c->early + c->early_length, data, length);
    c->early_length += length;
    c->early[c->early_length] = 0;
    char *body = memmem(c->early, c->early_length, "\r\n\r\n", 4);
    if (!body) return;
    if (say && !c->said) say_it(c);
    if (!memmem(body, c->early + c->early_length - body, ready_text, strlen(ready_text))) return;
    free(c->early);
    c->early = 0, c->ready = 1, ready++, opening--;
}

static void lose(struct client *c)
{
    if (!c->ready) {
        if (!ended++) fprintf(stderr, "closed before it was ready: %.300s\n", c->early);
        opening--;
    } else {
        closed++;
    }
    close(c->fd);
}

static void send_request(int fd, int number)
{
    static char text[8192];
    const char *at = strchr(request, '#');
    int length = at ? snprintf(text, sizeof text, "%.*s%d%s", (int)(at - request), request, number, at + 1)
                    : snprintf(text, sizeof text, "%s", request);
    if (send(fd, text, length, MSG_NOSIGNAL) != length) perror("request");
}

static void begin(struct client *c, int number, int port, int poll)
{
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port)};
    from.sin_addr.s_addr = htonl(0x7f000003 + number / PORTS_PER_ADDRESS);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    c->early = calloc(1, EARLY);
    int on = 1;
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on); /* ports of an earlier run may be in TIME_WAIT */
    /* A blocking connect: on the same machine it returns at once, unless the backlog is full. */
    if (c->fd < 0 || !c->early || bind(c->fd, (void *)&from, sizeof from) || connect(c->fd, (void *)&to, sizeof to)) {
        perror("connect");
        exit(1);
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    send_request(c->fd, number);
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &interest);
    opening++;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 7) return 2;
    int port = atoi(argv[1]), clients = atoi(argv[2]), begun = 0, announced = 0;
    wanted = atoll(argv[3]);
    int64_t patience = atoll(argv[4]) * 1000000000LL;
    ready_text = argv[5], request = argv[6], say = argc > 7 ? argv[7] : 0;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    static char data[1 << 18];
    struct client *all = calloc(clients, sizeof *all);
    latencies = malloc(sizeof *latencies * (wanted ? wanted : 1));
    struct epoll_event found[256];
    int poll = epoll_create1(0);
    last_event = now(CLOCK_MONOTONIC);
    while (events < wanted && now(CLOCK_MONOTONIC) - last_event < patience) {
        while (begun < clients && opening < OPENING_AT_ONCE) begin(&all[begun], begun, port, poll), begun++;
        int n = epoll_wait(poll, found, 256, 100);
        for (int i = 0; i < n; i++) {
            struct client *c = found[i].data.ptr;
            int got = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                lose(c);
                continue;
            }
            bytes += got;
            if (c->ready) count(c, data, data + got);
            else become_ready(c, data, got);
        }
        if (!announced && begun == clients && !opening) {
            announced = 1, bytes = 0, last_event = now(CLOCK_MONOTONIC);
            printf("ready %d\n", ready);
            fflush(stdout);
        }
    }
    int64_t known = events < wanted ? events : wanted;
    qsort(latencies, known, sizeof *latencies, by_size);
    printf("events %ld closed %ld bytes %ld p50 %u p99 %u max %u\n", events, closed, bytes, known ? latencies[known / 2] : 0,
           known ? latencies[known * 99 / 100] : 0, known ? latencies[known - 1] : 0);
    return 0;
}
