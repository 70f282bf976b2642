// Neighbours in memory at once: 16 bytes where the address allows, one by one where it does not and at the end.
#pragma once

#include "reduce.cuh"

namespace pullback {

template <class T> __device__ __forceinline__ bool is_aligned(const T* at) {
    return reinterpret_cast<uint64>(at) % 16 == 0;
}

// What stands from `from` on, `count` numbers at most; the rest of the chunk is 0.
template <int size, class T>
__device__ __forceinline__ Chunk<T, size> load_some(const T* from, int64 count, bool aligned) {
    if (aligned && count >= size) return load<size>(from);
    Chunk<T, size> chunk = {};
#pragma unroll
    for (int k = 0; k < size; ++k) {
        if (k < count) chunk.at[k] = from[k];
    }
    return chunk;
}

template <class T, int size>
__device__ __forceinline__ void store_some(T* to, const Chunk<T, size>& chunk, int64 count, bool aligned) {
    if (aligned && count >= size) return store(to, chunk);
#pragma unroll
    for (int k = 0; k < size; ++k) {
        if (k < count) to[k] = chunk.at[k];
    }
}

// Loops that stride by the grid take a chunk of `size` numbers at a time.
__device__ __forceinline__ int64 first_of_thread(int size) {
    return (int64(blockIdx.x) * blockDim.x + threadIdx.x) * size;
}
__device__ __forceinline__ int64 step_of_grid(int size) { return int64(gridDim.x) * blockDim.x * size; }

// i / n in a loop over `of` numbers. A division in 64 bits takes five times as long as one in 32, and is seldom needed.
__device__ __forceinline__ int64 quotient(int64 i, int64 n, int64 of) {
    return of >> 32 ? i / n : int64(uint32(i) / uint32(n));
}

}  // namespace pullback
