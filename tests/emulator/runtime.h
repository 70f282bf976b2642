// What kernels (through cuda.h) and the runtime that runs them (runtime.cpp) know of each other; what the runtime and the
// checker know is in checker.h. Kept small: every build of kernels reads it. Only the kernels are compiled with the
// compiler's instrumentation; the rest is ordinary C++.
#pragma once

#include <cstddef>
#include <cstdint>

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

// ---- the kernels, for the runtime: made by export.h ------------------------------------------------------------
struct Parameter {
    char access;       // of a pointer: 'r', or 'w' where it is not const; of a number: 0
    const char* type;  // "f", "bf16", ...
    int bytes;         // of its type, 0 where the name says it
};
struct Kernel {
    const Parameter* parameters;          // the last has no type
    void (*run)(void* const* arguments);  // one thread of the kernel
};
const Kernel& kernel(size_t number);
extern const bool checked;  // whether the kernels carry the compiler's instrumentation

}  // namespace emulator
