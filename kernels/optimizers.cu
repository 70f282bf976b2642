// A step of an optimizer for all parameters in one launch: the formulas of Backend.update_sgd and Backend.update_adam.
//
// A row of the table (see pieces.cuh) is parameter, gradient, first state, second state, master weights. State and
// arithmetic are in Wide<T>. Where a parameter of 16 bits has master weights, these are what is updated, and the
// parameter is their rounded copy.
#include "pieces.cuh"

namespace pullback {

// What one number of a parameter becomes; `states` says how many of the two states it uses.
template <class W> struct Descent {
    static constexpr int states = 0;
    W rate, decay;

    __device__ __forceinline__ void operator()(W& p, W g, W&, W&) const {
        if (decay != 0) g += decay * p;
        p -= rate * g;
    }
};

template <class W> struct Momentum {
    static constexpr int states = 1;
    W rate, decay, momentum, gain;
    bool nesterov;

    __device__ __forceinline__ void operator()(W& p, W g, W& velocity, W&) const {
        if (decay != 0) g += decay * p;
        velocity = momentum * velocity + gain * g;
        p -= rate * (nesterov ? g + momentum * velocity : velocity);
    }
};

template <class W> struct Moments {
    static constexpr int states = 2;
    W rate, beta1, beta2, eps, decay, shrink;

    __device__ __forceinline__ void operator()(W& p, W g, W& first, W& second) const {
        if (decay != 0) g += decay * p;
        first = beta1 * first + g;
        second = beta2 * second + g * g;
        p = shrink * p - rate * (first / (::sqrt(second) + eps));
    }
};

template <int width, class T, class Rule>
__device__ __forceinline__ void update(T* parameter, const T* gradient, Wide<T>* first_state, Wide<T>* second_state,
                                       Wide<T>* master, const Rule& rule) {
    T p[width], g[width];
    Wide<T> w[width], first[width], second[width];
    read<width>(g, gradient);
    if (Rule::states > 0) read<width>(first, first_state);
    if (Rule::states > 1) read<width>(second, second_state);
    if (master) {
        read<width>(w, master);
    } else {
        read<width>(p, parameter);
#pragma unroll
        for (int k = 0; k < width; ++k) w[k] = widen(p[k]);
    }
#pragma unroll
    for (int k = 0; k < width; ++k) {
        rule(w[k], widen(g[k]), first[k], second[k]);
        p[k] = narrow<T>(w[k]);
    }
    write<width>(parameter, p);
    if (Rule::states > 0) write<width>(first_state, first);
    if (Rule::states > 1) write<width>(second_state, second);
    if (master) write<width>(master, w);
}

template <class T, class Rule>
__device__ __forceinline__ void update_all(const uint64* table, const int* owners, int64 pieces, const Rule& rule) {
    constexpr int width = Pack<T>::size;
    for (int64 number = blockIdx.x; number < pieces; number += gridDim.x) {
        const Piece piece(table, owners, number);
        T* const p = piece.array<T>(0);
        const T* const g = piece.array<const T>(1);
        Wide<T>* const first = piece.array<Wide<T>>(2);
        Wide<T>* const second = piece.array<Wide<T>>(3);
        Wide<T>* const master = sizeof(T) < sizeof(Wide<T>) ? piece.array<Wide<T>>(4) : nullptr;
        const int64 whole = piece.whole(width);
        for (int64 i = threadIdx.x * width; i < whole; i += blockDim.x * width) {
            update<width>(p + i, g + i, first + i, second + i, master ? master + i : nullptr, rule);
        }
        for (int64 i = whole + threadIdx.x; i < piece.size; i += blockDim.x) {
            update<1>(p + i, g + i, first + i, second + i, master ? master + i : nullptr, rule);
        }
    }
}

// What differs from step to step may come from device memory, `varying`, so that a captured graph can be told; and where
// `*skip` is not 0 the step does nothing. Either may be null.

// varying: rate
template <class T>
__global__ void __launch_bounds__(256)
descent(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces, Wide<T> rate, Wide<T> decay,
        const double* __restrict__ varying, const int* __restrict__ skip) {
    if (skip && *skip) return;
    if (varying) rate = Wide<T>(varying[0]);
    update_all<T>(table, owners, pieces, Descent<Wide<T>>{rate, decay});
}

// gain = 1 - dampening; varying: rate, gain
template <class T>
__global__ void __launch_bounds__(256)
momentum(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces, Wide<T> rate, Wide<T> decay,
         Wide<T> momentum, Wide<T> gain, int nesterov, const double* __restrict__ varying,
         const int* __restrict__ skip) {
    if (skip && *skip) return;
    if (varying) {
        rate = Wide<T>(varying[0]);
        gain = Wide<T>(varying[1]);
    }
    update_all<T>(table, owners, pieces, Momentum<Wide<T>>{rate, decay, momentum, gain, nesterov != 0});
}

// varying: rate, eps, shrink
template <class T>
__global__ void __launch_bounds__(256)
adam(const uint64* __restrict__ table, const int* __restrict__ owners, int64 pieces, Wide<T> rate, Wide<T> beta1,
     Wide<T> beta2, Wide<T> eps, Wide<T> decay, Wide<T> shrink, const double* __restrict__ varying,
     const int* __restrict__ skip) {
    if (skip && *skip) return;
    if (varying) {
        rate = Wide<T>(varying[0]);
        eps = Wide<T>(varying[1]);
        shrink = Wide<T>(varying[2]);
    }
    update_all<T>(table, owners, pieces, Moments<Wide<T>>{rate, beta1, beta2, eps, decay, shrink});
}

}  // namespace pullback
