// bind(2), listen(2), socket(7), tcp(7), unix(7).

#include "sockets.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "address.h"

#ifdef __linux__
#include <linux/filter.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#endif

namespace millrace {
namespace {

struct Target {
  Address address{};
  socklen_t length = 0;
};

/** Also reads the interface of a link-local address, which inet_pton does not: `fe80::1%eth0`, `fe80::1%2`. */
bool read_v6(const std::string& text, sockaddr_in6* address) {
  const size_t end = text.find('%');
  if (inet_pton(AF_INET6, text.substr(0, end).c_str(), &address->sin6_addr) != 1) return false;
  if (end == std::string::npos) return true;
  const std::string name = text.substr(end + 1);
  const unsigned index = if_nametoindex(name.c_str());
  address->sin6_scope_id = index != 0 ? index : static_cast<uint32_t>(std::strtoul(name.c_str(), nullptr, 10));
  return address->sin6_scope_id != 0;
}

/** The form that `read_v6` reads: with the interface's name, or its number if it no longer has a name. */
std::string v6_text(const sockaddr_in6& address) {
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof(text));
  if (address.sin6_scope_id == 0) return text;
  char name[IF_NAMESIZE] = "";
  const bool has_name = if_indextoname(address.sin6_scope_id, name) != nullptr;
  return std::string(text) + '%' + (has_name ? name : std::to_string(address.sin6_scope_id));
}

Result<Target> target_of(const BindOptions& options) {
  Target target;
  if (options.transport == Transport::Unix) {
    if (options.path.empty() || options.path.size() >= sizeof(target.address.local.sun_path))
      return Result<Target>::fail(ENAMETOOLONG, "bind");
    target.address.local.sun_family = AF_UNIX;
    std::memcpy(target.address.local.sun_path, options.path.data(), options.path.size());
    target.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + options.path.size() + 1);
  } else if (inet_pton(AF_INET, options.host.c_str(), &target.address.v4.sin_addr) == 1) {
    target.address.v4.sin_family = AF_INET;
    target.address.v4.sin_port = htons(options.port);
    target.length = sizeof(sockaddr_in);
  } else if (read_v6(options.host, &target.address.v6)) {
    target.address.v6.sin6_family = AF_INET6;
    target.address.v6.sin6_port = htons(options.port);
    target.length = sizeof(sockaddr_in6);
  } else {
    return Result<Target>::fail(EINVAL, "inet_pton");
  }
  return Result<Target>::of(target);
}

Outcome set_option(int fd, int level, int name, int value) {
  if (setsockopt(fd, level, name, &value, sizeof(value)) != 0) return Outcome::fail(errno, "setsockopt");
  return Outcome::of({});
}

/** CLOEXEC and non-blocking: set by socket(2) itself if the system supports that, else right after. */
Result<int> open_socket(int domain, int type) {
#ifdef SOCK_CLOEXEC
  int fd = socket(domain, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Result<int>::fail(errno, "socket");
#else
  int fd = socket(domain, type, 0);
  if (fd < 0) return Result<int>::fail(errno, "socket");
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
#endif
  return Result<int>::of(fd);
}

Outcome prepare(int fd, int domain, const BindOptions& options) {
  if (options.transport == Transport::Unix) return Outcome::of({});
  if (options.transport == Transport::Tcp) {
    Outcome reuse = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (!reuse.ok()) return reuse;
  }
  if (domain == AF_INET6) {
    Outcome only = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, options.dual_stack ? 0 : 1);
    if (!only.ok()) return only;
  }
  return options.reuse_port ? set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1) : Outcome::of({});
}

}  // namespace

Result<int> bind_socket(const BindOptions& options) {
  Result<Target> target = target_of(options);
  if (!target.ok()) return Result<int>::fail(target.failure.error, target.failure.call);
  int domain = target.value.address.any.sa_family;
  Result<int> opened = open_socket(domain, options.transport == Transport::Udp ? SOCK_DGRAM : SOCK_STREAM);
  if (!opened.ok()) return opened;
  Outcome prepared = prepare(opened.value, domain, options);
  if (prepared.ok() && bind(opened.value, &target.value.address.any, target.value.length) != 0)
    prepared = Outcome::fail(errno, "bind");
  if (prepared.ok()) return opened;
  close(opened.value);
  return Result<int>::fail(prepared.failure.error, prepared.failure.call);
}

/** Never bound without a peer, so that no datagram from another sender gets into its queue. */
Result<int> connect_datagrams(const std::string& host, uint16_t port) {
  BindOptions options;
  options.transport = Transport::Udp;
  options.host = host;
  options.port = port;
  Result<Target> target = target_of(options);
  if (!target.ok()) return Result<int>::fail(target.failure.error, target.failure.call);
  Result<int> opened = open_socket(target.value.address.any.sa_family, SOCK_DGRAM);
  if (!opened.ok() || connect(opened.value, &target.value.address.any, target.value.length) == 0) return opened;
  const int error = errno;
  close(opened.value);
  return Result<int>::fail(error, "connect");
}

Outcome listen_on(int fd, int backlog) {
  if (listen(fd, backlog) != 0) return Outcome::fail(errno, "listen");
  return Outcome::of({});
}

Result<SocketName> socket_name(int fd) {
  Address address{};
  socklen_t length = sizeof(address);
  if (getsockname(fd, &address.any, &length) != 0) return Result<SocketName>::fail(errno, "getsockname");
  SocketName name;
  if (address.any.sa_family == AF_INET) {
    char text[INET_ADDRSTRLEN] = "";
    inet_ntop(AF_INET, &address.v4.sin_addr, text, sizeof(text));
    name = {4, text, ntohs(address.v4.sin_port)};
  } else if (address.any.sa_family == AF_INET6) {
    name = {6, v6_text(address.v6), ntohs(address.v6.sin6_port)};
  } else if (address.any.sa_family == AF_UNIX) {
    socklen_t head = offsetof(sockaddr_un, sun_path);
    size_t size = length > head ? strnlen(address.local.sun_path, length - head) : 0;
    name.address.assign(address.local.sun_path, size);
  } else {
    return Result<SocketName>::fail(EAFNOSUPPORT, "getsockname");
  }
  return Result<SocketName>::of(name);
}

Result<Inherited> take_inherited(int fd) {
  int type = 0;
  int listens = 0;
  socklen_t size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0) return Result<Inherited>::fail(errno, "getsockopt");
  size = sizeof(int);
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0) return Result<Inherited>::fail(errno, "getsockopt");
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return Result<Inherited>::fail(errno, "fcntl");
  if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) return Result<Inherited>::fail(errno, "fcntl");
  if (type == SOCK_DGRAM) return Result<Inherited>::of(Inherited::Datagrams);
  return Result<Inherited>::of(type == SOCK_STREAM && listens != 0 ? Inherited::Listening : Inherited::Other);
}

Outcome set_keep_alive(int fd, int idle_seconds) {
  Outcome on = set_option(fd, SOL_SOCKET, SO_KEEPALIVE, idle_seconds > 0 ? 1 : 0);
  if (!on.ok() || idle_seconds <= 0) return on;
#ifdef TCP_KEEPIDLE
  return set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle_seconds);
#else
  return set_option(fd, IPPROTO_TCP, TCP_KEEPALIVE, idle_seconds);
#endif
}

Outcome set_no_delay(int fd, bool is_on) { return set_option(fd, IPPROTO_TCP, TCP_NODELAY, is_on ? 1 : 0); }

#ifdef __linux__

/**
 * A random number modulo n, then a chain of `if (it == i) return places[i]`. A conditional jump can skip at most 255
 * instructions, so each skips one.
 */
Outcome choose_among(int fd, const std::vector<uint32_t>& places) {
  if (places.empty() || places.size() > 1024) return Outcome::fail(EINVAL, "setsockopt");
  std::vector<sock_filter> program;
  program.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_AD_OFF + SKF_AD_RANDOM)));
  program.push_back(BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, static_cast<uint32_t>(places.size())));
  for (uint32_t at = 0; at + 1 < places.size(); at++) {
    program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, at, 0, 1));
    program.push_back(BPF_STMT(BPF_RET | BPF_K, places[at]));
  }
  program.push_back(BPF_STMT(BPF_RET | BPF_K, places.back()));
  sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &filter, sizeof(filter)) != 0)
    return Outcome::fail(errno, "setsockopt");
  return Outcome::of({});
}

/** For a listening socket, the kernel reports its accept queue in two fields that have another meaning for connections. */
Result<AcceptQueue> accept_queue(int fd) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return Result<AcceptQueue>::fail(errno, "getsockopt");
  return Result<AcceptQueue>::of({info.tcpi_unacked, info.tcpi_sacked});
}

Result<uint32_t> unacknowledged_bytes(int fd) {
  int count = 0;
  if (ioctl(fd, SIOCOUTQ, &count) != 0) return Result<uint32_t>::fail(errno, "ioctl");
  return Result<uint32_t>::of(static_cast<uint32_t>(count));
}

#else

Outcome choose_among(int, const std::vector<uint32_t>&) { return Outcome::fail(ENOTSUP, "setsockopt"); }

Result<AcceptQueue> accept_queue(int) { return Result<AcceptQueue>::fail(ENOTSUP, "getsockopt"); }

Result<uint32_t> unacknowledged_bytes(int) { return Result<uint32_t>::fail(ENOTSUP, "ioctl"); }

#endif

}  // namespace millrace
