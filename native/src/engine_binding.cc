// Decides when the engine works. libuv watches its epoll set, and JavaScript is called once per batch. What that call
// and its microtasks have recorded is carried out when they end; what other callbacks have recorded, before and after
// the loop polls.

#include "engine_binding.h"

#include <uv.h>

#include <memory>
#include <utility>

#include "arguments.h"
#include "engine.h"
#include "failure.h"

namespace millrace {
namespace {

/** After this long, timers and other sockets of the process get their turn. */
constexpr uint64_t kTurnNs = 2'000'000;

/** The handles that libuv uses; freed when the last of them has closed. */
struct Handles {
  uv_poll_t poll;
  uv_prepare_t prepare;
  uv_check_t check;
  uv_idle_t idle;
  int open = 0;
  napi_async_cleanup_hook_handle hook = nullptr;
};

class EngineObject : public Napi::ObjectWrap<EngineObject> {
 public:
  static Napi::Function Define(Napi::Env env) {
    return DefineClass(env, "Engine",
                       {InstanceMethod<&EngineObject::Memory>("memory"), InstanceMethod<&EngineObject::Layout>("layout"),
                        InstanceMethod<&EngineObject::Listen>("listen"), InstanceMethod<&EngineObject::Adopt>("adopt"),
                        InstanceMethod<&EngineObject::Datagrams>("receiveDatagrams"),
                        InstanceMethod<&EngineObject::Generation>("generation"),
                        InstanceMethod<&EngineObject::Release>("release"), InstanceMethod<&EngineObject::Wake>("wake"),
                        InstanceMethod<&EngineObject::Flush>("flush"),
                        InstanceMethod<&EngineObject::Unacknowledged>("unacknowledged"),
                        InstanceMethod<&EngineObject::ReadInto>("readInto"),
                        InstanceMethod<&EngineObject::SendBytes>("sendBytes")});
  }

  explicit EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info), env_(info.Env()) {
    if (IsEmpty()) return;  // the thread is being terminated: nothing would free what is made here
    if (info.Length() != 2 || !info[0].IsFunction() || !info[1].IsObject()) {
      Napi::TypeError::New(env_, "an Engine takes a function and the resource that it runs in").ThrowAsJavaScriptException();
      return;
    }
    Result<std::unique_ptr<Engine>> made = Engine::create();
    if (!made.ok()) {
      throw_failure(env_, made.failure);
      return;
    }
    engine_ = std::move(made.value);
    callback_ = Napi::Persistent(info[0].As<Napi::Function>());
    context_ = std::make_unique<Napi::AsyncContext>(env_, "millrace.engine", info[1].As<Napi::Object>());
    Start();
  }

 private:
  void Start() {
    uv_loop_t* loop = nullptr;
    napi_get_uv_event_loop(env_, &loop);
    handles_ = new Handles();
    Watch(reinterpret_cast<uv_handle_t*>(&handles_->poll), uv_poll_init(loop, &handles_->poll, engine_->poll_fd()));
    Watch(reinterpret_cast<uv_handle_t*>(&handles_->prepare), uv_prepare_init(loop, &handles_->prepare));
    Watch(reinterpret_cast<uv_handle_t*>(&handles_->check), uv_check_init(loop, &handles_->check));
    Watch(reinterpret_cast<uv_handle_t*>(&handles_->idle), uv_idle_init(loop, &handles_->idle));
    uv_poll_start(&handles_->poll, UV_READABLE, [](uv_poll_t* handle, int, int) { Of(handle)->Turn(true); });
    uv_prepare_start(&handles_->prepare, [](uv_prepare_t* handle) { Of(handle)->Between(); });
    uv_check_start(&handles_->check, [](uv_check_t* handle) { Of(handle)->Between(); });
    napi_add_async_cleanup_hook(env_, &EngineObject::End, this, &handles_->hook);
    Ref();
  }

  template <typename T>
  static EngineObject* Of(T* handle) {
    return static_cast<EngineObject*>(handle->data);
  }

  void Watch(uv_handle_t* handle, int result) {
    if (result != 0) return;
    handle->data = this;
    handles_->open++;
    uv_unref(handle);
  }

  /** The environment is ending: no handle may remain in its loop. */
  static void End(napi_async_cleanup_hook_handle, void* data) {
    EngineObject* self = static_cast<EngineObject*>(data);
    Handles* handles = self->handles_;
    self->engine_.reset();
    self->context_.reset();
    self->callback_.Reset();
    for (uv_handle_t* handle :
         {reinterpret_cast<uv_handle_t*>(&handles->poll), reinterpret_cast<uv_handle_t*>(&handles->prepare),
          reinterpret_cast<uv_handle_t*>(&handles->check), reinterpret_cast<uv_handle_t*>(&handles->idle)}) {
      if (handle->data == nullptr) continue;
      handle->data = handles;
      uv_close(handle, [](uv_handle_t* closed) {
        Handles* all = static_cast<Handles*>(closed->data);
        if (--all->open > 0) return;
        napi_remove_async_cleanup_hook(all->hook);
        delete all;
      });
    }
    self->Unref();
  }

  // The loop

  Header* header() { return engine_->rings()->header; }

  /** JavaScript returned before the end of its batch: its time was up, or it threw. */
  bool has_left() { return header()->event_next < header()->event_count; }

  void Turn(bool polls) {
    if (!engine_ || is_inside_ || is_over_) return;
    is_inside_ = true;
    const uint64_t start = uv_hrtime();
    if (!has_left()) {
      if (polls) engine_->poll();
      engine_->collect();
    }
    bool is_done = false;
    for (;;) {
      if (has_left() || header()->wants_call != 0) Deliver();
      is_done = !has_left() && !engine_->has_ready() && !engine_->has_events() && header()->wants_call == 0;
      if (is_done || is_over_ || has_left() || uv_hrtime() - start > kTurnNs) break;
      engine_->collect();
    }
    is_inside_ = false;
    if (is_over_) return;
    if (is_done) uv_idle_stop(&handles_->idle);
    else uv_idle_start(&handles_->idle, [](uv_idle_t* handle) { Of(handle)->Turn(false); });
    Hold();
  }

  void Between() {
    if (!engine_ || is_inside_ || is_over_) return;
    if (header()->send_count > 0) engine_->flush();
    if (engine_->has_events() || engine_->has_ready() || header()->wants_call != 0) Turn(false);
    else Hold();
  }

  void Deliver() {
    Napi::HandleScope scope(env_);
    header()->wants_call = 0;
    // Not through the C++ classes: they abort the process if JavaScript can no longer run, as in a terminating thread.
    napi_value result = nullptr;
    if (napi_make_callback(env_, *context_, Value(), callback_.Value(), 0, nullptr, &result) != napi_ok) TellUncaught();
    engine_->flush();
  }

  void TellUncaught() {
    napi_value error = nullptr;
    const bool is_thrown = napi_get_and_clear_last_exception(env_, &error) == napi_ok;
    if (is_thrown && CanRun()) napi_fatal_exception(env_, error);
    if (!CanRun()) Stop();
  }

  /** False in a thread that is being terminated but has not ended yet. */
  bool CanRun() {
    napi_value nothing = nullptr;
    napi_get_undefined(env_, &nothing);
    return napi_coerce_to_string(env_, nothing, &nothing) == napi_ok;
  }

  /** JavaScript can no longer be called: the engine must not keep busy a loop that waits for other handles to close. */
  void Stop() {
    is_over_ = true;
    uv_poll_stop(&handles_->poll);
    uv_prepare_stop(&handles_->prepare);
    uv_check_stop(&handles_->check);
    uv_idle_stop(&handles_->idle);
  }

  /** Sockets and listeners keep the process alive, as Node's do. */
  void Hold() {
    const bool is_held = engine_->in_use() > 0;
    if (is_held == is_held_) return;
    is_held_ = is_held;
    if (is_held) uv_ref(reinterpret_cast<uv_handle_t*>(&handles_->poll));
    else uv_unref(reinterpret_cast<uv_handle_t*>(&handles_->poll));
  }

  // Calls

  /** The private part of the rings, or the lent one. The memory lasts while the engine or an ArrayBuffer uses it. */
  Napi::Value Memory(const Napi::CallbackInfo& info) {
    Arguments args(info);
    bool is_lent = args.Boolean("isLent");
    if (!args.ok()) return info.Env().Undefined();
    auto* rings = new std::shared_ptr<Rings>(engine_->rings());
    const size_t split = (*rings)->lent_offset();
    return Napi::ArrayBuffer::New(
        info.Env(), (*rings)->memory() + (is_lent ? split : 0), is_lent ? (*rings)->size() - split : split,
        [](Napi::Env, void*, std::shared_ptr<Rings>* held) { delete held; }, rings);
  }

  /** Offsets of the parts, then limits and sizes: see rings.h. */
  Napi::Value Layout(const Napi::CallbackInfo& info) {
    static constexpr std::pair<const char*, Rings::Part> kOffsets[] = {
        {"header", Rings::kHeader}, {"events", Rings::kEvents},   {"sends", Rings::kSends},        {"queued", Rings::kQueued},
        {"send", Rings::kSend},     {"receive", Rings::kReceive}, {"datagrams", Rings::kDatagrams}};
    static constexpr std::pair<const char*, size_t> kSizes[] = {
        {"maxEvents", kMaxEvents},         {"maxSends", kMaxSends},           {"maxSlots", kMaxSlots},
        {"receiveBytes", kReceiveBytes},   {"sendBytes", kSendBytes},         {"maxDatagrams", kMaxDatagrams},
        {"datagramBytes", kDatagramBytes}, {"headerBytes", sizeof(Header)},   {"eventBytes", sizeof(Event)},
        {"sendRecordBytes", sizeof(Send)}, {"endpointBytes", kEndpointBytes}, {"pairBytes", sizeof(AddressPair)}};
    Napi::Object layout = Napi::Object::New(info.Env());
    for (const auto& [name, part] : kOffsets) layout.Set(name, static_cast<double>(engine_->rings()->offsets[part]));
    for (const auto& [name, size] : kSizes) layout.Set(name, static_cast<double>(size));
    return layout;
  }

  Napi::Value Slot(const Napi::CallbackInfo& info, const Result<int32_t>& slot) {
    if (!slot.ok()) return throw_failure(info.Env(), slot.failure);
    Hold();
    return Napi::Number::New(info.Env(), slot.value);
  }

  Napi::Value Listen(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int fd = args.Descriptor("fd");
    return args.ok() ? Slot(info, engine_->listen(fd)) : info.Env().Undefined();
  }

  Napi::Value Adopt(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int fd = args.Descriptor("fd");
    bool is_paused = args.Boolean("isPaused");
    return args.ok() ? Slot(info, engine_->adopt(fd, is_paused)) : info.Env().Undefined();
  }

  Napi::Value Datagrams(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int fd = args.Descriptor("fd");
    return args.ok() ? Slot(info, engine_->receive_datagrams(fd)) : info.Env().Undefined();
  }

  Napi::Value Generation(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    return args.ok() ? Napi::Number::New(info.Env(), engine_->generation(slot)) : info.Env().Undefined();
  }

  /** Returns the descriptor and the unsent bytes, or undefined if there is no descriptor. */
  Napi::Value Release(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    int32_t generation = static_cast<int32_t>(args.Integer("generation", 0, INT32_MAX));
    if (!args.ok()) return info.Env().Undefined();
    std::vector<uint8_t> unsent;
    engine_->flush();
    int fd = engine_->release(slot, generation, &unsent);
    if (fd < 0) return info.Env().Undefined();
    Napi::Object released = Napi::Object::New(info.Env());
    released.Set("fd", fd);
    released.Set("unsent", Napi::Buffer<uint8_t>::Copy(info.Env(), unsent.data(), unsent.size()));
    return released;
  }

  Napi::Value Wake(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    int32_t generation = static_cast<int32_t>(args.Integer("generation", 0, INT32_MAX));
    if (args.ok()) engine_->wake(slot, generation);
    return info.Env().Undefined();
  }

  Napi::Value Flush(const Napi::CallbackInfo& info) {
    engine_->flush();
    return info.Env().Undefined();
  }

  /** Reads into the beginning of a Uint8Array. Returns how many bytes. */
  Napi::Value Unacknowledged(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    int32_t generation = static_cast<int32_t>(args.Integer("generation", 0, INT32_MAX));
    if (!args.ok()) return info.Env().Undefined();
    return Napi::Number::New(info.Env(), engine_->unacknowledged(slot, generation));
  }

  Napi::Value ReadInto(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    int32_t generation = static_cast<int32_t>(args.Integer("generation", 0, INT32_MAX));
    Napi::Uint8Array into = args.View("into");
    if (!args.ok()) return info.Env().Undefined();
    const size_t count = engine_->read_into(slot, generation, into.Data(), into.ElementLength());
    return Napi::Number::New(info.Env(), static_cast<double>(count));
  }

  Napi::Value SendBytes(const Napi::CallbackInfo& info) {
    Arguments args(info);
    int32_t slot = static_cast<int32_t>(args.Integer("slot", 0, kMaxSlots - 1));
    int32_t generation = static_cast<int32_t>(args.Integer("generation", 0, INT32_MAX));
    Napi::Uint8Array bytes = args.View("bytes");
    if (!args.ok()) return info.Env().Undefined();
    engine_->send_bytes(slot, generation, bytes.Data(), bytes.ElementLength());
    return info.Env().Undefined();
  }

  Napi::Env env_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Napi::AsyncContext> context_;
  Napi::FunctionReference callback_;
  Handles* handles_ = nullptr;
  bool is_inside_ = false;
  bool is_held_ = false;
  /** The environment no longer runs JavaScript. */
  bool is_over_ = false;
};

}  // namespace

Napi::Function define_engine(Napi::Env env) { return EngineObject::Define(env); }

}  // namespace millrace
