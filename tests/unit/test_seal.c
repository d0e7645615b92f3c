/* test_seal - seals and CRC-32C: known values, every flipped bit is seen, and a chunk in the wrong place, too. */
#include "tests/support/unit.h"

#include "engine/base/crc.h"
#include "engine/base/rng.h"
#include "engine/compute/seal.h"

#include <string.h>

#define BYTES (3 * SEAL_CHUNK + 256)

static struct seal_key key;
static uint8_t bytes[BYTES];

static void begin(uint64_t seed)
{
    uint8_t secret[32];
    for (size_t i = 0; i < sizeof secret; i++)
        secret[i] = (uint8_t)(rng_next(&seed) >> 5);
    seal_key_make(&key, secret);
    for (size_t i = 0; i < BYTES; i++)
        bytes[i] = (uint8_t)(rng_next(&seed) >> 7);
}

static struct seal seal_of(size_t n)
{
    struct seal s;
    seal_make(&key, bytes, n, &s);
    return s;
}

START_TEST(test_crc32c_gives_the_value_of_its_specification)
{
    uint8_t zeros[32] = {0};
    ck_assert_uint_eq(crc32c("123456789", 9), 0xe3069283u);
    ck_assert_uint_eq(crc32c(zeros, 32), 0x8a9136aau); /* RFC 3720, B.4 */
    ck_assert_uint_eq(crc32c("", 0), 0);
}
END_TEST

/* The formula of seal.h, word by word. */
static struct seal by_formula(size_t n)
{
    struct seal s;
    for (int i = 0; i < 2; i++) {
        s.v[i] = n * seal_multiplier(key.chunk[i], SEAL_LENGTH);
        for (size_t at = 0; at < n; at += 8) {
            uint32_t x, y;
            uint64_t k = key.pair[i][at % SEAL_CHUNK / 8];
            memcpy(&x, bytes + at, 4);
            memcpy(&y, bytes + at + 4, 4);
            x += (uint32_t)k;
            y += (uint32_t)(k >> 32);
            s.v[i] += (uint64_t)x * y * seal_multiplier(key.chunk[i], at / SEAL_CHUNK);
        }
    }
    return s;
}

START_TEST(test_seal_is_what_its_formula_says_for_every_length)
{
    begin(unit_seed("lengths"));
    for (size_t n = 0; n <= BYTES; n += 8) {
        struct seal a = seal_of(n), b = by_formula(n);
        ck_assert_msg(seal_equal(&a, &b), "%zu bytes", n);
    }
}
END_TEST

START_TEST(test_seal_sees_every_flipped_bit)
{
    begin(unit_seed("flips"));
    struct seal whole = seal_of(BYTES);
    for (size_t i = 0; i < 8 * BYTES; i++) {
        bytes[i / 8] ^= (uint8_t)(1u << (i % 8));
        struct seal s = seal_of(BYTES);
        ck_assert_msg(s.v[0] != whole.v[0] && s.v[1] != whole.v[1], "bit %zu", i);
        bytes[i / 8] ^= (uint8_t)(1u << (i % 8));
    }
    struct seal again = seal_of(BYTES);
    ck_assert(seal_equal(&again, &whole));
}
END_TEST

START_TEST(test_seal_sees_chunks_in_wrong_places_and_zeroed_ones)
{
    uint8_t chunk[SEAL_CHUNK];
    begin(unit_seed("places"));
    struct seal whole = seal_of(BYTES), s;
    memcpy(chunk, bytes, SEAL_CHUNK);
    memcpy(bytes, bytes + SEAL_CHUNK, SEAL_CHUNK);
    memcpy(bytes + SEAL_CHUNK, chunk, SEAL_CHUNK);
    s = seal_of(BYTES);
    ck_assert(!seal_equal(&s, &whole));
    memset(bytes, 0, sizeof bytes); /* a hole in a file */
    s = seal_of(BYTES);
    ck_assert(!seal_equal(&s, &whole));
    struct seal shorter = seal_of(BYTES - SEAL_CHUNK);
    ck_assert(!seal_equal(&s, &shorter)); /* zeros count, too */
}
END_TEST

/* The form in seal.h word by word, backwards: what another machine's lanes would do. */
START_TEST(test_seal_is_the_same_in_any_order)
{
    begin(unit_seed("order"));
    struct seal whole = seal_of(BYTES), sum = {{0, 0}};
    for (size_t at = BYTES; at > 0; at -= 8) {
        size_t i = (at - 8) / 8, c = i / SEAL_PAIRS, j = i % SEAL_PAIRS;
        uint32_t x, y;
        memcpy(&x, bytes + at - 8, 4);
        memcpy(&y, bytes + at - 4, 4);
        for (int k = 0; k < 2; k++)
            sum.v[k] += (uint64_t)(uint32_t)(x + (uint32_t)key.pair[k][j]) *
                        (uint32_t)(y + (uint32_t)(key.pair[k][j] >> 32)) * seal_multiplier(key.chunk[k], c);
    }
    for (int k = 0; k < 2; k++)
        sum.v[k] += BYTES * seal_multiplier(key.chunk[k], UINT64_MAX / 2);
    ck_assert(seal_equal(&sum, &whole));
}
END_TEST

START_TEST(test_seals_of_other_keys_are_others)
{
    begin(1);
    struct seal a = seal_of(BYTES);
    uint8_t secret[32] = {1};
    struct seal_key other;
    for (int bit = 0; bit < 256; bit++) { /* each bit of the secret counts */
        struct seal_key k;
        seal_key_make(&other, secret);
        secret[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        seal_key_make(&k, secret);
        ck_assert_mem_ne(&k, &other, sizeof k);
        ck_assert(k.pair[0][0] != other.pair[0][0] || k.pair[0][1] != other.pair[0][1]);
    }
    struct seal b;
    seal_make(&other, bytes, BYTES, &b);
    ck_assert(!seal_equal(&a, &b));
}
END_TEST

UNIT_MAIN("seal", test_seal_is_what_its_formula_says_for_every_length, test_crc32c_gives_the_value_of_its_specification,
          test_seal_sees_every_flipped_bit, test_seal_sees_chunks_in_wrong_places_and_zeroed_ones,
          test_seal_is_the_same_in_any_order, test_seals_of_other_keys_are_others)
