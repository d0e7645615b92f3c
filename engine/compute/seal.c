/* seal - see seal.h. With AVX2 a core makes it about as fast as memory gives the bytes. */
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

/* Chunk c, of which there are `pairs`. */
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

#if defined(__x86_64__)
#include <immintrin.h>

#define LANES 4 /* pairs in a vector */

__attribute__((target("avx2"))) static inline uint64_t lanes_sum(__m256i v)
{
    __m128i x = _mm_add_epi64(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    return (uint64_t)_mm_extract_epi64(x, 0) + (uint64_t)_mm_extract_epi64(x, 1);
}

__attribute__((target("avx2"))) static inline __m256i products(__m256i w, const uint64_t *key)
{
    __m256i x = _mm256_add_epi32(w, _mm256_loadu_si256((const __m256i *)(const void *)key));
    return _mm256_mul_epu32(x, _mm256_srli_epi64(x, 32));
}

/* The first n chunks, whole ones. */
__attribute__((target("avx2"))) static void add_chunks_avx2(const struct seal_key *k, const uint8_t *p, uint64_t n,
                                                            struct seal *out)
{
    for (uint64_t c = 0; c < n; c++, p += SEAL_CHUNK) {
        __m256i a = _mm256_setzero_si256(), b = a;
        for (size_t j = 0; j < SEAL_PAIRS; j += LANES) {
            __m256i w = _mm256_loadu_si256((const __m256i *)(const void *)(p + 8 * j));
            a = _mm256_add_epi64(a, products(w, &k->pair[0][j]));
            b = _mm256_add_epi64(b, products(w, &k->pair[1][j]));
        }
        out->v[0] += lanes_sum(a) * seal_multiplier(k->chunk[0], c);
        out->v[1] += lanes_sum(b) * seal_multiplier(k->chunk[1], c);
    }
}
#endif

static void add_chunks(const struct seal_key *k, const uint8_t *p, uint64_t n, struct seal *out)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        add_chunks_avx2(k, p, n, out);
        return;
    }
#endif
    for (uint64_t c = 0; c < n; c++)
        add_chunk(k, p + c * SEAL_CHUNK, SEAL_PAIRS, c, out);
}

void seal_make(const struct seal_key *k, const void *bytes, size_t n, struct seal *out)
{
    assert(n % 8 == 0);
    const uint8_t *p = bytes;
    struct seal s = {{n * seal_multiplier(k->chunk[0], SEAL_LENGTH), n * seal_multiplier(k->chunk[1], SEAL_LENGTH)}};
    uint64_t chunks = n / SEAL_CHUNK, rest = n % SEAL_CHUNK;
    add_chunks(k, p, chunks, &s);
    if (rest)
        add_chunk(k, p + n - rest, rest / 8, chunks, &s);
    *out = s;
}
