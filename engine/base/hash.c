/* hash - see hash.h. */
#include "engine/base/hash.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

static EVP_MD *sha256;

int hash_init_library(void)
{
    if (!sha256)
        sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    return sha256 ? 0 : -ENOTSUP;
}

struct hash_state *hash_open(void)
{
    assert(sha256);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    if (c && EVP_DigestInit_ex2(c, sha256, NULL) != 1) {
        EVP_MD_CTX_free(c);
        return NULL;
    }
    return (struct hash_state *)c;
}

void hash_add(struct hash_state *h, const void *bytes, size_t n)
{
    int ok = EVP_DigestUpdate((EVP_MD_CTX *)h, bytes, n);
    assert(ok == 1);
    (void)ok;
}

void hash_field(struct hash_state *h, uint32_t tag, const void *bytes, size_t n)
{
    uint8_t head[12];
    uint64_t len = n;
    for (int i = 0; i < 4; i++)
        head[i] = (uint8_t)(tag >> (8 * i));
    for (int i = 0; i < 8; i++)
        head[4 + i] = (uint8_t)(len >> (8 * i));
    hash_add(h, head, sizeof head);
    hash_add(h, bytes, n);
}

void hash_finish(struct hash_state *h, struct hash_key *out)
{
    unsigned n = sizeof out->b;
    int ok = EVP_DigestFinal_ex((EVP_MD_CTX *)h, out->b, &n);
    assert(ok == 1 && n == sizeof out->b);
    (void)ok;
    EVP_MD_CTX_free((EVP_MD_CTX *)h);
}

void hash_sha256(const void *bytes, size_t n, struct hash_key *out)
{
    unsigned len = sizeof out->b;
    int ok = EVP_Digest(bytes, n, out->b, &len, sha256, NULL);
    assert(ok == 1);
    (void)ok;
}

bool hash_equal(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *p = a, *q = b;
    uint8_t diff = 0;
    for (size_t i = 0; i < n; i++)
        diff |= (uint8_t)(p[i] ^ q[i]);
    return diff == 0;
}

void hash_hex(const struct hash_key *k, char out[2 * HASH_BYTES + 1])
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < HASH_BYTES; i++) {
        out[2 * i] = digits[k->b[i] >> 4];
        out[2 * i + 1] = digits[k->b[i] & 15];
    }
    out[2 * HASH_BYTES] = 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int hash_unhex(const char *hex, size_t n, struct hash_key *out)
{
    struct hash_key k;
    if (n != 2 * HASH_BYTES)
        return -EINVAL;
    for (int i = 0; i < HASH_BYTES; i++) {
        int hi = hex_digit(hex[2 * i]), lo = hex_digit(hex[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return -EINVAL;
        k.b[i] = (uint8_t)(hi << 4 | lo);
    }
    *out = k;
    return 0;
}

static inline uint64_t rotl(uint64_t x, int n)
{
    return x << n | x >> (64 - n);
}

static inline void sip_rounds(uint64_t v[4], int n)
{
    while (n--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = rotl(v[1], 13) ^ v[0];
        v[3] = rotl(v[3], 16) ^ v[2];
        v[0] = rotl(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = rotl(v[1], 17) ^ v[2];
        v[3] = rotl(v[3], 21) ^ v[0];
        v[2] = rotl(v[2], 32);
    }
}

uint64_t hash_sip(const void *bytes, size_t n, const uint64_t key[2])
{
    const uint8_t *p = bytes;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u,
                     key[1] ^ 0x7465646279746573u};
    uint64_t word = 0;
    for (size_t i = 0; i < n; i++) {
        word |= (uint64_t)p[i] << (8 * (i & 7));
        if ((i & 7) == 7) {
            v[3] ^= word;
            sip_rounds(v, 2);
            v[0] ^= word;
            word = 0;
        }
    }
    word |= (uint64_t)n << 56;
    v[3] ^= word;
    sip_rounds(v, 2);
    v[0] ^= word;
    v[2] ^= 0xff;
    sip_rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}
