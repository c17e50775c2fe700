// What a supervisor does to processes, itself among them.
#pragma once

#include <string>
#include <vector>

#include "result.h"

namespace millrace {

/** `signal` comes when the parent ends. ESRCH when `parent` is not the parent any more. Linux. */
Outcome set_parent_death_signal(int signal, int parent);

struct Reaped {
  int pid;
  /** Exit code, or -1. */
  int code;
  /** Signal, or 0. */
  int signal;
};

/** Takes dead children that are not among `known`: orphans that were given to us. At most `most` of them. */
Result<std::vector<Reaped>> reap(const std::vector<int>& known, size_t most);
/** Orphans below this process come to it and not to process 1. Linux. */
Outcome become_reaper();
/** Becomes another program, in which these descriptors stay open. Returns only when it failed. */
Failure execute(const std::string& path, const std::vector<std::string>& args, const std::vector<std::string>& env,
                const std::vector<int>& keep);
/** sd_notify(3): one datagram to a path, or with a leading '@' to an abstract name. */
Outcome notify(const std::string& socket_path, const std::string& text);

}  // namespace millrace
