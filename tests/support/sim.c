/* sim - see sim.h. */
#include "tests/support/sim.h"

#include "engine/base/sys.h"
#include "engine/sched.h"
#include "tests/support/sim_tier.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The machine: Llama-3-8B in bf16 on four H100 as one. One alone can't serve the Mooncake traces in their time. */
#define GPUS            4.0
#define BLOCK_TOKENS    64
#define TOKEN_BYTES     131072        /* of KV */
#define STEP_NS         (6e6 / GPUS)  /* a decode step's reading of the weights */
#define ROW_NS          (26e3 / GPUS) /* a row of prefill */
#define PAIR_NS         (0.85 / GPUS) /* a (row, key) pair of prefill */
#define DECODE_PAIR_NS  (43.0 / GPUS) /* .. of a row that decodes: its keys are read for it alone */
#define PCIE_BPS        50e9
#define NVME_READ_BPS   14e9
#define NVME_WRITE_BPS  8e9
#define NVME_LATENCY_NS 100000
#define TIERS_BURST_S   300
#define BUSY_NS         5000000
#define MAX_SEQS        256
#define MAX_ROWS        2048  /* tokens a step */
#define CHECK_EVERY     1024  /* steps */
#define STAGING_TOKENS  65536 /* DRAM that loads and writes pass through when there is no such tier */

struct sim {
    const struct sim_opts *o;
    const struct mooncake *trace;
    struct kvcache kv;
    struct sched sched;
    struct tier *gpu, *nvme; /* owned by kv.tiers */
    uint64_t step, live;
    size_t next; /* request that arrives next */
    double *ttft;
    size_t n_ttft;
    struct sim_result r;
};

static uint64_t clock_ns;

static uint64_t sim_now(void)
{
    return clock_ns;
}

/* -- opening */

static uint32_t blocks_of(const struct sim *s, uint64_t tokens)
{
    return (uint32_t)(tokens / ((uint64_t)BLOCK_TOKENS * s->o->row_tokens));
}

static uint64_t block_bytes(const struct sim *s)
{
    return (uint64_t)BLOCK_TOKENS * s->o->row_tokens * TOKEN_BYTES;
}

static uint32_t rows_of_prompt(const struct sim *s, const struct mooncake_request *q)
{
    return q->n_ids * MOONCAKE_ID_TOKENS / s->o->row_tokens;
}

static uint32_t rows_of_output(const struct sim *s, const struct mooncake_request *q)
{
    return q->output / s->o->row_tokens + 1;
}

/* HBM holds at least the longest request: one that can never run would hold the queue for ever. */
static uint32_t hbm_blocks(const struct sim *s)
{
    uint32_t n = blocks_of(s, s->o->tokens[TIER_HBM]);
    for (size_t i = 0; i < s->trace->n; i++) {
        const struct mooncake_request *q = &s->trace->requests[i];
        uint32_t need = (uint32_t)table_blocks_for(BLOCK_TOKENS, rows_of_prompt(s, q) + rows_of_output(s, q)) + 1;
        n = n < need ? need : n;
    }
    return n;
}

static int open_tiers(struct sim *s, uint32_t n_hbm, struct err *e)
{
    const uint64_t *tokens = s->o->tokens;
    struct tiers *t = NULL;
    if (!tokens[TIER_DRAM] && !tokens[TIER_NVME])
        return 0;
    struct sim_tier_opts gpu = {.n_slots = (int32_t)n_hbm,
                                .block_bytes = block_bytes(s),
                                .read_bps = (uint64_t)PCIE_BPS,
                                .write_bps = (uint64_t)PCIE_BPS,
                                .depth = 4096},
                         nvme = {.n_slots = (int32_t)blocks_of(s, tokens[TIER_NVME]),
                                 .nvme = true,
                                 .block_bytes = block_bytes(s),
                                 .read_bps = (uint64_t)NVME_READ_BPS,
                                 .write_bps = (uint64_t)NVME_WRITE_BPS,
                                 .latency_ns = NVME_LATENCY_NS,
                                 .depth = 64};
    struct tiers_opts o = {.block_tokens = BLOCK_TOKENS,
                           .block_bytes = block_bytes(s),
                           .n_hbm = n_hbm,
                           .dram_bytes = (tokens[TIER_DRAM] ? tokens[TIER_DRAM] : STAGING_TOKENS) * TOKEN_BYTES,
                           .write_bytes_per_day = (uint64_t)(s->o->write_share_bps * 86400),
                           .deadline_ns = 2000000000u,
                           .no_bytes = true};
    if (sim_tier_open(&s->gpu, &gpu) != 0 || (tokens[TIER_NVME] && sim_tier_open(&s->nvme, &nvme) != 0))
        goto no_memory;
    o.gpu = s->gpu;
    o.nvme = s->nvme;
    o.returns = s->kv.returns;
    int ret = tiers_open(&t, &o, e);
    if (ret)
        s->gpu = s->nvme = NULL; /* closed in any case */
    if (!ret && kvcache_attach(&s->kv, t) == 0) {
        s->kv.load_always = !s->o->by_cost;
        return 0;
    }
    tiers_close(t);
    return ret ? ret : err_set(e, ENOMEM, "simulation: out of memory");
no_memory:
    tier_close(s->gpu);
    tier_close(s->nvme);
    return err_set(e, ENOMEM, "simulation: out of memory");
}

static int open_engine(struct sim *s, struct err *e)
{
    struct sched_limits limits = {
        MAX_SEQS, MAX_ROWS / s->o->row_tokens > MAX_SEQS ? MAX_ROWS / s->o->row_tokens : MAX_SEQS, 100e6};
    uint32_t n_hbm = hbm_blocks(s);
    struct returns_opts o = {.block_tokens = BLOCK_TOKENS * s->o->row_tokens,
                             .sample = s->o->row_tokens >= 4 ? 1 : 4 / s->o->row_tokens};
    struct returns *returns = NULL;
    if ((!s->o->lru && returns_open(&returns, &o) != 0) ||
        kvcache_open(&s->kv, n_hbm, BLOCK_TOKENS, true, returns) != 0 || sched_open(&s->sched, &limits, &s->kv) != 0)
        return err_set(e, ENOMEM, "simulation: out of memory");
    s->kv.budget = &s->sched.budget;
    return open_tiers(s, n_hbm, e);
}

/* -- arrivals */

/* Token ids of a prompt: the rows of an id name it and their place in it, so that equal ids are equal blocks and no
 * others are. */
static void fill_prompt(const struct sim *s, const struct mooncake_request *q, int32_t *ids)
{
    uint32_t per_id = MOONCAKE_ID_TOKENS / s->o->row_tokens;
    for (uint32_t i = 0; i < q->n_ids; i++)
        for (uint32_t j = 0; j < per_id; j++)
            *ids++ = (int32_t)(j % 2 ? q->ids[i] >> 20 : (q->ids[i] & 0xfffff) | (j / BLOCK_TOKENS) << 20);
}

static int arrive(struct sim *s)
{
    const struct mooncake_request *q = &s->trace->requests[s->next];
    struct request *r = calloc(1, sizeof *r);
    int32_t *ids = malloc(rows_of_prompt(s, q) * sizeof *ids);
    struct seq *seq = NULL;
    if (!r || !ids)
        goto fail;
    *r = (struct request){.id = s->next + 1,
                          .order = s->next + 1,
                          .n = 1,
                          .n_prompt = rows_of_prompt(s, q),
                          .max_tokens = rows_of_output(s, q),
                          .sampling = {.repetition = 1, .n_logprobs = -1},
                          .arrived_ns = q->at_us * 1000};
    fill_prompt(s, q, ids);
    seq = seq_open(r, 0, ids, NULL, 0, BLOCK_TOKENS);
    if (!seq || sched_add(&s->sched, seq) != 0)
        goto fail;
    free(ids);
    s->next++;
    s->live++;
    return 0;
fail:
    seq_close(seq);
    free(ids);
    free(r);
    return -ENOMEM;
}

/* -- steps */

static double step_ns(const struct sim *s, const struct plan *p)
{
    double tokens = s->o->row_tokens, prefill = 0, keys = 0;
    for (uint32_t i = 0; i < p->n_runs; i++) {
        const struct plan_run *run = &p->runs[i];
        double pairs = (double)budget_pairs(run->begin, run->n_rows) * tokens * tokens;
        if (run->n_rows == 1)
            keys += pairs * DECODE_PAIR_NS;
        else
            prefill += run->n_rows * tokens * ROW_NS + pairs * PAIR_NS;
    }
    double weights = p->n_decode ? STEP_NS * tokens : STEP_NS;
    return keys + (prefill > weights ? prefill : weights);
}

static void note_hits(struct sim *s, const struct seq *q)
{
    const struct request *r = q->req;
    double hits = 0;
    s->r.input_tokens += (uint64_t)r->n_prompt * s->o->row_tokens;
    s->r.hit_tokens += (uint64_t)r->cached * s->o->row_tokens;
    for (int t = 0; t < TIER_COUNT; t++)
        s->r.tier_tokens[t] += (uint64_t)r->cached_in[t] * s->o->row_tokens;
    hits = (double)r->cached * s->o->row_tokens;
    s->r.saved_seconds += (hits * ROW_NS + hits * hits / 2 * PAIR_NS) / 1e9;
}

static void accept_token(struct sim *s, struct seq *q)
{
    struct request *r = q->req;
    if (!r->first_ns) {
        r->first_ns = clock_ns;
        s->ttft[s->n_ttft++] = (double)(clock_ns - r->arrived_ns) / 1e9;
        note_hits(s, q);
    }
    sched_accept(&s->sched, q, (int32_t)(0x800000 | (r->id & 0x7fffff)));
    q->credit++;
    if (seq_generated(q) < r->max_tokens)
        return;
    sched_remove(&s->sched, q);
    seq_close(q);
    request_close(r);
    s->live--;
}

static bool run_step(struct sim *s)
{
    const struct plan *p = sched_step(&s->sched, s->step + 1);
    if (!p)
        return false;
    double ns = step_ns(s, p);
    s->kv.queued = ++s->step;
    clock_ns += (uint64_t)ns;
    budget_learn(&s->sched.budget, p->n_rows, p->pairs, (uint64_t)ns);
    kvcache_finish(&s->kv, p->step);
    for (uint32_t i = 0; i < p->n_runs; i++) {
        struct seq *q = s->sched.slots[p->runs[i].slot];
        if (seq_generated(q) == 0)
            kvcache_publish(&s->kv, q);
        if (p->runs[i].n_draws)
            accept_token(s, q);
    }
    if (s->o->check && s->step % CHECK_EVERY == 0)
        sched_check(&s->sched);
    return true;
}

/* Nothing can run: to the next arrival or end of a move. */
static bool wait_for_something(struct sim *s)
{
    uint64_t next = s->next < s->trace->n ? s->trace->requests[s->next].at_us * 1000 : UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        const struct tier *t = i ? s->nvme : s->gpu;
        uint64_t end = t ? sim_tier_next(t) : UINT64_MAX;
        next = end < next ? end : next;
    }
    if (s->kv.tiers && tiers_busy(s->kv.tiers) && next > clock_ns + BUSY_NS)
        next = clock_ns + BUSY_NS; /* the engine looks again, too: a deadline may have come */
    if (next == UINT64_MAX)
        return false;
    clock_ns = next > clock_ns ? next : clock_ns + 1000;
    return true;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void finish(struct sim *s)
{
    struct sim_result *r = &s->r;
    if (s->kv.tiers)
        tiers_get_stats(s->kv.tiers, &r->tiers);
    r->up_bytes[TIER_DRAM] = r->tiers.gpu[0].bytes;
    r->down_bytes[TIER_DRAM] = r->tiers.gpu[1].bytes;
    r->up_bytes[TIER_NVME] = r->tiers.nvme[0].bytes;
    r->down_bytes[TIER_NVME] = r->tiers.nvme[1].bytes;
    r->requests = s->n_ttft;
    r->steps = s->step;
    r->preempted = s->sched.n_preempted;
    r->seconds = (double)(clock_ns - s->trace->requests[0].at_us * 1000) / 1e9;
    qsort(s->ttft, s->n_ttft, sizeof *s->ttft, by_size);
    r->ttft_p50 = s->ttft[s->n_ttft * 50 / 100];
    r->ttft_p90 = s->ttft[s->n_ttft * 90 / 100];
    r->ttft_p99 = s->ttft[s->n_ttft * 99 / 100];
}

double sim_budget(const struct mooncake *trace, double bytes)
{
    double seconds = (double)(trace->requests[trace->n - 1].at_us - trace->requests[0].at_us) / 1e6;
    return bytes / (seconds + TIERS_BURST_S);
}

int sim_run(const struct sim_opts *o, const struct mooncake *trace, struct sim_result *out, struct err *e)
{
    struct sim s = {.o = o, .trace = trace};
    assert(o->row_tokens && MOONCAKE_ID_TOKENS % (BLOCK_TOKENS * o->row_tokens) == 0);
    clock_ns = trace->requests[0].at_us * 1000;
    sys.now_ns = sim_now;
    s.ttft = malloc(trace->n * sizeof *s.ttft);
    int ret = s.ttft ? open_engine(&s, e) : err_set(e, ENOMEM, "simulation: out of memory");
    while (ret == 0 && (s.live > 0 || s.next < trace->n)) {
        while (ret == 0 && s.next < trace->n && trace->requests[s.next].at_us * 1000 <= clock_ns)
            ret = arrive(&s) ? err_set(e, ENOMEM, "simulation: out of memory") : 0;
        bool any = sched_move(&s.sched);
        any |= run_step(&s);
        if (!any && !wait_for_something(&s))
            ret = err_set(e, EDEADLK, "simulation: %llu requests wait and nothing will happen",
                          (unsigned long long)s.live);
    }
    if (ret == 0) {
        finish(&s);
        *out = s.r;
    }
    if (s.sched.slots)
        sched_close(&s.sched);
    kvcache_close(&s.kv);
    free(s.ttft);
    return ret;
}
