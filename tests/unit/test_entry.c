/* test_entry - the line of a block in an index, and the root of its chain: each thing that must be equal before the
 * block's bytes may be used is changed alone, while all else, the key too, stays as it was. */
#include "tests/support/unit.h"

#include "engine/kv/entry.h"
#include "engine/kvcache.h"

#include <string.h>

#define BT     16
#define FORMAT 2

struct content { /* an identity and what it points to */
    struct kv_ident who;
    struct hash_key root;
    int32_t ids[BT];
};

static void make_content(struct content *c)
{
    memset(c, 0, sizeof *c);
    for (int i = 0; i < BT; i++)
        c->ids[i] = 70000 + 3 * i; /* more than 16 bits */
    for (int i = 0; i < HASH_BYTES; i++)
        c->root.b[i] = (uint8_t)(1 + i);
    memset(&c->who.key, 7, sizeof c->who.key);
    memset(&c->who.parent, 9, sizeof c->who.parent);
    c->who.root = &c->root;
    c->who.ids = c->ids;
    c->who.check = 0x123456789abcdef0u;
    c->who.depth = 5;
}

START_TEST(test_an_entry_is_its_content_and_no_other_under_the_same_key)
{
    struct content c;
    struct kv_entry e;
    make_content(&c);
    entry_make(&e, &c.who, BT, FORMAT);
    ck_assert(entry_is(&e, &c.who));
    c.who.key.b[31] ^= 1;
    ck_assert(!entry_is(&e, &c.who));
    for (int i = 0; i < BT; i++)
        for (int bit = 0; bit < 24; bit++) {
            make_content(&c);
            c.ids[i] ^= 1 << bit;
            ck_assert_msg(!entry_is(&e, &c.who), "id %d bit %d", i, bit);
        }
    for (int i = 0; i < 16; i++) { /* the tenant, the model, the format .. */
        make_content(&c);
        c.root.b[i] ^= 1;
        ck_assert_msg(!entry_is(&e, &c.who), "root byte %d", i);
    }
    for (int i = 0; i < 64; i++) { /* what stands before it */
        make_content(&c);
        c.who.check ^= 1ull << i;
        ck_assert_msg(!entry_is(&e, &c.who), "check bit %d", i);
    }
    make_content(&c);
    c.who.parent.b[0] ^= 1;
    ck_assert(!entry_is(&e, &c.who));
    make_content(&c);
    c.who.depth++;
    ck_assert(!entry_is(&e, &c.who));
    make_content(&c);
    ck_assert(entry_is(&e, &c.who));
}
END_TEST

START_TEST(test_two_entries_are_the_same_content_whatever_their_writing)
{
    struct content c;
    struct kv_entry a, b;
    make_content(&c);
    entry_make(&a, &c.who, BT, FORMAT);
    b = a;
    b.generation = 9;
    b.seal.v[0] = 4;
    entry_close(&b);
    ck_assert(entry_same(&a, &b));
    for (int change = 0; change < 5; change++) {
        b = a;
        if (change == 0)
            b.key.b[0] ^= 1;
        else if (change == 1)
            b.check ^= 1;
        else if (change == 2)
            b.depth ^= 1;
        else if (change == 3)
            b.root[15] ^= 1;
        else
            b.ids[BT - 1][2] ^= 1;
        ck_assert_msg(!entry_same(&a, &b), "change %d", change);
    }
}
END_TEST

START_TEST(test_an_entry_with_any_flipped_bit_is_none)
{
    struct content c;
    struct kv_entry e;
    make_content(&c);
    entry_make(&e, &c.who, BT, FORMAT);
    e.generation = 77;
    entry_close(&e);
    ck_assert(entry_valid(&e, BT, FORMAT));
    ck_assert(!entry_valid(&e, 2 * BT, FORMAT) && !entry_valid(&e, BT, FORMAT + 1));
    for (size_t bit = 0; bit < 8 * sizeof e; bit++) {
        ((uint8_t *)&e)[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_msg(!entry_valid(&e, BT, FORMAT), "bit %zu", bit);
        ((uint8_t *)&e)[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    memset(&e, 0, sizeof e);
    ck_assert(!entry_valid(&e, BT, FORMAT) && !entry_valid(&e, 0, 0));
}
END_TEST

START_TEST(test_the_check_depends_on_all_before_it_and_on_the_root)
{
    struct content c;
    make_content(&c);
    uint64_t first = entry_check(0, &c.root, c.ids, BT), next = entry_check(first, &c.root, c.ids, BT);
    ck_assert_uint_ne(first, next);
    ck_assert_uint_ne(next, entry_check(first ^ 1, &c.root, c.ids, BT));
    for (int i = 0; i < BT; i++) {
        c.ids[i] ^= 1;
        ck_assert_uint_ne(first, entry_check(0, &c.root, c.ids, BT));
        c.ids[i] ^= 1;
    }
    c.root.b[HASH_BYTES - 1] ^= 1;
    ck_assert_uint_ne(first, entry_check(0, &c.root, c.ids, BT));
}
END_TEST

/* -- the root of a chain */

static struct hash_key root_of(const struct kvcache_identity *who, const uint8_t salt[32])
{
    struct hash_key k;
    ck_assert_int_eq(kvcache_root(who, salt, &k), 0);
    return k;
}

START_TEST(test_all_that_decides_the_bytes_is_in_the_root)
{
    struct kvcache_identity a = {.block_tokens = 64, .format = 1, .numerics = "cpu_ref"}, b;
    uint8_t salt[32] = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    struct hash_key want = root_of(&a, salt), got = root_of(&a, salt);
    ck_assert(hash_key_equal(&want, &got));
    for (int i = 0; i < 32; i++)
        for (int what = 0; what < 3; what++) {
            b = a;
            (what == 0 ? b.secret : what == 1 ? b.model.b : salt)[i] ^= 0x80;
            got = root_of(&b, salt);
            ck_assert_msg(!hash_key_equal(&want, &got), "byte %d of %s", i,
                          what == 0   ? "the secret"
                          : what == 1 ? "the model"
                                      : "the tenant's salt");
            salt[i] = 0;
        }
    for (int bit = 0; bit < 32; bit++) {
        b = a;
        b.block_tokens ^= 1u << bit;
        got = root_of(&b, salt);
        ck_assert_msg(!hash_key_equal(&want, &got), "block tokens, bit %d", bit);
        b = a;
        b.format ^= 1u << bit;
        got = root_of(&b, salt);
        ck_assert_msg(!hash_key_equal(&want, &got), "format, bit %d", bit);
    }
    b = a;
    b.numerics = "cpu_fast";
    got = root_of(&b, salt);
    ck_assert(!hash_key_equal(&want, &got));
}
END_TEST

UNIT_MAIN("entry", test_an_entry_is_its_content_and_no_other_under_the_same_key,
          test_two_entries_are_the_same_content_whatever_their_writing, test_an_entry_with_any_flipped_bit_is_none,
          test_the_check_depends_on_all_before_it_and_on_the_root, test_all_that_decides_the_bytes_is_in_the_root)
