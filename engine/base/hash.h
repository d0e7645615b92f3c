/* hash - SHA-256 (libcrypto, fenced here), constant-time compare, hex. MT-safe.
 *
 * Keys of KV blocks and API keys are SHA-256. Fields are tagged and length-prefixed (hash_field), so that no two field
 * lists have the same bytes.
 */
#ifndef HEARTH_BASE_HASH_H
#define HEARTH_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HASH_BYTES 32

struct hash_key {
    uint8_t b[HASH_BYTES];
};

struct hash_state; /* opaque, one digest in the making */

/* One-shot digest of n bytes. Never fails once hash_init_library() returned 0. */
void hash_sha256(const void *bytes, size_t n, struct hash_key *out);

/* Streaming: open, add, finish (finish frees). open returns NULL when there is no memory. */
struct hash_state *hash_open(void);
void hash_add(struct hash_state *h, const void *bytes, size_t n);
/* tag (u32 LE), length (u64 LE), bytes. */
void hash_field(struct hash_state *h, uint32_t tag, const void *bytes, size_t n);
void hash_finish(struct hash_state *h, struct hash_key *out);

/* Fetch the digest once, so that later calls can't fail. 0 or -ENOTSUP. Call at start, one thread. */
int hash_init_library(void);

/* Equal? Time depends on n only. */
bool hash_equal(const void *a, const void *b, size_t n);

static inline bool hash_key_equal(const struct hash_key *a, const struct hash_key *b)
{
    return __builtin_memcmp(a, b, sizeof *a) == 0;
}

/* 64 hex digits and the terminator. */
void hash_hex(const struct hash_key *k, char out[2 * HASH_BYTES + 1]);
/* From exactly 64 hex digits; -EINVAL otherwise. */
int hash_unhex(const char *hex, size_t n, struct hash_key *out);

/* SipHash-2-4 (Aumasson & Bernstein 2012), for hash tables whose keys come from a file or a client: with a random key
 * nobody can make them collide. */
uint64_t hash_sip(const void *bytes, size_t n, const uint64_t key[2]);

/* FNV-1a 64, for hash tables of trusted keys only. */
static inline uint64_t hash_fnv(const void *bytes, size_t n)
{
    const uint8_t *p = (const uint8_t *)bytes;
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

#endif
