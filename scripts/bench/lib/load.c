/*
 * The load generator of the benches over TCP: one thread, epoll(7), C connections with D lines in flight on each. Every
 * byte that comes back is compared with what was sent; a wrong, missing or surplus byte is an error: exit code 1.
 *
 * It must be cheaper than any server it measures, so the only work per line is the latency bookkeeping: a
 * connection's traffic is a periodic stream laid out once, a write is a slice of it, and a check is one memcmp.
 * For all lines answered in one read, the same number of new ones is sent in one write.
 *
 *   stream of connection 3:  | c3 m0 ...\n | c3 m1 ...\n | ... | c3 m(period-1) ...\n | first D lines again |
 *                              ^ lineBytes                        so that any slice of D lines is contiguous
 *
 * With -q the stream repeats one request, and a reply is recognised by its length, its first and its last bytes: HTTP,
 * whose Date changes, and WebSocket frames. With -k a handshake comes first, and its answer ends in an empty line.
 *
 * usage: load -p port [-c connections] [-d in flight] [-s line bytes, newline included] [-t seconds | -n lines]
 *             [-w warm-up seconds] [-i] [-o | -b]
 *             [-q file of the request -r reply bytes [-x its first bytes in hex] [-z file of its last bytes]] [-k file]
 * -i: print "open" when all connections are open and "ready" after the warm-up, and wait for a line on stdin each time;
 *     after the result wait for stdin to end before closing. Server and generator are idle at the latter two points, so
 *     a sample of CPU time taken there is exact. An open connection may not be accepted yet: it may be in the backlog.
 * -o: once: a connection is made, sends one message, is closed when that has been answered, and another one takes its
 *     place; -c of them at a time. No handshake.
 * -b: broadcast, with -q: only connection 0 sends, and every connection must get the reply before the next one is sent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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
  kReadBytes = 256 * 1024,
  kMaxFileBytes = 4 << 20,
  kManyConnections = 1000,   /* from here on: many source addresses, and no faster than a server accepts */
  kGroup = 64,               /* connections opened at once; with many, kPaceNs between groups: a backlog holds 511 */
  kPaceNs = 5000000,
  kSourceAddresses = 200,    /* 127.0.0.2 and up: an address has 28,000 ports, each unusable for a minute after use */
  kMinPeriod = 64,           /* distinct lines per connection: a reordered reply does not pass as the right one */
  kStallMs = 5000,           /* no reply at all for this long ends the run as an error */
  kSubBucketBits = 6,        /* 64 buckets per power of two: percentiles are exact to 1.6 % */
  kBuckets = 64 << kSubBucketBits,
};

struct options {
  int port, connections, depth, line_bytes;
  double seconds, warmup_seconds;
  uint64_t lines;
  bool interactive, once, broadcasts;
  char *request, *handshake;  /* NULL: lines, and no handshake */
  size_t request_bytes, handshake_bytes, reply_bytes;
  char prefix[64], *suffix;
  size_t prefix_bytes, suffix_bytes;
};

struct connection {
  int fd;
  bool is_open, wants_write;
  char *stream;
  uint64_t *sent_at;         /* ring of `depth` send times, one per line in flight */
  size_t write_at, read_at;  /* positions in the stream, below period * line_bytes */
  size_t unsent, awaited;    /* bytes not yet handed to the kernel; bytes not yet received */
  uint32_t next_sent, next_answered; /* positions in sent_at */
  uint32_t in_flight, partial;       /* lines; bytes received of the incomplete line */
};

struct phase {
  uint64_t ends_at, lines_left, answered;
  bool is_timed, records;
};

static struct options options = {.connections = 1, .depth = 1, .line_bytes = 32, .seconds = 2};
static struct connection *connections;
static size_t period_bytes;
static char *request_stream; /* shared by all connections */
static int epoll_fd;
static uint32_t sources_used;
static uint64_t total_in_flight, now_ns;
static uint64_t errors;
static char first_error[160];
static char read_buffer[kReadBytes];
static uint64_t buckets[kBuckets], slowest_ns;

static void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
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

/* Connections. */

static void watch(int operation, struct connection *connection) {
  struct epoll_event event = {.events = EPOLLIN | (connection->wants_write ? EPOLLOUT : 0), .data.ptr = connection};
  if (epoll_ctl(epoll_fd, operation, connection->fd, &event) < 0) die("epoll_ctl");
}

static void fail(struct connection *connection, const char *why) {
  if (errors++ == 0) snprintf(first_error, sizeof first_error, "connection %td: %s", connection - connections, why);
  if (!connection->is_open) return;
  total_in_flight -= connection->in_flight;
  connection->in_flight = 0;
  connection->is_open = false;
  close(connection->fd);
}

/* Bytes sent for a message, and bytes that come back for it. */
static size_t sent_size(void) { return options.request ? options.request_bytes : (size_t)options.line_bytes; }
static size_t reply_size(void) { return options.request ? options.reply_bytes : (size_t)options.line_bytes; }

static void lay_out_requests(int count) {
  request_stream = allocate((size_t)count, options.request_bytes);
  for (int k = 0; k < count; k++)
    memcpy(request_stream + (size_t)k * options.request_bytes, options.request, options.request_bytes);
}

static void lay_out_stream(struct connection *connection, int index, int period) {
  if (options.request) {
    connection->stream = request_stream;
    return;
  }
  size_t length = (size_t)options.line_bytes;
  connection->stream = allocate((size_t)(period + options.depth), length);
  for (int k = 0; k < period + options.depth; k++) {
    char *line = connection->stream + (size_t)k * length, head[32];
    for (size_t i = 0; i + 1 < length; i++) line[i] = (char)('a' + (i + (size_t)(k % period)) % 26);
    size_t head_bytes = (size_t)snprintf(head, sizeof head, "c%d m%d ", index, k % period);
    memcpy(line, head, head_bytes < length ? head_bytes : length - 1);
    line[length - 1] = '\n';
  }
}

/* The handshake blocks: it is not part of the measurement. */
static void send_handshake(int fd) {
  if (write(fd, options.handshake, options.handshake_bytes) != (ssize_t)options.handshake_bytes) die("write");
}

static void await_handshake(int fd) {
  char answer[4096];
  size_t got = 0;
  while (got < 4 || memcmp(answer + got - 4, "\r\n\r\n", 4) != 0) {
    if (got == sizeof answer || read(fd, answer + got, 1) != 1) die("handshake");
    got++;
  }
}

/* Chooses one of 127.0.0.2 and its neighbours; connect chooses the port. */
static void bind_source(int fd) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + sources_used++ % kSourceAddresses);
  int one = 1;
  if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one) < 0) die("IP_BIND_ADDRESS_NO_PORT");
  if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
}

/* With `type` SOCK_NONBLOCK the socket may not be connected yet on return. */
static int connect_to(int port, int type) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | type, 0);
  if (fd < 0) die("socket");
  if (options.once || options.connections >= kManyConnections) bind_source(fd);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) die("connect");
  return fd;
}

static void open_connection(struct connection *connection) {
  int one = 1, fd = connect_to(options.port, 0);
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0) die("setsockopt TCP_NODELAY");
  if (options.handshake) send_handshake(fd);
  connection->fd = fd;
}

static void finish_opening(struct connection *connection) {
  if (options.handshake) await_handshake(connection->fd);
  if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) < 0) die("fcntl O_NONBLOCK");
  connection->is_open = true;
  watch(EPOLL_CTL_ADD, connection);
}

/* Opens connections together, so that they do not each wait for the server to wake up. */
static void open_group(int first, int end) {
  struct timespec pace = {.tv_nsec = kPaceNs};
  for (int i = first; i < end; i++) open_connection(&connections[i]);
  for (int i = first; i < end; i++) finish_opening(&connections[i]);
  if (options.connections >= kManyConnections) nanosleep(&pace, NULL);
}

/* With -o, connections are opened in `run`. */
static void open_all(void) {
  int period = options.request ? 1 : options.depth > kMinPeriod ? options.depth : kMinPeriod;
  period_bytes = (size_t)period * sent_size();
  if (options.request) lay_out_requests(period + options.depth);
  connections = allocate((size_t)options.connections, sizeof *connections);
  for (int i = 0; i < options.connections; i++) {
    lay_out_stream(&connections[i], i, period);
    connections[i].sent_at = allocate((size_t)options.depth, sizeof *connections[i].sent_at);
  }
  for (int i = 0; i < options.connections && !options.once; i += kGroup)
    open_group(i, i + kGroup < options.connections ? i + kGroup : options.connections);
}

/* Sending and receiving. */

static void want_write(struct connection *connection, bool wants) {
  if (connection->wants_write == wants) return;
  connection->wants_write = wants;
  watch(EPOLL_CTL_MOD, connection);
}

static void flush(struct connection *connection) {
  ssize_t sent = send(connection->fd, connection->stream + connection->write_at, connection->unsent, MSG_NOSIGNAL);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) {
    fail(connection, "send failed");
    return;
  }
  if (sent < 0) sent = 0;
  connection->unsent -= (size_t)sent;
  connection->write_at = (connection->write_at + (size_t)sent) % period_bytes;
  want_write(connection, connection->unsent > 0);
}

static uint32_t allowed(const struct phase *phase, uint32_t wanted) {
  if (phase->is_timed) return now_ns < phase->ends_at ? wanted : 0;
  return wanted < phase->lines_left ? wanted : (uint32_t)phase->lines_left;
}

static void expect(struct connection *connection, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    connection->sent_at[connection->next_sent] = now_ns;
    if (++connection->next_sent == (uint32_t)options.depth) connection->next_sent = 0;
  }
  connection->in_flight += count;
  total_in_flight += count;
  connection->awaited += (size_t)count * reply_size();
}

static void send_lines(struct connection *connection, struct phase *phase, uint32_t wanted) {
  uint32_t count = allowed(phase, wanted);
  if (count == 0) return;
  phase->lines_left -= phase->is_timed ? 0 : count;
  expect(connection, count);
  connection->unsent += (size_t)count * sent_size();
  flush(connection);
}

/* -o: opens a new connection. A send before it is connected waits like one that the kernel did not take. */
static void send_on_new(struct connection *connection, struct phase *phase) {
  if (connection->is_open) close(connection->fd);
  connection->is_open = false;
  if (allowed(phase, 1) == 0) return;
  connection->fd = connect_to(options.port, SOCK_NONBLOCK);
  connection->is_open = true;
  connection->wants_write = false;
  watch(EPOLL_CTL_ADD, connection);
  send_lines(connection, phase, 1);
}

/* -b */
static void send_to_all(struct phase *phase) {
  if (allowed(phase, 1) == 0) return;
  for (int i = 0; i < options.connections; i++) {
    if (connections[i].is_open) expect(&connections[i], 1);
  }
  if (!connections[0].is_open) return;
  connections[0].unsent += sent_size();
  flush(&connections[0]);
}

static void count_answers(struct connection *connection, struct phase *phase, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    if (phase->records) record(now_ns - connection->sent_at[connection->next_answered]);
    if (++connection->next_answered == (uint32_t)options.depth) connection->next_answered = 0;
  }
  connection->in_flight -= count;
  total_in_flight -= count;
  phase->answered += count;
}

/* Whether `length` bytes, the first of which has offset `at` in a reply, agree with `known`, which begins at `from`. */
static bool agrees(const char *bytes, size_t at, size_t length, size_t from, const char *known, size_t known_bytes) {
  size_t begin = at > from ? at : from;
  size_t end = at + length < from + known_bytes ? at + length : from + known_bytes;
  return begin >= end || memcmp(bytes + (begin - at), known + (begin - from), end - begin) == 0;
}

/* Checks replies of which only the length, the beginning and the end are known. */
static bool is_reply(const struct connection *connection, size_t length) {
  size_t reply = options.reply_bytes, tail = reply - options.suffix_bytes;
  for (size_t done = 0, at = connection->partial; done < length; done += reply - at, at = 0) {
    size_t here = reply - at < length - done ? reply - at : length - done;
    const char *bytes = read_buffer + done;
    if (!agrees(bytes, at, here, 0, options.prefix, options.prefix_bytes)) return false;
    if (!agrees(bytes, at, here, tail, options.suffix, options.suffix_bytes)) return false;
  }
  return true;
}

static void on_readable(struct connection *connection, struct phase *phase) {
  ssize_t got = recv(connection->fd, read_buffer, sizeof read_buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  now_ns = clock_ns();
  if (got <= 0) {
    fail(connection, got == 0 ? "closed by the server" : "recv failed");
    return;
  }
  size_t length = (size_t)got;
  if (length > connection->awaited - (options.request ? 0 : connection->unsent)) {
    fail(connection, "more bytes than were sent");
    return;
  }
  if (options.request ? !is_reply(connection, length)
                      : memcmp(read_buffer, connection->stream + connection->read_at, length) != 0) {
    fail(connection, "a reply differs from what was sent");
    return;
  }
  connection->awaited -= length;
  connection->read_at = (connection->read_at + length) % period_bytes;
  size_t pending = connection->partial + length;
  connection->partial = (uint32_t)(pending % reply_size());
  uint32_t answered = (uint32_t)(pending / reply_size());
  count_answers(connection, phase, answered);
  if (options.once && answered > 0) send_on_new(connection, phase);
  else if (!options.once && !options.broadcasts) send_lines(connection, phase, answered);
}

static void fail_unanswered(void) {
  for (int i = 0; i < options.connections; i++) {
    if (connections[i].in_flight > 0) fail(&connections[i], "no reply for 5 s");
  }
}

static void begin(struct phase *phase) {
  if (options.broadcasts) send_to_all(phase);
  for (int i = 0; i < options.connections && !options.broadcasts; i++) {
    if (options.once) send_on_new(&connections[i], phase);
    else if (connections[i].is_open) send_lines(&connections[i], phase, (uint32_t)options.depth);
  }
}

static void run(struct phase *phase) {
  struct epoll_event events[kMaxEvents];
  now_ns = clock_ns();
  begin(phase);
  while (total_in_flight > 0) {
    int count = epoll_wait(epoll_fd, events, kMaxEvents, kStallMs);
    if (count < 0 && errno != EINTR) die("epoll_wait");
    if (count == 0) fail_unanswered();
    for (int i = 0; i < count; i++) {
      struct connection *connection = events[i].data.ptr;
      if (connection->is_open && (events[i].events & EPOLLOUT)) flush(connection);
      if (connection->is_open && (events[i].events & ~(uint32_t)EPOLLOUT)) on_readable(connection, phase);
    }
    if (options.broadcasts && total_in_flight == 0) send_to_all(phase);
  }
}

/* A surplus reply arrives when nothing is in flight, so no read in `run` would see it. */
static void check_for_surplus(void) {
  for (int i = 0; i < options.connections; i++) {
    if (connections[i].is_open && recv(connections[i].fd, read_buffer, 1, MSG_DONTWAIT) >= 0) {
      fail(&connections[i], "surplus bytes, or closed, after the last reply");
    }
  }
}

/* The report. */

static double seconds_of(struct timeval time) { return (double)time.tv_sec + (double)time.tv_usec / 1e6; }

static void report(const struct phase *phase, double seconds, const struct rusage *before, const struct rusage *after) {
  double user = seconds_of(after->ru_utime) - seconds_of(before->ru_utime);
  double system = seconds_of(after->ru_stime) - seconds_of(before->ru_stime);
  printf("{\"connections\":%d,\"inFlight\":%d,\"bytes\":%d,\"messages\":%" PRIu64 ",\"seconds\":%.6f,\"rate\":%.0f,",
         options.connections, options.depth, options.line_bytes, phase->answered, seconds,
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
  struct phase phase = {.is_timed = true, .ends_at = clock_ns() + (uint64_t)(options.warmup_seconds * 1e9)};
  run(&phase);
}

static void measure(void) {
  struct rusage before, after;
  getrusage(RUSAGE_SELF, &before);
  uint64_t began_at = clock_ns();
  struct phase phase = {.records = true, .is_timed = options.lines == 0, .lines_left = options.lines};
  phase.ends_at = began_at + (uint64_t)(options.seconds * 1e9);
  run(&phase);
  double seconds = (double)(clock_ns() - began_at) / 1e9;
  getrusage(RUSAGE_SELF, &after);
  check_for_surplus();
  report(&phase, seconds, &before, &after);
}

static char *content_of(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  char *bytes = allocate(1, kMaxFileBytes);
  if (!file) die(path);
  *size = fread(bytes, 1, kMaxFileBytes, file);
  fclose(file);
  return bytes;
}

/* Reads hexadecimal digits. */
static void read_prefix(const char *text) {
  for (unsigned byte; options.prefix_bytes < sizeof options.prefix && sscanf(text, "%2x", &byte) == 1; text += 2)
    options.prefix[options.prefix_bytes++] = (char)byte;
}

static void parse(int argc, char **argv) {
  int option;
  while ((option = getopt(argc, argv, "p:c:d:s:t:n:w:iobq:r:x:z:k:")) != -1) {
    if (option == 'p') options.port = atoi(optarg);
    else if (option == 'c') options.connections = atoi(optarg);
    else if (option == 'd') options.depth = atoi(optarg);
    else if (option == 's') options.line_bytes = atoi(optarg);
    else if (option == 't') options.seconds = atof(optarg);
    else if (option == 'n') options.lines = strtoull(optarg, NULL, 10);
    else if (option == 'w') options.warmup_seconds = atof(optarg);
    else if (option == 'i') options.interactive = true;
    else if (option == 'o') options.once = true;
    else if (option == 'b') options.broadcasts = true;
    else if (option == 'q') options.request = content_of(optarg, &options.request_bytes);
    else if (option == 'k') options.handshake = content_of(optarg, &options.handshake_bytes);
    else if (option == 'r') options.reply_bytes = (size_t)atoi(optarg);
    else if (option == 'x') read_prefix(optarg);
    else if (option == 'z') options.suffix = content_of(optarg, &options.suffix_bytes);
    else exit(2);
  }
  size_t known = options.prefix_bytes > options.suffix_bytes ? options.prefix_bytes : options.suffix_bytes;
  bool is_told = !options.request || (options.request_bytes > 0 && known > 0 && options.reply_bytes >= known);
  bool is_one = options.depth == 1; /* in flight */
  bool has_sense = options.once         ? is_one && !options.handshake && !options.broadcasts
                   : options.broadcasts ? is_one && options.request
                                        : true;
  bool are_positive = options.port > 0 && options.connections > 0 && options.depth > 0 && options.line_bytes > 1;
  if (is_told && has_sense && are_positive) return;
  fprintf(stderr, "usage: load -p port [-c connections] [-d in flight] [-s line bytes] [-t seconds | -n lines] "
                  "[-w warm-up seconds] [-i] [-o | -b] [-q file -r bytes [-x hex] [-z file]] [-k file]\n");
  exit(2);
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
  if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0) die("epoll_create1");
  open_all();
  say_and_wait("open");
  warm_up();
  say_and_wait("ready");
  measure();
  while (options.interactive && wait_for_line()) continue;
  return errors ? 1 : 0;
}
