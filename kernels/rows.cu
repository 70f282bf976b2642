// softmax and log_softmax along the rows of a matrix, and their slopes: one launch each, rows of any length.
//
// A team of threads takes a row: a few lanes for short ones, a block for long ones. The row is read twice, once for its
// sums and once for what is written; the second read mostly comes from a cache.
#include "reduce.cuh"

namespace pullback {

template <class T, int width, bool logarithm>
__global__ void __launch_bounds__(256, resident<T>)
    softmax(T* __restrict__ out, const T* __restrict__ x, int64 rows, int64 n, int lanes) {
    using W = Wide<T>;
    const Team team(lanes);
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number, length = row < rows ? n : 0;
        const T* from = x + row * n;
        T* to = out + row * n;
        Exponentials<W> all = Exponentials<W>::none();
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) all.add(load<width>(from + i));
        all = all_of(lanes, all);
        const W scale = logarithm ? log(all.sum) : W(1) / all.sum;
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            Chunk<T, width> chunk = load<width>(from + i);
#pragma unroll
            for (int k = 0; k < width; ++k) {
                const W z = widen(chunk.at[k]) - all.top;
                chunk.at[k] = narrow<T>(logarithm ? z - scale : exp(z) * scale);
            }
            store<width>(to + i, chunk);
        }
    }
}

// From the cotangent g and the output p: p (g - sum(g p)), and of log_softmax g - exp(out) sum(g).
template <class T, int width, bool logarithm>
__global__ void __launch_bounds__(256, resident<T>) softmax_slope(
    T* __restrict__ dx, const T* __restrict__ g, const T* __restrict__ out, int64 rows, int64 n, int lanes) {
    using W = Wide<T>;
    const Team team(lanes);
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number, start = row * n, length = row < rows ? n : 0;
        W sum = 0;
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            const Chunk<T, width> cotangent = load<width>(g + start + i);
            if (logarithm) {
#pragma unroll
                for (int k = 0; k < width; ++k) sum += widen(cotangent.at[k]);
            } else {
                const Chunk<T, width> p = load<width>(out + start + i);
#pragma unroll
                for (int k = 0; k < width; ++k) sum += widen(cotangent.at[k]) * widen(p.at[k]);
            }
        }
        sum = all_of(lanes, sum);
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            const Chunk<T, width> cotangent = load<width>(g + start + i), value = load<width>(out + start + i);
            Chunk<T, width> slope;
#pragma unroll
            for (int k = 0; k < width; ++k) {
                const W c = widen(cotangent.at[k]), p = widen(value.at[k]);
                slope.at[k] = narrow<T>(logarithm ? c - exp(p) * sum : p * (c - sum));
            }
            store<width>(dx + start + i, slope);
        }
    }
}

}  // namespace pullback
