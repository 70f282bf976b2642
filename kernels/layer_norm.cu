// Layer normalisation along the rows of a matrix: one launch forward, one backward with the sums over the rows.
#include "reduce.cuh"

namespace pullback {

template <class W, int width> struct Wides {
    W at[width];
};

// Numbers i, i + 1, ... of an array, or `otherwise` where there is none.
template <int width, class T>
__device__ __forceinline__ Wides<Wide<T>, width> wides(const T* array, int64 i, Wide<T> otherwise) {
    Wides<Wide<T>, width> numbers;
#pragma unroll
    for (int k = 0; k < width; ++k) numbers.at[k] = otherwise;
    if (array) {
        const Chunk<T, width> chunk = load<width>(array + i);
#pragma unroll
        for (int k = 0; k < width; ++k) numbers.at[k] = widen(chunk.at[k]);
    }
    return numbers;
}

// z = (x - mean) r with r = (variance + eps)^(-1/2), and out = z * weight + bias. `out` is null if there is neither.
template <class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) layer_norm(
    T* __restrict__ out, T* __restrict__ standardized, T* __restrict__ inverse_deviation, const T* __restrict__ x,
    const T* __restrict__ weight, const T* __restrict__ bias, int64 rows, int64 n, int lanes, Wide<T> eps) {
    using W = Wide<T>;
    const Team team(lanes);
    const W share = W(1) / W(n);
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number, start = row * n, length = row < rows ? n : 0;
        W mean = 0, variance = 0;
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            const Chunk<T, width> chunk = load<width>(x + start + i);
#pragma unroll
            for (int k = 0; k < width; ++k) mean += widen(chunk.at[k]);
        }
        mean = all_of(lanes, mean) * share;
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            const Chunk<T, width> chunk = load<width>(x + start + i);
#pragma unroll
            for (int k = 0; k < width; ++k) variance += (widen(chunk.at[k]) - mean) * (widen(chunk.at[k]) - mean);
        }
        variance = all_of(lanes, variance) * share;
        const W r = W(1) / sqrt(variance + eps);
        if (length && team.rank == 0) inverse_deviation[row] = narrow<T>(r);
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            const Chunk<T, width> chunk = load<width>(x + start + i);
            Chunk<T, width> z;
#pragma unroll
            for (int k = 0; k < width; ++k) z.at[k] = narrow<T>((widen(chunk.at[k]) - mean) * r);
            store<width>(standardized + start + i, z);
            if (!out) continue;
            const Wides<W, width> factors = wides<width>(weight, i, W(1)), shifts = wides<width>(bias, i, W(0));
#pragma unroll
            for (int k = 0; k < width; ++k) {
                z.at[k] = narrow<T>((widen(chunk.at[k]) - mean) * r * factors.at[k] + shifts.at[k]);
            }
            store<width>(out + start + i, z);
        }
    }
}

// Numbers that a block sums columns in when they are few; otherwise it does so in its part of `scratch`.
template <class W> constexpr int nearby = 32768 / sizeof(W);

// From the cotangent g of out, with gw = g * weight and <.> the mean over a row:
//     dx = r (gw - <gw> - z <gw z>),   dweight = sum over rows of g z,   dbias = sum over rows of g.
//
// Each team sums the columns of its rows, each block those of its teams; the last block of a crowd of `crowd` sums the
// crowd's, and the last crowd's last block sums the crowds'. `scratch` has 2 n numbers per block. `counters` has one
// for the crowds and one for each crowd. Columns are summed in memory of the block if `lanes` allows: 2 n numbers per
// team; where that is more than `nearby`, teams are blocks. `dweight` is null if the sums are not wanted.
template <class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) layer_norm_slope(
    T* __restrict__ dx, T* __restrict__ dweight, T* __restrict__ dbias, const T* __restrict__ g,
    const T* __restrict__ standardized, const T* __restrict__ inverse_deviation, const T* __restrict__ weight,
    int64 rows, int64 n, int lanes, unsigned crowd, Wide<T>* scratch, uint32* counters) {
    using W = Wide<T>;
    __shared__ W of_teams[nearby<W>];
    const Team team(lanes);
    const W share = W(1) / W(n);
    const int64 chunks = n / width;  // number k of chunk c is summed at k * chunks + c: neighbours, in other banks
    W* const partial = dweight ? scratch + 2 * n * blockIdx.x : nullptr;
    W* const sums = 2 * n * team.count <= nearby<W> ? of_teams : partial;
    W* const mine = sums + 2 * n * team.number;
    if (dweight) {
        for (int64 c = team.rank; c < chunks; c += lanes) {
#pragma unroll
            for (int k = 0; k < width; ++k) mine[k * chunks + c] = mine[n + k * chunks + c] = 0;
        }
    }
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number, start = row * n, here = row < rows ? chunks : 0;
        Two<W> means{0, 0};
        for (int64 c = team.rank; c < here; c += lanes) {
            const Chunk<T, width> cotangents = load<width>(g + start + c * width);
            const Chunk<T, width> zs = load<width>(standardized + start + c * width);
            const Wides<W, width> factors = wides<width>(weight, c * width, W(1));
#pragma unroll
            for (int k = 0; k < width; ++k) {
                const W gw = widen(cotangents.at[k]) * factors.at[k];
                means.first += gw;
                means.second += gw * widen(zs.at[k]);
            }
        }
        means = all_of(lanes, means);
        const W r = here ? widen(inverse_deviation[row]) : W(0);
        for (int64 c = team.rank; c < here; c += lanes) {
            const Chunk<T, width> cotangents = load<width>(g + start + c * width);
            const Chunk<T, width> zs = load<width>(standardized + start + c * width);
            const Wides<W, width> factors = wides<width>(weight, c * width, W(1));
            Chunk<T, width> slope;
#pragma unroll
            for (int k = 0; k < width; ++k) {
                const W cotangent = widen(cotangents.at[k]), z = widen(zs.at[k]), gw = cotangent * factors.at[k];
                slope.at[k] = narrow<T>(r * (gw - means.first * share - z * (means.second * share)));
                if (dweight) {
                    mine[k * chunks + c] += cotangent * z;
                    mine[n + k * chunks + c] += cotangent;
                }
            }
            store<width>(dx + start + c * width, slope);
        }
    }
    if (!dweight) return;

    __syncthreads();
    for (int64 i = threadIdx.x; i < 2 * n; i += blockDim.x) {
        W sum = sums[i];
        for (int other = 1; other < team.count; ++other) sum += sums[2 * n * other + i];
        partial[i] = sum;
    }
    const unsigned leader = blockIdx.x / crowd * crowd;  // the first block of this crowd, in whose part it is summed
    const unsigned after = leader + crowd < gridDim.x ? leader + crowd : gridDim.x;
    if (!last_to_arrive(counters + 1 + blockIdx.x / crowd, after - leader)) return;
    for (int64 i = threadIdx.x; i < 2 * n; i += blockDim.x) {
        W sum = scratch[2 * n * leader + i];
        for (unsigned block = leader + 1; block < after; ++block) sum += scratch[2 * n * block + i];
        scratch[2 * n * leader + i] = sum;
    }
    if (!last_to_arrive(counters, (gridDim.x + crowd - 1) / crowd)) return;
    for (int64 i = threadIdx.x; i < 2 * n; i += blockDim.x) {
        W sum = 0;
        for (unsigned block = 0; block < gridDim.x; block += crowd) sum += scratch[2 * n * block + i];
        const int64 j = i % n, column = j % chunks * width + j / chunks;
        (i < n ? dweight : dbias)[column] = narrow<T>(sum);
    }
}

}  // namespace pullback
