/* Products of int8 weights in tiles: a panel of 32 outputs for 16 rows of activations at a time.
 *
 * An int16 activation is 256 times its high byte, signed, plus its low byte, unsigned, and so is a sum over a group: both
 * sums are exact, at most 64 * 128 * 127 and 64 * 255 * 127, and their total is that of the other instructions (it is
 * below 2^28). From there on everything is computed as they do, in the same order. Invariant: what comes out is, to the
 * bit, what `int8_*` of the instructions beside the tiles gives.
 *
 * Weights are kept in the order of the other instructions, for which any other one would be slower or twice the memory. A
 * panel is put in the order of tiles before many rows are multiplied with it, which takes half as long as 16 rows do.
 */
#ifndef CONJURE_TILE_PRODUCTS_H
#define CONJURE_TILE_PRODUCTS_H

#include "products.h"
#include "tiles.h"

#if defined(HAVE_TILES)

enum {
    QUADS = GROUP / 4, /* inputs are multiplied four at a time */
    /* Rows from which on tiles are used. By the count of instructions they win from 4 rows on; but few rows wait for
     * weights from memory, and split bytes and configured tiles cost something. No processor has measured it yet. */
    TILES_FROM = TILE_ROWS,
    /* As SEGMENT; every processor with tiles has 2 MB of second-level cache. Not measured either. */
    TILE_SEGMENT = 12 * TILE_ROWS,
};

/* All 8 registers: the sums of high and low bytes for the panel's two halves; activations; and weights. */
enum { HIGH_LEFT, LOW_LEFT, HIGH_RIGHT, LOW_RIGHT, SUMS, HIGH = SUMS, LOW, LEFT, RIGHT };

typedef uint32_t TileSums[SUMS][TILE_ROWS][LANES];

/* A Block for tiles: four inputs' weights of each output side by side, and in each of two tiles those outputs which one
 * instruction puts so. */
typedef struct {
    float scales[2][LANES];
    Shorts weights[2][QUADS];
} TileBlock;

/* Of every 8 outputs, the first four are left and the last four right. */
INLINE int output_of(int side, int n) { return n / 4 * 8 + side * 4 + n % 4; }

/* sums[output_of(side, n)] = tiled[side][n] */
INLINE void order_outputs(const Floats tiled[2], float sums[PANEL]) {
#define FOUR(n) n, n + 1, n + 2, n + 3
    Floats first = SELECT(Integers, tiled[0], tiled[1], FOUR(0), FOUR(LANES), FOUR(4), FOUR(LANES + 4));
    Floats second = SELECT(Integers, tiled[0], tiled[1], FOUR(8), FOUR(LANES + 8), FOUR(12), FOUR(LANES + 12));
#undef FOUR
    memcpy(sums, &first, sizeof first);
    memcpy(sums + LANES, &second, sizeof second);
}

INLINE void tile_panel(const Block *block, int64_t groups, TileBlock *to) {
    for (int64_t group = 0; group < groups; group++, block++, to++) {
        for (int side = 0; side < 2; side++)
            for (int n = 0; n < LANES; n++) to->scales[side][n] = widen(block->scales[output_of(side, n)]);
        for (int quad = 0; quad < QUADS; quad++) {
            Shorts first, second;
            memcpy(&first, block->values[2 * quad], sizeof first);
            memcpy(&second, block->values[2 * quad + 1], sizeof second);
#define PAIRS_OF(n) n, n + PANEL, n + 1, n + 1 + PANEL, n + 2, n + 2 + PANEL, n + 3, n + 3 + PANEL
#define OUTPUTS_FROM(n) PAIRS_OF(n), PAIRS_OF(n + 8), PAIRS_OF(n + 16), PAIRS_OF(n + 24)
            to->weights[0][quad] = SELECT(Shorts, first, second, OUTPUTS_FROM(0));
            to->weights[1][quad] = SELECT(Shorts, first, second, OUTPUTS_FROM(4));
#undef OUTPUTS_FROM
#undef PAIRS_OF
        }
    }
}

static const TileConfig tile_config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, TILE_ROWS, QUADS, QUADS},
};

INLINE void load_operands(const TileBlock *block, const SplitActivations *x) {
    tile_load(HIGH, x->high, sizeof x->high[0]);
    tile_load(LEFT, block->weights[0], sizeof block->weights[0][0]);
    tile_load(LOW, x->low, sizeof x->low[0]);
    tile_load(RIGHT, block->weights[1], sizeof block->weights[0][0]);
}

INLINE void start_sums(int sums) {
    int activations = sums == HIGH_LEFT || sums == HIGH_RIGHT ? HIGH : LOW;
    int weights = sums == HIGH_LEFT || sums == LOW_LEFT ? LEFT : RIGHT;
    tile_zero(sums);
    if (activations == HIGH)
        tile_add_signed(sums, HIGH, weights);
    else
        tile_add_unsigned(sums, LOW, weights);
}

INLINE void store_sums(int sums, TileSums to) { tile_store(sums, to[sums], sizeof to[sums][0]); }

/* Adds sums over a group, multiplied by its scales. */
INLINE void add_scaled(Floats sums[TILE_ROWS][2], TileSums parts, const float scales[2][LANES]) {
    Floats scale[2];
    for (int side = 0; side < 2; side++) load_lanes(&scale[side], scales[side]);
    _Pragma("GCC unroll 16")
    for (int r = 0; r < TILE_ROWS; r++)
        for (int side = 0; side < 2; side++) {
            Words high, low;
            memcpy(&high, parts[HIGH_LEFT + 2 * side][r], sizeof high);
            memcpy(&low, parts[LOW_LEFT + 2 * side][r], sizeof low);
            sums[r][side] += __builtin_convertvector((Integers)((high << 8) + low), Floats) * scale[side];
        }
}

/* Asks for all cache lines of a block, which need not begin with one. */
INLINE void fetch_block(const Block *block) {
    for (int64_t at = 0; at < (int64_t)sizeof *block; at += 64) fetch_ahead(block, at);
}

/* The products of a panel with 16 rows, while `next` is fetched, if any. Each sum is stored, and started for the next
 * group, before those of this one are scaled, so that the tile unit works meanwhile. */
INLINE void multiply_split(const TileBlock *block, int64_t groups, const SplitActivations *x, const Block *next,
                           float sums[TILE_ROWS][PANEL]) {
    TileSums parts __attribute__((aligned(64)));
    Floats total[TILE_ROWS][2];
    _Pragma("GCC unroll 16")
    for (int r = 0; r < TILE_ROWS; r++) total[r][0] = total[r][1] = (Floats){0};
    load_operands(block, x);
    start_sums(HIGH_LEFT), start_sums(LOW_LEFT), start_sums(HIGH_RIGHT), start_sums(LOW_RIGHT);
    for (int64_t group = 1; group < groups; group++, block++) {
        load_operands(block + 1, ++x);
        store_sums(HIGH_LEFT, parts), start_sums(HIGH_LEFT);
        store_sums(LOW_LEFT, parts), start_sums(LOW_LEFT);
        store_sums(HIGH_RIGHT, parts), start_sums(HIGH_RIGHT);
        store_sums(LOW_RIGHT, parts), start_sums(LOW_RIGHT);
        if (next) fetch_block(next++);
        add_scaled(total, parts, block->scales);
    }
    store_sums(HIGH_LEFT, parts), store_sums(LOW_LEFT, parts);
    store_sums(HIGH_RIGHT, parts), store_sums(LOW_RIGHT, parts);
    if (next) fetch_block(next);
    add_scaled(total, parts, block->scales);
    _Pragma("GCC unroll 16")
    for (int r = 0; r < TILE_ROWS; r++) order_outputs(total[r], sums[r]);
}

/* As `multiply_panels`. Rows are multiplied 16 at a time; where fewer are left, the others are whatever was there, and
 * nothing reads what comes of them. */
INLINE void multiply_panels_in_tiles(const Matrix *m, const Activations *x, int64_t rows, const float *shifts,
                                     Range panels, Finish how, float *y, int64_t stride) {
    int64_t groups = (m->in + GROUP - 1) / GROUP;
    tiles_configure(&tile_config);
    for (int64_t segment = 0; segment < rows; segment += TILE_SEGMENT) {
        int64_t end = at_most(rows, segment + TILE_SEGMENT);
        for (int64_t panel = panels.from; panel < panels.to; panel++) {
            const Block *block = (const Block *)m->weights + panel * groups;
            int64_t n = panel * PANEL, count = at_most(PANEL, m->out - n);
            tile_panel(block, groups, x->scratch);
            for (int64_t row = segment; row < end; row += TILE_ROWS) {
                float sums[TILE_ROWS][PANEL];
                multiply_split(x->scratch, groups, split_of(x, row), row == segment ? block + groups : NULL, sums);
                for (int64_t r = 0; r < at_most(TILE_ROWS, end - row); r++)
                    finish(sums[r], x->scales[row + r], m->bias + n, shifts ? shifts[row + r] : 0, count, how,
                           y + (row + r) * stride + n);
            }
        }
    }
    tiles_release();
}

#endif
#endif
