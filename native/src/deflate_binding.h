// Deflate streams as JavaScript has them.
#pragma once

#include <napi.h>

namespace millrace {

/** Adds the classes `Deflater` and `Inflater`, where there is a zlib. */
void export_deflate(Napi::Env env, Napi::Object exports);

}  // namespace millrace
