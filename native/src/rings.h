// The memory that C++ and JavaScript share: records of what happened, records of what to send, and the bytes of both.
// It is mapped once and does not move or vanish before the engine ends, whatever JavaScript does to its ArrayBuffer.
//
//   | header | events | sends | queued | send buffer | receive buffer | datagrams |
//   `------------ private to millrace -------------' `--- lent to user code ----'
#pragma once

#include <cstddef>
#include <cstdint>

#include "result.h"

namespace millrace {

/** What happened to a slot. src/net/rings.ts has the same numbers. */
enum class Kind : int32_t {
  /** `a`: offset of an AddressPair in the receive buffer, `b`: the listener's slot. */
  Accepted = 1,
  /** `a`: offset in the receive buffer, `b`: bytes. */
  Received = 2,
  /** The peer sent FIN. */
  Ended = 3,
  /** The kernel has taken everything that was stalled. */
  Drained = 4,
  /** `a`: errno, `b`: 1 if writing failed. The descriptor is closed; JavaScript must still destroy the slot. */
  Closed = 5,
  /** Listeners only. `a`: errno of a failed accept: no descriptor or no memory is left. */
  Scarce = 6,
  /** `a`: offset of its place in the datagrams, `b`: bytes. The last bytes of the place are the sender's address. */
  Datagram = 7,
  /** Datagram sockets only. `a`: errno, `b`: the tag of the datagram being sent, or -1 if receiving failed. */
  DatagramFailed = 8,
};

struct Event {
  int32_t slot;
  int32_t generation;
  Kind kind;
  int32_t a;
  int32_t b;
};

/** Stored as the length of a `Send` instead of a number of bytes. */
enum Operation : int32_t { kPause = -1, kResume = -2, kEnd = -3, kDestroy = -4 };

struct Send {
  int32_t slot;
  int32_t offset;
  int32_t length;
};

/** Both ends of a connection: 56 bytes, numbers in host byte order. `family` 0 is a Unix socket. */
struct AddressPair {
  int32_t family;
  int32_t fd;
  int32_t remote_port;
  int32_t local_port;
  int32_t listener_generation;
  /** The interface of whichever end is link-local: if both are, they share it. 0 if none is. */
  uint32_t scope;
  uint8_t remote[16];
  uint8_t local[16];
};

struct Header {
  /** Number of events in this batch, and index of the first that JavaScript has not handled yet. */
  int32_t event_count;
  int32_t event_next;
  /** Records and bytes that JavaScript has written since the last flush. */
  int32_t send_count;
  int32_t send_bytes;
  /** Grows with each flush. */
  int32_t epoch;
  /** JavaScript wants to be called after the next flush. */
  int32_t wants_call;
};

constexpr int32_t kMaxEvents = 4096;
constexpr int32_t kMaxSends = 16384;
constexpr int32_t kMaxSlots = 1 << 20;  // the kernel's default for fs.nr_open
constexpr int32_t kReceiveBytes = 512 * 1024;
constexpr int32_t kSendBytes = 1024 * 1024;
/** Size of one read: what a socket's default receive buffer yields at a time. */
constexpr int32_t kReadBytes = 64 * 1024;
/** Place for one datagram: up to 65,527 bytes (IPv6) and 56 for an Endpoint. One cache line more than 64 KiB, so that
 * the places do not all compete for the same cache lines. */
constexpr int32_t kDatagramBytes = 64 * 1024 + 64;
constexpr int32_t kMaxDatagrams = 32;

/** Size of an Endpoint (engine_datagrams.cc): at the end of a received datagram's place, or before one to be sent. */
constexpr int32_t kEndpointBytes = 56;

// src/net/rings.ts, native-socket.ts and native-datagrams.ts read and write these by offset.
static_assert(sizeof(Header) == 24 && sizeof(Event) == 20 && sizeof(Send) == 12);
static_assert(sizeof(AddressPair) == 56 && offsetof(AddressPair, scope) == 20 && offsetof(AddressPair, remote) == 24 && offsetof(AddressPair, local) == 40);

class Rings {
 public:
  static Result<Rings*> map();
  ~Rings();
  Rings(const Rings&) = delete;
  Rings& operator=(const Rings&) = delete;

  uint8_t* memory() const { return memory_; }
  size_t size() const { return size_; }

  Header* header;
  Event* events;
  Send* sends;
  /** By slot: flushed bytes that the kernel has not taken. For a listener: how many connections it may still accept. */
  double* queued;
  uint8_t* send;
  uint8_t* receive;
  uint8_t* datagrams;

  /** Offset of each part in bytes, in the order of the diagram above. */
  enum Part { kHeader, kEvents, kSends, kQueued, kSend, kReceive, kDatagrams, kParts };
  size_t offsets[kParts];
  /** Start of the part that user code may see, and may detach from its ArrayBuffer. */
  size_t lent_offset() const { return offsets[kReceive]; }

 private:
  Rings() = default;
  uint8_t* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace millrace
