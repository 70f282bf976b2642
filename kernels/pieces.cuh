// Many arrays in one launch: a table in device memory says where they are, and blocks take them piece by piece.
//
//     table     a row of `row_words` 64-bit words for each member of the list: up to five addresses of arrays that go
//               together (0 where there is none), how many numbers each has, and the number of its first piece
//     owners    for each piece the row that it belongs to
#pragma once

#include "reduce.cuh"

namespace pullback {

constexpr int64 piece_size = 4096;  // numbers; backends/cuda/pieces.py knows it too
constexpr int row_words = 7;

// One piece: `size` numbers from `start` on.
struct Piece {
    uint64 addresses[5];
    int64 start, size;

    __device__ __forceinline__ Piece(const uint64* table, const int* owners, int64 number) {
        const uint64* row = table + int64(owners[number]) * row_words;
#pragma unroll
        for (int i = 0; i < 5; ++i) addresses[i] = row[i];
        start = (number - int64(row[6])) * piece_size;
        const int64 rest = int64(row[5]) - start;
        size = rest < piece_size ? rest : piece_size;
    }

    // Array `i` of the row, from this piece on.
    template <class T> __device__ __forceinline__ T* array(int i) const {
        return addresses[i] ? reinterpret_cast<T*>(addresses[i]) + start : nullptr;
    }

    // How many numbers 16-byte accesses may move: all but a tail, or none where an array begins at an odd place.
    __device__ __forceinline__ int64 whole(int width) const {
        uint64 all = 0;
#pragma unroll
        for (int i = 0; i < 5; ++i) all |= addresses[i];
        return all % 16 ? 0 : size / width * width;
    }
};

// `width` numbers in accesses of at most 16 bytes.
template <int width, class T> __device__ __forceinline__ void read(T (&to)[width], const T* from) {
    constexpr int step = width < Pack<T>::size ? width : Pack<T>::size;
#pragma unroll
    for (int first = 0; first < width; first += step) {
        const Chunk<T, step> chunk = load<step>(from + first);
#pragma unroll
        for (int k = 0; k < step; ++k) to[first + k] = chunk.at[k];
    }
}

template <int width, class T> __device__ __forceinline__ void write(T* to, const T (&from)[width]) {
    constexpr int step = width < Pack<T>::size ? width : Pack<T>::size;
#pragma unroll
    for (int first = 0; first < width; first += step) {
        Chunk<T, step> chunk;
#pragma unroll
        for (int k = 0; k < step; ++k) chunk.at[k] = from[first + k];
        store(to + first, chunk);
    }
}

}  // namespace pullback
