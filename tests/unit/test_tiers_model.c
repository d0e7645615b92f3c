/* test_tiers_model - sessions of several turns through a real model on the CPU backend, 64 at a time, with 8 blocks in
 * the pool, 16 in DRAM and 64 on a drive: each draw's logits and each token are those of an engine without any cache,
 * by memcmp. In kv16, kv32 and again kv16, in one folder. HEARTH_SOAK=1: 10,000 requests a format.
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

static void run(struct engine_config *c, uint64_t seed, uint64_t cached[TIER_COUNT])
{
    struct machine m;
    struct hand_engine h;
    struct err e = {0};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_msg(machine_open(&m, c, NULL, NULL, &e) == 0, "%s", e.text);
    hand_open(&h, &m);
    h.loop.trace = keep_rows;
    for (uint32_t round = 0; round < n_rounds; round++) {
        now = turns + (size_t)round * SESSIONS;
        for (uint32_t s = 0; s < SESSIONS; s++) {
            make_turn(&now[s], round ? &now[s] - SESSIONS : NULL, &seed);
            submit(&h, &now[s]);
        }
        for (uint32_t n_done = 0; n_done < SESSIONS; n_done += take_events(&h))
            loop_turn(&h.loop);
    }
    memcpy(cached, h.loop.kv.cached_tokens, sizeof h.loop.kv.cached_tokens);
    hand_close(&h);
    machine_close(&m);
}

static void compare(const char *dir, uint32_t format, uint64_t seed)
{
    struct engine_config c = {.threads = 2,
                              .max_rows = 256,
                              .max_seqs = 64,
                              .block_tokens = BT,
                              .kv_format = format,
                              .ctx_tokens = CTX,
                              .max_queued_tokens = 1000000,
                              .step_ms = 1000,
                              .io_threads = 1, /* done at once: the hits do not depend on the disk */
                              .load_always = 1};
    uint64_t none[TIER_COUNT], in[TIER_COUNT], block = BT * 2 * 2 * 2 * 16 * (format == KV_FORMAT_KV32 ? 4 : 2);
    size_t n = (size_t)n_rounds * SESSIONS;
    strcpy(c.model, "random:tiny");
    strcpy(c.backend, "cpu");
    c.no_prefix_cache = 1;
    c.kv_bytes = 400 * block;
    struct turn *off = turns = calloc(n, sizeof *turns);
    ck_assert_ptr_nonnull(off);
    run(&c, seed, none);
    c.no_prefix_cache = 0;
    c.kv_bytes = 8 * block;
    c.dram_bytes = 16 * block;
    c.nvme_bytes = 200 * (block + 512) + 16384; /* two formats share it: each has 64 and more */
    snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", dir);
    turns = calloc(n, sizeof *turns);
    ck_assert_ptr_nonnull(turns);
    run(&c, seed, in);
    printf("kv%d: %zu requests, tokens not computed from HBM %llu, DRAM %llu, NVMe %llu\n",
           format == KV_FORMAT_KV32 ? 32 : 16, n, (unsigned long long)in[0], (unsigned long long)in[1],
           (unsigned long long)in[2]);
    for (size_t i = 0; i < n; i++) {
        ck_assert_uint_eq(off[i].n_prompt, turns[i].n_prompt);
        ck_assert_mem_eq(off[i].prompt, turns[i].prompt, sizeof off[i].prompt);
        ck_assert_msg(memcmp(off[i].logits, turns[i].logits, sizeof off[i].logits) == 0, "logits of request %zu", i);
        ck_assert_mem_eq(off[i].out, turns[i].out, sizeof off[i].out);
    }
    ck_assert_uint_eq(none[0] + none[1] + none[2], 0);
    ck_assert_uint_ge(in[TIER_HBM], n);
    ck_assert_uint_ge(in[TIER_DRAM], 2 * n);
    ck_assert_uint_ge(in[TIER_NVME], n / 4);
    free(off);
    free(turns);
}

START_TEST(test_tiers_give_the_bits_that_computing_gives)
{
    const char *dir = rig_dir();
    uint64_t seed = unit_seed("sessions");
    log_set_level(LOG_ERROR);
    n_rounds = getenv("HEARTH_SOAK") ? 10000 / SESSIONS + 1 : 12;
    compare(dir, KV_FORMAT_KV16, seed);
    compare(dir, KV_FORMAT_KV32, seed + 1);
    compare(dir, KV_FORMAT_KV16, seed); /* much of the first is there still, and serves again */
}
END_TEST

UNIT_MAIN("tiers, model", test_tiers_give_the_bits_that_computing_gives)
