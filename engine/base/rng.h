/* rng - Philox4x32-10: a random number is a pure function of (key, counter), the same on CPU and GPU.
 *
 * Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC'11), section 3.3 and the Random123
 * constants. The sampler uses key = (seed, choice) and counter = (position, draw), so that preemption, resubmission to
 * a new engine and batch composition continue the same stream. Pure, MT-safe, C17 and C++17.
 */
#ifndef HEARTH_BASE_RNG_H
#define HEARTH_BASE_RNG_H

#include "engine/base/device.h"

#include <stdint.h>

struct philox {
    uint32_t v[4];
};

/* Ten rounds over a 128-bit counter and a 64-bit key. */
DEVICE_TOO struct philox philox4x32(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1)
{
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct philox r = {{c0, c1, c2, c3}};
    return r;
}

/* The draw-th uniform float in [0, 1) (24 bits) for the token at `position` of choice `choice` under `seed`.
 * Key: (seed low, seed high ^ choice); counter: (position low, position high, draw, 0). */
DEVICE_TOO float rng_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t draw)
{
    struct philox r = philox4x32((uint32_t)position, (uint32_t)(position >> 32), draw, 0, (uint32_t)seed,
                                 (uint32_t)(seed >> 32) ^ choice);
    return (float)(r.v[0] >> 8) * (1.0f / 16777216.0f);
}

/* SplitMix64: seeds and random weights; advances *state. */
static inline uint64_t rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

#endif
