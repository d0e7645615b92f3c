/* calibrate - the scales of kv8, from a prefill of a text; see engine.h. */
#include "engine/engine.h"

#include "engine/kv/fmt_kv16.h"
#include "engine/kv/scales.h"
#include "engine/machine.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One sequence over blocks 0, 1, .. : rows [at, at + k) of ids. */
static void prefill(struct machine *m, const int32_t *ids, int32_t *ints, int32_t at, int32_t k, int32_t n_blocks)
{
    int32_t *pos = ints, *row_seq = pos + k, *table = row_seq + k;
    int32_t seq_row[2] = {0, k}, table_at[2] = {0, n_blocks}, out_row = k - 1;
    for (int32_t i = 0; i < k; i++) {
        pos[i] = at + i;
        row_seq[i] = 0;
    }
    for (int32_t i = 0; i < n_blocks; i++)
        table[i] = i;
    machine_forward(m, &(struct step){.number = (uint64_t)at + 1,
                                      .n_rows = k,
                                      .n_seqs = 1,
                                      .n_out = 1,
                                      .ids = ids + at,
                                      .pos = pos,
                                      .row_seq = row_seq,
                                      .seq_row = seq_row,
                                      .table = table,
                                      .table_at = table_at,
                                      .out_row = &out_row});
    backend_ops(m->be)->sync(m->be);
}

/* most[layers][heads][2]: largest magnitudes of the first n tokens of a block that lies at `bytes` in host memory. */
static void measure(const struct kv_layout *l, void *bytes, uint32_t n, float *most)
{
    float row[BACKEND_HEAD_DIM_MAX];
    for (uint32_t layer = 0; layer < l->n_layers; layer++) {
        struct kv_view kv = kv_layout_view(l, bytes, layer);
        for (uint32_t side = 0; side < 2 * l->n_kv_heads; side++, most++)
            for (uint32_t t = 0; t < n; t++) {
                kv16_get(row, kv_row(&kv, 0, side / 2, side % 2, t), l->head_dim);
                for (uint32_t i = 0; i < l->head_dim; i++)
                    *most = fmaxf(*most, fabsf(row[i]));
            }
    }
}

static int run(struct machine *m, const int32_t *ids, uint32_t n, const char *path, struct err *e)
{
    const struct kv_layout *l = &m->layout;
    const uint32_t rows = m->config.max_rows, bt = l->block_tokens;
    const size_t n_scales = 2 * (size_t)l->n_layers * l->n_kv_heads;
    int32_t n_blocks = (int32_t)((n + bt - 1) / bt),
            *ints = malloc((2 * (size_t)rows + (size_t)n_blocks) * sizeof *ints);
    float *scales = calloc(n_scales, sizeof *scales);
    uint8_t *block = malloc(l->block_bytes);
    int ret = ints && scales && block ? 0 : err_set(e, ENOMEM, "calibrate: out of memory");
    for (uint32_t at = 0; !ret && at < n; at += rows)
        prefill(m, ids, ints, (int32_t)at, (int32_t)(n - at < rows ? n - at : rows), n_blocks);
    for (uint32_t at = 0; !ret && at < n; at += bt) {
        backend_ops(m->be)->download(m->be, block, (uint8_t *)m->pool + at / bt * l->block_bytes, l->block_bytes);
        measure(l, block, n - at < bt ? n - at : bt, scales);
    }
    for (size_t i = 0; !ret && i < n_scales; i++)
        scales[i] = scale_for(scales[i]);
    if (!ret)
        ret = scales_write(path, l->n_layers, l->n_kv_heads, scales, e);
    free(block), free(scales), free(ints);
    return ret;
}

int engine_calibrate(const struct engine_config *c, const int32_t *ids, uint32_t n, char *path, size_t size,
                     struct err *e)
{
    struct machine m;
    struct engine_config with = *c;
    struct engine_plan plan;
    assert(n > 0);
    if (strncmp(c->model, "random:", 7) == 0)
        return err_set(e, EINVAL, "%s: has no file to put scales beside; kv8 works without", c->model);
    if (scales_path(path, size, c->model))
        return err_set(e, ENAMETOOLONG, "%s: the path is too long", c->model);
    with.kv_format = KV_FORMAT_KV16;
    with.max_seqs = 1;
    with.ctx_tokens = 0;
    with.kv_bytes = 0;
    int ret = machine_plan(&with, &plan, e);
    if (ret)
        return ret;
    if (n > plan.ctx_train)
        n = plan.ctx_train;
    with.kv_bytes = (n + plan.block_tokens) * plan.kv_bytes_per_token;
    if ((ret = machine_open(&m, &with, NULL, NULL, e)))
        return ret;
    ret = run(&m, ids, n, path, e);
    machine_close(&m);
    return ret;
}
