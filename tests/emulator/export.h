// The kernels of a library, by number: one EXPORT(expression) for each name expression, after the `.cu` file.
#pragma once

#include <utility>

#include "cuda.h"

namespace pullback {
struct float16;
struct bfloat16;
}  // namespace pullback

namespace emulator {

template <class T> constexpr Parameter parameter() {
    if constexpr (std::is_pointer_v<T>) {
        using Pointee = std::remove_pointer_t<T>;
        constexpr Parameter pointee = parameter<std::remove_cv_t<Pointee>>();
        return {std::is_const_v<Pointee> ? 'r' : 'w', pointee.type, pointee.bytes};
    } else if constexpr (std::is_void_v<T>) {
        return {0, "void", 0};
    } else if constexpr (std::is_same_v<T, pullback::float16>) {
        return {0, "f", 2};
    } else if constexpr (std::is_same_v<T, pullback::bfloat16>) {
        return {0, "bf16", 0};
    } else if constexpr (std::is_same_v<T, bool>) {
        return {0, "b", 1};
    } else if constexpr (std::is_floating_point_v<T>) {
        return {0, "f", sizeof(T)};
    } else if constexpr (std::is_integral_v<T>) {
        return {0, std::is_signed_v<T> ? "i" : "u", sizeof(T)};
    } else {
        return {0, "V", sizeof(T)};
    }
}

template <class... Types> constexpr Parameter parameters[] = {parameter<std::remove_cv_t<Types>>()..., {}};

// What runs a thread is not itself watched: the arguments are the host's.
template <auto function, class... Types, size_t... numbers>
constexpr Kernel exported(void (*)(Types...), std::index_sequence<numbers...>) {
    return {parameters<Types...>, [](void* const* arguments) __attribute__((no_sanitize("thread"))) {
                function(*static_cast<std::remove_cv_t<Types>*>(arguments[numbers])...);
            }};
}

template <auto function, class... Types> constexpr Kernel exported(void (*of)(Types...)) {
    return exported<function>(of, std::index_sequence_for<Types...>{});
}

// A variable in shared memory, so that every library has some and the runtime finds where it lies.
thread_local char anchor_of_shared_memory;
char* anchor() { return &anchor_of_shared_memory; }

}  // namespace emulator

#define EXPORT(...) ::emulator::exported<&__VA_ARGS__>(&__VA_ARGS__),
