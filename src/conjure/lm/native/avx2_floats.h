/* Sums of floats for AVX2, whose registers have half of the lanes: each group of lanes is two registers.
 *
 * GCC keeps vectors that are wider than a register in memory, which takes several times as long, so these are written
 * by hand. Invariant: every sum adds the same numbers in the same order as the function without `_avx2`.
 */
#ifndef CONJURE_AVX2_FLOATS_H
#define CONJURE_AVX2_FLOATS_H

#include "attention.h"
#include "products.h"

#if defined(__x86_64__)
enum { HALF = LANES / 2 }; /* floats in a register */

/* ---- products ---- */

/* Weights of one output from input k on; after the last input zeros. */
AVX2_TARGET INLINE void load_weights_avx2(__m256 to[2], const Matrix *m, int64_t output, int64_t k, Format format) {
    int64_t at = output * m->in + k;
    const float *floats = (const float *)m->weights + at;
    Floats last;
    if (k + LANES > m->in) {
        load_weights(&last, m, output, k, false, format);
        floats = (const float *)&last;
    } else if (format == BFLOAT16) {
        for (int half = 0; half < 2; half++) {
            __m128i halves = _mm_loadu_si128((const __m128i *)((const bfloat16 *)m->weights + at) + half);
            to[half] = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
        }
        return;
    }
    for (int half = 0; half < 2; half++) to[half] = _mm256_loadu_ps(floats + half * HALF);
}

/* In the order of `add_lanes`. */
AVX2_TARGET INLINE float add_lanes_avx2(const __m256 x[2]) {
    __m256 eight = _mm256_add_ps(x[0], x[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* One output at a time, for as many rows as there are registers. */
AVX2_TARGET INLINE void multiply_floats_avx2(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                                             float sums[][PANEL], Format format) {
    int64_t first = panel * PANEL, count = at_most(PANEL, m->out - first), bytes = format == FLOAT32 ? 4 : 2;
    const float *values = (const float *)x->values + row * x->stride;
    for (int64_t n = 0; n < count; n++) {
        __m256 parts[MAX_ROWS][2];
        for (int r = 0; r < rows; r++) parts[r][0] = parts[r][1] = _mm256_setzero_ps();
        for (int64_t k = 0; k < m->in; k += LANES) {
            __m256 weights[2];
            load_weights_avx2(weights, m, first + n, k, format);
            fetch_ahead((const char *)m->weights + ((first + n) * m->in + k) * bytes, m->in * bytes); /* the next output */
            for (int r = 0; r < rows; r++)
                for (int half = 0; half < 2; half++) {
                    __m256 activations = _mm256_loadu_ps(values + r * x->stride + k + half * HALF);
                    parts[r][half] = _mm256_fmadd_ps(activations, weights[half], parts[r][half]);
                }
        }
        for (int r = 0; r < rows; r++) sums[r][n] = add_lanes_avx2(parts[r]);
    }
}

AVX2_TARGET INLINE void float32_avx2(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                                     float sums[][PANEL]) {
    multiply_floats_avx2(m, panel, x, row, rows, sums, FLOAT32);
}

AVX2_TARGET INLINE void bfloat16_avx2(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                                      float sums[][PANEL]) {
    multiply_floats_avx2(m, panel, x, row, rows, sums, BFLOAT16);
}

/* ---- attention ---- */

/* One half of the lanes of the two registers' worth of floats that `load_chunk` loads. */
AVX2_TARGET INLINE void load_half_chunk(__m256 to[2], const char *from, int half, Format format) {
    if (format == INT8) {
        __m256i words = _mm256_loadu_si256((const __m256i *)from + half);
        to[0] = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
        to[1] = _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int32_t)0xffff0000u)));
    } else {
        for (int i = 0; i < 2; i++) to[i] = _mm256_loadu_ps((const float *)from + i * LANES + half * HALF);
    }
}

AVX2_TARGET INLINE void score_keys_avx2(const Together *these, int queries, const HeadMemory *memory, int64_t from,
                                        int64_t to, float *scores, Format format) {
    int64_t D = memory->head_size, bytes = bytes_remembered(format), ahead = memory->keys_ahead;
    int halves = queries > 2 ? 1 : 2; /* that go over the keys together: as many as there are registers for */
    for (int64_t block = from / CHUNK * CHUNK; block < to; block += CHUNK)
        for (int first = 0; first < 2; first += halves) {
            __m256 sum[QUERIES][2][2];
            for (int q = 0; q < queries; q++)
                for (int h = 0; h < halves; h++) sum[q][h][0] = sum[q][h][1] = _mm256_setzero_ps();
            for (int64_t d = 0; d < D; d++) {
                const char *chunk = memory->keys + (block * D + d * CHUNK) * bytes;
                if (ahead && first == 0) fetch_ahead(chunk, ahead);
                for (int h = 0; h < halves; h++) {
                    __m256 keys[2];
                    load_half_chunk(keys, chunk, first + h, format);
                    for (int q = 0; q < queries; q++)
                        for (int i = 0; i < 2; i++)
                            sum[q][h][i] = _mm256_fmadd_ps(_mm256_set1_ps(these->query[q][d]), keys[i], sum[q][h][i]);
                }
            }
            for (int q = 0; q < queries; q++)
                for (int h = 0; h < halves; h++)
                    for (int i = 0; i < 2; i++)
                        _mm256_storeu_ps(scores + q * memory->capacity + block + i * LANES + (first + h) * HALF,
                                         sum[q][h][i]);
        }
}

AVX2_TARGET INLINE void mix_values_avx2(const float *weights, int queries, const HeadMemory *memory, int64_t start,
                                        int chunks, int64_t from, int64_t to, float out[][2 * CHUNK], Format format) {
    int64_t padded = round_up(memory->head_size, CHUNK), bytes = bytes_remembered(format), ahead = memory->values_ahead;
    int together = queries > 2 ? 1 : queries == 2 ? 2 : 2 * chunks; /* half chunks, likewise */
    for (int first = 0; first < 2 * chunks; first += together) {
        __m256 sum[QUERIES][4][2];
        for (int q = 0; q < queries; q++)
            for (int h = 0; h < together; h++) sum[q][h][0] = sum[q][h][1] = _mm256_setzero_ps();
        for (int64_t s = from; s < to; s++)
            for (int h = 0; h < together; h++) {
                int part = (first + h) / 2, half = (first + h) % 2;
                const char *chunk = memory->values + (s * padded + start + part * CHUNK) * bytes;
                if (ahead && half == 0) fetch_ahead(chunk, ahead);
                __m256 values[2];
                load_half_chunk(values, chunk, half, format);
                for (int q = 0; q < queries; q++)
                    for (int i = 0; i < 2; i++)
                        sum[q][h][i] = _mm256_fmadd_ps(_mm256_set1_ps(weights[q * memory->capacity + s]), values[i],
                                                       sum[q][h][i]);
            }
        for (int q = 0; q < queries; q++)
            for (int h = 0; h < together; h++)
                for (int i = 0; i < 2; i++)
                    _mm256_storeu_ps(out[q] + (first + h) / 2 * CHUNK + i * LANES + (first + h) % 2 * HALF, sum[q][h][i]);
    }
}
#endif

#endif
