// Passes descriptors to another process, duplicates them, and identifies the peer of a Unix socket.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"

namespace millrace {

struct Received {
  std::vector<uint8_t> bytes;
  /** Owned by the caller; CLOEXEC. */
  std::vector<int> fds;
  /** The other end has closed. */
  bool has_ended = false;
};

struct Peer {
  /** 0 if the system does not report it. */
  int pid = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

constexpr size_t kMostDescriptors = 253;  // SCM_MAX_FD

/** SCM_RIGHTS, unix(7). Returns how many bytes were sent; the descriptors are attached to the first of them. */
Result<size_t> send_descriptors(int socket, const std::vector<uint8_t>& bytes, const std::vector<int>& fds);
Result<Received> receive_descriptors(int socket, size_t most_bytes);
/** The process at the other end of a Unix socket. */
Result<Peer> peer_credentials(int socket);
/** Returns a copy, CLOEXEC. */
Result<int> duplicate(int fd);
Outcome duplicate_onto(int from, int to);

}  // namespace millrace
