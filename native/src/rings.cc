// mmap(2). Untouched pages cost nothing, so the table of a million slots only reserves address space.

#include "rings.h"

#include <errno.h>
#include <sys/mman.h>

namespace millrace {
namespace {

constexpr size_t kPage = 4096;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

}  // namespace

Result<Rings*> Rings::map() {
  const size_t sizes[kParts] = {sizeof(Header),          kMaxEvents * sizeof(Event), kMaxSends * sizeof(Send),
                                kMaxSlots * sizeof(double), kSendBytes,             kReceiveBytes,
                                static_cast<size_t>(kMaxDatagrams) * kDatagramBytes};
  Rings* rings = new Rings();
  size_t total = 0;
  for (size_t part = 0; part < kParts; part++) {
    rings->offsets[part] = total;
    total += whole_pages(sizes[part]);
  }
  void* memory = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    delete rings;
    return Result<Rings*>::fail(errno, "mmap");
  }
  uint8_t* base = static_cast<uint8_t*>(memory);
  rings->memory_ = base;
  rings->size_ = total;
  rings->header = reinterpret_cast<Header*>(base + rings->offsets[kHeader]);
  rings->events = reinterpret_cast<Event*>(base + rings->offsets[kEvents]);
  rings->sends = reinterpret_cast<Send*>(base + rings->offsets[kSends]);
  rings->queued = reinterpret_cast<double*>(base + rings->offsets[kQueued]);
  rings->send = base + rings->offsets[kSend];
  rings->receive = base + rings->offsets[kReceive];
  rings->datagrams = base + rings->offsets[kDatagrams];
  return Result<Rings*>::of(rings);
}

Rings::~Rings() {
  if (memory_ != nullptr) munmap(memory_, size_);
}

}  // namespace millrace
