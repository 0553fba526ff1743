/* Weights from a checkpoint, laid out as the forward pass reads them.
 *
 * Main entry: `conjure_pack`, for one matrix. Invariant: rounding to int8 is that of `round_weight` in
 * lm/generation/engines/int8_quantization.py, to the bit.
 */
#include "model.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { DONE, NO_MEMORY, NO_NUMBER }; /* what calls return; native_weights.py has them in the same order */

enum { STORED_FLOAT32, STORED_BFLOAT16, STORED_FLOAT16 };

/* Some rows of a matrix, as they are stored: element (r, c) is number r * row_stride + c * column_stride. */
typedef struct {
    const void *numbers;
    int64_t rows, row_stride, column_stride;
    int32_t stored;
} Part;

/* One matrix, whose rows are those of the parts, one after the other. */
typedef struct {
    const Part *parts;
    int64_t count, in, out;
    const float *mean; /* a row that is taken off each; NULL where none is */
    void *to;          /* see Matrix */
    int32_t format, threads;
} Packing;

typedef struct {
    const Packing *packing;
    float *rows;    /* (threads, PANEL, in rounded up to groups) */
    atomic_int bad; /* whether a number is NaN or infinite */
    int64_t stride;
} Packer;

static float float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    float magnitude = exponent ? float_of((exponent + 112) << 23 | fraction << 13) : (float)fraction * 0x1p-24f;
    return float_of(sign | bits_of(magnitude));
}

static void read_row(const Part *part, int64_t row, int64_t in, const float *mean, float *to) {
    int64_t at = row * part->row_stride, step = part->column_stride;
    for (int64_t k = 0; k < in; k++, at += step) {
        if (part->stored == STORED_FLOAT32)
            to[k] = ((const float *)part->numbers)[at];
        else if (part->stored == STORED_BFLOAT16)
            to[k] = widen(((const bfloat16 *)part->numbers)[at]);
        else
            to[k] = float_of_half(((const uint16_t *)part->numbers)[at]);
    }
    if (mean)
        for (int64_t k = 0; k < in; k++) to[k] -= mean[k];
}

/* Rows of one panel as float32; returns whether all are finite. Zeros stand where there is none. */
static int read_panel(const Packer *packer, int64_t panel, float *rows) {
    const Packing *packing = packer->packing;
    const Part *part = packing->parts;
    int64_t row = panel * PANEL, filled = 0;
    float wrong = 0;
    memset(rows, 0, (size_t)(PANEL * packer->stride) * sizeof *rows);
    for (; filled < PANEL && panel * PANEL + filled < packing->out; filled++, row++) {
        while (row >= part->rows) row -= part++->rows;
        float *to = rows + filled * packer->stride;
        read_row(part, row, packing->in, packing->mean, to);
        for (int64_t k = 0; k < packing->in; k++) wrong += to[k] * 0.0f;
    }
    return wrong == 0;
}

/* Positive numbers made exact in bfloat16; upwards, so that no weight leaves the range. */
static bfloat16 round_up_scale(float scale) { return (bfloat16)((bits_of(scale) + 0xffff) >> 16); }

static void round_panel(const Packer *packer, int64_t panel, const float *rows) {
    int64_t groups = packer->stride / GROUP;
    Block *blocks = (Block *)packer->packing->to + panel * groups;
    for (int64_t group = 0; group < groups; group++)
        for (int64_t n = 0; n < PANEL; n++) {
            const float *x = rows + n * packer->stride + group * GROUP;
            float largest = 0;
            for (int k = 0; k < GROUP; k++) largest = fabsf(x[k]) > largest ? fabsf(x[k]) : largest;
            bfloat16 scale = round_up_scale(largest / 127.0f);
            float inverse = scale ? 1.0f / widen(scale) : 0.0f;
            blocks[group].scales[n] = scale;
            for (int k = 0; k < GROUP; k++)
                blocks[group].values[k / 2][n][k % 2] = (int8_t)(bits_of(x[k] * inverse + ROUNDER) - bits_of(ROUNDER));
        }
}

static void copy_panel(const Packer *packer, int64_t panel, const float *rows) {
    const Packing *packing = packer->packing;
    for (int64_t n = 0; n < PANEL && panel * PANEL + n < packing->out; n++) {
        const float *x = rows + n * packer->stride;
        int64_t at = (panel * PANEL + n) * packing->in;
        if (packing->format == FLOAT32)
            memcpy((float *)packing->to + at, x, (size_t)packing->in * sizeof *x);
        else
            for (int64_t k = 0; k < packing->in; k++) ((bfloat16 *)packing->to)[at + k] = narrow(x[k]);
    }
}

static void pack(const void *what, int thread, int threads) {
    Packer *packer = (Packer *)what;
    float *rows = packer->rows + thread * PANEL * packer->stride;
    Range panels = range_of((packer->packing->out + PANEL - 1) / PANEL, thread, threads);
    for (int64_t panel = panels.from; panel < panels.to; panel++) {
        if (!read_panel(packer, panel, rows)) atomic_store(&packer->bad, 1);
        if (packer->packing->format == INT8)
            round_panel(packer, panel, rows);
        else
            copy_panel(packer, panel, rows);
    }
}

int32_t conjure_pack(const Packing *packing) {
    Packer packer = {.packing = packing, .stride = round_up(packing->in, GROUP)};
    packer.rows = malloc((size_t)(packing->threads * PANEL * packer.stride) * sizeof *packer.rows);
    if (!packer.rows) return NO_MEMORY;
    in_threads(pack, &packer, packing->threads);
    free(packer.rows);
    return packer.bad ? NO_NUMBER : DONE;
}

/* ---- whether bytes are what they were ---- */

enum { SUMMED = 1 << 20 }; /* bytes with a sum of their own */

/* Sums of some bytes, in blocks of `SUMMED`: a change of one word anywhere in a block changes its sums. */
typedef struct {
    const char *bytes;
    int64_t size;
    uint32_t (*sums)[LANES]; /* one for each block */
    int32_t threads;
} Summing;

static void sum_blocks(const void *what, int thread, int threads) {
    const Summing *summing = what;
    Range blocks = range_of((summing->size + SUMMED - 1) / SUMMED, thread, threads);
    for (int64_t block = blocks.from; block < blocks.to; block++) {
        const char *bytes = summing->bytes + block * SUMMED;
        int64_t size = at_most(SUMMED, summing->size - block * SUMMED);
        uint32_t sums[LANES] = {0}, words[LANES];
        for (int64_t at = 0; at < size; at += sizeof words) {
            int64_t left = at_most(size - at, (int64_t)sizeof words);
            if (left < (int64_t)sizeof words) memset(words, 0, sizeof words);
            memcpy(words, bytes + at, (size_t)left);
            SIMD for (int i = 0; i < LANES; i++) sums[i] = (sums[i] ^ words[i]) * 0x01000193u + 1;
        }
        memcpy(summing->sums[block], sums, sizeof sums);
    }
}

int32_t conjure_sums(const Summing *summing) {
    in_threads(sum_blocks, summing, summing->threads);
    return DONE;
}
