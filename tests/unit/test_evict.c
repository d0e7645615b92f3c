/* Victims and what is learned about returns, against models too slow to use. */
#include "engine/kv/evict.h"

#include "engine/base/rng.h"
#include "tests/support/unit.h"

#include <math.h>
#include <string.h>

#define SLOTS 96
#define S     1000000ull

static struct hash_key key_of(uint64_t n)
{
    struct hash_key k = {{0}};
    for (int i = 0; i < 4; i++) {
        uint64_t v = rng_next(&n);
        memcpy(k.b + 8 * i, &v, sizeof v);
    }
    return k;
}

/* -- a tier, the slow way */

struct model {
    struct {
        struct evict_block b;
        enum evict_state state;
        uint64_t order, owed; /* owed: when it came to its list of blocks without a copy; 0 = is in none */
        bool copied;
    } s[SLOTS];
    uint64_t n_released, n_owed;
};

static bool is_leaf(const struct model *m, int32_t slot)
{
    if (m->s[slot].copied)
        return m->s[slot].state == EVICT_IDLE; /* its chain is whole without it */
    for (int i = 0; i < SLOTS; i++)
        if (m->s[i].b.parent == slot && (m->s[i].state == EVICT_HELD || m->s[i].state == EVICT_IDLE))
            return false;
    return m->s[slot].state == EVICT_IDLE;
}

static bool is_kept(const struct model *m, int32_t i, uint64_t now)
{
    return m->s[i].b.keep_until_us > now;
}

static double worth_of(const struct returns *r, const struct evict_block *b, uint64_t now)
{
    return (r ? returns_p(r, b->class, now - b->used_us) : 1) * (double)b->seconds / b->bytes;
}

static double room_of(const struct returns *r, const struct evict_block *b, uint64_t now)
{
    return (r ? returns_rate(r, b->class, now - b->used_us) : 1) * (double)b->seconds / b->bytes;
}

/* LRU: exactly the oldest leaf. */
static int32_t oldest_leaf(const struct model *m, uint64_t now)
{
    int32_t best = -1;
    for (int32_t i = 0; i < SLOTS; i++) {
        if (!is_leaf(m, i))
            continue;
        const bool kept = is_kept(m, i, now), best_kept = best >= 0 && is_kept(m, best, now);
        uint64_t a = kept ? m->s[i].b.keep_until_us : m->s[i].b.used_us, b = best < 0    ? 0
                                                                             : best_kept ? m->s[best].b.keep_until_us
                                                                                         : m->s[best].b.used_us;
        if (best < 0 || kept < best_kept ||
            (kept == best_kept && (a < b || (a == b && m->s[i].order < m->s[best].order))))
            best = i;
    }
    return best;
}

/* By worth: no leaf that is not kept is worth less than `width` of the victim. */
static void check_worth(const struct model *m, const struct returns *r, int32_t victim, double width, uint64_t now)
{
    if (victim < 0) {
        for (int32_t i = 0; i < SLOTS; i++)
            ck_assert(!is_leaf(m, i));
        return;
    }
    ck_assert(is_leaf(m, victim));
    double v = room_of(r, &m->s[victim].b, now);
    for (int32_t i = 0; i < SLOTS; i++)
        if (is_leaf(m, i) && !is_kept(m, i, now)) {
            ck_assert(!is_kept(m, victim, now));
            ck_assert_double_ge(room_of(r, &m->s[i].b, now), v * width * (1 - 1e-12));
        }
}

/* Without a model the block that has owed longest; with one none that came last to its class is worth more. */
static void check_spill(struct model *m, const struct returns *r, int32_t spilled, uint64_t now)
{
    for (int32_t i = 0; i < SLOTS; i++) {
        if (m->s[i].owed == 0)
            continue;
        ck_assert(spilled >= 0 && m->s[spilled].owed > 0);
        if (!r) {
            ck_assert_uint_ge(m->s[i].owed, m->s[spilled].owed);
            continue;
        }
        bool last = true;
        for (int32_t j = 0; j < SLOTS; j++)
            last &= m->s[j].owed <= m->s[i].owed || m->s[j].b.class != m->s[i].b.class;
        ck_assert(!last || worth_of(r, &m->s[i].b, now) <= worth_of(r, &m->s[spilled].b, now));
    }
    if (spilled >= 0)
        m->s[spilled].owed = 0;
}

/* The copy of a block comes or goes, or a writing fails. */
static void change_copy(struct evict *e, struct model *m, int32_t i, bool copied, bool one_cost)
{
    m->s[i].copied = copied;
    m->s[i].owed = copied ? 0 : ++m->n_owed;
    if (!one_cost)
        m->s[i].b.seconds = copied ? 0.0005f : 0.004f;
    if (copied)
        evict_copied(e, i, m->s[i].b.seconds);
    else
        evict_owes(e, i, m->s[i].b.seconds);
}

static int32_t random_in(const struct model *m, uint64_t *rng)
{
    int32_t i = (int32_t)(rng_next(rng) % SLOTS);
    for (int n = 0; n < SLOTS; n++, i = (i + 1) % SLOTS)
        if (m->s[i].state != EVICT_OUT)
            return i;
    return -1;
}

static void remove_one(struct evict *e, struct model *m, int32_t i)
{
    evict_remove(e, i);
    m->s[i].state = EVICT_OUT;
    m->s[i].owed = 0;
    for (int c = 0; c < SLOTS; c++)
        if (m->s[c].b.parent == i)
            m->s[c].b.parent = -1;
    m->s[i].b.parent = -1;
}

static void add_one(struct evict *e, struct model *m, uint64_t *rng, uint64_t now, bool one_cost)
{
    int32_t i = (int32_t)(rng_next(rng) % SLOTS);
    while (m->s[i].state != EVICT_OUT)
        i = (i + 1) % SLOTS;
    struct evict_block b = {
        .used_us = now - rng_next(rng) % (now / 2 + 1),
        .keep_until_us = rng_next(rng) % 8 ? 0 : now + rng_next(rng) % (20 * S),
        .seconds = one_cost ? 0.002f : 0.001f * (float)(1 + rng_next(rng) % 30),
        .bytes = one_cost ? 4096 : 1000 << rng_next(rng) % 3,
        .session = (uint32_t)rng_next(rng),
        .parent = rng_next(rng) % 4 ? random_in(m, rng) : -1,
        .class = (uint8_t)(rng_next(rng) % RETURNS_CLASSES),
    };
    m->s[i].b = b;
    m->s[i].state = EVICT_HELD;
    m->s[i].copied = false;
    m->s[i].owed = ++m->n_owed;
    evict_add(e, i, &b);
}

static void release_one(struct evict *e, struct model *m, int32_t i)
{
    evict_release(e, i);
    if (m->s[i].state != EVICT_IDLE)
        m->s[i].order = ++m->n_released;
    m->s[i].state = EVICT_IDLE;
}

/* A block without a parent gets one that is in, but none of those that come after it. */
static void adopt_one(struct evict *e, struct model *m, int32_t i, int32_t parent)
{
    for (int32_t p = parent; p >= 0; p = m->s[p].b.parent)
        if (p == i)
            return;
    if (m->s[i].b.parent >= 0)
        return;
    m->s[i].b.parent = parent;
    evict_adopt(e, i, parent);
}

static void random_step(struct evict *e, struct model *m, const struct returns *r, uint64_t *rng, uint64_t now,
                        bool one_cost, int n_in)
{
    int32_t i = random_in(m, rng);
    switch (rng_next(rng) % 12) {
    case 0:
    case 1:
        if (n_in < SLOTS)
            add_one(e, m, rng, now, one_cost);
        return;
    case 2:
        if (i >= 0)
            remove_one(e, m, i);
        return;
    case 3:
        if (i >= 0) {
            evict_hold(e, i);
            m->s[i].state = EVICT_HELD;
        }
        return;
    case 4:
        if (i >= 0) {
            m->s[i].b.used_us = now;
            m->s[i].b.class = (uint8_t)(rng_next(rng) % RETURNS_CLASSES);
            evict_use(e, i, m->s[i].b.class, 7, now);
            m->s[i].owed = m->s[i].owed ? ++m->n_owed : 0;
        }
        return;
    case 5:
        if (i >= 0) {
            m->s[i].b.keep_until_us = rng_next(rng) % 2 ? now + 5 * S : 0;
            evict_keep(e, i, m->s[i].b.keep_until_us);
        }
        return;
    case 6: {
        int32_t v = evict_pick(e, now);
        if (r)
            check_worth(m, r, v, one_cost ? 1 : 0.5, now);
        else
            ck_assert_int_eq(v, oldest_leaf(m, now));
        if (v >= 0)
            m->s[v].state = EVICT_LEAVING;
        return;
    }
    case 7:
        check_spill(m, r, evict_spill(e, now), now);
        return;
    case 8:
        if (i >= 0)
            change_copy(e, m, i, rng_next(rng) % 2, one_cost);
        return;
    case 9:
        if (i >= 0)
            adopt_one(e, m, i, random_in(m, rng));
        return;
    default:
        if (i >= 0)
            release_one(e, m, i);
    }
}

/* Sessions of a few turns over a shared head; what was used by many comes back, the rest seldom. */
static void teach(struct returns *r, uint64_t *rng)
{
    struct hash_key keys[64];
    for (uint64_t n = 0; n < 400; n++) {
        uint64_t session = rng_next(rng) % 60;
        uint32_t len = 8 + (uint32_t)(rng_next(rng) % 56);
        for (uint32_t i = 0; i < len; i++)
            keys[i] = key_of(i < 4 ? i : session * 1000 + i);
        returns_use(r, keys, len, n * S);
    }
    returns_check(r);
}

static void random_run(bool learned, bool one_cost)
{
    uint64_t rng = unit_seed(learned ? "worth" : "lru");
    struct returns *r = NULL;
    struct evict *e;
    struct model m = {0};
    if (learned) {
        ck_assert_int_eq(returns_open(&r, &(struct returns_opts){.capacity = 512, .sample = 1}), 0);
        teach(r, &rng);
    }
    ck_assert_int_eq(evict_open(&e, SLOTS, r), 0);
    uint64_t now = 1000 * S;
    for (int n = 0; n < 100000; n++) {
        int n_in = 0;
        uint32_t n_idle = 0, n_copied = 0;
        for (int i = 0; i < SLOTS; i++) {
            n_in += m.s[i].state != EVICT_OUT;
            n_idle += m.s[i].state == EVICT_IDLE;
            n_copied += m.s[i].state == EVICT_IDLE && m.s[i].copied;
        }
        ck_assert_uint_eq(evict_n_copied(e), n_copied);
        ck_assert_uint_eq(evict_n_idle(e), n_idle);
        now += rng_next(&rng) % 4 ? 0 : rng_next(&rng) % S;
        random_step(e, &m, r, &rng, now, one_cost, n_in);
        if (n % 64 == 0)
            evict_check(e);
    }
    evict_close(e);
    returns_close(r);
}

START_TEST(test_without_a_model_the_oldest_leaf_goes)
{
    random_run(false, false);
}
END_TEST

START_TEST(test_with_a_model_the_leaf_worth_least_goes)
{
    random_run(true, true);
}
END_TEST

START_TEST(test_costs_are_told_apart_to_a_factor_of_two)
{
    random_run(true, false);
}
END_TEST

START_TEST(test_a_chain_goes_from_its_end)
{
    struct evict *e;
    ck_assert_int_eq(evict_open(&e, 4, NULL), 0);
    for (int32_t i = 0; i < 4; i++)
        evict_add(e, i, &(struct evict_block){.bytes = 1, .seconds = 1, .parent = i - 1, .used_us = 5});
    for (int32_t i = 0; i < 4; i++)
        evict_release(e, i);
    for (int32_t i = 3; i >= 0; i--) {
        ck_assert_int_eq(evict_pick(e, 9), i);
        if (i % 2)
            evict_remove(e, i); /* on its way out or out: the parent is a leaf */
    }
    ck_assert_int_eq(evict_pick(e, 9), -1);
    evict_check(e);
    evict_close(e);
}
END_TEST

/* -- returns */

/* A world of two kinds of sessions: even ones return after 100 s for sure, odd ones never. The new part of their
 * prompts differs in size, so their classes differ. */
START_TEST(test_returns_are_learned_by_class_and_idle_time)
{
    struct returns *r;
    struct hash_key keys[400];
    struct returns_turn t;
    uint8_t sure = 0, never = 0;
    ck_assert_int_eq(returns_open(&r, &(struct returns_opts){.sample = 4}), 0);
    for (uint64_t n = 0; n < 4000; n++) {
        uint64_t session = n >= 100 && (n / 100) % 2 && n % 2 == 0 ? n - 100 : n;
        uint32_t len = n % 2 ? 400 : 30;
        for (uint32_t i = 0; i < len; i++)
            keys[i] = key_of((session + 1) << 20 | i);
        t = returns_use(r, keys, len, n * S);
        if (session == n)
            *(n % 2 ? &never : &sure) = returns_class(&t, 10);
    }
    returns_check(r);
    ck_assert_uint_ne(sure, never);
    printf("P sure %.3f, never %.3f\n", returns_p(r, sure, 10 * S), returns_p(r, never, 10 * S));
    ck_assert_double_gt(returns_p(r, sure, 10 * S), 0.9);
    ck_assert_double_lt(returns_p(r, never, 10 * S), 0.1);
    returns_close(r);
}
END_TEST

START_TEST(test_p_never_rises_with_idle_time)
{
    struct returns *r;
    uint64_t rng = unit_seed("p");
    ck_assert_int_eq(returns_open(&r, &(struct returns_opts){.capacity = 256, .sample = 1}), 0);
    teach(r, &rng);
    for (uint8_t c = 0; c < RETURNS_CLASSES; c++)
        for (uint64_t us = 0, last = 0; us < 40000 * S; last = us, us += us / 7 + 50000) {
            ck_assert_double_le(returns_p(r, c, us), returns_p(r, c, last));
            ck_assert_double_le(returns_rate(r, c, us), returns_rate(r, c, last));
        }
    returns_close(r);
}
END_TEST

START_TEST(test_turns_are_counted_by_content)
{
    struct returns *r;
    struct hash_key keys[400];
    ck_assert_int_eq(returns_open(&r, &(struct returns_opts){0}), 0);
    for (uint32_t i = 0; i < 400; i++)
        keys[i] = key_of(i);
    for (uint32_t turn = 1; turn < 6; turn++) {
        struct returns_turn t = returns_use(r, keys, 40 * turn, turn * S);
        ck_assert_uint_eq(t.turn, turn);
        ck_assert_uint_eq(t.from[2], 40 * turn - 8);
        ck_assert_uint_le(t.from[1], 40 * (turn - 1));
        t = returns_use(r, keys, 40 * turn, turn * S); /* the same again is no turn */
        ck_assert_uint_eq(t.turn, turn);
    }
    returns_close(r);
}
END_TEST

/* Users with one long system prompt: it is nobody's earlier turn, however many there are. */
START_TEST(test_a_shared_head_is_no_turn)
{
    struct returns *r;
    struct hash_key keys[100];
    uint32_t turns = 0;
    ck_assert_int_eq(returns_open(&r, &(struct returns_opts){0}), 0);
    for (uint32_t user = 0; user < 100; user++) {
        for (uint32_t i = 0; i < 100; i++)
            keys[i] = key_of(i < 90 ? i : user * 1000 + i);
        turns += returns_use(r, keys, 94 + user % 7, user * S).turn > 1;
    }
    printf("%u of 100 taken for a second turn\n", turns);
    ck_assert_uint_le(turns, 10);
    returns_close(r);
}
END_TEST

START_TEST(test_memory_is_bounded)
{
    struct returns *r;
    struct hash_key keys[256];
    ck_assert_int_eq(returns_open(&r, &(struct returns_opts){.capacity = 100, .sample = 1}), 0);
    for (uint64_t n = 0; n < 300; n++) {
        for (uint32_t i = 0; i < 256; i++)
            keys[i] = key_of(n / 2 * 1000 + i);
        returns_use(r, keys, 256, n * S / 10);
        returns_check(r);
    }
    returns_close(r);
}
END_TEST

UNIT_MAIN("evict", test_without_a_model_the_oldest_leaf_goes, test_with_a_model_the_leaf_worth_least_goes,
          test_costs_are_told_apart_to_a_factor_of_two, test_a_chain_goes_from_its_end,
          test_returns_are_learned_by_class_and_idle_time, test_p_never_rises_with_idle_time,
          test_turns_are_counted_by_content, test_a_shared_head_is_no_turn, test_memory_is_bounded)
