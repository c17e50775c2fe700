// Raw deflate streams (RFC 1951) that keep their window from message to message, as permessage-deflate (RFC 7692) has them,
// on the zlib that Node brings along. It is looked up by name: a Node that hides its zlib costs this part of the addon, not
// the addon. Whatever comes in gives bytes or an errno, and no more bytes than was said.
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

/** The calls of a zlib. */
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

/** What this process has; nothing when a call is missing or its version is another's. */
std::optional<Zlib> find_zlib();

/** Bytes that grow; growing may fail. */
class Bytes {
 public:
  ~Bytes();
  Bytes() = default;
  Bytes(Bytes&& other) noexcept : data_(other.data_), size_(other.size_), capacity_(other.capacity_) { other.data_ = nullptr; }
  Bytes& operator=(Bytes&& other) noexcept;
  Bytes(const Bytes&) = delete;

  const uint8_t* data() const { return data_; }
  size_t size() const { return size_; }
  /** Makes room for `count` more; false without memory. */
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

/** More is refused with EMSGSIZE: zlib counts in 32 bits. */
constexpr size_t kMostBytes = size_t{1} << 30;

class Deflater {
 public:
  /** A window of 9 to 15 bits, a level of 1 to 9, and zlib's memLevel of 1 to 9. */
  static Result<std::unique_ptr<Deflater>> create(const Zlib& zlib, int window_bits, int level, int memory_level);
  ~Deflater();
  Deflater(const Deflater&) = delete;

  /** A message, without the 00 00 ff ff that it ends in. ENOMEM and EMSGSIZE leave a stream that `reset` makes good. */
  Result<Bytes> compress(const uint8_t* data, size_t size);
  /** The next message looks back on nothing. */
  void reset();
  /** What zlib has taken, in bytes. */
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
  /** 8 to 15 bits. */
  static Result<std::unique_ptr<Inflater>> create(const Zlib& zlib, int window_bits);
  ~Inflater();
  Inflater(const Inflater&) = delete;

  /**
   * What a part of a message inflates to; EMSGSIZE as soon as that is over `room` bytes. With the last part EILSEQ for a
   * message that ends within a block. After an error everything is one, until `reset`.
   */
  Result<Bytes> inflate(const uint8_t* data, size_t size, bool is_last, size_t room);
  /** The next message begins a stream of its own. */
  void reset();
  size_t memory() const { return memory_; }

 private:
  explicit Inflater(const Zlib& zlib) : zlib_(zlib) {}
  /** An errno, or 0. */
  int take(const uint8_t* data, size_t size, size_t room, Bytes* out);
  int take_behind(const uint8_t* data, size_t size);
  int end_message(size_t room, Bytes* out);
  int begin_anew();

  const Zlib zlib_;
  z_stream stream_ = {};
  size_t memory_ = 0;
  bool is_open_ = false;
  bool is_broken_ = false;
  /** Of the message so far: it had bytes; a last block has ended; bytes behind that. */
  bool has_begun_ = false;
  bool has_ended_ = false;
  size_t behind_ = 0;
};

}  // namespace millrace

#endif
