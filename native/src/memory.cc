// memfd_create(2) with seals or, where that is missing, shm_open(3) with a name that is removed at once.

#include "memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

namespace millrace {
namespace {

#ifdef __linux__

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

int open_nameless() { return memfd_create("millrace", MFD_CLOEXEC | MFD_ALLOW_SEALING); }

bool seal(int fd) { return fcntl(fd, F_ADD_SEALS, kSeals) == 0; }

bool is_sealed(int fd) { return (fcntl(fd, F_GET_SEALS) & kSeals) == kSeals; }

/** Not by fstat(3), which would need glibc 2.33 (scripts/build-native.mjs). Nobody uses the offset of such memory. */
off_t size_of(int fd) { return lseek(fd, 0, SEEK_END); }

#else

int open_nameless() {
  char name[32];
  for (int turn = 0; turn < 100; turn++) {
    snprintf(name, sizeof name, "/millrace-%d-%d", getpid(), turn);
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) {
      shm_unlink(name);
      fcntl(fd, F_SETFD, FD_CLOEXEC);
      return fd;
    }
    if (errno != EEXIST) return -1;
  }
  return -1;
}

bool seal(int) { return true; }

bool is_sealed(int) { return true; }  // ftruncate(2) works only once on such an object

/** lseek(2) is not for such an object. */
off_t size_of(int fd) {
  struct stat info {};
  return fstat(fd, &info) == 0 ? info.st_size : -1;
}

#endif

}  // namespace

Result<int> create_memory(size_t bytes) {
  int fd = open_nameless();
  if (fd < 0) return Result<int>::fail(errno, "memfd_create");
  if (ftruncate(fd, static_cast<off_t>(bytes)) == 0 && seal(fd)) return Result<int>::of(fd);
  int error = errno;
  close(fd);
  return Result<int>::fail(error, "ftruncate");
}

Result<uint8_t*> map_memory(int fd, size_t bytes) {
  const off_t size = size_of(fd);
  if (size < 0) return Result<uint8_t*>::fail(errno == ESPIPE ? EINVAL : errno, "mmap");  // a socket has no size
  if (static_cast<uint64_t>(size) < bytes || !is_sealed(fd)) return Result<uint8_t*>::fail(EINVAL, "mmap");
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return Result<uint8_t*>::fail(errno, "mmap");
  return Result<uint8_t*>::of(static_cast<uint8_t*>(memory));
}

void unmap_memory(uint8_t* memory, size_t bytes) { munmap(memory, bytes); }

}  // namespace millrace
