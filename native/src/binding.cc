// The functions that JavaScript may call. They check arguments, make the call, and turn failures into exceptions with
// `errno` (negative, as in libuv) and `syscall`. State is per environment: the same binary may serve several threads.

#include <napi.h>
#include <unistd.h>

#include <memory>

#include "arguments.h"
#include "deflate_binding.h"
#include "descriptors.h"
#include "failure.h"
#include "memory.h"
#include "processes.h"
#ifdef __linux__
#include "engine_binding.h"
#endif
#include "result.h"
#include "sockets.h"
#include "tags.h"

namespace millrace {
namespace {

template <typename T>
Napi::Value Answer(Napi::Env env, const Result<T>& result) {
  if (!result.ok()) return throw_failure(env, result.failure);
  if constexpr (std::is_same_v<T, Nothing>)
    return env.Undefined();
  else
    return Napi::Number::New(env, static_cast<double>(result.value));
}

/** A descriptor being passed to the constructor of the Descriptor that will own it. */
struct Given {
  int fd;
  bool is_taken = false;
};

/** A descriptor owned by JavaScript: closed once, by `close()` or the garbage collector, and never used after that. */
class Descriptor : public Napi::ObjectWrap<Descriptor> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Descriptor",
                       {InstanceAccessor<&Descriptor::Number>("fd"), InstanceMethod<&Descriptor::Close>("close"),
                        InstanceMethod<&Descriptor::Release>("release")});
  }

  /** Wraps `fd` in a Descriptor, which owns it. Closes `fd` if that fails. */
  static Napi::Value Own(Napi::Env env, int fd);

  explicit Descriptor(const Napi::CallbackInfo& info) : Napi::ObjectWrap<Descriptor>(info) {
    if (IsEmpty()) return;  // the thread is being terminated: nothing would close it
    tag_receiver(info, kDescriptorTag);
    if (info.Length() == 1 && info[0].IsExternal()) {
      Given* given = info[0].As<Napi::External<Given>>().Data();
      fd_ = given->fd;
      given->is_taken = true;
      return;
    }
    Napi::TypeError::New(info.Env(), "a Descriptor is made by the calls that open one").ThrowAsJavaScriptException();
  }

  ~Descriptor() override { CloseNow(); }

 private:
  Napi::Value Number(const Napi::CallbackInfo& info) {
    return has_tag(info, kDescriptorTag) ? Napi::Number::New(info.Env(), fd_) : info.Env().Undefined();
  }

  Napi::Value Close(const Napi::CallbackInfo& info) {
    CloseNow();
    return info.Env().Undefined();
  }

  /** Returns the number, which the caller now owns; -1 if it is closed. */
  Napi::Value Release(const Napi::CallbackInfo& info) {
    int fd = fd_;
    fd_ = -1;
    return Napi::Number::New(info.Env(), fd);
  }

  void CloseNow() {
    if (fd_ >= 0) close(fd_);  // on Linux, it is closed even if this fails with EINTR
    fd_ = -1;
  }

  int fd_ = -1;
};

struct AddonData {
  Napi::FunctionReference descriptor;
};

Napi::Value Descriptor::Own(Napi::Env env, int fd) {
  Given given{fd};
  Napi::Value external = Napi::External<Given>::New(env, &given);
  Napi::Object object = env.GetInstanceData<AddonData>()->descriptor.New({external});
  if (!given.is_taken) close(fd);
  return object.IsEmpty() ? env.Undefined() : object;
}

Napi::Value Opened(Napi::Env env, const Result<int>& result) {
  return result.ok() ? Descriptor::Own(env, result.value) : throw_failure(env, result.failure);
}

Napi::Value Bind(const Napi::CallbackInfo& info) {
  Arguments args(info);
  BindOptions options;
  options.transport = static_cast<Transport>(args.Integer("transport", 0, 2));
  options.host = args.Text("host");
  options.port = static_cast<uint16_t>(args.Integer("port", 0, UINT16_MAX));
  options.path = args.Text("path");
  options.reuse_port = args.Boolean("reusePort");
  options.dual_stack = args.Boolean("isDualStack");
  return args.ok() ? Opened(info.Env(), bind_socket(options)) : info.Env().Undefined();
}

Napi::Value ConnectDatagrams(const Napi::CallbackInfo& info) {
  Arguments args(info);
  std::string host = args.Text("host");
  uint16_t port = static_cast<uint16_t>(args.Integer("port", 0, UINT16_MAX));
  return args.ok() ? Opened(info.Env(), connect_datagrams(host, port)) : info.Env().Undefined();
}

Napi::Value Listen(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  int backlog = static_cast<int>(args.Integer("backlog", 1, INT32_MAX));
  return args.ok() ? Answer(info.Env(), listen_on(fd, backlog)) : info.Env().Undefined();
}

Napi::Value Name(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  if (!args.ok()) return info.Env().Undefined();
  Result<SocketName> result = socket_name(fd);
  if (!result.ok()) return throw_failure(info.Env(), result.failure);
  Napi::Object name = Napi::Object::New(info.Env());
  name.Set("family", result.value.family);
  name.Set("address", result.value.address);
  name.Set("port", result.value.port);
  return name;
}

Napi::Value TakeInherited(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  if (!args.ok()) return info.Env().Undefined();
  Result<Inherited> result = take_inherited(fd);
  if (!result.ok()) return throw_failure(info.Env(), result.failure);
  return Napi::Number::New(info.Env(), static_cast<int>(result.value));
}

Napi::Value SetKeepAlive(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  int seconds = static_cast<int>(args.Integer("idleSeconds", 0, 32767));
  return args.ok() ? Answer(info.Env(), set_keep_alive(fd, seconds)) : info.Env().Undefined();
}

Napi::Value SetNoDelay(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  bool is_on = args.Boolean("isOn");
  return args.ok() ? Answer(info.Env(), set_no_delay(fd, is_on)) : info.Env().Undefined();
}

Napi::Value ChooseAmong(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  std::vector<int32_t> places = args.Integers("places");
  if (!args.ok()) return info.Env().Undefined();
  for (int32_t place : places)
    if (place < 0) return throw_failure(info.Env(), {EINVAL, "setsockopt"});
  return Answer(info.Env(), choose_among(fd, {places.begin(), places.end()}));
}

Napi::Value AcceptQueueOf(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  if (!args.ok()) return info.Env().Undefined();
  Result<AcceptQueue> result = accept_queue(fd);
  if (!result.ok()) return throw_failure(info.Env(), result.failure);
  Napi::Object queue = Napi::Object::New(info.Env());
  queue.Set("length", result.value.length);
  queue.Set("limit", result.value.limit);
  return queue;
}

Napi::Value UnacknowledgedBytes(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  return args.ok() ? Answer(info.Env(), unacknowledged_bytes(fd)) : info.Env().Undefined();
}

Napi::Value SendDescriptors(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  std::vector<uint8_t> bytes = args.Bytes("bytes");
  std::vector<int32_t> fds = args.Integers("fds");
  return args.ok() ? Answer(info.Env(), send_descriptors(fd, bytes, fds)) : info.Env().Undefined();
}

Napi::Value ReceiveDescriptors(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments args(info);
  int fd = args.Descriptor("fd");
  size_t most = static_cast<size_t>(args.Integer("mostBytes", 1, 1 << 24));
  if (!args.ok()) return env.Undefined();
  Result<Received> result = receive_descriptors(fd, most);
  if (!result.ok()) return throw_failure(env, result.failure);
  Napi::Array descriptors = Napi::Array::New(env);
  for (int one : result.value.fds) descriptors.Set(descriptors.Length(), Descriptor::Own(env, one));
  if (env.IsExceptionPending()) return env.Undefined();
  Napi::Object received = Napi::Object::New(env);
  received.Set("bytes", Napi::Buffer<uint8_t>::Copy(env, result.value.bytes.data(), result.value.bytes.size()));
  received.Set("descriptors", descriptors);
  received.Set("hasEnded", result.value.has_ended);
  return received;
}

Napi::Value PeerCredentials(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  if (!args.ok()) return info.Env().Undefined();
  Result<Peer> result = peer_credentials(fd);
  if (!result.ok()) return throw_failure(info.Env(), result.failure);
  Napi::Object peer = Napi::Object::New(info.Env());
  peer.Set("pid", result.value.pid);
  peer.Set("uid", result.value.uid);
  peer.Set("gid", result.value.gid);
  return peer;
}

Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int fd = args.Descriptor("fd");
  return args.ok() ? Opened(info.Env(), duplicate(fd)) : info.Env().Undefined();
}

/** Only onto standard input, output and error: any other number may belong to libuv. */
Napi::Value DuplicateOnto(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int from = args.Descriptor("from");
  int to = static_cast<int>(args.Integer("to", 0, 2));
  return args.ok() ? Answer(info.Env(), duplicate_onto(from, to)) : info.Env().Undefined();
}

Napi::Value SetParentDeathSignal(const Napi::CallbackInfo& info) {
  Arguments args(info);
  int signal = static_cast<int>(args.Integer("signal", 0, 64));
  int parent = static_cast<int>(args.Integer("parent", 1, INT32_MAX));
  return args.ok() ? Answer(info.Env(), set_parent_death_signal(signal, parent)) : info.Env().Undefined();
}

Napi::Value BecomeReaper(const Napi::CallbackInfo& info) { return Answer(info.Env(), become_reaper()); }

Napi::Value CloseOnExec(const Napi::CallbackInfo& info) { return Answer(info.Env(), close_on_exec()); }

Napi::Value Reap(const Napi::CallbackInfo& info) {
  Arguments args(info);
  std::vector<int32_t> known = args.Integers("known");
  if (!args.ok()) return info.Env().Undefined();
  Result<std::vector<Reaped>> result = reap(known, 1000);
  if (!result.ok()) return throw_failure(info.Env(), result.failure);
  Napi::Array all = Napi::Array::New(info.Env());
  for (const Reaped& one : result.value) {
    Napi::Object entry = Napi::Object::New(info.Env());
    entry.Set("pid", one.pid);
    entry.Set("code", one.code);
    entry.Set("signal", one.signal);
    all.Set(all.Length(), entry);
  }
  return all;
}

Napi::Value Execute(const Napi::CallbackInfo& info) {
  Arguments args(info);
  std::string path = args.Text("path");
  std::string argv = args.Text("args", true);
  std::string env = args.Text("env", true);
  std::vector<int32_t> keep = args.Integers("keep");
  if (!args.ok()) return info.Env().Undefined();
  return throw_failure(info.Env(), execute(path, parts_of(argv), parts_of(env), keep));
}

Napi::Value Notify(const Napi::CallbackInfo& info) {
  Arguments args(info);
  std::string path = args.Text("socketPath");
  std::string text = args.Text("text");
  return args.ok() ? Answer(info.Env(), notify(path, text)) : info.Env().Undefined();
}

/** Bounds what a mistake can cost. */
constexpr int64_t kMostMemory = int64_t{1} << 30;

Napi::Value CreateMemory(const Napi::CallbackInfo& info) {
  Arguments args(info);
  size_t bytes = static_cast<size_t>(args.Integer("bytes", 1, kMostMemory));
  return args.ok() ? Opened(info.Env(), create_memory(bytes)) : info.Env().Undefined();
}

/** The mapping lasts as long as the ArrayBuffer, or the one it was transferred to. */
Napi::Value MapMemory(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Arguments args(info);
  int fd = args.Descriptor("fd");
  size_t bytes = static_cast<size_t>(args.Integer("bytes", 1, kMostMemory));
  if (!args.ok()) return env.Undefined();
  Result<uint8_t*> result = map_memory(fd, bytes);
  if (!result.ok()) return throw_failure(env, result.failure);
  return Napi::ArrayBuffer::New(env, result.value, bytes, [bytes](Napi::Env, void* memory) {
    unmap_memory(static_cast<uint8_t*>(memory), bytes);
  });
}

template <Napi::Value (*call)(const Napi::CallbackInfo&)>
void Export(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<call>(exports.Env(), name));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  auto data = std::make_unique<AddonData>();
  data->descriptor = Napi::Persistent(Descriptor::Define(env));
  env.SetInstanceData(data.release());
  Export<Bind>(exports, "bind");
  Export<ConnectDatagrams>(exports, "connectDatagrams");
  Export<Listen>(exports, "listen");
  Export<Name>(exports, "socketName");
  Export<TakeInherited>(exports, "takeInherited");
  Export<SetKeepAlive>(exports, "setKeepAlive");
  Export<SetNoDelay>(exports, "setNoDelay");
  Export<ChooseAmong>(exports, "chooseAmong");
  Export<AcceptQueueOf>(exports, "acceptQueue");
  Export<UnacknowledgedBytes>(exports, "unacknowledgedBytes");
  Export<SendDescriptors>(exports, "sendDescriptors");
  Export<ReceiveDescriptors>(exports, "receiveDescriptors");
  Export<PeerCredentials>(exports, "peerCredentials");
  Export<Duplicate>(exports, "duplicate");
  Export<DuplicateOnto>(exports, "duplicateOnto");
  Export<SetParentDeathSignal>(exports, "setParentDeathSignal");
  Export<BecomeReaper>(exports, "becomeReaper");
  Export<CloseOnExec>(exports, "closeOnExec");
  Export<Reap>(exports, "reap");
  Export<Execute>(exports, "execute");
  Export<Notify>(exports, "notify");
  Export<CreateMemory>(exports, "createMemory");
  Export<MapMemory>(exports, "mapMemory");
  export_deflate(env, exports);
#ifdef __linux__
  exports.Set("Engine", define_engine(env));
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(millrace, Init)

}  // namespace millrace
