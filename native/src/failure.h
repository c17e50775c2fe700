// A failed system call as JavaScript sees it: an Error with `errno` (negative, as in libuv) and `syscall`.
#pragma once

#include <napi.h>

#include "result.h"

namespace millrace {

inline Napi::Value throw_failure(Napi::Env env, const Failure& failure) {
  Napi::Error error = Napi::Error::New(env, std::string(failure.call) + " failed");
  error.Set("errno", Napi::Number::New(env, -failure.error));
  error.Set("syscall", Napi::String::New(env, failure.call));
  error.ThrowAsJavaScriptException();
  return env.Undefined();
}

}  // namespace millrace
