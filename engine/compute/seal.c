/* seal - see seal.h. The inner loop is written so that compilers turn it into 32 x 32 -> 64 bit vector products. */
#include "engine/compute/seal.h"

#include "engine/base/rng.h"

#include <assert.h>
#include <string.h>

void seal_key_make(struct seal_key *k, const uint8_t secret[32])
{
    uint64_t s[4];
    memcpy(s, secret, sizeof s);
    /* Each word mixes two streams that start from different halves of the secret: all 256 bits count. */
    uint64_t a = s[0] ^ (s[1] << 1 | s[1] >> 63), b = s[2] ^ (s[3] << 3 | s[3] >> 61);
    for (int i = 0; i < 2; i++) {
        for (int j = 0; j < SEAL_PAIRS; j++)
            k->pair[i][j] = rng_next(&a) ^ rng_next(&b);
        k->chunk[i] = rng_next(&a) ^ rng_next(&b);
    }
}

static uint64_t word_at(const uint8_t *p)
{
    uint64_t w;
    memcpy(&w, p, sizeof w);
    return w;
}

static inline uint64_t product(uint64_t w, uint64_t k)
{
    return (uint64_t)((uint32_t)w + (uint32_t)k) * (uint32_t)((uint32_t)(w >> 32) + (uint32_t)(k >> 32));
}

static void add_chunk(const struct seal_key *k, const uint8_t *p, size_t pairs, uint64_t c, struct seal *out)
{
    uint64_t a = 0, b = 0;
    for (size_t j = 0; j < pairs; j++) {
        uint64_t w = word_at(p + 8 * j);
        a += product(w, k->pair[0][j]);
        b += product(w, k->pair[1][j]);
    }
    out->v[0] += a * seal_multiplier(k->chunk[0], c);
    out->v[1] += b * seal_multiplier(k->chunk[1], c);
}

void seal_make(const struct seal_key *k, const void *bytes, size_t n, struct seal *out)
{
    assert(n % 8 == 0);
    const uint8_t *p = bytes;
    struct seal s = {{n * seal_multiplier(k->chunk[0], SEAL_LENGTH), n * seal_multiplier(k->chunk[1], SEAL_LENGTH)}};
    uint64_t c = 0;
    for (; n >= SEAL_CHUNK; n -= SEAL_CHUNK, p += SEAL_CHUNK)
        add_chunk(k, p, SEAL_PAIRS, c++, &s);
    if (n)
        add_chunk(k, p, n / 8, c, &s);
    *out = s;
}
