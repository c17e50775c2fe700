/*
 * The floor of the benches over TCP: a bare epoll server. One thread, non-blocking sockets, no parsing: the bytes read
 * are sent back. No server that answers these bytes on this machine can be much cheaper, so it is the reference for our
 * measurements. It is deliberately simple: level-triggered epoll(7), one recv and one send per wake-up.
 *
 * usage: floor [-a file [-r bytes] [-k file]]     listens on 127.0.0.1, at a port chosen by the kernel, and prints it
 * -a: the file's content is the answer to every request, and a request ends in an empty line: "\r\n\r\n" is counted and
 *     nothing else is examined (HTTP). With -r a request is this many bytes, whatever they are (WebSocket frames).
 * -k: the file answers the first request of a connection, up to an empty line: a handshake.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { kBacklog = 511, kMaxEvents = 256, kReadBytes = 64 * 1024, kMaxFileBytes = 4096 };

/* Bytes the kernel did not take wait here. Meanwhile we do not read, so there is never more than one read's worth. */
struct connection {
  int fd;
  size_t begin, end;
  char *unsent;
  size_t owed;      /* with -a: bytes of answers still to be sent */
  size_t partial;   /* bytes of the incomplete request: all of them with -r, else those of its "\r\n\r\n" */
  bool has_shaken;
};

/* The answer, repeated so that one send usually covers all requests of one read. */
static char answers[kReadBytes + kMaxFileBytes], handshake[kMaxFileBytes];
static size_t answer_bytes, answers_bytes, handshake_bytes, request_bytes;
static int epoll_fd;
static char read_buffer[kReadBytes];

static void die(const char *what) {
  fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void watch(int operation, int fd, uint32_t events, void *owner) {
  struct epoll_event event = {.events = events, .data.ptr = owner};
  if (epoll_ctl(epoll_fd, operation, fd, &event) < 0) die("epoll_ctl");
}

static int listen_on_loopback(void) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0) die("setsockopt SO_REUSEADDR");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
  if (listen(fd, kBacklog) < 0) die("listen");
  return fd;
}

static unsigned port_of(int fd) {
  struct sockaddr_in address;
  socklen_t length = sizeof address;
  if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) die("getsockname");
  return ntohs(address.sin_port);
}

static void accept_all(int listener) {
  for (;;) {
    int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
    if (fd < 0 && errno == EAGAIN) return;
    if (fd < 0) die("accept4");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails only if the peer has gone: read reports it */
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) die("calloc");
    connection->fd = fd;
    connection->has_shaken = handshake_bytes == 0;
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, connection);
  }
}

/* Closing also leaves the epoll set. There is one event per descriptor and wake-up, so no later one refers to it. */
static void drop(struct connection *connection) {
  close(connection->fd);
  free(connection->unsent);
  free(connection);
}

static bool is_transient(void) { return errno == EAGAIN || errno == EINTR; }

static void keep(struct connection *connection, const char *bytes, size_t length) {
  if (!connection->unsent && !(connection->unsent = malloc(kReadBytes))) die("malloc");
  memcpy(connection->unsent, bytes, length);
  connection->begin = 0;
  connection->end = length;
  watch(EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection);
}

/* Returns how many requests end in these bytes: by empty lines, or by their length. */
static size_t ends_in(struct connection *connection, const char *bytes, size_t length) {
  static const char end[] = "\r\n\r\n";
  size_t count = 0;
  if (request_bytes > 0 && connection->has_shaken) {
    count = (connection->partial + length) / request_bytes;
    connection->partial = (connection->partial + length) % request_bytes;
    return count;
  }
  for (const char *at = bytes, *limit = bytes + length; at < limit; at++) {
    if (connection->partial == 0 && !(at = memchr(at, '\r', (size_t)(limit - at)))) break;
    connection->partial = *at == end[connection->partial] ? connection->partial + 1 : *at == '\r';
    if (connection->partial < 4) continue;
    count++;
    connection->partial = 0;
  }
  return count;
}

/* Continues the answers where the last send stopped. */
static void send_owed(struct connection *connection) {
  while (connection->owed > 0) {
    size_t from = (answer_bytes - connection->owed % answer_bytes) % answer_bytes;
    size_t length = connection->owed < answers_bytes - from ? connection->owed : answers_bytes - from;
    ssize_t sent = send(connection->fd, answers + from, length, MSG_NOSIGNAL);
    if (sent < 0 && is_transient()) return;
    if (sent < 0) {
      connection->owed = 0; /* the peer has gone: the next read reports that */
      return;
    }
    connection->owed -= (size_t)sent;
  }
}

/* The peer waits for this answer, which is short, so the kernel takes all of it. */
static void shake_hands(struct connection *connection) {
  connection->has_shaken = true;
  if (send(connection->fd, handshake, handshake_bytes, MSG_NOSIGNAL) != (ssize_t)handshake_bytes) die("send");
}

static void answer(struct connection *connection, size_t length) {
  size_t count = ends_in(connection, read_buffer, length);
  if (!connection->has_shaken) {
    if (count > 0) shake_hands(connection);
    return;
  }
  connection->owed += count * answer_bytes;
  send_owed(connection);
  if (connection->owed > 0) watch(EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection);
}

static void on_readable(struct connection *connection) {
  ssize_t got = recv(connection->fd, read_buffer, sizeof read_buffer, 0);
  if (got < 0 && is_transient()) return;
  if (got <= 0) {
    drop(connection);
    return;
  }
  if (answer_bytes > 0) {
    answer(connection, (size_t)got);
    return;
  }
  ssize_t sent = send(connection->fd, read_buffer, (size_t)got, MSG_NOSIGNAL);
  if (sent < 0 && !is_transient()) {
    drop(connection);
    return;
  }
  if (sent < 0) sent = 0;
  if (sent < got) keep(connection, read_buffer + sent, (size_t)(got - sent));
}

static void on_writable(struct connection *connection) {
  if (connection->owed > 0) {
    send_owed(connection);
    if (connection->owed == 0) watch(EPOLL_CTL_MOD, connection->fd, EPOLLIN, connection);
    return;
  }
  size_t length = connection->end - connection->begin;
  ssize_t sent = send(connection->fd, connection->unsent + connection->begin, length, MSG_NOSIGNAL);
  if (sent < 0 && is_transient()) return;
  if (sent < 0) {
    drop(connection);
    return;
  }
  connection->begin += (size_t)sent;
  if (connection->begin == connection->end) watch(EPOLL_CTL_MOD, connection->fd, EPOLLIN, connection);
}

static size_t content_of(const char *path, char *bytes) {
  FILE *file = fopen(path, "rb");
  if (!file) die(path);
  size_t length = fread(bytes, 1, kMaxFileBytes, file);
  fclose(file);
  return length;
}

static void parse(int argc, char **argv) {
  int option;
  while ((option = getopt(argc, argv, "a:r:k:")) != -1) {
    if (option == 'a') answer_bytes = content_of(optarg, answers);
    else if (option == 'r') request_bytes = (size_t)atoi(optarg);
    else if (option == 'k') handshake_bytes = content_of(optarg, handshake);
    else exit(2);
  }
  for (; answer_bytes > 0 && answers_bytes + answer_bytes <= sizeof answers; answers_bytes += answer_bytes)
    memmove(answers + answers_bytes, answers, answer_bytes);
}

/* Raises the limit of descriptors to the maximum. */
static void raise_limit(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) die("getrlimit");
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0) die("setrlimit RLIMIT_NOFILE");
}

int main(int argc, char **argv) {
  parse(argc, argv);
  raise_limit();
  int listener = listen_on_loopback();
  if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
  watch(EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
  printf("%u\n", port_of(listener));
  fflush(stdout);

  struct epoll_event events[kMaxEvents];
  for (;;) {
    int count = epoll_wait(epoll_fd, events, kMaxEvents, -1);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (!connection) accept_all(listener);
      else if (connection->end > connection->begin || connection->owed > 0) on_writable(connection);
      else on_readable(connection);
    }
  }
}
