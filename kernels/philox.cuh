// Random bits from a counter: Philox 4x32-10 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3"
// (2011). src/pullback/backends/philox.py computes the same bits on the host.
//
//     counter    words 0 and 1: the block, low word first;  words 2 and 3: the step, low word first
//     key        low word first
#pragma once

#include "types.cuh"

namespace pullback {

struct Words {
    uint32 at[4];
};

__device__ __forceinline__ Words philox(uint64 key, uint64 step, uint64 block) {
    uint32 low_key = uint32(key), high_key = uint32(key >> 32);
    Words words = {{uint32(block), uint32(block >> 32), uint32(step), uint32(step >> 32)}};
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64 first = uint64(0xd2511f53u) * words.at[0], second = uint64(0xcd9e8d57u) * words.at[2];
        words = {{uint32(second >> 32) ^ words.at[1] ^ low_key, uint32(second),
                  uint32(first >> 32) ^ words.at[3] ^ high_key, uint32(first)}};
        low_key += 0x9e3779b9u;
        high_key += 0xbb67ae85u;
    }
    return words;
}

}  // namespace pullback
