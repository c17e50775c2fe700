// The engine as JavaScript has it.
#pragma once

#include <napi.h>

namespace millrace {

/** The class `Engine`, of which an environment needs one. */
Napi::Function define_engine(Napi::Env env);

}  // namespace millrace
