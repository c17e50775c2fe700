// A socket address of any family, and its fields: as system calls take it, and as JavaScript reads it.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <cstring>

namespace millrace {

union Address {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
  sockaddr_un local;
};

/** Returns the family: 4, 6, or 0 for any other. Writes 4 or 16 bytes to `ip`; for 0 none. */
inline int32_t unpack(const Address& address, int32_t* port, uint8_t* ip) {
  if (address.any.sa_family == AF_INET) {
    *port = ntohs(address.v4.sin_port);
    std::memcpy(ip, &address.v4.sin_addr, 4);
    return 4;
  }
  if (address.any.sa_family == AF_INET6) {
    *port = ntohs(address.v6.sin6_port);
    std::memcpy(ip, &address.v6.sin6_addr, 16);
    return 6;
  }
  *port = 0;
  return 0;
}

/** The interface of a link-local address, without which it says nothing; otherwise 0. */
inline uint32_t scope_of(const Address& address) {
  return address.any.sa_family == AF_INET6 ? address.v6.sin6_scope_id : 0;
}

}  // namespace millrace
