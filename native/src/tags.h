// V8 checks the receiver of a native method but not of an accessor: called on an object of another class, an accessor
// would read foreign memory. So objects with accessors carry a tag (napi_type_tag_object).
#pragma once

#include <napi.h>

namespace millrace {

constexpr napi_type_tag kDescriptorTag = {0x6d696c6c72616365, 1};
constexpr napi_type_tag kDeflaterTag = {0x6d696c6c72616365, 2};
constexpr napi_type_tag kInflaterTag = {0x6d696c6c72616365, 3};

inline void tag_receiver(const Napi::CallbackInfo& info, const napi_type_tag& tag) {
  info.This().As<Napi::Object>().TypeTag(&tag);
}

inline bool has_tag(const Napi::CallbackInfo& info, const napi_type_tag& tag) {
  return info.This().IsObject() && info.This().As<Napi::Object>().CheckTypeTag(&tag);
}

}  // namespace millrace
