/* What all sources stand on: number formats, random numbers, the exponential function, threads, and one body of code
 * for several instruction sets.
 *
 * A function marked INLINE becomes part of each function that calls it, and is compiled for the instructions of
 * that one; see COMPILE_FOR in each source.
 */
#ifndef CONJURE_NUMBERS_H
#define CONJURE_NUMBERS_H

#include <math.h>
#include <omp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* a loop it cannot vectorise is only slower */
#endif

enum { PORTABLE, AVX2, AVX512VNNI, AMX, INSTRUCTION_SETS }; /* library.py has them in the same order */

#define INLINE static inline __attribute__((always_inline))
#define SIMD _Pragma("omp simd")

#if defined(__x86_64__)
#define AVX512_FEATURES "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"
#define AVX2_TARGET __attribute__((target("avx2,fma")))
#define AVX512_TARGET __attribute__((target(AVX512_FEATURES)))
/* A function's copies, in the order above; AMX has instructions for products only. */
#define VARIANTS(type, name) \
    ((type *const[INSTRUCTION_SETS]){name##_portable, name##_avx2, name##_avx512vnni, name##_avx512vnni})
#else
#define VARIANTS(type, name) \
    ((type *const[INSTRUCTION_SETS]){name##_portable, name##_portable, name##_portable, name##_portable})
#endif
/* Every function is looked up in VARIANTS, so that none can lack a copy. */
_Static_assert(INSTRUCTION_SETS == 4, "VARIANTS has as many copies");

typedef uint16_t bfloat16;

INLINE int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

INLINE float widen(bfloat16 x) { return float_of((uint32_t)x << 16); }

/* Rounds to nearest, ties to even. */
INLINE bfloat16 narrow(float x) {
    uint32_t bits = bits_of(x);
    return (bfloat16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Numbers are widened to floats, or narrowed again, in loops that do nothing else: the compiler makes half as
 * good a loop of one that computes as well. */
INLINE void load(const void *from, int64_t start, int32_t count, bool bfloat, float *to) {
    if (bfloat) SIMD for (int32_t i = 0; i < count; i++) to[i] = widen(((const bfloat16 *)from)[start + i]);
    else SIMD for (int32_t i = 0; i < count; i++) to[i] = ((const float *)from)[start + i];
}

INLINE void store(const float *from, int32_t count, bool bfloat, void *to, int64_t start) {
    if (bfloat) SIMD for (int32_t i = 0; i < count; i++) ((bfloat16 *)to)[start + i] = narrow(from[i]);
    else SIMD for (int32_t i = 0; i < count; i++) ((float *)to)[start + i] = from[i];
}

/* 32 random bits that (key, counter) alone decide: two rounds of a multiplicative hash, each of which turns any
 * change of one bit into a change of half of them. */
INLINE uint32_t random_word(uint64_t key, uint32_t counter) {
    uint32_t x = counter ^ (uint32_t)key;
    for (int round = 0; round < 2; round++) {
        x = (x ^ x >> 16) * 0x7feb352du;
        x = (x ^ x >> 15) * 0x846ca68bu;
        x = (x ^ x >> 16) + (uint32_t)(key >> 32);
    }
    return x;
}

/* Adding 1.5 * 2^23 leaves a small number's nearest integer, ties to even, in the lowest bits. */
#define ROUNDER 12582912.0f

/* e^x to 1e-7 of itself; NaN stays NaN. e^x = 2^n e^r with |r| <= ln(2) / 2, and e^r by its Taylor series. */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + ROUNDER;
    float n = shifted - ROUNDER;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln(2) in two parts, the first one exact */
    float series = 1.0f / 5040;
    series = series * r + 1.0f / 720;
    series = series * r + 1.0f / 120;
    series = series * r + 1.0f / 24;
    series = series * r + 1.0f / 6;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    return series * float_of((bits_of(shifted) << 23) + 0x3f800000);
}

/* x / 2 (1 + tanh z) with z = sqrt(2 / pi) (x + 0.044715 x^3), and (1 + tanh z) / 2 = 1 / (1 + e^-2z). */
INLINE float gelu(float x) { return x / (1.0f + exponential(-1.59576912f * (x + 0.044715f * x * x * x))); }

/* -INFINITY where there is none. */
INLINE float largest_of(const float *x, int64_t size) {
    float largest = -INFINITY;
    _Pragma("omp simd reduction(max : largest)")
    for (int64_t i = 0; i < size; i++) largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* x[i] = e^(x[i] - largest); returns their sum. */
INLINE float exponentials(float *x, int64_t size, float largest) {
    float sum = 0;
    _Pragma("omp simd reduction(+ : sum)")
    for (int64_t i = 0; i < size; i++) {
        x[i] = exponential(x[i] - largest);
        sum += x[i];
    }
    return sum;
}

/* A thread's part of some items. */
typedef struct {
    int64_t from, to;
} Range;

INLINE Range range_of(int64_t items, int thread, int threads) {
    return (Range){items * thread / threads, items * (thread + 1) / threads};
}

/* What one of several threads does. */
typedef void Work(const void *what, int thread, int threads);

INLINE void in_threads(Work *work, const void *what, int32_t threads) {
#pragma omp parallel num_threads(threads)
    work(what, omp_get_thread_num(), omp_get_num_threads());
}

#endif
