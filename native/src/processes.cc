// prctl(2), waitid(2), execve(2), sd_notify(3).

#include "processes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#ifdef __linux__
#include <sys/prctl.h>
#endif

namespace millrace {

#ifdef __linux__

Outcome set_parent_death_signal(int signal, int parent) {
  if (prctl(PR_SET_PDEATHSIG, signal) != 0) return Outcome::fail(errno, "prctl");
  if (signal != 0 && getppid() != parent) return Outcome::fail(ESRCH, "prctl");  // the parent ended before this call
  return Outcome::of({});
}

Outcome become_reaper() {
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return Outcome::fail(errno, "prctl");
  return Outcome::of({});
}

#else

Outcome set_parent_death_signal(int, int) { return Outcome::fail(ENOTSUP, "prctl"); }

Outcome become_reaper() { return Outcome::fail(ENOTSUP, "prctl"); }

#endif

/**
 * waitid reports one dead child at a time, and the same one again until it is reaped. So this stops at a known child;
 * orphans behind it are found by the caller's next call, after libuv has reaped that child.
 */
Result<std::vector<Reaped>> reap(const std::vector<int>& known, size_t most) {
  std::vector<Reaped> reaped;
  while (reaped.size() < most) {
    siginfo_t info{};
    if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0) {
      if (errno == EINTR) continue;
      if (errno == ECHILD) break;
      return Result<std::vector<Reaped>>::fail(errno, "waitid");
    }
    if (info.si_pid == 0) break;
    if (std::find(known.begin(), known.end(), info.si_pid) != known.end()) break;
    int status = 0;
    if (waitpid(info.si_pid, &status, WNOHANG) != info.si_pid) break;
    reaped.push_back({info.si_pid, WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0});
  }
  return Result<std::vector<Reaped>>::of(std::move(reaped));
}

namespace {

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (const std::string& text : texts) all.push_back(const_cast<char*>(text.c_str()));
  all.push_back(nullptr);
  return all;
}

}  // namespace

Failure execute(const std::string& path, const std::vector<std::string>& args, const std::vector<std::string>& env,
                const std::vector<int>& keep) {
  for (int fd : keep) {
    int flags = fcntl(fd, F_GETFD);
    if (flags < 0 || fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC) < 0) return {errno, "fcntl"};
  }
  for (int fd = 0; fd <= 2; fd++) {  // Node has set CLOEXEC on these, too
    int flags = fcntl(fd, F_GETFD);
    if (flags >= 0) fcntl(fd, F_SETFD, flags & ~FD_CLOEXEC);
  }
  std::vector<char*> argv = pointers(args);
  std::vector<char*> envp = pointers(env);
  sigset_t none, before;  // libuv or V8 may have blocked signals in this thread, and the new program would inherit that
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, &before);
  execve(path.c_str(), argv.data(), envp.data());
  int error = errno;
  sigprocmask(SIG_SETMASK, &before, nullptr);
  for (int fd : keep) fcntl(fd, F_SETFD, FD_CLOEXEC);
  return {error, "execve"};
}

/** /dev/fd, since close_range(2) does this only from Linux 5.11 on. */
Outcome close_on_exec() {
  DIR* all = opendir("/dev/fd");
  if (all == nullptr) return Outcome::fail(errno, "opendir");
  while (const dirent* entry = readdir(all)) {
    int fd = std::atoi(entry->d_name);  // 0 for "." and ".."
    int flags = fd > 2 ? fcntl(fd, F_GETFD) : -1;
    if (flags >= 0) fcntl(fd, F_SETFD, flags | FD_CLOEXEC);
  }
  closedir(all);
  return Outcome::of({});
}

Outcome notify(const std::string& socket_path, const std::string& text) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() < 2 || socket_path.size() >= sizeof(address.sun_path)) return Outcome::fail(EINVAL, "sendto");
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  bool is_abstract = address.sun_path[0] == '@';
  if (is_abstract) address.sun_path[0] = '\0';
  size_t length = offsetof(sockaddr_un, sun_path) + socket_path.size() + (is_abstract ? 0 : 1);
  int type = SOCK_DGRAM;
#ifdef SOCK_CLOEXEC
  type |= SOCK_CLOEXEC;
#endif
  int fd = socket(AF_UNIX, type, 0);
  if (fd < 0) return Outcome::fail(errno, "socket");
  ssize_t sent = sendto(fd, text.data(), text.size(), MSG_DONTWAIT, reinterpret_cast<sockaddr*>(&address),
                        static_cast<socklen_t>(length));
  int error = errno;
  close(fd);
  if (sent < 0) return Outcome::fail(error, "sendto");
  return Outcome::of({});
}

}  // namespace millrace
