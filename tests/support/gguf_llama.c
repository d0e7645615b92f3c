/* gguf_llama - see gguf_llama.h. */
#include "tests/support/gguf_llama.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct adding {
    struct gguf_write *w;
    struct loader *l;
    const char *const *skip;
};

static bool wanted(const struct adding *a, const char *name)
{
    for (const char *const *s = a->skip; s && *s; s++)
        if (!strcmp(*s, name))
            return false;
    return true;
}

static void add_int(const struct adding *a, const char *key, int64_t v)
{
    if (wanted(a, key))
        gguf_write_int(a->w, key, GGUF_U32, (uint64_t)v);
}

static void add_float(const struct adding *a, const char *key, float v)
{
    if (wanted(a, key))
        gguf_write_float(a->w, key, v);
}

static void add_metadata(const struct adding *a, const struct model_shape *s)
{
    if (wanted(a, "general.architecture"))
        gguf_write_text(a->w, "general.architecture", "llama");
    gguf_write_text(a->w, "general.name", s->name);
    add_int(a, "llama.block_count", s->n_layers);
    add_int(a, "llama.context_length", s->ctx_train);
    add_int(a, "llama.embedding_length", s->n_embd);
    add_int(a, "llama.feed_forward_length", s->n_ff);
    add_int(a, "llama.attention.head_count", s->n_heads);
    add_int(a, "llama.attention.head_count_kv", s->n_kv_heads);
    add_int(a, "llama.rope.dimension_count", s->head_dim);
    add_float(a, "llama.attention.layer_norm_rms_epsilon", s->rms_eps);
    add_float(a, "llama.rope.freq_base", s->rope_base);
}

/* Half-split rows to interleaved ones: the way back of what the loader does. */
static void interleave(uint8_t *to, const struct weight_part *p, int32_t d)
{
    for (int32_t r = 0; r < p->rows; r++) {
        const int32_t head = r / d, half = r % d / (d / 2), i = r % (d / 2);
        memcpy(to + (uint64_t)(head * d + 2 * i + half) * p->row_bytes,
               (const uint8_t *)p->data + (uint64_t)r * p->row_bytes, p->row_bytes);
    }
}

static void add_tensor(const struct adding *a, const char *name)
{
    struct weight_loan loan;
    struct err e;
    if (!wanted(a, name))
        return;
    int rc = loader_ops(a->l)->take(a->l, name, &loan, &e);
    assert(rc == 0);
    const struct weight_part *p = &loan.part;
    const size_t bytes = (size_t)p->rows * p->row_bytes;
    const uint64_t dims[] = {(uint64_t)p->cols, (uint64_t)p->rows};
    uint8_t *swapped = NULL;
    if (strstr(name, "attn_q.") || strstr(name, "attn_k.")) {
        swapped = malloc(bytes);
        assert(swapped);
        interleave(swapped, p, loader_ops(a->l)->shape(a->l)->head_dim);
    }
    gguf_write_tensor(a->w, name, p->dtype, dims, p->rows == 1 ? 1 : 2, swapped ? swapped : p->data, bytes);
    free(swapped);
    loader_ops(a->l)->done(a->l, &loan);
}

void gguf_llama_add(struct gguf_write *w, struct loader *l, const char *const *skip)
{
    static const char *const parts[] = {"attn_norm", "attn_q", "attn_k",   "attn_v",  "attn_output",
                                        "ffn_norm",  "ffn_up", "ffn_gate", "ffn_down"};
    const struct model_shape *s = loader_ops(l)->shape(l);
    const struct adding a = {w, l, skip};
    add_metadata(&a, s);
    add_tensor(&a, "token_embd.weight");
    for (int32_t i = 0; i < s->n_layers; i++)
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, parts[k]);
            add_tensor(&a, name);
        }
    add_tensor(&a, "output_norm.weight");
    if (!s->tied)
        add_tensor(&a, "output.weight");
}
