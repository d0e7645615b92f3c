/* fake_machine - see fake_machine.h. */
#include "tests/support/fake_machine.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct fake_backend {
    struct backend_head head;
};

static int32_t drawn[1024]; /* what was chosen last */

struct fake_model {
    struct model_head head;
    struct fake_cost cost;
    float *logits;
};

uint64_t fake_now_ns = 1000000000;

static uint64_t fake_now(void)
{
    return fake_now_ns;
}

void fake_clock_on(void)
{
    sys.now_ns = fake_now;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9E3779B97F4A7C15u ^ (b + 0x7F4A7C15u) * 0xBF58476D1CE4E5B9u;
    x ^= x >> 29;
    x *= 0x94D049BB133111EBu;
    return x ^ (x >> 32);
}

static void logits_of(uint64_t h, float *out)
{
    for (uint64_t v = 0; v < FAKE_VOCAB; v++)
        out[v] = (float)(mix(h, v) >> 40) / 16777216.0f * 8.0f;
}

static uint64_t *slot(const struct step *t, int32_t s, const struct kv_view *kv, int32_t pos)
{
    int32_t block = t->table[t->table_at[s] + pos / (int32_t)kv->block_tokens];
    return kv_row(kv, block, 0, 0, (uint32_t)pos % kv->block_tokens);
}

static float *fake_forward(struct model *model, const struct step *t, const struct kv_view *kv)
{
    struct fake_model *m = (struct fake_model *)(void *)model;
    uint64_t pairs = 0;
    uint64_t *sums = calloc((size_t)t->n_rows, sizeof *sums);
    assert(sums);
    for (int32_t r = 0; r < t->n_rows; r++)
        *slot(t, t->row_seq[r], kv, t->pos[r]) = mix((uint64_t)step_id(t, r, drawn), (uint64_t)t->pos[r]);
    for (int32_t r = 0; r < t->n_rows; r++) {
        int32_t from = m->cost.skim && t->pos[r] > 4 ? t->pos[r] - 4 : 0;
        pairs += (uint64_t)t->pos[r] + 1;
        for (int32_t p = from; p <= t->pos[r]; p++)
            sums[r] += mix(*slot(t, t->row_seq[r], kv, p), (uint64_t)t->pos[r]);
    }
    for (int32_t i = 0; i < t->n_out; i++)
        logits_of(sums[t->out_row[i]], m->logits + (size_t)i * FAKE_VOCAB);
    free(sums);
    fake_now_ns += m->cost.base_ns + m->cost.row_ns * (uint64_t)t->n_rows + m->cost.pair_ns * pairs;
    return m->logits;
}

static void fake_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                        struct sample_out *out, int32_t n)
{
    float scratch[2 * FAKE_VOCAB];
    assert(n <= (int32_t)(sizeof drawn / sizeof *drawn));
    for (int32_t i = 0; i < n; i++)
        sample_row_cpu_after(logits + (size_t)i * FAKE_VOCAB, vocab, &rows[i],
                             rows[i].after ? drawn[rows[i].after - 1] : -1, &out[i], scratch);
    for (int32_t i = 0; i < n; i++)
        drawn[i] = out[i].id;
}

static void fake_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}

static void fake_upload(struct backend *be, void *to, const void *host, size_t bytes)
{
    memcpy(to, host, bytes);
}

static void fake_download(struct backend *be, void *host, const void *from, size_t bytes)
{
    memcpy(host, from, bytes);
}

static void fake_sync(struct backend *be)
{
}

static const struct backend_ops fake_ops = {.name = "fake",
                                            .upload = fake_upload,
                                            .download = fake_download,
                                            .copy = fake_copy,
                                            .sample = fake_sample,
                                            .sync = fake_sync};
static const struct arch_ops fake_arch = {.name = "fake", .forward = fake_forward};

void fake_machine_open(struct machine *m, const struct engine_config *c, uint32_t n_blocks,
                       const struct fake_cost *cost)
{
    static struct fake_backend be = {{&fake_ops}};
    struct fake_model *model = calloc(1, sizeof *model);
    struct err e;
    memset(m, 0, sizeof *m);
    m->config = *c;
    m->config.block_tokens = c->block_tokens ? c->block_tokens : 16;
    m->config.max_rows = c->max_rows ? c->max_rows : 64;
    m->config.max_seqs = c->max_seqs ? c->max_seqs : 16;
    m->config.max_queued = c->max_queued ? c->max_queued : 1000;
    m->config.max_queued_tokens = c->max_queued_tokens ? c->max_queued_tokens : 1000000000;
    m->config.step_ms = c->step_ms ? c->step_ms : 100;
    m->config.check = 1;
    m->be = (struct backend *)(void *)&be;
    int ret = kv_layout_init(&m->layout, 1, 1, 2, m->config.block_tokens, KV_FORMAT_KV32, &e);
    assert(ret == 0 && model);
    model->head.ops = &fake_arch;
    if (cost)
        model->cost = *cost;
    model->logits = calloc((size_t)m->config.max_seqs * FAKE_VOCAB, sizeof *model->logits);
    m->model = (struct model *)(void *)model;
    m->plan.n_blocks = n_blocks;
    m->plan.ctx_tokens = c->ctx_tokens ? c->ctx_tokens : n_blocks * m->config.block_tokens;
    m->plan.block_tokens = m->config.block_tokens;
    m->vocab = m->plan.vocab = FAKE_VOCAB;
    m->pool = malloc(n_blocks * m->layout.block_bytes);
    m->views = calloc(1, sizeof *m->views);
    assert(model->logits && m->pool && m->views);
    memset(m->pool, 0xa5, n_blocks * m->layout.block_bytes); /* what was never written must not look like zero */
    m->views[0] = kv_layout_view(&m->layout, m->pool, 0);
}

void fake_machine_close(struct machine *m)
{
    free(((struct fake_model *)(void *)m->model)->logits);
    free(m->model);
    free(m->pool);
    free(m->views);
    memset(m, 0, sizeof *m);
}

int32_t fake_expect(const int32_t *ids, uint32_t n, uint32_t n_prompt, const struct engine_sampling *p, uint32_t choice)
{
    uint64_t sum = 0;
    float logits[FAKE_VOCAB], scratch[2 * FAKE_VOCAB];
    struct sample_seen seen[FAKE_VOCAB];
    struct sample_out out;
    for (uint32_t j = 0; j < n; j++)
        sum += mix(mix((uint64_t)ids[j], j), n - 1);
    logits_of(sum, logits);
    uint32_t n_seen = 0;
    for (int32_t v = 0; v < FAKE_VOCAB; v++) {
        uint32_t before = 0, after = 0;
        for (uint32_t j = 0; j < n; j++)
            if (ids[j] == v)
                j < n_prompt ? before++ : after++;
        if (before + after)
            seen[n_seen++] = (struct sample_seen){v, after};
    }
    struct sample_row row = {
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .repetition = p->repetition,
        .presence = p->presence,
        .frequency = p->frequency,
        .top_k = p->top_k,
        .n_logprobs = -1,
        .seed = p->seed,
        .position = n,
        .choice = choice,
        .n_seen = n_seen,
        .seen = seen,
    };
    sample_row_cpu(logits, FAKE_VOCAB, &row, &out, scratch);
    return out.id;
}
