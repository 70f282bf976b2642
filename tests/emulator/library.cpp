// Where things lie in the library that holds the kernels and this.
#include <dlfcn.h>
#include <link.h>

#include <cstdio>

#include "checker.h"

namespace emulator {

char* anchor();  // a variable in shared memory, of export.h

namespace {

struct Search {
    const void* address;
    unsigned type, without;
    Range found;
};

// The segment that holds an address: of some type and without some flags.
Range segment_around(const void* address, unsigned type, unsigned without) {
    Search search = {address, type, without, {}};
    dl_iterate_phdr(
        [](dl_phdr_info* library, size_t, void* argument) {
            auto& search = *static_cast<Search*>(argument);
            for (int i = 0; i < library->dlpi_phnum; ++i) {
                const auto& segment = library->dlpi_phdr[i];
                if (segment.p_type != search.type || segment.p_flags & search.without) continue;
                char* begin = search.type == PT_TLS ? static_cast<char*>(library->dlpi_tls_data)
                                                    : reinterpret_cast<char*>(library->dlpi_addr + segment.p_vaddr);
                const Range range = {begin, begin + segment.p_memsz};
                if (begin && range.holds(search.address, 1)) search.found = range;
            }
            return 0;
        },
        &search);
    return search.found;
}

bool in_this_library(const void* address) {
    Dl_info theirs = {}, ours = {};
    return dladdr(address, &theirs) && dladdr(&launch, &ours) && theirs.dli_fbase == ours.dli_fbase;
}

}  // namespace

Range shared_memory() { return segment_around(anchor(), PT_TLS, 0); }

bool is_constant(const void* address, size_t size) {
    return segment_around(address, PT_LOAD, PF_W).holds(address, size) && in_this_library(address);
}

std::string at(const void* pc) {
    Dl_info library = {};
    dladdr(pc, &library);
    char text[32];
    snprintf(text, sizeof text, "at {pc %#tx}", static_cast<const char*>(pc) - static_cast<char*>(library.dli_fbase));
    return text;
}

}  // namespace emulator
