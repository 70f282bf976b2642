// Softmax cross-entropy of logits and integer labels: the loss and the probabilities in one launch, the slope in one.
//
// With nll = -ln softmax(row), a row counts  hit * nll[label] + rest * sum(spread * nll),  where (e: label_smoothing)
//     rest = 0 for an ignored row, else 1;    hit = rest * weight[label] * (1 - e);    spread[c] = weight[c] * e / C.
// The mean divides by the sum of rest * weight[label], or by 1 where that is 0.
//
// A label outside 0 to C - 1 is never used as an index: its row counts NaN, and it is reported.
#include "reduce.cuh"

namespace pullback {

// Labels are int32 or int64: the other pointer is null. So are the weights where all classes count 1.
template <class W> struct Targets {
    const int* labels32;
    const int64* labels64;
    const W* weights;
    int64 classes;
    int ignoring;  // whether rows labelled `ignored` are left out
    int64 ignored;

    __device__ __forceinline__ int64 label(int64 row) const { return labels64 ? labels64[row] : labels32[row]; }
    __device__ __forceinline__ bool counts(int64 label) const { return !ignoring || label != ignored; }
    __device__ __forceinline__ bool known(int64 label) const { return 0 <= label && label < classes; }
    __device__ __forceinline__ W weight(int64 label) const {
        if (!counts(label)) return 0;
        if (!known(label)) return not_a_number<W>();
        return weights ? weights[label] : W(1);
    }

    // What the rows from `first` on, every `stride`-th, count together.
    __device__ __forceinline__ W total(int64 first, int64 stride, int64 rows) const {
        W sum = 0;
#pragma unroll 1
        for (int64 row = first; row < rows; row += stride) sum += weight(label(row));
        return sum;
    }

    // The sum of `spread` over all classes, in all threads of the block.
    __device__ __forceinline__ W total_spread(W smoothing) const {
        if (smoothing == 0 || !weights) return smoothing;
        W sum = 0;
#pragma unroll 1
        for (int64 c = threadIdx.x; c < classes; c += blockDim.x) sum += weights[c];
        return all_of_block(sum) * (smoothing / W(classes));
    }
};

// What blocks report to the last of them: the loss, what it is divided by, and the first row with a wrong label.
template <class W> struct Report {
    W loss, total;
    int64 wrong;
};
template <class W> __device__ __forceinline__ Report<W> merge(Report<W> a, Report<W> b) {
    return {a.loss + b.loss, a.total + b.total, a.wrong < b.wrong ? a.wrong : b.wrong};
}
template <class W> __device__ __forceinline__ Report<W> from_lane(Report<W> value, int distance) {
    return {from_lane(value.loss, distance), from_lane(value.total, distance), from_lane(value.wrong, distance)};
}

constexpr int each = 0, summed = 1, averaged = 2;  // the reductions "none", "sum" and "mean"

// `loss` holds a number per row if the reduction is `each`, else one. `sums` has two numbers per block, `wrong_rows` one.
// `complaint` is {0}, or the first wrong label met: {1 + its row, the label, the classes}; it stays until the host resets it.
template <class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) cross_entropy(
    T* __restrict__ loss, T* __restrict__ probabilities, const T* __restrict__ logits,
    const int* __restrict__ labels32, const int64* __restrict__ labels64, const Wide<T>* __restrict__ weights,
    int64 rows, int64 classes, int lanes, Wide<T> smoothing, int ignoring, int64 ignored, int reduction,
    Wide<T>* sums, int64* wrong_rows, uint32* counter, int64* complaint) {
    using W = Wide<T>;
    const Targets<W> targets{labels32, labels64, weights, classes, ignoring, ignored};
    const Team team(lanes);
    const W all_spread = targets.total_spread(smoothing);
    Report<W> report{0, 0, rows};
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number, length = row < rows ? classes : 0;
        const T* from = logits + row * classes;
        T* to = probabilities + row * classes;
        Exponentials<W> all = Exponentials<W>::none();
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) all.add(load<width>(from + i));
        all = all_of(lanes, all);
        const W scale = W(1) / all.sum;
        W spread_logits = 0;
#pragma unroll 1
        for (int64 i = int64(team.rank) * width; i < length; i += int64(lanes) * width) {
            Chunk<T, width> chunk = load<width>(from + i);
#pragma unroll
            for (int k = 0; k < width; ++k) {
                const W z = widen(chunk.at[k]) - all.top;
                if (smoothing != 0) spread_logits += weights ? weights[i + k] * z : z;
                chunk.at[k] = narrow<T>(exp(z) * scale);
            }
            store<width>(to + i, chunk);
        }
        if (smoothing != 0) spread_logits = all_of(lanes, spread_logits) * (smoothing / W(classes));
        if (team.rank == 0 && row < rows) {
            const int64 label = targets.label(row);
            const W weight = targets.weight(label), hit = weight * (W(1) - smoothing), log_sum = log(all.sum);
            W value = 0;  // an ignored row counts nothing, even where its loss is infinite
            if (targets.counts(label)) {
                if (!targets.known(label)) {
                    value = not_a_number<W>();
                    report.wrong = row < report.wrong ? row : report.wrong;
                } else if (hit != 0) {
                    value = hit * (log_sum - (widen(from[label]) - all.top));
                }
                if (smoothing != 0) value += all_spread * log_sum - spread_logits;
            }
            report.loss += value;
            report.total += weight;
            if (reduction == each) loss[row] = narrow<T>(value);
        }
    }
    report = all_of_block(report);
    if (threadIdx.x == 0) {
        sums[2 * blockIdx.x] = report.loss;
        sums[2 * blockIdx.x + 1] = report.total;
        wrong_rows[blockIdx.x] = report.wrong;
    }
    if (!last_to_arrive(counter, gridDim.x)) return;
    report = {0, 0, rows};
#pragma unroll 1
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) {
        report = merge(report, Report<W>{sums[2 * block], sums[2 * block + 1], wrong_rows[block]});
    }
    report = all_of_block(report);
    if (threadIdx.x) return;
    if (reduction == summed) *loss = narrow<T>(report.loss);
    if (reduction == averaged) *loss = narrow<T>(report.loss / (report.total == 0 ? W(1) : report.total));
    if (report.wrong < rows && complaint[0] == 0) {
        complaint[0] = 1 + report.wrong;
        complaint[1] = targets.label(report.wrong);
        complaint[2] = classes;
    }
}

// The sum over all rows of what they count, which `cross_entropy_slope` may be given: one launch for very many rows.
template <class W>
__global__ void __launch_bounds__(256) cross_entropy_total(
    W* total, const int* __restrict__ labels32, const int64* __restrict__ labels64, const W* __restrict__ weights,
    int64 rows, int64 classes, int ignoring, int64 ignored, W* sums, uint32* counter) {
    const Targets<W> targets{labels32, labels64, weights, classes, ignoring, ignored};
    W sum = all_of_block(targets.total(
        int64(blockIdx.x) * blockDim.x + threadIdx.x, int64(gridDim.x) * blockDim.x, rows));
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    if (!last_to_arrive(counter, gridDim.x)) return;
    sum = 0;
#pragma unroll 1
    for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) sum += sums[block];
    sum = all_of_block(sum);
    if (threadIdx.x == 0) *total = sum;
}

// cotangent * (softmax - target), the cotangent `share * g`: a number per row of `g` if `g_by_row`, else one, 1 if null.
// If `dividing`, it is also divided by the sum of what all rows count: that of `total`, or the block's own if null.
template <class T, int width>
__global__ void __launch_bounds__(256, roomy<T>) cross_entropy_slope(
    T* __restrict__ out, const T* __restrict__ probabilities, const T* __restrict__ g, int g_by_row, Wide<T> share,
    const int* __restrict__ labels32, const int64* __restrict__ labels64, const Wide<T>* __restrict__ weights,
    int64 rows, int64 classes, int lanes, Wide<T> smoothing, int ignoring, int64 ignored, int dividing,
    const Wide<T>* __restrict__ total) {
    using W = Wide<T>;
    const Targets<W> targets{labels32, labels64, weights, classes, ignoring, ignored};
    const Team team(lanes);
    const W all_spread = targets.total_spread(smoothing);
    if (dividing) {
        const W sum = total ? *total : all_of_block(targets.total(threadIdx.x, blockDim.x, rows));
        if (sum != 0) share /= sum;
    }
    for (int64 first = team.first(); first < rows; first += team.stride()) {
        const int64 row = first + team.number;
        if (row >= rows) return;  // no reduction follows
        const int64 label = targets.label(row), start = row * classes;
        const W cotangent = g ? share * widen(g[g_by_row ? row : 0]) : share;
        const W hit = cotangent * targets.weight(label) * (W(1) - smoothing);
        const W rest = targets.counts(label) ? cotangent : W(0);
        const W all = hit + rest * all_spread, spread = rest * (smoothing / W(classes));
#pragma unroll 1
        for (int64 i = int64(team.rank) * width; i < classes; i += int64(lanes) * width) {
            Chunk<T, width> chunk = load<width>(probabilities + start + i);
#pragma unroll
            for (int k = 0; k < width; ++k) {
                W slope = widen(chunk.at[k]) * all;
                if (smoothing != 0) slope -= weights ? weights[i + k] * spread : spread;
                if (i + k == label) slope -= hit;
                chunk.at[k] = narrow<T>(slope);
            }
            store<width>(out + start + i, chunk);
        }
    }
}

}  // namespace pullback
