/* A decoder's forward pass over some new tokens of each row.
 *
 * Main entry: `conjure_forward`, which reads them and gives the logits of what follows. The parts are in products.h
 * and attention.h; here is what is done with them, and in which order. One body of code is compiled once per
 * instruction set, and products and attention once more per number format (see the end), so one build serves every
 * machine. Invariant: a row's logits do not depend, in any bit, on the rows beside it, on how its tokens are portioned,
 * or on the number of threads.
 */
#include "attention.h"
#include "avx2_floats.h"
#include "model.h"
#include "tile_products.h"

#if defined(HAVE_TILES) && !defined(CONJURE_EMULATED_TILES)
#include <cpuid.h>
#endif
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ABI_VERSION 8 /* library.py has the same: a library left over from other sources is not used */

enum { SPINS = 4000 }; /* looks for the other threads before sleeping, some 50 microseconds */

enum { DONE, NO_MEMORY, NO_TOKEN }; /* what calls return; native.py has them in the same order */

/* ---- threads ----
 *
 * They are OpenMP's, the very ones that torch uses where the same libgomp is loaded: two pools would spin against
 * each other for the same cores, which costs several times what the work does. Only where they meet within a pass
 * is our own: OpenMP's barrier spins for milliseconds, which on a busy machine keeps back the thread waited for.
 */

typedef struct {
    atomic_int arrived, round, sleeping;
} Barrier;

/* Returns when all `threads` have called it as often. One that waits for long sleeps: where other programs want the
 * cores, yielding would give them whole slices of time, while a thread that is woken goes on at once. */
static void barrier_wait(Barrier *barrier, int threads) {
    int round = atomic_load(&barrier->round);
    if (atomic_fetch_add(&barrier->arrived, 1) + 1 == threads) {
        atomic_store(&barrier->arrived, 0);
        atomic_store(&barrier->round, round + 1);
        if (atomic_load(&barrier->sleeping)) syscall(SYS_futex, &barrier->round, FUTEX_WAKE_PRIVATE, threads);
        return;
    }
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&barrier->round, memory_order_acquire) != round) return;
#if defined(__x86_64__)
        _mm_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
    atomic_fetch_add(&barrier->sleeping, 1);
    while (atomic_load(&barrier->round) == round)
        syscall(SYS_futex, &barrier->round, FUTEX_WAIT_PRIVATE, round, NULL);
    atomic_fetch_sub(&barrier->sleeping, 1);
}
#define BARRIER barrier_wait(job->barrier, threads);

enum {
    PIECES = 4,      /* of a thread's share; others take them over where another program keeps the thread back */
    MOST_ITEMS = 16, /* in a piece */
};

/* Gives a thread the next of some items to work on: a piece of its own share or, where none is left, of another's.
 * `taken` counts, for each thread's share, the pieces that somebody has begun. */
INLINE bool next_piece(atomic_int *taken, int64_t items, int thread, int threads, Range *next) {
    for (int turn = 0; turn < threads; turn++) {
        int owner = (thread + turn) % threads;
        Range share = range_of(items, owner, threads);
        int64_t size = at_least(1, at_most(MOST_ITEMS, (share.to - share.from) / PIECES));
        if (share.from + atomic_load_explicit(&taken[owner], memory_order_relaxed) * size >= share.to) continue;
        int64_t from = share.from + atomic_fetch_add_explicit(&taken[owner], 1, memory_order_relaxed) * size;
        if (from >= share.to) continue;
        *next = (Range){from, at_most(from + size, share.to)};
        return true;
    }
    return false;
}

/* ---- one forward pass ---- */

typedef struct Job Job;

/* Attention of some pieces of a layer's heads. */
typedef void Attend(const Job *job, int64_t layer, Range items, float *scores);

struct Job {
    const Model *model;
    const Call *call;
    Product *product; /* both for the call's instructions and the model's format */
    Attend *attend;
    Barrier *barrier;
    atomic_int *taken;       /* (products and attentions, threads), see `next_piece` */
    int64_t *first_position; /* per row: where its new tokens lie in the arrays below; one more entry: how many in all */
    int64_t *work;           /* per row: what attention in the rows before it costs; one more entry: in all */
    float *residual;         /* (positions, channel_stride) */
    float *branch;           /* likewise: what attention or the feed-forward layer gives, where it is not added at once */
    float *wide;             /* (positions, wide_stride): queries, keys and values, and later the inner layer */
    float *mixed;            /* (positions, mixed_stride): all heads' values, mixed */
    float *rotations;        /* (positions, rotation_stride): for each rope, cosines, then sines */
    Activations activations;
    float *head_shift; /* (outputs) */
    float *scratch;    /* (threads, scratch_stride): a row of channels, scores, or a panel of weights for tiles */
    int64_t positions, wide_stride, channel_stride, mixed_stride, rotation_stride, scratch_stride;
};

INLINE float *residual_of(const Job *job, int64_t position) { return job->residual + position * job->channel_stride; }

INLINE float *wide_of(const Job *job, int64_t position) { return job->wide + position * job->wide_stride; }

/* y may be x. */
INLINE void norm_row(const Model *model, const float *x, int64_t size, const Norm *norm, float *y) {
    float sum = 0, squares = 0, mean = 0;
    if (model->norm == LAYER) {
        _Pragma("omp simd reduction(+ : sum)")
        for (int64_t i = 0; i < size; i++) sum += x[i];
        mean = sum / (float)size;
    }
    _Pragma("omp simd reduction(+ : squares)")
    for (int64_t i = 0; i < size; i++) squares += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(squares / (float)size + model->epsilon);
    if (norm->bias)
        SIMD for (int64_t i = 0; i < size; i++) y[i] = (x[i] - mean) * scale * norm->gain[i] + norm->bias[i];
    else
        SIMD for (int64_t i = 0; i < size; i++) y[i] = (x[i] - mean) * scale * norm->gain[i];
}

INLINE void embed_token(const Job *job, int64_t position, int64_t column, Format format) {
    const Model *model = job->model;
    int64_t C = model->channels, id = job->call->ids[position];
    float *x = residual_of(job, position), scale = model->embedding_scale;
    if (format == FLOAT32) {
        const float *token = (const float *)model->embedding + id * C;
        SIMD for (int64_t c = 0; c < C; c++) x[c] = token[c] * scale;
    } else {
        const bfloat16 *token = (const bfloat16 *)model->embedding + id * C;
        SIMD for (int64_t c = 0; c < C; c++) x[c] = widen(token[c]) * scale;
    }
    if (model->positions) {
        const float *embedding = model->positions + column * C;
        SIMD for (int64_t c = 0; c < C; c++) x[c] += embedding[c];
    }
}

INLINE void find_rotations(const Job *job, int64_t position, int64_t column) {
    float *rotations = job->rotations + position * job->rotation_stride;
    for (int64_t number = 0; number < job->model->ropes; number++) {
        const Rope *rope = &job->model->rope[number];
        for (int64_t i = 0; i < rope->pairs; i++) {
            float angle = (float)column * rope->frequencies[i];
            rotations[i] = cosf(angle) * rope->factor;
            rotations[rope->pairs + i] = sinf(angle) * rope->factor;
        }
        rotations += 2 * rope->pairs;
    }
}

INLINE void embed(const Job *job, int64_t row, Range positions, Format format) {
    int64_t first = job->first_position[row];
    for (int64_t position = at_least(positions.from, first);
         position < at_most(positions.to, job->first_position[row + 1]); position++) {
        int64_t column = job->call->lengths[row] + position - first;
        embed_token(job, position, column, format);
        find_rotations(job, position, column);
    }
}

INLINE void rotate(const Job *job, const Layer *layer, int64_t position, float *x) {
    if (layer->rope < 0) return;
    const float *rotations = job->rotations + position * job->rotation_stride;
    const Rope *rope = job->model->rope;
    for (int64_t number = 0; number < layer->rope; number++) rotations += 2 * rope++->pairs;
    int64_t pairs = rope->pairs;
    for (int64_t i = 0; i < pairs; i++) {
        float first = x[i], second = x[pairs + i], cosine = rotations[i], sine = rotations[pairs + i];
        x[i] = first * cosine - second * sine;
        x[pairs + i] = second * cosine + first * sine;
    }
}

/* Where a row's memory of one layer and head of keys and values is. */
INLINE HeadMemory memory_of(const Job *job, int64_t layer, int64_t row, int64_t head, Format format) {
    int64_t D = job->model->head_size, heads = job->model->kv_heads, capacity = job->call->capacities[row];
    int64_t bytes = bytes_remembered(format), key_bytes = capacity * D * bytes;
    int64_t value_bytes = capacity * round_up(D, CHUNK) * bytes;
    char *start = job->call->memory[row] + layer * heads * (key_bytes + value_bytes);
    return (HeadMemory){start + head * key_bytes, start + heads * key_bytes + head * value_bytes, D, capacity, 0, 0};
}

/* Finishes one head's queries, keys and values of a row's new tokens, and remembers the latter two. */
INLINE void begin_head(const Job *job, const Layer *layer, int64_t row, int64_t head, const HeadMemory *memory,
                       Format format) {
    const Model *model = job->model;
    int64_t D = model->head_size, group = model->heads / model->kv_heads, first = job->first_position[row];
    for (int64_t position = first; position < job->first_position[row + 1]; position++) {
        float *query = wide_of(job, position) + head * group * D;
        float *key = wide_of(job, position) + (model->heads + head) * D, *value = key + model->kv_heads * D;
        for (int64_t g = 0; g < group; g++, query += D) {
            if (layer->query_norm.gain) norm_row(model, query, D, &layer->query_norm, query);
            rotate(job, layer, position, query);
            SIMD for (int64_t d = 0; d < D; d++) query[d] *= layer->score_scale;
        }
        if (layer->key_norm.gain) norm_row(model, key, D, &layer->key_norm, key);
        rotate(job, layer, position, key);
        remember(memory, job->call->lengths[row] + position - first, key, value, format);
    }
}

/* The queries from number `first` on, of those that go to one head: token by token, those of one token together. */
INLINE Together queries_of(const Job *job, const Layer *layer, int64_t row, int64_t head, int64_t first, int queries) {
    const Model *model = job->model;
    int64_t D = model->head_size, group = model->heads / model->kv_heads;
    Together these;
    for (int q = 0; q < queries; q++) {
        int64_t token = (first + q) / group, position = job->first_position[row] + token;
        int64_t channel = (head * group + (first + q) % group) * D;
        these.query[q] = wide_of(job, position) + channel;
        these.result[q] = job->mixed + position * job->mixed_stride + channel;
        these.to[q] = job->call->lengths[row] + token + 1;
        these.from[q] = layer->window ? at_least(0, these.to[q] - layer->window) : 0;
    }
    return these;
}

/* Some of `pieces` pieces of all heads of keys and values of all rows, row by row: pieces cost about the same. */
INLINE Range heads_of(const Job *job, Range these, int64_t pieces) {
    int64_t heads = job->model->kv_heads, rows = job->call->rows, bounds[2];
    for (int side = 0; side < 2; side++) {
        int64_t cost = job->work[rows] * (side ? these.to : these.from) / pieces, row = 0;
        while (row < rows && job->work[row + 1] <= cost) row++;
        bounds[side] = row * heads;
        if (row < rows) bounds[side] += (cost - job->work[row]) * heads / (job->work[row + 1] - job->work[row]);
    }
    return (Range){bounds[0], bounds[1]};
}

INLINE void attend(const Job *job, int64_t number, Range items, float *scores, ScoreKeys *score, MixValues *mix,
                   Format format) {
    const Layer *layer = &job->model->layer[number];
    int64_t heads = job->model->kv_heads, group = job->model->heads / heads;
    for (int64_t item = items.from; item < items.to; item++) {
        int64_t row = item / heads, head = item % heads, next = at_most(item + 1, items.to - 1);
        int64_t queries = job->call->tokens[row] * group;
        HeadMemory memory = memory_of(job, number, row, head, format);
        if (job->call->tokens[row] == 1) { /* each key is read but once or twice, so memory is what takes the time */
            HeadMemory ahead = memory_of(job, number, next / heads, next % heads, format);
            memory.keys_ahead = (intptr_t)ahead.keys - (intptr_t)memory.keys;
            memory.values_ahead = (intptr_t)ahead.values - (intptr_t)memory.values;
        }
        begin_head(job, layer, row, head, &memory, format);
        for (int64_t first = 0; first < queries; first += QUERIES) {
            int together = (int)at_most(QUERIES, queries - first);
            Together these = queries_of(job, layer, row, head, first, together);
#define CASE(n) if (together == n) attend_together(&these, n, &memory, scores, score, mix, format)
            CASE(1); CASE(2); CASE(3); CASE(4);
#undef CASE
        }
    }
}

INLINE void norm_positions(const Job *job, const Norm *norm, Range positions, float *normed, const Activations *to,
                           Format format) {
    for (int64_t position = positions.from; position < positions.to; position++) {
        norm_row(job->model, residual_of(job, position), job->model->channels, norm, normed);
        prepare(normed, job->model->channels, to, position, format);
    }
}

INLINE void prepare_mixed(const Job *job, Range positions, const Activations *to, Format format) {
    for (int64_t position = positions.from; position < positions.to; position++)
        prepare(job->mixed + position * job->mixed_stride, job->model->heads * job->model->head_size, to, position,
                format);
}

/* Whether the product before does that already. */
INLINE bool activates_at_once(const Model *model) { return !model->gated && model->activation == GELU_TANH; }

INLINE void prepare_inner(const Job *job, Range positions, float *activated, const Activations *to, Format format) {
    const Model *model = job->model;
    int64_t F = model->inner;
    for (int64_t position = positions.from; position < positions.to; position++) {
        const float *inner = wide_of(job, position), *factors = model->gated ? inner + F : NULL;
        if (!activates_at_once(model)) {
            activate_row(inner, factors, F, (Activation)model->activation, activated);
            inner = activated;
        }
        prepare(inner, F, to, position, format);
    }
}

/* Adds what a branch gave, where it was kept apart. */
INLINE void add_branch(const Job *job, const Norm *norm, Range positions, float *normed) {
    for (int64_t position = positions.from; position < positions.to; position++) {
        float *x = residual_of(job, position), *branch = job->branch + position * job->channel_stride;
        if (norm->gain) {
            norm_row(job->model, branch, job->model->channels, norm, normed);
            branch = normed;
        }
        SIMD for (int64_t c = 0; c < job->model->channels; c++) x[c] += branch[c];
    }
}

/* Activation row o becomes the o-th of the tokens after which logits are wanted. */
INLINE void norm_outputs(const Job *job, Range outputs, float *normed, Format format) {
    const Model *model = job->model;
    for (int64_t output = outputs.from; output < outputs.to; output++) {
        norm_row(model, residual_of(job, job->call->wanted[output]), model->channels, &model->final_norm, normed);
        prepare(normed, model->channels, &job->activations, output, format);
        float shift = 0;
        if (model->head_mean) {
            _Pragma("omp simd reduction(+ : shift)")
            for (int64_t c = 0; c < model->channels; c++) shift += normed[c] * model->head_mean[c];
        }
        job->head_shift[output] = shift;
    }
}

/* What one thread does; the threads meet wherever one needs what another made. Where only one position is computed,
 * every thread makes its activations for itself, which takes less time than meeting once more. */
INLINE void forward(const Job *job, int thread, int threads) {
    const Model *model = job->model;
    const Format format = (Format)model->format;
    const int64_t rows = job->call->rows, positions = job->positions, outputs = job->call->outputs;
    const bool alone = positions == 1;
    const bool sandwich = model->residual == SANDWICH, parallel = model->residual == PARALLEL;
    const Range mine = range_of(positions, thread, threads), prepared = alone ? (Range){0, 1} : mine;
    const int64_t attentions = PIECES * threads;
    atomic_int *taken = job->taken;
    Range piece;
    float *scratch = job->scratch + thread * job->scratch_stride;
    const Activations activations = {
        (char *)job->activations.values + (alone ? thread * job->activations.stride * (format == INT8 ? 2 : 4) : 0),
        job->activations.scales + (alone ? thread : 0),
        job->activations.stride,
        job->activations.split,
        scratch,
    };
#define BARRIER_IF_SHARED if (!alone) BARRIER
#define IN_PIECES(items) for (; next_piece(taken, items, thread, threads, &piece);)
#define PANELS(matrix) (((matrix).out + PANEL - 1) / PANEL)
#define MULTIPLY(matrix, how, y, stride)                                                                \
    IN_PIECES(PANELS(matrix)) job->product(&(matrix), &activations, positions, NULL, piece, how, y, stride); \
    taken += threads
    for (int64_t row = 0; row < rows; row++) embed(job, row, mine, format);
    if (alone) BARRIER
    for (int64_t number = 0; number < model->layers; number++) {
        const Layer *layer = &model->layer[number];
        norm_positions(job, &layer->attention_norm, prepared, scratch, &activations, format);
        BARRIER_IF_SHARED
        MULTIPLY(layer->qkv, SET, job->wide, job->wide_stride);
        BARRIER
        IN_PIECES(attentions) job->attend(job, number, heads_of(job, piece, attentions), scratch);
        taken += threads;
        BARRIER
        prepare_mixed(job, prepared, &activations, format);
        BARRIER_IF_SHARED
        if (sandwich || parallel) {
            MULTIPLY(layer->out, SET, job->branch, job->channel_stride);
        } else {
            MULTIPLY(layer->out, ADD, job->residual, job->channel_stride);
        }
        BARRIER
        if (sandwich) {
            add_branch(job, &layer->attention_post_norm, mine, scratch);
            BARRIER
        }
        norm_positions(job, &layer->mlp_norm, prepared, scratch, &activations, format);
        BARRIER_IF_SHARED
        MULTIPLY(layer->up, activates_at_once(model) ? ACTIVATE : SET, job->wide, job->wide_stride);
        BARRIER
        prepare_inner(job, prepared, scratch, &activations, format);
        BARRIER_IF_SHARED
        if (sandwich || parallel) {
            MULTIPLY(layer->down, parallel ? ADD : SET, job->branch, job->channel_stride);
        } else {
            MULTIPLY(layer->down, ADD, job->residual, job->channel_stride);
        }
        BARRIER
        if (sandwich || parallel) {
            add_branch(job, &layer->mlp_post_norm, mine, scratch);
            BARRIER
        }
    }
    if (!outputs) return;
    norm_outputs(job, range_of(outputs, thread, threads), scratch, format);
    BARRIER
    Activations normed = job->activations;
    normed.scratch = scratch;
    IN_PIECES(PANELS(model->head))
        job->product(&model->head, &normed, outputs, job->head_shift, piece, SET, job->call->logits, model->vocab);
#undef MULTIPLY
#undef PANELS
#undef IN_PIECES
#undef BARRIER_IF_SHARED
}

/* ---- one copy of all that per instruction set, and of what takes the time per number format ---- */

#define COMPILE_ATTENTION(name, format, kind, lanes, target)                                                    \
    target __attribute__((noinline)) static void attend_##kind##_##name(const Job *job, int64_t layer, Range items, \
                                                                        float *scores) {                        \
        attend(job, layer, items, scores, score_keys##lanes, mix_values##lanes, format);                        \
    }

#define COMPILE_PRODUCT(name, format, kind, most, target)                                                       \
    target __attribute__((noinline)) static void product_##kind##_##name(                                       \
        const Matrix *m, const Activations *x, int64_t count, const float *shifts, Range panels, Finish how,    \
        float *y, int64_t stride) {                                                                             \
        multiply_panels(kind##_##name, most, m, x, count, shifts, panels, how, y, stride, format);              \
    }

#define FLOATS_IN_LANES(name, kind, format, tile, target)                                                       \
    target INLINE void kind##_##name(const Matrix *m, int64_t panel, const Activations *x, int64_t row, int rows, \
                                     float sums[][PANEL]) {                                                     \
        multiply_floats(m, panel, x, row, rows, sums, format, tile);                                            \
    }

/* As many rows of int8 and of float activations together as there are registers. */
#define COMPILE_FOR(name, rows, float_rows, lanes, target)                          \
    COMPILE_ATTENTION(name, INT8, narrow, lanes, target)                            \
    COMPILE_ATTENTION(name, FLOAT32, float, lanes, target)                          \
    COMPILE_PRODUCT(name, INT8, int8, rows, target)                                 \
    COMPILE_PRODUCT(name, FLOAT32, float32, float_rows, target)                     \
    COMPILE_PRODUCT(name, BFLOAT16, bfloat16, float_rows, target)                   \
    target static void forward_##name(const void *job, int thread, int threads) {   \
        forward(job, thread, threads);                                              \
    }

FLOATS_IN_LANES(portable, float32, FLOAT32, 1, )
FLOATS_IN_LANES(portable, bfloat16, BFLOAT16, 1, )
COMPILE_FOR(portable, 1, 1, , )
#if defined(__x86_64__)
COMPILE_FOR(avx2, 2, 6, _avx2, AVX2_TARGET)

/* With 32 registers, 6 x 4 sums need less of the caches than 4 x 4 for the same work. */
FLOATS_IN_LANES(avx512vnni, float32, FLOAT32, 4, AVX512_TARGET)
FLOATS_IN_LANES(avx512vnni, bfloat16, BFLOAT16, 4, AVX512_TARGET)
COMPILE_FOR(avx512vnni, MAX_ROWS, 6, , AVX512_TARGET)
#endif

#if defined(HAVE_TILES)
TILES_TARGET __attribute__((noinline)) static void product_int8_amx(const Matrix *m, const Activations *x, int64_t count,
                                                                    const float *shifts, Range panels, Finish how,
                                                                    float *y, int64_t stride) {
    if (count < TILES_FROM || !x->split)
        BESIDE_TILES(product_int8)(m, x, count, shifts, panels, how, y, stride);
    else
        multiply_panels_in_tiles(m, x, count, shifts, panels, how, y, stride);
}
#endif

/* A function's copy for some instructions. Tiles may be emulated beside any others. */
#if defined(HAVE_TILES)
#define VARIANT(type, name, instructions) \
    ((instructions) == AMX ? BESIDE_TILES(name) : VARIANTS(type, name)[instructions])
#else
#define VARIANT(type, name, instructions) (VARIANTS(type, name)[instructions])
#endif

static Product *product_of(int32_t instructions, Format format) {
#if defined(HAVE_TILES)
    if (instructions == AMX && format == INT8) return product_int8_amx;
#endif
    if (format == INT8) return VARIANT(Product, product_int8, instructions);
    if (format == FLOAT32) return VARIANT(Product, product_float32, instructions);
    return VARIANT(Product, product_bfloat16, instructions);
}

static Attend *attend_of(int32_t instructions, Format format) {
    if (format == INT8) return VARIANT(Attend, attend_narrow, instructions);
    return VARIANT(Attend, attend_float, instructions);
}

/* ---- whether tiles can be used ---- */

enum { NOT_BUILT, ABSENT, REFUSED, WRONG, USABLE }; /* library.py has them in the same order */

#if defined(HAVE_TILES)
/* Fills matrices of two panels and three groups, the last ones of both in part, and activations of two blocks of rows,
 * likewise, with all kinds of numbers; returns whether tiles give what the instructions beside them give. */
static bool tiles_agree(void) {
    enum { IN = 2 * GROUP + 9, GROUPS = 3, OUT = PANEL + 5, PANELS = 2, ROWS = TILE_ROWS + 3, STRIDE = GROUPS * GROUP };
    Block blocks[PANELS * GROUPS];
    SplitActivations split[2 * GROUPS] = {0};
    int16_t values[ROWS * STRIDE];
    float scales[ROWS], bias[PANELS * PANEL], tiled[ROWS][OUT], expected[ROWS][OUT];
    const Matrix matrix = {blocks, bias, IN, OUT};
    TileBlock scratch[GROUPS];
    const Activations activations = {values, scales, STRIDE, split, scratch};
    uint32_t drawn = 0;
    for (int block = 0; block < PANELS * GROUPS; block++) {
        for (int n = 0; n < PANEL; n++) blocks[block].scales[n] = narrow(1.0f + (float)(random_word(1, drawn++) % 99));
        int8_t *weights = blocks[block].values[0][0];
        for (int i = 0; i < GROUP * PANEL; i++) weights[i] = (int8_t)((int)(random_word(2, drawn++) % 255) - 127);
    }
    for (int n = 0; n < PANELS * PANEL; n++) bias[n] = (float)n;
    for (int row = 0; row < ROWS; row++) {
        scales[row] = 1.0f / (float)(row + 1);
        for (int k = 0; k < STRIDE; k++)
            values[row * STRIDE + k] = (int16_t)((int)(random_word(3, drawn++) % 65535) - 32767);
        split_row(&activations, row, GROUPS);
    }
    product_int8_amx(&matrix, &activations, ROWS, NULL, (Range){0, PANELS}, SET, tiled[0], OUT);
    BESIDE_TILES(product_int8)(&matrix, &activations, ROWS, NULL, (Range){0, PANELS}, SET, expected[0], OUT);
    return memcmp(tiled, expected, sizeof tiled) == 0;
}

/* Tiles are a state of the processor that a process may use only if it has asked Linux. */
static int find_tiles(void) {
#if !defined(CONJURE_EMULATED_TILES)
    enum { TILES_BIT = 1 << 24, INT8_BIT = 1 << 25, REQUEST_STATE = 0x1023, TILE_DATA = 18 };
    unsigned int a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & TILES_BIT) || !(d & INT8_BIT)) return ABSENT;
    if (syscall(SYS_arch_prctl, REQUEST_STATE, TILE_DATA) != 0) return REFUSED;
#endif
    return tiles_agree() ? USABLE : WRONG;
}
#endif

/* Whether products are computed in tiles, or why not. Looks once for a process; what two threads find is the same. */
int32_t conjure_tiles(void) {
#if defined(HAVE_TILES)
    static atomic_int found = -1;
    int tiles = atomic_load(&found);
    if (tiles < 0) atomic_store(&found, tiles = find_tiles());
    return tiles;
#else
    return NOT_BUILT;
#endif
}

int32_t conjure_abi(void) { return ABI_VERSION; }

/* The best instructions this processor has. */
int32_t conjure_instructions(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PORTABLE;
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (!wide || !__builtin_cpu_supports("avx512vnni")) return AVX2;
    return conjure_tiles() == USABLE ? AMX : AVX512VNNI;
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

/* Each layer has four products and attention; then there is the head. */
static int64_t counters(const Job *job) { return (5 * job->model->layers + 1) * job->call->threads; }

/* The bytes of a panel of weights for tiles, of which a call with so many rows has use; else none. */
INLINE int64_t tile_panel_size(const Job *job) {
#if defined(HAVE_TILES)
    if (job->call->instructions == AMX && job->model->format == INT8 && job->positions >= TILES_FROM)
        return job->activations.stride / GROUP * (int64_t)sizeof(TileBlock);
#else
    (void)job;
#endif
    return 0;
}

static int64_t lay_out(Job *job, char *block) {
    const Model *model = job->model;
    const Call *call = job->call;
    int64_t used = 0, C = model->channels, n = at_least(job->positions, call->outputs), longest = 0, pairs = 0;
    int64_t mixed = model->heads * model->head_size, up = (model->gated ? 2 : 1) * model->inner;
    for (int64_t row = 0; row < call->rows; row++) longest = at_least(longest, call->capacities[row]);
    for (int64_t rope = 0; rope < model->ropes; rope++) pairs += model->rope[rope].pairs;
    job->channel_stride = round_up(C, PANEL);
    job->mixed_stride = round_up(mixed, PANEL);
    job->wide_stride = round_up(at_least(model->layer[0].qkv.out, up), PANEL);
    job->rotation_stride = 2 * pairs;
    /* Were it a multiple of 4 kB, rows that are multiplied together would displace each other from the nearest cache. */
    job->activations.stride = round_up(at_least(at_least(C, mixed), model->inner), GROUP) + LANES;
    int64_t panel_size = tile_panel_size(job);
    job->scratch_stride =
        round_up(at_least(at_least(at_least(C, model->inner), QUERIES * longest), panel_size / 4), LANES);
    job->taken = arena_alloc(&block, &used, counters(job) * (int64_t)sizeof *job->taken);
    job->first_position = arena_alloc(&block, &used, (call->rows + 1) * 8);
    job->work = arena_alloc(&block, &used, (call->rows + 1) * 8);
    job->residual = arena_alloc(&block, &used, n * job->channel_stride * 4);
    job->branch = arena_alloc(&block, &used, model->residual == SEQUENTIAL ? 0 : n * job->channel_stride * 4);
    job->wide = arena_alloc(&block, &used, n * job->wide_stride * 4);
    job->mixed = arena_alloc(&block, &used, n * job->mixed_stride * 4);
    job->rotations = arena_alloc(&block, &used, n * job->rotation_stride * 4);
    int64_t prepared = at_least(n, call->threads); /* each thread's own, where there is one position */
    job->activations.values =
        arena_alloc(&block, &used, prepared * job->activations.stride * (model->format == INT8 ? 2 : 4));
    if (panel_size)
        job->activations.split = arena_alloc(&block, &used, round_up(n, TILE_ROWS) * job->activations.stride * 2);
    job->activations.scales = arena_alloc(&block, &used, prepared * 4);
    job->head_shift = arena_alloc(&block, &used, call->outputs * 4);
    job->scratch = arena_alloc(&block, &used, call->threads * job->scratch_stride * 4);
    return used;
}

/* Reads the call's tokens, and writes the logits that follow. */
int32_t conjure_forward(const Model *model, const Call *call) {
    Barrier barrier = {0, 0, 0};
    Job job = {.model = model, .call = call, .barrier = &barrier};
    job.product = product_of(call->instructions, (Format)model->format);
    job.attend = attend_of(call->instructions, (Format)model->format);
    for (int64_t row = 0; row < call->rows; row++) job.positions += call->tokens[row];
    for (int64_t i = 0; i < job.positions; i++)
        if (call->ids[i] < 0 || call->ids[i] >= model->vocab) return NO_TOKEN;
    char *block = aligned_alloc(64, (size_t)lay_out(&job, NULL));
    if (!block) return NO_MEMORY;
    lay_out(&job, block);
    memset(job.taken, 0, (size_t)counters(&job) * sizeof *job.taken);
    job.first_position[0] = job.work[0] = 0;
    for (int64_t row = 0; row < call->rows; row++) {
        int64_t tokens = call->tokens[row];
        job.first_position[row + 1] = job.first_position[row] + tokens;
        job.work[row + 1] = job.work[row] + tokens * (call->lengths[row] + tokens / 2 + CHUNK);
    }
    in_threads(VARIANT(Work, forward, call->instructions), &job, call->threads);
    free(block);
    return DONE;
}
