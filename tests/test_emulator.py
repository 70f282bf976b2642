"""The emulator speaks CUDA: indices, shared memory, warps, atomics, thread orders, argument types, its cache."""

import threading
from itertools import product
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from emulator import CompileError, EmulatorError, build, compiling, launching, missing
from numpy.testing import assert_array_equal

if missing():
    pytest.skip(missing(), allow_module_level=True)

SOURCE = r"""
#include "types.cuh"

__global__ void indices(int* out) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int* const to = out + (block * blockDim.x * blockDim.y * blockDim.z + thread) * 6;
    to[0] = blockIdx.x, to[1] = blockIdx.y, to[2] = blockIdx.z;
    to[3] = threadIdx.x, to[4] = threadIdx.y, to[5] = threadIdx.z;
}

__global__ void arrivals(int* order, unsigned* counter) {
    order[atomicAdd(counter, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
    __syncthreads();
    order[atomicAdd(counter, 1u)] = blockIdx.x * blockDim.x + threadIdx.x;
}

template <class T> __global__ void shuffles(T* out, int by, int width) {
    const T mine = T(threadIdx.x) + T(0.5);
    out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, mine, by, width);
    out[32 + threadIdx.x] = __shfl_down_sync(0xffffffffu, mine, by, width);
    out[64 + threadIdx.x] = __shfl_up_sync(0xffffffffu, mine, by, width);
    out[96 + threadIdx.x] = __shfl_sync(0xffffffffu, mine, by, width);
}

__global__ void votes(const int* x, unsigned* out) {
    const unsigned mask = threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
    const int mine = x[threadIdx.x];
    unsigned* const to = out + threadIdx.x * 6;
    to[0] = __ballot_sync(mask, mine), to[1] = __any_sync(mask, mine), to[2] = __all_sync(mask, mine);
    to[3] = __syncthreads_count(mine), to[4] = __syncthreads_or(mine), to[5] = __syncthreads_and(mine);
}

template <class T> __global__ void sums(const T* x, T* out) { atomicAdd(out, x[threadIdx.x]); }

template <class T> __global__ void atomics(T* at, T* old) {
    old[0] = atomicExch(at + 0, T(5)), old[1] = atomicMin(at + 1, T(2)), old[2] = atomicMax(at + 2, T(9));
    old[3] = atomicCAS(at + 3, T(3), T(8)), old[4] = atomicCAS(at + 4, T(3), T(8)), old[5] = atomicAnd(at + 5, T(6));
    old[6] = atomicOr(at + 6, T(6)), old[7] = atomicXor(at + 7, T(6));
}

__global__ void wrapping(unsigned* at) { atomicInc(at, 3u), atomicDec(at + 1, 3u); }

__global__ void intrinsics(const uint64_t* x, uint64_t* out) {
    const unsigned a = x[0], b = x[1];
    out[0] = __umulhi(a, b), out[1] = __umul64hi(x[0], x[1]), out[2] = __popc(a), out[3] = __clz(a);
    out[4] = __float_as_uint(1.0f), out[5] = __double_as_longlong(1.0), out[6] = min(a, b), out[7] = max(2ll, -3ll);
    out[8] = __float_as_uint(__uint_as_float(a)), out[9] = __ffs(a), out[10] = rsqrtf(0.25f), out[11] = __ldg(x);
}

template <class T, int size> __global__ void left_from_before(T* out) {
    __shared__ T tile[size];
    out[blockIdx.x * size + threadIdx.x] = tile[threadIdx.x];
    __syncthreads();
    tile[threadIdx.x] = T(1);
}

template <class T> __global__ void rounded(const float* x, T* out) {
    out[threadIdx.x] = pullback::narrow<T>(x[threadIdx.x]);
}

struct Triple { int x, y, z; };
__global__ void __launch_bounds__(64) every_type(
    const void* a, const pullback::float16* b, pullback::bfloat16* c, const double* d, bool e, int f, unsigned g,
    long long h, unsigned long long i, float j, double k, Triple l, double* out) {
    *out = *d + e + f + g + h + i + j + k + l.x + l.y + l.z;
}
__global__ void nothing() {}
"""
NAMES = [
    "indices", "arrivals", "shuffles<int>", "shuffles<float>", "shuffles<double>", "shuffles<long long>", "votes",
    "sums<int>", "sums<unsigned>", "sums<unsigned long long>", "sums<float>", "sums<double>", "atomics<int>",
    "atomics<unsigned>", "atomics<unsigned long long>", "wrapping", "intrinsics", "left_from_before<float, 4>",
    "left_from_before<double, 8>", "rounded<pullback::float16>", "rounded<pullback::bfloat16>", "every_type", "nothing",
]  # fmt: skip


def kernel(name):
    return build(SOURCE, NAMES)[name]


def test_every_thread_of_a_grid_has_its_own_indices():
    grid, block = (3, 2, 2), (4, 3, 2)
    out = np.zeros((12, 24, 6), "i4")
    kernel("indices")(grid, block, out)
    blocks = [(x, y, z) for z, y, x in product(range(2), range(2), range(3))]
    threads = [(x, y, z) for z, y, x in product(range(2), range(3), range(4))]
    assert_array_equal(out, [[(*b, *t) for t in threads] for b in blocks])


def arrivals(order):
    out = np.zeros(2 * 40, "i4")
    kernel("arrivals")(5, 8, out, np.zeros(1, "u4"), order=order)
    return out.reshape(5, 2, 8)


def test_threads_run_forward_or_in_reverse_or_shuffled_and_meet_at_barriers():
    forward = np.repeat(np.arange(40).reshape(5, 1, 8), 2, 1)
    assert_array_equal(arrivals(0), forward)
    assert_array_equal(arrivals(1), forward[::-1, :, ::-1])
    shuffled = arrivals(2)
    assert_array_equal(shuffled, arrivals(2))
    assert (shuffled != arrivals(3)).any()
    assert (np.diff(shuffled[:, 0, 0] // 8) < 0).any()  # blocks too
    assert_array_equal(np.sort(shuffled), np.sort(forward)[shuffled[:, 0, 0] // 8])


@pytest.mark.parametrize("dtype", ["i4", "f4", "f8", "i8"])
@pytest.mark.parametrize(("by", "width"), [(1, 32), (16, 32), (3, 8), (5, 8), (2, 4), (31, 32), (0, 1)])
def test_shuffles_take_the_value_of_the_lane_that_cuda_says(dtype, by, width):
    out = np.zeros((4, 32), dtype)
    name = {"i4": "int", "f4": "float", "f8": "double", "i8": "long long"}[dtype]
    kernel(f"shuffles<{name}>")(1, 32, out, np.int32(by), np.int32(width))
    lane = np.arange(32)
    first = lane // width * width
    across = lane ^ by
    sources = [
        np.where(across < first + width, across, lane),
        np.where(lane + by < first + width, lane + by, lane),
        np.where(lane - by >= first, lane - by, lane),
        first + by % width,
    ]
    assert_array_equal(out, (np.array(sources) + 0.5).astype(dtype))


def test_votes_are_of_the_lanes_in_the_mask_and_counting_barriers_of_the_block():
    x = np.zeros(64, "i4")
    x[[3, 5, *range(16, 32), 40]] = 1
    out = np.zeros((64, 6), "u4")
    kernel("votes")(1, 64, x, out)
    halves = x.reshape(4, 16)
    ballots = (halves.astype("u4") << (np.arange(16, dtype="u4") + np.array([[0], [16], [0], [16]], "u4"))).sum(1)
    assert_array_equal(out[:, 0], np.repeat(ballots, 16))
    assert_array_equal(out[:, 1], np.repeat(halves.any(1), 16))
    assert_array_equal(out[:, 2], np.repeat(halves.all(1), 16))
    assert_array_equal(out[:, 3:], np.tile([x.sum(), 1, 0], (64, 1)))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("int", "i4"), ("unsigned", "u4"), ("unsigned long long", "u8"), ("float", "f4"), ("double", "f8")],
)
def test_atomic_additions_miss_nothing(name, dtype):
    x, out = np.arange(64).astype(dtype), np.zeros(1, dtype)
    kernel(f"sums<{name}>")(3, 64, x, out)
    assert out[0] == 3 * 64 * 63 // 2


@pytest.mark.parametrize(("name", "dtype"), [("int", "i4"), ("unsigned", "u4"), ("unsigned long long", "u8")])
def test_atomic_operations_return_the_old_value_and_store_the_new(name, dtype):
    at, old = np.array([3, 3, 3, 3, 4, 3, 3, 3], dtype), np.zeros(8, dtype)
    before = at.copy()
    kernel(f"atomics<{name}>")(1, 1, at, old)
    assert_array_equal(old, before)
    assert_array_equal(at, [5, 2, 9, 8, 4, 2, 7, 5])


def test_increments_and_decrements_wrap_at_their_limit():
    at = np.zeros(2, "u4")
    seen = []
    for _ in range(5):
        kernel("wrapping")(1, 1, at)
        seen.append(at.tolist())
    assert seen == [[1, 3], [2, 2], [3, 1], [0, 0], [1, 3]]


def test_intrinsics_compute_what_their_names_say():
    a, b = 0xDEADBEEF, 0x12345678
    out = np.zeros(12, "u8")
    kernel("intrinsics")(1, 1, np.array([a, b], "u8"), out)
    one = int(np.float32(1).view("u4")), int(np.float64(1).view("u8"))
    assert out.tolist() == [a * b >> 32, a * b >> 64, a.bit_count(), 0, *one, b, 2, a, 1, 2, a]


@pytest.mark.parametrize(("name", "dtype", "size"), [("float", "f4", 4), ("double", "f8", 8)])
def test_shared_memory_of_a_template_starts_as_nan_in_every_block(name, dtype, size):
    out = np.zeros(3 * size, dtype)
    kernel(f"left_from_before<{name}, {size}>")(3, size, out)
    assert np.isnan(out).all()


@pytest.mark.parametrize(("name", "dtype"), [("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)])
def test_half_types_cross_between_numpy_and_kernels(name, dtype):
    x = np.array([0, 1.1, -3e-5, 7e4, 1e-7, np.inf, 65519.996, -2.5], "f4")
    out = np.zeros(8, dtype)
    kernel(f"rounded<pullback::{name}>")(1, 8, x, out)
    with np.errstate(over="ignore"):
        assert_array_equal(out.view("u2"), x.astype(dtype).view("u2"))


# Arguments ------------------------------------------------------------------------------------------------------------

ARGUMENTS = {
    "r*void": np.ones(3, "u2"), "r*f2": np.ones(2, "f2"), "w*bf16": np.ones(2, ml_dtypes.bfloat16), "r*f8": np.ones(1),
    "b1": np.bool_(True), "i4": np.int32(-7), "u4": np.uint32(2**32 - 1), "i8": np.int64(-(2**40)),
    "u8": np.uint64(2**50), "f4": np.float32(0.5), "f8": np.float64(1e-3),
    "V12": np.array((1, 2, 3), "i4,i4,i4")[()], "w*f8": np.zeros(1),
}  # fmt: skip


def test_arguments_of_every_type_arrive():
    called = kernel("every_type")
    assert called.signature == list(ARGUMENTS)
    assert called.most_threads == 64
    assert kernel("nothing").signature == []
    called(1, 1, *ARGUMENTS.values())
    kernel("nothing")(1, 1)
    assert ARGUMENTS["w*f8"][0] == 1 + 1 - 7 + (2**32 - 1) - 2**40 + 2**50 + 0.5 + 1e-3 + 6


@pytest.mark.parametrize(
    ("code", "wrong", "said"),
    [
        ("i4", 3, "must be i4, not a int"),
        ("i4", np.int64(3), "must be i4, not int64"),
        ("f4", np.float64(3), "must be f4, not float64"),
        ("V12", np.array((1, 2), "i4,i4")[()], "must be V12, not 8 bytes"),
        ("r*f8", np.zeros(1, "f4"), "must be r\\*f8, not an array of float32"),
        ("w*bf16", np.zeros(1, "f2"), "must be w\\*bf16, not an array of float16"),
        ("r*f8", np.zeros((2, 2))[:, 0], "not contiguous"),
        ("r*f8", np.float64(3), "not a float64"),
        ("w*f8", np.broadcast_to(np.float64(3), (1,)), "a read-only array"),
    ],
)
def test_an_argument_of_another_type_is_refused(code, wrong, said):
    with pytest.raises(TypeError, match=said):
        kernel("every_type")(1, 1, *(ARGUMENTS | {code: wrong}).values())


def test_too_few_arguments_are_refused():
    with pytest.raises(TypeError, match="takes 13 arguments, not 1"):
        kernel("every_type")(1, 1, ARGUMENTS["b1"])


@pytest.mark.parametrize(
    ("grid", "block"), [(0, 1), (1, 0), (1, 1025), ((1, 65536), 1), (2**31, 1), (1, (1, 1, 65)), (1, (32, 33))]
)
def test_a_launch_that_no_device_takes_is_refused(grid, block):
    with pytest.raises(EmulatorError, match="no device takes grid"):
        kernel("nothing")(grid, block)


def test_a_block_larger_than_the_launch_bounds_is_refused():
    with pytest.raises(EmulatorError, match="launch: every_type: blocks of 65 threads, launch bounds say 64"):
        kernel("every_type")(1, 65, *ARGUMENTS.values())


# Compiling ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(tmp_path, monkeypatch) -> list[str]:
    """What g++ would have made, in an empty cache."""
    made = []

    def pretend(arguments, output):
        made.append(output.name)
        output.write_text("")

    monkeypatch.setattr(compiling, "compile_", pretend)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return made


def test_one_build_at_a_time_and_the_next_finds_it(compiled):
    source = "__global__ void k(int* x) { *x = 1; }\n"
    workers = [threading.Thread(target=compiling.library, args=(source, ["k"], False)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    runtime = [f"{Path(name).stem}.o" for name in compiling.RUNTIME]
    assert sorted(compiled) == sorted([*runtime, "prelude.h.gch", "kernels.o", "kernels.so"])
    compiling.library(source, ["k"], False)
    assert len(compiled) == 7
    compiling.library(source, ["k"], True)
    assert compiled[7:] == ["prelude.h.gch", "kernels.o", "kernels.so"]
    compiling.library(source, ["other"], True)
    assert compiled[10:] == ["kernels.o", "kernels.so"]


def test_kernels_of_a_dtype_are_compiled_together_when_one_is_asked_for(compiled, monkeypatch):
    loaded = []

    def pretend(path, names, checked):
        loaded.append(names)
        return dict.fromkeys(names)

    monkeypatch.setattr(launching, "_load", pretend)
    names = [
        "cast<pullback::float16, float>",
        "map<op::tanh, float>",
        "advance",
        "map<op::exp, pullback::float16, float>",
    ]
    kernels = build("\n", names)
    assert sorted(names) == list(kernels)
    assert loaded == compiled == []
    for name in names:
        kernels[name]
    assert loaded == [(names[0], names[3]), (names[1],), (names[2],)]


def test_a_change_of_an_included_file_is_another_build(tmp_path):
    for number in (4, 5):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "k.cu").write_text('#include "first.cuh"\n__global__ void k(int* x) { *x = NUMBER; }\n')
        (folder / "first.cuh").write_text('#include "second.cuh"\n')
        (folder / "second.cuh").write_text(f"#define NUMBER {number}\n")
        x = np.zeros(1, "i4")
        build(folder / "k.cu", ["k"])["k"](1, 1, x)
        assert x[0] == number


def test_a_source_that_is_not_cuda_is_refused_with_the_compilers_words():
    with pytest.raises(CompileError, match=r"source.cu:2:.*invalid conversion from .long long int\*. to"):
        build("\n__global__ void k(long long* x) { atomicAdd(x, 1ll); }\n", ["k"])["k"]
    with pytest.raises(CompileError, match="no_such_kernel"):
        build("__global__ void k() {}\n", ["no_such_kernel"])["no_such_kernel"]


def test_old_builds_are_removed(compiled, monkeypatch):
    old, new = compiling.entry("old"), compiling.entry("new")
    monkeypatch.setattr(compiling.time, "time", lambda: old.stat().st_mtime + compiling.KEPT_DAYS * 86400 + 1)
    compiling.os.utime(new, (old.stat().st_mtime + 10,) * 2)
    compiling.entry("newer")
    assert not old.exists()
    assert new.exists()


def test_the_file_of_a_kernel_is_found_by_name_or_path():
    name = "pullback::column_sum<float>"
    by_path = Path(__file__).parents[1] / "kernels" / "columns.cu"
    assert build("columns.cu", [name])[name] is build(by_path, [name])[name]
