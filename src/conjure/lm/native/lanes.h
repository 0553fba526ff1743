/* Registers of floats, as wide as the widest there are. */
#ifndef CONJURE_LANES_H
#define CONJURE_LANES_H

#include "numbers.h"

enum { LANES = 16 }; /* floats in the widest register */

typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(4 * LANES), aligned(4)));
typedef bfloat16 Halves __attribute__((vector_size(2 * LANES), aligned(2)));
typedef uint16_t Shorts __attribute__((vector_size(4 * LANES), aligned(2)));

INLINE void load_lanes(Floats *to, const float *from) { memcpy(to, from, sizeof *to); }

INLINE void widen_lanes(Floats *to, const bfloat16 *from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    *to = (Floats)(__builtin_convertvector(halves, Words) << 16);
}

/* In an order that does not depend on the instructions. */
INLINE float add_lanes(const Floats *x) {
    float parts[LANES];
    memcpy(parts, x, sizeof *x);
    for (int step = LANES / 2; step; step /= 2)
        for (int i = 0; i < step; i++) parts[i] += parts[i + step];
    return parts[0];
}

/* Asks for memory that will be read soon. Processors foresee one steady stream, but not its jumps; without this
 * a step of 16 rows takes half as long again. Beyond the end of an array it does nothing. */
INLINE void fetch_ahead(const void *now, int64_t bytes) {
    __builtin_prefetch((const void *)((uintptr_t)now + (uintptr_t)bytes), 0, 2);
}

#endif
