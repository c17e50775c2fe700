// What a supervisor does to processes, including itself.
#pragma once

#include <string>
#include <vector>

#include "result.h"

namespace millrace {

/** This process receives `signal` when its parent ends. ESRCH if `parent` is no longer the parent. Linux only. */
Outcome set_parent_death_signal(int signal, int parent);

struct Reaped {
  int pid;
  /** Exit code; -1 if a signal ended the process. */
  int code;
  /** The signal that ended the process, or 0. */
  int signal;
};

/** Reaps up to `most` dead children that are not among `known`: orphans that this process has inherited. */
Result<std::vector<Reaped>> reap(const std::vector<int>& known, size_t most);
/** Orphaned descendants become children of this process instead of process 1. Linux only. */
Outcome become_reaper();
/** Replaces the program of this process; the descriptors in `keep` stay open. Returns only on failure. */
Failure execute(const std::string& path, const std::vector<std::string>& args, const std::vector<std::string>& env,
                const std::vector<int>& keep);
/** From now on a child inherits only descriptors that it is given, and 0, 1 and 2. */
Outcome close_on_exec();
/** sd_notify(3): sends one datagram to a path or, with a leading '@', to an abstract name. */
Outcome notify(const std::string& socket_path, const std::string& text);

}  // namespace millrace
