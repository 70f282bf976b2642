// The kernels of a library, by number: made after the `.cu` file by one EXPORT(expression) for each name expression.
#pragma once

#include <tuple>
#include <utility>
#include <vector>

namespace pullback {
struct float16;
struct bfloat16;
}  // namespace pullback

namespace emulator {

// "r*f4": const float*; "w*bf16": bfloat16*; "i8", "u4", "f8", ...: numbers; "V12": a struct of 12 bytes.
template <class T> std::string code() {
    if constexpr (std::is_pointer_v<T>) {
        using Pointee = std::remove_pointer_t<T>;
        return (std::is_const_v<Pointee> ? "r*" : "w*") + code<std::remove_cv_t<Pointee>>();
    } else if constexpr (std::is_void_v<T>) {
        return "void";
    } else if constexpr (std::is_same_v<T, pullback::float16>) {
        return "f2";
    } else if constexpr (std::is_same_v<T, pullback::bfloat16>) {
        return "bf16";
    } else if constexpr (std::is_same_v<T, bool>) {
        return "b1";
    } else if constexpr (std::is_floating_point_v<T>) {
        return "f" + std::to_string(sizeof(T));
    } else if constexpr (std::is_integral_v<T>) {
        return (std::is_signed_v<T> ? "i" : "u") + std::to_string(sizeof(T));
    } else {
        return "V" + std::to_string(sizeof(T));
    }
}

// Not itself watched: the arguments are the host's.
template <class... Parameters, size_t... numbers>
__attribute__((no_sanitize("thread"))) void call(void (*function)(Parameters...), void* const* arguments,
                                                 std::index_sequence<numbers...>) {
    function(*static_cast<std::remove_cv_t<Parameters>*>(arguments[numbers])...);
}

template <class... Parameters> std::string signature(void (*)(Parameters...)) {
    std::string codes;
    ((codes += (codes.empty() ? "" : ",") + code<std::remove_cv_t<Parameters>>()), ...);
    return codes;
}

template <class... Parameters>
__attribute__((no_sanitize("thread"))) void run(void (*function)(Parameters...), void* const* arguments) {
    call(function, arguments, std::index_sequence_for<Parameters...>{});
}

template <auto function> Kernel exported() {
    return {signature(function),
            [](void* const* arguments) __attribute__((no_sanitize("thread"))) { run(function, arguments); }};
}

// A variable in shared memory, so that every library has some and the runtime finds where it lies.
thread_local char anchor_of_shared_memory;
char* anchor() { return &anchor_of_shared_memory; }

}  // namespace emulator

#define EXPORT(...) ::emulator::exported<&__VA_ARGS__>(),
