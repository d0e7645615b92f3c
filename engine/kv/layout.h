/* layout - where the bytes of a token are in a block: [layer][kv head][K | V][token][dim].
 *
 * A block of all layers is contiguous, so a move between tiers is one copy and one I/O, and a head is one run. All
 * index maths is 64-bit. Knows nothing of pools or tables. Pure; immutable after init.
 */
#ifndef HEARTH_KV_LAYOUT_H
#define HEARTH_KV_LAYOUT_H

#include "engine/base/err.h"
#include "engine/kv/format.h"

#include <stdint.h>

struct kv_layout {
    uint32_t n_layers, n_kv_heads, head_dim, block_tokens, format;
    uint64_t row_bytes;  /* one token's K (or V) of one head */
    uint64_t head_bytes; /* K and V of one head, all tokens of the block */
    uint64_t layer_bytes;
    uint64_t block_bytes;
    uint64_t token_bytes; /* block_bytes / block_tokens */
};

/* 0, or -EINVAL with e for a block size or format that is not there. */
int kv_layout_init(struct kv_layout *l, uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
                   uint32_t block_tokens, uint32_t format, struct err *e);

/* What kernels see of one layer of a pool that begins at base. */
struct kv_view kv_layout_view(const struct kv_layout *l, void *base, uint32_t layer);

#endif
