// A socket address of whatever family, and what it says: as the system calls take it, and as JavaScript reads it.
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

/** Family 4, 6 or 0; `ip` gets 4 or 16 bytes. */
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

}  // namespace millrace
