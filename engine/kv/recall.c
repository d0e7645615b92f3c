/* recall - see recall.h. Both tables are sets of WAYS places; a set is found by the key, and filled in turn. */
#include "engine/kv/recall.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 8

struct set { /* of tags: 64 bits of a key, 0 = free */
    uint64_t tags[WAYS];
    uint8_t next;
    bool bad[WAYS];
};

struct recall {
    uint32_t block_tokens;
    struct set blocks[RECALL_BLOCKS / WAYS];
    struct set ends[RECALL_ENDS / WAYS]; /* by the block before */
    int32_t ids[];                       /* [RECALL_ENDS][block_tokens] */
};

int recall_open(struct recall **out, uint32_t block_tokens)
{
    struct recall *r = calloc(1, sizeof *r + (size_t)RECALL_ENDS * block_tokens * sizeof *r->ids);
    if (!r)
        return -ENOMEM;
    r->block_tokens = block_tokens;
    *out = r;
    return 0;
}

void recall_close(struct recall *r)
{
    free(r);
}

static uint64_t tag_of(const struct hash_key *key)
{
    uint64_t tag;
    memcpy(&tag, key->b + 8, sizeof tag);
    return tag | 1;
}

static uint32_t set_of(const struct hash_key *key, uint32_t places)
{
    uint32_t h;
    memcpy(&h, key->b, sizeof h);
    return h % (places / WAYS);
}

static int way_of(const struct set *s, uint64_t tag)
{
    for (int w = 0; w < WAYS; w++)
        if (s->tags[w] == tag)
            return w;
    return -1;
}

/* A place for the tag, which has none. */
static int take_way(struct set *s, uint64_t tag)
{
    int w = s->next;
    s->next = (uint8_t)((w + 1) % WAYS);
    s->tags[w] = tag;
    return w;
}

static const int32_t *ids_at(const struct recall *r, uint32_t set, int way)
{
    return r->ids + (size_t)(set * WAYS + (uint32_t)way) * r->block_tokens;
}

static void note_end(struct recall *r, const struct hash_key *parent, const int32_t *ids)
{
    uint32_t at = set_of(parent, RECALL_ENDS);
    struct set *s = &r->ends[at];
    size_t bytes = r->block_tokens * sizeof *ids;
    uint64_t tag = tag_of(parent);
    for (int w = 0; w < WAYS; w++)
        if (s->tags[w] == tag && memcmp(ids_at(r, at, w), ids, bytes) == 0)
            return;
    memcpy((int32_t *)ids_at(r, at, take_way(s, tag)), ids, bytes);
}

void recall_note(struct recall *r, const struct hash_key *parent, const struct hash_key *key, const int32_t *ids)
{
    struct set *s = &r->blocks[set_of(key, RECALL_BLOCKS)];
    int way = way_of(s, tag_of(key));
    s->bad[way < 0 ? take_way(s, tag_of(key)) : way] = false;
    note_end(r, parent, ids);
}

void recall_bad(struct recall *r, const struct hash_key *key)
{
    struct set *s = &r->blocks[set_of(key, RECALL_BLOCKS)];
    int way = way_of(s, tag_of(key));
    s->bad[way < 0 ? take_way(s, tag_of(key)) : way] = true;
}

enum recall_state recall_state(const struct recall *r, const struct hash_key *key)
{
    const struct set *s = &r->blocks[set_of(key, RECALL_BLOCKS)];
    int way = way_of(s, tag_of(key));
    return way < 0 ? RECALL_NEVER : s->bad[way] ? RECALL_BAD : RECALL_KNOWN;
}

int32_t recall_common(const struct recall *r, const struct hash_key *parent, const int32_t *ids, uint32_t n)
{
    uint32_t at = set_of(parent, RECALL_ENDS);
    int32_t most = -1;
    for (int w = 0; w < WAYS; w++) {
        const int32_t *had = ids_at(r, at, w);
        int32_t same = 0;
        if (r->ends[at].tags[w] != tag_of(parent))
            continue;
        while ((uint32_t)same < n && had[same] == ids[same])
            same++;
        most = same > most ? same : most;
    }
    return most;
}
