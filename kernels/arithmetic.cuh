// Arithmetic, powers, choices and rounding, number by number: see scalar.cuh.
#pragma once

#include "types.cuh"

namespace pullback {
namespace op {

static_assert(sizeof(::exp(0.0f)) == sizeof(float), "functions of float must compute in float");

template <class W> __device__ __forceinline__ bool is_nan(W x) { return x != x; }

struct positive {
    template <class W> static __device__ W value(W x) { return x; }
    template <class W> static __device__ W slope(W g) { return g; }
};

struct negative {
    template <class W> static __device__ W value(W x) { return -x; }
    template <class W> static __device__ W slope(W g) { return -g; }
};

struct add {
    template <class W> static __device__ W value(W x, W y) { return x + y; }
    template <class W> static __device__ W slope_x(W g) { return g; }
    template <class W> static __device__ W slope_y(W g) { return g; }
};

struct subtract {
    template <class W> static __device__ W value(W x, W y) { return x - y; }
    template <class W> static __device__ W slope_x(W g) { return g; }
    template <class W> static __device__ W slope_y(W g) { return -g; }
};

struct multiply {
    template <class W> static __device__ W value(W x, W y) { return x * y; }
    template <class W> static __device__ W slope_x(W g, W y) { return g * y; }
    template <class W> static __device__ W slope_y(W g, W x) { return g * x; }
};

// 0 where x is 0, whatever y is.
struct safe_multiply {
    template <class W> static __device__ W value(W x, W y) { return x == 0 ? x : x * y; }
    template <class W> static __device__ W slope_x(W g, W y) { return value(g, y); }
    template <class W> static __device__ W slope_y(W g, W x) { return value(x, g); }
};

// 0 where x is 0, whatever y is.
struct safe_divide {
    template <class W> static __device__ W value(W x, W y) { return x == 0 ? x : x / y; }
    template <class W> static __device__ W slope_x(W g, W y) { return value(g, y); }
    template <class W> static __device__ W slope_y(W g, W x, W y, W out) {
        return x == 0 ? W(0) : -safe_multiply::value(g, out / y);
    }
};

struct divide {
    template <class W> static __device__ W value(W x, W y) { return x / y; }
    template <class W> static __device__ W slope_x(W g, W y) { return safe_divide::value(g, y); }
    template <class W> static __device__ W slope_y(W g, W y, W out) { return -safe_multiply::value(g, out / y); }
};

struct reciprocal {
    template <class W> static __device__ W value(W x) { return 1 / x; }
    template <class W> static __device__ W slope(W g, W out) {
        return -safe_multiply::value(safe_multiply::value(g, out), out);
    }
};

struct square {
    template <class W> static __device__ W value(W x) { return x * x; }
    template <class W> static __device__ W slope(W g, W x) { return g * (x + x); }
};

struct sqrt {
    template <class W> static __device__ W value(W x) { return ::sqrt(x); }
    template <class W> static __device__ W slope(W g, W out) { return safe_divide::value(W(0.5) * g, out); }
};

struct hypot {
    template <class W> static __device__ W value(W x, W y) { return ::hypot(x, y); }
    template <class W> static __device__ W slope_x(W g, W x, W out) {
        return safe_multiply::value(g, safe_divide::value(x, out));
    }
    template <class W> static __device__ W slope_y(W g, W y, W out) { return slope_x(g, y, out); }
};

// --- rounding and signs ---

struct floor {
    template <class W> static __device__ W value(W x) { return ::floor(x); }
};

struct ceil {
    template <class W> static __device__ W value(W x) { return ::ceil(x); }
};

struct trunc {
    template <class W> static __device__ W value(W x) { return ::trunc(x); }
};

// Halves to even.
struct round {
    template <class W> static __device__ W value(W x) { return ::rint(x); }
};

struct sign {
    template <class W> static __device__ W value(W x) { return x > 0 ? W(1) : x < 0 ? W(-1) : x; }
};

struct abs {
    template <class W> static __device__ W value(W x) { return ::fabs(x); }
    template <class W> static __device__ W slope(W g, W x) { return g * sign::value(x); }
};

struct copysign {
    template <class W> static __device__ W value(W x, W y) { return ::copysign(x, y); }
    template <class W> static __device__ W slope_x(W g, W x, W out) { return g * (sign::value(x) * sign::value(out)); }
};

// x - y floor(x / y), exactly: it has the sign of y.
struct remainder {
    template <class W> static __device__ W value(W x, W y) {
        const W rest = ::fmod(x, y);
        if (rest == 0) return ::copysign(rest, y);
        return (rest < 0) != (y < 0) ? rest + y : rest;
    }
    template <class W> static __device__ W slope_x(W g) { return g; }
    template <class W> static __device__ W slope_y(W g, W x, W y);
};

// What is left of x by ::fmod is a multiple of y but for rounding, so the quotient is next to an integer.
struct floor_divide {
    template <class W> static __device__ W value(W x, W y) {
        if (y == 0) return x / y;
        const W rest = ::fmod(x, y);
        const W quotient = ::rint((x - rest) / y);
        if (rest != 0 && (rest < 0) != (y < 0)) return quotient - 1;
        return quotient == 0 ? ::copysign(W(0), x / y) : quotient;
    }
};

template <class W> __device__ W remainder::slope_y(W g, W x, W y) {
    return -safe_multiply::value(g, floor_divide::value(x, y));
}

// --- choices: NaN where an operand is ---

struct maximum {
    template <class W> static __device__ W value(W x, W y) { return x >= y || is_nan(x) ? x : y; }
    // Where the operands are equal, each gets half of the cotangent.
    template <class W> static __device__ W slope_x(W g, W x, W y) {
        return x >= y ? g * (x == y ? W(0.5) : W(1)) : W(0);
    }
    template <class W> static __device__ W slope_y(W g, W x, W y) { return slope_x(g, y, x); }
};

struct minimum {
    template <class W> static __device__ W value(W x, W y) { return x <= y || is_nan(x) ? x : y; }
    template <class W> static __device__ W slope_x(W g, W x, W y) { return maximum::slope_x(g, y, x); }
    template <class W> static __device__ W slope_y(W g, W x, W y) { return maximum::slope_x(g, x, y); }
};

// Between two numbers; an infinite one is no bound.
struct clip {
    template <class W> static __device__ W value(W x, W min, W max) {
        return minimum::value(maximum::value(x, min), max);
    }
    template <class W> static __device__ W slope(W g, W x, W min, W max) { return x >= min && x <= max ? g : W(0); }
};

}  // namespace op
}  // namespace pullback
