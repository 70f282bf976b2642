// Runs kernels: a fiber for every CUDA thread, one block at a time, all on one host thread.
//
// A fiber runs until it waits at a barrier or in a warp's collective operation, or returns; then the scheduler goes on
// with the next one, in an order that the caller chooses. So every run is repeatable, and a thread that waits for what
// can never come is found instead of hanging.
#include "checker.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

namespace emulator {

Builtins builtins;
Launch launch;

namespace {

enum class State { ready, at_barrier, in_collective, returned };
enum class Operation { shuffle, ballot, any, all, syncwarp };

struct Fiber {
    Triple index;
    State state;
    bool started = false;  // has a context on its stack; it runs one thread of every block after another
    jmp_buf context;
    // what it waits for
    Place place;
    Operation operation;
    unsigned mask, source;
    uint64_t value, result;
};

Fiber fibers[most_threads];
Fiber* current;
char* stacks;
jmp_buf scheduler;
ucontext_t first_context;
const Kernel* running;
void* const* arguments_of_launch;
unsigned waiting, returned;
Place barrier_place;  // where those wait that wait
std::string failed_check, failure;
Range shared;

void yield() {
    if (!_setjmp(current->context)) _longjmp(scheduler, 1);
}

void life_of_fiber() {
    for (;;) {
        launch.in_kernel = true;
        running->run(arguments_of_launch);
        launch.in_kernel = false;
        current->state = State::returned;
        ++returned;
        yield();
    }
}

// Its own function, so that no local variable lives across the jump.
void resume(Fiber& fiber) {
    current = &fiber;
    launch.thread = static_cast<unsigned>(&fiber - fibers);
    launch.stack = stacks + launch.thread * stack_bytes;
    builtins.thread = fiber.index;
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.context, 1);
    fiber.started = true;
    getcontext(&first_context);
    first_context.uc_stack.ss_sp = launch.stack;
    first_context.uc_stack.ss_size = stack_bytes;
    first_context.uc_link = nullptr;
    makecontext(&first_context, life_of_fiber, 0);
    setcontext(&first_context);
}

// Makes a fiber the one that an error names.
void speak_for(Fiber& fiber) {
    current = &fiber;
    launch.thread = static_cast<unsigned>(&fiber - fibers);
}

// Warps -----------------------------------------------------------------------------------------------------------

bool exists(unsigned thread) { return thread < launch.threads; }

unsigned source_lane(Shuffle kind, unsigned lane, int argument, unsigned width) {
    const unsigned first = lane & ~(width - 1), end = first + width;
    switch (kind) {
        case Shuffle::index: return first + (static_cast<unsigned>(argument) & (width - 1));
        case Shuffle::exclusive_or: {
            const unsigned source = (lane ^ static_cast<unsigned>(argument)) % warp_size;
            return source < end ? source : lane;
        }
        case Shuffle::down: {
            const unsigned source = lane + static_cast<unsigned>(argument);
            return source < end ? source : lane;
        }
        case Shuffle::up: return static_cast<unsigned>(argument) <= lane - first ? lane - argument : lane;
    }
    __builtin_unreachable();
}

void finish_collective(unsigned first, unsigned mask, Operation operation) {
    unsigned lanes = 0, ballot = 0;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(mask >> lane & 1) || !exists(first + lane)) continue;
        lanes |= 1u << lane;
        if (fibers[first + lane].value) ballot |= 1u << lane;
    }
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        Fiber& fiber = fibers[first + lane];
        fiber.state = State::ready;
        switch (operation) {
            case Operation::shuffle:
                if (!(lanes >> fiber.source & 1)) {
                    speak_for(fiber);
                    fail("collective", "the shuffle " + at(fiber.place) + " reads lane " +
                                           std::to_string(fiber.source) + ", which takes no part in it");
                }
                fiber.result = fibers[first + fiber.source].value;
                break;
            case Operation::ballot: fiber.result = ballot; break;
            case Operation::any: fiber.result = ballot != 0; break;
            case Operation::all: fiber.result = ballot == lanes; break;
            case Operation::syncwarp: break;
        }
    }
    if (operation == Operation::syncwarp && checked) check_warp_barrier(first / warp_size, lanes);
}

// Waits for all lanes of the mask; the last one to come works out the results of all.
uint64_t collective(Operation operation, unsigned mask, uint64_t value, unsigned source, Place place) {
    launch.in_kernel = false;
    const unsigned first = launch.thread / warp_size * warp_size, me = launch.thread % warp_size;
    if (!(mask >> me & 1)) fail("collective", "the mask leaves out the lane that calls " + at(place));
    current->operation = operation;
    current->mask = mask;
    current->value = value;
    current->source = source;
    current->place = place;
    current->state = State::in_collective;
    bool all_here = true;
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(mask >> lane & 1)) continue;
        if (!exists(first + lane)) {
            if (mask == 0xffffffffu) continue;  // a full mask means every lane there is
            fail("collective",
                 "the mask names lane " + std::to_string(lane) + ", past the end of the block, " + at(place));
        }
        const Fiber& fiber = fibers[first + lane];
        if (fiber.state == State::returned)
            fail("collective",
                 "lane " + std::to_string(lane) + " of the mask has returned before the operation " + at(place));
        if (fiber.state != State::in_collective) {
            all_here = false;
            continue;
        }
        const bool same = fiber.mask == mask && fiber.operation == operation && fiber.place.line == place.line &&
                          !strcmp(fiber.place.file, place.file);
        if (!same && fiber.mask >> me & 1)
            fail("collective", "lane " + std::to_string(lane) + " is in another operation or mask " + at(fiber.place) +
                                   " than the one " + at(place));
        all_here &= same;  // it may yet come, from one that others take part in
    }
    if (all_here)
        finish_collective(first, mask, operation);
    else
        yield();
    launch.in_kernel = true;
    return current->result;
}

// Blocks ----------------------------------------------------------------------------------------------------------

void release_barrier() {
    if (returned) {
        Fiber* first = fibers;
        while (first->state != State::at_barrier) ++first;
        speak_for(*first);
        fail("barrier",
             std::to_string(returned) + " threads of the block have returned before the barrier " + at(first->place));
    }
    int agreeing = 0;
    for (unsigned thread = 0; thread < launch.threads; ++thread) {
        fibers[thread].state = State::ready;
        agreeing += fibers[thread].value != 0;
    }
    for (unsigned thread = 0; thread < launch.threads; ++thread) fibers[thread].result = agreeing;
    waiting = 0;
    if (checked) check_block_barrier();
}

void start_block(uint64_t block) {
    const Triple grid = builtins.grid_extent, extent = builtins.block_extent;
    launch.block = block;
    builtins.block = {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
                      static_cast<unsigned>(block / grid.x / grid.y)};
    waiting = returned = 0;
    memset(shared.begin, 0xff, shared.end - shared.begin);
    for (unsigned thread = 0; thread < launch.threads; ++thread) {
        fibers[thread].state = State::ready;
        fibers[thread].index = {thread % extent.x, thread / extent.x % extent.y, thread / extent.x / extent.y};
    }
    if (checked) check_block();
}

[[noreturn]] void report_deadlock() {
    const char* check = waiting ? "barrier" : "collective";
    std::string message = "deadlock: ";
    const Fiber* last = nullptr;
    for (unsigned thread = 0; thread < launch.threads; ++thread) {
        Fiber& fiber = fibers[thread];
        if (fiber.state == State::returned) continue;
        if (!last || fiber.place.line != last->place.line || fiber.state != last->state) {
            message += (last ? "; " : "") + std::string("thread ") + std::to_string(thread) +
                       (fiber.state == State::at_barrier ? " waits at the barrier " : " waits in the warp operation ") +
                       at(fiber.place);
            speak_for(fiber);
            last = &fiber;
        }
    }
    fail(check, message);
}

// A permutation: as they are, reversed, or shuffled by a seed.
struct Order {
    unsigned order;
    uint64_t state;

    explicit Order(unsigned order) : order(order), state(order * 0x9e3779b97f4a7c15ull + 1) {}

    template <class T> void arrange(std::vector<T>& items) {
        std::iota(items.begin(), items.end(), T{0});
        if (order == 1) std::reverse(items.begin(), items.end());
        if (order <= 1) return;
        for (size_t i = items.size(); i > 1; --i) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            std::swap(items[i - 1], items[state % i]);
        }
    }
};

void run_block(const std::vector<unsigned>& threads) {
    while (returned < launch.threads) {
        bool progress = false;
        for (const unsigned thread : threads) {
            if (fibers[thread].state != State::ready) continue;
            progress = true;
            resume(fibers[thread]);
            if (!failure.empty()) return;
        }
        if (_setjmp(scheduler)) return;  // where the errors below jump to
        if (waiting && waiting + returned == launch.threads)
            release_barrier();
        else if (!progress)
            report_deadlock();
    }
}

void run_grid(unsigned order) {
    Order arrangement(order);
    std::vector<unsigned> threads(launch.threads);
    std::vector<uint64_t> blocks(launch.blocks);
    arrangement.arrange(blocks);
    for (const uint64_t block : blocks) {
        arrangement.arrange(threads);
        start_block(block);
        run_block(threads);
        if (!failure.empty()) return;
    }
}

// A kernel that reads an address which is not there ends with an error, not with the death of the process.
void on_fault(int signal, siginfo_t* information, void* context) {
    if (!launch.in_kernel) {  // not the kernel's: let it happen again, as if this handler were not there
        ::signal(signal, SIG_DFL);
        return;
    }
    // Past the first byte of the instruction, as the address that a call returns to is past the call.
    const auto pc = reinterpret_cast<const void*>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
    if (signal == SIGFPE) fail("arithmetic", "integer division by zero " + at(pc));
    char address[32];
    snprintf(address, sizeof address, "%p", information->si_addr);
    fail("memory", std::string("access to address ") + address + ", where no memory is, " + at(pc));
}

class FaultHandlers {
    static constexpr int signals[] = {SIGSEGV, SIGBUS, SIGFPE};
    struct sigaction before[3];
    stack_t stack_before;
    std::vector<char> stack;

public:
    FaultHandlers() : stack(64 << 10) {
        stack_t own = {};
        own.ss_sp = stack.data();
        own.ss_size = stack.size();
        sigaltstack(&own, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
        for (int i = 0; i < 3; ++i) sigaction(signals[i], &action, &before[i]);
    }
    ~FaultHandlers() {
        for (int i = 0; i < 3; ++i) sigaction(signals[i], &before[i], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

}  // namespace

// What kernels and the checker call ----------------------------------------------------------------------------------

std::string at(Place place) {
    const char* slash = strrchr(place.file, '/');
    return std::string("at ") + (slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

std::string name_of_thread(uint64_t block, unsigned thread) {
    const Triple grid = builtins.grid_extent, extent = builtins.block_extent;
    char text[128];
    snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u)", static_cast<unsigned>(block % grid.x),
             static_cast<unsigned>(block / grid.x % grid.y), static_cast<unsigned>(block / grid.x / grid.y),
             thread % extent.x, thread / extent.x % extent.y, thread / extent.x / extent.y);
    return text;
}

void fail(const char* check, const std::string& message) {
    launch.in_kernel = false;
    failed_check = check;
    failure = message + ", " + name_of_thread(launch.block, launch.thread);
    _longjmp(scheduler, 1);
}

int barrier(Count count, int predicate, Place place) {
    launch.in_kernel = false;
    if (waiting && (barrier_place.line != place.line || strcmp(barrier_place.file, place.file)))
        fail("barrier", "divergent barriers: other threads wait " + at(barrier_place) + ", this one " + at(place));
    barrier_place = place;
    current->state = State::at_barrier;
    current->place = place;
    current->value = predicate != 0;
    ++waiting;
    yield();
    launch.in_kernel = true;
    const auto agreeing = static_cast<unsigned>(current->result);
    if (count == Count::conjunction) return agreeing == launch.threads;
    if (count == Count::disjunction) return agreeing != 0;
    return static_cast<int>(agreeing);
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t value, int argument, int width, Place place) {
    if (width < 1 || width > 32 || width & (width - 1))
        fail("collective",
             "the width " + std::to_string(width) + " of a shuffle is no power of two up to 32, " + at(place));
    const unsigned source = source_lane(kind, launch.thread % warp_size, argument, static_cast<unsigned>(width));
    return collective(Operation::shuffle, mask, value, source, place);
}

unsigned vote(Vote kind, unsigned mask, int predicate, Place place) {
    const Operation operation = kind == Vote::ballot ? Operation::ballot
                                : kind == Vote::any  ? Operation::any
                                : kind == Vote::all  ? Operation::all
                                                     : Operation::syncwarp;
    return static_cast<unsigned>(collective(operation, mask, predicate != 0, 0, place));
}

void fence() {
    if (!checked) return;
    launch.in_kernel = false;
    check_fence();
    launch.in_kernel = true;
}

void atomic_access(const void* address, size_t size, Place place) {
    if (!checked) return;
    launch.in_kernel = false;
    check_atomic(address, size, place);
    launch.in_kernel = true;
}

void trap(Place place) { fail("trap", "__trap() " + at(place)); }

}  // namespace emulator

// What Python calls --------------------------------------------------------------------------------------------------

#define VISIBLE extern "C" __attribute__((visibility("default")))
using namespace emulator;

// A code for every parameter, joined by commas. "r*f4": const float*; "w*bf16": bfloat16*; "i8", "u4", "f8", ...: numbers;
// "V12": a struct of 12 bytes. It is good until the next call.
VISIBLE const char* emulator_signature(int number) {
    static std::string codes;
    codes.clear();
    for (const Parameter* parameter = kernel(number).parameters; parameter->type; ++parameter) {
        if (!codes.empty()) codes += ',';
        if (parameter->access) codes += {parameter->access, '*'};
        codes += parameter->type;
        if (parameter->bytes) codes += std::to_string(parameter->bytes);
    }
    return codes.c_str();
}

// Returns 0, or 1 with the name of the check and the message in `text`, parted by a newline.
VISIBLE int emulator_launch(int number, const unsigned* geometry, void* const* arguments, unsigned order,
                            const Buffer* buffers, size_t buffer_count, char* text, size_t capacity) {
    builtins.grid_extent = {geometry[0], geometry[1], geometry[2]};
    builtins.block_extent = {geometry[3], geometry[4], geometry[5]};
    launch.blocks = uint64_t{geometry[0]} * geometry[1] * geometry[2];
    launch.threads = geometry[3] * geometry[4] * geometry[5];
    if (!stacks) {
        void* memory = mmap(nullptr, stack_bytes * most_threads, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return snprintf(text, capacity, "launch\nno memory for the stacks of the threads"), 1;
        stacks = static_cast<char*>(memory);
    }
    shared = shared_memory();
    running = &kernel(number);
    arguments_of_launch = arguments;
    failure.clear();
    if (checked) check_launch(buffers, buffer_count);
    {
        const FaultHandlers handlers;
        run_grid(order);
    }
    if (checked) check_launch_end();
    if (failure.empty()) return 0;
    for (Fiber& fiber : fibers) fiber.started = false;  // their stacks hold a kernel that was left in the middle
    snprintf(text, capacity, "%s\n%s", failed_check.c_str(), failure.c_str());
    return 1;
}
