// Sums over the threads of a team, of a block and of a grid: always in one order, so that a run repeats bit for bit.
#pragma once
#include "types.cuh"

namespace pullback {

// Neighbours in memory that one access moves: `width` is 1, or Pack<T>::size for 16 bytes.
template <class T, int width> struct alignas(sizeof(T) * width) Chunk {
    T at[width];
};

template <int width, class T> __device__ __forceinline__ Chunk<T, width> load(const T* from) {
    return *reinterpret_cast<const Chunk<T, width>*>(from);
}

template <int width, class T> __device__ __forceinline__ void store(T* to, const Chunk<T, width>& chunk) {
    *reinterpret_cast<Chunk<T, width>*>(to) = chunk;
}

// Blocks of 256 threads that a multiprocessor is to hold at once: as many as it can (half for float64), or fewer where a
// kernel keeps more in registers.
template <class T> constexpr int resident = sizeof(T) == 8 ? 4 : 8;
template <class T> constexpr int roomy = sizeof(T) == 8 ? 3 : 5;

// The threads that work on one row: 1, 2, 4, ..., 32 lanes of a warp, or all of a block of whole warps.
//
//     for (int64 first = team.first(); first < rows; first += team.stride()) {
//         const int64 row = first + team.number;      // past the last for some: they still join in the reductions
struct Team {
    int lanes, rank, number, count;  // this thread's place in its team, the team's in its block, and teams per block

    __device__ __forceinline__ explicit Team(int lanes)
        : lanes(lanes), rank(threadIdx.x % lanes), number(threadIdx.x / lanes), count(blockDim.x / lanes) {}
    __device__ __forceinline__ int64 first() const { return int64(blockIdx.x) * count; }
    __device__ __forceinline__ int64 stride() const { return int64(gridDim.x) * count; }
};

__device__ __forceinline__ float merge(float a, float b) { return a + b; }
__device__ __forceinline__ double merge(double a, double b) { return a + b; }
__device__ __forceinline__ float from_lane(float value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}
__device__ __forceinline__ double from_lane(double value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}
__device__ __forceinline__ int64 from_lane(int64 value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}

// Two sums at once.
template <class W> struct Two {
    W first, second;
};
template <class W> __device__ __forceinline__ Two<W> merge(Two<W> a, Two<W> b) {
    return {a.first + b.first, a.second + b.second};
}
template <class W> __device__ __forceinline__ Two<W> from_lane(Two<W> value, int distance) {
    return {from_lane(value.first, distance), from_lane(value.second, distance)};
}

// sum(exp(x - top)), top the largest x so far: the sum of a row's exponentials in one pass over the row, merged as in
// Milakov and Gimelshein, "Online normalizer calculation for softmax" (2018). NaN anywhere makes the sum NaN, and so
// does +inf; -inf adds nothing. Merging is symmetric to the last bit: all threads of a team end with one number.
template <class W> struct Exponentials {
    W top, sum;

    static __device__ __forceinline__ Exponentials none() { return {-infinity<W>(), W(0)}; }

    template <class T, int width> __device__ __forceinline__ void add(const Chunk<T, width>& chunk) {
        W most = top;
#pragma unroll
        for (int k = 0; k < width; ++k) most = widen(chunk.at[k]) > most ? widen(chunk.at[k]) : most;
        if (most > top) {
            sum *= exp(top - most);
            top = most;
        }
        const W shift = top == -infinity<W>() ? W(0) : top;
#pragma unroll
        for (int k = 0; k < width; ++k) sum += exp(widen(chunk.at[k]) - shift);
    }
};
template <class W> __device__ __forceinline__ Exponentials<W> merge(Exponentials<W> a, Exponentials<W> b) {
    const Exponentials<W> large = a.top >= b.top ? a : b, small = a.top >= b.top ? b : a;
    return {large.top, large.sum + small.sum * (small.top == -infinity<W>() ? W(1) : exp(small.top - large.top))};
}
template <class W> __device__ __forceinline__ Exponentials<W> from_lane(Exponentials<W> value, int distance) {
    return {from_lane(value.top, distance), from_lane(value.sum, distance)};
}

// The merged values of a team, in all of its threads. Every thread of the block calls this.
template <class V> __device__ __forceinline__ V all_of(int lanes, V value) {
    for (int distance = (lanes < 32 ? lanes : 32) / 2; distance; distance /= 2) {
        value = merge(value, from_lane(value, distance));
    }
    if (lanes <= 32) return value;
    __shared__ V of_warps[32];
    __syncthreads();  // the last use of it is over
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = of_warps[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) value = merge(value, of_warps[warp]);
    return value;
}

template <class V> __device__ __forceinline__ V all_of_block(V value) { return all_of(int(blockDim.x), value); }

// Whether this block is the last of `expected` to arrive: it then sees all that the others wrote before, and the
// counter is 0 again. Every thread of the block calls this.
__device__ __forceinline__ bool last_to_arrive(uint32* counter, uint32 expected) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(counter, 1u) + 1 == expected;
        if (last) *counter = 0;
    }
    __syncthreads();
    __threadfence();
    return last;
}

}  // namespace pullback
