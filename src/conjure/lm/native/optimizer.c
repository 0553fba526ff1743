/* AdamW as one pass over memory, and the sum of squares by which gradients are clipped.
 *
 * A step's gradients, weights and averages are far larger than any cache, so its time is that of reading and writing
 * them: each is read once and written once. Gradients are float32 or bfloat16; all else is computed in float32.
 * Main entries: `conjure_square_sums`, `conjure_adamw`, `conjure_round`. Invariant: no result depends, in any bit, on
 * the number of threads.
 *
 * Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization". Every size and pointer is checked in
 * Python (optimizer.py); here they are trusted.
 */
#include "numbers.h"

#include <omp.h>

enum {
    STRIP = 512,     /* numbers gone over together, in the first-level cache */
    PIECE = 1 << 15, /* numbers that one thread takes at a time, and whose squares have a sum of their own; optimizer.py
                      * makes room for these */
};

/* A parameter and its gradient. The sum of squares needs only gradient, squares, count and bfloat; rounding only
 * master, rounded, count and key. */
typedef struct {
    float *master, *mean, *square_mean; /* [count]; the means are of the gradient and of its square */
    const void *gradient;               /* [count] */
    bfloat16 *rounded;                  /* [count], what the model computes with; NULL where that is `master` */
    double *squares;                    /* [count / PIECE, rounded up] */
    int64_t count;
    uint64_t key;                       /* of the random numbers by which weights are rounded */
    float scale;                        /* of the gradient */
    float keep;                         /* what decay leaves of a weight */
    float rate;                         /* over the first mean's correction */
    float root;                         /* 1 / the square root of the second mean's correction */
    float epsilon;
    float mean_weight, square_weight;   /* of the new number in each mean */
    int32_t bfloat;                     /* the format of `gradient` */
} Update;

typedef struct {
    const Update *updates;
    int64_t count;
    int32_t threads, instructions;
} Step;

/* Up or down at random, to the nearer number more often: the mean of many roundings is what was rounded. To the
 * nearest, a weight would not move until its updates add up to half of the distance between two numbers. */
INLINE void round_strip(const Update *of, int64_t start, int32_t count) {
    const float *master = of->master + start;
    bfloat16 *rounded = of->rounded + start;
    uint64_t key = of->key;
    SIMD for (int32_t i = 0; i < count; i++) {
        uint32_t random = random_word(key, (uint32_t)start + (uint32_t)i) & 0xffff;
        rounded[i] = (bfloat16)((bits_of(master[i]) + random) >> 16);
    }
}

INLINE void round_piece(const Update *of, int64_t from, int64_t to, bool bfloat) {
    (void)bfloat;
    for (int64_t start = from; start < to; start += STRIP)
        round_strip(of, start, (int32_t)at_most(STRIP, to - start));
}

INLINE void update_strip(const Update *of, int64_t start, int32_t count, const float *gradient) {
    float *master = of->master + start, *mean = of->mean + start, *square_mean = of->square_mean + start;
    const Update u = *of; /* or the compiler reads it again after each store */
    SIMD for (int32_t i = 0; i < count; i++) {
        float g = gradient[i] * u.scale;
        float m = mean[i] + (g - mean[i]) * u.mean_weight;
        float v = square_mean[i] + (g * g - square_mean[i]) * u.square_weight;
        mean[i] = m;
        square_mean[i] = v;
        master[i] = master[i] * u.keep - u.rate * m / (sqrtf(v) * u.root + u.epsilon);
    }
    if (u.rounded) round_strip(of, start, count);
}

INLINE void update_piece(const Update *of, int64_t from, int64_t to, bool bfloat) {
    float gradient[STRIP];
    for (int64_t start = from; start < to; start += STRIP) {
        int32_t count = (int32_t)at_most(STRIP, to - start);
        load(of->gradient, start, count, bfloat, gradient);
        update_strip(of, start, count, gradient);
    }
}

INLINE void square_piece(const Update *of, int64_t from, int64_t to, bool bfloat) {
    float gradient[STRIP];
    double sum = 0;
    for (int64_t start = from; start < to; start += STRIP) {
        int32_t count = (int32_t)at_most(STRIP, to - start);
        float of_strip = 0;
        load(of->gradient, start, count, bfloat, gradient);
        _Pragma("omp simd reduction(+ : of_strip)")
        for (int32_t i = 0; i < count; i++) of_strip += gradient[i] * gradient[i];
        sum += of_strip;
    }
    of->squares[from / PIECE] = sum;
}

/* ---- one copy of all that per instruction set and number format ---- */

#define EACH_PIECE(name, instructions, target)                                                              \
    target static void name##_##instructions(const void *what, int thread, int threads) {                   \
        const Step *step = what;                                                                            \
        for (const Update *of = step->updates; of < step->updates + step->count; of++) {                    \
            Range pieces = range_of((of->count + PIECE - 1) / PIECE, thread, threads);                      \
            for (int64_t piece = pieces.from; piece < pieces.to; piece++) {                                 \
                int64_t from = piece * PIECE, to = at_most(from + PIECE, of->count);                        \
                of->bfloat ? name(of, from, to, true) : name(of, from, to, false);                          \
            }                                                                                               \
        }                                                                                                   \
    }
#define COMPILE_FOR(instructions, target)          \
    EACH_PIECE(update_piece, instructions, target) \
    EACH_PIECE(round_piece, instructions, target)  \
    EACH_PIECE(square_piece, instructions, target)

COMPILE_FOR(portable, )
#if defined(__x86_64__)
COMPILE_FOR(avx2, AVX2_TARGET)
COMPILE_FOR(avx512vnni, AVX512_TARGET)
#endif

void conjure_square_sums(const Step *step) {
    in_threads(VARIANTS(Work, square_piece)[step->instructions], step, step->threads);
}

void conjure_round(const Step *step) {
    in_threads(VARIANTS(Work, round_piece)[step->instructions], step, step->threads);
}

void conjure_adamw(const Step *step) {
    in_threads(VARIANTS(Work, update_piece)[step->instructions], step, step->threads);
}
