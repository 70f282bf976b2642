// The functions that `-fsanitize=thread,bounds,...` makes a kernel call. No sanitizer's runtime is linked: these are
// ours, and pass on to the checker what a kernel does.
#include <cstdio>

#include "checker.h"

using namespace emulator;

namespace {

void touch(const void* address, size_t size, bool write, const void* pc) {
    if (!launch.in_kernel) return;
    const char* const begin = static_cast<const char*>(address);
    if (begin >= launch.stack && begin + size <= launch.stack + stack_bytes) return;  // a local variable
    const char* const builtin = reinterpret_cast<const char*>(&builtins);
    if (!write && begin >= builtin && begin + size <= builtin + sizeof builtins) return;  // threadIdx and the like
    launch.in_kernel = false;
    check_access(address, size, write, pc);
    launch.in_kernel = true;
}

// What the compiler passes first to each of the functions of undefined behaviour.
struct SourceLocation {
    const char* file;
    uint32_t line, column;
};

// "at rows.cu:12": where the compiler says that it is.
std::string at_data(const void* data) {
    const auto* location = static_cast<const SourceLocation*>(data);
    return at(Place{location->file, static_cast<int>(location->line)});
}

[[noreturn]] void undefined(const char* what, const void* data) {
    fail("arithmetic", std::string(what) + " " + at_data(data));
}

}  // namespace

extern "C" {

#define CALLER __builtin_return_address(0)
#define ACCESS(size)                                                                         \
    void __tsan_read##size(void* address) { touch(address, size, false, CALLER); }           \
    void __tsan_write##size(void* address) { touch(address, size, true, CALLER); }           \
    void __tsan_unaligned_read##size(void* address) { touch(address, size, false, CALLER); } \
    void __tsan_unaligned_write##size(void* address) { touch(address, size, true, CALLER); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* address, size_t size) { touch(address, size, false, CALLER); }
void __tsan_write_range(void* address, size_t size) { touch(address, size, true, CALLER); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

void __ubsan_handle_type_mismatch_v1(void* data, void* address) {
    if (!launch.in_kernel) return;
    char text[64];
    snprintf(text, sizeof text, "access to the misaligned address %p ", address);
    fail("memory", text + at_data(data));
}
void __ubsan_handle_out_of_bounds(void* data, void*) {
    fail("memory", "index out of the bounds of its array " + at_data(data));
}
void __ubsan_handle_shift_out_of_bounds(void* data, void*, void*) { undefined("shift by more than the width", data); }
void __ubsan_handle_divrem_overflow(void* data, void*, void*) {
    undefined("integer division by zero or overflow", data);
}
void __ubsan_handle_add_overflow(void* data, void*, void*) { undefined("overflow in signed +", data); }
void __ubsan_handle_sub_overflow(void* data, void*, void*) { undefined("overflow in signed -", data); }
void __ubsan_handle_mul_overflow(void* data, void*, void*) { undefined("overflow in signed *", data); }
void __ubsan_handle_negate_overflow(void* data, void*) { undefined("overflow in signed negation", data); }

}  // extern "C"
