// The types that kernels read and write, and the ones that they compute in.
//
// float16 and bfloat16 are storage: every sum and every formula runs in `Wide<T>`, float32 for them and for float,
// float64 for double. No CUDA header is needed, so a driver and NVRTC are all that a user must have; compiled as host
// C++ (for tests without a GPU) the same source converts with the compiler's own types.
#pragma once

namespace pullback {

using int64 = long long;
using uint32 = unsigned int;
using uint64 = unsigned long long;

struct float16 {
    unsigned short bits;
};

struct bfloat16 {
    unsigned short bits;
};

template <class T> struct wide_type {
    using type = float;
};
template <> struct wide_type<double> {
    using type = double;
};
template <class T> using Wide = typename wide_type<T>::type;

// Bits of one type read as another of the same size.
template <class To, class From> __device__ __forceinline__ To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From), "bits_of needs types of one size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bfloat16 x) { return bits_of<float>(uint32(x.bits) << 16); }
__device__ __forceinline__ float widen(float16 x) {
#ifdef __CUDACC__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#else
    return float(bits_of<_Float16>(x.bits));
#endif
}

// `narrow<T>(x)` rounds to the nearest number of type T, ties to even.
template <class T> __device__ __forceinline__ T narrow(Wide<T> x);
template <> __device__ __forceinline__ double narrow<double>(double x) { return x; }
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bfloat16 narrow<bfloat16>(float x) {
    const uint32 bits = bits_of<uint32>(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<unsigned short>((bits >> 16) | 0x40u)};  // NaN stays
    return {static_cast<unsigned short>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <> __device__ __forceinline__ float16 narrow<float16>(float x) {
#ifdef __CUDACC__
    float16 half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(x));
    return half;
#else
    return {bits_of<unsigned short>(static_cast<_Float16>(x))};
#endif
}

// As many numbers as one 16-byte access moves.
template <class T> struct alignas(16) Pack {
    static constexpr int size = 16 / sizeof(T);
    T at[size];
};

template <class W> __device__ __forceinline__ W infinity();
template <> __device__ __forceinline__ float infinity<float>() { return bits_of<float>(0x7f800000u); }
template <> __device__ __forceinline__ double infinity<double>() { return bits_of<double>(0x7ff0000000000000ull); }

template <class W> __device__ __forceinline__ W not_a_number();
template <> __device__ __forceinline__ float not_a_number<float>() { return bits_of<float>(0x7fc00000u); }
template <> __device__ __forceinline__ double not_a_number<double>() { return bits_of<double>(0x7ff8000000000000ull); }

}  // namespace pullback
