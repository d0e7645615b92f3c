/* table - see table.h. */
#include "engine/kv/table.h"

#include "engine/base/vec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void table_init(struct table *t, uint32_t block_tokens)
{
    memset(t, 0, sizeof *t);
    t->block_tokens = block_tokens;
}

void table_fini(struct table *t)
{
    free(t->blocks);
    memset(t, 0, sizeof *t);
}

int table_reserve(struct table *t, size_t n)
{
    return vec_grow(&t->blocks, &t->cap, n, sizeof *t->blocks);
}

void table_push(struct table *t, int32_t id, bool ready)
{
    assert(t->n < t->cap);
    t->blocks[t->n++] = (struct table_block){id, ready ? (uint16_t)t->block_tokens : 0,
                                             ready ? TABLE_READY : TABLE_ABSENT};
}

bool table_next_absent(const struct table *t, uint64_t n_tokens, uint64_t *begin, uint64_t *end)
{
    uint32_t bt = t->block_tokens;
    size_t i = 0;
    while (i < t->n && t->blocks[i].state == TABLE_READY)
        i++;
    if (i < t->n && t->blocks[i].state == TABLE_LOADING)
        return false;
    uint64_t from = (uint64_t)i * bt + (i < t->n ? t->blocks[i].filled : 0);
    if (from >= n_tokens)
        return false;
    for (i++; i < t->n && t->blocks[i].state != TABLE_READY && t->blocks[i].state != TABLE_LOADING; i++)
        ;
    uint64_t to = i < t->n ? (uint64_t)i * bt : n_tokens;
    *begin = from;
    *end = to < n_tokens ? to : n_tokens;
    return true;
}

void table_fill(struct table *t, uint64_t begin, uint64_t end)
{
    uint32_t bt = t->block_tokens;
    for (uint64_t p = begin; p < end;) {
        struct table_block *b = &t->blocks[p / bt];
        assert(p / bt < t->n && b->id >= 0 && b->state != TABLE_READY && b->state != TABLE_LOADING &&
               b->filled == p % bt);
        uint64_t stop = (p / bt + 1) * bt;
        if (stop > end)
            stop = end;
        b->filled = (uint16_t)(b->filled + (stop - p));
        b->state = b->filled == bt ? TABLE_READY : TABLE_COMPUTING;
        p = stop;
    }
}

void table_load(struct table *t, size_t i)
{
    struct table_block *b = &t->blocks[i];
    assert(i < t->n && b->id >= 0 && b->state == TABLE_ABSENT && b->filled == 0);
    b->state = TABLE_LOADING;
}

void table_loaded(struct table *t, size_t i, bool ok)
{
    struct table_block *b = &t->blocks[i];
    assert(i < t->n && b->state == TABLE_LOADING);
    b->state = ok ? TABLE_READY : TABLE_ABSENT;
    b->filled = ok ? (uint16_t)t->block_tokens : 0;
}

void table_check(const struct table *t)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct table_block *b = &t->blocks[i];
        assert(b->filled <= t->block_tokens);
        assert((b->state == TABLE_READY) == (b->filled == t->block_tokens));
        assert(b->id >= 0 || b->filled == 0);
    }
}
