// The native engine: an epoll set, a table of slots, and the rings. It collects what happened into records and carries out
// records of what to send; who calls it, and when JavaScript runs, is the binding's business. epoll(7), tcp(7).
//
// Every descriptor is edge-triggered, so a socket that is paused, or whose peer has reset, never wakes the loop twice. What
// an edge has told is kept in the slot's flags, and slots that may have more to read stand in `ready_`.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "result.h"
#include "rings.h"

namespace millrace {

/** Bytes that a slot still has to send: a copy, since JavaScript may do anything to its own. */
struct Chunk {
  std::unique_ptr<uint8_t[]> bytes;
  size_t from = 0;
  size_t length = 0;
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> create();
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /** Readable when there is something to collect. */
  int poll_fd() const { return epoll_; }
  const std::shared_ptr<Rings>& rings() const { return rings_; }

  /** Takes over a listening socket. Its slot. */
  Result<int32_t> listen(int fd);
  /** Takes over a connected socket; `is_paused`: nothing is read before the first resume. */
  Result<int32_t> adopt(int fd, bool is_paused);
  /** Takes over a bound datagram socket. */
  Result<int32_t> receive_datagrams(int fd);
  /** Of a slot in use; 0 where there is none. */
  int32_t generation(int32_t slot) const;

  /** The descriptor, which is the caller's from now on, or -1. What the kernel has not taken comes with it. */
  int release(int32_t slot, int32_t generation, std::vector<uint8_t>* unsent);
  /** Reads what has come to where it belongs; how many bytes. 0: nothing is there, or an event has to be told first. */
  size_t read_into(int32_t slot, int32_t generation, uint8_t* into, size_t length);
  /** A listener that has failed to accept, or had no room for more, looks again. */
  void wake(int32_t slot, int32_t generation);
  /** Sends what is in the ring, then these, from where they are; what the kernel does not take is copied. */
  void send_bytes(int32_t slot, int32_t generation, const uint8_t* bytes, size_t length);

  /** Asks the kernel what is ready. True: there is more than fitted, ask again. */
  bool poll();
  /** Fills the ring of events. True: there is more to collect without another `poll`. */
  bool collect();
  /** Carries out what JavaScript has recorded. May leave events for the next `collect`. */
  void flush();
  bool has_events() const { return !later_.empty(); }
  bool has_ready() const { return !ready_.empty(); }
  /** Slots in use: 0 is no reason to keep the loop alive. */
  int32_t in_use() const { return in_use_; }

 private:
  enum class Role : uint8_t { Free, Listener, Stream, Datagrams, Dead };
  enum Flag : uint16_t {
    kIsPaused = 1,
    /** An edge has told of something to read, and no read has found the end of it. */
    kIsReadable = 2,
    /** FIN or an error is behind the bytes. */
    kHasHangUp = 4,
    /** The end has been read. */
    kHasEnded = 8,
    /** FIN after what is queued. */
    kWantsEnd = 16,
    kIsInReady = 32,
    kWatchesWrite = 64,
    /** An edge has told that there is room. */
    kIsWritable = 128,
    /** A listener that waits for `wake`. */
    kRests = 256,
    /** Urgent data (tcp(7)) cuts a read short: a short one has not found the end. */
    kHasUrgent = 512,
  };

  struct Slot {
    int fd = -1;
    int32_t generation = 1;
    Role role = Role::Free;
    uint16_t flags = 0;
    /** Of this flush: the first and the last record of this slot. */
    int32_t first_send = -1;
    int32_t last_send = -1;
    std::unique_ptr<std::deque<Chunk>> unsent;
    /** Of a listener bound to one address: the local end of all its connections. */
    std::unique_ptr<AddressPair> local;
  };

  Engine() = default;
  Result<int32_t> take(int fd, Role role, uint32_t events, uint16_t flags);
  Result<int32_t> take_stream(int fd, uint16_t flags);
  Slot& at(int32_t slot) { return slots_[static_cast<size_t>(slot)]; }
  bool is_current(int32_t slot, int32_t generation) const;
  void note(int32_t slot, uint32_t events);
  void make_ready(int32_t slot);

  bool has_room(int32_t events, int32_t bytes) const;
  void tell(int32_t slot, Kind kind, int32_t a = 0, int32_t b = 0);
  void tell_later(int32_t slot, Kind kind, int32_t a = 0, int32_t b = 0);
  void serve(int32_t slot);
  void accept_some(int32_t slot);
  void read_some(int32_t slot);
  void read_datagrams(int32_t slot);
  void write_unsent(int32_t slot);
  void forget_sent(int32_t slot, size_t bytes);

  void operate(int32_t slot, int32_t operation);
  void send_chain(int32_t slot);
  struct Batch;
  void send_datagrams(int32_t slot);
  size_t send_batch(int32_t slot, Batch& batch);
  void write_unsent_datagrams(int32_t slot);
  void keep(int32_t slot, const uint8_t* bytes, size_t length);
  bool watch(int32_t slot, uint32_t events);
  void watch_write(int32_t slot);
  void finish_writing(int32_t slot);
  enum class During { Reading, Writing, Flushing, ReadingInto };
  void fail(int32_t slot, int error, During during);
  void free_slot(int32_t slot);

  int epoll_ = -1;
  std::shared_ptr<Rings> rings_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  std::deque<int32_t> ready_;
  std::vector<Event> later_;
  std::vector<int32_t> touched_;
  std::vector<int32_t> next_send_;
  int32_t receive_used_ = 0;
  int32_t datagrams_used_ = 0;
  int32_t in_use_ = 0;
};

}  // namespace millrace
