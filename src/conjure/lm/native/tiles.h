/* A processor's tile registers (AMX), and the instructions on them that products use.
 *
 * There are 8, each of up to 16 rows of 64 bytes. Compiled with CONJURE_EMULATED_TILES, which names another instruction
 * set of this source, they are plain C of the meaning that Intel's manual gives them (Software Developer's Manual,
 * volume 2), and what the manual forbids ends the process. So tests run the very products on any processor. Invariant:
 * a caller has configured the registers in its own thread, and calls keep none of them.
 */
#ifndef CONJURE_TILES_H
#define CONJURE_TILES_H

#include "numbers.h"

#if defined(CONJURE_EMULATED_TILES)
#define HAVE_TILES 1
#elif defined(__x86_64__) && defined(__OPTIMIZE__) && defined(__has_include)
/* GCC's headers and clang's: where one is there, the compiler and its assembler know the instructions. */
#if __has_include(<amxint8intrin.h>) || __has_include(<amxintrin.h>)
#define HAVE_TILES 1
#endif
#endif

#if defined(HAVE_TILES)

/* What "ldtilecfg" reads: in the only palette there is, sizes of each register. */
typedef struct {
    uint8_t palette, first_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

/* Everything but products is done by other instructions: what is called `name`, for those. */
#define JOIN(name, instructions) name##_##instructions
#define JOIN_EXPANDED(name, instructions) JOIN(name, instructions)
#define BESIDE_TILES(name) JOIN_EXPANDED(name, TILES_BASE)

#if !defined(CONJURE_EMULATED_TILES)

#define TILES_BASE avx512vnni
#define BESIDE_TILES_TARGET AVX512_TARGET
#define TILES_TARGET __attribute__((target(AVX512_FEATURES ",amx-tile,amx-int8")))

/* Not the compiler's intrinsics: those of GCC do not say that memory is read, so what was written before may come
 * after. Numbers of registers have to be constants, for which a compiler has to optimize. */
INLINE void tiles_configure(const TileConfig *config) { __asm__ volatile("ldtilecfg %0" : : "m"(*config)); }

INLINE void tiles_release(void) { __asm__ volatile("tilerelease"); }

INLINE void tile_zero(int tile) { __asm__ volatile("tilezero %%tmm%c0" : : "i"(tile)); }

/* Rows that lie `stride` bytes from each other. */
INLINE void tile_load(int tile, const void *from, int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(tile), "r"(from), "r"(stride) : "memory");
}

INLINE void tile_store(int tile, void *to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(tile), "r"(to), "r"(stride) : "memory");
}

/* sums[m][n] += the sum over k and i of a[m][k][i] b[k][n][i], int32 of bytes i < 4; all are signed. */
INLINE void tile_add_signed(int sums, int a, int b) {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(a), "i"(b));
}

/* The same, with unsigned bytes in a. */
INLINE void tile_add_unsigned(int sums, int a, int b) {
    __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(a), "i"(b));
}

#else

#include <stdlib.h>

#define TILES_BASE CONJURE_EMULATED_TILES
#define TARGET_portable
#define TARGET_avx2 AVX2_TARGET
#define TARGET_avx512vnni AVX512_TARGET
#define BESIDE_TILES_TARGET BESIDE_TILES(TARGET)
#define TILES_TARGET BESIDE_TILES_TARGET

static _Thread_local struct {
    TileConfig config;
    uint8_t bytes[8][16][64];
} tiles;

/* What is an invalid opcode, or a general protection fault, in a processor. */
static void tiles_require(bool allowed) {
    if (!allowed) abort();
}

static void tiles_configure(const TileConfig *config) {
    tiles_require(config->palette == 1 && config->first_row == 0);
    for (int tile = 0; tile < 16; tile++) {
        bool used = config->rows[tile] && config->row_bytes[tile];
        tiles_require(used ? tile < 8 : !config->rows[tile] && !config->row_bytes[tile]);
        tiles_require(config->rows[tile] <= 16 && config->row_bytes[tile] <= 64);
    }
    memset(&tiles, 0, sizeof tiles);
    tiles.config = *config;
}

static void tiles_release(void) { memset(&tiles, 0, sizeof tiles); }

static void tile_zero(int tile) {
    tiles_require(tiles.config.palette == 1 && tiles.config.rows[tile]);
    memset(tiles.bytes[tile], 0, sizeof tiles.bytes[tile]);
}

static void tile_load(int tile, const void *from, int64_t stride) {
    tile_zero(tile);
    for (int row = 0; row < tiles.config.rows[tile]; row++)
        memcpy(tiles.bytes[tile][row], (const char *)from + row * stride, tiles.config.row_bytes[tile]);
}

static void tile_store(int tile, void *to, int64_t stride) {
    tiles_require(tiles.config.palette == 1 && tiles.config.rows[tile]);
    for (int row = 0; row < tiles.config.rows[tile]; row++)
        memcpy((char *)to + row * stride, tiles.bytes[tile][row], tiles.config.row_bytes[tile]);
}

static void tile_add(int sums, int a, int b, bool is_signed) {
    const TileConfig *config = &tiles.config;
    int rows = config->rows[sums], depth = config->rows[b], columns = config->row_bytes[sums] / 4;
    tiles_require(config->palette == 1 && sums != a && sums != b && a != b && rows && depth && columns);
    tiles_require(config->rows[a] == rows && config->row_bytes[a] == 4 * depth);
    tiles_require(config->row_bytes[b] == 4 * columns && config->row_bytes[sums] == 4 * columns);
    for (int m = 0; m < rows; m++) {
        uint32_t sum[16]; /* they may overflow, as in the processor */
        memcpy(sum, tiles.bytes[sums][m], sizeof sum);
        for (int k = 0; k < depth; k++)
            for (int n = 0; n < columns; n++)
                for (int i = 0; i < 4; i++) {
                    uint8_t byte = tiles.bytes[a][m][4 * k + i];
                    sum[n] += (uint32_t)((is_signed ? (int8_t)byte : byte) * (int8_t)tiles.bytes[b][k][4 * n + i]);
                }
        memcpy(tiles.bytes[sums][m], sum, sizeof sum);
    }
}

static void tile_add_signed(int sums, int a, int b) { tile_add(sums, a, b, true); }

static void tile_add_unsigned(int sums, int a, int b) { tile_add(sums, a, b, false); }

#endif
#endif
#endif
