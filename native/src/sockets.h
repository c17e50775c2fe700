// Binds, describes and configures sockets. Descriptors are plain ints here; owning them is up to the caller.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"

namespace millrace {

enum class Transport { Tcp, Udp, Unix };

struct BindOptions {
  Transport transport = Transport::Tcp;
  /** An IP address; empty for a Unix socket. */
  std::string host;
  uint16_t port = 0;
  std::string path;
  bool reuse_port = false;
  /** For an IPv6 wildcard: accept IPv4 too. */
  bool dual_stack = false;
};

struct SocketName {
  /** 4, 6, or 0 for a Unix socket. */
  int family = 0;
  std::string address;
  uint16_t port = 0;
};

/** A bound socket: CLOEXEC, non-blocking, SO_REUSEADDR for TCP. */
Result<int> bind_socket(const BindOptions& options);
/** A UDP socket with one peer: CLOEXEC, non-blocking. */
Result<int> connect_datagrams(const std::string& host, uint16_t port);
Outcome listen_on(int fd, int backlog);
Result<SocketName> socket_name(int fd);
enum class Inherited { Listening, Datagrams, Other };
/** Returns what kind of socket another process has passed on. Makes it CLOEXEC and non-blocking. */
Result<Inherited> take_inherited(int fd);
Outcome set_keep_alive(int fd, int idle_seconds);
Outcome set_no_delay(int fd, bool is_on);
/** New connections go to the sockets at these places of fd's SO_REUSEPORT group, at random. Linux only. */
Outcome choose_among(int fd, const std::vector<uint32_t>& places);
struct AcceptQueue {
  uint32_t length = 0;
  uint32_t limit = 0;
};
/** How many connections wait to be accepted, and may. Linux only. */
Result<AcceptQueue> accept_queue(int fd);
/** How many bytes the kernel has taken and the peer has not acknowledged. Linux only. */
Result<uint32_t> unacknowledged_bytes(int fd);

}  // namespace millrace
