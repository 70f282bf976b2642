// Matrices whose columns share a bias: an activation of z + bias, its slope together with the gradient of the bias, and
// plain column sums. Sums are in one order for one grid, in one launch: each block sums its rows, the last block of a
// strip of columns sums what the blocks found.
#include "packs.cuh"
#include "scalar.cuh"

namespace pullback {

// out (rows, columns) = F(z + bias, parameters...)
template <class F, class T, class... Parameters>
__global__ void __launch_bounds__(256, 4) bias_map(
    T* __restrict__ out, int64 rows, int64 columns, const T* __restrict__ z, const T* __restrict__ bias,
    Parameters... parameters) {
    constexpr int size = Pack<T>::size;
    const int64 n = rows * columns;
    const bool in_rows = columns % size == 0, aligned = is_aligned(out) && is_aligned(z);
    for (int64 i = first_of_thread(size); i < n; i += step_of_grid(size)) {
        const Chunk<T, size> given = load_some<size>(z + i, n - i, aligned);
        const int64 column = i - quotient(i, columns, n) * columns;
        Chunk<T, size> shift = {};
        if (in_rows) {
            shift = load_some<size>(bias + column, size, is_aligned(bias));
        } else {
#pragma unroll
            for (int k = 0; k < size; ++k) {
                const int64 next = column + k;  // in a later row where it is past the end
                if (i + k < n) shift.at[k] = bias[next - quotient(next, columns, columns + size) * columns];
            }
        }
        Chunk<T, size> to;
#pragma unroll
        for (int k = 0; k < size; ++k) {
            to.at[k] = narrow<T>(F::value(widen(given.at[k]) + widen(shift.at[k]), parameters...));
        }
        store_some(out + i, to, n - i, aligned);
    }
}

// A block is some lanes (a power of two) by as many rows as that leaves; a lane owns the columns of one pack. Along x
// the grid has a block for each strip of columns, along y any number of them to share the rows.
template <class T> struct Strip {
    static constexpr int size = Pack<T>::size;
    using W = Wide<T>;

    unsigned lanes, lane, height, row_of_block;
    int64 columns, column, first_row, row_step;
    bool packs;  // a row's numbers of this lane move at once
    W sum[size];

    __device__ __forceinline__ Strip(int64 columns, int lanes, bool aligned)
        : lanes(lanes),
          lane(threadIdx.x & (this->lanes - 1)),  // by % the compiler would no longer store 16 bytes at once
          height(blockDim.x / this->lanes),
          row_of_block(threadIdx.x / this->lanes),
          columns(columns),
          column((int64(blockIdx.x) * lanes + lane) * size),
          first_row(int64(blockIdx.y) * height + row_of_block),
          row_step(int64(gridDim.y) * height),
          packs(aligned && columns % size == 0) {
        clear();
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (int k = 0; k < size; ++k) sum[k] = 0;
    }

    __device__ __forceinline__ Chunk<T, size> read(const T* matrix, int64 row) const {
        return load_some<size>(matrix + row * columns + column, columns - column, packs);
    }

    __device__ __forceinline__ void write(T* matrix, int64 row, const Chunk<T, size>& chunk) const {
        store_some(matrix + row * columns + column, chunk, columns - column, packs);
    }

    // The sums over the block's rows, in its threads of the first row.
    __device__ __forceinline__ void add_rows_of_block() {
        __shared__ W sums[size][256];
#pragma unroll
        for (int k = 0; k < size; ++k) sums[k][threadIdx.x] = sum[k];
        for (unsigned half = height / 2; half > 0; half /= 2) {
            __syncthreads();
            if (row_of_block < half) {
#pragma unroll
                for (int k = 0; k < size; ++k) sums[k][threadIdx.x] += sums[k][threadIdx.x + half * lanes];
            }
        }
#pragma unroll
        for (int k = 0; k < size; ++k) sum[k] = sums[k][threadIdx.x];
    }

    // total (columns) = the sums over all rows. `partial` has room for (gridDim.y, columns); counters, one for each
    // strip, are 0 before and after. Every thread of the block calls this.
    __device__ __forceinline__ void finish(T* total, W* partial, uint32* counters) {
        add_rows_of_block();
        if (gridDim.y > 1) {
            if (row_of_block == 0) {
#pragma unroll
                for (int k = 0; k < size; ++k) {
                    if (column + k < columns) partial[blockIdx.y * columns + column + k] = sum[k];
                }
            }
            if (!last_to_arrive(counters + blockIdx.x, gridDim.y)) return;
            clear();
            for (int64 block = row_of_block; block < gridDim.y; block += height) {
#pragma unroll
                for (int k = 0; k < size; ++k) {
                    if (column + k < columns) sum[k] += partial[block * columns + column + k];
                }
            }
            add_rows_of_block();
        }
        if (row_of_block == 0) {
#pragma unroll
            for (int k = 0; k < size; ++k) {
                if (column + k < columns) total[column + k] = narrow<T>(sum[k]);
            }
        }
    }
};

// dz = slope of F at `kept`, and dbias its sum over the rows. `kept` is z, to which the bias is added; or, where
// `bias` is null, what the slope reads as it is: the activation's value, or an argument that has its bias.
template <class F, class T, class... Parameters>
__global__ void __launch_bounds__(256, 3) bias_slope(
    T* __restrict__ dz, T* __restrict__ dbias, Wide<T>* partial, uint32* counters, int64 rows, int64 columns, int lanes,
    const T* __restrict__ g, const T* __restrict__ kept, const T* __restrict__ bias, Parameters... parameters) {
    using W = Wide<T>;
    constexpr int size = Pack<T>::size;
    Strip<T> strip(columns, lanes, is_aligned(dz) && is_aligned(g) && is_aligned(kept));
    if (strip.column < columns) {
        W shift[size];
#pragma unroll
        for (int k = 0; k < size; ++k) {
            shift[k] = bias && strip.column + k < columns ? widen(bias[strip.column + k]) : W(0);
        }
        for (int64 row = strip.first_row; row < rows; row += strip.row_step) {
            const Chunk<T, size> cotangent = strip.read(g, row), value = strip.read(kept, row);
            Chunk<T, size> to;
#pragma unroll
            for (int k = 0; k < size; ++k) {
                const W product = F::slope(widen(cotangent.at[k]), widen(value.at[k]) + shift[k], parameters...);
                strip.sum[k] += product;
                to.at[k] = narrow<T>(product);
            }
            strip.write(dz, row, to);
        }
    }
    strip.finish(dbias, partial, counters);
}

// total (columns) = the sum of g over its rows.
template <class T>
__global__ void __launch_bounds__(256, 3) column_sum(
    T* __restrict__ total, Wide<T>* partial, uint32* counters, int64 rows, int64 columns, int lanes, const T* __restrict__ g) {
    Strip<T> strip(columns, lanes, is_aligned(g));
    if (strip.column < columns) {
        for (int64 row = strip.first_row; row < rows; row += strip.row_step) {
            const Chunk<T, Pack<T>::size> numbers = strip.read(g, row);
#pragma unroll
            for (int k = 0; k < Pack<T>::size; ++k) strip.sum[k] += widen(numbers.at[k]);
        }
    }
    strip.finish(total, partial, counters);
}

}  // namespace pullback
