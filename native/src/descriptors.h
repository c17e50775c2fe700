// Descriptors on their way: to another process, to another number, and who is at the other end.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"

namespace millrace {

struct Received {
  std::vector<uint8_t> bytes;
  /** The caller's from now on; CLOEXEC. */
  std::vector<int> fds;
  /** The other end has closed. */
  bool has_ended = false;
};

struct Peer {
  /** 0 where the system does not tell. */
  int pid = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

constexpr size_t kMostDescriptors = 253;  // SCM_MAX_FD

/** SCM_RIGHTS, unix(7). How many bytes went; the descriptors go with the first of them. */
Result<size_t> send_descriptors(int socket, const std::vector<uint8_t>& bytes, const std::vector<int>& fds);
Result<Received> receive_descriptors(int socket, size_t most_bytes);
/** Who connected to a Unix socket. */
Result<Peer> peer_credentials(int socket);
/** A copy that is CLOEXEC. */
Result<int> duplicate(int fd);
Outcome duplicate_onto(int from, int to);

}  // namespace millrace
