// The CUDA language as host C++: what a kernel may say without any include. Forced in before a `.cu` file.
//
// Only what CUDA has, with the types it has it for: `atomicAdd` on a `long long` does not compile here either.
// Not here: dynamic shared memory, inline PTX, tensor cores, asynchronous copies, grid-wide barriers, printf.
#pragma once

#include <math.h>
#include <string.h>

#include <type_traits>

#include "runtime.h"

// NOLINTBEGIN: names that CUDA reserves
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
// One block runs at a time, so a block's shared memory is this (one) host thread's own: the loader gathers the
// variables of all functions and templates in one segment, which the runtime fills with NaNs before each block.
#define __shared__ static thread_local

#define threadIdx (::emulator::builtins.thread)
#define blockIdx (::emulator::builtins.block)
#define blockDim (::emulator::builtins.block_extent)
#define gridDim (::emulator::builtins.grid_extent)
constexpr int warpSize = 32;

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace emulator {
// As a default argument: the place of the call.
constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

template <class T> T shuffle(Shuffle kind, unsigned mask, T value, int argument, int width, Place place) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = shuffle(kind, mask, bits, argument, width, place);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

template <class T, class Update>
__attribute__((no_sanitize("thread"))) T atomic(T* address, Update update, Place place) {
    atomic_access(address, sizeof(T), place);
    const T old = *address;
    *address = update(old);
    return old;
}

template <class To, class From> To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
}  // namespace emulator

// ---- barriers, fences and the warp -----------------------------------------------------------------------------
#define PLACE ::emulator::Place place = ::emulator::here()

inline void __syncthreads(PLACE) { emulator::barrier(emulator::Count::nothing, 0, place); }
inline int __syncthreads_count(int predicate, PLACE) {
    return emulator::barrier(emulator::Count::threads, predicate, place);
}
inline int __syncthreads_and(int predicate, PLACE) {
    return emulator::barrier(emulator::Count::conjunction, predicate, place);
}
inline int __syncthreads_or(int predicate, PLACE) {
    return emulator::barrier(emulator::Count::disjunction, predicate, place);
}
inline void __threadfence() { emulator::fence(); }
inline void __trap(PLACE) { emulator::trap(place); }

inline void __syncwarp(unsigned mask = 0xffffffffu, PLACE) { emulator::vote(emulator::Vote::none, mask, 0, place); }
inline unsigned __ballot_sync(unsigned mask, int predicate, PLACE) {
    return emulator::vote(emulator::Vote::ballot, mask, predicate, place);
}
inline int __any_sync(unsigned mask, int predicate, PLACE) {
    return static_cast<int>(emulator::vote(emulator::Vote::any, mask, predicate, place));
}
inline int __all_sync(unsigned mask, int predicate, PLACE) {
    return static_cast<int>(emulator::vote(emulator::Vote::all, mask, predicate, place));
}
template <class T> T __shfl_sync(unsigned mask, T value, int lane, int width = 32, PLACE) {
    return emulator::shuffle(emulator::Shuffle::index, mask, value, lane, width, place);
}
template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, PLACE) {
    return emulator::shuffle(emulator::Shuffle::up, mask, value, static_cast<int>(delta), width, place);
}
template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, PLACE) {
    return emulator::shuffle(emulator::Shuffle::down, mask, value, static_cast<int>(delta), width, place);
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, PLACE) {
    return emulator::shuffle(emulator::Shuffle::exclusive_or, mask, value, lanes, width, place);
}

// ---- atomic operations -----------------------------------------------------------------------------------------
#define ATOMIC(name, T, expression)                                                      \
    inline T name(T* address, T value, PLACE) {                                          \
        return emulator::atomic(address, [=](T old) -> T { return expression; }, place); \
    }
#define ATOMIC_OF_32_AND_64_BITS(name, expression) \
    ATOMIC(name, int, expression)                  \
    ATOMIC(name, unsigned, expression)             \
    ATOMIC(name, unsigned long long, expression)

ATOMIC_OF_32_AND_64_BITS(atomicAdd, old + value)
ATOMIC(atomicAdd, float, old + value)
ATOMIC(atomicAdd, double, old + value)
ATOMIC(atomicSub, int, old - value)
ATOMIC(atomicSub, unsigned, old - value)
ATOMIC_OF_32_AND_64_BITS(atomicExch, value)
ATOMIC(atomicExch, float, value)
ATOMIC_OF_32_AND_64_BITS(atomicMin, value < old ? value : old)
ATOMIC(atomicMin, long long, value < old ? value : old)
ATOMIC_OF_32_AND_64_BITS(atomicMax, value > old ? value : old)
ATOMIC(atomicMax, long long, value > old ? value : old)
ATOMIC_OF_32_AND_64_BITS(atomicAnd, old& value)
ATOMIC_OF_32_AND_64_BITS(atomicOr, old | value)
ATOMIC_OF_32_AND_64_BITS(atomicXor, old ^ value)
ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#define ATOMIC_CAS(T)                                                                                      \
    inline T atomicCAS(T* address, T compare, T value, PLACE) {                                            \
        return emulator::atomic(address, [=](T old) -> T { return old == compare ? value : old; }, place); \
    }
ATOMIC_CAS(int)
ATOMIC_CAS(unsigned)
ATOMIC_CAS(unsigned long long)

// ---- arithmetic ------------------------------------------------------------------------------------------------
template <class T> T __ldg(const T* address) { return *address; }

inline unsigned __float_as_uint(float x) { return emulator::bits_of<unsigned>(x); }
inline int __float_as_int(float x) { return emulator::bits_of<int>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits_of<float>(x); }
inline float __int_as_float(int x) { return emulator::bits_of<float>(x); }
inline long long __double_as_longlong(double x) { return emulator::bits_of<long long>(x); }
inline double __longlong_as_double(long long x) { return emulator::bits_of<double>(x); }

inline unsigned __umulhi(unsigned x, unsigned y) { return static_cast<unsigned>((uint64_t{x} * y) >> 32); }
inline int __mulhi(int x, int y) { return static_cast<int>((int64_t{x} * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(x) * y) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

#define MIN_AND_MAX(T)                               \
    inline T min(T x, T y) { return y < x ? y : x; } \
    inline T max(T x, T y) { return x < y ? y : x; }
MIN_AND_MAX(int)
MIN_AND_MAX(unsigned)
MIN_AND_MAX(long)
MIN_AND_MAX(unsigned long)
MIN_AND_MAX(long long)
MIN_AND_MAX(unsigned long long)
inline float min(float x, float y) { return fminf(x, y); }
inline float max(float x, float y) { return fmaxf(x, y); }
inline double min(double x, double y) { return fmin(x, y); }
inline double max(double x, double y) { return fmax(x, y); }

inline float rsqrtf(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }
inline float rsqrt(float x) { return rsqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }

#undef PLACE
#undef ATOMIC
#undef ATOMIC_OF_32_AND_64_BITS
#undef ATOMIC_CAS
#undef MIN_AND_MAX
// NOLINTEND
