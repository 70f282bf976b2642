// Dropout: forwards on the values and, since it is its own transpose, backwards on the cotangents. The mask is computed
// in both and stored in none.
#include "philox.cuh"
#include "reduce.cuh"

namespace pullback {

// A block of random bits is cut into decisions of 16 bits: number i of an array is kept where decision i % 8 of block
// i / 8 (the low half of word 0, its high half, the low half of word 1, ...) is below the threshold, in every dtype.
constexpr int decisions = 8;

__device__ __forceinline__ bool is_kept(const Words& words, int number, uint32 threshold) {
    return (words.at[number / 2] >> (number % 2 * 16) & 0xffffu) < threshold;
}

// out = x * (scale where kept, else 0). The mask is that of step `step + *counter`, of `step` where there is no counter:
// a captured graph is launched with the step it was captured with, and goes on by a counter in device memory.
template <class T>
__global__ void __launch_bounds__(256)
dropout(const T* __restrict__ x, T* __restrict__ out, int64 size, uint64 key, uint64 step,
        const uint64* __restrict__ counter, uint32 threshold, Wide<T> scale) {
    constexpr int width = Pack<T>::size;
    const bool aligned = (reinterpret_cast<uint64>(x) | reinterpret_cast<uint64>(out)) % 16 == 0;
    if (counter) step += *counter;
    const int64 stride = int64(gridDim.x) * blockDim.x;
    for (int64 block = int64(blockIdx.x) * blockDim.x + threadIdx.x; block * decisions < size; block += stride) {
        const Words words = philox(key, step, uint64(block));
        const int64 start = block * decisions;
        if (aligned && start + decisions <= size) {
#pragma unroll
            for (int first = 0; first < decisions; first += width) {
                Chunk<T, width> chunk = load<width>(x + start + first);
#pragma unroll
                for (int k = 0; k < width; ++k) {
                    const Wide<T> factor = is_kept(words, first + k, threshold) ? scale : Wide<T>(0);
                    chunk.at[k] = narrow<T>(widen(chunk.at[k]) * factor);
                }
                store(out + start + first, chunk);
            }
        } else {
#pragma unroll
            for (int k = 0; k < decisions; ++k) {
                if (start + k < size) {
                    const Wide<T> factor = is_kept(words, k, threshold) ? scale : Wide<T>(0);
                    out[start + k] = narrow<T>(widen(x[start + k]) * factor);
                }
            }
        }
    }
}

// The last node of a captured step: the next launch of the graph draws other masks.
__global__ void __launch_bounds__(32) advance(uint64* counter, uint64 steps) {
    if (blockIdx.x == 0 && threadIdx.x == 0) *counter += steps;
}

}  // namespace pullback
