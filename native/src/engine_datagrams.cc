// Datagrams in batches: recvmmsg(2), sendmmsg(2), udp(7). Each received one has a place in the rings, which ends with
// the sender's address, and on a socket for all addresses the one that it was sent to: an answer that left from another
// would be unknown to its receiver (ip(7) and ipv6(7), IP_PKTINFO).

#include <arpa/inet.h>
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "address.h"
#include "engine.h"

namespace millrace {
namespace {

/** Stored at the end of a received datagram's place, and before the bytes of one to be sent. */
struct Endpoint {
  /** 4 or 6; 0 sends to the peer that the socket is connected to. */
  int32_t family;
  int32_t port;
  uint32_t scope;
  /** Identifies the datagram to JavaScript if sending fails. */
  int32_t tag;
  uint8_t ip[16];
  /** The address of ours: 4 or 6; 0 if it is the socket's, or the kernel chooses. */
  int32_t local_family;
  /** The interface of a link-local one. */
  uint32_t local_scope;
  uint8_t local[16];
};

static_assert(sizeof(Endpoint) == kEndpointBytes && offsetof(Endpoint, ip) == 16 && offsetof(Endpoint, local) == 40);

void unpack(const Address& address, Endpoint* endpoint) {
  *endpoint = {};
  endpoint->family = unpack(address, &endpoint->port, endpoint->ip);
  endpoint->scope = scope_of(address);
}

/** Room for the information about one packet: of IPv4 on an IPv6 socket, the kernel gives both kinds. */
struct alignas(cmsghdr) Control {
  uint8_t bytes[CMSG_SPACE(sizeof(in_pktinfo)) + CMSG_SPACE(sizeof(in6_pktinfo))];
};

void unpack_local(in_pktinfo info, Endpoint* endpoint) {
  // Not ipi_addr, which may be a broadcast. On an IPv6 socket, it is written as all addresses are there: mapped.
  const bool is_mapped = endpoint->family == 6;
  endpoint->local_family = endpoint->family;
  if (is_mapped) std::memset(endpoint->local + 10, 0xff, 2);
  std::memcpy(endpoint->local + (is_mapped ? 12 : 0), &info.ipi_spec_dst, 4);
}

void unpack_local(in6_pktinfo info, Endpoint* endpoint) {
  if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr)) return;  // nothing can be sent from there
  endpoint->local_family = 6;
  endpoint->local_scope = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) ? info.ipi6_ifindex : 0;
  std::memcpy(endpoint->local, &info.ipi6_addr, 16);
}

template <typename Info>
Info info_in(const cmsghdr* item) {
  Info info;
  std::memcpy(&info, CMSG_DATA(item), sizeof(info));
  return info;
}

void unpack_local(msghdr& message, Endpoint* endpoint) {
  for (cmsghdr* item = CMSG_FIRSTHDR(&message); item != nullptr; item = CMSG_NXTHDR(&message, item)) {
    if (item->cmsg_level == IPPROTO_IP && item->cmsg_type == IP_PKTINFO)
      return unpack_local(info_in<in_pktinfo>(item), endpoint);
    if (item->cmsg_level == IPPROTO_IPV6 && item->cmsg_type == IPV6_PKTINFO)
      unpack_local(info_in<in6_pktinfo>(item), endpoint);
  }
}

template <typename Info>
void put(const Info& info, int level, int type, Control* control, msghdr* message) {
  message->msg_control = control->bytes;
  message->msg_controllen = CMSG_SPACE(sizeof(info));
  cmsghdr* item = CMSG_FIRSTHDR(message);
  item->cmsg_level = level;
  item->cmsg_type = type;
  item->cmsg_len = CMSG_LEN(sizeof(info));
  std::memcpy(CMSG_DATA(item), &info, sizeof(info));
}

/** Makes a datagram leave from the address that its endpoint names. */
void pack_local(const Endpoint& endpoint, Control* control, msghdr* message) {
  if (endpoint.local_family == 4) {
    in_pktinfo info{};
    std::memcpy(&info.ipi_spec_dst, endpoint.local, 4);
    put(info, IPPROTO_IP, IP_PKTINFO, control, message);
  } else if (endpoint.local_family == 6) {
    in6_pktinfo info{};
    std::memcpy(&info.ipi6_addr, endpoint.local, 16);
    info.ipi6_ifindex = endpoint.local_scope;
    put(info, IPPROTO_IPV6, IPV6_PKTINFO, control, message);
  }
}

socklen_t pack(const Endpoint& endpoint, Address* address) {
  std::memset(address, 0, sizeof(sockaddr_in6));
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

/** Most datagrams sent per system call. */
constexpr size_t kAtOnce = 64;

/** The places for one call to recvmmsg(2). */
struct Incoming {
  mmsghdr headers[kMaxDatagrams];
  iovec pieces[kMaxDatagrams];
  Address addresses[kMaxDatagrams];
  Control controls[kMaxDatagrams];

  void prepare(uint8_t* first, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
      pieces[i] = {first + static_cast<size_t>(i) * kDatagramBytes, static_cast<size_t>(kDatagramBytes - kEndpointBytes)};
      headers[i] = {};
      headers[i].msg_hdr.msg_name = &addresses[i];
      headers[i].msg_hdr.msg_namelen = sizeof(Address);
      headers[i].msg_hdr.msg_iov = &pieces[i];
      headers[i].msg_hdr.msg_iovlen = 1;
      headers[i].msg_hdr.msg_control = controls[i].bytes;
      headers[i].msg_hdr.msg_controllen = sizeof(Control);
      addresses[i].any.sa_family = AF_UNSPEC;  // the kernel writes nothing for a sender without an address
    }
  }
};

}  // namespace

/** Datagrams for one call to sendmmsg(2), not copied: each is an Endpoint followed by its bytes. */
struct Engine::Batch {
  size_t count = 0;
  mmsghdr headers[kAtOnce];
  iovec pieces[kAtOnce];
  Address addresses[kAtOnce];
  Control controls[kAtOnce];
  int32_t tags[kAtOnce];

  bool is_full() const { return count == kAtOnce; }

  void add(uint8_t* bytes, size_t size) {
    Endpoint endpoint;
    std::memcpy(&endpoint, bytes, sizeof(endpoint));  // it may be unaligned
    const socklen_t length = pack(endpoint, &addresses[count]);
    pieces[count] = {bytes + sizeof(endpoint), size - sizeof(endpoint)};
    tags[count] = endpoint.tag;
    headers[count] = {};
    headers[count].msg_hdr.msg_name = length == 0 ? nullptr : &addresses[count];
    headers[count].msg_hdr.msg_namelen = length;
    headers[count].msg_hdr.msg_iov = &pieces[count];
    headers[count].msg_hdr.msg_iovlen = 1;
    pack_local(endpoint, &controls[count], &headers[count].msg_hdr);
    count++;
  }

  const uint8_t* bytes(size_t i) const { return static_cast<const uint8_t*>(pieces[i].iov_base) - sizeof(Endpoint); }
  size_t size(size_t i) const { return pieces[i].iov_len + sizeof(Endpoint); }
};

/** On a socket for all addresses, datagrams come with the one that they were sent to. */
Outcome Engine::prepare_datagrams(int fd) {
  Address address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, &address.any, &length) != 0) return Outcome::fail(errno, "getsockname");
  const int on = 1;
  const bool is_any_v6 = address.any.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&address.v6.sin6_addr);
  const bool is_any_v4 = address.any.sa_family == AF_INET && address.v4.sin_addr.s_addr == htonl(INADDR_ANY);
  if (is_any_v6 && setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &on, sizeof(on)) != 0)
    return Outcome::fail(errno, "setsockopt");
  if ((is_any_v4 || is_any_v6) && setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) != 0)
    return Outcome::fail(errno, "setsockopt");
  return Outcome::of({});
}

/** Reads as many as there are free places. No place is reused before JavaScript has handled its datagram. */
void Engine::read_datagrams(int32_t slot) {
  Slot& one = at(slot);
  if ((one.flags & kIsReadable) == 0 || (one.flags & kIsPaused) != 0) return;
  const int32_t most = std::min(kMaxDatagrams - datagrams_used_, kMaxEvents - rings_->header->event_count);
  if (most <= 0) return make_ready(slot);
  Incoming incoming;
  incoming.prepare(rings_->datagrams + static_cast<size_t>(datagrams_used_) * kDatagramBytes, most);
  int count;
  do count = recvmmsg(one.fd, incoming.headers, static_cast<unsigned>(most), MSG_DONTWAIT, nullptr);
  while (count < 0 && errno == EINTR);
  if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    one.flags &= static_cast<uint16_t>(~kIsReadable);
  } else if (count < 0) {
    tell(slot, Kind::DatagramFailed, errno, -1);
    make_ready(slot);  // an ICMP error is reported once: what follows it can be read
  } else {
    for (int i = 0; i < count; i++) {
      Endpoint endpoint;
      unpack(incoming.addresses[i], &endpoint);
      unpack_local(incoming.headers[i].msg_hdr, &endpoint);
      const int32_t place = (datagrams_used_ + i) * kDatagramBytes;
      std::memcpy(rings_->datagrams + place + kDatagramBytes - kEndpointBytes, &endpoint, sizeof(endpoint));
      tell(slot, Kind::Datagram, place, static_cast<int32_t>(incoming.headers[i].msg_len));
    }
    datagrams_used_ += count;
    // Fewer than there was room for: the queue is empty, and an edge will report the next datagram. An error that ended
    // the call early has caused an edge of its own.
    if (count == most) make_ready(slot);
    else one.flags &= static_cast<uint16_t>(~kIsReadable);
  }
}

void Engine::send_datagrams(int32_t slot) {
  Slot& one = at(slot);
  int32_t record = one.first_send;
  while (record >= 0) {
    Batch batch;
    for (; record >= 0 && !batch.is_full(); record = next_send_[static_cast<size_t>(record)]) {
      const Send& send = rings_->sends[record];
      if (send.length >= kEndpointBytes) batch.add(rings_->send + send.offset, static_cast<size_t>(send.length));
    }
    for (size_t i = one.unsent ? 0 : send_batch(slot, batch); i < batch.count && one.role == Role::Datagrams; i++)
      keep(slot, batch.bytes(i), batch.size(i));
  }
}

/** Returns how many were sent or have failed. The kernel has no room for the next one, if there is one. */
size_t Engine::send_batch(int32_t slot, Batch& batch) {
  const int fd = at(slot).fd;
  size_t over = 0;
  while (over < batch.count) {
    int sent;
    do sent = sendmmsg(fd, batch.headers + over, static_cast<unsigned>(batch.count - over), MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent > 0) over += static_cast<size_t>(sent);
    else if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    else tell_later(slot, Kind::DatagramFailed, errno, batch.tags[over++]);
  }
  return over;
}

/** Sends only some of the queued datagrams, so that others get their turn. */
void Engine::write_unsent_datagrams(int32_t slot) {
  Slot& one = at(slot);
  one.flags &= static_cast<uint16_t>(~kIsWritable);
  if (!one.unsent) return;
  Batch batch;
  for (auto chunk = one.unsent->begin(); chunk != one.unsent->end() && !batch.is_full(); ++chunk)
    batch.add(chunk->bytes.get(), chunk->length);
  const size_t over = send_batch(slot, batch);
  for (size_t i = 0; i < over; i++) {
    rings_->queued[slot] -= static_cast<double>(one.unsent->front().length);
    one.unsent->pop_front();
  }
  if (one.unsent->empty()) {
    one.unsent.reset();
    // A stream causes an edge only when there is room again, a datagram socket for every datagram that has left.
    if (watch(slot, EPOLLIN)) one.flags &= static_cast<uint16_t>(~kWatchesWrite);
    tell(slot, Kind::Drained);
  } else if (over == batch.count) {
    one.flags |= kIsWritable;
    make_ready(slot);
  }  // else an edge will report room
}

}  // namespace millrace
