// Datagrams in batches: recvmmsg(2), sendmmsg(2), udp(7). One place of the ring for each, the sender's address at its end.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "engine.h"

namespace millrace {
namespace {

/** In the last bytes of a received datagram's place, and before the first of one that is to be sent. */
struct Endpoint {
  /** 4, 6; 0 sends to the peer that the socket is connected to. */
  int32_t family;
  int32_t port;
  uint32_t scope;
  /** What JavaScript knows the datagram by, if it fails. */
  int32_t tag;
  uint8_t ip[16];
};

constexpr int32_t kEndpointBytes = static_cast<int32_t>(sizeof(Endpoint));

union AnyAddress {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

void unpack(const AnyAddress& address, Endpoint* endpoint) {
  *endpoint = {};
  if (address.any.sa_family == AF_INET6) {
    endpoint->family = 6;
    endpoint->port = ntohs(address.v6.sin6_port);
    endpoint->scope = address.v6.sin6_scope_id;
    std::memcpy(endpoint->ip, &address.v6.sin6_addr, 16);
  } else if (address.any.sa_family == AF_INET) {
    endpoint->family = 4;
    endpoint->port = ntohs(address.v4.sin_port);
    std::memcpy(endpoint->ip, &address.v4.sin_addr, 4);
  }
}

socklen_t pack(const Endpoint& endpoint, AnyAddress* address) {
  std::memset(address, 0, sizeof(*address));
  if (endpoint.family == 6) {
    address->v6.sin6_family = AF_INET6;
    address->v6.sin6_port = htons(static_cast<uint16_t>(endpoint.port));
    address->v6.sin6_scope_id = endpoint.scope;
    std::memcpy(&address->v6.sin6_addr, endpoint.ip, 16);
    return sizeof(sockaddr_in6);
  }
  if (endpoint.family == 4) {
    address->v4.sin_family = AF_INET;
    address->v4.sin_port = htons(static_cast<uint16_t>(endpoint.port));
    std::memcpy(&address->v4.sin_addr, endpoint.ip, 4);
    return sizeof(sockaddr_in);
  }
  return 0;
}

/** One to be sent: its address, then its bytes. */
struct Outgoing {
  Endpoint endpoint;
  AnyAddress address;
  iovec piece;

  void read(uint8_t* bytes, size_t length, msghdr* header) {
    std::memcpy(&endpoint, bytes, sizeof(endpoint));
    piece = {bytes + sizeof(endpoint), length - sizeof(endpoint)};
    socklen_t size = pack(endpoint, &address);
    *header = {};
    header->msg_name = size == 0 ? nullptr : &address;
    header->msg_namelen = size;
    header->msg_iov = &piece;
    header->msg_iovlen = 1;
  }

  const uint8_t* bytes() const { return static_cast<const uint8_t*>(piece.iov_base) - sizeof(endpoint); }
  size_t size() const { return piece.iov_len + sizeof(endpoint); }
};

/** So many datagrams in one system call. */
constexpr size_t kAtOnce = 64;

}  // namespace

void Engine::read_datagrams(int32_t slot) {
  Slot& one = at(slot);
  const int32_t most = std::min(kMaxDatagrams - datagrams_used_, kMaxEvents - rings_->header->event_count);
  if ((one.flags & kIsReadable) == 0 || (one.flags & kIsPaused) != 0) return;
  if (most <= 0) return make_ready(slot);
  mmsghdr headers[kMaxDatagrams] = {};
  iovec pieces[kMaxDatagrams];
  AnyAddress addresses[kMaxDatagrams];
  for (int32_t i = 0; i < most; i++) {
    uint8_t* place = rings_->datagrams + static_cast<size_t>(datagrams_used_ + i) * kDatagramBytes;
    pieces[i] = {place, static_cast<size_t>(kDatagramBytes - kEndpointBytes)};
    headers[i].msg_hdr.msg_name = &addresses[i];
    headers[i].msg_hdr.msg_namelen = sizeof(AnyAddress);
    headers[i].msg_hdr.msg_iov = &pieces[i];
    headers[i].msg_hdr.msg_iovlen = 1;
  }
  int count;
  do count = recvmmsg(one.fd, headers, static_cast<unsigned>(most), MSG_DONTWAIT, nullptr);
  while (count < 0 && errno == EINTR);
  if (count < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) one.flags &= static_cast<uint16_t>(~kIsReadable);
    else {
      tell(slot, Kind::DatagramFailed, errno, -1);
      make_ready(slot);  // an ICMP error was told and is gone: what comes behind it can be read
    }
    return;
  }
  for (int i = 0; i < count; i++) {
    int32_t offset = (datagrams_used_ + i) * kDatagramBytes;
    Endpoint endpoint;
    unpack(addresses[i], &endpoint);
    std::memcpy(rings_->datagrams + offset + kDatagramBytes - kEndpointBytes, &endpoint, sizeof(endpoint));
    tell(slot, Kind::Datagram, offset, static_cast<int32_t>(headers[i].msg_len));
  }
  datagrams_used_ += count;
  // Fewer than there was room for is not the end of them: an error may lie between, of which no edge tells (recvmmsg(2)).
  make_ready(slot);
}

void Engine::send_datagrams(int32_t slot) {
  Slot& one = at(slot);
  mmsghdr headers[kAtOnce];
  Outgoing outgoing[kAtOnce];
  int32_t record = one.first_send;
  while (record >= 0) {
    size_t count = 0;
    for (; record >= 0 && count < kAtOnce; record = next_send_[static_cast<size_t>(record)]) {
      const Send& send = rings_->sends[record];
      if (send.length < kEndpointBytes) continue;
      uint8_t* bytes = rings_->send + send.offset;
      if (one.unsent) keep(slot, bytes, static_cast<size_t>(send.length));
      else outgoing[count].read(bytes, static_cast<size_t>(send.length), &headers[count++].msg_hdr);
    }
    for (size_t from = 0; from < count;) {
      int sent;
      do sent = sendmmsg(one.fd, headers + from, static_cast<unsigned>(count - from), MSG_NOSIGNAL | MSG_DONTWAIT);
      while (sent < 0 && errno == EINTR);
      if (sent > 0) from += static_cast<size_t>(sent);
      else if (errno == EAGAIN || errno == EWOULDBLOCK) {
        for (; from < count; from++) keep(slot, outgoing[from].bytes(), outgoing[from].size());
      } else tell_later(slot, Kind::DatagramFailed, errno, outgoing[from++].endpoint.tag);
    }
  }
}

void Engine::write_unsent_datagrams(int32_t slot) {
  Slot& one = at(slot);
  one.flags &= static_cast<uint16_t>(~kIsWritable);
  if (!one.unsent) return;
  for (; !one.unsent->empty(); one.unsent->pop_front()) {
    const Chunk& first = one.unsent->front();
    msghdr header;
    Outgoing outgoing;
    outgoing.read(first.bytes.get(), first.length, &header);
    ssize_t sent;
    do sent = sendmsg(one.fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (sent < 0) tell_later(slot, Kind::DatagramFailed, errno, outgoing.endpoint.tag);
    rings_->queued[slot] -= static_cast<double>(first.length);
  }
  one.unsent.reset();
  tell(slot, Kind::Drained);
}

}  // namespace millrace
