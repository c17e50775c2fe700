// See deflate.h.

#include "deflate.h"

#ifdef MILLRACE_HAS_ZLIB

#include <uv.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace millrace {
namespace {

/** End of an empty uncompressed block: Z_SYNC_FLUSH emits it, messages are sent without it (RFC 7692 section 7.2.1). */
constexpr uint8_t kTail[] = {0x00, 0x00, 0xff, 0xff};
/** Bits of `data_type`: between two blocks; number of unused bits in the last byte (zlib.h, Z_BLOCK). */
constexpr int kBetweenBlocks = 128;
constexpr int kUnusedBits = 63;
constexpr size_t kLeastOutput = 1024;

/** zlib frees its memory only when the stream ends, and then all of it, so counting up is enough. */
void* allocate(void* memory, unsigned items, unsigned size) {
  void* taken = calloc(items, size);
  if (taken != nullptr) *static_cast<size_t*>(memory) += size_t{items} * size;
  return taken;
}

void release(void*, void* address) { free(address); }

void prepare(z_stream* stream, size_t* memory) {
  stream->zalloc = allocate;
  stream->zfree = release;
  stream->opaque = memory;
}

template <typename T>
bool look_up(uv_lib_t* process, T* call, const char* name) {
  return uv_dlsym(process, name, reinterpret_cast<void**>(call)) == 0 && *call != nullptr;
}

void give(z_stream* stream, const uint8_t* data, size_t size) {
  stream->next_in = const_cast<uint8_t*>(data);
  stream->avail_in = static_cast<unsigned>(size);
}

}  // namespace

/** Uses libuv's loader: the symbol version of dlsym(3) changed in glibc 2.34 and would tie the binary to one side. */
std::optional<Zlib> find_zlib() {
  uv_lib_t process;
  Zlib zlib = {};
  const bool has_all = uv_dlopen(nullptr, &process) == 0 && look_up(&process, &zlib.version, "zlibVersion") &&
                       look_up(&process, &zlib.deflate_init, "deflateInit2_") &&
                       look_up(&process, &zlib.deflate, "deflate") &&
                       look_up(&process, &zlib.deflate_reset, "deflateReset") &&
                       look_up(&process, &zlib.deflate_end, "deflateEnd") &&
                       look_up(&process, &zlib.inflate_init, "inflateInit2_") &&
                       look_up(&process, &zlib.inflate, "inflate") &&
                       look_up(&process, &zlib.inflate_reset, "inflateReset") &&
                       look_up(&process, &zlib.inflate_get_dictionary, "inflateGetDictionary") &&
                       look_up(&process, &zlib.inflate_set_dictionary, "inflateSetDictionary") &&
                       look_up(&process, &zlib.inflate_end, "inflateEnd");
  uv_dlclose(&process);
  if (!has_all || zlib.version()[0] != ZLIB_VERSION[0]) return std::nullopt;
  return zlib;
}

// Bytes

Bytes::~Bytes() { free(data_); }

Bytes& Bytes::operator=(Bytes&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(capacity_, other.capacity_);
  return *this;
}

bool Bytes::reserve(size_t count) {
  if (room() >= count) return true;
  void* grown = realloc(data_, size_ + count);
  if (grown == nullptr) return false;
  data_ = static_cast<uint8_t*>(grown);
  capacity_ = size_ + count;
  return true;
}

// Compression

Result<std::unique_ptr<Deflater>> Deflater::create(const Zlib& zlib, int window_bits, int level, int memory_level) {
  using Made = Result<std::unique_ptr<Deflater>>;
  std::unique_ptr<Deflater> made(new Deflater(zlib));
  prepare(&made->stream_, &made->memory_);
  const int result = zlib.deflate_init(&made->stream_, level, Z_DEFLATED, -window_bits, memory_level, Z_DEFAULT_STRATEGY,
                                       ZLIB_VERSION, static_cast<int>(sizeof(z_stream)));
  if (result != Z_OK) return Made::fail(result == Z_MEM_ERROR ? ENOMEM : EINVAL, "deflate");
  made->is_open_ = true;
  return Made::of(std::move(made));
}

Deflater::~Deflater() {
  if (is_open_) zlib_.deflate_end(&stream_);
}

void Deflater::reset() { is_broken_ = zlib_.deflate_reset(&stream_) != Z_OK; }

Result<Bytes> Deflater::compress(const uint8_t* data, size_t size) {
  using Done = Result<Bytes>;
  if (is_broken_) return Done::fail(EINVAL, "deflate");
  if (size > kMostBytes) return Done::fail(EMSGSIZE, "deflate");
  Bytes out;
  if (size == 0) {  // zlib does not flush twice without input between: RFC 7692 section 7.2.3.6
    if (!out.reserve(1)) return Done::fail(ENOMEM, "deflate");
    *out.end() = 0;
    out.grow(1);
    return Done::of(std::move(out));
  }
  give(&stream_, data, size);
  do {
    // More than the worst case (9 bits per byte), since a second call could make zlib flush again.
    if (!out.reserve(size + size / 4 + 64)) {
      is_broken_ = true;
      return Done::fail(ENOMEM, "deflate");
    }
    const size_t room = out.room();
    stream_.next_out = out.end();
    stream_.avail_out = static_cast<unsigned>(room);
    zlib_.deflate(&stream_, Z_SYNC_FLUSH);
    out.grow(room - stream_.avail_out);
  } while (stream_.avail_out == 0);
  out.shrink(sizeof(kTail));
  return Done::of(std::move(out));
}

// Decompression

Result<std::unique_ptr<Inflater>> Inflater::create(const Zlib& zlib, int window_bits) {
  using Made = Result<std::unique_ptr<Inflater>>;
  std::unique_ptr<Inflater> made(new Inflater(zlib));
  prepare(&made->stream_, &made->memory_);
  const int result = zlib.inflate_init(&made->stream_, -window_bits, ZLIB_VERSION, static_cast<int>(sizeof(z_stream)));
  if (result != Z_OK) return Made::fail(result == Z_MEM_ERROR ? ENOMEM : EINVAL, "inflate");
  made->is_open_ = true;
  return Made::of(std::move(made));
}

Inflater::~Inflater() {
  if (is_open_) zlib_.inflate_end(&stream_);
}

void Inflater::reset() {
  is_broken_ = zlib_.inflate_reset(&stream_) != Z_OK;
  has_begun_ = has_ended_ = false;
  behind_ = 0;
}

Result<Bytes> Inflater::inflate(const uint8_t* data, size_t size, bool is_last, size_t room) {
  using Done = Result<Bytes>;
  if (is_broken_) return Done::fail(EILSEQ, "inflate");
  Bytes out;
  int error = size > kMostBytes ? EMSGSIZE : take(data, size, room, &out);
  if (error == 0 && is_last) error = end_message(room, &out);
  if (error == 0) return Done::of(std::move(out));
  is_broken_ = true;
  return Done::fail(error, "inflate");
}

int Inflater::take(const uint8_t* data, size_t size, size_t room, Bytes* out) {
  if (size == 0) return 0;
  has_begun_ = true;
  if (has_ended_) return take_behind(data, size);
  give(&stream_, data, size);
  for (;;) {
    // One byte over the limit is enough to detect the excess.
    const size_t left = room - out->size() + 1;
    if (!out->reserve(std::min({left, kMostBytes, std::max({out->size(), 4 * size, kLeastOutput})}))) return ENOMEM;
    const size_t offered = std::min(left, out->room());
    stream_.next_out = out->end();
    stream_.avail_out = static_cast<unsigned>(offered);
    const int result = zlib_.inflate(&stream_, Z_SYNC_FLUSH);
    out->grow(offered - stream_.avail_out);
    if (out->size() > room) return EMSGSIZE;
    if (result == Z_STREAM_END) {
      has_ended_ = true;
      return take_behind(stream_.next_in, stream_.avail_in);
    }
    if (result == Z_MEM_ERROR) return ENOMEM;
    if (result != Z_OK && result != Z_BUF_ERROR) return EILSEQ;
    if (stream_.avail_out > 0) return stream_.avail_in == 0 ? 0 : EILSEQ;
  }
}

/** Only an empty block, whose tail is left out, may follow a final block (RFC 7692 section 7.2.3.4): one zero byte. */
int Inflater::take_behind(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  behind_ += size;
  return behind_ == 1 && data[0] == 0 ? 0 : EILSEQ;
}

int Inflater::end_message(size_t room, Bytes* out) {
  if (!has_begun_) return 0;  // no block at all: some peers send an empty message this way
  if (!has_ended_) {
    const int error = take(kTail, sizeof(kTail), room, out);
    if (error != 0) return error;
    const int where = stream_.data_type;
    if (has_ended_ || (where & kBetweenBlocks) == 0 || (where & kUnusedBits) != 0) return EILSEQ;
  } else {
    if (behind_ != 1) return EILSEQ;
    const int error = begin_anew();
    if (error != 0) return error;
  }
  has_begun_ = has_ended_ = false;
  behind_ = 0;
  return 0;
}

/** The stream has ended, but the next message may still refer back to it: a new stream takes over its window. */
int Inflater::begin_anew() {
  Bytes window;
  unsigned size = 0;
  if (!window.reserve(size_t{1} << MAX_WBITS)) return ENOMEM;
  if (zlib_.inflate_get_dictionary(&stream_, window.end(), &size) != Z_OK || zlib_.inflate_reset(&stream_) != Z_OK) return EINVAL;
  return zlib_.inflate_set_dictionary(&stream_, window.end(), size) == Z_OK ? 0 : EINVAL;
}

}  // namespace millrace

#endif
