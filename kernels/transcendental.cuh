// Exponentials, logarithms, circular, hyperbolic and error functions, powers, number by number: see scalar.cuh.
#pragma once

#include "arithmetic.cuh"

namespace pullback {
namespace op {

struct exp {
    template <class W> static __device__ W value(W x) { return ::exp(x); }
    template <class W> static __device__ W slope(W g, W out) { return safe_multiply::value(g, out); }
};

struct expm1 {
    template <class W> static __device__ W value(W x) { return ::expm1(x); }
    template <class W> static __device__ W slope(W g, W out) { return safe_multiply::value(g, out + 1); }
};

struct log {
    template <class W> static __device__ W value(W x) { return ::log(x); }
    template <class W> static __device__ W slope(W g, W x) { return safe_divide::value(g, x); }
};

struct log1p {
    template <class W> static __device__ W value(W x) { return ::log1p(x); }
    template <class W> static __device__ W slope(W g, W x) { return safe_divide::value(g, 1 + x); }
};

struct log2 {
    template <class W> static __device__ W value(W x) { return ::log2(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return safe_divide::value(W(1.4426950408889634) * g, x);  // 1 / ln(2)
    }
};

struct log10 {
    template <class W> static __device__ W value(W x) { return ::log10(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return safe_divide::value(W(0.43429448190325182) * g, x);  // 1 / ln(10)
    }
};

// x ln(y), and 0 where x is 0, whatever y is.
struct xlogy {
    template <class W> static __device__ W value(W x, W y) { return x == 0 ? x : x * ::log(y); }
    template <class W> static __device__ W slope_x(W g, W y) { return value(g, y); }
    template <class W> static __device__ W slope_y(W g, W x, W y) { return safe_divide::value(g * x, y); }
};

struct pow {
    template <class W> static __device__ W value(W x, W y) { return ::pow(x, y); }
    template <class W> static __device__ W slope_x(W g, W x, W y) {
        return safe_multiply::value(g, safe_multiply::value(y, ::pow(x, y - 1)));
    }
    template <class W> static __device__ W slope_y(W g, W x, W out) {
        return safe_multiply::value(g, xlogy::value(out, x));
    }
};

// --- circular ---

struct sin {
    template <class W> static __device__ W value(W x) { return ::sin(x); }
    template <class W> static __device__ W slope(W g, W x) { return g * ::cos(x); }
};

struct cos {
    template <class W> static __device__ W value(W x) { return ::cos(x); }
    template <class W> static __device__ W slope(W g, W x) { return -(g * ::sin(x)); }
};

struct tan {
    template <class W> static __device__ W value(W x) { return ::tan(x); }
    template <class W> static __device__ W slope(W g, W out) { return g * (1 + out * out); }
};

struct asin {
    template <class W> static __device__ W value(W x) { return ::asin(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return safe_divide::value(g, ::sqrt((1 - x) * (1 + x)));
    }
};

struct acos {
    template <class W> static __device__ W value(W x) { return ::acos(x); }
    template <class W> static __device__ W slope(W g, W x) { return -asin::slope(g, x); }
};

struct atan {
    template <class W> static __device__ W value(W x) { return ::atan(x); }
    template <class W> static __device__ W slope(W g, W x) { return g / (1 + x * x); }
};

// The angle of the point with ordinate x and abscissa y; both slopes at the origin are 0.
struct atan2 {
    template <class W> static __device__ W value(W x, W y) { return ::atan2(x, y); }
    template <class W> static __device__ W slope_x(W g, W x, W y) {
        const W radius = ::hypot(x, y);
        return safe_divide::value(g * safe_divide::value(y, radius), radius);
    }
    template <class W> static __device__ W slope_y(W g, W x, W y) { return -slope_x(g, y, x); }
};

// --- hyperbolic ---

struct sinh {
    template <class W> static __device__ W value(W x) { return ::sinh(x); }
    template <class W> static __device__ W slope(W g, W x) { return safe_multiply::value(g, ::cosh(x)); }
};

struct cosh {
    template <class W> static __device__ W value(W x) { return ::cosh(x); }
    template <class W> static __device__ W slope(W g, W x) { return safe_multiply::value(g, ::sinh(x)); }
};

struct asinh {
    template <class W> static __device__ W value(W x) { return ::asinh(x); }
    template <class W> static __device__ W slope(W g, W out) { return g / ::cosh(out); }
};

struct acosh {
    template <class W> static __device__ W value(W x) { return ::acosh(x); }
    template <class W> static __device__ W slope(W g, W out) { return safe_divide::value(g, ::sinh(out)); }
};

struct atanh {
    template <class W> static __device__ W value(W x) { return ::atanh(x); }
    template <class W> static __device__ W slope(W g, W x) { return safe_divide::value(g, (1 - x) * (1 + x)); }
};

// --- error function ---

struct erf {
    template <class W> static __device__ W value(W x) { return ::erf(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return W(1.1283791670955126) * g * ::exp(-(x * x));  // 2 / sqrt(pi)
    }
};

struct erfc {
    template <class W> static __device__ W value(W x) { return ::erfc(x); }
    template <class W> static __device__ W slope(W g, W x) { return -erf::slope(g, x); }
};

}  // namespace op
}  // namespace pullback
