/* The most that this processor's instructions can do: loops that only read, or only multiply.
 *
 * Main entries: `read_bytes` and the `multiply_*` functions, called by ceilings.py once for each thread.
 * Invariants: the operands of a product stay in registers; there are enough independent sums to hide the time
 * that an instruction takes; where the processor lacks an instruction set, its function returns 0.
 */

#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The compiler must take a value for unknown, or it would compute a loop's result without the loop. */
#define UNKNOWN(value) __asm__ volatile("" : "+v"(value))

/* Each `STEP` adds one product to each of `SUMS` sums and counts `SUMS * OPERATIONS` operations. */
#define DEFINE_LOOP(NAME, TARGET, SUPPORTED, TYPE, SUMS, OPERATIONS, STEP)                                     \
    __attribute__((target(TARGET))) static void NAME##_loop(int64_t steps) {                                  \
        TYPE sums[SUMS], left, right;                                                                         \
        memset(&left, 0, sizeof left);                                                                        \
        memset(&right, 0, sizeof right);                                                                      \
        memset(sums, 0, sizeof sums);                                                                         \
        for (int64_t step = 0; step < steps; step++) {                                                        \
            UNKNOWN(left);                                                                                    \
            UNKNOWN(right);                                                                                   \
            _Pragma("GCC unroll 32") for (int place = 0; place < SUMS; place++) { STEP; }                     \
        }                                                                                                     \
        _Pragma("GCC unroll 32") for (int place = 0; place < SUMS; place++) UNKNOWN(sums[place]);             \
    }                                                                                                         \
    double NAME(int64_t steps) {                                                                              \
        if (!(SUPPORTED)) return 0.0;                                                                         \
        NAME##_loop(steps);                                                                                   \
        return (double)steps * SUMS * OPERATIONS;                                                             \
    }

/* One bit of what cpuid's leaf 7 says; `word` counts eax, ebx, ecx, edx. */
static int has(int subleaf, int word, int bit) {
    unsigned words[4];
    if (!__get_cpuid_count(7, subleaf, &words[0], &words[1], &words[2], &words[3])) return 0;
    return words[word] >> bit & 1;
}

static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
static int has_avx512(void) { return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw"); }
static int has_avx512_vnni(void) { return has_avx512() && has(0, 2, 11); }
static int has_avx512_bf16(void) { return has_avx512() && has(1, 0, 5); }

DEFINE_LOOP(multiply_float32_avx2, "avx2,fma", has_avx2(), __m256, 12, 16,
            sums[place] = _mm256_fmadd_ps(left, right, sums[place]))
DEFINE_LOOP(multiply_float32_avx512, "avx512f", has_avx512(), __m512, 24, 32,
            sums[place] = _mm512_fmadd_ps(left, right, sums[place]))
DEFINE_LOOP(multiply_bfloat16_avx512, "avx512f,avx512bf16", has_avx512_bf16(), __m512, 24, 64,
            sums[place] = _mm512_dpbf16_ps(sums[place], (__m512bh)left, (__m512bh)right))
/* Without a product of bytes that adds up four, pairs of int16 are the fastest that loses nothing. */
DEFINE_LOOP(multiply_int8_avx2, "avx2", has_avx2(), __m256i, 12, 32,
            sums[place] = _mm256_add_epi32(sums[place], _mm256_madd_epi16(left, right)))
DEFINE_LOOP(multiply_int8_avx512_vnni, "avx512f,avx512vnni", has_avx512_vnni(), __m512i, 24, 128,
            sums[place] = _mm512_dpbusd_epi32(sums[place], left, right))

/* Tiles: 16 rows of 64 bytes, so 16 x 16 sums of 64 int8 or 32 bfloat16 products each. */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

static int may_use_tiles(void) {
    return has(0, 3, 24) && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

__attribute__((target("amx-tile"))) static void configure_tiles(void) {
    struct { uint8_t palette, start, reserved[14]; uint16_t columns[16]; uint8_t rows[16]; } shape = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shape.columns[tile] = 64;
        shape.rows[tile] = 16;
    }
    _tile_loadconfig(&shape);
    _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
    _tile_zero(4); _tile_zero(5); _tile_zero(6); _tile_zero(7);
}

/* `BIT` of what cpuid says in edx is for `PRODUCT`, of 16 x 16 sums of `LENGTH` products each. */
#define DEFINE_TILE_LOOP(NAME, TARGET, BIT, LENGTH, PRODUCT)                                                   \
    __attribute__((target("amx-tile," TARGET))) double NAME(int64_t steps) {                                  \
        if (!has(0, 3, BIT) || !may_use_tiles()) return 0.0;                                                  \
        configure_tiles();                                                                                    \
        for (int64_t step = 0; step < steps; step++) {                                                        \
            PRODUCT(0, 4, 6);                                                                                 \
            PRODUCT(1, 4, 7);                                                                                 \
            PRODUCT(2, 5, 6);                                                                                 \
            PRODUCT(3, 5, 7);                                                                                 \
        }                                                                                                     \
        _tile_release();                                                                                      \
        return (double)steps * 4 * 2 * 16 * 16 * LENGTH;                                                      \
    }

DEFINE_TILE_LOOP(multiply_int8_amx, "amx-int8", 25, 64, _tile_dpbssd)
DEFINE_TILE_LOOP(multiply_bfloat16_amx, "amx-bf16", 22, 32, _tile_dpbf16ps)

__attribute__((target("avx512f"))) static void read_avx512(const char *start, size_t size) {
    __m512i seen[8];
    memset(seen, 0, sizeof seen);
    for (size_t at = 0; at + sizeof seen <= size; at += sizeof seen)
        _Pragma("GCC unroll 8") for (int place = 0; place < 8; place++)
            seen[place] = _mm512_or_si512(seen[place], _mm512_load_si512(start + at + 64 * place));
    _Pragma("GCC unroll 8") for (int place = 0; place < 8; place++) UNKNOWN(seen[place]);
}

__attribute__((target("avx2"))) static void read_avx2(const char *start, size_t size) {
    __m256i seen[8];
    memset(seen, 0, sizeof seen);
    for (size_t at = 0; at + sizeof seen <= size; at += sizeof seen)
        _Pragma("GCC unroll 8") for (int place = 0; place < 8; place++)
            seen[place] = _mm256_or_si256(seen[place], _mm256_load_si256((const __m256i *)(start + at) + place));
    _Pragma("GCC unroll 8") for (int place = 0; place < 8; place++) UNKNOWN(seen[place]);
}

static int read_with_vectors(const char *start, size_t size) {
    if (has_avx512()) read_avx512(start, size);
    else if (has_avx2()) read_avx2(start, size);
    else return 0;
    return 1;
}

#else

#define DEFINE_ABSENT(NAME) double NAME(int64_t steps) { (void)steps; return 0.0; }
DEFINE_ABSENT(multiply_float32_avx2)
DEFINE_ABSENT(multiply_float32_avx512)
DEFINE_ABSENT(multiply_bfloat16_avx512)
DEFINE_ABSENT(multiply_bfloat16_amx)
DEFINE_ABSENT(multiply_int8_avx2)
DEFINE_ABSENT(multiply_int8_avx512_vnni)
DEFINE_ABSENT(multiply_int8_amx)

static int read_with_vectors(const char *start, size_t size) { (void)start, (void)size; return 0; }

#endif

/* Read `size` bytes from `start`, a multiple of 64, `times` times; what is left of a multiple of 512 is not read. */
void read_bytes(const char *start, size_t size, int64_t times) {
    for (int64_t time = 0; time < times; time++) {
        if (read_with_vectors(start, size)) continue;
        uint64_t seen = 0;
        for (size_t at = 0; at + 8 <= size; at += 8) seen |= *(const uint64_t *)(start + at);
        __asm__ volatile("" : "+r"(seen));
    }
}
