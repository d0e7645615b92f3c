/* pool - who holds which block: reference counts over n numbered blocks, and release by step number.
 *
 * A block is in exactly one state:
 *   free    nobody holds it, no queued step reads it
 *   used    refs > 0
 *   idle    refs = 0, marked cached (the prefix cache knows its content): reusable, evictable
 *   limbo   refs = 0, not cached, but a queued step may still read or write it; free when that step has finished
 * The pool knows numbers only, not bytes, keys or sequences. No allocation after open. Engine thread.
 * take and drop cost O(1) a block.
 */
#ifndef HEARTH_KV_POOL_H
#define HEARTH_KV_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pool;

/* A pool of n blocks, all free. 0 or -ENOMEM. */
int pool_open(struct pool **out, uint32_t n_blocks);
void pool_close(struct pool *p); /* NULL is fine */

/* Take n free blocks with one reference each: ids to out. 0, or -ENOMEM with nothing taken (the caller evicts or
 * preempts). */
int pool_take(struct pool *p, uint32_t n, int32_t *out);
/* One more reference to a used or idle block. */
void pool_ref(struct pool *p, int32_t block);
/* Give one reference back. `step` is the last queued step that names the block. At zero the block becomes idle when it
 * is cached (true is returned), else limbo until pool_finish(step); free at once when that has been. */
bool pool_drop(struct pool *p, int32_t block, uint64_t step);
/* The content is known to the prefix cache, or no longer. Only a block with refs > 0 may become cached; an idle block
 * that is uncached goes to limbo until step. */
void pool_set_cached(struct pool *p, int32_t block, bool cached, uint64_t step);
/* Every step up to `step` has finished: its limbo blocks are free. */
void pool_finish(struct pool *p, uint64_t step);

uint32_t pool_refs(const struct pool *p, int32_t block);
bool pool_cached(const struct pool *p, int32_t block);
uint32_t pool_n_blocks(const struct pool *p);
uint32_t pool_n_free(const struct pool *p);
uint32_t pool_n_idle(const struct pool *p);
uint32_t pool_n_limbo(const struct pool *p);
uint32_t pool_n_used(const struct pool *p);

/* Walk everything; abort with a message on a broken invariant. Tests and engine_config.check. O(n). */
void pool_check(const struct pool *p);

#endif
