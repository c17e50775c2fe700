// Arguments of a call from JavaScript, each checked. Only plain values come over the boundary (numbers, strings, booleans,
// typed arrays): reading them runs no code of anybody's. After the first wrong one an exception is pending.
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
  /** UTF-8 without a NUL, unless it separates the parts of a list. */
  std::string Text(const char* name, bool is_list = false);
  std::vector<uint8_t> Bytes(const char* name);
  /** As they lie in JavaScript's memory: for no longer than the call. Empty when they are none. */
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

/** "a\0b" is a and b; nothing is no part. */
std::vector<std::string> parts_of(const std::string& list);

}  // namespace millrace
