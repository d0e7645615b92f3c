/* evict - see evict.h.
 *
 * Idle leaves stand in groups: class x cost, where cost is the logarithm of seconds per byte. In a group P depends on
 * idle time alone and never rises with it, so the oldest leaf is worth least, up to the width of a cost level. Each
 * group is a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986) by last use through links in the slots. One more
 * group holds leaves that a session's TTL keeps, by the end of it; they move to their own group when it has come.
 *
 * Blocks without a copy below stand in a list for each class, by last use: the newest of a class is the likeliest to
 * return, so the best of all is among the lists' ends.
 */
#include "engine/kv/evict.h"

#include "engine/base/large.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE     (-1)
#define COSTS    8
#define N_GROUPS (RETURNS_CLASSES * COSTS + 1)
#define KEPT     (N_GROUPS - 1)
#define WORDS    ((N_GROUPS + 63) / 64)

struct slot {
    struct evict_block b;
    uint64_t order, rank;         /* when it became a leaf's candidate; key of its heap, then order */
    int32_t child, next, prev;    /* heap: first child, sibling, sibling before or parent */
    int32_t first, after, before; /* chain: first child in the tier, siblings */
    int32_t n_staying;            /* children held or idle */
    int32_t older, newer;         /* in the list of its class, while it owes a copy */
    int16_t group;                /* heap it stands in, or -1 */
    int16_t owes;                 /* list it stands in, or -1 */
    uint8_t state;                /* enum evict_state */
    bool copied;                  /* there is a copy below */
};

struct evict {
    uint32_t n_slots, n_idle, n_copied, n_owing; /* n_copied: of the idle ones */
    const struct returns *model;
    uint64_t n_released;
    int32_t heap[N_GROUPS]; /* roots */
    uint64_t used[WORDS];   /* groups that have any */
    int32_t oldest[RETURNS_CLASSES], newest[RETURNS_CLASSES];
    struct slot *slots;
};

int evict_open(struct evict **out, uint32_t n_slots, const struct returns *model)
{
    struct evict *e = calloc(1, sizeof *e);
    if (!e)
        return -ENOMEM;
    e->n_slots = n_slots;
    e->model = model;
    for (int g = 0; g < N_GROUPS; g++)
        e->heap[g] = NONE;
    for (int c = 0; c < RETURNS_CLASSES; c++)
        e->oldest[c] = e->newest[c] = NONE;
    e->slots = large_calloc(n_slots ? n_slots : 1, sizeof *e->slots);
    if (!e->slots) {
        evict_close(e);
        return -ENOMEM;
    }
    *out = e;
    return 0;
}

void evict_close(struct evict *e)
{
    if (!e)
        return;
    free(e->slots);
    free(e);
}

static struct slot *slot_at(const struct evict *e, int32_t i)
{
    assert(i >= 0 && (uint32_t)i < e->n_slots && e->slots[i].state != EVICT_OUT);
    return &e->slots[i];
}

/* -- heaps */

static bool before(const struct evict *e, int32_t a, int32_t b)
{
    const struct slot *x = &e->slots[a], *y = &e->slots[b];
    return x->rank != y->rank ? x->rank < y->rank : x->order < y->order;
}

/* Two heaps become one; either may be empty. */
static int32_t meld(struct evict *e, int32_t a, int32_t b)
{
    if (a == NONE || b == NONE)
        return a == NONE ? b : a;
    if (before(e, b, a)) {
        int32_t t = a;
        a = b;
        b = t;
    }
    struct slot *x = &e->slots[a], *y = &e->slots[b];
    y->next = x->child;
    if (y->next != NONE)
        e->slots[y->next].prev = b;
    y->prev = a;
    x->child = b;
    return a;
}

/* A row of siblings becomes one heap: in pairs from the left, then from the right. */
static int32_t meld_row(struct evict *e, int32_t i)
{
    int32_t pairs = NONE, heap = NONE;
    while (i != NONE) {
        int32_t a = i, b = e->slots[a].next;
        i = b == NONE ? NONE : e->slots[b].next;
        e->slots[a].next = e->slots[a].prev = NONE;
        if (b != NONE)
            e->slots[b].next = e->slots[b].prev = NONE;
        a = meld(e, a, b);
        e->slots[a].next = pairs;
        pairs = a;
    }
    while (pairs != NONE) {
        int32_t a = pairs;
        pairs = e->slots[a].next;
        e->slots[a].next = NONE;
        heap = meld(e, heap, a);
    }
    return heap;
}

static void set_root(struct evict *e, int group, int32_t root)
{
    uint64_t bit = 1ull << group % 64;
    e->heap[group] = root;
    if (root == NONE) {
        e->used[group / 64] &= ~bit;
        return;
    }
    e->used[group / 64] |= bit;
    e->slots[root].prev = e->slots[root].next = NONE;
}

static void heap_insert(struct evict *e, int32_t i, int group, uint64_t rank)
{
    struct slot *s = &e->slots[i];
    s->group = (int16_t)group;
    s->rank = rank;
    s->child = s->next = s->prev = NONE;
    set_root(e, group, meld(e, e->heap[group], i));
}

static void heap_remove(struct evict *e, int32_t i)
{
    struct slot *s = &e->slots[i];
    int group = s->group;
    int32_t row = meld_row(e, s->child);
    s->group = -1;
    if (e->heap[group] == i) {
        set_root(e, group, row);
        return;
    }
    struct slot *prev = &e->slots[s->prev];
    if (prev->child == i)
        prev->child = s->next;
    else
        prev->next = s->next;
    if (s->next != NONE)
        e->slots[s->next].prev = s->prev;
    set_root(e, group, meld(e, e->heap[group], row));
}

/* -- lists of blocks that owe a copy */

static void owe_no_more(struct evict *e, int32_t i)
{
    struct slot *s = &e->slots[i];
    if (s->owes < 0)
        return;
    if (s->older != NONE)
        e->slots[s->older].newer = s->newer;
    else
        e->oldest[s->owes] = s->newer;
    if (s->newer != NONE)
        e->slots[s->newer].older = s->older;
    else
        e->newest[s->owes] = s->older;
    s->owes = -1;
    e->n_owing--;
}

static void owe(struct evict *e, int32_t i)
{
    struct slot *s = &e->slots[i];
    owe_no_more(e, i);
    s->owes = e->model ? s->b.class : 0;
    s->older = e->newest[s->owes];
    s->newer = NONE;
    if (s->older != NONE)
        e->slots[s->older].newer = i;
    else
        e->oldest[s->owes] = i;
    e->newest[s->owes] = i;
    e->n_owing++;
}

/* -- candidates */

static int cost_level(const struct evict_block *b)
{
    int exponent;
    frexp((double)b->seconds / b->bytes, &exponent); /* of powers of two, modulo COSTS: neighbours differ */
    return exponent & (COSTS - 1);
}

static int group_of(const struct evict *e, const struct evict_block *b)
{
    return e->model ? b->class * COSTS + cost_level(b) : 0;
}

/* Before a block that others go on from only a copy below can go. */
static bool is_candidate(const struct slot *s)
{
    return s->state == EVICT_IDLE && (s->n_staying == 0 || s->copied);
}

/* Put slot i into the heap where it belongs, or take it out of all. */
static void settle(struct evict *e, int32_t i)
{
    struct slot *s = &e->slots[i];
    if (s->group >= 0)
        heap_remove(e, i);
    if (!is_candidate(s))
        return;
    if (s->b.keep_until_us)
        heap_insert(e, i, KEPT, s->b.keep_until_us);
    else
        heap_insert(e, i, group_of(e, &s->b), s->b.used_us);
}

/* The parent of a block that now stays (+1) or goes (-1). */
static void count_child(struct evict *e, const struct slot *s, int n)
{
    if (s->b.parent == NONE)
        return;
    struct slot *p = &e->slots[s->b.parent];
    bool was = p->n_staying == 0;
    p->n_staying += n;
    assert(p->n_staying >= 0);
    if (was != (p->n_staying == 0))
        settle(e, s->b.parent);
}

static bool stays(enum evict_state st)
{
    return st == EVICT_HELD || st == EVICT_IDLE;
}

static void set_state(struct evict *e, int32_t i, enum evict_state to)
{
    struct slot *s = &e->slots[i];
    enum evict_state from = s->state;
    if (from == to)
        return;
    e->n_idle += (uint32_t)(to == EVICT_IDLE) - (uint32_t)(from == EVICT_IDLE);
    if (s->copied)
        e->n_copied += (uint32_t)(to == EVICT_IDLE) - (uint32_t)(from == EVICT_IDLE);
    s->state = (uint8_t)to;
    if (to == EVICT_IDLE)
        s->order = ++e->n_released;
    settle(e, i);
    if (stays(from) != stays(to))
        count_child(e, s, stays(to) ? 1 : -1);
}

/* -- verbs */

void evict_add(struct evict *e, int32_t slot, const struct evict_block *b)
{
    assert(slot >= 0 && (uint32_t)slot < e->n_slots && e->slots[slot].state == EVICT_OUT && b->bytes > 0);
    struct slot *s = &e->slots[slot];
    *s = (struct slot){.b = *b, .group = -1, .owes = -1, .first = NONE, .after = NONE, .before = NONE};
    s->b.parent = NONE;
    owe(e, slot);
    set_state(e, slot, EVICT_HELD);
    if (b->parent != NONE)
        evict_adopt(e, slot, b->parent);
}

void evict_adopt(struct evict *e, int32_t slot, int32_t parent)
{
    struct slot *s = slot_at(e, slot), *p = slot_at(e, parent);
    assert(s->b.parent == NONE && slot != parent);
    s->b.parent = parent;
    s->after = p->first;
    if (s->after != NONE)
        e->slots[s->after].before = slot;
    p->first = slot;
    if (stays(s->state))
        count_child(e, s, 1);
}

void evict_hold(struct evict *e, int32_t slot)
{
    slot_at(e, slot);
    set_state(e, slot, EVICT_HELD);
}

void evict_release(struct evict *e, int32_t slot)
{
    slot_at(e, slot);
    set_state(e, slot, EVICT_IDLE);
}

void evict_remove(struct evict *e, int32_t slot)
{
    struct slot *s = slot_at(e, slot);
    int32_t child = s->first;
    while (child != NONE) {
        struct slot *c = &e->slots[child];
        child = c->after;
        c->b.parent = c->after = c->before = NONE;
    }
    s->first = NONE;
    s->n_staying = 0;
    owe_no_more(e, slot);
    set_state(e, slot, EVICT_OUT);
    if (s->b.parent == NONE)
        return;
    if (s->before != NONE)
        e->slots[s->before].after = s->after;
    else
        e->slots[s->b.parent].first = s->after;
    if (s->after != NONE)
        e->slots[s->after].before = s->before;
}

void evict_use(struct evict *e, int32_t slot, uint8_t class, uint32_t session, uint64_t now_us)
{
    struct slot *s = slot_at(e, slot);
    assert(class < RETURNS_CLASSES);
    s->b.used_us = now_us;
    s->b.class = class;
    s->b.session = session;
    if (s->group >= 0)
        settle(e, slot);
    if (s->owes >= 0)
        owe(e, slot);
}

void evict_keep(struct evict *e, int32_t slot, uint64_t until_us)
{
    struct slot *s = slot_at(e, slot);
    s->b.keep_until_us = until_us;
    if (s->group >= 0)
        settle(e, slot);
}

static uint64_t idle_us(const struct evict_block *b, uint64_t now_us)
{
    return now_us > b->used_us ? now_us - b->used_us : 0;
}

static double worth(const struct evict *e, const struct evict_block *b, uint64_t now_us)
{
    return (e->model ? returns_p(e->model, b->class, idle_us(b, now_us)) : 1) * (double)b->seconds / b->bytes;
}

/* What its room gives a second and byte. */
static double room_worth(const struct evict *e, const struct evict_block *b, uint64_t now_us)
{
    return (e->model ? returns_rate(e->model, b->class, idle_us(b, now_us)) : 1) * (double)b->seconds / b->bytes;
}

static void end_keeping(struct evict *e, uint64_t now_us)
{
    int32_t i;
    while ((i = e->heap[KEPT]) != NONE && e->slots[i].b.keep_until_us <= now_us)
        evict_keep(e, i, 0);
}

int32_t evict_peek(struct evict *e, uint64_t now_us)
{
    int32_t best = NONE;
    double least = INFINITY;
    end_keeping(e, now_us);
    for (int w = 0; w < WORDS; w++)
        for (uint64_t bits = e->used[w]; bits; bits &= bits - 1) {
            int group = 64 * w + __builtin_ctzll(bits);
            int32_t i = e->heap[group];
            double v = group == KEPT ? INFINITY : room_worth(e, &e->slots[i].b, now_us);
            if (best == NONE || v < least) {
                best = i;
                least = v;
            }
        }
    return best;
}

int32_t evict_pick(struct evict *e, uint64_t now_us)
{
    int32_t i = evict_peek(e, now_us);
    if (i != NONE)
        set_state(e, i, EVICT_LEAVING);
    return i;
}

/* -- copies below */

int32_t evict_spill(struct evict *e, uint64_t now_us)
{
    int32_t best = e->model ? NONE : e->oldest[0];
    double most = -1;
    for (int c = 0; e->model && c < RETURNS_CLASSES; c++) {
        int32_t i = e->newest[c];
        double v = i == NONE ? -1 : worth(e, &e->slots[i].b, now_us);
        if (v > most) {
            best = i;
            most = v;
        }
    }
    if (best != NONE)
        owe_no_more(e, best);
    return best;
}

static void set_copied(struct evict *e, int32_t slot, bool copied, float seconds)
{
    struct slot *s = slot_at(e, slot);
    if (s->state == EVICT_IDLE)
        e->n_copied += (uint32_t)copied - (uint32_t)s->copied;
    s->copied = copied;
    s->b.seconds = seconds;
    settle(e, slot);
}

void evict_copied(struct evict *e, int32_t slot, float seconds)
{
    set_copied(e, slot, true, seconds);
    owe_no_more(e, slot);
}

void evict_owes(struct evict *e, int32_t slot, float seconds)
{
    set_copied(e, slot, false, seconds);
    owe(e, slot);
}

/* -- queries */

const struct evict_block *evict_get(const struct evict *e, int32_t slot)
{
    return &slot_at(e, slot)->b;
}

double evict_worth(const struct evict *e, int32_t slot, uint64_t now_us)
{
    return worth(e, &slot_at(e, slot)->b, now_us);
}

enum evict_state evict_state(const struct evict *e, int32_t slot)
{
    assert(slot >= 0 && (uint32_t)slot < e->n_slots);
    return e->slots[slot].state;
}

void evict_expect(const struct evict *e, int32_t slot)
{
    __builtin_prefetch(&e->slots[slot]);
    __builtin_prefetch((const uint8_t *)&e->slots[slot + 1] - 1);
}

bool evict_is_leaf(const struct evict *e, int32_t slot)
{
    return slot_at(e, slot)->n_staying == 0;
}

uint32_t evict_n_idle(const struct evict *e)
{
    return e->n_idle;
}

uint32_t evict_n_copied(const struct evict *e)
{
    return e->n_copied;
}

uint32_t evict_n_owing(const struct evict *e)
{
    return e->n_owing;
}

static uint32_t check_heap(const struct evict *e, int32_t i, int group)
{
    uint32_t n = 1;
    for (int32_t c = e->slots[i].child, prev = i; c != NONE; prev = c, c = e->slots[c].next) {
        assert(e->slots[c].prev == prev && !before(e, c, i));
        n += check_heap(e, c, group);
    }
    assert(e->slots[i].group == group && is_candidate(&e->slots[i]));
    return n;
}

void evict_check(const struct evict *e)
{
    uint32_t idle = 0, copied = 0, candidates = 0, heaped = 0, owing = 0, listed = 0;
    for (uint32_t i = 0; i < e->n_slots; i++) {
        const struct slot *s = &e->slots[i];
        if (s->state == EVICT_OUT)
            continue;
        int32_t staying = 0;
        for (int32_t c = s->first; c != NONE; c = e->slots[c].after) {
            assert(e->slots[c].b.parent == (int32_t)i && e->slots[c].state != EVICT_OUT);
            staying += stays(e->slots[c].state);
        }
        assert(staying == s->n_staying);
        idle += s->state == EVICT_IDLE;
        copied += s->state == EVICT_IDLE && s->copied;
        owing += s->owes >= 0;
        assert(!s->copied || s->owes < 0);
        candidates += is_candidate(s);
        assert(is_candidate(s) == (s->group >= 0));
    }
    for (int g = 0; g < N_GROUPS; g++) {
        assert((e->heap[g] != NONE) == (e->used[g / 64] >> g % 64 & 1));
        if (e->heap[g] != NONE)
            heaped += check_heap(e, e->heap[g], g);
    }
    for (int c = 0; c < RETURNS_CLASSES; c++)
        for (int32_t i = e->oldest[c]; i != NONE; i = e->slots[i].newer, listed++)
            assert(e->slots[i].owes == c &&
                   (e->slots[i].newer != NONE ? e->slots[e->slots[i].newer].older == i : e->newest[c] == i));
    assert(idle == e->n_idle && copied == e->n_copied && candidates == heaped && owing == listed &&
           owing == e->n_owing);
}
