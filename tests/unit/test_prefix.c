/* test_prefix - the prefix cache against a list that compares whole contents; and against colliding keys. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/kv/prefix.h"

#include <string.h>

#define BT 16
#define N  64

struct model_entry {
    bool present, idle;
    int32_t parent, ids[BT];
    struct hash_key key, root;
    uint64_t idle_since;
    int n_children;
};

static struct model_entry model[N];
static uint64_t rng, tick;

/* Content with few variants, so that equal ones are common. */
static void random_ident(struct prefix_ident *who, int32_t *ids, const struct hash_key *roots)
{
    int32_t parent = (int32_t)(rng_next(&rng) % (N + 1)) - 1;
    who->parent = parent >= 0 && model[parent].present ? parent : -1;
    who->root = who->parent >= 0 ? &model[who->parent].root : &roots[rng_next(&rng) % 2];
    for (int i = 0; i < BT; i++)
        ids[i] = i < BT - 1 ? 7 : (int32_t)(rng_next(&rng) % 3);
    who->ids = ids;
    prefix_key(who->parent >= 0 ? &model[who->parent].key : who->root, ids, BT, &who->key);
#ifdef COLLIDE
    memset(who->key.b + 1, 0, sizeof who->key.b - 1);
#endif
}

static int32_t model_find(const struct prefix_ident *who)
{
    for (int32_t b = 0; b < N; b++)
        if (model[b].present && model[b].parent == who->parent &&
            memcmp(model[b].ids, who->ids, sizeof model[b].ids) == 0 &&
            memcmp(&model[b].root, who->root, sizeof *who->root) == 0)
            return b;
    return -1;
}

/* The oldest idle entry without children, as leaf-first LRU wants it. */
static int32_t model_oldest(void)
{
    int32_t best = -1;
    for (int32_t b = 0; b < N; b++)
        if (model[b].present && model[b].idle && (best < 0 || model[b].idle_since < model[best].idle_since))
            best = b;
    return best;
}

static void model_forget(int32_t b)
{
    model[b].present = model[b].idle = false;
    if (model[b].parent >= 0)
        model[model[b].parent].n_children--;
}

/* Use a block as a sequence would: it and all its parents leave the idle list, and come back leaf first. */
static void use_chain(struct prefix *p, int32_t b)
{
    for (int32_t i = b; i >= 0; i = model[i].parent)
        if (model[i].idle) {
            prefix_busy(p, i);
            model[i].idle = false;
        }
    for (int32_t i = b; i >= 0; i = model[i].parent) {
        prefix_idle(p, i);
        model[i].idle = true;
        model[i].idle_since = ++tick;
    }
}

START_TEST(test_prefix_agrees_with_its_model)
{
    struct prefix *p;
    struct hash_key roots[2];
    struct prefix_ident who;
    int32_t ids[BT], n_hits = 0, n_evicted = 0;
    memset(roots, 1, sizeof roots);
    roots[1].b[0] = 9;
    rng = unit_seed("prefix");
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(prefix_open(&p, N, BT, NULL), 0);
    for (int i = 0; i < 100000; i++) {
        random_ident(&who, ids, roots);
        int32_t want = model_find(&who), got = prefix_find(p, &who);
        ck_assert_int_eq(got, want);
        if (got >= 0) {
            n_hits++;
            use_chain(p, got);
            continue;
        }
        int32_t b = 0;
        while (b < N && model[b].present)
            b++;
        if (b == N || rng_next(&rng) % 8 == 0) {
            int32_t oldest = model_oldest();
            ck_assert(oldest < 0 || model[oldest].n_children == 0);
            ck_assert_int_eq(prefix_evict(p, 0), oldest);
            if (oldest >= 0)
                model_forget(oldest);
            n_evicted += oldest >= 0;
            continue;
        }
        prefix_add(p, b, &who);
        model[b] = (struct model_entry){.present = true, .parent = who.parent, .key = who.key, .root = *who.root};
        memcpy(model[b].ids, ids, sizeof ids);
        if (who.parent >= 0)
            model[who.parent].n_children++;
        use_chain(p, b);
        if (i % 64 == 0)
            prefix_check(p);
    }
    ck_assert_int_gt(n_hits, 5000);
    ck_assert_int_gt(n_evicted, 5000);
    prefix_close(p);
}
END_TEST

START_TEST(test_prefix_tells_equal_keys_apart_by_content)
{
    struct prefix *p;
    struct hash_key root = {{1}}, other = {{2}}, same_key = {{3}};
    int32_t a[BT] = {1}, b[BT] = {2};
    ck_assert_int_eq(prefix_open(&p, 8, BT, NULL), 0);
    struct prefix_ident x = {same_key, &root, -1, a}, y = {same_key, &root, -1, b}, z = {same_key, &other, -1, a};
    prefix_add(p, 0, &x);
    ck_assert_int_eq(prefix_find(p, &x), 0);
    ck_assert_int_eq(prefix_find(p, &y), -1); /* other ids */
    ck_assert_int_eq(prefix_find(p, &z), -1); /* other tenant */
    prefix_add(p, 1, &y);
    prefix_add(p, 2, &z);
    struct prefix_ident under_x = {same_key, &root, 0, a}, under_y = {same_key, &root, 1, a};
    prefix_add(p, 3, &under_x);
    ck_assert_int_eq(prefix_find(p, &under_x), 3);
    ck_assert_int_eq(prefix_find(p, &under_y), -1); /* other parent */
    ck_assert_int_eq(prefix_find(p, &y), 1);
    prefix_check(p);
    prefix_close(p);
}
END_TEST

START_TEST(test_prefix_key_is_a_chain)
{
    struct hash_key root = {{0}}, k1, k2, k3;
    int32_t a[BT] = {0}, b[BT] = {0};
    b[BT - 1] = 1;
    ck_assert_int_eq(hash_init_library(), 0);
    prefix_key(&root, a, BT, &k1);
    prefix_key(&root, b, BT, &k2);
    ck_assert(!hash_key_equal(&k1, &k2));
    prefix_key(&k1, a, BT, &k2);
    prefix_key(&root, a, BT, &k3);
    ck_assert(hash_key_equal(&k1, &k3));
    ck_assert(!hash_key_equal(&k1, &k2));
}
END_TEST

UNIT_MAIN("prefix", test_prefix_agrees_with_its_model, test_prefix_tells_equal_keys_apart_by_content,
          test_prefix_key_is_a_chain)
