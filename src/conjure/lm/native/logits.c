/* What choosing a token needs of logits: their sum of exponentials, the largest, and the largest few.
 *
 * Main entries: `conjure_summarise`, `conjure_largest`. Invariant: what is said of a row does not depend, in any
 * bit, on the rows beside it or on the number of threads.
 */
#include "numbers.h"

#include <omp.h>
#include <stdbool.h>
#include <stdlib.h>

enum {
    STRETCH = 1024, /* logits summed up together */
    BLOCK = 64,     /* logits that are passed over together where none is large enough */
};

enum { DONE, NO_MEMORY }; /* what calls return; logits.py has them in the same order */

/* Of logits: what turns them into log-probabilities when it is taken off, and the first of the largest. */
typedef struct {
    const float *logits; /* (rows, vocab) */
    int64_t rows, vocab;
    float *logsumexp; /* (rows) */
    int64_t *argmax;  /* (rows) */
    int32_t threads, instructions;
} Summary;

/* The `count` largest logits of each row, of equal ones those with the lower ids. */
typedef struct {
    const float *logits; /* (rows, vocab) */
    int64_t rows, vocab, count;
    int64_t *ids; /* (rows, count), ascending */
    int32_t threads, instructions;
} Selection;

/* ---- sum and largest ---- */

typedef struct {
    float largest, sum; /* of e^(logit - largest) */
} PartialSum;

typedef struct {
    const Summary *summary;
    PartialSum *partial_sums; /* (rows, per_row) */
    int64_t per_row;
} Summing;

INLINE void summarise(const Summing *summing, int thread, int threads) {
    const Summary *summary = summing->summary;
    Range range = range_of(summary->rows * summing->per_row, thread, threads);
    for (int64_t item = range.from; item < range.to; item++) {
        int64_t start = item % summing->per_row * STRETCH, count = at_most(STRETCH, summary->vocab - start);
        const float *x = summary->logits + item / summing->per_row * summary->vocab + start;
        float largest = largest_of(x, count), sum = 0;
        float base = largest > -INFINITY ? largest : 0; /* with -infinity even forbidden logits would be no number */
        _Pragma("omp simd reduction(+ : sum)")
        for (int64_t i = 0; i < count; i++) sum += exponential(x[i] - base);
        summing->partial_sums[item] = (PartialSum){largest, sum};
    }
}

/* Puts a row's partial sums together, in their order whichever threads they come from. Anything that is no number
 * leaves a logsumexp that is none. */
static void conclude(const Summing *summing, int64_t row) {
    const Summary *summary = summing->summary;
    const PartialSum *partial_sums = summing->partial_sums + row * summing->per_row;
    int64_t best = 0;
    for (int64_t i = 1; i < summing->per_row; i++)
        if (partial_sums[i].largest > partial_sums[best].largest) best = i;
    float largest = partial_sums[best].largest;
    double sum = 0;
    for (int64_t i = 0; i < summing->per_row; i++) sum += partial_sums[i].sum * exp(partial_sums[i].largest - largest);
    summary->logsumexp[row] = (float)(largest + log(sum));
    const float *x = summary->logits + row * summary->vocab;
    int64_t token = best * STRETCH;
    while (token < summary->vocab - 1 && x[token] != largest) token++;
    summary->argmax[row] = token;
}

/* ---- the largest few ---- */

/* A logit and its id as one number: larger for a larger logit, and among equal ones for a lower id. */
INLINE uint64_t ranked(float logit, int64_t id) {
    uint32_t bits = bits_of(logit + 0.0f); /* -0 and 0 are equal */
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)bits << 32 | (0xffffffffu - (uint32_t)id);
}

INLINE float logit_of(uint64_t rank) {
    uint32_t bits = (uint32_t)(rank >> 32);
    return float_of(bits ^ (bits >> 31 ? 0x80000000u : 0xffffffffu));
}

static int descending(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return (first < second) - (first > second);
}

static int ascending_ids(const void *a, const void *b) {
    uint32_t first = (uint32_t)*(const uint64_t *)a, second = (uint32_t)*(const uint64_t *)b;
    return (first < second) - (first > second); /* ids are stored upside down */
}

/* Gathers what may be among the largest in `kept`, 2 * count numbers, and leaves the best of it when it is full. */
INLINE void select_row(const Selection *selection, int64_t row, uint64_t *kept) {
    const float *x = selection->logits + row * selection->vocab;
    int64_t count = selection->count, full = at_most(2 * count, selection->vocab), used = 0;
    while (used < full) {
        kept[used] = ranked(x[used], used);
        used++;
    }
    int64_t next = used;
    float threshold = -INFINITY;
    for (;;) {
        if (used == full || next >= selection->vocab) {
            qsort(kept, (size_t)used, sizeof *kept, descending);
            used = count;
            threshold = logit_of(kept[count - 1]);
        }
        if (next >= selection->vocab) break;
        while (next < selection->vocab && used < full) {
            int64_t block = at_most(BLOCK, selection->vocab - next);
            if (!(largest_of(x + next, block) > threshold)) {
                next += block;
                continue;
            }
            /* Of equal ones the earlier stay, so only larger ones come in. */
            for (int64_t end = next + block; next < end && used < full; next++)
                if (x[next] > threshold) kept[used++] = ranked(x[next], next);
        }
    }
    qsort(kept, (size_t)count, sizeof *kept, ascending_ids);
    for (int64_t i = 0; i < count; i++)
        selection->ids[row * count + i] = (int64_t)(0xffffffffu - (uint32_t)kept[i]);
}

typedef struct {
    const Selection *selection;
    uint64_t *kept; /* (threads, 2 * count) */
} Selecting;

INLINE void select_rows(const Selecting *selecting, int thread, int threads) {
    Range rows = range_of(selecting->selection->rows, thread, threads);
    for (int64_t row = rows.from; row < rows.to; row++)
        select_row(selecting->selection, row, selecting->kept + thread * 2 * selecting->selection->count);
}

/* ---- one copy of all that per instruction set ---- */

#define COMPILE_FOR(name, target)                                                               \
    target static void summarise_##name(const void *summing, int thread, int threads) {         \
        summarise(summing, thread, threads);                                                    \
    }                                                                                           \
    target static void select_rows_##name(const void *selecting, int thread, int threads) {     \
        select_rows(selecting, thread, threads);                                                \
    }

COMPILE_FOR(portable, )
#if defined(__x86_64__)
COMPILE_FOR(avx2, AVX2_TARGET)
COMPILE_FOR(avx512vnni, AVX512_TARGET)
#endif

int32_t conjure_summarise(const Summary *summary) {
    Summing summing = {.summary = summary, .per_row = (summary->vocab + STRETCH - 1) / STRETCH};
    summing.partial_sums = malloc((size_t)(summary->rows * summing.per_row) * sizeof *summing.partial_sums);
    if (!summing.partial_sums) return NO_MEMORY;
    in_threads(VARIANTS(Work, summarise)[summary->instructions], &summing, summary->threads);
    for (int64_t row = 0; row < summary->rows; row++) conclude(&summing, row);
    free(summing.partial_sums);
    return DONE;
}

/* `count` is from 1 to `vocab`, which is below 2^32. */
int32_t conjure_largest(const Selection *selection) {
    Selecting selecting = {.selection = selection};
    selecting.kept = malloc((size_t)(selection->threads * 2 * selection->count) * sizeof *selecting.kept);
    if (!selecting.kept) return NO_MEMORY;
    in_threads(VARIANTS(Work, select_rows)[selection->instructions], &selecting, selection->threads);
    free(selecting.kept);
    return DONE;
}
