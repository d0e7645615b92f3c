/* seal - 128 bits over the bytes of a KV block: made before its first copy, checked after the last, so that a copy that
 * lost a race, a torn write, a bad disk or a wrong slot is seen before anything reads the block.
 *
 * Two sums of the NH form (Black et al., "UMAC: Fast and Secure Message Authentication", CRYPTO '99, section 4) with
 * independent secret keys: within a chunk of 1 KiB each pair of 32-bit words (x, y) adds (x + k)(y + k') mod 2^64; each
 * chunk's sum is multiplied by an odd number that its place in the block and the key decide, and added to the whole. A
 * sum has no order, so lanes, warps and threads may take the words as they like and agree in every bit. Whoever does
 * not know the key hits a given seal with probability 2^-64; a whole chunk or block in a wrong place changes it, too.
 *
 * This is the CPU's twin of backend moves that make seals on the device. Pure; MT-safe. C17 and C++17.
 */
#ifndef HEARTH_COMPUTE_SEAL_H
#define HEARTH_COMPUTE_SEAL_H

#include "engine/base/device.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SEAL_CHUNK 1024             /* bytes with one run through the key */
#define SEAL_PAIRS (SEAL_CHUNK / 8) /* pairs of 32-bit words in it */

struct seal {
    uint64_t v[2];
};

struct seal_key {
    uint64_t pair[2][SEAL_PAIRS]; /* per sum: k in the low half, k' in the high half */
    uint64_t chunk[2];            /* start of the multipliers */
};

#ifdef __cplusplus
extern "C" {
#endif

/* The key that belongs to a secret. */
void seal_key_make(struct seal_key *k, const uint8_t secret[32]);
/* Seal of n bytes (a multiple of 8; the words are read as little-endian): the sum over all chunks of
 * pair sum x multiplier, and n x the multiplier of chunk SEAL_LENGTH. */
#define SEAL_LENGTH (UINT64_MAX / 2)
void seal_make(const struct seal_key *k, const void *bytes, size_t n, struct seal *out);

#ifdef __cplusplus
}
#endif

static inline bool seal_equal(const struct seal *a, const struct seal *b)
{
    return a->v[0] == b->v[0] && a->v[1] == b->v[1];
}

/* Odd multiplier of chunk c of sum i (SplitMix64, so that a device can make it in place). */
DEVICE_TOO uint64_t seal_multiplier(uint64_t start, uint64_t c)
{
    uint64_t z = start + (c + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) | 1;
}

#endif
