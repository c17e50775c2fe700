// See engine.h. Streams and listeners; datagrams are in engine_datagrams.cc.

#include "engine.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "address.h"
#include "sockets.h"

namespace millrace {
namespace {

/** Most events taken per epoll_wait; the next call returns the rest. */
constexpr int kMaxReady = 1024;
/** Most connections accepted per listener and batch: others need their turn, and sibling processes their share. */
constexpr int kMaxAccepts = 16;
/** IOV_MAX. */
constexpr size_t kMaxPieces = 1024;
/** Limits of one write of queued data: bytes and pieces. */
constexpr size_t kWriteBytes = 256 * 1024;
constexpr size_t kMaxPiecesLater = 64;
/** Memory for small pieces that wait behind others. */
constexpr size_t kSharedChunkBytes = 4096;

uint64_t key_of(int32_t slot, int32_t generation) {
  return static_cast<uint64_t>(static_cast<uint32_t>(generation)) << 32 | static_cast<uint32_t>(slot);
}

/** Errors that concern only the pending connection: accept(2), "Error handling". All others persist, as EMFILE does. */
bool is_of_connection(int error) {
  switch (error) {
    case ECONNABORTED:
    case EINTR:
    case EPERM:
    case EPROTO:
    case ENOPROTOOPT:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTDOWN:
    case EHOSTUNREACH:
    case ENONET:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

/** An integer option of a socket; -1 if it cannot be read, as when `fd` is no socket. */
int option_of(int fd, int name) {
  int value = -1;
  socklen_t length = sizeof(value);
  return getsockopt(fd, SOL_SOCKET, name, &value, &length) == 0 ? value : -1;
}

void local_of(int fd, AddressPair* pair) {
  Address address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, &address.any, &length) != 0) return;
  pair->family = unpack(address, &pair->local_port, pair->local);
  pair->scope = scope_of(address);
}

bool is_wildcard(const AddressPair& pair) {
  static const uint8_t none[16] = {};
  return pair.family != 0 && std::memcmp(pair.local, none, sizeof(none)) == 0;
}

int error_of(int fd) {
  int error = 0;
  socklen_t length = sizeof(error);
  return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

ssize_t send_pieces(int fd, iovec* pieces, size_t count) {
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = count;
  ssize_t sent;
  do sent = count == 1 ? ::send(fd, pieces[0].iov_base, pieces[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                       : sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  while (sent < 0 && errno == EINTR);
  return sent;
}

/**
 * recv(2). A read from a Unix socket ends behind a message with descriptors, whatever follows (unix(7)). They are not
 * wanted here, so the kernel closes them and says so: then `is_cut` is set.
 */
ssize_t receive(int fd, bool is_local, uint8_t* into, size_t length, bool* is_cut) {
  iovec piece{into, length};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  ssize_t count;
  do count = is_local ? recvmsg(fd, &message, MSG_DONTWAIT) : recv(fd, into, length, MSG_DONTWAIT);
  while (count < 0 && errno == EINTR);
  *is_cut = is_local && (message.msg_flags & MSG_CTRUNC) != 0;
  return count;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::create() {
  using Made = Result<std::unique_ptr<Engine>>;
  Result<Rings*> rings = Rings::map();
  if (!rings.ok()) return Made::fail(rings.failure.error, rings.failure.call);
  std::unique_ptr<Engine> engine(new Engine());
  engine->rings_.reset(rings.value);
  engine->epoll_ = epoll_create1(EPOLL_CLOEXEC);
  if (engine->epoll_ < 0) return Made::fail(errno, "epoll_create1");
  engine->next_send_.resize(kMaxSends);
  return Made::of(std::move(engine));
}

Engine::~Engine() {
  for (Slot& slot : slots_)
    if (slot.fd >= 0) close(slot.fd);
  if (epoll_ >= 0) close(epoll_);
}

// Slots

Result<int32_t> Engine::take(int fd, Role role, uint32_t events, uint16_t flags) {
  if (free_.empty() && slots_.size() >= static_cast<size_t>(kMaxSlots)) return Result<int32_t>::fail(EMFILE, "epoll_ctl");
  bool is_new = free_.empty();
  int32_t slot = is_new ? static_cast<int32_t>(slots_.size()) : free_.back();
  if (is_new) slots_.emplace_back();
  epoll_event event{};
  event.events = events | EPOLLET;
  event.data.u64 = key_of(slot, at(slot).generation);
  if (epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) {
    int error = errno;
    if (is_new) slots_.pop_back();
    return Result<int32_t>::fail(error, "epoll_ctl");
  }
  if (!is_new) free_.pop_back();
  Slot& taken = at(slot);
  taken.fd = fd;
  taken.role = role;
  taken.flags |= flags;
  rings_->queued[slot] = 0;
  in_use_++;
  return Result<int32_t>::of(slot);
}

Result<int32_t> Engine::listen(int fd) {
  if (option_of(fd, SO_ACCEPTCONN) != 1) return Result<int32_t>::fail(EINVAL, "listen");
  // The process that passed it may not have set this, and a blocking accept would stop everything.
  if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) return Result<int32_t>::fail(errno, "fcntl");
  Result<int32_t> slot = take(fd, Role::Listener, EPOLLIN, 0);
  if (!slot.ok()) return slot;
  auto local = std::make_unique<AddressPair>();
  std::memset(local.get(), 0, sizeof(AddressPair));
  local_of(fd, local.get());
  at(slot.value).local = std::move(local);
  return slot;
}

Result<int32_t> Engine::adopt(int fd, bool is_paused) {
  if (option_of(fd, SO_TYPE) != SOCK_STREAM || option_of(fd, SO_ACCEPTCONN) != 0)
    return Result<int32_t>::fail(EINVAL, "epoll_ctl");
  const bool is_local = option_of(fd, SO_DOMAIN) == AF_UNIX;
  return take_stream(fd, static_cast<uint16_t>((is_paused ? kIsPaused : 0) | (is_local ? kIsLocal : 0)));
}

Result<int32_t> Engine::receive_datagrams(int fd) {
  if (option_of(fd, SO_TYPE) != SOCK_DGRAM) return Result<int32_t>::fail(EINVAL, "epoll_ctl");
  const Outcome prepared = prepare_datagrams(fd);
  if (!prepared.ok()) return Result<int32_t>::fail(prepared.failure.error, prepared.failure.call);
  return take(fd, Role::Datagrams, EPOLLIN, 0);
}

Result<int32_t> Engine::take_stream(int fd, uint16_t flags) {
  return take(fd, Role::Stream, EPOLLIN | EPOLLPRI | EPOLLRDHUP, flags);
}

int32_t Engine::generation(int32_t slot) const {
  const size_t at = static_cast<size_t>(slot);
  return at < slots_.size() && slots_[at].role != Role::Free ? slots_[at].generation : 0;
}

bool Engine::is_current(int32_t slot, int32_t generation) const {
  if (slot < 0 || static_cast<size_t>(slot) >= slots_.size()) return false;
  const Slot& one = slots_[static_cast<size_t>(slot)];
  return one.role != Role::Free && one.generation == generation;
}

void Engine::free_slot(int32_t slot) {
  Slot& one = at(slot);
  one.unsent.reset();
  // Other processes may hold the socket too: closed only here, it would stay in the epoll set and wake it.
  if (one.role == Role::Datagrams) epoll_ctl(epoll_, EPOLL_CTL_DEL, one.fd, nullptr);
  if (one.fd >= 0) close(one.fd);  // on Linux, it is closed even if this fails with EINTR
  one.fd = -1;
  one.role = Role::Free;
  one.flags &= kIsInReady;  // it stays queued, and the next owner must not be queued a second time
  one.write_error = 0;
  one.first_send = one.last_send = -1;
  one.local.reset();
  one.generation = one.generation == INT32_MAX ? 1 : one.generation + 1;
  rings_->queued[slot] = 0;
  free_.push_back(slot);
  in_use_--;
}

int Engine::release(int32_t slot, int32_t generation, std::vector<uint8_t>* unsent) {
  if (!is_current(slot, generation) || at(slot).fd < 0 || at(slot).write_error != 0) return -1;
  Slot& one = at(slot);
  if (one.unsent)
    for (const Chunk& chunk : *one.unsent) {
      const uint8_t* bytes = chunk.bytes.get() + chunk.from;
      unsent->insert(unsent->end(), bytes, bytes + chunk.length);
    }
  int fd = one.fd;
  epoll_ctl(epoll_, EPOLL_CTL_DEL, fd, nullptr);
  one.fd = -1;
  free_slot(slot);
  return fd;
}

uint32_t Engine::unacknowledged(int32_t slot, int32_t generation) {
  if (!is_current(slot, generation) || at(slot).role != Role::Stream) return 0;
  Result<uint32_t> count = unacknowledged_bytes(at(slot).fd);
  return count.ok() ? count.value : 0;
}

void Engine::wake(int32_t slot, int32_t generation) {
  if (!is_current(slot, generation) || (at(slot).flags & kRests) == 0) return;
  at(slot).flags = static_cast<uint16_t>((at(slot).flags & ~kRests) | kIsReadable);
  make_ready(slot);
}

// Polling and receiving

bool Engine::poll() {
  epoll_event events[kMaxReady];
  int count;
  do count = epoll_wait(epoll_, events, kMaxReady, 0);
  while (count < 0 && errno == EINTR);
  for (int i = 0; i < count; i++) {
    int32_t slot = static_cast<int32_t>(events[i].data.u64 & 0xffffffff);
    int32_t generation = static_cast<int32_t>(events[i].data.u64 >> 32);
    if (is_current(slot, generation)) note(slot, events[i].events);
  }
  return count == kMaxReady;
}

void Engine::note(int32_t slot, uint32_t events) {
  Slot& one = at(slot);
  if (one.role == Role::Dead) return;
  if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) one.flags |= kIsReadable;
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) one.flags |= kHasHangUp;
  if ((events & EPOLLPRI) != 0) one.flags |= kIsReadable | kHasUrgent;
  if ((events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0 && one.unsent) one.flags |= kIsWritable;
  make_ready(slot);
}

void Engine::make_ready(int32_t slot) {
  if ((at(slot).flags & kIsInReady) != 0) return;
  at(slot).flags |= kIsInReady;
  ready_.push_back(slot);
}

bool Engine::has_room(int32_t events, int32_t bytes) const {
  return rings_->header->event_count + events <= kMaxEvents && receive_used_ + bytes <= kReceiveBytes;
}

void Engine::tell(int32_t slot, Kind kind, int32_t a, int32_t b) {
  rings_->events[rings_->header->event_count++] = {slot, at(slot).generation, kind, a, b};
}

void Engine::tell_later(int32_t slot, Kind kind, int32_t a, int32_t b) {
  later_.push_back({slot, at(slot).generation, kind, a, b});
}

bool Engine::collect() {
  Header* header = rings_->header;
  header->event_count = header->event_next = 0;
  receive_used_ = datagrams_used_ = 0;
  size_t told = std::min(later_.size(), static_cast<size_t>(kMaxEvents));
  std::copy_n(later_.begin(), told, rings_->events);
  header->event_count = static_cast<int32_t>(told);
  later_.erase(later_.begin(), later_.begin() + static_cast<ptrdiff_t>(told));
  for (size_t left = ready_.size(); left > 0 && has_room(kMaxAccepts, kReadBytes); left--) {
    int32_t slot = ready_.front();
    ready_.pop_front();
    at(slot).flags &= static_cast<uint16_t>(~kIsInReady);
    serve(slot);
  }
  return !ready_.empty() || !later_.empty();
}

void Engine::serve(int32_t slot) {
  switch (at(slot).role) {
    case Role::Listener:
      return accept_some(slot);
    case Role::Datagrams:
      if ((at(slot).flags & kIsWritable) != 0) write_unsent_datagrams(slot);
      return read_datagrams(slot);
    case Role::Stream:
      if ((at(slot).flags & kIsWritable) != 0) write_unsent(slot);
      if (at(slot).role == Role::Stream) read_some(slot);
      return;
    case Role::Free:
    case Role::Dead:
      return;
  }
}

void Engine::accept_some(int32_t slot) {
  const int listener = at(slot).fd;
  if ((at(slot).flags & kIsReadable) == 0 || (at(slot).flags & (kIsPaused | kRests)) != 0) return;
  double& room = rings_->queued[slot];
  for (int taken = 0; taken < kMaxAccepts; taken++) {
    if (room < 1) {
      at(slot).flags |= kRests;
      return;
    }
    Address address{};
    socklen_t length = sizeof(address);
    int fd = accept4(listener, &address.any, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        at(slot).flags &= static_cast<uint16_t>(~kIsReadable);
        return;
      }
      if (is_of_connection(errno)) continue;
      at(slot).flags = static_cast<uint16_t>((at(slot).flags & ~kIsReadable) | kRests);
      return tell(slot, Kind::Scarce, errno);
    }
    Result<int32_t> made = take_stream(fd, address.any.sa_family == AF_UNIX ? kIsLocal : 0);
    if (!made.ok()) {
      close(fd);
      at(slot).flags |= kRests;
      return tell(slot, Kind::Scarce, made.failure.error);
    }
    receive_used_ = (receive_used_ + 7) & ~7;
    AddressPair* pair = reinterpret_cast<AddressPair*>(rings_->receive + receive_used_);
    *pair = *at(slot).local;
    if (is_wildcard(*pair)) local_of(fd, pair);
    pair->fd = fd;
    pair->listener_generation = at(slot).generation;
    std::memset(pair->remote, 0, sizeof(pair->remote));
    pair->family = unpack(address, &pair->remote_port, pair->remote);
    if (scope_of(address) != 0) pair->scope = scope_of(address);
    room -= 1;
    tell(made.value, Kind::Accepted, receive_used_, slot);
    receive_used_ += static_cast<int32_t>(sizeof(AddressPair));
  }
  make_ready(slot);  // there may be more
}

void Engine::read_some(int32_t slot) {
  Slot& one = at(slot);
  if ((one.flags & kIsReadable) == 0 || (one.flags & kIsPaused) != 0) return;
  if ((one.flags & kHasEnded) != 0) {  // only an error can follow the end
    one.flags &= static_cast<uint16_t>(~kIsReadable);
    if (one.write_error != 0) return fail(slot, one.write_error, During::Writing);
    int error = (one.flags & kHasHangUp) != 0 ? error_of(one.fd) : 0;
    if (error != 0) fail(slot, error, During::Reading);
    return;
  }
  bool is_cut;
  const ssize_t count = receive(one.fd, (one.flags & kIsLocal) != 0, rings_->receive + receive_used_, kReadBytes, &is_cut);
  if (count > 0) {
    one.last_received = rings_->header->event_count;
    tell(slot, Kind::Received, receive_used_, static_cast<int32_t>(count));
    receive_used_ += static_cast<int32_t>(count);
    // A short read has taken all there was (epoll(7)), unless it was cut, or the peer's FIN or urgent data follows.
    if (count == kReadBytes || is_cut) make_ready(slot);
    else if ((one.flags & (kHasHangUp | kHasUrgent)) == 0) one.flags &= static_cast<uint16_t>(~kIsReadable);
    else if (has_room(kMaxAccepts, kReadBytes)) read_some(slot);
    else make_ready(slot);
  } else {
    find_end(slot, count == 0 ? 0 : errno);
  }
}

/** A read has found no bytes: the end of the stream (0), the end of what has arrived, or an error. */
void Engine::find_end(int32_t slot, int error) {
  Slot& one = at(slot);
  const bool has_time = error == EAGAIN || error == EWOULDBLOCK;
  one.flags &= static_cast<uint16_t>(has_time ? ~(kIsReadable | kHasUrgent) : ~kIsReadable);
  if (error == 0) one.flags |= kHasEnded;
  const bool is_reset = one.write_error != 0 && one.write_error != EPIPE;  // after a FIN it is EPIPE (tcp(7), unix(7))
  if (error == 0 && !is_reset) tell(slot, Kind::Ended);
  if (one.write_error != 0) return fail(slot, one.write_error, During::Writing);
  if (error != 0 && !has_time) fail(slot, error, During::Reading);
}

/** Whether the batch holds bytes of this slot that JavaScript has not handled yet. */
bool Engine::has_waiting_bytes(int32_t slot) const {
  const Header& header = *rings_->header;
  const Slot& one = slots_[static_cast<size_t>(slot)];
  if (one.last_received < header.event_next || one.last_received >= header.event_count) return false;
  const Event& event = rings_->events[one.last_received];
  return event.slot == slot && event.generation == one.generation && event.kind == Kind::Received;
}

// Continues where `read_some` stopped, whoever asks and whenever: nothing is read that would overtake earlier bytes.
// After a FIN or urgent data a short read says nothing, so only `read_some` goes on.
size_t Engine::read_into(int32_t slot, int32_t generation, uint8_t* into, size_t length) {
  if (!is_current(slot, generation) || at(slot).role != Role::Stream || length == 0) return 0;
  Slot& one = at(slot);
  if ((one.flags & (kIsReadable | kIsPaused | kHasEnded | kHasHangUp | kHasUrgent)) != kIsReadable) return 0;
  if (has_waiting_bytes(slot)) return 0;
  bool is_cut;
  const ssize_t count = receive(one.fd, (one.flags & kIsLocal) != 0, into, length, &is_cut);
  if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
    fail(slot, errno, During::ReadingInto);
    return 0;
  }
  if (count == 0) return 0;  // the end of the stream: the next read will find it, too
  if (count < static_cast<ssize_t>(length) && !is_cut) one.flags &= static_cast<uint16_t>(~kIsReadable);
  return count < 0 ? 0 : static_cast<size_t>(count);
}

// Sending

void Engine::flush() {
  Header* header = rings_->header;
  header->epoch = static_cast<int32_t>(static_cast<uint32_t>(header->epoch) + 1);
  const int32_t count = std::clamp(header->send_count, 0, kMaxSends);
  touched_.clear();
  for (int32_t record = 0; record < count; record++) {
    const Send& send = rings_->sends[record];
    if (send.slot < 0 || static_cast<size_t>(send.slot) >= slots_.size()) continue;
    if (send.length < 0) {
      operate(send.slot, send.length);
      continue;
    }
    if (send.offset < 0 || send.offset > kSendBytes - send.length) continue;
    Slot& one = at(send.slot);
    next_send_[static_cast<size_t>(record)] = -1;
    if (one.first_send < 0) {
      one.first_send = record;
      touched_.push_back(send.slot);
    } else {
      next_send_[static_cast<size_t>(one.last_send)] = record;
    }
    one.last_send = record;
  }
  for (int32_t slot : touched_) {
    if (at(slot).role == Role::Datagrams) send_datagrams(slot);
    else send_chain(slot);
    at(slot).first_send = at(slot).last_send = -1;
  }
  header->send_count = header->send_bytes = 0;
}

void Engine::operate(int32_t slot, int32_t operation) {
  Slot& one = at(slot);
  if (one.role == Role::Free) return;
  switch (operation) {
    case kPause:
      one.flags |= kIsPaused;
      if (one.write_error != 0) fail(slot, one.write_error, During::Flushing);
      return;
    case kResume:
      one.flags &= static_cast<uint16_t>(~kIsPaused);
      if ((one.flags & kIsReadable) != 0) make_ready(slot);
      return;
    case kEnd:
      one.flags |= kWantsEnd;
      if (one.first_send < 0) finish_writing(slot);
      return;
    case kDestroy:
      return free_slot(slot);
    default:
      return;
  }
}

/** Bytes of the records from this one on. */
size_t Engine::size_of_chain(int32_t record) const {
  size_t total = 0;
  for (; record >= 0; record = next_send_[static_cast<size_t>(record)])
    total += static_cast<size_t>(rings_->sends[record].length);
  return total;
}

void Engine::send_chain(int32_t slot) {
  Slot& one = at(slot);
  if (!can_send(slot)) return count_unsent(slot, size_of_chain(one.first_send));
  iovec pieces[kMaxPieces];
  int32_t record = one.first_send;
  while (record >= 0) {
    size_t count = 0;
    size_t total = 0;
    for (; record >= 0 && count < kMaxPieces; record = next_send_[static_cast<size_t>(record)]) {
      const Send& send = rings_->sends[record];
      pieces[count++] = {rings_->send + send.offset, static_cast<size_t>(send.length)};
      total += static_cast<size_t>(send.length);
    }
    ssize_t sent = one.unsent ? 0 : send_pieces(one.fd, pieces, count);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
      const int error = errno;
      rings_->queued[slot] += static_cast<double>(total + size_of_chain(record));
      return fail_writing(slot, error, During::Flushing);
    }
    size_t taken = sent > 0 ? static_cast<size_t>(sent) : 0;
    for (size_t i = 0; i < count; i++) {
      size_t skipped = std::min(taken, pieces[i].iov_len);
      taken -= skipped;
      if (skipped < pieces[i].iov_len)
        keep(slot, static_cast<uint8_t*>(pieces[i].iov_base) + skipped, pieces[i].iov_len - skipped);
    }
  }
  finish_writing(slot);
}

bool Engine::can_send(int32_t slot) const {
  const Slot& one = slots_[static_cast<size_t>(slot)];
  return one.role == Role::Stream && one.write_error == 0;
}

/** JavaScript will be told that it has failed, and asks how much was not sent. Not so if it was destroyed. */
void Engine::count_unsent(int32_t slot, size_t bytes) {
  const Role role = at(slot).role;
  if (role == Role::Stream || role == Role::Dead) rings_->queued[slot] += static_cast<double>(bytes);
}

void Engine::send_bytes(int32_t slot, int32_t generation, const uint8_t* bytes, size_t length) {
  flush();  // earlier bytes go first
  if (!is_current(slot, generation)) return;
  if (!can_send(slot)) return count_unsent(slot, length);
  size_t done = 0;
  while (!at(slot).unsent && done < length) {
    iovec piece{const_cast<uint8_t*>(bytes) + done, length - done};
    ssize_t sent = send_pieces(at(slot).fd, &piece, 1);
    if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
      const int error = errno;
      rings_->queued[slot] += static_cast<double>(length - done);
      return fail_writing(slot, error, During::Flushing);
    }
    if (sent <= 0) break;
    done += static_cast<size_t>(sent);
  }
  if (done < length) keep(slot, bytes + done, length - done);
}

Chunk::Chunk(const uint8_t* given, size_t size, size_t room)
    : bytes(std::make_unique_for_overwrite<uint8_t[]>(room)), capacity(room) {
  append(given, size);
}

size_t Chunk::append(const uint8_t* given, size_t size) {
  const size_t taken = std::min(size, capacity - from - length);
  std::memcpy(bytes.get() + from + length, given, taken);
  length += taken;
  return taken;
}

void Engine::keep(int32_t slot, const uint8_t* bytes, size_t length) {
  Slot& one = at(slot);
  if (!one.unsent) {
    one.unsent = std::make_unique<std::deque<Chunk>>();
    watch_write(slot);
    if (one.role == Role::Dead) return;
  }
  rings_->queued[slot] += static_cast<double>(length);
  // Of a stream, small pieces share chunks behind the first: a limit in bytes is to be one of memory. Datagrams do not.
  const bool may_share = one.role == Role::Stream && !one.unsent->empty();
  const size_t taken = may_share ? one.unsent->back().append(bytes, length) : 0;
  const size_t rest = length - taken;
  if (rest > 0) one.unsent->emplace_back(bytes + taken, rest, may_share ? std::max(rest, kSharedChunkBytes) : rest);
}

bool Engine::watch(int32_t slot, uint32_t events) {
  epoll_event event{};
  event.events = events | EPOLLET;
  event.data.u64 = key_of(slot, at(slot).generation);
  return epoll_ctl(epoll_, EPOLL_CTL_MOD, at(slot).fd, &event) == 0;
}

/** Watches from the first stall on: being edge-triggered, this costs nothing while there is room. */
void Engine::watch_write(int32_t slot) {
  Slot& one = at(slot);
  if ((one.flags & kWatchesWrite) != 0) return;
  if (watch(slot, EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP)) one.flags |= kWatchesWrite;
  else fail(slot, errno, During::Flushing);
}

/** Writes only a part at a time, so that a long answer takes turns with others. */
void Engine::write_unsent(int32_t slot) {
  Slot& one = at(slot);
  one.flags &= static_cast<uint16_t>(~kIsWritable);
  if (!one.unsent || one.role != Role::Stream) return;
  iovec pieces[kMaxPiecesLater];
  size_t count = 0;
  size_t total = 0;
  for (auto chunk = one.unsent->begin(); chunk != one.unsent->end() && count < kMaxPiecesLater && total < kWriteBytes; ++chunk) {
    const size_t length = std::min(chunk->length, kWriteBytes - total);
    pieces[count++] = {chunk->bytes.get() + chunk->from, length};
    total += length;
  }
  ssize_t sent = send_pieces(one.fd, pieces, count);
  if (sent < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK) fail_writing(slot, errno, During::Writing);
    return;
  }
  forget_sent(slot, static_cast<size_t>(sent));
  if (one.unsent->empty()) {
    one.unsent.reset();
    finish_writing(slot);
    tell(slot, Kind::Drained);
  } else if (static_cast<size_t>(sent) == total) {
    one.flags |= kIsWritable;
    make_ready(slot);
  }  // else an edge will report room
}

void Engine::forget_sent(int32_t slot, size_t bytes) {
  std::deque<Chunk>& unsent = *at(slot).unsent;
  rings_->queued[slot] -= static_cast<double>(bytes);
  while (bytes > 0) {
    Chunk& first = unsent.front();
    const size_t taken = std::min(bytes, first.length);
    first.from += taken;
    first.length -= taken;
    bytes -= taken;
    if (first.length == 0) unsent.pop_front();
  }
}

void Engine::finish_writing(int32_t slot) {
  Slot& one = at(slot);
  if ((one.flags & kWantsEnd) == 0 || one.unsent || one.role != Role::Stream) return;
  one.flags &= static_cast<uint16_t>(~kWantsEnd);
  ::shutdown(one.fd, SHUT_WR);  // ENOTCONN: the peer has reset, which an event reports
}

/**
 * A peer that has closed, or reset, may have said something before: that is read first, and the error is told at its
 * end. One that is paused is told now, since nobody knows when it will read.
 */
void Engine::fail_writing(int32_t slot, int error, During during) {
  Slot& one = at(slot);
  if ((one.flags & kIsPaused) != 0) return fail(slot, error, during);
  one.write_error = static_cast<uint8_t>(error);
  one.unsent.reset();
  one.flags |= kIsReadable | kHasHangUp;
  make_ready(slot);
}

/** Closes the descriptor now; the slot is freed when JavaScript destroys it after the event. */
void Engine::fail(int32_t slot, int error, During during) {
  Slot& one = at(slot);
  if (one.role == Role::Dead) return;
  if (one.fd >= 0) close(one.fd);
  one.fd = -1;
  one.role = Role::Dead;
  one.unsent.reset();
  if (during == During::Flushing || during == During::ReadingInto)
    tell_later(slot, Kind::Closed, error, during == During::Flushing ? 1 : 0);
  else tell(slot, Kind::Closed, error, during == During::Writing ? 1 : 0);
}

}  // namespace millrace
