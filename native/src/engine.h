// The native engine: an epoll set, a table of slots, and the rings. It collects what happened into records, and carries
// out records of what to send. The binding decides when it is called and when JavaScript runs. epoll(7), tcp(7).
//
// Every descriptor is edge-triggered, so a socket that is paused, or whose peer has reset, never wakes the loop twice.
// What an edge has reported is kept in the slot's flags, and slots that may have more to read or write are queued in
// `ready_`.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "result.h"
#include "rings.h"

namespace millrace {

/** Bytes that a slot still has to send: a copy, since JavaScript may change or free its own. */
struct Chunk {
  std::unique_ptr<uint8_t[]> bytes;
  size_t capacity = 0;
  size_t from = 0;
  size_t length = 0;

  Chunk(const uint8_t* given, size_t size, size_t room);
  /** Appends what there is room for. Returns how much. */
  size_t append(const uint8_t* given, size_t size);
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

  /** Takes over a listening socket. Returns its slot. */
  Result<int32_t> listen(int fd);
  /** Takes over a connected socket. If `is_paused`, nothing is read before the first resume. */
  Result<int32_t> adopt(int fd, bool is_paused);
  /** Takes over a bound datagram socket. */
  Result<int32_t> receive_datagrams(int fd);
  /** The generation of a slot; 0 if the slot is not in use. */
  int32_t generation(int32_t slot) const;

  /** Frees the slot. Returns its descriptor, which the caller now owns, or -1. Appends unsent bytes to `unsent`. */
  int release(int32_t slot, int32_t generation, std::vector<uint8_t>* unsent);
  /** Reads directly into `into`. Returns how many bytes; 0 if there are none or an event must be handled first. */
  size_t read_into(int32_t slot, int32_t generation, uint8_t* into, size_t length);
  /** Bytes the kernel has taken and the peer has not acknowledged; 0 if it does not say. */
  uint32_t unacknowledged(int32_t slot, int32_t generation);
  /** Makes a listener accept again after it has failed to accept or had no room for more. */
  void wake(int32_t slot, int32_t generation);
  /** Sends what is in the ring, then these bytes from where they are; copies what the kernel does not take. */
  void send_bytes(int32_t slot, int32_t generation, const uint8_t* bytes, size_t length);

  /** Asks the kernel what is ready. Returns true if there may be more: call it again. */
  bool poll();
  /** Fills the ring of events. Returns true if there is more to collect without another `poll`. */
  bool collect();
  /** Carries out what JavaScript has recorded. May leave events for the next `collect`. */
  void flush();
  bool has_events() const { return !later_.empty(); }
  bool has_ready() const { return !ready_.empty(); }
  /** Slots in use. At 0, the engine does not keep the loop alive. */
  int32_t in_use() const { return in_use_; }

 private:
  enum class Role : uint8_t { Free, Listener, Stream, Datagrams, Dead };
  enum Flag : uint16_t {
    kIsPaused = 1,
    /** An edge has reported something to read, and no read has reached its end yet. */
    kIsReadable = 2,
    /** A FIN or an error follows the bytes. */
    kHasHangUp = 4,
    /** The end of the stream has been read. */
    kHasEnded = 8,
    /** Send FIN after what is queued. */
    kWantsEnd = 16,
    kIsInReady = 32,
    kWatchesWrite = 64,
    /** There is room to write: an edge has reported it, or the last write took everything offered. */
    kIsWritable = 128,
    /** The listener waits for `wake`. */
    kRests = 256,
    /** Urgent data (tcp(7)) cuts a read short, so a short read does not mean that nothing is left. */
    kHasUrgent = 512,
    /** A Unix socket: a message with descriptors cuts a read short, too. */
    kIsLocal = 1024,
  };

  struct Slot {
    int fd = -1;
    int32_t generation = 1;
    Role role = Role::Free;
    /** The errno of a write that failed; what the peer sent before is read all the same. 0 for none; all are below 256. */
    uint8_t write_error = 0;
    uint16_t flags = 0;
    /** The slot's first and last record in the current flush; -1 if there is none. */
    int32_t first_send = -1;
    int32_t last_send = -1;
    /** Index of its last event with bytes; stale after its batch. */
    int32_t last_received = -1;
    std::unique_ptr<std::deque<Chunk>> unsent;
    /** A listener's own address: the local end of all its connections, unless it is a wildcard. */
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
  bool has_waiting_bytes(int32_t slot) const;
  static Outcome prepare_datagrams(int fd);
  void read_datagrams(int32_t slot);
  void write_unsent(int32_t slot);
  void forget_sent(int32_t slot, size_t bytes);

  void operate(int32_t slot, int32_t operation);
  size_t size_of_chain(int32_t record) const;
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
  void fail_writing(int32_t slot, int error, During during);
  void find_end(int32_t slot, int error);
  bool can_send(int32_t slot) const;
  void count_unsent(int32_t slot, size_t bytes);
  void free_slot(int32_t slot);

  int epoll_ = -1;
  std::shared_ptr<Rings> rings_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  /** No slot is in it twice: each is served once per batch. */
  std::deque<int32_t> ready_;
  std::vector<Event> later_;
  std::vector<int32_t> touched_;
  std::vector<int32_t> next_send_;
  int32_t receive_used_ = 0;
  int32_t datagrams_used_ = 0;
  int32_t in_use_ = 0;
};

}  // namespace millrace
