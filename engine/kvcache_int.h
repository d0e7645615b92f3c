/* kvcache_int - what kvcache.c (the pool) and kvcache_lower.c (tiers below it) share. Private to them. */
#ifndef HEARTH_ENGINE_KVCACHE_INT_H
#define HEARTH_ENGINE_KVCACHE_INT_H

#include "engine/kvcache.h"

/* One more holder of a block; one less. */
void kvcache_hold(struct kvcache *c, int32_t block);
void kvcache_give(struct kvcache *c, int32_t block);
/* Make n blocks free, evicting idle ones. All steps before have been queued on the same stream or have finished, so
 * what is evicted now may be written by the next step. */
bool kvcache_make_free(struct kvcache *c, uint32_t n);
/* Key of full block i (and the check beside it), from the chain. */
const struct hash_key *kvcache_key(struct seq *s, uint32_t i);
/* The pool's block with the content of full block i after block `parent` (-1: the first), or -1. */
int32_t kvcache_find(struct kvcache *c, struct seq *s, uint32_t i, int32_t parent);

/* -- kvcache_join.c: what running sequences are computing. By block of the pool. */
enum kvcache_join {
    JOIN_NONE,
    JOIN_COMING, /* announced by who computes it */
    JOIN_CAME,   /* and published since */
};
struct kvcache_joins;
int kvcache_joins_open(struct kvcache_joins **out, uint32_t n_blocks); /* 0 or -ENOMEM */
void kvcache_joins_close(struct kvcache_joins *j);                     /* NULL is fine */
/* The block that somebody is computing with the content of full block i of s, or -1. */
int32_t kvcache_coming(const struct kvcache *c, struct seq *s, uint32_t i);
/* s will compute its full block i, which nobody else is computing. */
void kvcache_announce(struct kvcache *c, struct seq *s, uint32_t i);
/* s has published the block / gives everything back: what it announced and did not publish will not come from it. */
void kvcache_came(struct kvcache *c, const struct seq *s, int32_t block);
void kvcache_withdraw(struct kvcache *c, const struct seq *s);
enum kvcache_join kvcache_join(const struct kvcache *c, int32_t block);
/* No sequence holds the block any more. */
void kvcache_unheld(struct kvcache *c, int32_t block);

/* -- kvcache_lower.c */
/* What full block i of s is. */
struct kv_ident kvcache_content(struct seq *s, uint32_t i);
/* s waits no longer for what it is loading. */
void kvcache_give_up_loading(struct kvcache *c, struct seq *s);

/* -- kvcache_usage.c: what a request is told about its prompt. The first time it is admitted is what counts. */
/* Tokens found in a tier. */
void kvcache_count_hits(struct kvcache *c, struct seq *s, enum tier_id tier, uint32_t tokens);
/* Block i has to be computed: it is not to be found; it was found, but not loaded; or its bytes were wrong. */
void kvcache_count_absent(struct kvcache *c, struct seq *s, uint32_t i);
void kvcache_count_miss(struct seq *s, uint32_t i, enum engine_miss why);
/* What lies behind block n_full - 1 (nothing is looked up at all: n_full 0, off). */
void kvcache_count_rest(struct kvcache *c, struct seq *s, uint32_t n_full, bool off);

/* Block i of s has just been published: copy it down. */
void kvcache_store(struct kvcache *c, struct seq *s, uint32_t i);
void kvcache_detach(struct kvcache *c);
/* A move holds the block until its outcome is told: its bytes stay. It says nothing about who uses the content, so to
 * the prefix cache the block may be idle meanwhile, and even be forgotten. */
void kvcache_hold_for_move(struct kvcache *c, int32_t block);
/* ns that computing block i of a sequence would take; 0: not known. */
double kvcache_compute_ns(const struct kvcache *c, uint32_t i);

#endif
