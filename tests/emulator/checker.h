// What the instrumentation (sanitizer.cpp) tells the checker (checker.cpp).
#pragma once

#include "runtime.h"

namespace emulator {

// A kernel is about to read or write memory that is neither on its stack nor one of CUDA's built-in variables.
void check_access(const void* address, size_t size, bool write, const void* pc);

}  // namespace emulator
