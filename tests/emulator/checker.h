// What the runtime (runtime.cpp), the checker that watches the kernels' memory (checker.cpp) and the instrumentation that
// tells it what they do (sanitizer.cpp) know of each other.
#pragma once

#include <string>

#include "runtime.h"

namespace emulator {

// ---- the runtime, for the checker ------------------------------------------------------------------------------
struct Launch {
    unsigned threads;        // in a block
    uint64_t blocks;         // in the grid
    uint64_t block;          // the one that runs now, counted from 0
    unsigned thread;         // the one that runs now, counted from 0 in its block
    char* stack;             // of that thread
    bool in_kernel = false;  // false while the runtime itself runs
};
extern Launch launch;
constexpr size_t stack_bytes = 64 << 10;
constexpr unsigned warp_size = 32;
constexpr unsigned most_threads = 1024;

// Ends the launch with an error; `check` says which kind of check found it.
[[noreturn]] void fail(const char* check, const std::string& message);
std::string at(Place place);     // "at rows.cu:12"
std::string at(const void* pc);  // "at {pc 0x1234}", an offset in the library that Python resolves
std::string name_of_thread(uint64_t block, unsigned thread);

struct Range {
    char* begin;
    char* end;
    bool holds(const void* address, size_t size) const {
        return address >= begin && static_cast<const char*>(address) + size <= end;
    }
};
Range shared_memory();  // where the `__shared__` variables of this library lie, for the thread of the host that asks
bool is_constant(const void* address, size_t size);  // in this library's read-only data

// ---- the checker, for the runtime ------------------------------------------------------------------------------
struct Buffer {  // global memory that a launch may touch
    char* begin;
    uint64_t size;
    int writable, initialised;
};
void check_launch(const Buffer* buffers, size_t count);
void check_launch_end();
void check_block();
void check_block_barrier();
void check_warp_barrier(unsigned warp, unsigned lanes);
void check_fence();
void check_atomic(const void* address, size_t size, Place place);

// ---- the checker, for the instrumentation ----------------------------------------------------------------------
// A kernel is about to read or write memory that is neither on its stack nor one of CUDA's built-in variables.
void check_access(const void* address, size_t size, bool write, const void* pc);

}  // namespace emulator
