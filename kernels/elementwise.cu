// Number by number: maps of arrays, operations on two arrays with broadcasting, casts.
#include "packs.cuh"
#include "scalar.cuh"

namespace pullback {

// An operand of a map: an array (`const T*`), which is read in chunks, or a number (`Wide<T>`).
template <class T> __device__ __forceinline__ bool is_ready(const T* at) { return is_aligned(at); }
__device__ __forceinline__ bool is_ready(float) { return true; }
__device__ __forceinline__ bool is_ready(double) { return true; }

template <int size, class T>
__device__ __forceinline__ Chunk<T, size> take(const T* at, int64 place, int64 count, bool aligned) {
    return load_some<size>(at + place, count, aligned);
}
template <int size> __device__ __forceinline__ float take(float number, int64, int64, bool) { return number; }
template <int size> __device__ __forceinline__ double take(double number, int64, int64, bool) { return number; }

template <class T, int size> __device__ __forceinline__ Wide<T> element(const Chunk<T, size>& chunk, int k) {
    return widen(chunk.at[k]);
}
__device__ __forceinline__ float element(float number, int) { return number; }
__device__ __forceinline__ double element(double number, int) { return number; }

template <class F, class T, class... Taken>
__device__ __forceinline__ Chunk<T, Pack<T>::size> combined(const Taken&... operands) {
    Chunk<T, Pack<T>::size> out;
#pragma unroll
    for (int k = 0; k < Pack<T>::size; ++k) out.at[k] = narrow<T>(F::value(element(operands, k)...));
    return out;
}

// out = F(operands...), arrays of n numbers and numbers.
template <class F, class T, class... Operands>
__global__ void __launch_bounds__(256, 4) map(T* __restrict__ out, int64 n, Operands... operands) {
    constexpr int size = Pack<T>::size;
    const bool aligned = is_aligned(out) && (... && is_ready(operands));
    for (int64 i = first_of_thread(size); i < n; i += step_of_grid(size)) {
        store_some(out + i, combined<F, T>(take<size>(operands, i, n - i, aligned)...), n - i, aligned);
    }
}

// One operand of a broadcast: an array that moves by the strides, 0 along an axis where it is repeated; or a number.
template <class T> struct Operand {
    static constexpr int size = Pack<T>::size;

    const T* at;
    int64 row_stride, column_stride;
    T number;  // where `at` is null

    __device__ __forceinline__ T read(int64 row, int64 column) const {
        return at ? at[row * row_stride + column * column_stride] : number;
    }
    // From here on, in one row.
    __device__ __forceinline__ Chunk<T, size> read_chunk(int64 row, int64 column, int64 count) const {
        if (at && column_stride == 1) {
            const T* from = at + row * row_stride + column;
            return load_some<size>(from, count, is_aligned(from));
        }
        Chunk<T, size> chunk = {};
#pragma unroll
        for (int k = 0; k < size; ++k) {
            if (k < count) chunk.at[k] = read(row, column + k);
        }
        return chunk;
    }
};

// out (rows, columns) = F(x, y). Strides count numbers, not bytes. Where x or y is null, `number` takes its place.
template <class F, class T>
__global__ void __launch_bounds__(256, 4) binary(
    T* __restrict__ out, int64 rows, int64 columns, const T* __restrict__ x, int64 x_row_stride, int64 x_column_stride,
    const T* __restrict__ y, int64 y_row_stride, int64 y_column_stride, Wide<T> number) {
    constexpr int size = Pack<T>::size;
    const Operand<T> first{x, x_row_stride, x_column_stride, narrow<T>(number)};
    const Operand<T> second{y, y_row_stride, y_column_stride, narrow<T>(number)};
    const int64 n = rows * columns;
    const bool aligned = is_aligned(out), in_rows = rows == 1 || columns % size == 0;
    for (int64 i = first_of_thread(size); i < n; i += step_of_grid(size)) {
        Chunk<T, size> left = {}, right = {};
        if (in_rows) {
            const int64 row = rows == 1 ? 0 : quotient(i, columns, n), column = i - row * columns;
            left = first.read_chunk(row, column, n - i);
            right = second.read_chunk(row, column, n - i);
        } else {
#pragma unroll
            for (int k = 0; k < size; ++k) {
                if (i + k >= n) break;
                const int64 row = quotient(i + k, columns, n), column = i + k - row * columns;
                left.at[k] = first.read(row, column);
                right.at[k] = second.read(row, column);
            }
        }
        store_some(out + i, combined<F, T>(left, right), n - i, aligned);
    }
}

// `x` rounded to float32, an even neighbour replaced by the odd one on the other side of x: rounding that to fewer bits
// gives what rounding x would (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums").
__device__ __forceinline__ float to_odd(double x) {
    const float near = float(x);
    const uint32 bits = bits_of<uint32>(near);
    if (near == x || x != x || bits % 2) return near;
    return bits_of<float>(::fabs(double(near)) > ::fabs(x) ? bits - 1 : bits + 1);
}

template <class To> __device__ __forceinline__ To convert(float x) { return narrow<To>(Wide<To>(x)); }
template <class To> __device__ __forceinline__ To convert(double x) {
    if constexpr (sizeof(To) == 2) {
        return narrow<To>(to_odd(x));
    } else {
        return narrow<To>(Wide<To>(x));
    }
}

// out = x in another type, rounded once. A chunk is 16 bytes of the wider type.
template <class From, class To>
__global__ void __launch_bounds__(256) cast(To* __restrict__ out, int64 n, const From* __restrict__ x) {
    constexpr int size = 16 / (sizeof(From) > sizeof(To) ? sizeof(From) : sizeof(To));
    const bool aligned = is_aligned(out) && is_aligned(x);
    for (int64 i = first_of_thread(size); i < n; i += step_of_grid(size)) {
        const Chunk<From, size> from = load_some<size>(x + i, n - i, aligned);
        Chunk<To, size> to;
#pragma unroll
        for (int k = 0; k < size; ++k) to.at[k] = convert<To>(widen(from.at[k]));
        store_some(out + i, to, n - i, aligned);
    }
}

}  // namespace pullback
