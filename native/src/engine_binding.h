// The engine as JavaScript sees it.
#pragma once

#include <napi.h>

namespace millrace {

/** Defines the class `Engine`. An environment needs one instance. */
Napi::Function define_engine(Napi::Env env);

}  // namespace millrace
