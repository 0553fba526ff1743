/* The parts of a training step that are no matrix products: passes over memory, each fused into one.
 *
 * torch makes its hyperbolic tangents one number at a time, its dropout masks from one thread, and its softmax of
 * a head in several passes. Main entries: `conjure_gelu`, `conjure_gelu_backward`, `conjure_dropout_mask`,
 * `conjure_causal_softmax`, `conjure_cross_entropy`. All take float32 or bfloat16 and compute in float32.
 * Invariant: no result depends, in any bit, on the number of threads.
 *
 * Every size and pointer is checked in Python (kernels.py); here they are trusted.
 */
#include "numbers.h"

#include <omp.h>
#include <stdlib.h>

enum {
    ROUND = 512, /* numbers gone over together, one pass after the other, in the first-level cache */
    LANES = 32,  /* loops over multiples of it have no remainder, which is slow */
};

/* One pass: what it reads, what it writes, and by which instructions. */
typedef struct {
    const void *x, *grad;  /* what comes in; the derivative by what went out */
    void *y;                /* what goes out; where a pass works in place, what comes in as well */
    int64_t rows, columns, stride; /* `stride` numbers from a row to the next; elementwise passes have one row */
    const int64_t *targets; /* (rows), negative where there is none */
    const float *factors;   /* (rows), what a row's grad is multiplied by; NULL where no grad is wanted */
    float *losses;          /* (rows) */
    uint64_t key;           /* of the random numbers */
    int64_t start;          /* a query's own place among the keys is start + its number in the strip */
    int64_t strip;          /* queries of a head */
    int32_t threshold;      /* of 65,536 random numbers so many drop */
    int32_t bfloat, threads, instructions;
} Pass;

/* ---- elementwise: an item is ROUND numbers, the last of them perhaps fewer ---- */

INLINE int32_t count_of(const Pass *pass, int64_t item) {
    return (int32_t)at_most(ROUND, pass->columns - item * ROUND);
}

INLINE void gelus(float *x, int32_t count) {
    SIMD for (int32_t i = 0; i < count; i++) x[i] = gelu(x[i]);
}

/* grad[i] *= gelu'(x[i]). gelu(x) = x s with s = 1 / (1 + e^-2z), so gelu'(x) = s + x s (1 - s) 2z'. */
INLINE void gelu_grads(const float *x, float *grad, int32_t count) {
    SIMD for (int32_t i = 0; i < count; i++) {
        float square = x[i] * x[i];
        float s = 1.0f / (1.0f + exponential(-1.59576912f * x[i] * (1.0f + 0.044715f * square)));
        float bend = 1.59576912f * x[i] * (1.0f + 3.0f * 0.044715f * square);
        grad[i] *= s + s * (1.0f - s) * bend;
    }
}

INLINE void gelu_item(const Pass *pass, int64_t item, float *x, bool bfloat) {
    int32_t count = count_of(pass, item);
    load(pass->x, item * ROUND, count, bfloat, x);
    gelus(x, count);
    store(x, count, bfloat, pass->y, item * ROUND);
}

INLINE void gelu_backward_item(const Pass *pass, int64_t item, float *x, bool bfloat) {
    int32_t count = count_of(pass, item);
    float *grad = x + ROUND;
    load(pass->x, item * ROUND, count, bfloat, x);
    load(pass->grad, item * ROUND, count, bfloat, grad);
    gelu_grads(x, grad, count);
    store(grad, count, bfloat, pass->y, item * ROUND);
}

INLINE void mask_item(const Pass *pass, int64_t item, float *kept, bool bfloat) {
    uint32_t first = (uint32_t)item * (ROUND / 2);
    SIMD for (int32_t i = 0; i < ROUND / 2; i++) {
        uint32_t word = random_word(pass->key, first + (uint32_t)i);
        kept[i] = (int32_t)(word & 0xffff) >= pass->threshold ? 1.0f : 0.0f;
        kept[i + ROUND / 2] = (int32_t)(word >> 16) >= pass->threshold ? 1.0f : 0.0f;
    }
    store(kept, count_of(pass, item), bfloat, pass->y, item * ROUND);
}

/* ---- by rows ---- */

INLINE void scale(float *x, int32_t size, float by) {
    SIMD for (int32_t i = 0; i < size; i++) x[i] *= by;
}

/* Scores of queries for keys become weights, in place: a softmax over the keys up to a query's own, 0 beyond. */
INLINE void causal_softmax_row(const Pass *pass, int64_t row, float *x, bool bfloat) {
    int32_t size = (int32_t)pass->columns;
    int32_t seen = (int32_t)at_most(pass->start + row % pass->strip + 1, size);
    int32_t width = (int32_t)at_most(round_up(seen, LANES), size);
    load(pass->y, row * pass->stride, width, bfloat, x);
    for (int32_t i = seen; i < width; i++) x[i] = -INFINITY;
    float sum = exponentials(x, width, largest_of(x, width));
    scale(x, width, 1.0f / sum);
    for (int32_t i = seen; i < size; i++) x[i] = 0;
    store(x, size, bfloat, pass->y, row * pass->stride);
}

/* The loss of a row of logits; they become its grad, (softmax - one-hot) * factor. Without a target both are 0. */
INLINE void cross_entropy_row(const Pass *pass, int64_t row, float *x, bool bfloat) {
    int32_t size = (int32_t)pass->columns;
    int64_t target = pass->targets[row], start = row * pass->stride;
    load(pass->y, start, size, bfloat, x);
    float largest = largest_of(x, size), chosen = target < 0 ? 0 : x[target];
    float sum = exponentials(x, size, largest);
    pass->losses[row] = target < 0 ? 0 : logf(sum) + (largest - chosen);
    if (!pass->factors) return;
    float factor = target < 0 ? 0 : pass->factors[row];
    scale(x, size, factor / sum);
    if (target >= 0) x[target] -= factor;
    store(x, size, bfloat, pass->y, start);
}

/* ---- one copy of all that per instruction set and number format ---- */

typedef void PassWork(const Pass *pass, Range items, float *scratch);

#define EACH_ITEM(name, instructions, target)                                                           \
    target static void name##_##instructions(const Pass *pass, Range items, float *scratch) {           \
        for (int64_t item = items.from; item < items.to; item++)                                        \
            pass->bfloat ? name(pass, item, scratch, true) : name(pass, item, scratch, false);          \
    }
#define COMPILE_FOR(instructions, target)               \
    EACH_ITEM(gelu_item, instructions, target)          \
    EACH_ITEM(gelu_backward_item, instructions, target) \
    EACH_ITEM(mask_item, instructions, target)          \
    EACH_ITEM(causal_softmax_row, instructions, target) \
    EACH_ITEM(cross_entropy_row, instructions, target)

COMPILE_FOR(portable, )
#if defined(__x86_64__)
COMPILE_FOR(avx2, AVX2_TARGET)
COMPILE_FOR(avx512vnni, AVX512_TARGET)
#endif

/* Shares out the items among the threads, each of which has so many floats to work with. Returns 0, or -1 where
 * memory ran out. */
static int32_t run(const Pass *pass, int64_t items, int64_t scratch_size, PassWork *const work[INSTRUCTION_SETS]) {
    int32_t failed = 0;
#pragma omp parallel num_threads(pass->threads) reduction(| : failed)
    {
        float *scratch = malloc((size_t)scratch_size * sizeof *scratch);
        if (scratch)
            work[pass->instructions](pass, range_of(items, omp_get_thread_num(), omp_get_num_threads()), scratch);
        failed = !scratch;
        free(scratch);
    }
    return -failed;
}

static int32_t run_elementwise(const Pass *pass, PassWork *const work[INSTRUCTION_SETS]) {
    return run(pass, (pass->columns + ROUND - 1) / ROUND, 2 * ROUND, work);
}

int32_t conjure_gelu(const Pass *pass) { return run_elementwise(pass, VARIANTS(PassWork, gelu_item)); }

int32_t conjure_gelu_backward(const Pass *pass) { return run_elementwise(pass, VARIANTS(PassWork, gelu_backward_item)); }

int32_t conjure_dropout_mask(const Pass *pass) { return run_elementwise(pass, VARIANTS(PassWork, mask_item)); }

int32_t conjure_causal_softmax(const Pass *pass) {
    return run(pass, pass->rows, pass->columns, VARIANTS(PassWork, causal_softmax_row));
}

int32_t conjure_cross_entropy(const Pass *pass) {
    return run(pass, pass->rows, pass->columns, VARIANTS(PassWork, cross_entropy_row));
}
