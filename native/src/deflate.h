// Raw deflate streams (RFC 1951) that keep their window from message to message, as in permessage-deflate (RFC 7692).
// They use the zlib inside Node, whose functions are looked up by name: with a Node that hides them, only this part of
// the addon is missing. Any input yields bytes or an errno, and never more bytes than the caller allows.
#pragma once

#if __has_include(<zlib.h>)
#define MILLRACE_HAS_ZLIB 1

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "result.h"

namespace millrace {

/** The functions of zlib that are used. */
struct Zlib {
  decltype(&::zlibVersion) version;
  decltype(&::deflateInit2_) deflate_init;
  decltype(&::deflate) deflate;
  decltype(&::deflateReset) deflate_reset;
  decltype(&::deflateEnd) deflate_end;
  decltype(&::inflateInit2_) inflate_init;
  decltype(&::inflate) inflate;
  decltype(&::inflateReset) inflate_reset;
  decltype(&::inflateGetDictionary) inflate_get_dictionary;
  decltype(&::inflateSetDictionary) inflate_set_dictionary;
  decltype(&::inflateEnd) inflate_end;
};

/** The zlib of this process; nullopt if a function is missing or its major version differs. */
std::optional<Zlib> find_zlib();

/** A growable buffer that reports failed allocations. */
class Bytes {
 public:
  ~Bytes();
  Bytes() = default;
  Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_), capacity_(other.capacity_) { other.data_ = nullptr; }
  Bytes& operator=(Bytes&& other) noexcept;
  Bytes(const Bytes&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  /** Makes room for `count` more bytes; false if memory is exhausted. */
  bool reserve(size_t count);
  uint8_t* end() { return data_ + size_; }
  size_t room() const { return capacity_ - size_; }
  void grow(size_t count) { size_ += count; }
  void shrink(size_t count) { size_ -= count; }

 private:
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

/** Longer input is refused with EMSGSIZE: zlib counts in 32 bits. */
constexpr size_t kMostBytes = size_t{1} << 30;

class Deflater {
 public:
  /** A window of 9 to 15 bits, a level of 1 to 9, and zlib's memLevel of 1 to 9. */
  static Result<std::unique_ptr<Deflater>> create(const Zlib& zlib, int window_bits, int level, int memory_level);
  ~Deflater();
  Deflater(const Deflater&) = delete;

  /** Compresses a message, omitting the final 00 00 ff ff. After ENOMEM or EMSGSIZE, `reset` repairs the stream. */
  Result<Bytes> compress(const uint8_t* data, size_t size);
  /** The next message refers back to no earlier one. */
  void reset();
  /** Bytes that zlib has allocated. */
  size_t memory() const { return memory_; }

 private:
  explicit Deflater(const Zlib& zlib) : zlib_(zlib) {}
  const Zlib zlib_;
  z_stream stream_ = {};
  size_t memory_ = 0;
  bool is_open_ = false;
  bool is_broken_ = false;
};

class Inflater {
 public:
  /** A window of 8 to 15 bits. */
  static Result<std::unique_ptr<Inflater>> create(const Zlib& zlib, int window_bits);
  ~Inflater();
  Inflater(const Inflater&) = delete;

  /**
   * Inflates a part of a message. EMSGSIZE as soon as the part yields more than `room` bytes; EILSEQ for malformed
   * data, and with the last part for a message that ends within a block. After an error every call fails until `reset`.
   */
  Result<Bytes> inflate(const uint8_t* data, size_t size, bool is_last, size_t room);
  /** The next message begins a new stream. */
  void reset();
  size_t memory() const { return memory_; }

 private:
  explicit Inflater(const Zlib& zlib) : zlib_(zlib) {}
  /** These return an errno, or 0. */
  int take(const uint8_t* data, size_t size, size_t room, Bytes* out);
  int take_behind(const uint8_t* data, size_t size);
  int end_message(size_t room, Bytes* out);
  int begin_anew();

  const Zlib zlib_;
  z_stream stream_ = {};
  size_t memory_ = 0;
  bool is_open_ = false;
  bool is_broken_ = false;
  /** The message so far: whether it had bytes; whether a final block has ended; how many bytes came after that. */
  bool has_begun_ = false;
  bool has_ended_ = false;
  size_t behind_ = 0;
};

}  // namespace millrace

#endif
