/* prefix - see prefix.h. A hash table of chains through arrays indexed by block id. */
#include "engine/kv/prefix.h"

#include "engine/kv/evict.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

struct entry {
    struct hash_key key, root;
    int32_t parent, n_children;
    int32_t chain; /* next entry of the same bucket */
    bool present;
};

struct prefix {
    uint32_t n_blocks, block_tokens, n_entries, mask;
    bool learns; /* there is a model */
    struct evict *order;
    struct entry *entries; /* [n_blocks] */
    int32_t *ids;          /* [n_blocks][block_tokens] */
    int32_t *buckets;      /* [mask + 1] */
};

int prefix_open(struct prefix **out, uint32_t n_blocks, uint32_t block_tokens, const struct returns *model)
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
    p->learns = model;
    p->entries = calloc(n_blocks, sizeof *p->entries);
    p->ids = calloc(n_blocks, sizeof *p->ids * block_tokens);
    p->buckets = calloc(n, sizeof *p->buckets);
    if (!p->entries || !p->ids || !p->buckets || evict_open(&p->order, n_blocks, model) != 0) {
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
    evict_close(p->order);
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
    evict_add(p->order, block, &(struct evict_block){.seconds = 1, .bytes = 1, .parent = who->parent});
    *bucket = block;
    memcpy(ids_of(p, block), who->ids, 4 * (size_t)p->block_tokens);
    if (who->parent != NONE)
        p->entries[who->parent].n_children++;
    p->n_entries++;
}

void prefix_use(struct prefix *p, int32_t block, uint8_t class, uint64_t now_us)
{
    assert(p->entries[block].present);
    if (p->learns)
        evict_use(p->order, block, class, 0, now_us);
}

void prefix_idle(struct prefix *p, int32_t block)
{
    assert(p->entries[block].present && !prefix_is_idle(p, block));
    evict_release(p->order, block);
}

void prefix_busy(struct prefix *p, int32_t block)
{
    assert(prefix_is_idle(p, block));
    evict_hold(p->order, block);
}

void prefix_remove(struct prefix *p, int32_t block)
{
    struct entry *n = &p->entries[block];
    assert(n->present && n->n_children == 0);
    evict_remove(p->order, block);
    int32_t *at = bucket_of(p, &n->key);
    while (*at != block)
        at = &p->entries[*at].chain;
    *at = n->chain;
    if (n->parent != NONE)
        p->entries[n->parent].n_children--;
    n->present = false;
    p->n_entries--;
}

int32_t prefix_evict(struct prefix *p, uint64_t now_us)
{
    int32_t block = evict_pick(p->order, now_us);
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
    return evict_n_idle(p->order);
}

bool prefix_has(const struct prefix *p, int32_t block)
{
    return p->entries[block].present;
}

bool prefix_is_idle(const struct prefix *p, int32_t block)
{
    return p->entries[block].present && evict_state(p->order, block) == EVICT_IDLE;
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
        idle += prefix_is_idle(p, (int32_t)b);
        if (n->parent != NONE) {
            assert(p->entries[n->parent].present);
            /* a child in use keeps its parent in use: else the parent could go first */
            assert(prefix_is_idle(p, (int32_t)b) || !prefix_is_idle(p, n->parent));
            children[n->parent]++;
        }
    }
    for (uint32_t b = 0; b < p->n_blocks; b++)
        assert(!p->entries[b].present || children[b] == p->entries[b].n_children);
    for (uint32_t i = 0; i <= p->mask; i++)
        for (int32_t b = p->buckets[i]; b != NONE; b = p->entries[b].chain)
            chained++;
    assert(entries == p->n_entries && chained == entries && idle == prefix_n_idle(p));
    evict_check(p->order);
    free(children);
}
