/* cpu_fast - the fast CPU backend: quantised weights multiplied as they are, AVX2 or AVX-512, on a fixed pool of
 * threads.
 *
 * Here: opening, memory, weights, and the ops that go row by row. linear is in cpu_fast_gemm.c, attention in
 * cpu_fast_attn.c, memory in cpu_fast_mem.c, the kernels in cpu_fast_k_*.h, how weights lie in cpu_fast.h. All memory
 * is taken at open and when weights are loaded; an op takes none.
 */
#include "engine/compute/cpu_fast.h"

#include "engine/base/sys.h"

#include <cpuid.h>
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_WORK (16 << 10) /* floats that are worth a piece */

/* -- memory */

static void *fast_alloc(struct backend *be, size_t bytes)
{
    return fast_take(bytes);
}

static void fast_release(struct backend *be, void *p, size_t bytes)
{
    fast_give(p, bytes);
}

static void fast_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

/* -- open */

/* clang 14 has no name for this feature in __builtin_cpu_supports. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static int choose_isa(const struct fast_isa **out, const char *name, struct err *e)
{
    const struct fast_isa *best = has_avx512() ? &fast_isa_avx512 : has_avx2() ? &fast_isa_avx2 : NULL;
    if (!best)
        return err_set(e, ENOTSUP, "this CPU has no AVX2 with FMA and F16C: run the plain backend (--set cpu.isa=ref)");
    if (!name || strcmp(name, "auto") == 0) {
        *out = best;
    } else if (strcmp(name, "avx2") == 0) {
        *out = &fast_isa_avx2;
    } else if (strcmp(name, "avx512") == 0) {
        if (!has_avx512())
            return err_set(e, ENOTSUP, "cpu.isa avx512: this CPU has no AVX-512 with VNNI; avx2 is there");
        *out = &fast_isa_avx512;
    } else {
        return err_set(e, EINVAL, "cpu.isa %.32s: must be auto, avx2 or avx512", name);
    }
    return 0;
}

/* Lay the scratch of the ops out in one block of memory; with f->memory NULL only count. Returns its bytes. */
static size_t lay_out(struct cpu_fast *f)
{
    enum { Q, D, S, SUM, SCRATCH, SAMPLING, DRAWN, ATTN, N };
    size_t q = (size_t)f->max_rows * (size_t)f->max_cols, blocks = q / QUANT_BLOCK, threads = (size_t)f->threads;
    size_t size[N] = {[Q] = q * sizeof(int16_t), [D] = blocks * sizeof(float), [S] = blocks * sizeof(float)};
    size[SUM] = blocks * sizeof(int32_t);
    size[SCRATCH] = threads * FAST_SCRATCH;
    size[SAMPLING] = threads * 2 * (size_t)f->max_vocab * sizeof(float);
    size[DRAWN] = (size_t)f->max_draws * sizeof(int32_t);
    size[ATTN] = fast_attn_bytes(f->max_rows, f->threads);
    uint8_t *at[N];
    size_t end = 0;
    for (int i = 0; i < N; i++) {
        at[i] = (uint8_t *)f->memory + end;
        end += (size[i] + 63) & ~(size_t)63;
    }
    if (f->memory) {
        f->acts.q = (int16_t *)(void *)at[Q];
        f->acts.d = (float *)(void *)at[D];
        f->acts.s = (float *)(void *)at[S];
        f->acts.sum = (int32_t *)(void *)at[SUM];
        f->scratch = at[SCRATCH];
        f->sampling = (float *)(void *)at[SAMPLING];
        f->drawn = (int32_t *)(void *)at[DRAWN];
        f->attn = fast_attn_init(at[ATTN], f);
    }
    return end;
}

static void fast_close(struct backend *be)
{
    struct cpu_fast *f = cpu_fast(be);
    if (!f)
        return;
    fast_pool_close(f->pool);
    fast_give(f->memory, f->memory_bytes);
    free(f);
}

static int fast_open(struct backend **out, const struct backend_opts *o, struct err *e)
{
    assert(o->max_rows > 0 && o->max_cols > 0 && o->threads >= 0);
    struct cpu_fast *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(e, ENOMEM, "no memory for the CPU backend");
    f->head.ops = &backend_cpu_fast;
    f->threads = o->threads ? o->threads : sys_cpu_count();
    f->max_rows = o->max_rows;
    f->max_cols = o->max_cols;
    f->max_vocab = o->max_vocab;
    f->max_draws = o->max_seqs ? o->max_seqs : o->max_rows;
    int rc = choose_isa(&f->isa, o->isa, e);
    if (rc != 0)
        goto fail;
    f->memory_bytes = lay_out(f);
    f->memory = fast_take(f->memory_bytes);
    if (!f->memory) {
        rc = err_set(e, ENOMEM, "no memory for %zu bytes of CPU scratch (%d rows)", f->memory_bytes, f->max_rows);
        goto fail;
    }
    lay_out(f);
    rc = fast_pool_open(&f->pool, f->threads, e);
    if (rc != 0)
        goto fail;
    snprintf(f->text, sizeof f->text, "%s, %d thread%s", f->isa->name, f->threads, f->threads == 1 ? "" : "s");
    *out = (struct backend *)(void *)f;
    return 0;
fail:
    fast_close((struct backend *)(void *)f);
    return rc;
}

static const char *fast_describe(const struct backend *be)
{
    return ((const struct cpu_fast *)(const void *)be)->text;
}

/* -- weights */

static uint64_t fast_weight_bytes(uint32_t dtype, int32_t rows, int32_t cols)
{
    if (quant_row_bytes(dtype, cols) == 0)
        return 0;
    return fast_panel_bytes(dtype, cols) * (uint64_t)((rows + PANEL - 1) / PANEL);
}

static void fast_weight_free(struct backend *be, struct weight *w)
{
    for (int32_t i = 0; i < w->n_parts; i++)
        fast_slab_give(&cpu_fast(be)->slabs, w->part[i].data);
    *w = (struct weight){0};
}

static int fast_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                            struct err *e)
{
    assert(n_parts >= 1 && n_parts <= WEIGHT_PARTS_MAX);
    struct weight w = {.cols = parts[0].cols};
    int rc = 0;
    for (int i = 0; i < n_parts; i++) {
        const struct weight_part *p = &parts[i];
        assert(p->cols == w.cols && p->rows > 0 && p->cols > 0);
        uint64_t bytes = fast_weight_bytes(p->dtype, p->rows, p->cols);
        if (bytes == 0) {
            rc = err_set(e, ENOTSUP,
                         "weight type %u with %d columns: cpu_fast takes F32 F16 BF16, and Q8_0 Q4_0 Q4_1 with a "
                         "multiple of %d columns",
                         p->dtype, p->cols, QUANT_BLOCK);
            goto fail;
        }
        void *data = fast_slab_take(&cpu_fast(be)->slabs, bytes);
        if (!data) {
            rc = err_set(e, ENOMEM, "no memory for a weight of %llu bytes", (unsigned long long)bytes);
            goto fail;
        }
        fast_pack(data, p);
        w.part[i] = (struct weight_seg){data, bytes, p->dtype, p->rows};
        w.n_parts = i + 1;
        w.rows += p->rows;
    }
    *out = w;
    return 0;
fail:
    fast_weight_free(be, &w);
    return rc;
}

/* -- ops that go row by row */

struct row_job {
    struct cpu_fast *f;
    int32_t n_rows, step; /* rows of a piece */
    void (*row)(const struct row_job *j, int32_t row);
    float *out, *x;
    const float *in, *w;
    const struct weight *table;
    const struct step *of;
    const struct rope_args *rope;
    float eps;
    int32_t width;
};

static void row_piece(void *ctx, int32_t piece, int32_t thread)
{
    const struct row_job *j = ctx;
    int32_t end = (piece + 1) * j->step < j->n_rows ? (piece + 1) * j->step : j->n_rows;
    for (int32_t r = piece * j->step; r < end; r++)
        j->row(j, r);
}

/* Few rows stay on the calling thread: waking others costs more. */
static void run_rows(struct row_job *j, int32_t floats_per_row)
{
    j->step = ROW_WORK / floats_per_row + 1;
    fast_pool_run(j->f->pool, row_piece, j, (j->n_rows + j->step - 1) / j->step);
}

static void embed_row(const struct row_job *j, int32_t t)
{
    int32_t id = step_id(j->of, t, j->f->drawn), part = 0;
    assert(id >= 0 && id < j->table->rows);
    for (; id >= j->table->part[part].rows; part++)
        id -= j->table->part[part].rows;
    const struct weight_seg *s = &j->table->part[part];
    fast_unpack_row(j->out + (int64_t)t * j->width, s->data, s->dtype, j->width, id);
}

static void fast_embed(struct backend *be, float *out, const struct weight *table, const struct step *step)
{
    struct row_job j = {.f = cpu_fast(be), .n_rows = step->n_rows, .row = embed_row};
    j.out = out;
    j.table = table;
    j.of = step;
    j.width = table->cols;
    run_rows(&j, 4 * table->cols); /* single bytes far apart: slower than floats in order */
}

static void norm_row(const struct row_job *j, int32_t t)
{
    int64_t at = (int64_t)t * j->width;
    j->f->isa->add_norm(j->out ? j->out + at : NULL, j->x + at, j->in ? j->in + at : NULL, j->w, j->eps, j->width);
}

static void fast_add_norm(struct backend *be, void *out, float *x, const float *add, const float *w, float eps,
                          int32_t n_rows, int32_t width)
{
    struct row_job j = {.f = cpu_fast(be), .n_rows = n_rows, .row = norm_row};
    j.out = out;
    j.x = x;
    j.in = add;
    j.w = w;
    j.eps = eps;
    j.width = width;
    run_rows(&j, width);
}

static void silu_row(const struct row_job *j, int32_t t)
{
    j->f->isa->silu_mul(j->out + (int64_t)t * j->width, j->in + 2 * (int64_t)t * j->width, j->width);
}

static void fast_silu_mul(struct backend *be, void *out, const float *gu, int32_t n_rows, int32_t f)
{
    struct row_job j = {.f = cpu_fast(be), .n_rows = n_rows, .row = silu_row};
    j.out = out;
    j.in = gu;
    j.width = f;
    run_rows(&j, 4 * f);
}

static void gather_row(const struct row_job *j, int32_t t)
{
    memcpy(j->out + (int64_t)t * j->width, j->in + (int64_t)j->of->out_row[t] * j->width,
           (size_t)j->width * sizeof(float));
}

static void fast_gather(struct backend *be, void *out, const void *x, const struct step *step, uint64_t row_bytes)
{
    struct row_job j = {.f = cpu_fast(be), .n_rows = step->n_out, .row = gather_row};
    assert(row_bytes % sizeof(float) == 0);
    j.out = out;
    j.in = x;
    j.of = step;
    j.width = (int32_t)(row_bytes / sizeof(float));
    run_rows(&j, j.width);
}

static void rope_row(const struct row_job *j, int32_t t)
{
    const struct rope_args *a = j->rope;
    const struct kv_view *kv = a->kv;
    const struct step *step = a->step;
    int32_t dim = (int32_t)kv->head_dim, half = dim / 2, pos = step->pos[t], n_kv = (int32_t)kv->n_kv_heads;
    float cs[ATTN_D];
    for (int32_t i = 0; i < half; i++) {
        double angle = (double)pos * a->inv_freq[i], turns = rint(angle * (0.5 / M_PI));
        float s, c;
        sincosf((float)(angle - turns * (2 * M_PI)), &s, &c); /* reduced in double: pos may be large */
        cs[i] = c * a->attn_factor;
        cs[half + i] = s * a->attn_factor;
    }
    float *q = a->qkv + (int64_t)t * (a->n_heads + 2 * n_kv) * dim, *k = q + (int64_t)a->n_heads * dim;
    for (int32_t h = 0; h < a->n_heads + n_kv; h++)
        j->f->isa->rotate(q + (int64_t)h * dim, cs, half);
    int32_t at = pos / (int32_t)kv->block_tokens, block = step->table[step->table_at[step->row_seq[t]] + at];
    uint32_t token = (uint32_t)pos % kv->block_tokens;
    for (int32_t h = 0; h < n_kv; h++)
        for (int v = 0; v < 2; v++)
            j->f->isa->kv_put(kv_row(kv, block, (uint32_t)h, v, token), k + (int64_t)(v * n_kv + h) * dim, kv->head_dim,
                              kv->format, kv_scale(kv, (uint32_t)h, v));
}

static void fast_rope_kv(struct backend *be, const struct rope_args *a)
{
    assert(a->kv->head_dim <= ATTN_D);
    struct row_job j = {.f = cpu_fast(be), .n_rows = a->step->n_rows, .row = rope_row};
    j.rope = a;
    run_rows(&j, 4 * (a->n_heads + 2 * (int32_t)a->kv->n_kv_heads) * (int32_t)a->kv->head_dim);
}

/* -- sample, sync */

struct sample_job {
    struct cpu_fast *f;
    const float *logits;
    int32_t vocab;
    const struct sample_row *rows;
    struct sample_out *out;
};

static void sample_piece(void *ctx, int32_t row, int32_t thread)
{
    struct sample_job *j = ctx;
    float *scratch = j->f->sampling + (size_t)thread * 2 * (size_t)j->f->max_vocab;
    uint32_t after = j->rows[row].after;
    sample_row_cpu_after(j->logits + (int64_t)row * j->vocab, j->vocab, &j->rows[row],
                         after ? j->f->drawn[after - 1] : -1, &j->out[row], scratch);
}

static void fast_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                        struct sample_out *out, int32_t n)
{
    struct sample_job j = {cpu_fast(be), logits, vocab, rows, out};
    assert(vocab <= j.f->max_vocab && n <= j.f->max_draws);
    fast_pool_run(j.f->pool, sample_piece, &j, n);
    for (int32_t i = 0; i < n; i++)
        j.f->drawn[i] = out[i].id;
}

static void fast_sync(struct backend *be)
{
}

const struct backend_ops backend_cpu_fast = {
    .abi = BACKEND_ABI,
    .name = "cpu_fast",
    .input_dtype = DT_F32,
    .depth = 1,
    .open = fast_open,
    .close = fast_close,
    .describe = fast_describe,
    .alloc = fast_alloc,
    .release = fast_release,
    .upload = fast_copy,
    .copy = fast_copy,
    .download = fast_copy,
    .weight_load = fast_weight_load,
    .weight_free = fast_weight_free,
    .weight_bytes = fast_weight_bytes,
    .embed = fast_embed,
    .add_norm = fast_add_norm,
    .linear = fast_linear,
    .rope_kv = fast_rope_kv,
    .attention = fast_attention,
    .merge = fast_merge,
    .silu_mul = fast_silu_mul,
    .gather = fast_gather,
    .sample = fast_sample,
    .sync = fast_sync,
};
