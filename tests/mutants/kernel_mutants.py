"""Bugs in the kernels themselves."""

from .plant import Mutant, planted_in

ROWS = ("test_kernel_rows.py",)
SUMS = ("test_kernel_rows.py", "test_kernel_checks.py", "test_kernel_layer_norm.py")
CROSS_ENTROPY = ("test_kernel_cross_entropy.py",)
LAYER_NORM = ("test_kernel_layer_norm.py",)
PHILOX = ("test_kernel_philox.py", "test_cuda_checked.py")
UPDATES = ("test_kernel_updates.py",)
CHECKS = ("test_kernel_checks.py",)
LOSSES = ("test_kernel_losses.py", "test_cuda_checked.py")
FLOAT32 = "(float32 and not bfloat16 and not cast)"  # one of its four libraries; each takes 10 seconds to compile
FUNCTIONS = ("test_kernel_elementwise.py", "-k", FLOAT32)
LOOPS = ("test_kernel_elementwise.py", "-k", f"{FLOAT32} or out_of_bounds")
CASTS = ("test_kernel_elementwise.py", "-k", "casts_round_once and float64-float16")
COLUMNS = ("test_kernel_columns.py",)
PIECES = ("test_kernel_checks.py", "test_kernel_updates.py")

KERNEL_MUTANTS: list[Mutant] = [
    *planted_in(
        "kernels/types.cuh",
        PHILOX,
        (
            "(bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16",
            "bits >> 16",
            "bfloat16 is cut off instead of rounded",
        ),
        (
            "return float(bits_of<_Float16>(x.bits));",
            "return float(bits_of<_Float16>(static_cast<unsigned short>(x.bits & 0x7fff)));",
            "float16 loses its sign",
        ),
    ),
    *planted_in(
        "kernels/reduce.cuh",
        SUMS,
        (
            "    __syncthreads();  // the last use of it is over\n",
            "",
            "the second sum of a block overwrites the first while it is read",
        ),
        (
            "of_warps[threadIdx.x / 32] = value;\n    __syncthreads();\n",
            "of_warps[threadIdx.x / 32] = value;\n",
            "warps' sums are read before they are written",
        ),
        (
            "    __shared__ V of_warps[32];",
            "    __shared__ V of_warps[1];",
            "shared memory too small for the sums of all warps",
        ),
        (
            "warp < blockDim.x / 32; ++warp",
            "warp < blockDim.x / 32 - 1; ++warp",
            "the last warp is left out of the block's sum",
        ),
        (
            "(lanes < 32 ? lanes : 32) / 2; distance; distance /= 2",
            "(lanes < 32 ? lanes : 32) / 2; distance > 1; distance /= 2",
            "neighbouring lanes are left out of a sum",
        ),
        (
            "__shared__ bool last;\n    __threadfence();\n",
            "__shared__ bool last;\n",
            "no fence before the counter: partial sums may arrive after it",
        ),
        (
            "        if (last) *counter = 0;\n",
            "",
            "the counter is not set back for the next launch",
        ),
        (
            "atomicAdd(counter, 1u) + 1 == expected",
            "(*counter += 1) == expected",
            "the counter of blocks is not atomic",
        ),
        (
            "atomicAdd(counter, 1u) + 1 == expected",
            "atomicAdd(counter, 1u) + 2 == expected",
            "the last block but one believes that it is the last",
        ),
        (
            "sum *= exp(top - most);",
            "sum *= exp(most - top);",
            "the online sum of exponentials is rescaled the wrong way",
        ),
        (
            "const W shift = top == -infinity<W>() ? W(0) : top;",
            "const W shift = top;",
            "a row that begins with -inf becomes NaN",
        ),
    ),
    *planted_in(
        "kernels/rows.cu",
        ROWS,
        (
            "const int64 row = first + team.number, length = row < rows ? n : 0;",
            "const int64 row = first + team.number, length = n;",
            "rows past the last are read and written",
        ),
        (
            "const W z = widen(chunk.at[k]) - all.top;",
            "const W z = widen(chunk.at[k]);",
            "the largest number is not subtracted: overflow",
        ),
        (
            "p * (c - sum)",
            "p * (c + sum)",
            "slope of softmax: sign of the projection",
        ),
        (
            "c - exp(p) * sum",
            "c - p * sum",
            "slope of log_softmax without the exponential",
        ),
        (
            "        sum = all_of(lanes, sum);\n",
            "        if (row < rows) sum = all_of(lanes, sum);\n",
            "a reduction in a branch that some lanes do not take",
        ),
        (
            "store<width>(to + i, chunk);",
            "store<width>(const_cast<T*>(from) + i, chunk);",
            "the input is overwritten",
        ),
    ),
    *planted_in(
        "kernels/layer_norm.cu",
        LAYER_NORM,
        (
            "const W r = W(1) / sqrt(variance + eps);",
            "const W r = W(1) / (sqrt(variance) + eps);",
            "eps outside the root",
        ),
        (
            "variance = all_of(lanes, variance) * share;",
            "variance = all_of(lanes, variance) / W(n - 1);",
            "the variance of a sample instead of a population",
        ),
        (
            "if (length && team.rank == 0) inverse_deviation[row]",
            "if (team.rank == 0) inverse_deviation[row]",
            "a deviation is written for rows past the last",
        ),
        (
            "- z * (means.second * share)",
            "- means.second * share",
            "slope without the normalised value in its second projection",
        ),
        (
            "    if (!dweight) return;\n\n    __syncthreads();\n",
            "    if (!dweight) return;\n\n",
            "teams' sums of columns are read before all are written",
        ),
        (
            "mine[n + k * chunks + c] += cotangent;",
            "mine[n + k * chunks + c] = cotangent;",
            "the gradient of the bias is that of the last row",
        ),
        (
            "for (int64 i = threadIdx.x; i < 2 * n; i += blockDim.x) {\n        W sum = sums[i];",
            "for (int64 i = threadIdx.x; i < n; i += blockDim.x) {\n        W sum = sums[i];",
            "half of the block's sums are not handed over: scratch is read that nobody wrote",
        ),
        (
            "last_to_arrive(counters + 1 + blockIdx.x / crowd, after - leader)",
            "last_to_arrive(counters + blockIdx.x / crowd, after - leader)",
            "two counters in one",
        ),
        (
            "(i < n ? dweight : dbias)[column]",
            "(i < n ? dbias : dweight)[column]",
            "the gradients of weight and bias are exchanged",
        ),
        (
            "for (unsigned block = leader + 1; block < after; ++block)",
            "for (unsigned block = leader + 1; block < leader + crowd; ++block)",
            "the last crowd sums blocks that do not exist",
        ),
    ),
    *planted_in(
        "kernels/cross_entropy.cu",
        CROSS_ENTROPY,
        (
            "return 0 <= label && label < classes;",
            "return 0 <= label && label <= classes;",
            "a label one past the last class is used as an index",
        ),
        (
            "if (!counts(label)) return 0;",
            "",
            "ignored rows count in the divisor of the mean",
        ),
        (
            "hit * (log_sum - (widen(from[label]) - all.top))",
            "hit * (log_sum - widen(from[label]))",
            "the largest logit is not taken off the right one's",
        ),
        (
            "all_of(lanes, spread_logits) * (smoothing / W(classes))",
            "all_of(lanes, spread_logits) * smoothing",
            "label smoothing is not divided among the classes",
        ),
        (
            "(report.total == 0 ? W(1) : report.total)",
            "report.total",
            "the mean over no rows is NaN",
        ),
        (
            "if (i + k == label) slope -= hit;",
            "if (i == label) slope -= hit;",
            "the target is found only at the beginning of a pack",
        ),
        (
            "for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {\n        report",
            "for (unsigned block = threadIdx.x; block < blockDim.x; block += blockDim.x) {\n        report",
            "partial sums of blocks that do not exist are added",
        ),
        (
            "    if (threadIdx.x) return;\n    if (reduction == summed)",
            "    if (reduction == summed)",
            "every thread writes the loss",
        ),
        (
            "if (reduction == each) loss[row] = narrow<T>(value);",
            "loss[row] = narrow<T>(value);",
            "a loss per row is written where there is room for one number",
        ),
        (
            "        sums[2 * blockIdx.x + 1] = report.total;\n",
            "",
            "what blocks count is not handed over",
        ),
    ),
    *planted_in(
        "kernels/losses.cu",
        LOSSES,
        ("return d > p ? p : d < -p ? -p : d;", "return d > p ? p : d;", "Huber's slope has no bound on the left"),
        (
            "(1) - y) * sigmoid(x) - y * sigmoid(-x);",
            "(1) - y) - y * sigmoid(-x);",
            "slope of the cross-entropy of two classes",
        ),
        ("log1p(exp(-fabs(x))); }", "log(W(1) + exp(-fabs(x))); }", "a loss near 0 cancels"),
        (
            "if (losses::refuses<Loss>(target) && i + k < met.wrong)",
            "if (losses::refuses<Loss>(target))",
            "not the first wrong label is named",
        ),
    ),
    *planted_in(
        "kernels/packs.cuh",
        LOOPS,
        (
            "        if (k < count) to[k] = chunk.at[k];",
            "        to[k] = chunk.at[k];",
            "numbers past the end of an array are written",
        ),
        (
            "        if (k < count) chunk.at[k] = from[k];",
            "        chunk.at[k] = from[k];",
            "numbers past the end of an array are read",
        ),
        (
            "if (aligned && count >= size) return store(to, chunk);",
            "if (count >= size) return store(to, chunk);",
            "16 bytes are written at an address that 16 does not divide",
        ),
        (
            "return int64(gridDim.x) * blockDim.x * size;",
            "return int64(gridDim.x) * blockDim.x;",
            "the grid strides over numbers instead of packs",
        ),
        (
            "return (int64(blockIdx.x) * blockDim.x + threadIdx.x) * size;",
            "return (int64(blockIdx.x) * blockDim.x + threadIdx.x) * size + 1;",
            "the first number is left out",
        ),
    ),
    *planted_in(
        "kernels/elementwise.cu",
        LOOPS,
        (
            "at[row * row_stride + column * column_stride] : number",
            "at[row * column_stride + column * row_stride] : number",
            "strides of rows and columns are exchanged",
        ),
        ("if (at && column_stride == 1) {", "if (at) {", "a repeated column is read as a row"),
        (
            "is_aligned(out) && (... && is_ready(operands))",
            "is_aligned(out)",
            "16 bytes are read where only the output allows it",
        ),
    ),
    *planted_in(
        "kernels/elementwise.cu",
        CASTS,
        (
            "if (near == x || x != x || bits % 2) return near;",
            "return near;",
            "float64 is rounded twice on its way to 16 bits",
        ),
    ),
    *planted_in(
        "kernels/activations.cuh",
        FUNCTIONS,
        ("W(0.39894228040143268)", "W(0.39984228040143268)", "a constant of gelu's slope"),
        (
            "const W small = ::exp(-::fabs(x));  // never",
            "const W small = ::exp(x);  // never",
            "sigmoid overflows on the right",
        ),
        (
            "return out > 0 && out < 6 ? g : W(0);",
            "return out > 0 && out <= 6 ? g : W(0);",
            "relu6 has a slope at its bound",
        ),
        ("cube = 0.044715", "cube = 0.044751", "a constant of gelu by tanh"),
        (
            "return out > 0 ? g : g * (out + alpha); }",
            "return out > 0 ? g : g * alpha; }",
            "elu has the slope at 0 everywhere on the left",
        ),
    ),
    *planted_in(
        "kernels/columns.cu",
        COLUMNS,
        ("if (row_of_block < half) {", "if (row_of_block <= half) {", "a row of threads too many adds: a race"),
        (
            "for (unsigned half = height / 2; half > 0; half /= 2) {\n            __syncthreads();\n",
            "__syncthreads();\n        for (unsigned half = height / 2; half > 0; half /= 2) {\n",
            "only one barrier for all the stages of a sum",
        ),
        ("row_step(int64(gridDim.y) * height)", "row_step(height)", "every block sums the rows of all"),
        (
            "block < gridDim.y; block += height",
            "block < gridDim.y - 1; block += height",
            "the last block's sums are left out",
        ),
        ("bias && strip.column + k < columns ? widen", "bias ? widen", "the bias is read past its end"),
        (
            "strip.sum[k] += product;",
            "strip.sum[k] += widen(cotangent.at[k]);",
            "the gradient of the bias without the slope",
        ),
        (
            "is_aligned(dz) && is_aligned(g) && is_aligned(kept)",
            "is_aligned(dz) && is_aligned(g)",
            "16 bytes are read where one array does not allow it",
        ),
    ),
    *planted_in(
        "kernels/philox.cuh",
        PHILOX,
        ("round < 10", "round < 9", "nine rounds of Philox instead of ten"),
        ("uint64(0xcd9e8d57u)", "uint64(0xcd9e8d75u)", "two digits of a multiplier are exchanged"),
        (
            "uint32(key), high_key = uint32(key >> 32)",
            "uint32(key), high_key = uint32(key)",
            "half of the key is not used",
        ),
    ),
    *planted_in(
        "kernels/dropout.cu",
        PHILOX,
        ("& 0xffffu) < threshold", "& 0xffffu) <= threshold", "one decision in 65,536 too many is kept"),
        ("    if (counter) step += *counter;\n", "", "every launch of a captured graph draws one mask"),
        ("block += stride", "block += blockDim.x", "blocks do the work of others again: a race"),
        ("if (aligned && start + decisions <= size) {", "if (aligned) {", "the last numbers are taken eight at a time"),
        (
            "    if (blockIdx.x == 0 && threadIdx.x == 0) *counter += steps;",
            "    *counter += steps;",
            "all threads move the counter",
        ),
    ),
    *planted_in(
        "kernels/optimizers.cu",
        UPDATES,
        (
            "p -= rate * (nesterov ? g + momentum * velocity : velocity);",
            "p -= rate * velocity;",
            "Nesterov's momentum is forgotten",
        ),
        ("velocity = momentum * velocity + gain * g;", "velocity = momentum * velocity + g;", "dampening is forgotten"),
        ("(::sqrt(second) + eps)", "::sqrt(second + eps)", "eps inside the root"),
        ("p = shrink * p - rate", "p = p - rate", "decoupled weight decay is forgotten"),
        ("    if (master) write<width>(master, w);\n", "", "master weights are not written back"),
        ("if (Rule::states > 1) write<width>(second_state, second);", "", "the second moment is not kept"),
        (
            "for (int64 i = whole + threadIdx.x; i < piece.size; i += blockDim.x) {\n            update<1>",
            "for (int64 i = threadIdx.x; i < piece.size; i += blockDim.x) {\n            update<1>",
            "what packs have updated is updated again",
        ),
        (
            "    if (skip && *skip) return;\n    if (varying) rate",
            "    if (varying) rate",
            "a step with infinite gradients is not skipped",
        ),
    ),
    *planted_in(
        "kernels/pieces.cuh",
        PIECES,
        ("start = (number - int64(row[6])) * piece_size;", "start = 0;", "every piece is the first of its array"),
        (
            "size = rest < piece_size ? rest : piece_size;",
            "size = piece_size;",
            "the last piece is as long as the others",
        ),
        (
            "for (int i = 0; i < 5; ++i) all |= addresses[i];",
            "all = addresses[0];",
            "16 bytes at once where only the first array allows it",
        ),
    ),
    *planted_in(
        "kernels/checks.cu",
        CHECKS,
        (
            "        if (threadIdx.x == 0) sums[number] = sum;\n",
            "        sums[number] = sum;\n",
            "all threads write the sum of a piece",
        ),
        (
            "*factor = quotient > 1 ? Wide<T>(1) : quotient;",
            "*factor = quotient;",
            "gradients that are short enough are made longer",
        ),
        ("*flag = int(atomicExch(counters + 1, 0u));", "*flag = int(counters[1]);", "the flag is not set back"),
        (
            "if (found) atomicOr(counters + 1, 1u);",
            "if (found) counters[1] = 1;",
            "threads write the flag without an atomic operation",
        ),
        (
            "const Wide<T> by = widen(narrow<T>(*factor));",
            "const Wide<T> by = *factor;",
            "the factor is not rounded to the arrays' dtype",
        ),
    ),
]
