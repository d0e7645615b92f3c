/* prefix - from content to block: which full blocks hold which tokens, and in which order idle ones are given up.
 *
 * Identity of block i of a sequence: key_i = SHA-256(key_{i-1} | ids as LE u32), the chain seeded with a root that
 * names everything else that decides the bytes (kvcache.c). A match needs more than the key: the same root, the same
 * parent entry and the same ids are compared again, so that even an 8-bit key (a test build: -DPREFIX_KEY_BITS=8) gives
 * no wrong block.
 *
 * Idle entries (no sequence holds the block) are given up as kv/evict.h says: the leaf whose room is worth least;
 * without a model of returns the one that has been idle longest. Entries are arrays indexed by block id: no allocation
 * after open. Engine thread. Every call O(log n), most O(1) or O(ids).
 */
#ifndef HEARTH_KV_PREFIX_H
#define HEARTH_KV_PREFIX_H

#include "engine/base/hash.h"
#include "engine/kv/returns.h"

#include <stdbool.h>
#include <stdint.h>

#ifndef PREFIX_KEY_BITS
#define PREFIX_KEY_BITS 256
#endif

struct prefix;

/* 0 or -ENOMEM. The model of returns outlives it; NULL: plain LRU. */
int prefix_open(struct prefix **out, uint32_t n_blocks, uint32_t block_tokens, const struct returns *model);
void prefix_close(struct prefix *p); /* NULL is fine */

/* key_i from key_{i-1} (or the root) and the ids of one full block. */
void prefix_key(const struct hash_key *parent, const int32_t *ids, uint32_t block_tokens, struct hash_key *out);

/* What a lookup or an entry is made of. */
struct prefix_ident {
    struct hash_key key;         /* of this block */
    const struct hash_key *root; /* seed of the chain */
    int32_t parent;              /* block id of the parent entry, -1 for the first */
    const int32_t *ids;          /* [block_tokens] */
};

/* The block that holds this content, or -1. */
int32_t prefix_find(const struct prefix *p, const struct prefix_ident *who);
/* Enter `block` (not in yet, and no equal entry is there). It is not idle. */
void prefix_add(struct prefix *p, int32_t block, const struct prefix_ident *who);
/* With a model: it was used, by a request that returns_use says this class of; it is new that way once it was added. */
void prefix_use(struct prefix *p, int32_t block, uint8_t class, uint64_t now_us);
/* The entry's block is held by no sequence now / is held again. */
void prefix_idle(struct prefix *p, int32_t block);
void prefix_busy(struct prefix *p, int32_t block);
/* Forget an idle entry; its block id, or -1 when none is idle. */
int32_t prefix_evict(struct prefix *p, uint64_t now_us);
/* Forget an idle or busy entry that has no children (a block found bad). */
void prefix_remove(struct prefix *p, int32_t block);

/* -- by key alone, for who has no ids at hand (a session knows keys). What is found is a hint: whoever reads the block
 * for a sequence looks it up with its ids again. */
/* A block with this key and root, or -1. */
int32_t prefix_named(const struct prefix *p, const struct hash_key *key, const struct hash_key *root);
/* What the entry of a block is; its pointers are good until it is forgotten. */
struct prefix_ident prefix_ident(const struct prefix *p, int32_t block);

uint32_t prefix_n_entries(const struct prefix *p);
uint32_t prefix_n_idle(const struct prefix *p);
bool prefix_has(const struct prefix *p, int32_t block);
bool prefix_is_idle(const struct prefix *p, int32_t block);
/* Abort on a broken invariant; O(n). */
void prefix_check(const struct prefix *p);

#endif
