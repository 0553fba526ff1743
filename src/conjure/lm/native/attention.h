/* Attention of new tokens over what their row remembers, one head of keys and values at a time.
 *
 * Invariant: what a token gets depends, to the bit, on its own row's tokens up to it, not on how many of them are new.
 */
#ifndef CONJURE_ATTENTION_H
#define CONJURE_ATTENTION_H

#include "model.h"

enum { QUERIES = 4 }; /* queries that go over the same keys together */

/* bfloat16 numbers are remembered with number i of a chunk beside number i + LANES: then two plain operations, and no
 * shuffling, make two registers of floats of them. */
INLINE int64_t place_of(int64_t i, Format format) {
    return format == INT8 ? i / CHUNK * CHUNK + i % LANES * 2 + i / LANES % 2 : i;
}

INLINE int64_t bytes_remembered(Format format) { return format == INT8 ? 2 : 4; }

INLINE void load_chunk(Floats *first, Floats *second, const char *from, Format format) {
    if (format == INT8) {
        Words words;
        memcpy(&words, from, sizeof words);
        *first = (Floats)(words << 16);
        *second = (Floats)(words & 0xffff0000u);
    } else {
        load_lanes(first, (const float *)from);
        load_lanes(second, (const float *)from + LANES);
    }
}

/* One head of keys and values of one row; keys and values that are read next lie so many bytes ahead of these. */
typedef struct {
    char *keys, *values;
    int64_t head_size, capacity, keys_ahead, values_ahead;
} HeadMemory;

/* Puts the key and the value of the token in one column there. */
INLINE void remember(const HeadMemory *memory, int64_t column, const float *key, const float *value, Format format) {
    int64_t D = memory->head_size, padded = round_up(D, CHUNK), bytes = bytes_remembered(format);
    char *lane = memory->keys + (column / CHUNK * CHUNK * D + place_of(column % CHUNK, format)) * bytes;
    char *line = memory->values + column * padded * bytes;
    for (int64_t start = 0; start < padded; start += CHUNK) {
        int64_t count = at_most(CHUNK, D - start);
        if (format != INT8) {
            for (int64_t d = 0; d < count; d++) ((float *)lane)[(start + d) * CHUNK] = key[start + d];
            for (int64_t d = 0; d < CHUNK; d++) ((float *)line)[start + d] = d < count ? value[start + d] : 0;
            continue;
        }
        bfloat16 narrow_key[CHUNK], narrow_value[CHUNK] = {0}; /* first side by side, for whole registers */
        SIMD for (int64_t d = 0; d < count; d++) narrow_key[d] = narrow(key[start + d]);
        SIMD for (int64_t d = 0; d < count; d++) narrow_value[d] = narrow(value[start + d]);
        for (int64_t d = 0; d < count; d++) ((bfloat16 *)lane)[(start + d) * CHUNK] = narrow_key[d];
        for (int64_t d = 0; d < CHUNK; d++) ((bfloat16 *)line)[start + place_of(d, INT8)] = narrow_value[d];
    }
}

/* Queries that are computed together, each with the columns that it sees, and where its result goes. */
typedef struct {
    const float *query[QUERIES];
    float *result[QUERIES];
    int64_t from[QUERIES], to[QUERIES];
} Together;

/* scores[q][s] = query q . key s for the blocks of keys that hold columns from … to - 1. */
typedef void ScoreKeys(const Together *these, int queries, const HeadMemory *memory, int64_t from, int64_t to,
                       float *scores, Format format);

INLINE void score_keys(const Together *these, int queries, const HeadMemory *memory, int64_t from, int64_t to,
                       float *scores, Format format) {
    int64_t D = memory->head_size, bytes = bytes_remembered(format), ahead = memory->keys_ahead;
    for (int64_t block = from / CHUNK * CHUNK; block < to; block += CHUNK) {
        Floats sum[QUERIES][2];
        memset(sum, 0, sizeof sum);
        for (int64_t d = 0; d < D; d++) {
            Floats first, second;
            const char *chunk = memory->keys + (block * D + d * CHUNK) * bytes;
            if (ahead) fetch_ahead(chunk, ahead);
            load_chunk(&first, &second, chunk, format);
            for (int q = 0; q < queries; q++) {
                sum[q][0] += these->query[q][d] * first;
                sum[q][1] += these->query[q][d] * second;
            }
        }
        for (int q = 0; q < queries; q++) memcpy(scores + q * memory->capacity + block, sum[q], sizeof sum[q]);
    }
}

/* Turns scores of columns from … to - 1 into e^(score - largest); returns the sum. */
INLINE float softmax(float *scores, int64_t from, int64_t to) {
    float *own = scores + from;
    return exponentials(own, to - from, largest_of(own, to - from));
}

/* out[q] = sum over columns s of weights[q][s] values[s], for one or two chunks of the head's numbers. */
typedef void MixValues(const float *weights, int queries, const HeadMemory *memory, int64_t start, int chunks,
                       int64_t from, int64_t to, float out[][2 * CHUNK], Format format);

INLINE void mix_values(const float *weights, int queries, const HeadMemory *memory, int64_t start, int chunks,
                       int64_t from, int64_t to, float out[][2 * CHUNK], Format format) {
    int64_t padded = round_up(memory->head_size, CHUNK), bytes = bytes_remembered(format);
    int64_t ahead = memory->values_ahead;
    Floats sum[QUERIES][4];
    memset(sum, 0, sizeof sum);
    for (int64_t s = from; s < to; s++)
        for (int part = 0; part < chunks; part++) {
            Floats first, second;
            const char *chunk = memory->values + (s * padded + start + part * CHUNK) * bytes;
            if (ahead) fetch_ahead(chunk, ahead);
            load_chunk(&first, &second, chunk, format);
            for (int q = 0; q < queries; q++) {
                sum[q][2 * part] += weights[q * memory->capacity + s] * first;
                sum[q][2 * part + 1] += weights[q * memory->capacity + s] * second;
            }
        }
    memcpy(out, sum, sizeof sum);
}

/* Attention of some queries over one head; `scores` has room for QUERIES x capacity. */
INLINE void attend_together(const Together *these, int queries, const HeadMemory *memory, float *scores,
                            ScoreKeys *score, MixValues *mix, Format format) {
    int64_t D = memory->head_size, padded = round_up(D, CHUNK), from = these->from[0], to = these->to[0];
    float sums[QUERIES], out[QUERIES][2 * CHUNK];
    for (int q = 1; q < queries; q++) {
        from = at_most(from, these->from[q]);
        to = at_least(to, these->to[q]);
    }
    score(these, queries, memory, from, to, scores, format);
    for (int q = 0; q < queries; q++) {
        float *own = scores + q * memory->capacity;
        for (int64_t s = from; s < these->from[q]; s++) own[s] = 0;
        sums[q] = softmax(own, these->from[q], these->to[q]);
        for (int64_t s = these->to[q]; s < to; s++) own[s] = 0;
    }
    for (int64_t start = 0, width; start < padded; start += width) {
        width = padded - start >= 2 * CHUNK ? 2 * CHUNK : CHUNK;
        if (width == CHUNK)
            mix(scores, queries, memory, start, 1, from, to, out, format);
        else
            mix(scores, queries, memory, start, 2, from, to, out, format);
        int64_t count = at_most(width, D - start);
        for (int q = 0; q < queries; q++)
            SIMD for (int64_t d = 0; d < count; d++) these->result[q][start + d] = out[q][d] / sums[q];
    }
}

#endif
