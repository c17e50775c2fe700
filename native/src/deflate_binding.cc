// Deflaters and inflaters: bytes in, bytes out, no callback. V8 learns how much memory zlib holds, so that it collects
// streams that were never closed.

#include "deflate_binding.h"

#include "deflate.h"

#ifdef MILLRACE_HAS_ZLIB

#include <cerrno>

#include "arguments.h"
#include "failure.h"
#include "tags.h"

namespace millrace {
namespace {

/** The largest length in JavaScript (2^53 - 1): no message is longer. */
constexpr int64_t kMostRoom = INT64_C(0x1fffffffffffff);

Napi::Value Given(Napi::Env env, const Result<Bytes>& result) {
  if (!result.ok()) return throw_failure(env, result.failure);
  return Napi::Buffer<uint8_t>::Copy(env, result.value.data(), result.value.size());
}

/** A stream that JavaScript owns: freed by `close()` or the garbage collector. */
template <typename Stream>
class Owned {
 public:
  explicit Owned(Napi::Env env) : env_(env) {}
  ~Owned() { Close(); }
  Owned(const Owned&) = delete;

  void Take(Result<std::unique_ptr<Stream>> made) {
    if (!made.ok()) {
      throw_failure(env_, made.failure);
      return;
    }
    stream_ = std::move(made.value);
    Tell();
  }

  void Close() {
    stream_.reset();
    Tell();
  }

  /** Reports zlib's memory to V8; to be called whenever it may have grown. */
  void Tell() {
    const int64_t memory = Memory();
    if (memory != told_) Napi::MemoryManagement::AdjustExternalMemory(env_, memory - told_);
    told_ = memory;
  }

  int64_t Memory() const { return stream_ ? static_cast<int64_t>(stream_->memory()) : 0; }
  Stream* get() const { return stream_.get(); }

 private:
  Napi::Env env_;
  std::unique_ptr<Stream> stream_;
  int64_t told_ = 0;
};

class DeflaterObject : public Napi::ObjectWrap<DeflaterObject> {
 public:
  static Napi::Function Define(Napi::Env env, Zlib* zlib) {
    return DefineClass(env, "Deflater",
                       {InstanceMethod<&DeflaterObject::Compress>("compress"), InstanceMethod<&DeflaterObject::Reset>("reset"),
                        InstanceMethod<&DeflaterObject::Close>("close"),
                        InstanceAccessor<&DeflaterObject::Memory>("memory")},
                       zlib);
  }

  explicit DeflaterObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<DeflaterObject>(info), owned_(info.Env()) {
    if (IsEmpty()) return;  // the thread is being terminated: nothing would free what is made here
    tag_receiver(info, kDeflaterTag);
    Arguments args(info);
    int window_bits = static_cast<int>(args.Integer("windowBits", 9, 15));
    int level = static_cast<int>(args.Integer("level", 1, 9));
    int memory_level = static_cast<int>(args.Integer("memoryLevel", 1, 9));
    if (args.ok()) owned_.Take(Deflater::create(*static_cast<Zlib*>(info.Data()), window_bits, level, memory_level));
  }

 private:
  Napi::Value Compress(const Napi::CallbackInfo& info) {
    Arguments args(info);
    Napi::Uint8Array bytes = args.View("bytes");
    if (!args.ok()) return info.Env().Undefined();
    if (owned_.get() == nullptr) return throw_failure(info.Env(), {EBADF, "deflate"});
    return Given(info.Env(), owned_.get()->compress(bytes.Data(), bytes.ElementLength()));
  }

  Napi::Value Reset(const Napi::CallbackInfo& info) {
    if (owned_.get() != nullptr) owned_.get()->reset();
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    owned_.Close();
    return info.Env().Undefined();
  }

  Napi::Value Memory(const Napi::CallbackInfo& info) {
    if (!has_tag(info, kDeflaterTag)) return info.Env().Undefined();
    return Napi::Number::New(info.Env(), static_cast<double>(owned_.Memory()));
  }

  Owned<Deflater> owned_;
};

class InflaterObject : public Napi::ObjectWrap<InflaterObject> {
 public:
  static Napi::Function Define(Napi::Env env, Zlib* zlib) {
    return DefineClass(env, "Inflater",
                       {InstanceMethod<&InflaterObject::Inflate>("inflate"), InstanceMethod<&InflaterObject::Reset>("reset"),
                        InstanceMethod<&InflaterObject::Close>("close"),
                        InstanceAccessor<&InflaterObject::Memory>("memory")},
                       zlib);
  }

  explicit InflaterObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<InflaterObject>(info), owned_(info.Env()) {
    if (IsEmpty()) return;  // the thread is being terminated: nothing would free what is made here
    tag_receiver(info, kInflaterTag);
    Arguments args(info);
    int window_bits = static_cast<int>(args.Integer("windowBits", 8, 15));
    if (args.ok()) owned_.Take(Inflater::create(*static_cast<Zlib*>(info.Data()), window_bits));
  }

 private:
  Napi::Value Inflate(const Napi::CallbackInfo& info) {
    Arguments args(info);
    Napi::Uint8Array bytes = args.View("bytes");
    bool is_last = args.Boolean("isLast");
    int64_t room = args.Integer("room", 0, kMostRoom);
    if (!args.ok()) return info.Env().Undefined();
    if (owned_.get() == nullptr) return throw_failure(info.Env(), {EBADF, "inflate"});
    Result<Bytes> result = owned_.get()->inflate(bytes.Data(), bytes.ElementLength(), is_last, static_cast<size_t>(room));
    owned_.Tell();  // zlib allocates the window with the first bytes
    return Given(info.Env(), result);
  }

  Napi::Value Reset(const Napi::CallbackInfo& info) {
    if (owned_.get() != nullptr) owned_.get()->reset();
    return info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    owned_.Close();
    return info.Env().Undefined();
  }

  Napi::Value Memory(const Napi::CallbackInfo& info) {
    if (!has_tag(info, kInflaterTag)) return info.Env().Undefined();
    return Napi::Number::New(info.Env(), static_cast<double>(owned_.Memory()));
  }

  Owned<Inflater> owned_;
};

}  // namespace

void export_deflate(Napi::Env env, Napi::Object exports) {
  const std::optional<Zlib> found = find_zlib();
  if (!found) return;
  Zlib* zlib = new Zlib(*found);
  exports.Set("Deflater", DeflaterObject::Define(env, zlib));
  exports.Set("Inflater", InflaterObject::Define(env, zlib));
  env.AddCleanupHook([zlib] { delete zlib; });  // streams hold copies, as they may live longer
}

}  // namespace millrace

#else

namespace millrace {

void export_deflate(Napi::Env, Napi::Object) {}

}  // namespace millrace

#endif
