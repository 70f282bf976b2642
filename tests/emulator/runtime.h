// What the parts of the emulator know of each other: the kernels (through cuda.h), the runtime that runs them
// (runtime.cpp) and the checker that watches their memory (checker.cpp). Only the kernels are compiled with the
// compiler's instrumentation; the other two are ordinary C++.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

struct Place {  // a line of a kernel's source
    const char* file;
    int line;
};

struct Triple {
    unsigned x, y, z;
};

// What `threadIdx`, `blockIdx`, `blockDim` and `gridDim` are for the thread that runs now.
struct Builtins {
    Triple thread, block;
    Triple block_extent, grid_extent;
};
extern Builtins builtins;

enum class Shuffle { exclusive_or, down, up, index };
enum class Vote { ballot, any, all, none };  // `none` is __syncwarp
enum class Count { nothing, threads, conjunction, disjunction };

// ---- called by kernels -----------------------------------------------------------------------------------------
int barrier(Count count, int predicate, Place place);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width, Place place);
unsigned vote(Vote kind, unsigned mask, int predicate, Place place);
void fence();
void atomic_access(const void* address, size_t size, Place place);
[[noreturn]] void trap(Place place);

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
extern const bool checked;  // whether the kernels carry the compiler's instrumentation

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

// ---- the kernels, for the runtime: made by export.h ------------------------------------------------------------
struct Kernel {
    std::string signature;                // a code for every parameter, joined by commas
    void (*run)(void* const* arguments);  // one thread of the kernel
};
const Kernel& kernel(size_t number);

}  // namespace emulator
