/* engine_random - see engine_random.h. */
#include "tests/support/engine_random.h"

#include "engine/base/rng.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

#define MAX_LIVE 64

struct job { /* a request under way and what has come back */
    uint64_t id;
    int32_t prompt[400];
    uint32_t n_prompt, max_tokens, n;
    int32_t stop[8];
    uint32_t n_stop;
    struct engine_sampling sampling;
    int32_t got[4][400];
    uint32_t n_got[4], cached;
    bool over[4], done, cancelled;
    int finish[4];
    int32_t stop_id[4];
};

static uint64_t rng;
static uint32_t vocab;
static bool stops;
static uint32_t n_stopped; /* choices */

static uint32_t below(uint32_t n)
{
    return (uint32_t)(rng_next(&rng) % n);
}

static void make_job(struct job *j, const struct job *like)
{
    memset(j, 0, sizeof *j);
    j->n_prompt = 1 + below(below(4) ? 40 : 300);
    for (uint32_t i = 0; i < j->n_prompt; i++)
        j->prompt[i] = (int32_t)below(vocab);
    if (like->n_prompt && below(2)) { /* a second turn: what was said, and more */
        uint32_t keep = 1 + below(like->n_prompt);
        memcpy(j->prompt, like->prompt, keep * sizeof *j->prompt);
        if (keep > j->n_prompt)
            j->n_prompt = keep;
    }
    j->max_tokens = 1 + below(60);
    j->n = below(6) ? 1 : 1 + below(4);
    j->sampling = hand_greedy();
    if (below(2)) {
        j->sampling.temperature = 0.7f;
        j->sampling.top_p = 0.9f;
        j->sampling.seed = rng_next(&rng);
    }
    if (below(3) == 0) {
        j->sampling.repetition = 1.2f;
        j->sampling.frequency = 0.5f;
        j->sampling.presence = 0.3f;
    }
    if (below(4) == 0)
        j->sampling.n_logprobs = 3;
    if (stops && below(2)) {
        j->n_stop = 1 + below(8);
        for (uint32_t i = 0; i < j->n_stop; i++)
            j->stop[i] = (int32_t)below(FAKE_VOCAB);
    }
}

static void submit_job(struct hand_engine *h, struct job *j)
{
    struct engine_request r = {.prompt = j->prompt,
                               .n_prompt = j->n_prompt,
                               .max_tokens = j->max_tokens,
                               .n = j->n,
                               .sampling = j->sampling,
                               .stop_ids = j->stop,
                               .n_stop_ids = j->n_stop,
                               .priority = (int32_t)below(3)};
    struct err e = {0};
    ck_assert_msg(engine_submit(h->front, &r, &j->id, &e) == 0, "%s", e.text);
}

static bool stops_at(const struct job *j, int32_t id)
{
    for (uint32_t i = 0; i < j->n_stop; i++)
        if (j->stop[i] == id)
            return true;
    return false;
}

static void check_job(const struct job *j)
{
    for (uint32_t c = 0; c < j->n; c++) {
        int32_t ids[800];
        memcpy(ids, j->prompt, j->n_prompt * sizeof *ids);
        for (uint32_t i = 0; i < j->n_got[c]; i++) {
            int32_t want = fake_expect(ids, j->n_prompt + i, j->n_prompt, &j->sampling, c);
            ck_assert_msg(j->got[c][i] == want, "request %llu choice %u token %u: %d, must be %d",
                          (unsigned long long)j->id, c, i, j->got[c][i], want);
            ck_assert_msg(!stops_at(j, want), "token %u is stop id %d and was sent", i, want);
            ids[j->n_prompt + i] = want;
        }
        if (j->over[c] && j->finish[c] == ENGINE_FINISH_STOP) {
            int32_t next = fake_expect(ids, j->n_prompt + j->n_got[c], j->n_prompt, &j->sampling, c);
            ck_assert_msg(next == j->stop_id[c] && stops_at(j, next), "stopped at %d, the next token is %d",
                          j->stop_id[c], next);
        } else if (!j->cancelled) {
            ck_assert_uint_eq(j->n_got[c], j->max_tokens);
        }
    }
}

/* Each token of the prompt was found or missed, once. */
static void check_prompt(const struct job *j, const struct engine_event *ev)
{
    uint32_t missed = 0;
    for (int why = 0; why < ENGINE_MISSES; why++)
        missed += ev->missed[why];
    ck_assert_msg(j->cancelled || ev->cached + missed == j->n_prompt, "%u cached, %u missed of %u", ev->cached, missed,
                  j->n_prompt);
}

/* Take all events that are there. */
static void drain(struct hand_engine *h, struct job *jobs, uint32_t n)
{
    struct engine_event ev;
    while (engine_poll(h->front, &ev)) {
        struct job *j = NULL;
        for (uint32_t i = 0; i < n; i++)
            if (jobs[i].id == ev.id && !jobs[i].done)
                j = &jobs[i];
        ck_assert_ptr_nonnull(j);
        switch (ev.type) {
        case ENGINE_TOKENS:
            ck_assert(!j->over[ev.choice]);
            memcpy(j->got[ev.choice] + j->n_got[ev.choice], ev.tokens, ev.n * sizeof *ev.tokens);
            j->n_got[ev.choice] += ev.n;
            ck_assert((ev.logprobs != NULL) == (j->sampling.n_logprobs >= 0));
            break;
        case ENGINE_CHOICE_DONE:
            j->over[ev.choice] = true;
            j->finish[ev.choice] = ev.finish;
            j->stop_id[ev.choice] = ev.stop_id;
            n_stopped += ev.finish == ENGINE_FINISH_STOP;
            break;
        case ENGINE_DONE:
            j->done = true;
            j->cached = ev.cached;
            check_prompt(j, &ev);
            break;
        default:
            ck_abort_msg("request failed: %s", ev.text);
        }
    }
}

void engine_random_run(const struct engine_random *r)
{
    struct engine_config c = {.block_tokens = r->block_tokens ? r->block_tokens : 16,
                              .max_rows = 48,
                              .max_seqs = 12,
                              .dram_bytes = r->dram_slots * 4096,
                              .nvme_bytes = r->nvme_slots * (4096 + 512) + 16384,
                              .io_threads = r->io_threads,
                              .depth = (uint8_t)(r->depth ? r->depth : 1),
                              .load_always = 1};
    struct fake_cost cost = {1000000, 500000, 1000, false};
    struct machine m;
    struct hand_engine h;
    static struct job jobs[MAX_LIVE];
    uint32_t n_done = 0, n_sent = 0, n_cached = 0;
    memset(jobs, 0, sizeof jobs);
    rng = r->seed;
    stops = r->stops;
    n_stopped = 0;
    vocab = r->vocab ? r->vocab : FAKE_VOCAB;
    for (uint32_t i = 0; i < MAX_LIVE; i++)
        jobs[i].done = true;
    if (r->nvme_dirs)
        snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", r->nvme_dirs);
    fake_machine_open(&m, &c, r->n_blocks, &cost);
    hand_open(&h, &m);
    while (n_done < r->n_requests) {
        for (uint32_t i = 0; i < MAX_LIVE; i++) {
            struct job *j = &jobs[i];
            if (j->id && j->done) {
                check_job(j);
                n_cached += j->cached;
                n_done++;
                j->id = 0;
            }
            if (!j->id && n_sent < r->n_requests && below(3) == 0) {
                make_job(j, &jobs[below(MAX_LIVE)]);
                submit_job(&h, j);
                n_sent++;
            } else if (r->cancels && j->id && !j->done && below(200) == 0) {
                j->cancelled = true;
                engine_cancel(h.front, j->id);
            }
        }
        for (uint32_t i = below(4); i > 0; i--)
            loop_turn(&h.loop);
        drain(&h, jobs, MAX_LIVE);
    }
    const uint64_t *in = h.loop.kv.cached_tokens;
    if (r->dram_slots)
        printf("cached tokens in HBM %llu, DRAM %llu, NVMe %llu\n", (unsigned long long)in[TIER_HBM],
               (unsigned long long)in[TIER_DRAM], (unsigned long long)in[TIER_NVME]);
    ck_assert_uint_ge(in[TIER_DRAM], r->least_dram);
    ck_assert_uint_ge(in[TIER_NVME], r->least_nvme);
    while (h.loop.kv.tiers && tiers_busy(h.loop.kv.tiers)) /* moves hold blocks until they are done */
        loop_turn(&h.loop);
    printf("requests %u, steps %llu, preemptions %llu, cached tokens %u, evictions %llu\n", n_done,
           (unsigned long long)h.loop.step, (unsigned long long)h.loop.sched.n_preempted, n_cached,
           (unsigned long long)h.loop.kv.evictions);
    ck_assert(!stops || n_stopped > r->n_requests / 10);
    ck_assert_uint_gt(n_cached, r->least_cached); /* a cache that never hits must not pass */
    ck_assert_uint_eq(pool_n_used(h.loop.kv.pool), 0);
    ck_assert_uint_eq(h.loop.n_live, 0);
    ck_assert_uint_eq(h.front->arena.used, 0);
    ck_assert_uint_ge(h.loop.sched.n_preempted, r->least_preempted);
    hand_close(&h);
    fake_machine_close(&m);
}
