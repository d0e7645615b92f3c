/* idmap - see idmap.h. */
#include "engine/base/idmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static size_t slot_of(const struct idmap *m, uint64_t id)
{
    uint64_t h = id * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> 32) & (m->cap - 1);
}

static void insert(struct idmap *m, uint64_t id, void *value)
{
    size_t i = slot_of(m, id);
    while (m->slots[i].value) {
        assert(m->slots[i].id != id);
        i = (i + 1) & (m->cap - 1);
    }
    m->slots[i] = (struct idmap_slot){id, value};
    m->n++;
}

int idmap_put(struct idmap *m, uint64_t id, void *value)
{
    assert(value);
    if ((m->n + 1) * 4 > m->cap * 3) {
        struct idmap bigger = {.cap = m->cap ? m->cap * 2 : 16};
        bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
        if (!bigger.slots)
            return -ENOMEM;
        for (size_t i = 0; i < m->cap; i++)
            if (m->slots[i].value)
                insert(&bigger, m->slots[i].id, m->slots[i].value);
        free(m->slots);
        *m = bigger;
    }
    insert(m, id, value);
    return 0;
}

static size_t find(const struct idmap *m, uint64_t id)
{
    size_t i = slot_of(m, id);
    while (m->slots[i].value && m->slots[i].id != id)
        i = (i + 1) & (m->cap - 1);
    return i;
}

void *idmap_get(const struct idmap *m, uint64_t id)
{
    return m->cap ? m->slots[find(m, id)].value : NULL;
}

void *idmap_remove(struct idmap *m, uint64_t id)
{
    if (!m->cap)
        return NULL;
    size_t hole = find(m, id), mask = m->cap - 1;
    void *value = m->slots[hole].value;
    if (!value)
        return NULL;
    m->n--;
    /* Move later entries of the run into the hole, so that no probe meets an empty slot too early. */
    for (size_t i = (hole + 1) & mask; m->slots[i].value; i = (i + 1) & mask) {
        size_t home = slot_of(m, m->slots[i].id);
        if (((i - home) & mask) >= ((i - hole) & mask)) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole].value = NULL;
    return value;
}

void idmap_fini(struct idmap *m)
{
    free(m->slots);
    memset(m, 0, sizeof *m);
}
