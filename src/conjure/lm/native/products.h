/* Matrix products: a panel of 32 outputs at a time, for a few rows of activations.
 *
 * int8 weights are multiplied with int16 activations, exact integers within a group; float32 and bfloat16 weights with
 * float32 ones. `int8_*`, where nearly all time goes, are written by hand for each instruction set; for floats see
 * avx2_floats.h. Invariant: an output's bits depend on its row's activations and its weights alone, not on what is
 * computed together.
 */
#ifndef CONJURE_PRODUCTS_H
#define CONJURE_PRODUCTS_H

#include "model.h"

#include <stdbool.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    MAX_ROWS = 8, /* rows multiplied together, at most */
    MAX_TILE = 4, /* outputs with float weights multiplied together, at most */
    SEGMENT = 96, /* rows whose activations stay in the second-level cache while weights pass by */
    TILE_ROWS = 16,
};

/* A group of int16 activations of 16 rows, for tiles: their high and their low bytes. */
typedef struct {
    uint8_t high[TILE_ROWS][GROUP], low[TILE_ROWS][GROUP];
} SplitActivations;

typedef struct {
    void *values;  /* (rows, stride), int16 for int8 weights and else float32; zeros up to whole groups */
    float *scales; /* (rows), of int16 */
    int64_t stride;
    SplitActivations *split; /* (rows / TILE_ROWS, stride / GROUP), the same once more; NULL where no tiles are used */
    void *scratch;           /* the thread's own, with room for a panel of weights as tiles have them */
} Activations;

/* A row's first group; the others follow. */
INLINE SplitActivations *split_of(const Activations *x, int64_t row) {
    return x->split + row / TILE_ROWS * (x->stride / GROUP);
}

INLINE void split_row(const Activations *to, int64_t row, int64_t groups) {
    const uint16_t *values = (const uint16_t *)to->values + row * to->stride;
    SplitActivations *split = split_of(to, row);
    for (int64_t group = 0; group < groups; group++, split++, values += GROUP) {
        uint8_t *high = split->high[row % TILE_ROWS], *low = split->low[row % TILE_ROWS];
        SIMD for (int k = 0; k < GROUP; k++) high[k] = (uint8_t)(values[k] >> 8);
        SIMD for (int k = 0; k < GROUP; k++) low[k] = (uint8_t)values[k];
    }
}

/* A row that is not all finite gets a scale of NaN, and so do the outputs made of it. */
INLINE void quantise(const float *x, int64_t size, const Activations *to, int64_t row) {
    int16_t *values = (int16_t *)to->values + row * to->stride;
    float largest = 0, wrong = 0;
    _Pragma("omp simd reduction(max : largest) reduction(+ : wrong)")
    for (int64_t i = 0; i < size; i++) {
        float magnitude = fabsf(x[i]);
        largest = magnitude > largest ? magnitude : largest;
        wrong += x[i] * 0.0f;
    }
    float inverse = largest > 1e-30f ? 32767.0f / largest : 0.0f;
    SIMD for (int64_t i = 0; i < size; i++)
        values[i] = (int16_t)(bits_of(x[i] * inverse + ROUNDER) - bits_of(ROUNDER));
    for (int64_t i = size; i < round_up(size, GROUP); i++) values[i] = 0;
    to->scales[row] = largest / 32767.0f + wrong;
    if (to->split) split_row(to, row, round_up(size, GROUP) / GROUP);
}

/* Makes a row of activations of some numbers. */
INLINE void prepare(const float *x, int64_t size, const Activations *to, int64_t row, Format format) {
    if (format == INT8) {
        quantise(x, size, to, row);
        return;
    }
    float *values = (float *)to->values + row * to->stride;
    memcpy(values, x, (size_t)size * sizeof *x);
    for (int64_t i = size; i < round_up(size, LANES); i++) values[i] = 0;
}

/* sums[r] = the products of one of a matrix's panels with row + r of the activations, still to be multiplied by the
 * row's scale. */
typedef void Multiply(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                      float sums[][PANEL]);

INLINE void int8_portable(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                               float sums[][PANEL]) {
    int64_t groups = (m->in + GROUP - 1) / GROUP;
    const Block *block = (const Block *)m->weights + panel * groups;
    memset(sums, 0, (size_t)rows * sizeof sums[0]);
    for (int64_t group = 0; group < groups; group++, block++)
        for (int r = 0; r < rows; r++) {
            const int16_t *values = (const int16_t *)x->values + (row + r) * x->stride + group * GROUP;
            int32_t part[PANEL] = {0};
            for (int pair = 0; pair < PAIRS; pair++)
                SIMD for (int n = 0; n < PANEL; n++)
                    part[n] += block->values[pair][n][0] * values[2 * pair] +
                               block->values[pair][n][1] * values[2 * pair + 1];
            SIMD for (int n = 0; n < PANEL; n++) sums[r][n] += (float)part[n] * widen(block->scales[n]);
        }
}

#if defined(__x86_64__)
INLINE int32_t pair_of(const Activations *x, int64_t row, int64_t group, int pair) {
    int32_t two;
    memcpy(&two, (const int16_t *)x->values + row * x->stride + group * GROUP + 2 * pair, 4);
    return two;
}

AVX2_TARGET INLINE void int8_avx2(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                               float sums[][PANEL]) {
    int64_t groups = (m->in + GROUP - 1) / GROUP;
    const Block *block = (const Block *)m->weights + panel * groups;
    memset(sums, 0, (size_t)rows * sizeof sums[0]);
    for (int64_t group = 0; group < groups; group++, block++) {
        __m256i part[MAX_ROWS][4];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < 4; v++) part[r][v] = _mm256_setzero_si256();
        for (int pair = 0; pair < PAIRS; pair++) {
            const __m128i *bytes = (const __m128i *)block->values[pair];
            fetch_ahead(bytes, groups * (int64_t)sizeof(Block)); /* the next panel */
            for (int v = 0; v < 4; v++) {
                __m256i w = _mm256_cvtepi8_epi16(_mm_loadu_si128(bytes + v));
                for (int r = 0; r < rows; r++) {
                    __m256i two = _mm256_set1_epi32(pair_of(x, row + r, group, pair));
                    part[r][v] = _mm256_add_epi32(part[r][v], _mm256_madd_epi16(w, two));
                }
            }
        }
        for (int v = 0; v < 4; v++) {
            __m128i halves = _mm_loadu_si128((const __m128i *)block->scales + v);
            __m256 scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
            for (int r = 0; r < rows; r++) {
                float *sum = sums[r] + 8 * v;
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(_mm256_cvtepi32_ps(part[r][v]), scales, _mm256_loadu_ps(sum)));
            }
        }
    }
}

/* As assembly, because GCC copies every sum to another register and back around the instruction's intrinsic. */
AVX512_TARGET INLINE void add_products(__m512i *sum, __m512i w, __m512i x) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(*sum) : "v"(w), "v"(x));
}

AVX512_TARGET INLINE void int8_avx512vnni(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                               float sums[][PANEL]) {
    int64_t groups = (m->in + GROUP - 1) / GROUP;
    const Block *block = (const Block *)m->weights + panel * groups;
    memset(sums, 0, (size_t)rows * sizeof sums[0]);
    for (int64_t group = 0; group < groups; group++, block++) {
        __m512i part[MAX_ROWS][2];
        for (int r = 0; r < rows; r++) part[r][0] = part[r][1] = _mm512_setzero_si512();
        for (int pair = 0; pair < PAIRS; pair++) {
            const __m256i *bytes = (const __m256i *)block->values[pair];
            fetch_ahead(bytes, groups * (int64_t)sizeof(Block)); /* the next panel */
            __m512i low = _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes));
            __m512i high = _mm512_cvtepi8_epi16(_mm256_loadu_si256(bytes + 1));
            for (int r = 0; r < rows; r++) {
                __m512i two = _mm512_set1_epi32(pair_of(x, row + r, group, pair));
                add_products(&part[r][0], low, two);
                add_products(&part[r][1], high, two);
            }
        }
        for (int v = 0; v < 2; v++) {
            __m256i halves = _mm256_loadu_si256((const __m256i *)block->scales + v);
            __m512 scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
            for (int r = 0; r < rows; r++) {
                float *sum = sums[r] + 16 * v;
                _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_cvtepi32_ps(part[r][v]), scales, _mm512_loadu_ps(sum)));
            }
        }
    }
}
#endif

/* Weights of one output from input k on; after the last input, where there are not `whole` lanes of them, zeros. */
INLINE void load_weights(Floats *to, const Matrix *m, int64_t output, int64_t k, bool whole, Format format) {
    int64_t at = output * m->in + k, left = m->in - k;
    const float *floats = (const float *)m->weights + at;
    const bfloat16 *halves = (const bfloat16 *)m->weights + at;
    if (whole) {
        format == FLOAT32 ? load_lanes(to, floats) : widen_lanes(to, halves);
        return;
    }
    float rest[LANES] = {0};
    for (int64_t i = 0; i < left; i++) rest[i] = format == FLOAT32 ? floats[i] : widen(halves[i]);
    load_lanes(to, rest);
}

/* Outputs x rows that are computed together. */
typedef Floats Tile[MAX_ROWS][MAX_TILE];

INLINE void multiply_lanes(const Matrix *m, int64_t output, int outputs, const float *x, int64_t stride, int rows,
                           int64_t k, bool whole, Format format, Tile parts) {
    int64_t ahead = outputs * m->in * (format == FLOAT32 ? 4 : 2); /* the next tile */
    Floats weights[MAX_TILE];
    for (int o = 0; o < outputs; o++) {
        load_weights(&weights[o], m, output + o, k, whole, format);
        fetch_ahead((const char *)m->weights + ((output + o) * m->in + k) * (format == FLOAT32 ? 4 : 2), ahead);
    }
    for (int r = 0; r < rows; r++) {
        Floats activations;
        load_lanes(&activations, x + r * stride + k);
        for (int o = 0; o < outputs; o++) parts[r][o] += activations * weights[o];
    }
}

/* A tile's sums stay in registers. */
INLINE void multiply_tile(const Matrix *m, int64_t output, int outputs, const float *x, int64_t stride, int rows,
                          Format format, float sums[][PANEL], int64_t column) {
    int64_t k = 0;
    Tile parts;
    for (int r = 0; r < rows; r++)
        for (int o = 0; o < outputs; o++) parts[r][o] = (Floats){0};
    for (; k + LANES <= m->in; k += LANES)
        multiply_lanes(m, output, outputs, x, stride, rows, k, true, format, parts);
    if (k < m->in) multiply_lanes(m, output, outputs, x, stride, rows, k, false, format, parts);
    for (int r = 0; r < rows; r++) {
        if (outputs == 4) add_lanes_of_four(parts[r], &sums[r][column]);
        else for (int o = 0; o < outputs; o++) sums[r][column + o] = add_lanes(&parts[r][o]);
    }
}

INLINE void multiply_floats(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows,
                            float sums[][PANEL], Format format, int tile) {
    const float *values = (const float *)x->values + row * x->stride;
    int64_t first = panel * PANEL, count = at_most(PANEL, m->out - first), column = 0;
    for (; column + tile <= count; column += tile)
        multiply_tile(m, first + column, tile, values, x->stride, rows, format, sums, column);
    for (; column < count; column++)
        multiply_tile(m, first + column, 1, values, x->stride, rows, format, sums, column);
}

INLINE float activate(float x, Activation how) {
    switch (how) {
    case GELU_TANH: return gelu(x);
    case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case RELU: return x < 0 ? 0 : x;
    default: return x / (1.0f + exponential(-x));
    }
}

/* y = activated x, times `factors` where there are any. */
INLINE void activate_row(const float *x, const float *factors, int64_t size, Activation activation, float *y) {
#define CASE(each) case each: SIMD for (int64_t i = 0; i < size; i++) y[i] = activate(x[i], each); break;
    switch (activation) { CASE(GELU_TANH) CASE(GELU) CASE(RELU) CASE(SILU) }
#undef CASE
    if (factors) SIMD for (int64_t i = 0; i < size; i++) y[i] *= factors[i];
}

/* What is done with outputs: they are stored, added to what is there, or stored after the commonest activation. */
typedef enum { SET, ADD, ACTIVATE } Finish;

/* Finishes `count` outputs of one row: sums * scale + bias + shift, and with that what `how` says. */
INLINE void finish(const float *sums, float scale, const float *bias, float shift, int64_t count, Finish how,
                   float *y) {
    if (how == SET) SIMD for (int64_t n = 0; n < count; n++) y[n] = sums[n] * scale + bias[n] + shift;
    if (how == ADD) SIMD for (int64_t n = 0; n < count; n++) y[n] += sums[n] * scale + bias[n] + shift;
    if (how == ACTIVATE) SIMD for (int64_t n = 0; n < count; n++) y[n] = gelu(sums[n] * scale + bias[n] + shift);
}

/* With a constant number of rows, at most `most`, the sums stay in registers. */
INLINE void multiply_rows(Multiply *multiply, int most, const Matrix *m, int64_t panel, const Activations *x,
                          int64_t row, int rows, float sums[][PANEL]) {
#define CASE(n) if (n <= most && rows == n) multiply(m, panel, x, row, n, sums)
    CASE(1); CASE(2); CASE(3); CASE(4); CASE(5); CASE(6); CASE(7); CASE(8);
#undef CASE
}

/* Products of the first `rows` activations with some panels of a matrix, each row with its shift, if any. */
INLINE void multiply_panels(Multiply *multiply, int most, const Matrix *m, const Activations *x, int64_t rows,
                            const float *shifts, Range panels, Finish how, float *y, int64_t stride, Format format) {
    for (int64_t segment = 0; segment < rows; segment += SEGMENT) {
        int64_t end = at_most(rows, segment + SEGMENT);
        for (int64_t panel = panels.from; panel < panels.to; panel++) {
            int64_t n = panel * PANEL, count = at_most(PANEL, m->out - n);
            for (int64_t row = segment; row < end; row += most) {
                float sums[MAX_ROWS][PANEL];
                int together = (int)at_most(most, end - row);
                multiply_rows(multiply, most, m, panel, x, row, together, sums);
                for (int r = 0; r < together; r++)
                    finish(sums[r], format == INT8 ? x->scales[row + r] : 1.0f, m->bias + n,
                           shifts ? shifts[row + r] : 0, count, how, y + (row + r) * stride + n);
            }
        }
    }
}

typedef void Product(const Matrix *m, const Activations *x, int64_t rows, const float *shifts, Range panels,
                     Finish how, float *y, int64_t stride);

#endif
