/* ops_gen - see the header. */
#include "tests/support/ops_gen.h"

#include "engine/base/f16.h"
#include "engine/base/rng.h"
#include "engine/kv/fmt_kv16.h"
#include "engine/kv/fmt_kv32.h"
#include "engine/kv/fmt_kv8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int32_t ops_int(struct ops_rng *r, int32_t lo, int32_t hi)
{
    return lo + (int32_t)(rng_next(&r->state) % (uint64_t)(hi - lo + 1));
}

int32_t ops_pick(struct ops_rng *r, const int32_t *of, size_t n)
{
    return of[rng_next(&r->state) % n];
}

float ops_gauss(struct ops_rng *r)
{
    double sum = 0; /* eight uniforms of 16 bits: deviation sqrt(8 / 12) */
    for (int i = 0; i < 2; i++)
        for (uint64_t u = rng_next(&r->state), k = 0; k < 4; k++, u >>= 16)
            sum += (double)(u & 0xffff) / 65536.0 - 0.5;
    return (float)(sum / sqrt(8.0 / 12));
}

float *ops_gauss_array(struct ops_rng *r, size_t n, float scale)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert(x);
    for (size_t i = 0; i < n; i++)
        x[i] = ops_gauss(r) * scale;
    return x;
}

int32_t *ops_shuffled(struct ops_rng *r, int32_t n)
{
    int32_t *a = malloc(((size_t)n + 1) * sizeof *a);
    assert(a);
    for (int32_t i = 0; i < n; i++) {
        int32_t j = ops_int(r, 0, i);
        a[i] = a[j];
        a[j] = i;
    }
    return a;
}

void *ops_poison(size_t bytes)
{
    void *p = malloc(bytes + 1);
    assert(p);
    memset(p, 0xff, bytes);
    return p;
}

/* -- weights ----------------------------------------------------------------------------------------------------- */

static double half_value(const uint8_t *p)
{
    uint32_t h = p[0] | (uint32_t)p[1] << 8, exp = h >> 10 & 31, man = h & 1023;
    double v = exp ? ldexp(1024 + man, (int)exp - 25) : ldexp(man, -24);
    return h & 0x8000 ? -v : v;
}

/* Element k of a row: written from the layouts of ggml, apart from quant.h on purpose. */
static double element(uint32_t dtype, const uint8_t *row, int32_t k)
{
    int32_t b = k / 32, j = k % 32;
    const uint8_t *p;
    float f;
    switch (dtype) {
    case DT_F32:
        memcpy(&f, row + 4 * (size_t)k, 4);
        return f;
    case DT_F16:
        return half_value(row + 2 * (size_t)k);
    case DT_BF16:
        f = f32_from_bits((uint32_t)row[2 * k] << 16 | (uint32_t)row[2 * k + 1] << 24);
        return f;
    case DT_Q8_0:
        p = row + 34 * (size_t)b;
        return half_value(p) * (int8_t)p[2 + j];
    case DT_Q4_0:
        p = row + 18 * (size_t)b;
        return half_value(p) * ((p[2 + j % 16] >> (j < 16 ? 0 : 4) & 15) - 8);
    default:
        p = row + 20 * (size_t)b;
        return (float)(half_value(p) * (p[4 + j % 16] >> (j < 16 ? 0 : 4) & 15) + half_value(p + 2));
    }
}

static void put_half(uint8_t *p, float v)
{
    uint16_t h = f16_from_f32(v);
    memcpy(p, &h, 2);
}

/* Random bytes of one row with values of deviation about `scale`; now and then a block scale of 0 or a subnormal. */
static void fill_row(struct ops_rng *r, uint32_t dtype, uint8_t *row, int32_t cols, float scale)
{
    for (int32_t k = 0; k < cols && (dtype == DT_F32 || dtype == DT_F16 || dtype == DT_BF16); k++) {
        float f = ops_gauss(r) * scale;
        uint16_t h = dtype == DT_F16 ? f16_from_f32(f) : bf16_from_f32(f);
        memcpy(row + (size_t)k * (dtype == DT_F32 ? 4 : 2), dtype == DT_F32 ? (void *)&f : (void *)&h,
               dtype == DT_F32 ? 4 : 2);
    }
    uint32_t block = dtype == DT_Q8_0 ? 34 : dtype == DT_Q4_0 ? 18 : 20, levels = dtype == DT_Q8_0 ? 74 : 5;
    for (int32_t b = 0; b < cols / 32 && (dtype == DT_Q8_0 || dtype == DT_Q4_0 || dtype == DT_Q4_1); b++) {
        uint8_t *p = row + (size_t)b * block;
        float d = scale / (float)levels * (1 + 0.3f * ops_gauss(r));
        int32_t odd = ops_int(r, 0, 40);
        put_half(p, odd == 0 ? 0 : odd == 1 ? 0x1p-20f : odd < 20 ? -d : d);
        if (dtype == DT_Q4_1)
            put_half(p + 2, -7.5f * d + 0.2f * scale * ops_gauss(r));
        for (uint32_t i = dtype == DT_Q4_1 ? 4 : 2; i < block; i++)
            p[i] = (uint8_t)rng_next(&r->state);
    }
}

void ops_matrix_make(struct ops_matrix *m, struct ops_rng *r, const uint32_t *dtypes, int32_t n_parts,
                     int32_t part_rows, int32_t cols)
{
    *m = (struct ops_matrix){.n_parts = n_parts, .cols = cols};
    m->value = malloc((size_t)n_parts * part_rows * cols * sizeof *m->value);
    assert(m->value);
    for (int32_t i = 0; i < n_parts; i++) {
        int32_t rows = i ? ops_int(r, 1, part_rows) : part_rows;
        uint64_t stride = quant_row_bytes(dtypes[i], cols) + 4 * (uint64_t)ops_int(r, 0, 2);
        uint8_t *bytes = ops_poison(stride * (uint64_t)rows);
        for (int32_t n = 0; n < rows; n++, m->rows++) {
            fill_row(r, dtypes[i], bytes + (size_t)n * stride, cols, 1 / sqrtf((float)cols));
            for (int32_t k = 0; k < cols; k++)
                m->value[(size_t)m->rows * cols + k] = element(dtypes[i], bytes + (size_t)n * stride, k);
        }
        m->part[i] = (struct weight_part){
            .data = bytes, .dtype = dtypes[i], .rows = rows, .cols = cols, .row_bytes = stride};
    }
}

void ops_matrix_to_bf16(struct ops_matrix *to, const struct ops_matrix *m)
{
    const double *value = m->value;
    *to = *m;
    to->value = NULL;
    for (int32_t i = 0; i < m->n_parts; i++) {
        size_t n = (size_t)m->part[i].rows * m->cols;
        uint16_t *bytes = ops_poison(n * sizeof *bytes);
        for (size_t k = 0; k < n; k++)
            bytes[k] = bf16_from_f32((float)*value++);
        to->part[i] = (struct weight_part){.data = bytes,
                                           .dtype = DT_BF16,
                                           .rows = m->part[i].rows,
                                           .cols = m->cols,
                                           .row_bytes = (uint64_t)m->cols * 2};
    }
}

void ops_matrix_free(struct ops_matrix *m)
{
    for (int32_t i = 0; i < m->n_parts; i++)
        free((void *)(uintptr_t)m->part[i].data);
    free(m->value);
}

/* Steps are numbered through, as a backend may ask. */
uint64_t ops_next_step(void)
{
    static uint64_t number;
    return ++number;
}

/* -- KV ---------------------------------------------------------------------------------------------------------- */

struct ops_kv_dims ops_kv_dims_random(struct ops_rng *r)
{
    static const int32_t dims[] = {16, 18, 32, 64, 64, 80, 96, 128, 192, BACKEND_HEAD_DIM_MAX},
                         blocks[] = {16, 32, 64, 128}, formats[] = {KV_FORMAT_KV32, KV_FORMAT_KV16, KV_FORMAT_KV8};
    struct ops_kv_dims d = {
        .head_dim = ops_pick(r, dims, 10),
        .n_kv_heads = ops_int(r, 1, 4),
        .group = ops_int(r, 1, 8),
        .block_tokens = ops_pick(r, blocks, 4),
        .format = (uint32_t)ops_pick(r, formats, 3),
        .n_seqs = ops_int(r, 1, 4),
        .max_new = ops_int(r, 0, 2) ? 1 + ops_int(r, 0, 8) : 33,
    };
    int64_t per_key = (int64_t)d.head_dim * d.n_kv_heads * d.group * d.n_seqs * (d.max_new + 1) / 2;
    int64_t keys = 4000000 / per_key; /* multiply-adds a case may cost, floats its pool may hold */
    int64_t room = 400000 / ((int64_t)d.head_dim * d.n_kv_heads * d.n_seqs);
    keys = keys < room ? keys : room;
    d.max_past = (int32_t)(keys > 300 ? 300 : keys);
    return d;
}

/* Strides with gaps, as layout may choose them: a kernel that multiplies by itself goes wrong. */
static void make_view(struct ops_kv_case *c, struct ops_rng *r, const struct ops_kv_dims *d, int32_t n_blocks)
{
    uint64_t elem = d->format == KV_FORMAT_KV32 ? 4 : d->format == KV_FORMAT_KV16 ? 2 : 1;
    struct kv_view *kv = &c->kv;
    kv->block_tokens = (uint32_t)d->block_tokens;
    kv->format = d->format;
    kv->head_dim = (uint32_t)d->head_dim;
    kv->n_kv_heads = (uint32_t)d->n_kv_heads;
    kv->row_stride = (uint64_t)d->head_dim * elem + 16 * (uint64_t)ops_int(r, 0, 1);
    kv->v_offset = kv->row_stride * kv->block_tokens + 64 * (uint64_t)ops_int(r, 0, 1);
    kv->head_stride = 2 * kv->v_offset;
    uint64_t layer = kv->head_stride * kv->n_kv_heads;
    int32_t n_layers = ops_int(r, 1, 2);
    kv->layer_offset = layer * (uint64_t)ops_int(r, 0, n_layers - 1);
    kv->block_stride = layer * (uint64_t)n_layers + 64 * (uint64_t)ops_int(r, 0, 1);
    c->pool_bytes = kv->block_stride * (uint64_t)n_blocks;
    c->pool = ops_poison(c->pool_bytes);
    kv->base = c->pool;
    c->scale = malloc(2 * (size_t)d->n_kv_heads * sizeof *c->scale);
    assert(c->scale);
    for (int32_t i = 0; i < 2 * d->n_kv_heads; i++)
        c->scale[i] = ldexpf(1, -ops_int(r, 5, 9)); /* 448 x 2^-9 is below a deviation: some are cut off */
    kv->scale = d->format == KV_FORMAT_KV8 ? c->scale : NULL;
}

/* x through the format and back, in place; the bytes go to the pool when `row` is there. g, v: whose row it is. */
static void store(const struct kv_view *kv, void *row, float *x, uint32_t g, int v)
{
    float bytes[BACKEND_HEAD_DIM_MAX];
    if (kv->format == KV_FORMAT_KV32) {
        if (row)
            kv32_put(row, x, kv->head_dim);
        return;
    }
    if (kv->format == KV_FORMAT_KV8) {
        kv8_put(bytes, x, kv->head_dim, kv_scale(kv, g, v));
        if (row)
            memcpy(row, bytes, kv->head_dim);
        kv8_get(x, bytes, kv->head_dim, kv_scale(kv, g, v));
        return;
    }
    kv16_put(bytes, x, kv->head_dim);
    if (row)
        memcpy(row, bytes, (size_t)kv->head_dim * 2);
    kv16_get(x, bytes, kv->head_dim);
}

static void fill_sequence(struct ops_kv_case *c, int32_t s, int32_t n_filled)
{
    const struct kv_view *kv = &c->kv;
    const int32_t *table = c->step.table + c->step.table_at[s];
    for (int32_t p = 0; p < c->len[s]; p++)
        for (uint32_t g = 0; g < kv->n_kv_heads; g++) {
            size_t at = ((size_t)p * kv->n_kv_heads + g) * kv->head_dim;
            int32_t block = table[p / (int32_t)kv->block_tokens];
            uint32_t token = (uint32_t)p % kv->block_tokens;
            store(kv, p < n_filled ? kv_row(kv, block, g, 0, token) : NULL, c->k[s] + at, g, 0);
            store(kv, p < n_filled ? kv_row(kv, block, g, 1, token) : NULL, c->v[s] + at, g, 1);
        }
}

void ops_kv_case_make(struct ops_kv_case *c, struct ops_rng *r, const struct ops_kv_dims *d, int fill)
{
    int32_t n_seqs = d->n_seqs, n_new[16], n_rows = 0, n_blocks = 0;
    assert(n_seqs <= 16);
    *c = (struct ops_kv_case){.n_heads = d->group * d->n_kv_heads};
    c->len = malloc((size_t)n_seqs * sizeof *c->len);
    c->k = malloc((size_t)n_seqs * sizeof *c->k);
    c->v = malloc((size_t)n_seqs * sizeof *c->v);
    for (int32_t s = 0; s < n_seqs; s++) {
        n_new[s] = ops_int(r, 1, d->max_new);
        c->len[s] = ops_int(r, 0, d->max_past) + n_new[s];
        n_rows += n_new[s];
        n_blocks += (c->len[s] + d->block_tokens - 1) / d->block_tokens;
    }
    int32_t pool_blocks = n_blocks + ops_int(r, 0, 3);
    make_view(c, r, d, pool_blocks);
    c->ints = calloc((size_t)n_rows * 3 + 2 * ((size_t)n_seqs + 1), sizeof *c->ints);
    int32_t *ids = c->ints, *pos = ids + n_rows, *row_seq = pos + n_rows, *seq_row = row_seq + n_rows;
    int32_t *table_at = seq_row + n_seqs + 1, *table = ops_shuffled(r, pool_blocks);
    for (int32_t s = 0, t = 0; s < n_seqs; s++) {
        for (int32_t i = 0; i < n_new[s]; i++, t++) {
            pos[t] = c->len[s] - n_new[s] + i;
            row_seq[t] = s;
        }
        seq_row[s + 1] = t;
        table_at[s + 1] = table_at[s] + (c->len[s] + d->block_tokens - 1) / d->block_tokens;
    }
    c->step = (struct step){.number = ops_next_step(),
                            .n_rows = n_rows,
                            .n_seqs = n_seqs,
                            .ids = ids,
                            .pos = pos,
                            .row_seq = row_seq,
                            .seq_row = seq_row,
                            .table = table,
                            .table_at = table_at};
    size_t width = (size_t)d->n_kv_heads * (size_t)d->head_dim;
    for (int32_t s = 0; s < n_seqs; s++) {
        c->k[s] = ops_gauss_array(r, (size_t)c->len[s] * width, 1);
        c->v[s] = ops_gauss_array(r, (size_t)c->len[s] * width, 1);
        fill_sequence(c, s, fill ? c->len[s] : c->len[s] - n_new[s]);
    }
    c->qkv = ops_gauss_array(r, (size_t)n_rows * (size_t)(c->n_heads + 2 * d->n_kv_heads) * (size_t)d->head_dim, 1);
}

void ops_kv_case_free(struct ops_kv_case *c)
{
    for (int32_t s = 0; s < c->step.n_seqs; s++) {
        free(c->k[s]);
        free(c->v[s]);
    }
    free(c->k);
    free(c->v);
    free(c->len);
    free(c->qkv);
    free(c->pool);
    free(c->scale);
    free((void *)(uintptr_t)c->step.table);
    free(c->ints);
}

void ops_kv_write(const struct ops_kv_case *c, const float *qkv, uint8_t *pool)
{
    struct kv_view kv = c->kv;
    const struct step *st = &c->step;
    size_t d = kv.head_dim, heads = (size_t)c->n_heads + 2 * kv.n_kv_heads;
    float x[BACKEND_HEAD_DIM_MAX];
    kv.base = pool;
    for (int32_t t = 0; t < st->n_rows; t++)
        for (uint32_t i = 0; i < 2 * kv.n_kv_heads; i++) { /* k heads, then v heads */
            int32_t block = st->table[st->table_at[st->row_seq[t]] + st->pos[t] / (int32_t)kv.block_tokens];
            memcpy(x, qkv + (t * heads + (size_t)c->n_heads + i) * d, d * sizeof *x);
            uint32_t g = i % kv.n_kv_heads, token = (uint32_t)st->pos[t] % kv.block_tokens;
            int v = i >= kv.n_kv_heads;
            store(&kv, kv_row(&kv, block, g, v, token), x, g, v);
        }
}

struct step ops_step_of_rows(const struct ops_kv_case *c, const int32_t *pick, int32_t n)
{
    const struct step *from = &c->step;
    int32_t longest = from->table_at[from->n_seqs];
    int32_t *ids = calloc((size_t)n * 3 + 2 * ((size_t)n + 1) + (size_t)n * (size_t)longest, sizeof *ids);
    assert(ids);
    int32_t *pos = ids + n, *row_seq = pos + n, *seq_row = row_seq + n, *table_at = seq_row + n + 1;
    int32_t *table = table_at + n + 1;
    for (int32_t i = 0; i < n; i++) {
        int32_t s = from->row_seq[pick[i]], blocks = from->table_at[s + 1] - from->table_at[s];
        pos[i] = from->pos[pick[i]];
        row_seq[i] = i;
        seq_row[i + 1] = i + 1;
        table_at[i + 1] = table_at[i] + blocks;
        memcpy(table + table_at[i], from->table + from->table_at[s], (size_t)blocks * sizeof *table);
    }
    return (struct step){.number = ops_next_step(),
                         .n_rows = n,
                         .n_seqs = n,
                         .ids = ids,
                         .pos = pos,
                         .row_seq = row_seq,
                         .seq_row = seq_row,
                         .table = table,
                         .table_at = table_at};
}
