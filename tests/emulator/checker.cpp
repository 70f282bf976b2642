// Watches the memory of kernels: memcheck, initcheck and racecheck by shadow memory.
//
// The compiler's ThreadSanitizer instrumentation calls a function before every access (sanitizer.cpp passes it on to
// `check_access`). Here every byte of shared memory and of the declared buffers has a cell that remembers who last
// wrote and read it.
//
// Two accesses to one byte race when one of them is a write, not both are atomic, and neither happens before the other.
// What happens before what is told by vector clocks. A thread's clock ticks at each barrier and fence, and a thread
// knows of another one every access up to some tick:
//   - after __syncthreads() all that the threads of its block did before it,
//   - after __syncwarp() all that the lanes of the mask did before it, and all that they knew (shuffles and votes order
//     no memory),
//   - of another block only what was handed over: __threadfence() and then an atomic operation hand all that the
//     thread knew at the fence to whoever's later atomic operation on the same address is followed by a fence or
//     barrier. It may be another thread that fences, if a barrier lies between (the memory model of PTX, section
//     "causality order").
//
// Of the reads since the last write a cell remembers two, so a race with a third reader may go unseen in one order of
// threads; others show it.
#include "checker.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace emulator {
namespace {

using Clock = uint32_t;
using Clocks = std::vector<Clock>;  // one for each thread of a block

// ---- what threads know of each other ---------------------------------------------------------------------------

// Of threads of several blocks; null knows nothing.
using Knowledge = std::shared_ptr<const std::map<uint32_t, Clocks>>;

Knowledge join(const Knowledge& one, const Knowledge& other) {
    if (!one || !other || one == other) return one ? one : other;
    auto joined = std::make_shared<std::map<uint32_t, Clocks>>(*one);
    for (const auto& [block, clocks] : *other) {
        Clocks& into = (*joined)[block];
        into.resize(clocks.size());
        for (size_t i = 0; i < clocks.size(); ++i) into[i] = std::max(into[i], clocks[i]);
    }
    return joined;
}

struct Handover {
    Knowledge released;  // what the last fence lets an atomic operation hand over
    Knowledge pending;   // what an atomic operation has received; a fence or barrier makes it known
    Knowledge acquired;  // what was received

    void settle() {
        acquired = join(acquired, pending);
        pending = nullptr;
    }
    void take(const Handover& other) {
        released = join(released, other.released);
        acquired = join(acquired, join(other.acquired, other.pending));
    }
};

struct Thread {
    Clock clock;
    Clock lanes[warp_size];  // what it knows of its warp
    Handover handover;
};

std::vector<Thread> threads;
Clocks known_to_block;                               // what every thread of the block that runs now knows of the others
Handover block_handover;                             // what every thread of it was handed
std::unordered_map<const void*, Knowledge> atomics;  // what was handed over at each address

bool knows(const Knowledge& knowledge, uint32_t block, unsigned thread, Clock clock) {
    if (!knowledge) return false;
    const auto found = knowledge->find(block);
    return found != knowledge->end() && clock <= found->second[thread];
}

// ---- shadow memory -----------------------------------------------------------------------------------------------

struct Access {
    uint32_t block;  // counted from 1; 0 is none
    Clock clock;
    uint32_t origin;
    uint16_t thread;
    bool atomic;
};

struct Cell {
    Access write, read, other_read;
    bool empty;  // nobody has written here, not even before the launch
};

struct Region {
    char* begin;
    char* end;
    Cell* cells;
};

std::vector<Region> regions;  // of global memory: buffers that overlap share one
std::vector<Buffer> buffers;
Region shared;
std::vector<std::string> origins;  // where accesses were made, by number
std::unordered_map<const void*, uint32_t> origin_of_pc;
std::map<std::pair<std::string, int>, uint32_t> origin_of_place;

uint32_t origin(const void* pc) {
    const auto [found, is_new] = origin_of_pc.try_emplace(pc, origins.size());
    if (is_new) origins.push_back(at(pc));
    return found->second;
}

uint32_t origin(Place place) {
    const auto [found, is_new] = origin_of_place.try_emplace({place.file, place.line}, origins.size());
    if (is_new) origins.push_back(at(place));
    return found->second;
}

Region region(char* begin, char* end) {
    return {begin, end, static_cast<Cell*>(calloc(static_cast<size_t>(end - begin), sizeof(Cell)))};
}

uint32_t this_block() { return static_cast<uint32_t>(launch.block) + 1; }

bool before_now(const Access& access) {
    if (access.block == 0) return true;
    const Thread& me = threads[launch.thread];
    if (access.block == this_block()) {
        if (access.thread == launch.thread || access.clock <= known_to_block[access.thread]) return true;
        const bool same_warp = access.thread / warp_size == launch.thread / warp_size;
        if (same_warp && access.clock <= me.lanes[access.thread % warp_size]) return true;
    }
    return knows(me.handover.acquired, access.block, access.thread, access.clock) ||
           knows(block_handover.acquired, access.block, access.thread, access.clock);
}

// ---- one access --------------------------------------------------------------------------------------------------

struct Attempt {
    const char* address;
    size_t size;
    bool write, atomic;
    uint32_t origin;

    std::string told() const {
        return std::string(name()) + " of " + std::to_string(size) + " bytes " + origins[origin];
    }
    const char* name() const { return atomic ? "atomic operation" : write ? "write" : "read"; }
};

std::string where(const char* address) {
    if (address >= shared.begin && address < shared.end) return "shared memory";
    for (size_t i = 0; i < buffers.size(); ++i)
        if (address >= buffers[i].begin && address < buffers[i].begin + buffers[i].size)
            return "byte " + std::to_string(address - buffers[i].begin) + " of buffer " + std::to_string(i);
    return "no buffer";
}

[[noreturn]] void fail_as_race(const Attempt& attempt, const Access& other, const char* other_name) {
    fail("race", attempt.told() + " in " + where(attempt.address) + ", not ordered after the " + other_name + " " +
                     origins[other.origin] + " by " + name_of_thread(other.block - 1, other.thread));
}

// The nearest buffer tells by how much an access missed.
[[noreturn]] void fail_as_outside(const Attempt& attempt) {
    std::string nearest;
    uint64_t least = 1 << 20;
    for (size_t i = 0; i < buffers.size(); ++i) {
        const char* end = buffers[i].begin + buffers[i].size;
        const uint64_t past = static_cast<uint64_t>(attempt.address + attempt.size - end),
                       ahead = static_cast<uint64_t>(buffers[i].begin - attempt.address);
        if (past < least)
            least = past, nearest = ", " + std::to_string(past) + " bytes past the end of buffer " + std::to_string(i);
        if (ahead < least)
            least = ahead, nearest = ", " + std::to_string(ahead) + " bytes ahead of buffer " + std::to_string(i);
    }
    fail("memory", attempt.told() + " outside every declared buffer" + nearest);
}

// Whether an access of memory that is not shared may be; false where it needs no cells.
bool may_touch_global(const Attempt& attempt) {
    bool inside = false;
    for (const Buffer& buffer : buffers) {
        if (attempt.address < buffer.begin || attempt.address + attempt.size > buffer.begin + buffer.size) continue;
        if (!attempt.write || buffer.writable) return true;
        inside = true;
    }
    if (inside) fail("memory", attempt.told() + " to " + where(attempt.address) + ", which is const");
    if (!attempt.write && is_constant(attempt.address, attempt.size)) return false;
    fail_as_outside(attempt);
}

void check_cell(Cell& cell, const Attempt& attempt, bool in_shared) {
    if (in_shared && cell.write.block != this_block()) {
        if (!attempt.write || attempt.atomic)
            fail("initialisation", attempt.told() + " in shared memory that no thread of the block has written");
        cell = {};  // what it holds is of a block before
    }
    if (cell.empty && (!attempt.write || attempt.atomic))
        fail("initialisation", attempt.told() + " in " + where(attempt.address) + ", which nobody has written");
    const bool both_atomic = cell.write.atomic && attempt.atomic;
    if (!both_atomic && !before_now(cell.write))
        fail_as_race(attempt, cell.write, cell.write.atomic ? "atomic operation" : "write");
    const Access now = {this_block(), threads[launch.thread].clock, attempt.origin,
                        static_cast<uint16_t>(launch.thread), attempt.atomic};
    if (attempt.write) {
        for (const Access* read : {&cell.read, &cell.other_read})
            if (!before_now(*read)) fail_as_race(attempt, *read, "read");
        cell = {now, {}, {}, false};
    } else if (before_now(cell.read)) {
        cell.read = now;
    } else {
        cell.other_read = now;
    }
}

void check(const Attempt& attempt) {
    const bool in_shared = attempt.address >= shared.begin && attempt.address + attempt.size <= shared.end;
    const Region* in = &shared;
    if (!in_shared) {
        if (!may_touch_global(attempt)) return;
        in = &*std::find_if(regions.begin(), regions.end(), [&](const Region& region) {
            return attempt.address >= region.begin && attempt.address < region.end;
        });
    }
    const bool has_alignment = (attempt.size & (attempt.size - 1)) == 0 && attempt.size <= 16;
    if (has_alignment && reinterpret_cast<uintptr_t>(attempt.address) % attempt.size)
        fail("memory", attempt.told() + " at an address that is no multiple of it, in " + where(attempt.address));
    Cell* const cells = in->cells + (attempt.address - in->begin);
    for (size_t i = 0; i < attempt.size; ++i) check_cell(cells[i], attempt, in_shared);
}

// What the calling thread knows, to be handed over.
Knowledge all_that_it_knows() {
    const unsigned warp = launch.thread / warp_size * warp_size;
    Thread& me = threads[launch.thread];
    Clocks clocks = known_to_block;
    for (unsigned lane = 0; lane < warp_size && warp + lane < launch.threads; ++lane)
        clocks[warp + lane] = std::max(clocks[warp + lane], me.lanes[lane]);
    clocks[launch.thread] = me.clock;
    const std::map<uint32_t, Clocks> of_block = {{this_block(), std::move(clocks)}};
    return join(std::make_shared<const std::map<uint32_t, Clocks>>(of_block),
                join(me.handover.acquired, block_handover.acquired));
}

}  // namespace

// ---- what the runtime and the instrumentation call ---------------------------------------------------------------

void check_launch(const Buffer* declared, size_t count) {
    check_launch_end();
    buffers.assign(declared, declared + count);
    std::vector<Buffer> sorted(buffers);
    std::sort(sorted.begin(), sorted.end(),
              [](const Buffer& one, const Buffer& other) { return one.begin < other.begin; });
    std::vector<Range> ranges;
    for (const Buffer& buffer : sorted) {
        char* const end = buffer.begin + buffer.size;
        if (!ranges.empty() && buffer.begin < ranges.back().end)
            ranges.back().end = std::max(ranges.back().end, end);
        else if (buffer.size)
            ranges.push_back({buffer.begin, end});
    }
    for (const Range& range : ranges) regions.push_back(region(range.begin, range.end));
    for (const Buffer& buffer : buffers) {
        if (buffer.initialised || !buffer.size) continue;
        const auto in = std::find_if(regions.begin(), regions.end(), [&](const Region& region) {
            return buffer.begin >= region.begin && buffer.begin < region.end;
        });
        for (uint64_t i = 0; i < buffer.size; ++i) in->cells[buffer.begin - in->begin + i].empty = true;
    }
    const Range range = shared_memory();
    shared = region(range.begin, range.end);
    threads.assign(launch.threads, {});
}

void check_launch_end() {
    for (const Region& region : regions) free(region.cells);
    free(shared.cells);
    shared = {};
    regions.clear();
    atomics.clear();
}

void check_block() {
    known_to_block.assign(launch.threads, 0);
    block_handover = {};
    for (Thread& thread : threads) thread = {1, {}, {}};
}

void check_block_barrier() {
    for (unsigned i = 0; i < launch.threads; ++i) {
        known_to_block[i] = threads[i].clock++;
        block_handover.take(threads[i].handover);
        threads[i].handover = {};
    }
}

void check_warp_barrier(unsigned warp, unsigned lanes) {
    Thread* const lane = &threads[warp * warp_size];
    Clock known[warp_size] = {};
    Handover handover;
    for (unsigned i = 0; i < warp_size; ++i) {
        if (!(lanes >> i & 1)) continue;
        known[i] = std::max(known[i], lane[i].clock++);
        for (unsigned j = 0; j < warp_size; ++j) known[j] = std::max(known[j], lane[i].lanes[j]);
        handover.take(lane[i].handover);
    }
    for (unsigned i = 0; i < warp_size; ++i) {
        if (!(lanes >> i & 1)) continue;
        std::copy(known, known + warp_size, lane[i].lanes);
        lane[i].handover = handover;
    }
}

void check_fence() {
    Thread& me = threads[launch.thread];
    me.handover.settle();
    me.handover.released = all_that_it_knows();
    ++me.clock;
}

void check_atomic(const void* address, size_t size, Place place) {
    check({static_cast<const char*>(address), size, true, true, origin(place)});
    Handover& mine = threads[launch.thread].handover;
    const Knowledge released = join(mine.released, block_handover.released);
    const auto found = atomics.find(address);
    if (!released && found == atomics.end()) return;
    Knowledge& here = found == atomics.end() ? atomics[address] : found->second;
    mine.pending = join(mine.pending, here);
    here = join(here, released);
}

void check_access(const void* address, size_t size, bool write, const void* pc) {
    check({static_cast<const char*>(address), size, write, false, origin(pc)});
}

}  // namespace emulator
