// Activation functions, number by number: see scalar.cuh. Every struct here with a slope can stand in the kernels that
// add a bias first.
#pragma once

#include "transcendental.cuh"

namespace pullback {
namespace op {

// --- pieces of lines ---

struct step {
    template <class W> static __device__ W value(W x) { return x > 0 ? W(1) : W(0); }
};

struct relu {
    template <class W> static __device__ W value(W x) { return maximum::value(x, W(0)); }
    template <class W> static __device__ W slope(W g, W out) { return out > 0 ? g : W(0); }
};

struct relu6 {
    template <class W> static __device__ W value(W x) { return clip::value(x, W(0), W(6)); }
    template <class W> static __device__ W slope(W g, W out) { return out > 0 && out < 6 ? g : W(0); }
};

struct leaky_relu {
    template <class W> static __device__ W value(W x, W negative_slope = 0.01) {
        return x <= 0 ? safe_multiply::value(negative_slope, x) : x;
    }
    template <class W> static __device__ W slope(W g, W out, W negative_slope = 0.01) {
        return out > 0 ? g : negative_slope * g;
    }
};

struct hardsigmoid {
    template <class W> static __device__ W value(W x) { return clip::value(x + 3, W(0), W(6)) / 6; }
    template <class W> static __device__ W slope(W g, W out) { return out > 0 && out < 1 ? g * W(1.0 / 6.0) : W(0); }
};

struct hardswish {
    template <class W> static __device__ W value(W x) { return x * hardsigmoid::value(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return g * (::fabs(x) < 3 ? x / 3 + W(0.5) : W(x >= 3));
    }
};

// --- exponential on the left ---

struct elu {
    template <class W> static __device__ W value(W x, W alpha = 1) { return x > 0 ? x : alpha * ::expm1(x); }
    template <class W> static __device__ W slope(W g, W out, W alpha = 1) { return out > 0 ? g : g * (out + alpha); }
};

struct celu {
    template <class W> static __device__ W value(W x, W alpha = 1) { return x > 0 ? x : alpha * ::expm1(x / alpha); }
    template <class W> static __device__ W slope(W g, W out, W alpha = 1) {
        return out > 0 ? g : g * ((out + alpha) / alpha);
    }
};

// The constants, to float64, are those of Klambauer et al. 2017.
struct selu {
    template <class W> static __device__ W value(W x) {
        return W(1.0507009873554805) * elu::value(x, W(1.6732632423543772));
    }
    template <class W> static __device__ W slope(W g, W out) {
        return out > 0 ? W(1.0507009873554805) * g : g * (out + W(1.0507009873554805 * 1.6732632423543772));
    }
};

// --- logistic ---

struct sigmoid {
    template <class W> static __device__ W value(W x) {
        const W small = ::exp(-::fabs(x));  // never overflows, and the left tail keeps its precision
        return (x >= 0 ? W(1) : small) / (1 + small);
    }
    template <class W> static __device__ W slope(W g, W out) { return g * (out * (1 - out)); }
};

struct softplus {
    template <class W> static __device__ W value(W x) { return (x > 0 ? x : W(0)) + ::log1p(::exp(-::fabs(x))); }
    template <class W> static __device__ W slope(W g, W out) { return g * -::expm1(-out); }
};

struct logsigmoid {
    template <class W> static __device__ W value(W x) { return -softplus::value(-x); }
    template <class W> static __device__ W slope(W g, W out) { return g * -::expm1(out); }
};

// ln(exp(x) + exp(y))
struct logaddexp {
    template <class W> static __device__ W value(W x, W y) {
        if (x == y) return x + W(0.69314718055994531);  // also where both are the same infinity
        const W lead = x - y;
        return (lead > 0 ? x : y) + ::log1p(::exp(-::fabs(lead)));
    }
    template <class W> static __device__ W slope_x(W g, W x, W y) {
        return g * sigmoid::value(x == y ? W(0) : x - y);
    }
    template <class W> static __device__ W slope_y(W g, W x, W y) { return slope_x(g, y, x); }
};

// --- smooth gates ---

struct tanh {
    template <class W> static __device__ W value(W x) { return ::tanh(x); }
    template <class W> static __device__ W slope(W g, W out) { return g * ((1 - out) * (1 + out)); }
};

struct gelu {
    template <class W> static __device__ W normal(W x) { return W(0.5) * ::erfc(W(-0.70710678118654752) * x); }
    template <class W> static __device__ W value(W x) { return x * normal(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return g * (normal(x) + W(0.39894228040143268) * x * ::exp(W(-0.5) * (x * x)));  // 1 / sqrt(2 pi)
    }
};

// gelu with approximate="tanh". The gate (1 + tanh(u)) / 2 is sigmoid(2 u), which does not cancel on the left.
struct gelu_by_tanh {
    static constexpr double twice_curve = 2 * 0.79788456080286536, cube = 0.044715;  // sqrt(2 / pi)
    template <class W> static __device__ W gate(W x) {
        return sigmoid::value(W(twice_curve) * (x + W(cube) * (x * x * x)));
    }
    template <class W> static __device__ W value(W x) { return x * gate(x); }
    template <class W> static __device__ W slope(W g, W x) {
        const W open = gate(x), shut = gate(-x);             // their sum is 1
        const W bend = W(twice_curve) * x * (open * shut);  // exactly 0 long before x * x overflows
        return g * (open + bend + W(3 * cube) * bend * x * x);
    }
};

struct silu {
    template <class W> static __device__ W value(W x) { return x * sigmoid::value(x); }
    template <class W> static __device__ W slope(W g, W x) {
        return g * (sigmoid::value(x) * (1 + x * sigmoid::value(-x)));
    }
};

// tanh(ln(1 + e)) = e (e + 2) / (e (e + 2) + 2), e = exp(x), on the right with both sides over e^2.
struct mish {
    template <class W> struct Gate {
        W open, shut;  // their sum is 1
        __device__ explicit Gate(W x) {
            const W small = ::exp(-::fabs(x));
            const W part = x >= 0 ? 1 + 2 * small : small * (small + 2), rest = x >= 0 ? 2 * small * small : W(2);
            open = part / (part + rest);
            shut = rest / (part + rest);
        }
    };
    template <class W> static __device__ W value(W x) { return x * Gate<W>(x).open; }
    template <class W> static __device__ W slope(W g, W x) {
        const Gate<W> gate(x);
        return g * (gate.open + x * sigmoid::value(x) * (gate.shut * (1 + gate.open)));
    }
};

struct softsign {
    template <class W> static __device__ W value(W x) { return x / (1 + ::fabs(x)); }
    template <class W> static __device__ W slope(W g, W out) { return g * square::value(1 - ::fabs(out)); }
};

// Lambert's fraction tanh(x) = x / (1 + x^2 / (3 + x^2 / (5 + ...))) (DLMF 4.39.1) without its first 1: x - tanh(x) is
// x c / (1 + c), c = x^2 / (3 + x^2 / (5 + ...)), which does not cancel.
struct tanhshrink {
    template <class W> static __device__ W value(W x) {
        if (!(::fabs(x) < 1)) return x - ::tanh(x);
        const W squared = x * x;
        W fraction = 0;
        for (int odd = sizeof(W) == 4 ? 9 : 17; odd >= 3; odd -= 2) fraction = squared / (odd + fraction);
        return x * fraction / (1 + fraction);
    }
    template <class W> static __device__ W slope(W g, W x) { return g * square::value(::tanh(x)); }
};

}  // namespace op
}  // namespace pullback
