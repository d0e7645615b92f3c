/* test_tiers_model - sessions of several turns through a real model on the CPU backend, 64 at a time, with 8 blocks in
 * the pool, 16 in DRAM and 64 on a drive: each draw's logits and each token are those of an engine without any cache,
 * by memcmp. In kv16 and in kv8, in folders of their own and in one together, while wrong blocks are planted.
 * HEARTH_SOAK=1: 10,000 requests each time.
 */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/rng.h"
#include "tests/support/tier_rig.h"

#include <string.h>

#define SESSIONS 64
#define CTX      256
#define N_NEW    4
#define VOCAB    512
#define BT       64

struct turn { /* of one session: a request, and what came of it */
    uint32_t n_prompt, n_out;
    int32_t prompt[CTX];
    int32_t out[N_NEW];
    float logits[N_NEW][VOCAB];
    uint64_t id;
    bool done;
};

static struct turn *turns; /* [rounds][SESSIONS] of the run that is going on */
static uint32_t n_rounds;
static struct turn *now; /* [SESSIONS] of this round */

static void keep_rows(void *ctx, const struct loop *l, const struct plan *p, const float *logits)
{
    for (uint32_t i = 0, row = 0; i < p->n_runs; i++) {
        const struct seq *q = l->sched.slots[p->runs[i].slot];
        if (!p->runs[i].n_draws)
            continue;
        for (uint32_t s = 0; s < SESSIONS; s++)
            if (now[s].id == q->req->id)
                memcpy(now[s].logits[seq_generated(q)], logits + (size_t)row * VOCAB, VOCAB * sizeof *logits);
        row += p->runs[i].n_draws;
    }
}

/* The next turn of a session: what was said, and something new; or a new session when it would be too long. */
static void make_turn(struct turn *t, const struct turn *before, uint64_t *rng)
{
    uint32_t n_new = 1 + (uint32_t)(rng_next(rng) % 60);
    memset(t, 0, sizeof *t);
    if (before && before->n_prompt + N_NEW + n_new + N_NEW <= CTX) {
        memcpy(t->prompt, before->prompt, before->n_prompt * sizeof *t->prompt);
        memcpy(t->prompt + before->n_prompt, before->out, sizeof before->out);
        t->n_prompt = before->n_prompt + N_NEW;
    } else { /* one of a few beginnings, as of system prompts */
        uint32_t kind = (uint32_t)(rng_next(rng) % 6);
        for (t->n_prompt = 0; t->n_prompt < 70; t->n_prompt++)
            t->prompt[t->n_prompt] = (int32_t)((t->n_prompt * 37 + kind * 101) % VOCAB);
    }
    for (uint32_t i = 0; i < n_new; i++)
        t->prompt[t->n_prompt++] = (int32_t)(rng_next(rng) % VOCAB);
}

static void submit(struct hand_engine *h, struct turn *t)
{
    struct engine_request r = {.prompt = t->prompt, .n_prompt = t->n_prompt, .max_tokens = N_NEW, .n = 1};
    struct err e = {0};
    r.sampling = hand_greedy();
    ck_assert_msg(engine_submit(h->front, &r, &t->id, &e) == 0, "%s", e.text);
}

static uint32_t take_events(struct hand_engine *h)
{
    struct engine_event ev;
    uint32_t n_done = 0;
    while (engine_poll(h->front, &ev))
        for (uint32_t s = 0; s < SESSIONS; s++) {
            if (now[s].id != ev.id || now[s].done)
                continue;
            ck_assert_msg(ev.type != ENGINE_FAILED, "%s", ev.text);
            for (uint32_t k = 0; ev.type == ENGINE_TOKENS && k < ev.n; k++)
                now[s].out[now[s].n_out++] = ev.tokens[k];
            if (ev.type == ENGINE_DONE) {
                now[s].done = true;
                n_done++;
            }
        }
    return n_done;
}

/* -- a run: all rounds, with a cache or without */

struct run {
    uint32_t format;
    uint64_t seed;
    const char *dir;      /* NULL: no cache */
    uint32_t nvme_blocks; /* that the drive has room for */
    bool plants;          /* wrong blocks before each round */
    /* what came of it */
    struct turn *turns;
    uint32_t planted;
    uint64_t cached[TIER_COUNT];
    struct tiers_stats stats;
};

static uint64_t block_bytes(uint32_t format)
{
    return BT * 2 * 2 * 2 * 16 * (format == KV_FORMAT_KV8 ? 1 : 2);
}

static struct engine_config config_of(const struct run *r)
{
    struct engine_config c = {.threads = 1,
                              .max_rows = 256,
                              .max_seqs = 64,
                              .block_tokens = BT,
                              .kv_format = r->format,
                              .ctx_tokens = CTX,
                              .max_queued_tokens = 1000000,
                              .step_ms = 1000,
                              .io_threads = 1, /* done at once: the hits do not depend on the disk */
                              .load_always = 1,
                              .no_prefix_cache = !r->dir};
    uint64_t block = block_bytes(r->format);
    strcpy(c.model, "random:tiny");
    strcpy(c.backend, "cpu");
    c.kv_bytes = (r->dir ? 8 : 400) * block;
    if (!r->dir)
        return c;
    c.dram_bytes = 16 * block;
    c.nvme_bytes = r->nvme_blocks * (block + 512) + 16384;
    snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", r->dir);
    return c;
}

/* The bytes of some contents in DRAM become, all of them, those of another one, which are no less whole. */
static void plant(struct run *r, struct tiers *t, uint64_t *rng)
{
    int32_t from = -1;
    for (uint32_t tries = 0; tries < t->dram.n_slots; tries++) {
        int32_t slot = (int32_t)(rng_next(rng) % t->dram.n_slots), item = t->dram_item[slot];
        if (item < 0 || t->items[item].in_dram != COPY_READY || t->items[item].pins > 0 || slot == from)
            continue;
        if (from < 0)
            from = slot;
        else
            memcpy(tier_dram_at(&t->dram, slot), tier_dram_at(&t->dram, from), t->slot_bytes);
        r->planted += slot != from;
    }
}

static void run(struct run *r)
{
    struct engine_config c = config_of(r);
    struct machine m;
    struct hand_engine h;
    struct err e = {0};
    uint64_t seed = r->seed, planter = r->seed + 1;
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(machine_open(&m, &c, NULL, NULL, &e) == 0, "%s", e.text);
    hand_open(&h, &m);
    h.loop.trace = keep_rows;
    r->turns = turns = calloc((size_t)n_rounds * SESSIONS, sizeof *turns);
    ck_assert_ptr_nonnull(turns);
    for (uint32_t round = 0; round < n_rounds; round++) {
        now = turns + (size_t)round * SESSIONS;
        if (r->plants)
            plant(r, h.loop.kv.tiers, &planter);
        for (uint32_t s = 0; s < SESSIONS; s++) {
            make_turn(&now[s], round ? &now[s] - SESSIONS : NULL, &seed);
            submit(&h, &now[s]);
        }
        for (uint32_t n_done = 0; n_done < SESSIONS; n_done += take_events(&h))
            loop_turn(&h.loop);
        unit_progress("kv%d %s cache: round %u of %u", r->format == KV_FORMAT_KV8 ? 8 : 16, r->dir ? "with" : "without",
                      round + 1, n_rounds);
    }
    memcpy(r->cached, h.loop.kv.cached_tokens, sizeof r->cached);
    if (h.loop.kv.tiers)
        tiers_get_stats(h.loop.kv.tiers, &r->stats);
    hand_close(&h);
    machine_close(&m);
}

static void expect_equal(const struct run *off, const struct run *on)
{
    for (size_t i = 0; i < (size_t)n_rounds * SESSIONS; i++) {
        const struct turn *a = &off->turns[i], *b = &on->turns[i];
        ck_assert_uint_eq(a->n_prompt, b->n_prompt);
        ck_assert_mem_eq(a->prompt, b->prompt, sizeof a->prompt);
        ck_assert_msg(memcmp(a->logits, b->logits, sizeof a->logits) == 0, "logits of request %zu", i);
        ck_assert_mem_eq(a->out, b->out, sizeof a->out);
    }
}

/* With a cache in this folder: the same bits, enough from every tier to mean something, and what was planted caught. */
static void serve(const struct run *off, const char *dir, uint32_t nvme_blocks, bool plants)
{
    struct run on = {
        .format = off->format, .seed = off->seed, .dir = dir, .nvme_blocks = nvme_blocks, .plants = plants};
    uint64_t n = (uint64_t)n_rounds * SESSIONS, caught = 0;
    run(&on);
    for (int t = 0; t < TIER_COUNT; t++)
        caught += on.stats.verify_failed[t];
    printf("kv%d: %llu requests, tokens not computed from HBM %llu, DRAM %llu, NVMe %llu; %u wrong blocks, %llu read\n",
           on.format == KV_FORMAT_KV8 ? 8 : 16, (unsigned long long)n, (unsigned long long)on.cached[TIER_HBM],
           (unsigned long long)on.cached[TIER_DRAM], (unsigned long long)on.cached[TIER_NVME], on.planted,
           (unsigned long long)caught);
    expect_equal(off, &on);
    ck_assert_uint_eq(on.stats.dram_slots, 16);
    ck_assert_uint_ge(on.cached[TIER_HBM], n);
    ck_assert_uint_ge(on.cached[TIER_DRAM], 2 * n);
    ck_assert_uint_ge(on.cached[TIER_NVME], n / 4);
    ck_assert_uint_ge(caught, plants ? n_rounds / 6 : 0); /* which of them are read at all is chance */
    ck_assert(plants || caught == 0);
    free(on.turns);
}

START_TEST(test_tiers_give_the_bits_that_computing_gives)
{
    const char *both = rig_dir();
    struct run off[2] = {{.format = KV_FORMAT_KV16}, {.format = KV_FORMAT_KV8}};
    uint64_t seed = unit_seed("sessions");
    log_set_level(LOG_ERROR);
    n_rounds = unit_soak() ? 10000 / SESSIONS + 1 : 12;
    for (int f = 0; f < 2; f++) {
        off[f].seed = seed + (uint64_t)f;
        run(&off[f]);
        ck_assert_uint_eq(off[f].cached[0] + off[f].cached[1] + off[f].cached[2], 0);
        serve(&off[f], rig_dir(), 64, f == 0);
    }
    serve(&off[0], both, 200, false); /* two formats share it: each has 64 places and more */
    serve(&off[1], both, 200, true);
    serve(&off[0], both, 200, true); /* much of the first is there still, and serves again */
    free(off[0].turns);
    free(off[1].turns);
}
END_TEST

UNIT_MAIN("tiers, model", test_tiers_give_the_bits_that_computing_gives)
