/* prefix - see prefix.h. A hash table of chains through arrays indexed by block id. */
#include "engine/kv/prefix.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

struct entry {
    struct hash_key key, root;
    int32_t parent, n_children;
    int32_t chain;        /* next entry of the same bucket */
    int32_t older, newer; /* LRU neighbours while idle */
    bool present, idle;
};

struct prefix {
    uint32_t n_blocks, block_tokens, n_entries, n_idle, mask;
    int32_t oldest, newest;
    struct entry *entries; /* [n_blocks] */
    int32_t *ids;          /* [n_blocks][block_tokens] */
    int32_t *buckets;      /* [mask + 1] */
};

int prefix_open(struct prefix **out, uint32_t n_blocks, uint32_t block_tokens)
{
    struct prefix *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    uint32_t n = 16;
    while (n < n_blocks)
        n *= 2;
    p->n_blocks = n_blocks;
    p->block_tokens = block_tokens;
    p->mask = n - 1;
    p->oldest = p->newest = NONE;
    p->entries = calloc(n_blocks, sizeof *p->entries);
    p->ids = calloc(n_blocks, sizeof *p->ids * block_tokens);
    p->buckets = calloc(n, sizeof *p->buckets);
    if (!p->entries || !p->ids || !p->buckets) {
        prefix_close(p);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++)
        p->buckets[i] = NONE;
    *out = p;
    return 0;
}

void prefix_close(struct prefix *p)
{
    if (!p)
        return;
    free(p->entries);
    free(p->ids);
    free(p->buckets);
    free(p);
}

void prefix_key(const struct hash_key *parent, const int32_t *ids, uint32_t block_tokens, struct hash_key *out)
{
    uint8_t buf[sizeof *parent + 4 * 128];
    assert(block_tokens <= 128);
    memcpy(buf, parent, sizeof *parent);
    for (uint32_t i = 0; i < block_tokens; i++)
        for (int b = 0; b < 4; b++)
            buf[sizeof *parent + 4 * i + (size_t)b] = (uint8_t)((uint32_t)ids[i] >> (8 * b));
    hash_sha256(buf, sizeof *parent + 4 * (size_t)block_tokens, out);
#if PREFIX_KEY_BITS < 256
    memset(out->b + PREFIX_KEY_BITS / 8, 0, sizeof out->b - PREFIX_KEY_BITS / 8);
#endif
}

static int32_t *bucket_of(const struct prefix *p, const struct hash_key *key)
{
    uint32_t h;
    memcpy(&h, key->b, sizeof h);
    return &p->buckets[h & p->mask];
}

static int32_t *ids_of(const struct prefix *p, int32_t block)
{
    return p->ids + (size_t)block * p->block_tokens;
}

int32_t prefix_find(const struct prefix *p, const struct prefix_ident *who)
{
    for (int32_t b = *bucket_of(p, &who->key); b != NONE; b = p->entries[b].chain) {
        const struct entry *n = &p->entries[b];
        if (hash_key_equal(&n->key, &who->key) && n->parent == who->parent && hash_key_equal(&n->root, who->root) &&
            memcmp(ids_of(p, b), who->ids, 4 * (size_t)p->block_tokens) == 0)
            return b;
    }
    return NONE;
}

int32_t prefix_named(const struct prefix *p, const struct hash_key *key, const struct hash_key *root)
{
    for (int32_t b = *bucket_of(p, key); b != NONE; b = p->entries[b].chain)
        if (hash_key_equal(&p->entries[b].key, key) && hash_key_equal(&p->entries[b].root, root))
            return b;
    return NONE;
}

struct prefix_ident prefix_ident(const struct prefix *p, int32_t block)
{
    const struct entry *n = &p->entries[block];
    assert(n->present);
    return (struct prefix_ident){.key = n->key, .root = &n->root, .parent = n->parent, .ids = ids_of(p, block)};
}

void prefix_add(struct prefix *p, int32_t block, const struct prefix_ident *who)
{
    struct entry *n = &p->entries[block];
    assert(!n->present && (who->parent == NONE || p->entries[who->parent].present));
    int32_t *bucket = bucket_of(p, &who->key);
    *n = (struct entry){.key = who->key, .root = *who->root, .parent = who->parent, .chain = *bucket, .present = true};
    n->older = n->newer = NONE;
    *bucket = block;
    memcpy(ids_of(p, block), who->ids, 4 * (size_t)p->block_tokens);
    if (who->parent != NONE)
        p->entries[who->parent].n_children++;
    p->n_entries++;
}

void prefix_idle(struct prefix *p, int32_t block)
{
    struct entry *n = &p->entries[block];
    assert(n->present && !n->idle);
    n->idle = true;
    n->older = p->newest;
    n->newer = NONE;
    if (p->newest != NONE)
        p->entries[p->newest].newer = block;
    else
        p->oldest = block;
    p->newest = block;
    p->n_idle++;
}

void prefix_busy(struct prefix *p, int32_t block)
{
    struct entry *n = &p->entries[block];
    assert(n->present && n->idle);
    n->idle = false;
    if (n->older != NONE)
        p->entries[n->older].newer = n->newer;
    else
        p->oldest = n->newer;
    if (n->newer != NONE)
        p->entries[n->newer].older = n->older;
    else
        p->newest = n->older;
    n->older = n->newer = NONE;
    p->n_idle--;
}

void prefix_remove(struct prefix *p, int32_t block)
{
    struct entry *n = &p->entries[block];
    assert(n->present && n->n_children == 0);
    if (n->idle)
        prefix_busy(p, block);
    int32_t *at = bucket_of(p, &n->key);
    while (*at != block)
        at = &p->entries[*at].chain;
    *at = n->chain;
    if (n->parent != NONE)
        p->entries[n->parent].n_children--;
    n->present = false;
    p->n_entries--;
}

int32_t prefix_evict(struct prefix *p)
{
    int32_t block = p->oldest;
    if (block != NONE)
        prefix_remove(p, block);
    return block;
}

uint32_t prefix_n_entries(const struct prefix *p)
{
    return p->n_entries;
}

uint32_t prefix_n_idle(const struct prefix *p)
{
    return p->n_idle;
}

bool prefix_has(const struct prefix *p, int32_t block)
{
    return p->entries[block].present;
}

bool prefix_is_idle(const struct prefix *p, int32_t block)
{
    return p->entries[block].present && p->entries[block].idle;
}

void prefix_check(const struct prefix *p)
{
    uint32_t entries = 0, idle = 0, chained = 0;
    int32_t *children = calloc(p->n_blocks, sizeof *children);
    assert(children);
    for (uint32_t b = 0; b < p->n_blocks; b++) {
        const struct entry *n = &p->entries[b];
        if (!n->present)
            continue;
        entries++;
        idle += n->idle;
        if (n->parent != NONE) {
            assert(p->entries[n->parent].present);
            /* a child in use keeps its parent in use: else the parent could go first */
            assert(n->idle || !p->entries[n->parent].idle);
            children[n->parent]++;
        }
    }
    for (uint32_t b = 0; b < p->n_blocks; b++)
        assert(!p->entries[b].present || children[b] == p->entries[b].n_children);
    for (uint32_t i = 0; i <= p->mask; i++)
        for (int32_t b = p->buckets[i]; b != NONE; b = p->entries[b].chain)
            chained++;
    assert(entries == p->n_entries && chained == entries && idle == p->n_idle);
    uint32_t listed = 0;
    memset(children, 0, sizeof *children * p->n_blocks); /* now: has it been passed, oldest first? */
    for (int32_t b = p->oldest; b != NONE; b = p->entries[b].newer, listed++) {
        const struct entry *n = &p->entries[b];
        assert(n->idle && (n->newer != NONE ? p->entries[n->newer].older == b : p->newest == b));
        assert(n->parent == NONE || !children[n->parent]); /* leaf first */
        children[b] = 1;
    }
    assert(listed == idle);
    free(children);
}
