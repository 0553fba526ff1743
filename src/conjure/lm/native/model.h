/* A decoder as the forward pass reads it, and what one call asks for.
 *
 * A model is described by the facts of `Shape` in lm/models/shape.py; no family of models is named here. Every
 * size and pointer is checked in Python (native_weights.py, native.py); in C they are trusted.
 */
#ifndef CONJURE_MODEL_H
#define CONJURE_MODEL_H

#include "lanes.h"

enum {
    PANEL = 32,        /* outputs computed together; int8 weights are stored by panel */
    GROUP = 64,        /* inputs for which an output's int8 weights share a scale */
    PAIRS = GROUP / 2, /* inputs are multiplied two at a time */
    CHUNK = 32,        /* numbers of a key or value that are remembered, and read, together */
};

/* How weights are stored: as int8 with scales, as float32, or as bfloat16 that is computed with in float32. With int8
 * activations are int16, and keys and values are remembered in bfloat16; else all these are float32. */
typedef enum { INT8, FLOAT32, BFLOAT16 } Format;

typedef enum { LAYER, RMS } NormKind;

typedef enum { GELU_TANH, GELU, RELU, SILU } Activation;

/* sequential: the feed-forward layer reads what attention gave; parallel: both read the same; sandwich: as sequential,
 * and what each gives is normed before it is added. */
typedef enum { SEQUENTIAL, PARALLEL, SANDWICH } Residual;

/* The int8 weights of one panel for one group of inputs, in the order in which they are multiplied. */
typedef struct {
    bfloat16 scales[PANEL];
    int8_t values[PAIRS][PANEL][2];
} Block;

/* y = x W' + bias. int8: Blocks [out / PANEL][in / GROUP], both sizes rounded up and filled with zeros; else numbers
 * (out, in). */
typedef struct {
    const void *weights;
    const float *bias; /* [out], filled up to whole panels */
    int64_t in, out;
} Matrix;

typedef struct {
    const float *gain, *bias; /* an `RMS` norm has no bias; where there is no norm, gain is NULL */
} Norm;

typedef struct {
    Norm attention_norm, attention_post_norm, mlp_norm, mlp_post_norm, query_norm, key_norm;
    Matrix qkv, out, up, down;
    int64_t window, rope; /* keys that a query sees, 0 for all; which of the model's ropes, -1 for none */
    float score_scale;    /* what query times key is multiplied by */
} Layer;

/* The first `pairs` channels of a head rotate with the next `pairs`, each pair by its frequency times the position. */
typedef struct {
    const float *frequencies; /* [pairs] */
    int64_t pairs;
    float factor; /* of cosines and sines */
} Rope;

typedef struct {
    int64_t channels, inner, heads, kv_heads, head_size, layers, ropes, vocab;
    float epsilon, embedding_scale;
    int32_t format, norm, activation, residual, gated;
    const void *embedding; /* (vocab, channels), float32 if the weights are, else bfloat16 */
    const float *positions; /* (context, channels); NULL where positions only rotate */
    const Layer *layer;
    const Rope *rope;
    Norm final_norm;
    Matrix head;            /* int8: less the mean of its rows … */
    const float *head_mean; /* … which is this, (channels); else NULL */
} Model;

/* Some new tokens of each row, which has read `lengths[row]` before. What a row remembers is one piece of memory:
 * per layer first, for each head of keys and values, keys [capacity / CHUNK][D][CHUNK], then, for each such head,
 * values [capacity][D rounded up to CHUNK], each chunk in the order of `place_of`; capacities are multiples of CHUNK. */
typedef struct {
    const int64_t *ids;        /* the new tokens of all rows, one row after the other */
    const int64_t *tokens;     /* (rows) how many each has, at least one */
    const int64_t *lengths;    /* (rows) */
    char *const *memory;       /* (rows) */
    const int64_t *capacities; /* (rows) */
    const int64_t *wanted;     /* (outputs) the new tokens, by their places in `ids`, after which logits are wanted */
    int64_t rows, outputs;
    float *logits; /* (outputs, vocab) */
    int32_t threads, instructions;
} Call;

#endif
