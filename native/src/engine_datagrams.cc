// Datagrams in batches: recvmmsg(2), sendmmsg(2), udp(7). Each received one has a place in the rings, which ends with
// the sender's address.

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
};

static_assert(sizeof(Endpoint) == kEndpointBytes && offsetof(Endpoint, ip) == 16);

void unpack(const Address& address, Endpoint* endpoint) {
  *endpoint = {};
  endpoint->family = unpack(address, &endpoint->port, endpoint->ip);
  endpoint->scope = scope_of(address);
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

  void prepare(uint8_t* first, int32_t count) {
    for (int32_t i = 0; i < count; i++) {
      pieces[i] = {first + static_cast<size_t>(i) * kDatagramBytes, static_cast<size_t>(kDatagramBytes - kEndpointBytes)};
      headers[i] = {};
      headers[i].msg_hdr.msg_name = &addresses[i];
      headers[i].msg_hdr.msg_namelen = sizeof(Address);
      headers[i].msg_hdr.msg_iov = &pieces[i];
      headers[i].msg_hdr.msg_iovlen = 1;
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
    count++;
  }

  const uint8_t* bytes(size_t i) const { return static_cast<const uint8_t*>(pieces[i].iov_base) - sizeof(Endpoint); }
  size_t size(size_t i) const { return pieces[i].iov_len + sizeof(Endpoint); }
};

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
