// Losses of pairs of numbers, summed or averaged in one launch, and their slopes by the first of the pair in one.
#include "packs.cuh"

namespace pullback {

// `value` of a prediction x and a target y, and `slope`, its derivative by x. `p` is the parameter of those that have one.
namespace losses {

template <class W> __device__ __forceinline__ W positive_part(W x) { return x > 0 ? x : W(0); }
template <class W> __device__ __forceinline__ W softplus_tail(W x) { return log1p(exp(-fabs(x))); }  // softplus - max(x, 0)
template <class W> __device__ __forceinline__ W sigmoid(W x) { return W(1) / (W(1) + exp(-x)); }

struct mse {
    template <class W> static __device__ __forceinline__ W value(W x, W y, W) { return (x - y) * (x - y); }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W) { return W(2) * (x - y); }
};

struct l1 {
    template <class W> static __device__ __forceinline__ W value(W x, W y, W) { return fabs(x - y); }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W) {
        const W d = x - y;
        return d > 0 ? W(1) : d < 0 ? W(-1) : d;  // 0, or NaN
    }
};

struct huber {  // p: where it turns from a square to a line
    template <class W> static __device__ __forceinline__ W value(W x, W y, W p) {
        const W distance = fabs(x - y), bounded = distance < p ? distance : p;
        return bounded * (distance - W(0.5) * bounded);
    }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W p) {
        const W d = x - y;
        return d > p ? p : d < -p ? -p : d;
    }
};

struct binary_cross_entropy {
    template <class W> static __device__ __forceinline__ W value(W x, W y, W) {
        return positive_part(x) - x * y + softplus_tail(x);
    }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W) {
        return (W(1) - y) * sigmoid(x) - y * sigmoid(-x);  // 1 - sigmoid(x) would cancel
    }
};

struct weighted_binary_cross_entropy {  // p: what a positive target counts
    template <class W> static __device__ __forceinline__ W value(W x, W y, W p) {
        const W tail = softplus_tail(x);
        return p * y * (positive_part(-x) + tail) + (W(1) - y) * (positive_part(x) + tail);
    }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W p) {
        return (W(1) - y) * sigmoid(x) - p * y * sigmoid(-x);
    }
};

struct logistic {  // y is -1 or 1: anything else counts NaN
    template <class W> static __device__ __forceinline__ W value(W x, W y, W) {
        return fabs(y) == 1 ? positive_part(-(x * y)) + softplus_tail(x * y) : not_a_number<W>();
    }
    template <class W> static __device__ __forceinline__ W slope(W x, W y, W) {
        return fabs(y) == 1 ? -(y * sigmoid(-(y * x))) : not_a_number<W>();
    }
};

// Whether a target is none of those that the loss is defined for.
template <class Loss, class W> __device__ __forceinline__ bool refuses(W) { return false; }
template <> __device__ __forceinline__ bool refuses<logistic, float>(float y) { return !(fabs(y) == 1); }
template <> __device__ __forceinline__ bool refuses<logistic, double>(double y) { return !(fabs(y) == 1); }

}  // namespace losses

// A sum and the first place of a target that is refused.
template <class W> struct Met {
    W sum;
    int64 wrong;
};
template <class W> __device__ __forceinline__ Met<W> merge(Met<W> a, Met<W> b) {
    return {a.sum + b.sum, a.wrong < b.wrong ? a.wrong : b.wrong};
}
template <class W> __device__ __forceinline__ Met<W> from_lane(Met<W> value, int distance) {
    return {from_lane(value.sum, distance), from_lane(value.wrong, distance)};
}

// `out` has the losses one by one if `each`, else their sum over `divisor`. `sums` and `wrong_places` have a number per
// block. `complaint` is {0}, or the first refused target met: {1 + its place, its bits as a double}.
template <class Loss, class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) pair_loss(
    T* __restrict__ out, const T* __restrict__ x, const T* __restrict__ y, int64 n, Wide<T> parameter, int each,
    Wide<T> divisor, Wide<T>* sums, int64* wrong_places, uint32* counter, int64* complaint) {
    using W = Wide<T>;
    const bool aligned = is_aligned(x) && is_aligned(y);  // `out` is, where it has the losses one by one
    Met<W> met{0, n};
#pragma unroll 1
    for (int64 i = first_of_thread(width); i < n; i += step_of_grid(width)) {
        const Chunk<T, width> xs = load_some<width>(x + i, n - i, aligned);
        const Chunk<T, width> ys = load_some<width>(y + i, n - i, aligned);
        Chunk<T, width> values;
#pragma unroll
        for (int k = 0; k < width; ++k) {
            const W target = widen(ys.at[k]), value = Loss::value(widen(xs.at[k]), target, parameter);
            values.at[k] = narrow<T>(value);
            if (k < n - i) {
                met.sum += value;
                if (losses::refuses<Loss>(target) && i + k < met.wrong) met.wrong = i + k;
            }
        }
        if (each) store_some(out + i, values, n - i, aligned);
    }
    met = all_of_block(met);
    if (threadIdx.x == 0) {
        sums[blockIdx.x] = met.sum;
        wrong_places[blockIdx.x] = met.wrong;
    }
    if (!last_to_arrive(counter, gridDim.x)) return;
    met = {0, n};
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
        met = merge(met, Met<W>{sums[block], wrong_places[block]});
    }
    met = all_of_block(met);
    if (threadIdx.x) return;
    if (!each) *out = narrow<T>(met.sum / divisor);
    if (met.wrong < n && complaint[0] == 0) {
        complaint[0] = 1 + met.wrong;
        complaint[1] = bits_of<int64>(double(widen(y[met.wrong])));
    }
}

// The slope by x times `share * g`: a number of `g` for each pair if `g_by_pair`, else one, 1 if null.
template <class Loss, class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) pair_loss_slope(
    T* __restrict__ out, const T* __restrict__ g, int g_by_pair, Wide<T> share, const T* __restrict__ x,
    const T* __restrict__ y, int64 n, Wide<T> parameter) {
    using W = Wide<T>;
    if (g && !g_by_pair) {
        share *= widen(*g);
        g = nullptr;
    }
    const bool aligned = is_aligned(x) && is_aligned(y) && is_aligned(g);  // `out` is
#pragma unroll 1
    for (int64 i = first_of_thread(width); i < n; i += step_of_grid(width)) {
        const Chunk<T, width> xs = load_some<width>(x + i, n - i, aligned);
        const Chunk<T, width> ys = load_some<width>(y + i, n - i, aligned);
        Chunk<T, width> cotangents = xs, slopes;
        if (g) cotangents = load_some<width>(g + i, n - i, aligned);
#pragma unroll
        for (int k = 0; k < width; ++k) {
            const W cotangent = g ? share * widen(cotangents.at[k]) : share;
            slopes.at[k] = narrow<T>(cotangent * Loss::slope(widen(xs.at[k]), widen(ys.at[k]), parameter));
        }
        store_some(out + i, slopes, n - i, aligned);
    }
}

}  // namespace pullback
