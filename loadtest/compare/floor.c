/*
 * floor: the least work that a push server can do. A client that sends GET /room or GET /room-N is a subscriber of that room;
 * the body of a POST there goes to all of its subscribers, as one WebSocket frame and one send() each. There is no access
 * control and no log, so nearly all it costs is the kernel's work.
 *
 *   cc -O2 -o floor floor.c && ./floor PORT
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LIMIT = 1 << 16 };

static const char welcome[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                              "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02{}";
static const char thanks[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static int first_in[LIMIT], next_to[LIMIT]; /* linked lists: each room's first subscriber, each subscriber's successor; 0 for none */

static int room_of(const char *request)
{
    const char *number = strpbrk(request, "-\r"); /* "GET /room-17 HTTP/1.1" */
    return number && *number == '-' ? 1 + atoi(number + 1) : 0;
}

static void publish(int room, const char *body, int length)
{
    static char frame[LIMIT + 4];
    int head = 0;
    frame[head++] = (char)0x81;
    if (length < 126) {
        frame[head++] = (char)length;
    } else {
        frame[head++] = 126;
        frame[head++] = (char)(length >> 8);
        frame[head++] = (char)length;
    }
    memcpy(frame + head, body, length);
    for (int fd = first_in[room]; fd; fd = next_to[fd]) send(fd, frame, head + length, MSG_NOSIGNAL | MSG_DONTWAIT);
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (void *)&here, sizeof here) || listen(listener, 4096)) {
        perror("bind");
        return 1;
    }
    struct epoll_event interest = {.events = EPOLLIN, .data.fd = listener}, found[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &interest);
    static char request[LIMIT + 1];
    for (;;) {
        int n = epoll_wait(poll, found, 256, -1);
        for (int i = 0; i < n; i++) {
            int fd = found[i].data.fd;
            if (fd == listener) {
                fd = accept(listener, 0, 0);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                interest.data.fd = fd;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &interest);
                continue;
            }
            int got = recv(fd, request, LIMIT, 0);
            if (got <= 0) {
                close(fd);
                continue;
            }
            request[got] = 0;
            char *body = strstr(request, "\r\n\r\n"), *size = strcasestr(request, "content-length:");
            int room = room_of(request);
            if (!body || room >= LIMIT || fd >= LIMIT) continue;
            if (request[0] == 'G') {
                next_to[fd] = first_in[room], first_in[room] = fd;
                send(fd, welcome, sizeof welcome - 1, MSG_NOSIGNAL);
            } else if (size) {
                int length = atoi(size + 15), there = request + got - (body += 4);
                while (there < length && body + length < request + LIMIT && (got = recv(fd, body + there, length - there, 0)) > 0)
                    there += got;
                publish(room, body, there);
                send(fd, thanks, sizeof thanks - 1, MSG_NOSIGNAL);
            }
        }
    }
}
