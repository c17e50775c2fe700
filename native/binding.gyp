# The addon. This file is not in the root, where npm would build the addon at every install.
{
  "variables": { "sanitize%": "" },
  "targets": [
    {
      "target_name": "millrace",
      "sources": [
        "src/binding.cc",
        "src/arguments.cc",
        "src/sockets.cc",
        "src/descriptors.cc",
        "src/processes.cc",
        "src/memory.cc",
        "src/deflate.cc",
        "src/deflate_binding.cc",
      ],
      "include_dirs": ["<!(node -p \"require('node-addon-api').include_dir\")"],
      # If a thread is terminated during a call, nothing can be thrown, and node-addon-api would abort the process.
      "defines": ["NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
      "cflags_cc": ["-std=c++20", "-Wall", "-Wextra", "-Wno-unused-parameter", "-fno-exceptions", "-fvisibility=hidden"],
      "cflags_cc!": ["-std=gnu++17", "-std=gnu++20"],
      "xcode_settings": {
        "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
        "MACOSX_DEPLOYMENT_TARGET": "11.0",
        "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
      },
      "conditions": [
        ["OS=='linux'", {
          "sources": [
            "src/rings.cc",
            "src/engine.cc",
            "src/engine_datagrams.cc",
            "src/engine_binding.cc",
            "src/old_glibc.cc",
          ],
        }],
        # The C++ library is linked in: that of an old distribution lacks what a newer compiler uses. Its parts that nothing
        # calls are left out, and libgcc is the one that Node has loaded: both would need a newer glibc than Node does.
        ["OS=='linux' and sanitize==''", {
          "ldflags": ["-static-libstdc++", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"],
        }],
        ["sanitize!=''", {
          "cflags_cc": ["-fsanitize=<(sanitize)", "-fno-omit-frame-pointer", "-g", "-O1"],
          "ldflags": ["-fsanitize=<(sanitize)"],
        }],
      ],
    },
  ],
}
