// See arguments.h.

#include "arguments.h"

#include <cmath>

namespace millrace {

void Arguments::Refuse(const char* name, const char* wanted) {
  if (!is_ok_) return;  // only the first one is reported
  is_ok_ = false;
  Napi::TypeError error = Napi::TypeError::New(info_.Env(), std::string(name) + " must be " + wanted);
  error.Set("code", Napi::String::New(info_.Env(), "ERR_INVALID_ARG_TYPE"));
  error.ThrowAsJavaScriptException();
}

int64_t Arguments::Integer(const char* name, int64_t least, int64_t most) {
  Napi::Value value = Next();
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (number == std::floor(number) && number >= static_cast<double>(least) && number <= static_cast<double>(most))
    return static_cast<int64_t>(number);
  Refuse(name, ("an integer from " + std::to_string(least) + " to " + std::to_string(most)).c_str());
  return least;
}

bool Arguments::Boolean(const char* name) {
  Napi::Value value = Next();
  if (value.IsBoolean()) return value.As<Napi::Boolean>().Value();
  Refuse(name, "true or false");
  return false;
}

std::string Arguments::Text(const char* name, bool is_list) {
  Napi::Value value = Next();
  if (!value.IsString()) {
    Refuse(name, "a string");
    return "";
  }
  std::string text = value.As<Napi::String>().Utf8Value();
  if (!is_list && text.find('\0') != std::string::npos) Refuse(name, "a string without NUL");
  return text;
}

Napi::Uint8Array Arguments::View(const char* name) {
  Napi::Value value = Next();
  if (value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == napi_uint8_array)
    return value.As<Napi::Uint8Array>();
  Refuse(name, "a Uint8Array");
  return {};
}

std::vector<uint8_t> Arguments::Bytes(const char* name) {
  Napi::Uint8Array array = View(name);
  if (!ok()) return {};
  return array.ElementLength() == 0 ? std::vector<uint8_t>() : std::vector<uint8_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<int32_t> Arguments::Integers(const char* name) {
  Napi::Value value = Next();
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
    Refuse(name, "an Int32Array");
    return {};
  }
  Napi::Int32Array array = value.As<Napi::Int32Array>();
  return array.ElementLength() == 0 ? std::vector<int32_t>() : std::vector<int32_t>(array.Data(), array.Data() + array.ElementLength());
}

std::vector<std::string> parts_of(const std::string& list) {
  std::vector<std::string> parts;
  if (list.empty()) return parts;
  size_t from = 0;
  for (size_t end = list.find('\0'); end != std::string::npos; end = list.find('\0', from)) {
    parts.push_back(list.substr(from, end - from));
    from = end + 1;
  }
  parts.push_back(list.substr(from));
  return parts;
}

}  // namespace millrace
