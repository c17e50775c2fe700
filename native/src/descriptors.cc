// sendmsg(2), recvmsg(2), cmsg(3), unix(7), dup(2).

#include "descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

namespace millrace {

Result<size_t> send_descriptors(int socket, const std::vector<uint8_t>& bytes, const std::vector<int>& fds) {
  if (bytes.empty() || fds.size() > kMostDescriptors) return Result<size_t>::fail(EINVAL, "sendmsg");
  iovec vector{const_cast<uint8_t*>(bytes.data()), bytes.size()};
  std::vector<uint8_t> control(fds.empty() ? 0 : CMSG_SPACE(fds.size() * sizeof(int)));
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size() * sizeof(int));
  }
  int flags = MSG_DONTWAIT;
#ifdef MSG_NOSIGNAL
  flags |= MSG_NOSIGNAL;
#endif
  ssize_t sent;
  do sent = sendmsg(socket, &message, flags);
  while (sent < 0 && errno == EINTR);
  if (sent < 0) return Result<size_t>::fail(errno, "sendmsg");
  return Result<size_t>::of(static_cast<size_t>(sent));
}

namespace {

void close_all(const std::vector<int>& fds) {
  for (int fd : fds) close(fd);
}

void take_descriptors(msghdr* message, std::vector<int>* fds) {
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t at = 0; at < count; at++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + at * sizeof(int), sizeof(int));
      fds->push_back(fd);
    }
  }
}

}  // namespace

Result<Received> receive_descriptors(int socket, size_t most_bytes) {
  Received received;
  received.bytes.resize(most_bytes);
  std::vector<uint8_t> control(CMSG_SPACE(kMostDescriptors * sizeof(int)));
  iovec vector{received.bytes.data(), received.bytes.size()};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  int flags = MSG_DONTWAIT;
#ifdef MSG_CMSG_CLOEXEC
  flags |= MSG_CMSG_CLOEXEC;
#endif
  ssize_t count;
  do count = recvmsg(socket, &message, flags);
  while (count < 0 && errno == EINTR);
  if (count < 0) return Result<Received>::fail(errno, "recvmsg");
  take_descriptors(&message, &received.fds);
#ifndef MSG_CMSG_CLOEXEC
  for (int fd : received.fds) fcntl(fd, F_SETFD, FD_CLOEXEC);
#endif
  if ((message.msg_flags & MSG_CTRUNC) != 0) {  // some did not fit or could not be opened: a part of them is useless
    close_all(received.fds);
    return Result<Received>::fail(EMFILE, "recvmsg");
  }
  received.bytes.resize(static_cast<size_t>(count));
  received.has_ended = count == 0;
  return Result<Received>::of(std::move(received));
}

Result<Peer> peer_credentials(int socket) {
  Peer peer;
#ifdef __linux__
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
    return Result<Peer>::fail(errno, "getsockopt");
  if (credentials.pid == 0 && credentials.uid == static_cast<uid_t>(-1)) return Result<Peer>::fail(ENOTCONN, "getsockopt");
  peer = {credentials.pid, credentials.uid, credentials.gid};
#else
  uid_t uid;
  gid_t gid;
  if (getpeereid(socket, &uid, &gid) != 0) return Result<Peer>::fail(errno, "getpeereid");
  peer = {0, uid, gid};
#endif
  return Result<Peer>::of(peer);
}

Result<int> duplicate(int fd) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return Result<int>::fail(errno, "fcntl");
  return Result<int>::of(copy);
}

Outcome duplicate_onto(int from, int to) {
  int result;
  do result = dup2(from, to);
  while (result < 0 && (errno == EINTR || errno == EBUSY));
  if (result < 0) return Outcome::fail(errno, "dup2");
  return Outcome::of({});
}

}  // namespace millrace
