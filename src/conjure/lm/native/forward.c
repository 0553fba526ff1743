/* GPT-2's forward pass: int8 weights times int16 activations, float32 in between, bfloat16 keys and values.
 *
 * Main entry: `conjure_forward`, which reads some new tokens of each row and gives the logits of what follows.
 * One body of code is compiled once per instruction set (see the end), so one build serves every machine; only
 * `multiply_*`, where nearly all time goes, is written by hand for each. Invariant: a row's logits do not
 * depend, in any bit, on the rows beside it, on how its tokens are portioned, or on the number of threads.
 *
 * Every size and pointer is checked in Python (library.py, engine.py); here they are trusted. Only token ids are
 * looked at here, which takes less time than torch needs to begin.
 */
#include "numbers.h"

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ABI_VERSION 4 /* library.py has the same: a library left over from other sources is not used */

enum {
    PANEL = 32,        /* outputs computed together; weights are stored by panel */
    GROUP = 64,        /* inputs for which an output's weights share a scale */
    PAIRS = GROUP / 2, /* inputs are multiplied two at a time */
    LANES = 16,        /* floats in the widest register */
    CHUNK = 32,        /* bfloat16 numbers in it: keys scored together, dimensions of a value added together */
    QUERIES = 4,       /* queries of a row that go over its keys together */
    MAX_ROWS = 8,      /* rows multiplied together, at most */
    SEGMENT = 96,      /* rows whose activations stay in the second-level cache while weights pass by */
    SPINS = 4000,      /* looks for the other threads before yielding the core, some 50 microseconds */
};

enum { DONE, NO_MEMORY, NO_TOKEN }; /* what calls return; engine.py has them in the same order */

/* The weights of one panel for one group of inputs, in the order in which they are multiplied. */
typedef struct {
    bfloat16 scales[PANEL];
    int8_t values[PAIRS][PANEL][2];
} Block;

/* y = x W' + bias. Both sizes are rounded up, to whole panels and groups, and filled with zeros. */
typedef struct {
    const Block *weights; /* [out / PANEL][in / GROUP] */
    const float *bias;    /* [out] */
    int64_t in, out;
} Matrix;

typedef struct {
    const float *gain, *bias;
} Norm;

typedef struct {
    Norm ln_1, ln_2;
    Matrix qkv, proj, fc, fc_proj; /* queries come out of `qkv` already divided by sqrt(D) */
} Layer;

typedef struct {
    int64_t channels, inner, heads, layers, vocab;
    float epsilon;
    const bfloat16 *wte; /* (vocab, channels) */
    const float *wpe;    /* (context, channels) */
    const Layer *layer;
    Norm ln_f;
    Matrix head;             /* less the mean of its rows … */
    const float *head_mean;  /* … which is this, (channels) */
} Model;

/* Some new tokens of each row, which has read `lengths[row]` before. What a row remembers is one piece of memory:
 * per layer first, for each head, keys [capacity / CHUNK][D][CHUNK], then, for each head, values
 * [capacity][D rounded up to CHUNK], both in the order of `place_of`; capacities are multiples of CHUNK. */
typedef struct {
    const int64_t *ids;        /* the new tokens of all rows, one row after the other */
    const int64_t *tokens;     /* (rows) how many each has, at least one */
    const int64_t *lengths;    /* (rows) */
    bfloat16 *const *memory;   /* (rows) */
    const int64_t *capacities; /* (rows) */
    const int64_t *wanted;     /* (outputs) the new tokens, by their places in `ids`, after which logits are wanted */
    int64_t rows, outputs;
    float *logits; /* (outputs, vocab) */
    int32_t threads, instructions;
} Call;

/* ---- threads ----
 *
 * They are OpenMP's, the very ones that torch uses where the same libgomp is loaded: two pools would spin against
 * each other for the same cores, which costs several times what the work does. Only where they meet within a pass
 * is our own: OpenMP's barrier spins for milliseconds, which on a busy machine keeps back the thread waited for.
 */

typedef struct {
    atomic_int arrived, round;
} Barrier;

/* Returns when all `threads` have called it as often. */
static void barrier_wait(Barrier *barrier, int threads) {
    int round = atomic_load(&barrier->round);
    if (atomic_fetch_add(&barrier->arrived, 1) + 1 == threads) {
        atomic_store(&barrier->arrived, 0);
        atomic_store(&barrier->round, round + 1);
        return;
    }
    for (int spin = 0; atomic_load_explicit(&barrier->round, memory_order_acquire) == round; spin++) {
        if (spin >= SPINS) {
            sched_yield();
            continue;
        }
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}
#define BARRIER barrier_wait(job->barrier, threads);

/* ---- numbers ---- */

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));

/* Asks for memory that will be read soon. Processors foresee one steady stream, but not its jumps; without this
 * a step of 16 rows takes half as long again. Beyond the end of an array it does nothing. */
INLINE void fetch_ahead(const void *now, int64_t bytes) {
    __builtin_prefetch((const void *)((uintptr_t)now + (uintptr_t)bytes), 0, 2);
}

/* Keys and values are remembered CHUNK numbers at a time, number i beside number i + LANES: then two plain
 * operations, and no shuffling, make two registers of floats of them. */
INLINE int64_t place_of(int64_t i) { return i / CHUNK * CHUNK + i % LANES * 2 + i / LANES % 2; }

INLINE void widen_chunk(Floats *first, Floats *second, const bfloat16 *from) {
    Words words;
    memcpy(&words, from, sizeof words);
    *first = (Floats)(words << 16);
    *second = (Floats)(words & 0xffff0000u);
}

/* ---- activations as int16 ---- */

typedef struct {
    int16_t *values; /* (rows, stride); zeros up to whole groups */
    float *scales;   /* (rows) */
    int64_t stride;
} Activations;

/* A row that is not all finite gets a scale of NaN, and so do the outputs made of it. */
INLINE void quantise(const float *x, int64_t size, const Activations *to, int64_t row) {
    int16_t *values = to->values + row * to->stride;
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
}

INLINE void layer_norm(const float *x, int64_t size, const Norm *norm, float epsilon, float *y) {
    float sum = 0, squares = 0;
    _Pragma("omp simd reduction(+ : sum)")
    for (int64_t i = 0; i < size; i++) sum += x[i];
    float mean = sum / (float)size;
    _Pragma("omp simd reduction(+ : squares)")
    for (int64_t i = 0; i < size; i++) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(squares / (float)size + epsilon);
    SIMD for (int64_t i = 0; i < size; i++) y[i] = (x[i] - mean) * scale * norm->gain[i] + norm->bias[i];
}

/* ---- matrix products: panels of 32 outputs x a few rows, exact integers within a group ---- */

/* sums[r] = the panel's products with row + r of the activations, still to be multiplied by the row's scale. */
typedef void Multiply(const Block *block, int64_t groups, const Activations *x, int64_t row, int rows,
                      float sums[][PANEL]);

INLINE void multiply_portable(const Block *block, int64_t groups, const Activations *x, int64_t row, int rows,
                              float sums[][PANEL]) {
    memset(sums, 0, (size_t)rows * sizeof sums[0]);
    for (int64_t group = 0; group < groups; group++, block++)
        for (int r = 0; r < rows; r++) {
            const int16_t *values = x->values + (row + r) * x->stride + group * GROUP;
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
    memcpy(&two, x->values + row * x->stride + group * GROUP + 2 * pair, 4);
    return two;
}

AVX2_TARGET INLINE void multiply_avx2(const Block *block, int64_t groups, const Activations *x, int64_t row, int rows,
                                      float sums[][PANEL]) {
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

AVX512_TARGET INLINE void multiply_avx512vnni(const Block *block, int64_t groups, const Activations *x, int64_t row,
                                              int rows, float sums[][PANEL]) {
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

typedef enum { SET, ADD, GELU } Finish;

/* Finishes `count` outputs of one row: sums * scale + bias + shift, and with that what `how` says. */
INLINE void finish(const float *sums, float scale, const float *bias, float shift, int64_t count, Finish how,
                   float *y) {
    if (how == SET) SIMD for (int64_t n = 0; n < count; n++) y[n] = sums[n] * scale + bias[n] + shift;
    if (how == ADD) SIMD for (int64_t n = 0; n < count; n++) y[n] += sums[n] * scale + bias[n] + shift;
    if (how == GELU) SIMD for (int64_t n = 0; n < count; n++) y[n] = gelu(sums[n] * scale + bias[n] + shift);
}

/* With a constant number of rows, at most `most`, the sums stay in registers. */
INLINE void multiply_rows(Multiply *multiply, int most, const Block *block, int64_t groups, const Activations *x,
                          int64_t row, int rows, float sums[][PANEL]) {
#define CASE(n) if (n <= most && rows == n) multiply(block, groups, x, row, n, sums)
    CASE(1); CASE(2); CASE(3); CASE(4); CASE(5); CASE(6); CASE(7); CASE(8);
#undef CASE
}

/* Products of the first `rows` activations with some panels of a matrix, each row with its shift, if any. */
INLINE void multiply_panels(Multiply *multiply, int most, const Matrix *m, const Activations *x, int64_t rows,
                            const float *shifts, Range panels, Finish how, float *y, int64_t stride) {
    int64_t groups = (m->in + GROUP - 1) / GROUP;
    for (int64_t segment = 0; segment < rows; segment += SEGMENT) {
        int64_t end = at_most(rows, segment + SEGMENT);
        for (int64_t panel = panels.from; panel < panels.to; panel++) {
            int64_t n = panel * PANEL, count = at_most(PANEL, m->out - n);
            for (int64_t row = segment; row < end; row += most) {
                float sums[MAX_ROWS][PANEL];
                int together = (int)at_most(most, end - row);
                multiply_rows(multiply, most, m->weights + panel * groups, groups, x, row, together, sums);
                for (int r = 0; r < together; r++)
                    finish(sums[r], x->scales[row + r], m->bias + n, shifts ? shifts[row + r] : 0, count, how,
                           y + (row + r) * stride + n);
            }
        }
    }
}

typedef void Product(const Matrix *m, const Activations *x, int64_t rows, const float *shifts, Range panels,
                     Finish how, float *y, int64_t stride);

/* ---- one forward pass ---- */

typedef struct {
    const Model *model;
    const Call *call;
    Barrier *barrier;
    int64_t *first_position; /* per row: where its new tokens lie in the arrays below; one more entry: how many in all */
    int64_t *work;           /* per row: what attention in the rows before it costs; one more entry: in all */
    float *residual;         /* (positions, channels) */
    float *wide;             /* (positions, wide_stride): queries, keys and values, and later the inner layer */
    float *mixed;            /* (positions, channels) */
    Activations activations;
    float *head_shift; /* (outputs) */
    float *scratch;    /* (threads, scratch_stride): a row of channels, or scores */
    int64_t positions, wide_stride, channel_stride, scratch_stride, head_size;
} Job;

INLINE void embed(const Job *job, int64_t row, Range positions) {
    const Model *model = job->model;
    int64_t first = job->first_position[row];
    for (int64_t position = at_least(positions.from, first);
         position < at_most(positions.to, job->first_position[row + 1]); position++) {
        const bfloat16 *token = model->wte + job->call->ids[position] * model->channels;
        const float *embedding = model->wpe + (job->call->lengths[row] + position - first) * model->channels;
        float *x = job->residual + position * job->channel_stride;
        SIMD for (int64_t c = 0; c < model->channels; c++) x[c] = widen(token[c]) + embedding[c];
    }
}

/* Where a row's keys of one layer and head begin; the head's values begin `values_after` them. */
INLINE bfloat16 *keys_of(const Job *job, int64_t layer, int64_t row, int64_t head) {
    int64_t D = job->head_size, capacity = job->call->capacities[row];
    return job->call->memory[row] + layer * job->model->heads * capacity * (D + round_up(D, CHUNK)) +
           head * capacity * D;
}

INLINE bfloat16 *values_of(const Job *job, int64_t layer, int64_t row, int64_t head) {
    int64_t capacity = job->call->capacities[row];
    return keys_of(job, layer, row, job->model->heads) + head * capacity * round_up(job->head_size, CHUNK);
}

/* Puts one head's new keys and values of one row into its memory. */
INLINE void remember(const Job *job, int64_t row, int64_t head, bfloat16 *keys, bfloat16 *values) {
    int64_t D = job->head_size, padded = round_up(D, CHUNK), C = job->model->channels;
    int64_t first = job->first_position[row];
    for (int64_t position = first; position < job->first_position[row + 1]; position++) {
        int64_t column = job->call->lengths[row] + position - first;
        const float *key = job->wide + position * job->wide_stride + C + head * D, *value = key + C;
        bfloat16 *key_lane = keys + column / CHUNK * CHUNK * D + place_of(column % CHUNK);
        bfloat16 *value_row = values + column * padded;
        for (int64_t start = 0; start < padded; start += CHUNK) {
            bfloat16 narrow_key[CHUNK], narrow_value[CHUNK] = {0}; /* first side by side, for whole registers */
            int64_t count = at_most(CHUNK, D - start);
            SIMD for (int64_t d = 0; d < count; d++) narrow_key[d] = narrow(key[start + d]);
            SIMD for (int64_t d = 0; d < count; d++) narrow_value[d] = narrow(value[start + d]);
            for (int64_t d = 0; d < count; d++) key_lane[(start + d) * CHUNK] = narrow_key[d];
            for (int64_t d = 0; d < CHUNK; d++) value_row[start + place_of(d)] = narrow_value[d];
        }
    }
}

/* scores[q][s] = query q . key s for the blocks of keys that hold columns 0 … to - 1; `ahead` of these
 * keys, in bytes, are those that are read next. */
INLINE void score_keys(const float *query, int64_t stride, int queries, const bfloat16 *keys, int64_t D, int64_t to,
                       float *scores, int64_t capacity, int64_t ahead) {
    for (int64_t block = 0; block < to; block += CHUNK) {
        Floats sum[QUERIES][2];
        memset(sum, 0, sizeof sum);
        for (int64_t d = 0; d < D; d++) {
            Floats first, second;
            const bfloat16 *chunk = keys + block * D + d * CHUNK;
            if (queries == 1) fetch_ahead(chunk, ahead);
            widen_chunk(&first, &second, chunk);
            for (int q = 0; q < queries; q++) {
                sum[q][0] += query[q * stride + d] * first;
                sum[q][1] += query[q * stride + d] * second;
            }
        }
        for (int q = 0; q < queries; q++) memcpy(scores + q * capacity + block, sum[q], sizeof sum[q]);
    }
}

/* Turns scores of columns 0 … to - 1 into e^(score - largest), the rest up to `end` into 0; returns the sum. */
INLINE float softmax(float *scores, int64_t to, int64_t end) {
    float largest = scores[0], sum = 0;
    _Pragma("omp simd reduction(max : largest)")
    for (int64_t s = 0; s < to; s++) largest = scores[s] > largest ? scores[s] : largest;
    _Pragma("omp simd reduction(+ : sum)")
    for (int64_t s = 0; s < to; s++) {
        scores[s] = exponential(scores[s] - largest);
        sum += scores[s];
    }
    for (int64_t s = to; s < end; s++) scores[s] = 0;
    return sum;
}

/* out[q] = sum over columns s of weights[q][s] values[s], for one or two chunks of the head's numbers. */
INLINE void mix_values(const float *weights, int64_t capacity, int queries, const bfloat16 *values, int64_t padded,
                       int chunks, int64_t to, int64_t ahead, float out[][2 * CHUNK]) {
    Floats sum[QUERIES][4];
    memset(sum, 0, sizeof sum);
    for (int64_t s = 0; s < to; s++)
        for (int part = 0; part < chunks; part++) {
            Floats first, second;
            const bfloat16 *chunk = values + s * padded + part * CHUNK;
            if (queries == 1) fetch_ahead(chunk, ahead);
            widen_chunk(&first, &second, chunk);
            for (int q = 0; q < queries; q++) {
                sum[q][2 * part] += weights[q * capacity + s] * first;
                sum[q][2 * part + 1] += weights[q * capacity + s] * second;
            }
        }
    memcpy(out, sum, sizeof sum);
}

/* One head of one row, and how far ahead of its keys and values, in bytes, the next ones to be read lie. */
typedef struct {
    int64_t row, head;
    const bfloat16 *keys, *values;
    int64_t keys_ahead, values_ahead;
} HeadMemory;

/* Attention of `queries` successive new tokens of one row, over what one head remembers. */
INLINE void attend_together(const Job *job, const HeadMemory *memory, int64_t position, int queries, float *scores) {
    int64_t D = job->head_size, padded = round_up(D, CHUNK), row = memory->row, head = memory->head;
    int64_t capacity = job->call->capacities[row];
    int64_t column = job->call->lengths[row] + position - job->first_position[row], to = column + queries;
    float sums[QUERIES], out[QUERIES][2 * CHUNK];
    score_keys(job->wide + position * job->wide_stride + head * D, job->wide_stride, queries, memory->keys, D, to,
               scores, capacity, memory->keys_ahead);
    for (int q = 0; q < queries; q++) sums[q] = softmax(scores + q * capacity, column + q + 1, to);
    for (int64_t start = 0, width; start < padded; start += width) {
        const bfloat16 *values = memory->values + start;
        width = padded - start >= 2 * CHUNK ? 2 * CHUNK : CHUNK;
        if (width == CHUNK)
            mix_values(scores, capacity, queries, values, padded, 1, to, memory->values_ahead, out);
        else
            mix_values(scores, capacity, queries, values, padded, 2, to, memory->values_ahead, out);
        int64_t count = at_most(width, D - start);
        for (int q = 0; q < queries; q++) {
            float *mixed = job->mixed + (position + q) * job->channel_stride + head * D + start;
            SIMD for (int64_t d = 0; d < count; d++) mixed[d] = out[q][d] / sums[q];
        }
    }
}

/* The thread's share of all heads of all rows, which come row by row: shares cost about the same. */
INLINE Range heads_of(const Job *job, int thread, int threads) {
    int64_t heads = job->model->heads, rows = job->call->rows, bounds[2];
    for (int side = 0; side < 2; side++) {
        int64_t cost = job->work[rows] * (thread + side) / threads, row = 0;
        while (row < rows && job->work[row + 1] <= cost) row++;
        bounds[side] = row * heads;
        if (row < rows) bounds[side] += (cost - job->work[row]) * heads / (job->work[row + 1] - job->work[row]);
    }
    return (Range){bounds[0], bounds[1]};
}

INLINE void attend(const Job *job, int64_t layer, Range items, float *scores) {
    int64_t heads = job->model->heads;
    for (int64_t item = items.from; item < items.to; item++) {
        int64_t row = item / heads, head = item % heads, next = at_most(item + 1, items.to - 1);
        bfloat16 *keys = keys_of(job, layer, row, head), *values = values_of(job, layer, row, head);
        HeadMemory memory = {
            row, head, keys, values,
            (intptr_t)keys_of(job, layer, next / heads, next % heads) - (intptr_t)keys,
            (intptr_t)values_of(job, layer, next / heads, next % heads) - (intptr_t)values,
        };
        remember(job, row, head, keys, values);
        int64_t position = job->first_position[row], end = job->first_position[row + 1];
        for (; position + QUERIES <= end; position += QUERIES)
            attend_together(job, &memory, position, QUERIES, scores);
        for (; position < end; position++) attend_together(job, &memory, position, 1, scores);
    }
}

INLINE void norm_positions(const Job *job, const Norm *norm, Range positions, float *row, const Activations *to) {
    for (int64_t position = positions.from; position < positions.to; position++) {
        layer_norm(job->residual + position * job->channel_stride, job->model->channels, norm, job->model->epsilon, row);
        quantise(row, job->model->channels, to, position);
    }
}

INLINE void quantise_positions(const float *x, int64_t stride, int64_t size, Range positions, const Activations *to) {
    for (int64_t position = positions.from; position < positions.to; position++)
        quantise(x + position * stride, size, to, position);
}

/* Activation row o becomes the o-th of the tokens after which logits are wanted. */
INLINE void norm_outputs(const Job *job, Range outputs, float *normed) {
    const Model *model = job->model;
    for (int64_t output = outputs.from; output < outputs.to; output++) {
        int64_t position = job->call->wanted[output];
        layer_norm(job->residual + position * job->channel_stride, model->channels, &model->ln_f, model->epsilon, normed);
        quantise(normed, model->channels, &job->activations, output);
        float shift = 0;
        _Pragma("omp simd reduction(+ : shift)")
        for (int64_t c = 0; c < model->channels; c++) shift += normed[c] * model->head_mean[c];
        job->head_shift[output] = shift;
    }
}

/* What one thread does; the threads meet wherever one needs what another made. Where only one position is computed,
 * every thread makes its activations for itself, which takes less time than barrier once more. */
INLINE void forward(const Job *job, int thread, int threads, Product *product) {
    const Model *model = job->model;
    const int64_t C = model->channels, rows = job->call->rows, positions = job->positions;
    const int64_t outputs = job->call->outputs;
    const bool alone = positions == 1;
    const Range mine = range_of(positions, thread, threads), prepared = alone ? (Range){0, 1} : mine;
    const Range heads = heads_of(job, thread, threads);
    const Activations activations = {
        job->activations.values + (alone ? thread * job->activations.stride : 0),
        job->activations.scales + (alone ? thread : 0),
        job->activations.stride,
    };
    float *scratch = job->scratch + thread * job->scratch_stride;
#define BARRIER_IF_SHARED if (!alone) BARRIER
#define PANELS(matrix) range_of(((matrix).out + PANEL - 1) / PANEL, thread, threads)
#define MULTIPLY(matrix, how, y, stride) \
    product(&(matrix), &activations, positions, NULL, PANELS(matrix), how, y, stride)
    for (int64_t row = 0; row < rows; row++) embed(job, row, mine);
    if (alone) BARRIER
    for (int64_t number = 0; number < model->layers; number++) {
        const Layer *layer = &model->layer[number];
        norm_positions(job, &layer->ln_1, prepared, scratch, &activations);
        BARRIER_IF_SHARED
        MULTIPLY(layer->qkv, SET, job->wide, job->wide_stride);
        BARRIER
        attend(job, number, heads, scratch);
        BARRIER
        quantise_positions(job->mixed, job->channel_stride, C, prepared, &activations);
        BARRIER_IF_SHARED
        MULTIPLY(layer->proj, ADD, job->residual, job->channel_stride);
        BARRIER
        norm_positions(job, &layer->ln_2, prepared, scratch, &activations);
        BARRIER_IF_SHARED
        MULTIPLY(layer->fc, GELU, job->wide, job->wide_stride);
        BARRIER
        quantise_positions(job->wide, job->wide_stride, model->inner, prepared, &activations);
        BARRIER_IF_SHARED
        MULTIPLY(layer->fc_proj, ADD, job->residual, job->channel_stride);
        BARRIER
    }
    if (!outputs) return;
    norm_outputs(job, range_of(outputs, thread, threads), scratch);
    BARRIER
    product(&model->head, &job->activations, outputs, job->head_shift, PANELS(model->head), SET, job->call->logits,
            model->vocab);
#undef MULTIPLY
#undef PANELS
#undef BARRIER_IF_SHARED
}

/* ---- one copy of all that per instruction set ---- */

#define COMPILE_FOR(name, rows, target)                                                                         \
    target __attribute__((noinline)) static void product_##name(                                                \
        const Matrix *m, const Activations *x, int64_t count, const float *shifts, Range panels, Finish how,    \
        float *y, int64_t stride) {                                                                             \
        multiply_panels(multiply_##name, rows, m, x, count, shifts, panels, how, y, stride);                    \
    }                                                                                                           \
    target static void forward_##name(const void *job, int thread, int threads) {                               \
        forward(job, thread, threads, product_##name);                                                          \
    }

COMPILE_FOR(portable, 1, )
#if defined(__x86_64__)
COMPILE_FOR(avx2, 2, AVX2_TARGET)
COMPILE_FOR(avx512vnni, MAX_ROWS, AVX512_TARGET)
#endif

static Work *const compiled[] = {
    [PORTABLE] = forward_portable,
#if defined(__x86_64__)
    [AVX2] = forward_avx2,
    [AVX512VNNI] = forward_avx512vnni,
#endif
};

int32_t conjure_abi(void) { return ABI_VERSION; }

/* The best instructions this processor has. */
int32_t conjure_instructions(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PORTABLE;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide && __builtin_cpu_supports("avx512vnni") ? AVX512VNNI : AVX2;
#else
    return PORTABLE;
#endif
}

/* Hands out pieces of one block of memory; with no block it only counts. */
static void *arena_alloc(char **block, int64_t *used, int64_t bytes) {
    char *piece = *block ? *block + *used : NULL;
    *used += round_up(bytes, 64);
    return piece;
}

static int64_t lay_out(Job *job, char *block) {
    const Model *model = job->model;
    const Call *call = job->call;
    int64_t used = 0, C = model->channels, n = at_least(job->positions, call->outputs), longest = 0;
    for (int64_t row = 0; row < call->rows; row++) longest = at_least(longest, call->capacities[row]);
    int64_t widest = at_least(C, model->inner);
    job->head_size = C / model->heads;
    job->channel_stride = round_up(C, PANEL);
    job->wide_stride = round_up(at_least(3 * C, model->inner), PANEL);
    job->scratch_stride = round_up(at_least(C, QUERIES * longest), LANES);
    job->activations.stride = round_up(widest, GROUP);
    job->first_position = arena_alloc(&block, &used, (call->rows + 1) * 8);
    job->work = arena_alloc(&block, &used, (call->rows + 1) * 8);
    job->residual = arena_alloc(&block, &used, n * job->channel_stride * 4);
    job->wide = arena_alloc(&block, &used, n * job->wide_stride * 4);
    job->mixed = arena_alloc(&block, &used, n * job->channel_stride * 4);
    int64_t prepared = at_least(n, call->threads); /* each thread's own, where there is one position */
    job->activations.values = arena_alloc(&block, &used, prepared * job->activations.stride * 2);
    job->activations.scales = arena_alloc(&block, &used, prepared * 4);
    job->head_shift = arena_alloc(&block, &used, call->outputs * 4);
    job->scratch = arena_alloc(&block, &used, call->threads * job->scratch_stride * 4);
    return used;
}

/* Reads the call's tokens, and writes the logits that follow. */
int32_t conjure_forward(const Model *model, const Call *call) {
    Barrier barrier = {0, 0};
    Job job = {.model = model, .call = call, .barrier = &barrier};
    for (int64_t row = 0; row < call->rows; row++) job.positions += call->tokens[row];
    for (int64_t i = 0; i < job.positions; i++)
        if (call->ids[i] < 0 || call->ids[i] >= model->vocab) return NO_TOKEN;
    char *block = aligned_alloc(64, (size_t)lay_out(&job, NULL));
    if (!block) return NO_MEMORY;
    lay_out(&job, block);
    job.first_position[0] = job.work[0] = 0;
    for (int64_t row = 0; row < call->rows; row++) {
        int64_t tokens = call->tokens[row];
        job.first_position[row + 1] = job.first_position[row] + tokens;
        job.work[row + 1] = job.work[row] + tokens * (call->lengths[row] + tokens / 2 + CHUNK);
    }
    in_threads(compiled[call->instructions], &job, call->threads);
    free(block);
    return DONE;
}
