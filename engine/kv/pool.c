/* pool - see pool.h. Free blocks are a stack; limbo blocks are a ring in order of step (steps only grow). */
#include "engine/kv/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

struct pool {
    uint32_t n_blocks, n_free, n_idle;
    uint32_t limbo_first, n_limbo;
    uint64_t finished; /* the last step that has */
    uint32_t *refs;
    uint8_t *cached;
    int32_t *free; /* stack */
    struct limbo {
        uint64_t step;
        int32_t block;
    } * limbo; /* ring of n_blocks */
};

int pool_open(struct pool **out, uint32_t n_blocks)
{
    assert(n_blocks > 0 && n_blocks <= INT32_MAX);
    struct pool *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->n_blocks = p->n_free = n_blocks;
    p->refs = calloc(n_blocks, sizeof *p->refs);
    p->cached = calloc(n_blocks, 1);
    p->free = calloc(n_blocks, sizeof *p->free);
    p->limbo = calloc(n_blocks, sizeof *p->limbo);
    if (!p->refs || !p->cached || !p->free || !p->limbo) {
        pool_close(p);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n_blocks; i++) /* lowest ids on top: they are touched first */
        p->free[i] = (int32_t)(n_blocks - 1 - i);
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    free(p->refs);
    free(p->cached);
    free(p->free);
    free(p->limbo);
    free(p);
}

static void check_id(const struct pool *p, int32_t block)
{
    assert(block >= 0 && (uint32_t)block < p->n_blocks);
}

int pool_take(struct pool *p, uint32_t n, int32_t *out)
{
    if (n > p->n_free)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        int32_t b = p->free[--p->n_free];
        assert(p->refs[b] == 0 && !p->cached[b]);
        p->refs[b] = 1;
        out[i] = b;
    }
    return 0;
}

void pool_ref(struct pool *p, int32_t block)
{
    check_id(p, block);
    assert(p->refs[block] > 0 || p->cached[block]);
    if (p->refs[block]++ == 0)
        p->n_idle--;
}

static void to_limbo(struct pool *p, int32_t block, uint64_t step)
{
    if (step <= p->finished) { /* no step may come after it that would free it */
        p->free[p->n_free++] = block;
        return;
    }
    assert(p->n_limbo < p->n_blocks);
    uint32_t last = (p->limbo_first + p->n_limbo) % p->n_blocks;
    assert(p->n_limbo == 0 || p->limbo[(last + p->n_blocks - 1) % p->n_blocks].step <= step);
    p->limbo[last] = (struct limbo){step, block};
    p->n_limbo++;
}

bool pool_drop(struct pool *p, int32_t block, uint64_t step)
{
    check_id(p, block);
    assert(p->refs[block] > 0);
    if (--p->refs[block] > 0)
        return false;
    if (p->cached[block]) {
        p->n_idle++;
        return true;
    }
    to_limbo(p, block, step);
    return false;
}

void pool_set_cached(struct pool *p, int32_t block, bool cached, uint64_t step)
{
    check_id(p, block);
    assert(p->cached[block] != cached);
    assert(!cached || p->refs[block] > 0);
    p->cached[block] = cached;
    if (!cached && p->refs[block] == 0) {
        p->n_idle--;
        to_limbo(p, block, step);
    }
}

void pool_finish(struct pool *p, uint64_t step)
{
    if (step > p->finished)
        p->finished = step;
    while (p->n_limbo > 0 && p->limbo[p->limbo_first].step <= step) {
        p->free[p->n_free++] = p->limbo[p->limbo_first].block;
        p->limbo_first = (p->limbo_first + 1) % p->n_blocks;
        p->n_limbo--;
    }
}

uint32_t pool_refs(const struct pool *p, int32_t block)
{
    check_id(p, block);
    return p->refs[block];
}

bool pool_cached(const struct pool *p, int32_t block)
{
    check_id(p, block);
    return p->cached[block];
}

uint32_t pool_n_blocks(const struct pool *p)
{
    return p->n_blocks;
}

uint32_t pool_n_free(const struct pool *p)
{
    return p->n_free;
}

uint32_t pool_n_idle(const struct pool *p)
{
    return p->n_idle;
}

uint32_t pool_n_limbo(const struct pool *p)
{
    return p->n_limbo;
}

uint32_t pool_n_used(const struct pool *p)
{
    return p->n_blocks - p->n_free - p->n_idle - p->n_limbo;
}

void pool_check(const struct pool *p)
{
    uint8_t *seen = calloc(p->n_blocks, 1);
    uint32_t used = 0, idle = 0;
    assert(seen);
    for (uint32_t i = 0; i < p->n_free; i++) {
        int32_t b = p->free[i];
        assert(!seen[b] && p->refs[b] == 0 && !p->cached[b]);
        seen[b] = 1;
    }
    for (uint32_t i = 0; i < p->n_limbo; i++) {
        int32_t b = p->limbo[(p->limbo_first + i) % p->n_blocks].block;
        assert(!seen[b] && p->refs[b] == 0 && !p->cached[b]);
        seen[b] = 1;
    }
    for (uint32_t b = 0; b < p->n_blocks; b++) {
        if (seen[b])
            continue;
        assert(p->refs[b] > 0 || p->cached[b]);
        used += p->refs[b] > 0;
        idle += p->refs[b] == 0;
    }
    assert(idle == p->n_idle && used == pool_n_used(p));
    free(seen);
}
