/* layout - see layout.h. */
#include "engine/kv/layout.h"

#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv32.h"
#include "engine/kv/fmt_kv8.h"

#include <assert.h>
#include <errno.h>

int kv_layout_init(struct kv_layout *l, uint32_t n_layers, uint32_t n_kv_heads, uint32_t head_dim,
                   uint32_t block_tokens, uint32_t format, struct err *e)
{
    struct kv_layout k = {n_layers, n_kv_heads, head_dim, block_tokens, format, 0, 0, 0, 0, 0};
    if (block_tokens != 16 && block_tokens != 32 && block_tokens != 64 && block_tokens != 128)
        return err_set(e, EINVAL, "kv.block_tokens %u: must be 16, 32, 64 or 128", block_tokens);
    switch (format) {
    case KV_FORMAT_KV32:
        k.row_bytes = kv32_row_bytes(head_dim);
        break;
    case KV_FORMAT_KV16:
        k.row_bytes = kv16_row_bytes(head_dim);
        break;
    case KV_FORMAT_KV8:
        k.row_bytes = kv8_row_bytes(head_dim);
        break;
    default:
        return err_set(e, EINVAL, "kv.format %u: must be kv16, kv32 or kv8", format);
    }
    k.head_bytes = 2 * block_tokens * k.row_bytes;
    k.layer_bytes = n_kv_heads * k.head_bytes;
    k.block_bytes = n_layers * k.layer_bytes;
    k.token_bytes = k.block_bytes / block_tokens;
    *l = k;
    return 0;
}

struct kv_view kv_layout_view(const struct kv_layout *l, void *base, uint32_t layer)
{
    assert(layer < l->n_layers);
    return (struct kv_view){
        .base = base,
        .block_stride = l->block_bytes,
        .layer_offset = layer * l->layer_bytes,
        .head_stride = l->head_bytes,
        .v_offset = l->block_tokens * l->row_bytes,
        .row_stride = l->row_bytes,
        .block_tokens = l->block_tokens,
        .format = l->format,
        .head_dim = l->head_dim,
        .n_kv_heads = l->n_kv_heads,
    };
}
