// One struct for each elementwise op of the op table, by its name (an underscore follows a word that C++ reserves).
//
//     value(x, ...)     the op's value; arguments after the arrays x and y are its parameters
//     slope(g, ...)     the cotangent times the derivative, of an op of one array; the arguments' names say what it
//                       reads, `x` or `out`, as in the op's rule, then come the parameters
//     slope_x, slope_y  the same of an op of two arrays
//
// The arithmetic type W is float or double. Kinks, and what becomes of 0 * inf, are as the rules of the op table say.
// Where a formula of the table would cancel there is one here that does not.
//
// Kernels take these structs as functors; the adaptors below make functors of the slopes, and of swapped operands.
#pragma once

#include "arithmetic.cuh"

#include "transcendental.cuh"

#include "activations.cuh"

namespace pullback {

// value(g, ...) = F::slope(g, ...)
template <class F> struct slope {
    template <class W, class... More> static __device__ W value(W g, More... more) { return F::slope(g, more...); }
};

template <class F> struct slope_x {
    template <class W, class... More> static __device__ W value(W g, More... more) { return F::slope_x(g, more...); }
};

template <class F> struct slope_y {
    template <class W, class... More> static __device__ W value(W g, More... more) { return F::slope_y(g, more...); }
};

// value(y, x) = F::value(x, y)
template <class F> struct swapped {
    template <class W> static __device__ W value(W y, W x) { return F::value(x, y); }
};

}  // namespace pullback
