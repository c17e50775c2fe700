// Deflate streams as JavaScript sees them.
#pragma once

#include <napi.h>

namespace millrace {

/** Adds the classes `Deflater` and `Inflater` if there is a usable zlib. */
void export_deflate(Napi::Env env, Napi::Object exports);

}  // namespace millrace
