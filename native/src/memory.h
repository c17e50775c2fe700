// Memory shared by several processes: created by one and inherited by others as a descriptor. It exists as long as one
// of them has it open or mapped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "result.h"

namespace millrace {

/** Creates nameless, zeroed memory whose size cannot change any more. Returns its descriptor, CLOEXEC. */
Result<int> create_memory(size_t bytes);

/** Maps all of it, shared. EINVAL if `fd` is of another kind or too small: reading past its end would be fatal. */
Result<uint8_t*> map_memory(int fd, size_t bytes);
void unmap_memory(uint8_t* memory, size_t bytes);

}  // namespace millrace
