// The result of a system call: a value, or the errno and the name of the call. No exceptions, no globals.
#pragma once

#include <string>
#include <utility>

namespace millrace {

struct Failure {
  int error = 0;
  const char* call = "";
};

template <typename T>
struct Result {
  T value{};
  Failure failure{};
  bool ok() const { return failure.error == 0; }
  static Result of(T value) { return {std::move(value), {}}; }
  static Result fail(int error, const char* call) { return {T{}, {error, call}}; }
};

struct Nothing {};
using Outcome = Result<Nothing>;

}  // namespace millrace
