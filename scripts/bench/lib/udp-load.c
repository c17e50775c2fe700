/*
 * The load generator of the udp bench: one thread, epoll(7), C connected sockets with D datagrams in flight on each, in
 * a closed loop. Every answer is compared with its datagram; one that is wrong, or missing for 5 s, is an error: exit
 * code 1. Loopback preserves the order of one socket and loses only what does not fit into a receive buffer (about 270
 * small datagrams with rmem_default): keep C times D below that.
 *
 * It must be cheaper than any server it measures: whatever has arrived is read with one recvmmsg(2), and the same
 * number is sent with one sendmmsg(2).
 *
 * usage: udp-load -p port [-c sockets] [-d in flight] [-s bytes] [-t seconds] [-w warm-up seconds] [-i]
 * -i: print "open" when all sockets are open and "ready" after the warm-up, and wait for a line on stdin each time;
 *     after the result wait for stdin to end before closing. Server and generator are idle at the latter two points, so
 *     a sample of CPU time taken there is exact.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  kMaxEvents = 256,
  kMaxBatch = 64,
  kMaxBytes = 2048,
  kPeriod = 64,              /* distinct datagrams per socket: a reordered answer does not pass as the right one */
  kStallMs = 5000,           /* no answer at all for this long ends the run as an error */
  kSubBucketBits = 6,        /* 64 buckets per power of two: percentiles are exact to 1.6 % */
  kBuckets = 64 << kSubBucketBits,
};

struct options {
  int port, connections, depth, bytes;
  double seconds, warmup_seconds;
  bool interactive;
};

struct connection {
  int fd;
  bool is_open;
  char *datagrams;           /* kPeriod of them */
  uint64_t *sent_at;         /* ring of `depth` send times */
  uint64_t sent, answered;   /* since it was opened */
};

struct phase {
  uint64_t ends_at, answered;
  bool records;
};

static struct options options = {.connections = 1, .depth = 1, .bytes = 32, .seconds = 2};
static struct connection *connections;
static int epoll_fd;
static uint64_t total_in_flight, now_ns;
static uint64_t errors;
static char first_error[160];
static char received[kMaxBatch][kMaxBytes];
static uint64_t buckets[kBuckets], slowest_ns;

static void die(const char *what) {
  fprintf(stderr, "udp-load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count, size);
  if (!memory) die("calloc");
  return memory;
}

static uint64_t clock_ns(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

/* Latency: log-linear histogram. */

static unsigned bucket_of(uint64_t ns) {
  if (ns < (1u << kSubBucketBits)) return (unsigned)ns;
  unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - kSubBucketBits;
  return ((shift + 1) << kSubBucketBits) + (unsigned)((ns >> shift) & ((1u << kSubBucketBits) - 1));
}

static uint64_t lower_bound_of(unsigned bucket) {
  unsigned major = bucket >> kSubBucketBits;
  uint64_t minor = bucket & ((1u << kSubBucketBits) - 1);
  return major == 0 ? minor : (minor + (1u << kSubBucketBits)) << (major - 1);
}

static void record(uint64_t ns) {
  buckets[bucket_of(ns)]++;
  if (ns > slowest_ns) slowest_ns = ns;
}

static double percentile_us(double fraction) {
  uint64_t total = 0, seen = 0;
  for (unsigned i = 0; i < kBuckets; i++) total += buckets[i];
  for (unsigned i = 0; i < kBuckets; i++) {
    seen += buckets[i];
    if (total && (double)seen >= fraction * (double)total) return (double)lower_bound_of(i) / 1000;
  }
  return 0;
}

/* Sockets. */

static void fail(struct connection *connection, const char *why) {
  if (errors++ == 0) snprintf(first_error, sizeof first_error, "socket %td: %s", connection - connections, why);
  if (!connection->is_open) return;
  total_in_flight -= connection->sent - connection->answered;
  connection->is_open = false;
  close(connection->fd);
}

static char *datagram_of(const struct connection *connection, uint64_t number) {
  return connection->datagrams + (number % kPeriod) * (size_t)options.bytes;
}

static void lay_out(struct connection *connection, int index) {
  size_t length = (size_t)options.bytes;
  connection->datagrams = allocate(kPeriod, length);
  for (int k = 0; k < kPeriod; k++) {
    char *bytes = datagram_of(connection, (uint64_t)k), head[32];
    for (size_t i = 0; i < length; i++) bytes[i] = (char)('a' + (i + (size_t)k) % 26);
    size_t head_bytes = (size_t)snprintf(head, sizeof head, "c%d m%d ", index, k);
    memcpy(bytes, head, head_bytes < length ? head_bytes : length);
  }
}

static int connect_to(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
  return fd;
}

static void open_all(void) {
  connections = allocate((size_t)options.connections, sizeof *connections);
  for (int i = 0; i < options.connections; i++) {
    struct connection *connection = &connections[i];
    lay_out(connection, i);
    connection->sent_at = allocate((size_t)options.depth, sizeof *connection->sent_at);
    connection->fd = connect_to(options.port);
    connection->is_open = true;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) < 0) die("epoll_ctl");
  }
}

/* Sending and receiving. */

static void send_datagrams(struct connection *connection, const struct phase *phase, unsigned count) {
  struct mmsghdr messages[kMaxBatch];
  struct iovec parts[kMaxBatch];
  if (now_ns >= phase->ends_at) return;
  memset(messages, 0, count * sizeof *messages);
  for (unsigned i = 0; i < count; i++) {
    uint64_t number = connection->sent + i;
    parts[i] = (struct iovec){.iov_base = datagram_of(connection, number), .iov_len = (size_t)options.bytes};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
    connection->sent_at[number % (uint64_t)options.depth] = now_ns;
  }
  connection->sent += count;
  total_in_flight += count;
  if (sendmmsg(connection->fd, messages, count, 0) != (int)count) fail(connection, "sendmmsg did not send all");
}

static bool is_answer(struct connection *connection, const char *bytes, unsigned length) {
  return connection->answered < connection->sent && length == (unsigned)options.bytes &&
         memcmp(bytes, datagram_of(connection, connection->answered), length) == 0;
}

static void on_readable(struct connection *connection, struct phase *phase) {
  struct mmsghdr messages[kMaxBatch];
  struct iovec parts[kMaxBatch];
  memset(messages, 0, sizeof messages);
  for (unsigned i = 0; i < kMaxBatch; i++) {
    parts[i] = (struct iovec){.iov_base = received[i], .iov_len = kMaxBytes};
    messages[i].msg_hdr.msg_iov = &parts[i];
    messages[i].msg_hdr.msg_iovlen = 1;
  }
  int count = recvmmsg(connection->fd, messages, kMaxBatch, 0, NULL);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  now_ns = clock_ns();
  if (count < 0) {
    fail(connection, strerror(errno));
    return;
  }
  for (int i = 0; i < count; i++) {
    if (!is_answer(connection, received[i], messages[i].msg_len)) {
      fail(connection, "an answer differs from what was sent");
      return;
    }
    if (phase->records) record(now_ns - connection->sent_at[connection->answered % (uint64_t)options.depth]);
    connection->answered++;
    total_in_flight--;
    phase->answered++;
  }
  send_datagrams(connection, phase, (unsigned)count);
}

static void fail_unanswered(void) {
  for (int i = 0; i < options.connections; i++) {
    struct connection *connection = &connections[i];
    if (connection->is_open && connection->sent > connection->answered) fail(connection, "no answer for 5 s: lost");
  }
}

static void run(struct phase *phase) {
  struct epoll_event events[kMaxEvents];
  now_ns = clock_ns();
  for (int i = 0; i < options.connections; i++) {
    if (connections[i].is_open) send_datagrams(&connections[i], phase, (unsigned)options.depth);
  }
  while (total_in_flight > 0) {
    int count = epoll_wait(epoll_fd, events, kMaxEvents, kStallMs);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    if (count == 0) fail_unanswered();
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->is_open) on_readable(connection, phase);
    }
  }
}

static void check_for_surplus(void) {
  for (int i = 0; i < options.connections; i++) {
    if (connections[i].is_open && recv(connections[i].fd, received[0], kMaxBytes, MSG_DONTWAIT) >= 0) {
      fail(&connections[i], "one answer too many");
    }
  }
}

/* The report. */

static double seconds_of(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

static void report(const struct phase *phase, double seconds, const struct rusage *before, const struct rusage *after) {
  double user = seconds_of(after->ru_utime) - seconds_of(before->ru_utime);
  double system = seconds_of(after->ru_stime) - seconds_of(before->ru_stime);
  printf("{\"connections\":%d,\"inFlight\":%d,\"bytes\":%d,\"messages\":%" PRIu64 ",\"seconds\":%.6f,\"rate\":%.0f,",
         options.connections, options.depth, options.bytes, phase->answered, seconds,
         (double)phase->answered / seconds);
  printf("\"latencyUs\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f},\"cpuSeconds\":{\"user\":%.6f,\"total\":%.6f},",
         percentile_us(.5), percentile_us(.99), (double)slowest_ns / 1000, user, user + system);
  printf("\"errors\":%" PRIu64 ",\"firstError\":\"%s\"}\n", errors, first_error);
  fflush(stdout);
}

static bool wait_for_line(void) {
  char byte;
  while (read(STDIN_FILENO, &byte, 1) == 1) {
    if (byte == '\n') return true;
  }
  return false;
}

static void say_and_wait(const char *word) {
  if (!options.interactive) return;
  puts(word);
  fflush(stdout);
  if (!wait_for_line()) exit(1);
}

static void warm_up(void) {
  if (options.warmup_seconds <= 0) return;
  struct phase phase = {.ends_at = clock_ns() + (uint64_t)(options.warmup_seconds * 1e9)};
  run(&phase);
}

static void measure(void) {
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  uint64_t began_at = clock_ns();
  struct phase phase = {.records = true, .ends_at = began_at + (uint64_t)(options.seconds * 1e9)};
  run(&phase);
  double seconds = (double)(clock_ns() - began_at) / 1e9;
  getrusage(RUSAGE_SELF, &after);
  check_for_surplus();
  report(&phase, seconds, &before, &after);
}

static void parse(int argc, char **argv) {
  int option;
  while ((option = getopt(argc, argv, "p:c:d:s:t:w:i")) != -1) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'c') options.connections = atoi(optarg);
    else if (option == 'd') options.depth = atoi(optarg);
    else if (option == 's') options.bytes = atoi(optarg);
    else if (option == 't') options.seconds = atof(optarg);
    else if (option == 'w') options.warmup_seconds = atof(optarg);
    else if (option == 'i') options.interactive = true;
    else exit(2);
  }
  bool is_small = options.depth <= kMaxBatch && options.bytes <= kMaxBytes;
  if (options.port > 0 && options.connections > 0 && options.depth > 0 && options.bytes > 0 && is_small) return;
  fprintf(stderr, "usage: udp-load -p port [-c sockets] [-d in flight, up to 64] [-s bytes, up to 2048] [-t seconds] "
                  "[-w warm-up seconds] [-i]\n");
  exit(2);
}

int main(int argc, char **argv) {
  parse(argc, argv);
  if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
  open_all();
  say_and_wait("open");
  warm_up();
  say_and_wait("ready");
  measure();
  while (options.interactive && wait_for_line()) continue;
  return errors ? 1 : 0;
}
