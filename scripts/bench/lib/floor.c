/*
 * The floor of the text bench: a bare epoll echo server. One thread, non-blocking sockets, no parsing, no lines: what
 * was read is sent back. No server that answers these bytes on this machine can be much cheaper, so it is what we
 * measure our distance from. It refuses to be clever: level-triggered epoll(7), one recv and one send per wake.
 *
 * usage: floor [port]      listens on 127.0.0.1 (port 0, the default, lets the kernel choose) and prints the port
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
#include <sys/socket.h>
#include <unistd.h>

enum { kBacklog = 511, kMaxEvents = 256, kReadBytes = 64 * 1024 };

/* What the kernel did not take waits here; while anything waits we do not read, so it never grows past one read. */
struct connection {
  int fd;
  size_t begin, end;
  char *unsent;
};

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

static int listen_on(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
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
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* fails only if the peer has gone: read will tell */
    struct connection *connection = calloc(1, sizeof *connection);
    if (!connection) die("calloc");
    connection->fd = fd;
    watch(EPOLL_CTL_ADD, fd, EPOLLIN, connection);
  }
}

/* Closing leaves the epoll set too. One event per descriptor and wake, so nobody refers to it after. */
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

static void on_readable(struct connection *connection) {
  ssize_t got = recv(connection->fd, read_buffer, sizeof read_buffer, 0);
  if (got < 0 && is_transient()) return;
  if (got <= 0) {
    drop(connection);
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

int main(int argc, char **argv) {
  int listener = listen_on(argc > 1 ? (uint16_t)atoi(argv[1]) : 0);
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
      else if (connection->end > connection->begin) on_writable(connection);
      else on_readable(connection);
    }
  }
}
