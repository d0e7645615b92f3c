/* test_sched - the scheduler and the KV cache under 10^5 random operations, each plan held against its rules: every
 * running generation gets its row, the row budget is kept, the oldest goes on, nothing is computed twice or left out,
 * the queue keeps its order. sched_check walks pool, prefix cache and tables after every operation.
 */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/sched.h"

#include <string.h>

#define MOST 40
#define BT   16

static uint64_t rng;
static struct request requests[MOST];
static struct seq *seqs[MOST];
static uint32_t computed[MOST]; /* model: positions of seq i whose KV the plans have covered since its last admission */
static uint64_t n_order;

static uint32_t below(uint32_t n)
{
    return (uint32_t)(rng_next(&rng) % n);
}

static int index_of(const struct seq *q)
{
    for (int i = 0; i < MOST; i++)
        if (seqs[i] == q)
            return i;
    ck_abort_msg("a sequence that was never added");
}

static void add_one(struct sched *s)
{
    int i = 0;
    while (i < MOST && seqs[i])
        i++;
    if (i == MOST)
        return;
    int32_t ids[200];
    requests[i] = (struct request){.id = (uint64_t)i + 1,
                                   .order = ++n_order,
                                   .n = 1,
                                   .n_prompt = 1 + below(120),
                                   .max_tokens = 1 + below(50),
                                   .priority = (int32_t)below(3),
                                   .sampling = {.top_p = 1, .repetition = 1, .n_logprobs = -1}};
    for (uint32_t k = 0; k < requests[i].n_prompt; k++)
        ids[k] = below(10) ? (int32_t)k : (int32_t)below(3);
    seqs[i] = seq_open(&requests[i], 0, ids, NULL, 0, BT);
    ck_assert_ptr_nonnull(seqs[i]);
    ck_assert_int_eq(sched_add(s, seqs[i]), 0);
    computed[i] = 0;
}

static void remove_one(struct sched *s, int i)
{
    sched_remove(s, seqs[i]);
    seq_close(seqs[i]);
    seqs[i] = NULL;
}

/* What was running before the step, to see who had to go. */
static void check_preempted(const struct sched *s, struct seq *const *before, uint32_t n_before)
{
    for (uint32_t i = 0; i < n_before; i++) {
        if (before[i]->state == SEQ_RUNNING)
            continue;
        computed[index_of(before[i])] = 0;
        ck_assert_uint_gt(i, 0);                /* never the first of the running */
        for (uint32_t k = i; k < n_before; k++) /* and from the back: all behind it went too */
            ck_assert(before[k]->state == SEQ_WAITING ||
                      (before[k]->state == SEQ_RUNNING && seq_compare(before[k], before[i]) > 0));
    }
    (void)s;
}

static void check_plan(const struct sched *s, const struct plan *p)
{
    uint32_t rows = 0, draws = 0, decodes = 0;
    bool has_run[MOST] = {0};
    for (uint32_t i = 0; i < p->n_runs; i++) {
        const struct plan_run *r = &p->runs[i];
        const struct seq *q = s->slots[r->slot];
        int k = index_of(q);
        ck_assert(!has_run[k]);
        has_run[k] = true;
        if (computed[k] == 0) { /* just admitted: what the cache gave counts as computed, in whole blocks */
            ck_assert_uint_eq(r->begin % BT, 0);
            computed[k] = (uint32_t)r->begin;
        }
        ck_assert_uint_eq(r->begin, computed[k]);
        ck_assert_uint_gt(r->n_rows, 0);
        computed[k] += r->n_rows;
        ck_assert_uint_le(computed[k], q->n_known);
        ck_assert_uint_eq(r->n_draws, computed[k] == q->n_known ? 1 : 0);
        ck_assert_uint_ge(q->table.n * BT, computed[k]);
        rows += r->n_rows;
        draws += r->n_draws;
        decodes += r->n_rows == 1 && computed[k] == q->n_known && seq_generated(q) > 0;
    }
    ck_assert_uint_eq(rows, p->n_rows);
    ck_assert_uint_eq(draws, p->n_draws);
    ck_assert_uint_le(rows, s->limits.max_rows);
    ck_assert_uint_le(p->n_decode, decodes);
    bool first = true;
    for (uint32_t i = 0; i < s->n_running; i++) { /* no running generation is left out; the first of all goes on */
        const struct seq *q = s->running[i];
        int k = index_of(q);
        ck_assert(has_run[k] || !(seq_generated(q) > 0 && computed[k] + 1 == q->n_known));
        if (q->n_loading > 0)
            continue; /* it waits for what another one computes */
        ck_assert(!first || has_run[k]);
        first = false;
    }
}

static void step(struct sched *s, uint64_t number)
{
    struct seq *before[MOST];
    uint32_t n_before = s->n_running;
    memcpy(before, s->running, n_before * sizeof *before);
    s->kv->queued = number - 1;
    sched_move(s);
    const struct plan *p = sched_step(s, number);
    check_preempted(s, before, n_before);
    ck_assert(p || (s->n_running == 0 && s->n_waiting == 0)); /* where there is work, a step does some */
    if (!p)
        return;
    check_plan(s, p);
    s->kv->queued = number;
    budget_learn(&s->budget, p->n_rows, p->pairs, 1000000 + 300000 * (uint64_t)p->n_rows + 200 * p->pairs);
    kvcache_finish(s->kv, number);
    struct plan_run runs[MOST];
    uint32_t n = p->n_runs;
    memcpy(runs, p->runs, n * sizeof *runs);
    for (uint32_t i = 0; i < n; i++) {
        struct seq *q = s->slots[runs[i].slot];
        kvcache_publish(s->kv, q);
        if (!runs[i].n_draws)
            continue;
        seq_append(q, below(10) ? (int32_t)q->n_known : (int32_t)below(3));
        if (seq_generated(q) == q->req->max_tokens || below(60) == 0)
            remove_one(s, index_of(q));
    }
}

START_TEST(test_sched_keeps_its_rules)
{
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 8, .max_rows = 40, .step_ns = 10e6};
    uint64_t number = 0;
    rng = unit_seed("sched");
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 24, BT, true, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    for (int i = 0; i < 100000; i++) {
        uint32_t what = below(20);
        if (what == 0) {
            int k = (int)below(MOST);
            if (seqs[k])
                remove_one(&s, k);
        } else if (what < 4) {
            add_one(&s);
        } else {
            step(&s, ++number);
        }
        sched_check(&s);
    }
    printf("steps %llu, preemptions %llu, evictions %llu\n", (unsigned long long)number,
           (unsigned long long)s.n_preempted, (unsigned long long)kv.evictions);
    ck_assert_uint_gt(s.n_preempted, 100);
    ck_assert_uint_gt(kv.evictions, 5000);
    for (int k = 0; k < MOST; k++)
        if (seqs[k])
            remove_one(&s, k);
    ck_assert_uint_eq(pool_n_used(kv.pool), 0);
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_sched_moves_the_oldest_prompt_even_when_there_is_no_time)
{
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 4, .max_rows = 64, .step_ns = 1};
    uint64_t number = 0;
    rng = 1;
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 40, BT, false, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    for (int i = 0; i < 3; i++)
        add_one(&s);
    struct seq *first = s.waiting[0];
    uint32_t rows = 0;
    while (rows < first->n_prompt) {
        const struct plan *p = sched_step(&s, ++number);
        ck_assert_ptr_nonnull(p);
        uint32_t before = rows;
        for (uint32_t i = 0; i < p->n_runs; i++)
            if (s.slots[p->runs[i].slot] == first)
                rows += p->runs[i].n_rows;
        uint32_t left = first->n_prompt - before;
        ck_assert_uint_eq(rows - before, left < SCHED_MIN_CHUNK ? left : SCHED_MIN_CHUNK);
    }
    for (int k = 0; k < MOST; k++)
        if (seqs[k])
            remove_one(&s, k);
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

/* A prompt of n blocks and a token, admitted; every block is there but each fourth, the first of them block 1. */
static struct seq *with_holes(struct sched *s, int at, uint32_t n)
{
    static int32_t ids[64 * BT + 1];
    requests[at] = (struct request){
        .id = (uint64_t)at + 1, .order = (uint64_t)at + 1, .n = 1, .n_prompt = n * BT + 1, .max_tokens = 1};
    struct seq *q = seqs[at] = seq_open(&requests[at], 0, ids, NULL, 0, BT);
    ck_assert_ptr_nonnull(q);
    ck_assert_int_eq(sched_add(s, q), 0);
    ck_assert_ptr_nonnull(sched_step(s, 1)); /* lets it in, and computes block 0 */
    ck_assert_uint_eq(q->table.n, n + 1);
    for (uint32_t i = 1; i < n; i++)
        q->table.blocks[i] = (struct table_block){q->table.blocks[i].id, i % 4 == 1 ? 0 : BT,
                                                  i % 4 == 1 ? TABLE_ABSENT : TABLE_READY};
    return q;
}

START_TEST(test_sched_computes_all_holes_that_a_step_has_room_for)
{
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 6, .max_rows = BT, .step_ns = 1e12};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 60, BT, false, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    struct seq *q = with_holes(&s, 0, 40); /* 10 holes: blocks 1, 5, 9 ... 37, and what follows them */
    s.limits.max_rows = 2 * BT + 5;
    const struct plan *p = sched_step(&s, 2); /* no scraps: 5 rows more would be a run of their own */
    ck_assert_uint_eq(p->n_runs, 2);
    for (uint32_t i = 0; i < 2; i++) {
        ck_assert_uint_eq(p->runs[i].begin, (1 + 4 * i) * BT);
        ck_assert_uint_eq(p->runs[i].n_rows, BT);
        ck_assert_uint_eq(p->runs[i].n_draws, 0);
    }
    s.limits.max_rows = 100 * BT;
    q->table.blocks[17] = (struct table_block){q->table.blocks[17].id, 0, TABLE_LOADING};
    p = sched_step(&s, 3); /* what lies behind that may not be computed before it is there */
    ck_assert_uint_eq(p->n_runs, 2);
    ck_assert_uint_eq(p->runs[0].begin, 9 * BT);
    ck_assert_uint_eq(p->runs[1].begin, 13 * BT);
    q->table.blocks[17] = (struct table_block){q->table.blocks[17].id, BT, TABLE_READY};
    p = sched_step(&s, 4);
    ck_assert_uint_eq(p->n_runs, 6); /* as many as a step takes sequences, and the last token */
    ck_assert_uint_eq(p->runs[5].begin, 40 * BT);
    for (uint32_t i = 0; i < 5; i++)
        ck_assert_uint_eq(p->runs[i].begin, (21 + 4 * i) * BT);
    ck_assert_uint_eq(p->runs[5].n_rows, 1);
    ck_assert_uint_eq(p->runs[5].n_draws, 1);
    ck_assert_uint_eq(p->n_draws, 1);
    ck_assert_uint_eq(p->n_rows, 5 * BT + 1);
    remove_one(&s, 0);
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_sched_leaves_each_prompt_its_share_of_a_step_beside_holes)
{
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 4, .max_rows = BT, .step_ns = 1e12};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 100, BT, false, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    struct seq *q = with_holes(&s, 0, 40);
    int32_t ids[50 * BT] = {0};
    requests[1] = (struct request){.id = 2, .order = 2, .n = 1, .n_prompt = 50 * BT, .max_tokens = 1};
    seqs[1] = seq_open(&requests[1], 0, ids, NULL, 0, BT);
    ck_assert_int_eq(sched_add(&s, seqs[1]), 0);
    s.limits.max_rows = 4 * BT;
    const struct plan *p = sched_step(&s, 2); /* half of the rows for each */
    ck_assert_uint_eq(p->n_runs, 3);
    for (uint32_t i = 0; i < 3; i++)
        ck_assert_ptr_eq(s.slots[p->runs[i].slot], i < 2 ? q : seqs[1]);
    ck_assert_uint_eq(p->runs[2].n_rows, 2 * BT);
    s.limits.max_rows = 40 * BT;
    p = sched_step(&s, 3); /* many rows, but runs for as many sequences as fit: the last is the other's */
    ck_assert_uint_eq(p->n_runs, 4);
    ck_assert_ptr_eq(s.slots[p->runs[2].slot], q);
    ck_assert_ptr_eq(s.slots[p->runs[3].slot], seqs[1]);
    ck_assert_uint_eq(p->n_rows, 3 * BT + 37 * BT);
    remove_one(&s, 0);
    remove_one(&s, 1);
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

/* Told here without the scheduler's own comparison: the highest priority first, of one priority the oldest. */
START_TEST(test_sched_admits_by_priority_then_by_age)
{
    const int32_t priority[6] = {0, 2, -1, 2, 1, 0};
    const uint64_t turn[6] = {2, 4, 5, 1, 6, 3}; /* ids, which are numbered from 1 */
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 1, .max_rows = 100, .step_ns = 1e12};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 8, BT, true, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    for (uint64_t i = 0; i < 6; i++) {
        int32_t ids[4] = {(int32_t)i};
        requests[i] = (struct request){
            .id = i + 1, .order = i + 1, .n = 1, .n_prompt = 4, .max_tokens = 1, .priority = priority[i]};
        seqs[i] = seq_open(&requests[i], 0, ids, NULL, 0, BT);
        ck_assert_ptr_nonnull(seqs[i]);
        ck_assert_int_eq(sched_add(&s, seqs[i]), 0);
    }
    for (uint64_t number = 1; number <= 6; number++) {
        ck_assert_ptr_nonnull(sched_step(&s, number));
        ck_assert_uint_eq(s.n_running, 1);
        ck_assert_uint_eq(s.running[0]->req->id, turn[number - 1]);
        kv.queued = number;
        kvcache_finish(&kv, number);
        remove_one(&s, (int)turn[number - 1] - 1);
    }
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

/* The blocks of what finished in the last step come back although no step follows. */
START_TEST(test_sched_admits_a_prompt_that_needs_the_whole_pool)
{
    struct kvcache kv;
    struct sched s;
    struct sched_limits limits = {.max_seqs = 4, .max_rows = 1000, .step_ns = 1e12};
    ck_assert_int_eq(hash_init_library(), 0);
    ck_assert_int_eq(kvcache_open(&kv, 4, BT, true, NULL), 0);
    ck_assert_int_eq(sched_open(&s, &limits, &kv), 0);
    for (uint64_t number = 1; number <= 2; number++) {
        uint32_t n = number == 1 ? 1 : 4 * BT;
        int32_t ids[4 * BT] = {0};
        requests[0] = (struct request){.id = number, .order = number, .n = 1, .n_prompt = n, .max_tokens = 1};
        seqs[0] = seq_open(&requests[0], 0, ids, NULL, 0, BT);
        ck_assert_ptr_nonnull(seqs[0]);
        ck_assert_int_eq(sched_add(&s, seqs[0]), 0);
        const struct plan *p = sched_step(&s, number);
        ck_assert_ptr_nonnull(p);
        ck_assert_uint_eq(p->n_rows, n);
        kv.queued = number;
        kvcache_finish(&kv, number);
        remove_one(&s, 0);
        sched_check(&s);
    }
    sched_close(&s);
    kvcache_close(&kv);
}
END_TEST

START_TEST(test_sched_budget_learns_a_machine)
{
    struct budget b;
    uint64_t seed = unit_seed("budget");
    budget_init(&b);
    for (int i = 0; i < 400; i++) {
        uint32_t rows = 1 + (uint32_t)(rng_next(&seed) % 512);
        uint64_t pairs = budget_pairs(rng_next(&seed) % 100000, rows),
                 ns = 2000000 + 150000 * (uint64_t)rows + 3 * pairs;
        budget_learn(&b, rows, pairs, i % 50 == 49 ? ns * 20 : ns); /* now and then somebody else held the step up */
    }
    double guess = budget_predict(&b, 200, budget_pairs(50000, 200)),
           truth = 2e6 + 200 * 150e3 + 3.0 * budget_pairs(50000, 200);
    printf("predicted %.1f ms, truth %.1f ms\n", guess / 1e6, truth / 1e6);
    ck_assert_double_lt(guess, 1.5 * truth);
    ck_assert_double_gt(guess, 0.7 * truth);
    for (uint64_t depth = 0; depth < 1000000; depth += 99999) {
        uint32_t rows = budget_rows(&b, depth, 512, 50e6);
        ck_assert_double_le(budget_cost(&b, depth, rows), 50e6);
        ck_assert(rows == 512 || budget_cost(&b, depth, rows + 1) > 50e6);
    }
}
END_TEST

/* A GPU: a step costs 5.6 ms and 16 us a row, whatever rows look at; its first one takes 200 ms more. Prompts of 1,000,
 * then a few tokens: pairs grow with rows, and never come out as what makes them cheap. */
START_TEST(test_sched_budget_sees_that_rows_are_cheap_together)
{
    struct budget b;
    budget_init(&b);
    for (int prompt = 0; prompt < 5; prompt++) {
        for (uint32_t at = 0, n; at < 1000; at += n) {
            n = budget_rows(&b, at, 1000 - at, 100e6);
            n = n ? n : 1;
            budget_learn(&b, n, budget_pairs(at, n), (prompt || at ? 0 : 200000000) + 5600000 + 16300 * (uint64_t)n);
        }
        for (uint32_t i = 0; i < 3; i++)
            budget_learn(&b, 1, 1001 + i, 5616300);
    }
    double guess = budget_predict(&b, 1000, budget_pairs(0, 1000));
    printf("predicted %.1f ms, truth 21.9 ms\n", guess / 1e6);
    ck_assert_double_lt(guess, 1.5 * 21.9e6);
    ck_assert_double_gt(guess, 0.7 * 21.9e6);
    ck_assert_uint_ge(budget_rows(&b, 0, 100000, 100e6), 2000);
}
END_TEST

UNIT_MAIN("sched", test_sched_keeps_its_rules, test_sched_moves_the_oldest_prompt_even_when_there_is_no_time,
          test_sched_computes_all_holes_that_a_step_has_room_for,
          test_sched_leaves_each_prompt_its_share_of_a_step_beside_holes, test_sched_admits_by_priority_then_by_age,
          test_sched_admits_a_prompt_that_needs_the_whole_pool, test_sched_budget_learns_a_machine,
          test_sched_budget_sees_that_rows_are_cheap_together)
