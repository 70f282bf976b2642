"""Bugs in the code that launches the kernels: geometry, arguments, what is left to plain bodies."""

from .plant import Mutant, planted_in

FUSED_ROWS = ("test_fused_rows.py", "test_cuda_checked.py")
LISTS = ("test_cuda_lists.py", "test_cuda_checked.py")

LAUNCH_MUTANTS: list[Mutant] = [
    *planted_in(
        "src/pullback/backends/cuda/rows.py",
        FUSED_ROWS,
        ("and array.flags.c_contiguous for array", "for array", "arrays with gaps are handed to kernels"),
        (
            "array.data.ptr % 16 for array in arrays",
            "array.data.ptr % 8 for array in arrays",
            "16 bytes at once from an address that 8 divides",
        ),
        (
            "isinstance(array, cupy.ndarray) and array.dtype == dtype",
            "isinstance(array, cupy.ndarray)",
            "arrays of several dtypes are handed to one kernel",
        ),
        (
            "np.int64(rows), np.int64(n), np.int32(lanes)",
            "np.int64(n), np.int64(rows), np.int32(lanes)",
            "rows and columns are exchanged",
        ),
        (
            "_instance(template, x.dtype, step, logarithm)(",
            "_instance(template, x.dtype, step, False)(",
            "log_softmax runs as softmax",
        ),
        (
            "rows, step = x.size // n, width(n, *arrays)\n",
            "rows, step = x.size // n, FLOATS[x.dtype.name]\n",
            "16 bytes at once whatever the length of a row",
        ),
        (
            "threads, out, *arrays, np.int64(rows), np.int64(n), np.int32(lanes)\n",
            "threads, out, *arrays, np.int64(rows), np.int64(n), np.int64(lanes)\n",
            "an argument of 8 bytes instead of 4",
        ),
    ),
    *planted_in(
        "src/pullback/backends/cuda/layer_norm.py",
        FUSED_ROWS,
        (
            "out, standardized, inverse_deviation, x, weight, bias,",
            "out, standardized, inverse_deviation, x, bias, weight,",
            "weight and bias are exchanged",
        ),
        (
            "counters(1 + -(-blocks // crowd))",
            'workspace("counters", 1 + -(-blocks // crowd), np.uint32)',
            "counters that nobody has set to zero",
        ),
        (
            'workspace("column sums", 2 * n * blocks, real)',
            'workspace("column sums", n * blocks, real)[: n * blocks]',
            "half of the scratch memory",
        ),
        (
            "cupy.empty(x.shape[:-named] + (1,) * named, x.dtype)",
            "cupy.empty(x.shape[:-named], x.dtype)",
            "deviations that do not broadcast",
        ),
    ),
    *planted_in(
        "src/pullback/backends/cuda/cross_entropy.py",
        FUSED_ROWS,
        ("        and 0 <= smoothing <= 1\n", "", "a label smoothing that the op refuses is computed"),
        ("        share /= rows\n", "        pass\n", "the slope of a mean is that of a sum"),
        ("real(share), *targets,", "real(1.0), *targets,", "a cotangent that is a number is not multiplied by"),
        ("    launched()\n", "", "CUDA_LAUNCH_BLOCKING=1 is not heeded"),
        (
            "        and labels.shape == scores.shape[:-1]\n",
            "",
            "labels of another shape are read as far as there are rows",
        ),
        (
            'return (labels, None, weights) if labels.dtype.name == "int32"',
            'return (labels, None, weights) if labels.dtype.name == "int64"',
            "labels are read in the wrong width",
        ),
    ),
    *planted_in(
        "src/pullback/backends/cuda/losses.py",
        FUSED_ROWS,
        ('real(x.size if reduction == "mean" else 1)', "real(x.size)", "a sum is divided as a mean is"),
        ("np.int32(shape != ())", "np.int32(0)", "a cotangent for each pair is read as one"),
        ("and x.shape == y.shape", "and x.size == y.size", "pairs of arrays that do not match"),
    ),
    *planted_in(
        "src/pullback/backends/cuda/complaints.py",
        FUSED_ROWS,
        ("            _notes[key].fill(0)\n", "", "one wrong label is raised for ever"),
    ),
    *planted_in(
        "src/pullback/backends/cuda/updates.py",
        LISTS,
        ("np.int32(nesterov), varying, skip)", "np.int32(0), varying, skip)", "Nesterov's momentum is not asked for"),
        (
            "(rate, decay, momentum, 1.0 - dampening)",
            "(rate, decay, momentum, dampening)",
            "dampening instead of what is left of it",
        ),
        ("(rate, *betas, eps, decay, shrink)", "(rate, *betas, eps, shrink, decay)", "two numbers are exchanged"),
        ("    if state[-1] is not None and real == dtype:", "    if False:", "master weights of float32 are forgotten"),
        (
            "    return all(array.dtype == real for array in present) and all(\n        array.size == size and",
            "    return all(\n        array.size == size and",
            "state of another dtype is handed over",
        ),
    ),
    *planted_in(
        "src/pullback/backends/cuda/pieces.py",
        LISTS,
        ("table[:, ARRAYS] = sizes", "table[:, ARRAYS] = sizes[0]", "every array has the size of the first"),
        (
            "np.cumsum([0, *counts])[: len(counts)]",
            "np.cumsum(counts)",
            "the first piece of an array is that of the next",
        ),
        (
            "key = (cupy.cuda.get_device_id(), stream.ptr, addresses, sizes)",
            "key = (cupy.cuda.get_device_id(), stream.ptr, addresses)",
            "a table is kept when sizes change",
        ),
        ("            _captured.append(found)\n", "            pass\n", "a captured graph outlives its table"),
        ("0 if a is None else a.data.ptr", "1 if a is None else a.data.ptr", "an absent array has an address"),
    ),
    *planted_in(
        "src/pullback/backends/cuda/checks.py",
        LISTS,
        ("zeroed(2), flag", 'workspace("counters", 2, np.uint32), flag', "counters that nobody has set to zero"),
        (
            "max(1, pieces.blocks), THREADS, *pieces.arguments(), zeroed(2)",
            "max(1, pieces.blocks), 2 * THREADS, *pieces.arguments(), zeroed(2)",
            "more threads than the kernel's launch bounds",
        ),
    ),
    *planted_in(
        "src/pullback/backends/cuda/dropout.py",
        LISTS,
        (
            "np.uint64(key), np.uint64(step), counter",
            "np.uint64(step), np.uint64(key), counter",
            "key and step are exchanged",
        ),
        ("    if not taken(x) or", "    if", "an array with gaps is dropped as if it had none"),
        ("np.int64(x.size), np.uint64(key)", "np.int32(x.size), np.uint64(key)", "a size of 4 bytes instead of 8"),
    ),
    *planted_in(
        "src/pullback/backends/cuda/launching.py",
        LISTS,
        ("return min(-(-items // threads),", "return min(items // threads,", "the last block of a grid is left out"),
    ),
]
