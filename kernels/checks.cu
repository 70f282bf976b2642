// Of all gradients in one launch each: their norm, scaling by a factor in device memory, whether all are finite.
#include "pieces.cuh"

namespace pullback {

// What a thread has to add of a piece: the sum of f(number) over the numbers that fall to it.
template <class T, class F> __device__ __forceinline__ double share(const Piece& piece, const F& f) {
    constexpr int width = Pack<T>::size;
    const T* const x = piece.array<const T>(0);
    const int64 whole = piece.whole(width);
    double sum = 0;
    for (int64 i = threadIdx.x * width; i < whole; i += blockDim.x * width) {
        const Chunk<T, width> chunk = load<width>(x + i);
#pragma unroll
        for (int k = 0; k < width; ++k) sum += f(widen(chunk.at[k]));
    }
    for (int64 i = whole + threadIdx.x; i < piece.size; i += blockDim.x) sum += f(widen(x[i]));
    return sum;
}

struct Squared {
    __device__ __forceinline__ double operator()(double x) const { return x * x; }
};

// *length: the Euclidean norm of all arrays as one vector; *factor: min(1, most / (norm + 1e-6)), or NaN.
// Squares are summed in float64, so nothing of 32 bits or less overflows, piece by piece and then over the pieces:
// neither the number of blocks nor their order changes a bit.
template <class T>
__global__ void __launch_bounds__(256)
norm(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces, Wide<T> most, double* sums,
     uint32* counter, Wide<T>* __restrict__ length, Wide<T>* __restrict__ factor) {
    for (int64 number = blockIdx.x; number < pieces; number += gridDim.x) {
        const double sum = all_of_block(share<T>(Piece(table, owners, number), Squared()));
        if (threadIdx.x == 0) sums[number] = sum;
    }
    if (!last_to_arrive(counter, gridDim.x)) return;
    double total = 0;
    for (int64 number = threadIdx.x; number < pieces; number += blockDim.x) total += sums[number];
    total = all_of_block(total);
    if (threadIdx.x == 0) {
        *length = Wide<T>(::sqrt(total));
        const Wide<T> quotient = most / (Wide<T>(::sqrt(total)) + Wide<T>(1e-6));
        *factor = quotient > 1 ? Wide<T>(1) : quotient;
    }
}

// Array 1 = array 0 times the factor, which takes the dtype of the arrays first; they may be the same arrays.
template <class T>
__global__ void __launch_bounds__(256)
scale(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces,
      const Wide<T>* __restrict__ factor) {
    constexpr int width = Pack<T>::size;
    const Wide<T> by = widen(narrow<T>(*factor));
    for (int64 number = blockIdx.x; number < pieces; number += gridDim.x) {
        const Piece piece(table, owners, number);
        const T* const x = piece.array<const T>(0);
        T* const out = piece.array<T>(1);
        if (by == 1 && x == out) continue;
        const int64 whole = piece.whole(width);
        for (int64 i = threadIdx.x * width; i < whole; i += blockDim.x * width) {
            Chunk<T, width> chunk = load<width>(x + i);
#pragma unroll
            for (int k = 0; k < width; ++k) chunk.at[k] = narrow<T>(widen(chunk.at[k]) * by);
            store(out + i, chunk);
        }
        for (int64 i = whole + threadIdx.x; i < piece.size; i += blockDim.x) out[i] = narrow<T>(widen(x[i]) * by);
    }
}

// *flag = 1 where a number is NaN or infinite, else 0. Both counters are 0 before and after.
template <class T>
__global__ void __launch_bounds__(256)
nonfinite(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces, uint32* counters,
          int* __restrict__ flag) {
    constexpr int width = Pack<T>::size;
    bool found = false;
    for (int64 number = blockIdx.x; number < pieces; number += gridDim.x) {
        const Piece piece(table, owners, number);
        const T* const x = piece.array<const T>(0);
        const int64 whole = piece.whole(width);
        for (int64 i = threadIdx.x * width; i < whole; i += blockDim.x * width) {
            const Chunk<T, width> chunk = load<width>(x + i);
#pragma unroll
            for (int k = 0; k < width; ++k) found |= !(::fabs(widen(chunk.at[k])) < infinity<Wide<T>>());
        }
        for (int64 i = whole + threadIdx.x; i < piece.size; i += blockDim.x) {
            found |= !(::fabs(widen(x[i])) < infinity<Wide<T>>());
        }
    }
    if (found) atomicOr(counters + 1, 1u);
    if (!last_to_arrive(counters, gridDim.x)) return;
    if (threadIdx.x == 0) *flag = int(atomicExch(counters + 1, 0u));
}

}  // namespace pullback
