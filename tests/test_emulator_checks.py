"""What the emulator finds: each kind of error is reported with its line, and sound kernels run without a complaint."""

import ctypes
import functools
import re

import numpy as np
import pytest
from emulator import Buffer, EmulatorError, build, missing

if missing():
    pytest.skip(missing(), allow_module_level=True)

# Every kernel is launched on 3 blocks of 64 threads, x has 192 numbers, y 192. The line with the comment `//!` must be
# named. A kernel whose name ends in a check must be stopped by it.
KERNEL = "__global__ void {}(const float* x, float* y, unsigned* counter, float* partial) {{\n{}\n}}\n"
PRELUDE = """
    const int thread = threadIdx.x, block = blockIdx.x, number = block * 64 + thread;
    const unsigned everybody = 0xffffffffu;
    (void)thread, (void)block, (void)number, (void)everybody;
"""
BAD = {
    # memory
    "memory": {
        "read past the end": "y[number] = x[number + 1];  //!",
        "read ahead of the beginning": "y[number] = x[number - 1];  //!",
        "write past the end": "y[number + 1] = x[number];  //!",
        "write to a const array": "const_cast<float*>(x)[number] = 1;  //!",
        "atomic operation past the end": "atomicAdd(counter + 1, 1u);  //!",
        "16 bytes at an odd place": "using Four = pullback::Pack<float>; *(Four*)(y + 1) = *(Four*)x;  //!",
        "16 bytes beyond the tail": "if (number == 0) *(pullback::Pack<float>*)(y + 192) = {1, 2, 3, 4};  //!",
        "null pointer": "y[number] = *(const float*)(thread * 0);  //!",
        "index out of a shared array": "__shared__ float tile[63]; tile[thread] = 1;  //!",
        "index out of a local array": "float own[2] = {1, 2}; own[thread] = 3; y[number] = own[0];  //!",
        "index out of a pack": "pullback::Pack<float> own = {}; own.at[thread / 8] = 3; y[number] = own.at[1];  //!",
    },
    "race": {
        "no barrier before a read": "__shared__ float tile[64]; tile[thread] = x[thread];"
        "y[number] = tile[thread ? thread - 1 : 0];  //!",
        "no barrier before the next write": "__shared__ float tile[64]; tile[thread] = x[thread]; __syncthreads();"
        "const float other = tile[63 - thread]; tile[thread] = other;  //!",
        "same place, same value": "__shared__ float one; one = 1;  //!\n __syncthreads(); y[number] = one;",
        "a warp without __syncwarp": "__shared__ float tile[64]; tile[thread] = 0; __syncwarp();"
        "tile[thread] = x[thread]; y[number] = tile[thread ^ 1];  //!",
        "a shuffle orders no memory": "__shared__ float tile[64]; tile[thread] = x[thread];"
        "__shfl_xor_sync(everybody, thread, 1); y[number] = tile[thread ^ 1];  //!",
        "__syncwarp between warps": "__shared__ float tile[64]; tile[thread] = x[thread]; __syncwarp();"
        "y[number] = tile[thread ^ 32];  //!",
        "__syncwarp of other lanes": "__shared__ float tile[64]; tile[thread] = x[thread];"
        "__syncwarp(thread % 2 ? 0xaaaaaaaau : 0x55555555u); y[number] = tile[thread ^ 1];  //!",
        "blocks write one place": "if (thread == 0) y[0] = block;  //!",
        "one block reads what another writes": "y[number] = 1; __syncthreads(); if (number == 190) y[2] = y[1];  //!",
        "atomic and not": "atomicAdd(counter, 1u); if (number == 70) *counter = 0;  //!",
        "a fence is no barrier": "__shared__ float tile[64]; tile[thread] = 0; __syncthreads();"
        "tile[thread] = x[thread]; __threadfence(); y[number] = tile[63 - thread];  //!",
    },
    "initialisation": {
        "shared memory": "__shared__ float tile[64]; if (thread != 7) tile[thread] = 1;__syncthreads();"
        "y[number] = tile[63 - thread];  //!",
        "shared memory of the block before": "__shared__ float tile[64]; if (block == 0) tile[thread] = 1;"
        "y[number] = tile[thread];  //!",
        "an output is read": "if (number != 5) y[number] = x[number]; y[number] += 1;  //!",
        "an atomic sum into nothing": "atomicAdd(y + thread, 1.0f);  //!",
    },
    "barrier": {
        "in a branch": "if (thread < 32) {\n __syncthreads();\n } else { \n __syncthreads();  //!\n }",
        "after a return": "if (thread == 5) return;\n __syncthreads();  //!",
        "one warp's": "if (thread < 32) __syncthreads();  //!",
        "against a collective": "if (thread == 5) __syncthreads();\n else __syncwarp();  //!",
    },
    "collective": {
        "the caller is not in the mask": "__syncwarp(0xfffffffeu);  //!",
        "a lane has returned": "if (thread == 3) return;\n __shfl_xor_sync(everybody, thread, 1);  //!",
        "a lane reads one that takes no part": "if (thread < 32) __shfl_sync(0xffffffffu >> 0, thread, 0);"
        "else if (thread < 40) y[number] = __shfl_sync(0xffu, thread, 9);  //!",
        "another operation": "if (thread % 2) __any_sync(everybody, 1);\n else __all_sync(everybody, 1);  //!",
        "another mask": "__syncwarp(thread % 32 < 16 ? everybody : 0xffff0000u);  //!",
        "a width that is no power of two": "__shfl_xor_sync(everybody, thread, 1, 12);  //!",
    },
    "arithmetic": {
        "shift by the width": "y[number] = 1 << thread;  //!",
        "signed overflow in a sum": "y[number] = thread + 0x7fffffff;  //!",
        "signed overflow in a difference": "y[number] = -2 - thread - 0x7fffffff;  //!",
        "signed overflow in a product": "y[number] = (thread + 100) * 100000000;  //!",
        "signed overflow in a negation": "y[number] = -(thread - 0x7fffffff - 1);  //!",
        "division by zero": "y[number] = 100 / thread;  //!",
    },
    "trap": {"a trap": "if (number == 70) __trap();  //!"},
}
FOUND_IN_EVERY_BUILD = {"barrier", "collective", "trap"}

# Two stages in one launch, as kernels do it; %s are what must not be left out.
TWO_STAGES = """
    __shared__ float tile[64];
    __shared__ bool last;
    tile[thread] = x[number];
    for (int half = 32; half; half /= 2) {
        __syncthreads();
        if (thread < half) tile[thread] += tile[thread + half];
    }
    if (thread == 0) partial[block] = tile[0];
    FENCE_OF_ALL
    if (thread == ARRIVING) {
        FENCE_OF_ONE
        last = ARRIVES;
        if (last) *counter = 0;
    }
    BARRIER
    FENCE_OF_READERS
    if (last && thread < 2) y[thread] = partial[0] + partial[1] + partial[2];
"""


def two_stages(**replaced: str) -> str:
    parts = {
        "FENCE_OF_ALL": "",
        "FENCE_OF_ONE": "__threadfence();",
        "FENCE_OF_READERS": "",
        "BARRIER": "__syncthreads();",
        "ARRIVING": "0",
        "ARRIVES": "atomicAdd(counter, 1u) == gridDim.x - 1",
    }
    return functools.reduce(lambda text, part: text.replace(*part), (parts | replaced).items(), TWO_STAGES)


FENCED_BY_ALL = {"FENCE_OF_ALL": "__threadfence(); __syncthreads();", "FENCE_OF_ONE": "", "ARRIVING": "32"}
SOUND = {
    "a tile between barriers": "__shared__ float tile[64];"
    "for (int i = 0; i < 3; ++i) { __syncthreads(); tile[thread] = i; __syncthreads(); y[number] = tile[9]; }",
    "a tile of a warp": "__shared__ float tile[2][32]; tile[thread / 32][thread % 32] = x[number]; __syncwarp();"
    "y[number] = tile[thread / 32][31 - thread % 32];",
    "half a warp": "__shared__ float tile[64]; tile[thread] = x[number];"
    "__syncwarp(thread % 32 < 16 ? 0xffffu : 0xffff0000u); y[number] = tile[thread ^ 15];",
    "what a lane knows it passes on": "__shared__ float tile[64]; tile[thread] = x[number];"
    "if (thread % 32 < 2) __syncwarp(3u); if (thread % 32 && thread % 32 < 3) __syncwarp(6u);"
    "if (thread % 32 == 2) y[number] = tile[thread - 2];",
    "a histogram": "__shared__ unsigned bins[4]; if (thread < 4) bins[thread] = 0; __syncthreads();"
    "atomicAdd(&bins[thread % 4], 1u); __syncthreads(); if (thread < 4) atomicAdd(counter, bins[thread]);",
    "many readers, then a writer": "y[number] = x[0]; __syncthreads(); if (thread == 0) y[number] = y[number + 63];",
    "packs": "using Four = pullback::Pack<float>; if (thread < 16) ((Four*)y)[block * 16 + thread] = ((Four*)x)[1];",
    "a table of constants": "static const float table[4] = {1, 2, 3, 4}; y[number] = table[thread % 4];",
    "a structure on the stack": "float own[8]; for (int i = 0; i < 8; ++i) own[i] = x[i]; y[number] = own[thread % 8];",
    "two stages, one thread fences": two_stages(),
    "two stages, all fence": two_stages(**FENCED_BY_ALL),
    "two stages, readers fence": two_stages(**FENCED_BY_ALL, FENCE_OF_READERS="__threadfence();"),
    "two stages, an exchange": two_stages(ARRIVES="atomicInc(counter, gridDim.x - 1) == gridDim.x - 1"),
}
UNSOUND = {
    "two stages, no fence": two_stages(FENCE_OF_ONE=""),
    "two stages, the fence comes late": two_stages(FENCE_OF_ONE="", FENCE_OF_READERS="__threadfence();"),
    "two stages, no barrier after the fences": two_stages(**FENCED_BY_ALL | {"FENCE_OF_ALL": "__threadfence();"}),
    "two stages, no barrier before the fence": two_stages(ARRIVING="32"),
    "two stages, the counter is not atomic": two_stages(ARRIVES="(*counter += 1) == gridDim.x"),
    "two stages, no counter": two_stages(ARRIVES="block == gridDim.x - 1"),
    "two stages, a counter for each block": two_stages(ARRIVES="atomicAdd(counter + block, 1u) == 0 && block == 1"),
    "two stages, the counter is looked at once": two_stages(ARRIVES="atomicAdd(counter, 1u) == gridDim.x - 2"),
    "two stages, no barrier after the counter": two_stages(BARRIER=""),
}

ODD = "memory: 16 bytes at an odd place"
bodies = {f"{check}: {name}": body for check, cases in BAD.items() for name, body in cases.items()} | SOUND | UNSOUND


def identifier(name: str) -> str:
    return "k_" + re.sub(r"\W", "_", name)


SOURCE = '#include "types.cuh"\n' + "".join(
    KERNEL.format(identifier(name), PRELUDE + body) for name, body in bodies.items()
)


def launched(name: str, checked: bool, order: int) -> np.ndarray:
    kernel = build(SOURCE, tuple(map(identifier, bodies)), checked)[identifier(name)]
    x, y, counter, partial = np.arange(192, dtype="f4"), np.zeros(192, "f4"), np.zeros(64, "u4"), np.zeros(3, "f4")
    arrays = (x, y, counter[:1] if "atomic operation" in name else counter, partial)
    kernel(3, 64, *arrays, order=order, uninitialised=(y, partial))
    return y


def expected_line(name: str) -> int:
    before, after = SOURCE.split(f"void {identifier(name)}(")
    return before.count("\n") + 1 + after.split("//!")[0].count("\n")


@pytest.mark.parametrize("name", [f"{check}: {name}" for check, cases in BAD.items() for name in cases])
def test_an_error_is_found_in_every_order_and_its_line_is_named(name):
    check = name.split(":")[0]
    found = []
    for order in range(4):
        with pytest.raises(EmulatorError) as caught:
            launched(name, True, order)
        assert re.search(r"block \(\d, 0, 0\) thread \(\d+, 0, 0\)$", str(caught.value))
        assert f"source.cu:{expected_line(name)}" in str(caught.value)
        found.append(caught.value.check)
    # Of a read that races with the first write some orders see that it is too early.
    assert check in found
    assert set(found) <= {check, *(["initialisation"] if check == "race" else [])}


@pytest.mark.parametrize("name", [f"{check}: {name}" for check in sorted(FOUND_IN_EVERY_BUILD) for name in BAD[check]])
def test_barriers_and_collectives_are_checked_in_the_plain_build_too(name):
    with pytest.raises(EmulatorError) as caught:
        launched(name, False, 0)
    assert caught.value.check == name.split(":")[0]


@pytest.mark.parametrize("name", ["memory: null pointer", "arithmetic: division by zero"])
def test_a_fault_in_the_plain_build_ends_the_launch_and_not_the_process(name):
    with pytest.raises(EmulatorError, match=r"where no memory is, at source|integer division by zero at source"):
        launched(name, False, 0)
    launched("packs", False, 0)


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("name", SOUND)
def test_a_sound_kernel_runs_without_a_complaint(name, order, checked):
    y = launched(name, checked, order)
    if name.startswith("two stages"):
        assert (y[:2] == np.arange(192).sum()).all()


@pytest.mark.parametrize("name", UNSOUND)
def test_a_reduction_over_blocks_that_leaves_out_a_part_is_found(name):
    for order in range(5):
        with pytest.raises(EmulatorError) as caught:
            launched(name, True, order)
        assert caught.value.check in ("race", "initialisation")


# What a launch declares -----------------------------------------------------------------------------------------------

INDIRECT = "__global__ void add_one(const unsigned long long* table) { ++((float*)table[0])[threadIdx.x]; }\n"
ADD_ONE = functools.partial(build, INDIRECT, ("add_one",), checked=True)


def test_arrays_behind_a_table_must_be_declared():
    add_one = ADD_ONE()["add_one"]
    x = np.zeros(4, "f4")
    table = np.array([x.ctypes.data], "u8")
    add_one(1, 4, table, reachable=[x])
    assert (x == 1).all()
    with pytest.raises(EmulatorError, match="outside every declared buffer"):
        add_one(1, 4, table)
    with pytest.raises(EmulatorError, match="outside every declared buffer"):
        add_one(1, 5, table, reachable=[x])
    x.flags.writeable = False
    with pytest.raises(EmulatorError, match="byte 0 of buffer 1, which is const"):
        add_one(1, 4, table, reachable=[x])


def test_buffers_may_overlap_and_the_one_that_allows_decides():
    add_one = ADD_ONE()["add_one"]
    x = np.zeros(8, "f4")
    table = np.array([x.ctypes.data], "u8")
    at = x.ctypes.data
    everything = [
        Buffer(table.ctypes.data, 8, writable=False),
        Buffer(at, 32, writable=False),
        Buffer(at, 16),
        Buffer(at + 8, 16),
    ]
    values = [ctypes.c_void_p(table.ctypes.data)]
    add_one.launch(1, 6, values, everything)
    assert x.tolist() == [1] * 6 + [0] * 2
    with pytest.raises(EmulatorError, match="which is const"):
        add_one.launch(1, 7, values, everything)
    with pytest.raises(EmulatorError, match="nobody has written"):
        add_one.launch(1, 1, values, [*everything[:1], Buffer(at, 32, initialised=False)])


def test_a_misaligned_access_is_found_in_the_plain_build_too():
    with pytest.raises(EmulatorError, match=rf"^memory: .*misaligned.*source\.cu:{expected_line(ODD)}"):
        launched(ODD, False, 0)


def test_an_error_leaves_nothing_behind():
    for name in ("race: no barrier before a read", "barrier: one warp's", "memory: null pointer"):
        with pytest.raises(EmulatorError):
            launched(name, True, 0)
        launched("two stages, one thread fences", True, 0)
