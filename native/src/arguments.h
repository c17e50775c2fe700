// Checked arguments of a call from JavaScript. Only plain values cross the boundary (numbers, strings, booleans, typed
// arrays), so reading them cannot run user code. After the first invalid one an exception is pending.
#pragma once

#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

namespace millrace {

class Arguments {
 public:
  explicit Arguments(const Napi::CallbackInfo& info) : info_(info) {}

  int64_t Integer(const char* name, int64_t least, int64_t most);
  int Descriptor(const char* name) { return static_cast<int>(Integer(name, 0, INT32_MAX)); }
  bool Boolean(const char* name);
  /** UTF-8. NUL is refused, except in a list, whose parts it separates. */
  std::string Text(const char* name, bool is_list = false);
  std::vector<uint8_t> Bytes(const char* name);
  /** The bytes in JavaScript's own memory: valid only during the call. Empty if the argument is no Uint8Array. */
  Napi::Uint8Array View(const char* name);
  std::vector<int32_t> Integers(const char* name);

  bool ok() const { return is_ok_; }

 private:
  Napi::Value Next() { return info_[at_++]; }
  void Refuse(const char* name, const char* wanted);

  const Napi::CallbackInfo& info_;
  size_t at_ = 0;
  bool is_ok_ = true;
};

/** Splits "a\0b" into a and b. An empty list has no parts. */
std::vector<std::string> parts_of(const std::string& list);

}  // namespace millrace
