/* extent - see extent.h. */
#include "engine/base/extent.h"

#include "engine/base/vec.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static uint64_t round_up(uint64_t n)
{
    return (n + EXTENT_ALIGN - 1) & ~(uint64_t)(EXTENT_ALIGN - 1);
}

int extent_init(struct extent_map *m, uint64_t bytes)
{
    memset(m, 0, sizeof *m);
    int ret = vec_grow(&m->free, &m->cap, 16, sizeof *m->free);
    if (ret)
        return ret;
    m->total = bytes & ~(uint64_t)(EXTENT_ALIGN - 1);
    m->free[m->n++] = (struct extent){0, m->total};
    return 0;
}

void extent_fini(struct extent_map *m)
{
    free(m->free);
    memset(m, 0, sizeof *m);
}

int extent_take(struct extent_map *m, uint64_t n, uint64_t *at)
{
    if (n == 0 || n > m->total)
        return -ENOSPC;
    n = round_up(n);
    /* free ranges are at most one more than taken ones: room for all that may come back */
    if (vec_grow(&m->free, &m->cap, m->n_taken + 3, sizeof *m->free) != 0)
        return -ENOSPC;
    for (size_t i = 0; i < m->n; i++) {
        struct extent *f = &m->free[i];
        if (f->bytes < n)
            continue;
        *at = f->at;
        f->at += n;
        f->bytes -= n;
        if (f->bytes == 0) {
            memmove(f, f + 1, (m->n - i - 1) * sizeof *f);
            m->n--;
        }
        m->used += n;
        m->n_taken++;
        return 0;
    }
    return -ENOSPC;
}

void extent_give(struct extent_map *m, uint64_t at, uint64_t n)
{
    n = round_up(n);
    assert(at + n <= m->total && n <= m->used);
    m->used -= n;
    m->n_taken--;
    size_t i = 0;
    while (i < m->n && m->free[i].at < at)
        i++;
    assert(i == m->n || at + n <= m->free[i].at);
    assert(i == 0 || m->free[i - 1].at + m->free[i - 1].bytes <= at);
    bool below = i > 0 && m->free[i - 1].at + m->free[i - 1].bytes == at;
    bool above = i < m->n && at + n == m->free[i].at;
    if (below && above) {
        m->free[i - 1].bytes += n + m->free[i].bytes;
        memmove(m->free + i, m->free + i + 1, (m->n - i - 1) * sizeof *m->free);
        m->n--;
    } else if (below) {
        m->free[i - 1].bytes += n;
    } else if (above) {
        m->free[i].at = at;
        m->free[i].bytes += n;
    } else {
        assert(m->n < m->cap);
        memmove(m->free + i + 1, m->free + i, (m->n - i) * sizeof *m->free);
        m->free[i] = (struct extent){at, n};
        m->n++;
    }
}

void extent_check(const struct extent_map *m)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < m->n; i++) {
        assert(m->free[i].bytes > 0 && m->free[i].at % EXTENT_ALIGN == 0 && m->free[i].bytes % EXTENT_ALIGN == 0);
        assert(i == 0 || m->free[i - 1].at + m->free[i - 1].bytes < m->free[i].at);
        sum += m->free[i].bytes;
    }
    assert(sum + m->used == m->total);
}
