/* Registers of floats, as wide as the widest there are. */
#ifndef CONJURE_LANES_H
#define CONJURE_LANES_H

#include "numbers.h"

enum { LANES = 16 }; /* floats in the widest register */

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4)));
typedef bfloat16 Halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint16_t Shorts __attribute__((vector_size(4 * LANES), aligned(2)));

INLINE void load_lanes(Floats *to, const float *from) { memcpy(to, from, sizeof *to); }

INLINE void widen_lanes(Floats *to, const bfloat16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    *to = (Floats)(__builtin_convertvector(halves, Words) << 16);
}

/* In an order that does not depend on the instructions. */
INLINE float add_lanes(const Floats *x) {
    float parts[LANES];
    memcpy(parts, x, sizeof *x);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) parts[i] += parts[i + step];
    return parts[0];
}

/* Elements of two vectors, those of the second counted on; `Numbers` is a vector of as many integers. */
#if defined(__clang__)
#define SELECT(Numbers, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SELECT(Numbers, a, b, ...) __builtin_shuffle(a, b, (Numbers){__VA_ARGS__})
#endif

/* The same sums, bit for bit, of four registers at once, which takes a third of the instructions. */
INLINE void add_lanes_of_four(const Floats *x, float *sums) {
#define LOW_HALVES 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH_HALVES 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
    Floats first = SELECT(Words, x[0], x[1], LOW_HALVES) + SELECT(Words, x[0], x[1], HIGH_HALVES);
    Floats last = SELECT(Words, x[2], x[3], LOW_HALVES) + SELECT(Words, x[2], x[3], HIGH_HALVES);
    Floats all = SELECT(Words, first, last, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +
                 SELECT(Words, first, last, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    all += SELECT(Words, all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += SELECT(Words, all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    for (int i = 0; i < 4; i++) sums[i] = all[4 * i];
#undef LOW_HALVES
#undef HIGH_HALVES
}

/* Asks for memory that will be read soon. Processors foresee one steady stream, but not its jumps; without this
 * a step of 16 rows takes half as long again. Beyond the end of an array it does nothing. */
INLINE void fetch_ahead(const void *now, int64_t bytes) {
    __builtin_prefetch((const void *)((uintptr_t)now + (uintptr_t)bytes), 0, 2);
}

#endif
