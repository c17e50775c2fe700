// Memory that several processes see: made by one, inherited by others as a descriptor, and there for as long as one of them
// has it open or mapped.
#pragma once

#include <cstddef>
#include <cstdint>

#include "result.h"

namespace millrace {

/** `bytes` of zeros without a name, of a size that nobody can change. A descriptor, CLOEXEC. */
Result<int> create_memory(size_t bytes);

/** Maps all of it, shared. EINVAL for a descriptor of another kind or size: reading past the end of a file ends a process. */
Result<uint8_t*> map_memory(int fd, size_t bytes);
void unmap_memory(uint8_t* memory, size_t bytes);

}  // namespace millrace
