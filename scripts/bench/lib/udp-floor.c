/*
 * The floor of the udp bench: a bare datagram echo, one recvfrom(2) and one sendto(2) per datagram, as in node:dgram;
 * recvmmsg(2) would be cheaper but is not our reference. epoll(7), one thread, no parsing.
 *
 * usage: udp-floor         binds 127.0.0.1 at a port chosen by the kernel and prints it
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { kMaxBytes = 64 * 1024, kPerWake = 32 /* as in libuv */ };

static char buffer[kMaxBytes];

static void die(const char *what) {
  fprintf(stderr, "udp-floor: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void answer(int fd) {
  for (int i = 0; i < kPerWake; i++) {
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t got = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
    if (got < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNREFUSED)) return;
    if (got < 0) die("recvfrom");
    if (sendto(fd, buffer, (size_t)got, 0, (struct sockaddr *)&from, length) < 0 && errno != ECONNREFUSED) die("sendto");
  }
}

int main(void) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
  if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) die("getsockname");
  printf("%u\n", ntohs(address.sin_port));
  fflush(stdout);
  int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl");
  for (;;) {
    if (epoll_wait(epoll_fd, &event, 1, -1) < 0 && errno != EINTR) die("epoll_wait");
    answer(fd);
  }
}
