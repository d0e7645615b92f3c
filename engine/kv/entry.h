/* entry - one block's line in an index: everything that must be equal before its bytes may be used. 512 bytes, eight to
 * a sector, little-endian, with its own CRC-32C.
 *
 * `key` names the content (chain hash). Because a hash may collide (and does, in the test build with 8-bit keys), a
 * match needs more: the root of the chain (tenant, model, numerics, format: kvcache.c), the token ids of the block and
 * a second, independent chain over all ids before them (`check`, SipHash). The seal is compared with the payload after
 * it was read.
 */
#ifndef HEARTH_KV_ENTRY_H
#define HEARTH_KV_ENTRY_H

#include "engine/base/hash.h"
#include "engine/compute/seal.h"

#include <stdbool.h>
#include <stdint.h>

#define ENTRY_BYTES      512
#define ENTRY_SECTOR     4096
#define ENTRY_PER_SECTOR (ENTRY_SECTOR / ENTRY_BYTES)
#define ENTRY_MAGIC      0x6b48 /* "Hk" */
#define ENTRY_VERSION    1
#define ENTRY_MAX_IDS    128

/* What a block is; made by kvcache, compared here. */
struct kv_ident {
    struct hash_key key;         /* of this block */
    struct hash_key parent;      /* of the block before; the root for the first */
    const struct hash_key *root; /* seed of the chain */
    uint64_t check;              /* SipHash chain over all ids up to this block's end */
    const int32_t *ids;          /* [block_tokens] */
    uint32_t depth;              /* which block of its chain, from 0 */
};

struct kv_entry {
    uint16_t magic;
    uint8_t version, format; /* enum kv_format */
    uint32_t crc;            /* of the 504 bytes after it */
    uint64_t generation;     /* grows with each write: of two entries of one content the newer counts */
    struct hash_key key, parent;
    uint8_t root[16]; /* its first bytes */
    struct seal seal; /* of the payload */
    uint32_t depth;
    uint16_t block_tokens, reserved;
    uint64_t check;
    uint8_t ids[ENTRY_MAX_IDS][3]; /* 24 bits each: no vocabulary is larger */
};

_Static_assert(sizeof(struct kv_entry) == ENTRY_BYTES, "on disk");

/* An entry for this content; generation, seal and CRC are set later. */
void entry_make(struct kv_entry *e, const struct kv_ident *who, uint32_t block_tokens, uint32_t format);
/* Set the CRC: the last thing before it is written. */
void entry_close(struct kv_entry *e);
/* Is it whole, of a version known here, and of this shape? All zeros (a free place) is not. */
bool entry_valid(const struct kv_entry *e, uint32_t block_tokens, uint32_t format);
/* Does it say exactly this content? */
bool entry_is(const struct kv_entry *e, const struct kv_ident *who);
/* Do both say the same content? */
bool entry_same(const struct kv_entry *a, const struct kv_entry *b);
/* The check value of a block from that of its parent (the first block: 0) and the root. */
uint64_t entry_check(uint64_t parent, const struct hash_key *root, const int32_t *ids, uint32_t block_tokens);

#endif
