/* stub_backend - a backend that computes nothing, under the name of cpu_fast: what a server costs besides its model.
 *
 * Linked before the library into hearthd-stub, a whole hearthd. Tokens are letters, so that every token is text.
 */
#include "engine/compute/backend.h"
#include "engine/compute/host_mem.h"

#include <stdlib.h>
#include <string.h>

struct stub {
    struct backend_head head;
};

static int stub_open(struct backend **out, const struct backend_opts *o, struct err *e)
{
    struct stub *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(e, 12, "out of memory");
    s->head.ops = &backend_cpu_fast;
    *out = (struct backend *)(void *)s;
    return 0;
}

static void stub_close(struct backend *be)
{
    free(be);
}

static const char *stub_describe(const struct backend *be)
{
    return "stub, computes nothing";
}

static void *stub_alloc(struct backend *be, size_t bytes)
{
    return host_alloc(bytes);
}

static void stub_release(struct backend *be, void *p, size_t bytes)
{
    host_release(p, bytes);
}

static void stub_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
}

static int stub_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                            struct err *e)
{
    memset(out, 0, sizeof *out);
    for (int i = 0; i < n_parts; i++)
        out->rows += parts[i].rows;
    out->cols = parts[0].cols;
    return 0;
}

static void stub_weight_free(struct backend *be, struct weight *w)
{
}

static uint64_t stub_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols)
{
    return 0;
}

static void stub_embed(struct backend *be, float *out, const struct weight *table, const struct step *step)
{
}

static void stub_add_norm(struct backend *be, void *out, float *x, const float *add, const float *w, float eps,
                          int32_t n_rows, int32_t width)
{
}

static void stub_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows)
{
}

static void stub_rope_kv(struct backend *be, const struct rope_args *a)
{
}

static void stub_attention(struct backend *be, const struct attn_args *a)
{
}

static void stub_merge(struct backend *be, struct attn_partial a, struct attn_partial b, int32_t n, int32_t d)
{
}

static void stub_silu_mul(struct backend *be, void *out, const float *gu, int32_t n_rows, int32_t f)
{
}

static void stub_gather(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes)
{
}

static void stub_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                        struct sample_out *out, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        out[i].id = 'a' + (int32_t)(rows[i].position % 26);
        out[i].logprob = 0;
        out[i].n_top = 0;
    }
}

static void stub_sync(struct backend *be)
{
}

const struct backend_ops backend_cpu_fast = {
    .abi = BACKEND_ABI,
    .name = "stub",
    .input_dtype = DT_F32,
    .depth = 1,
    .open = stub_open,
    .close = stub_close,
    .describe = stub_describe,
    .alloc = stub_alloc,
    .release = stub_release,
    .upload = stub_copy,
    .download = stub_copy,
    .copy = stub_copy,
    .weight_load = stub_weight_load,
    .weight_free = stub_weight_free,
    .weight_bytes = stub_weight_bytes,
    .embed = stub_embed,
    .add_norm = stub_add_norm,
    .linear = stub_linear,
    .rope_kv = stub_rope_kv,
    .attention = stub_attention,
    .merge = stub_merge,
    .silu_mul = stub_silu_mul,
    .gather = stub_gather,
    .sample = stub_sample,
    .sync = stub_sync,
};
