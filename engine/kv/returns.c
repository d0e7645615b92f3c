/* returns - see returns.h.
 *
 * Remembered blocks stand in one list by last use, and the list is cut into age buckets (under a second, then powers
 * of two seconds). In each bucket a class has a hazard: returns that happened there / seconds that blocks were there,
 * so blocks whose end nobody has seen yet count as far as they have been seen. The hazard of a class is drawn to that
 * of all classes times one factor for the class: a class tells early how likely it returns, and all together tell when.
 */
#include "engine/kv/returns.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE        (-1)
#define AGES        14      /* bucket 0: < 1 s; i: [2^(i-1), 2^i) s; the last has no end */
#define TAIL_TOKENS 512     /* the last tokens of a prompt: the next turn may render them differently */
#define SHARED_USES 8       /* a block used more often is a head that conversations share, not the end of one */
#define HALF_LIFE_S 14400.0 /* of what has been seen */
#define CELL_PRIOR  256.0   /* returns that the other classes stand for in a class: at one age, */
#define CLASS_PRIOR 16.0    /* over all ages; */
#define FIRST_PRIOR 64.0    /* and that first_hazard stands for in all together */

/* Returns a second before anything has been seen: the Mooncake conversation trace (FAST'25). */
static const double first_hazard[AGES] = {1e-3,   1e-4, 1e-4, 2e-4,   5e-4, 9e-4, 1.6e-3,
                                          1.7e-3, 8e-4, 4e-4, 1.1e-4, 4e-5, 1e-5, 1e-5};

struct memory { /* of one block */
    uint64_t key, used_us;
    int32_t chain, older, newer;
    uint8_t class, age, uses, turn; /* turn > 0: the prompt of that turn ended about here */
    bool present;
};

struct cell {                 /* of a class and an age: occurrences and exposure */
    double returned, seconds; /* fading */
    uint32_t n;               /* remembered blocks there now */
};

struct returns {
    uint32_t capacity, n, mask, sample, tail_blocks, block_tokens;
    int32_t oldest, newest, free;
    int32_t oldest_of[AGES];
    uint64_t now_us;
    struct memory *memories; /* [capacity] */
    int32_t *buckets;        /* [mask + 1] */
    struct cell cells[RETURNS_CLASSES][AGES];
    double p[RETURNS_CLASSES][AGES + 1], rate[RETURNS_CLASSES][AGES + 1];
};

static double begin_s(int age)
{
    return age ? (double)(1u << (age - 1)) : 0;
}

static double width_s(int age)
{
    return age < AGES - 1 ? begin_s(age + 1) - begin_s(age) : begin_s(age);
}

/* The best that keeping it can give: over all times to keep it for, the largest (returns expected) / (seconds it stays
 * expected), as Gittins (1979) ranks jobs whose end is not known. hazard: returns a second, of a class. */
static void update_rate(double *rate, const double *hazard)
{
    rate[AGES] = 0;
    for (int a = AGES - 1; a >= 0; a--) {
        double alive = 1, seconds = 0;
        rate[a] = rate[a + 1]; /* never below what it will be later: so that it never rises with age */
        for (int b = a; b < AGES; b++) {
            double left = alive * exp(-hazard[b] * width_s(b));
            seconds += hazard[b] > 0 ? (alive - left) / hazard[b] : alive * width_s(b);
            alive = left;
            rate[a] = fmax(rate[a], (1 - alive) / seconds);
        }
    }
}

/* How much likelier than all blocks together those of a class return, over all ages. */
static double multiple_of(const struct cell *c, const double *all)
{
    double returned = CLASS_PRIOR, expected = CLASS_PRIOR;
    for (int a = 0; a < AGES; a++) {
        returned += c[a].returned;
        expected += c[a].seconds * all[a];
    }
    return returned / expected;
}

/* Hazards of all classes together, on first_hazard as prior. */
static void pool_classes(const struct returns *r, double *all)
{
    for (int a = 0; a < AGES; a++) {
        double returned = FIRST_PRIOR, seconds = FIRST_PRIOR / first_hazard[a];
        for (int c = 0; c < RETURNS_CLASSES; c++) {
            returned += r->cells[c][a].returned;
            seconds += r->cells[c][a].seconds;
        }
        all[a] = returned / seconds;
    }
}

static void update_p(struct returns *r)
{
    double all[AGES], hazard[AGES];
    pool_classes(r, all);
    for (int c = 0; c < RETURNS_CLASSES; c++) {
        double multiple = multiple_of(r->cells[c], all);
        r->p[c][AGES] = 0;
        for (int a = AGES - 1; a >= 0; a--) {
            const struct cell *x = &r->cells[c][a];
            hazard[a] = (x->returned + CELL_PRIOR) / (x->seconds + CELL_PRIOR / (multiple * all[a]));
            r->p[c][a] = 1 - (1 - r->p[c][a + 1]) * exp(-hazard[a] * width_s(a));
        }
        update_rate(r->rate[c], hazard);
    }
}

int returns_open(struct returns **out, const struct returns_opts *o)
{
    struct returns *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->capacity = o->capacity ? o->capacity : 131072;
    r->sample = o->sample ? o->sample : 4;
    r->block_tokens = o->block_tokens ? o->block_tokens : 64;
    r->tail_blocks = (TAIL_TOKENS + r->block_tokens - 1) / r->block_tokens;
    assert((r->sample & (r->sample - 1)) == 0);
    uint32_t n = 16;
    while (n < r->capacity)
        n *= 2;
    r->mask = n - 1;
    r->memories = calloc(r->capacity, sizeof *r->memories);
    r->buckets = malloc(n * sizeof *r->buckets);
    if (!r->memories || !r->buckets) {
        returns_close(r);
        return -ENOMEM;
    }
    memset(r->buckets, 0xff, n * sizeof *r->buckets);
    for (uint32_t i = 0; i < r->capacity; i++)
        r->memories[i].chain = i + 1 < r->capacity ? (int32_t)i + 1 : NONE;
    r->oldest = r->newest = NONE;
    for (int a = 0; a < AGES; a++)
        r->oldest_of[a] = NONE;
    update_p(r);
    *out = r;
    return 0;
}

void returns_close(struct returns *r)
{
    if (!r)
        return;
    free(r->memories);
    free(r->buckets);
    free(r);
}

/* -- learning */

static struct cell *cell_of(struct returns *r, const struct memory *m)
{
    return &r->cells[m->class][m->age];
}

/* All remembered blocks have been exposed for the time since. */
static void pass_time(struct returns *r, uint64_t now_us)
{
    double seconds = (double)(now_us - r->now_us) / 1e6, fade = exp2(-seconds / HALF_LIFE_S);
    for (int c = 0; c < RETURNS_CLASSES; c++)
        for (int a = 0; a < AGES; a++) {
            struct cell *x = &r->cells[c][a];
            x->seconds = x->seconds * fade + x->n * seconds;
            x->returned *= fade;
        }
    r->now_us = now_us;
}

/* -- the list by last use, cut into ages */

static void list_append(struct returns *r, int32_t i)
{
    struct memory *m = &r->memories[i];
    m->older = r->newest;
    m->newer = NONE;
    if (r->newest != NONE)
        r->memories[r->newest].newer = i;
    else
        r->oldest = i;
    r->newest = i;
    m->age = 0;
    cell_of(r, m)->n++;
    if (r->oldest_of[0] == NONE)
        r->oldest_of[0] = i;
}

/* Whoever is next in the same bucket is its oldest now. */
static void leave_age(struct returns *r, int32_t i)
{
    const struct memory *m = &r->memories[i];
    cell_of(r, m)->n--;
    if (r->oldest_of[m->age] == i)
        r->oldest_of[m->age] = m->newer != NONE && r->memories[m->newer].age == m->age ? m->newer : NONE;
}

static void list_remove(struct returns *r, int32_t i)
{
    struct memory *m = &r->memories[i];
    leave_age(r, i);
    if (m->older != NONE)
        r->memories[m->older].newer = m->newer;
    else
        r->oldest = m->newer;
    if (m->newer != NONE)
        r->memories[m->newer].older = m->older;
    else
        r->newest = m->older;
}

static uint64_t age_end_us(int age)
{
    return 1000000ull << age;
}

static void grow_older(struct returns *r, uint64_t now_us)
{
    for (int a = AGES - 2; a >= 0; a--) {
        int32_t i;
        while ((i = r->oldest_of[a]) != NONE && now_us - r->memories[i].used_us >= age_end_us(a)) {
            leave_age(r, i);
            r->memories[i].age++;
            cell_of(r, &r->memories[i])->n++;
            if (r->oldest_of[a + 1] == NONE)
                r->oldest_of[a + 1] = i;
        }
    }
}

/* -- from key to memory */

static uint64_t short_key(const struct hash_key *k)
{
    uint64_t v;
    memcpy(&v, k->b, sizeof v);
    return v;
}

static bool sampled(const struct returns *r, uint64_t key)
{
    return (key >> 32 & (r->sample - 1)) == 0;
}

static int32_t *bucket_of(const struct returns *r, uint64_t key)
{
    return &r->buckets[key & r->mask];
}

static int32_t find(const struct returns *r, uint64_t key)
{
    int32_t i = *bucket_of(r, key);
    while (i != NONE && r->memories[i].key != key)
        i = r->memories[i].chain;
    return i;
}

static void forget(struct returns *r, int32_t i)
{
    struct memory *m = &r->memories[i];
    int32_t *at = bucket_of(r, m->key);
    while (*at != i)
        at = &r->memories[*at].chain;
    *at = m->chain;
    list_remove(r, i);
    m->present = false;
    m->chain = r->free;
    r->free = i;
    r->n--;
}

static int32_t remember(struct returns *r, uint64_t key)
{
    if (r->n == r->capacity)
        forget(r, r->oldest);
    int32_t i = r->free, *bucket = bucket_of(r, key);
    struct memory *m = &r->memories[i];
    r->free = m->chain;
    *m = (struct memory){.key = key, .chain = *bucket, .present = true};
    *bucket = i;
    r->n++;
    return i;
}

/* -- a request */

/* New tokens: below 2k, 4k, 16k, 32k, more. */
static int level_of_new(uint64_t tokens)
{
    return tokens < 2048 ? 0 : tokens < 4096 ? 1 : tokens < 16384 ? 2 : tokens < 32768 ? 3 : 4;
}

/* Turns 1, 2, 3 and 4, more. */
static int level_of_turn(uint32_t turn)
{
    return turn <= 2 ? (int)turn - 1 : turn <= 4 ? 2 : 3;
}

/* 0 .. 39: turn, new tokens, known or new; 40 .. 43: tails by turn; 44: shared heads. */
static void set_classes(const struct returns *r, struct returns_turn *t, uint32_t n)
{
    int turn = level_of_turn(t->turn), fresh = level_of_new((uint64_t)(n - t->from[1]) * r->block_tokens);
    t->class[0] = 44;
    t->class[1] = (uint8_t)(2 * (5 * turn + fresh));
    t->class[2] = (uint8_t)(t->class[1] + 1);
    t->class[3] = (uint8_t)(40 + turn);
}

/* How far the chain is known and shared, and the turn its request is: one more than the last prompt that ended in it. A
 * prompt that ends where that one did is the same again, not one more. */
static struct returns_turn recognise(const struct returns *r, const struct hash_key *keys, uint32_t n)
{
    struct returns_turn t = {0};
    uint32_t body = n > r->tail_blocks ? n - r->tail_blocks : 0;
    bool longer = false; /* a sampled block of the body lies beyond */
    for (uint32_t i = n; i-- > 0 && t.from[0] == 0;) {
        uint64_t key = short_key(&keys[i]);
        if (!sampled(r, key))
            continue;
        bool beyond = longer;
        int32_t at = find(r, key);
        longer |= i < body;
        if (at == NONE)
            continue;
        const struct memory *m = &r->memories[at];
        if (t.from[1] == 0)
            t.from[1] = i + 1;
        if (m->uses > SHARED_USES)
            t.from[0] = i + 1;
        else if (m->turn && t.turn == 0)
            t.turn = m->turn + (uint32_t)beyond;
    }
    if (t.turn == 0)
        t.turn = 1;
    set_classes(r, &t, n);
    t.from[2] = body;
    for (int i = 1; i >= 0; i--)
        if (t.from[i] > t.from[i + 1])
            t.from[i] = t.from[i + 1];
    return t;
}

struct returns_turn returns_use(struct returns *r, const struct hash_key *keys, uint32_t n, uint64_t now_us)
{
    assert(now_us >= r->now_us);
    pass_time(r, now_us);
    grow_older(r, now_us);
    struct returns_turn t = recognise(r, keys, n);
    int32_t end = NONE;
    bool end_is_new = false;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t key = short_key(&keys[i]);
        if (!sampled(r, key))
            continue;
        int32_t at = find(r, key);
        bool is_new = at == NONE;
        if (is_new) {
            at = remember(r, key);
        } else {
            cell_of(r, &r->memories[at])->returned++;
            list_remove(r, at);
        }
        struct memory *m = &r->memories[at];
        m->used_us = now_us;
        m->class = returns_class(&t, i);
        m->uses += m->uses < UINT8_MAX;
        list_append(r, at);
        if (i < t.from[2]) {
            end = at;
            end_is_new = is_new;
        }
    }
    /* where the body ends, the next turn goes on, if nobody has been here before */
    if (end != NONE && end_is_new)
        r->memories[end].turn = (uint8_t)(t.turn < UINT8_MAX ? t.turn : UINT8_MAX);
    update_p(r);
    return t;
}

static double at_idle(const double *v, uint64_t idle_us)
{
    uint64_t s = idle_us / 1000000;
    int a = s ? 64 - __builtin_clzll(s) : 0;
    if (a >= AGES - 1)
        return v[AGES - 1];
    uint64_t begin = a ? age_end_us(a - 1) : 0;
    double part = (double)(idle_us - begin) / (double)(age_end_us(a) - begin);
    return v[a] + (v[a + 1] - v[a]) * part;
}

double returns_p(const struct returns *r, uint8_t class, uint64_t idle_us)
{
    return at_idle(r->p[class], idle_us);
}

double returns_rate(const struct returns *r, uint8_t class, uint64_t idle_us)
{
    return at_idle(r->rate[class], idle_us);
}

void returns_check(const struct returns *r)
{
    uint32_t n = 0, age = AGES;
    uint64_t used_us = 0;
    for (int32_t i = r->oldest; i != NONE; i = r->memories[i].newer, n++) {
        const struct memory *m = &r->memories[i];
        assert(m->present && find(r, m->key) == i && m->used_us >= used_us && m->age <= age);
        assert(m->newer != NONE ? r->memories[m->newer].older == i : r->newest == i);
        assert(m->age == age || r->oldest_of[m->age] == i);
        used_us = m->used_us;
        age = m->age;
    }
    assert(n == r->n && n <= r->capacity);
    for (int c = 0; c < RETURNS_CLASSES; c++)
        for (int a = 0; a < AGES; a++) {
            n -= r->cells[c][a].n;
            assert(r->p[c][a] >= r->p[c][a + 1] && r->p[c][a] <= 1 && r->rate[c][a] >= r->rate[c][a + 1]);
        }
    assert(n == 0);
}
