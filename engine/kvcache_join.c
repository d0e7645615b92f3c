/* kvcache_join - a prompt that another sequence is computing right now is waited for, not computed twice.
 *
 * A sequence that is admitted announces the full blocks of its prompt that it is going to compute. Whoever comes later
 * with the same content shares such a block: to it the block is LOADING, until the first one has published it (it came)
 * or has gone without (then the block is the waiting one's own to compute). See kvcache_int.h.
 */
#include "engine/kvcache_int.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NONE (-1)

struct coming {
    const struct seq *seq; /* who computes it, while JOIN_COMING */
    uint32_t depth;        /* which of its blocks */
    int32_t chain;
    uint8_t state; /* enum kvcache_join */
};

struct kvcache_joins {
    uint32_t mask;
    int32_t *buckets;
    struct coming blocks[]; /* by id */
};

int kvcache_joins_open(struct kvcache_joins **out, uint32_t n_blocks)
{
    struct kvcache_joins *j = calloc(1, sizeof *j + n_blocks * sizeof *j->blocks);
    uint32_t n = 16;
    while (n < n_blocks)
        n *= 2;
    int32_t *buckets = malloc(n * sizeof *buckets);
    if (!j || !buckets) {
        free(j);
        free(buckets);
        return -ENOMEM;
    }
    memset(buckets, 0xff, n * sizeof *buckets);
    j->mask = n - 1;
    j->buckets = buckets;
    *out = j;
    return 0;
}

void kvcache_joins_close(struct kvcache_joins *j)
{
    if (j)
        free(j->buckets);
    free(j);
}

static int32_t *bucket_of(const struct kvcache_joins *j, const struct hash_key *key)
{
    uint32_t h;
    memcpy(&h, key->b, sizeof h);
    return &j->buckets[h & j->mask];
}

/* Everything that names block i of a is the same for block i of b. */
static bool same_content(const struct seq *a, const struct seq *b, uint32_t i)
{
    uint32_t bt = a->table.block_tokens;
    return hash_key_equal(&a->keys[i], &b->keys[i]) && a->checks[i] == b->checks[i] &&
           hash_key_equal(&a->req->root, &b->req->root) &&
           memcmp(a->ids + (size_t)i * bt, b->ids + (size_t)i * bt, bt * sizeof *a->ids) == 0;
}

int32_t kvcache_coming(const struct kvcache *c, struct seq *s, uint32_t i)
{
    const struct kvcache_joins *j = c->joins;
    for (int32_t at = *bucket_of(j, kvcache_key(s, i)); at != NONE; at = j->blocks[at].chain)
        if (j->blocks[at].depth == i && same_content(j->blocks[at].seq, s, i))
            return at;
    return NONE;
}

void kvcache_announce(struct kvcache *c, struct seq *s, uint32_t i)
{
    int32_t block = s->table.blocks[i].id, *bucket = bucket_of(c->joins, kvcache_key(s, i));
    struct coming *b = &c->joins->blocks[block];
    assert(b->state == JOIN_NONE);
    *b = (struct coming){s, i, *bucket, JOIN_COMING};
    *bucket = block;
}

/* It is not looked for any more. */
static void leave_index(struct kvcache_joins *j, int32_t block)
{
    struct coming *b = &j->blocks[block];
    int32_t *at = bucket_of(j, &b->seq->keys[b->depth]);
    while (*at != block)
        at = &j->blocks[*at].chain;
    *at = b->chain;
    b->seq = NULL;
}

void kvcache_came(struct kvcache *c, const struct seq *s, int32_t block)
{
    struct coming *b = &c->joins->blocks[block];
    if (b->state != JOIN_COMING || b->seq != s)
        return;
    leave_index(c->joins, block);
    b->state = JOIN_CAME;
}

void kvcache_withdraw(struct kvcache *c, const struct seq *s)
{
    for (size_t i = 0; i < s->table.n; i++) {
        int32_t block = s->table.blocks[i].id;
        struct coming *b = &c->joins->blocks[block];
        if (b->state != JOIN_COMING || b->seq != s)
            continue;
        leave_index(c->joins, block);
        b->state = JOIN_NONE;
    }
}

enum kvcache_join kvcache_join(const struct kvcache *c, int32_t block)
{
    return (enum kvcache_join)c->joins->blocks[block].state;
}

void kvcache_unheld(struct kvcache *c, int32_t block)
{
    assert(c->joins->blocks[block].state != JOIN_COMING);
    c->joins->blocks[block].state = JOIN_NONE;
}
