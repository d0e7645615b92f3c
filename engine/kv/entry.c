/* entry - see entry.h. */
#include "engine/kv/entry.h"

#include "engine/base/crc.h"

#include <assert.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "entries are written as they lie in memory");

#define CRC_FROM 8 /* magic, version, format and the CRC itself come before */

void entry_make(struct kv_entry *e, const struct kv_ident *who, uint32_t block_tokens, uint32_t format)
{
    assert(block_tokens <= ENTRY_MAX_IDS && format <= UINT8_MAX);
    memset(e, 0, sizeof *e);
    e->magic = ENTRY_MAGIC;
    e->version = ENTRY_VERSION;
    e->format = (uint8_t)format;
    e->key = who->key;
    e->parent = who->parent;
    memcpy(e->root, who->root->b, sizeof e->root);
    e->depth = who->depth;
    e->block_tokens = (uint16_t)block_tokens;
    e->check = who->check;
    for (uint32_t i = 0; i < block_tokens; i++)
        for (int b = 0; b < 3; b++)
            e->ids[i][b] = (uint8_t)((uint32_t)who->ids[i] >> (8 * b));
}

static uint32_t crc_of(const struct kv_entry *e)
{
    return crc32c((const uint8_t *)e + CRC_FROM, sizeof *e - CRC_FROM);
}

void entry_close(struct kv_entry *e)
{
    e->crc = crc_of(e);
}

bool entry_valid(const struct kv_entry *e, uint32_t block_tokens, uint32_t format)
{
    return e->magic == ENTRY_MAGIC && e->version == ENTRY_VERSION && e->format == format &&
           e->block_tokens == block_tokens && e->crc == crc_of(e);
}

static bool ids_equal(const struct kv_entry *e, const int32_t *ids)
{
    uint32_t diff = 0;
    for (uint32_t i = 0; i < e->block_tokens; i++)
        diff |= (uint32_t)ids[i] ^ (e->ids[i][0] | (uint32_t)e->ids[i][1] << 8 | (uint32_t)e->ids[i][2] << 16);
    return diff == 0;
}

bool entry_is(const struct kv_entry *e, const struct kv_ident *who)
{
    return hash_key_equal(&e->key, &who->key) && e->check == who->check && e->depth == who->depth &&
           hash_key_equal(&e->parent, &who->parent) && memcmp(e->root, who->root->b, sizeof e->root) == 0 &&
           ids_equal(e, who->ids);
}

bool entry_same(const struct kv_entry *a, const struct kv_entry *b)
{
    return hash_key_equal(&a->key, &b->key) && a->check == b->check && a->depth == b->depth &&
           memcmp(a->root, b->root, sizeof a->root) == 0 && memcmp(a->ids, b->ids, sizeof a->ids) == 0;
}

uint64_t entry_check(uint64_t parent, const struct hash_key *root, const int32_t *ids, uint32_t block_tokens)
{
    uint64_t key[2];
    memcpy(key, root->b + sizeof root->b - sizeof key, sizeof key);
    key[0] ^= parent;
    return hash_sip(ids, (size_t)block_tokens * sizeof *ids, key);
}
