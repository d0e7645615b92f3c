/* The simulator against exact LRU stack distances, and the policy of the tiers against plain LRU, on traces. The public
 * traces are read from HEARTH_SHARED/data, where that is set. */
#include "engine/base/hash.h"
#include "tests/support/sim.h"
#include "tests/support/unit.h"

#include <limits.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define M     1000000ull
#define SMALL "tests/golden/sessions.jsonl" /* scripts/make_sessions.py --small */

static struct mooncake trace;

static void read_trace(const char *path)
{
    struct err e;
    ck_assert_int_eq(hash_init_library(), 0);
    if (mooncake_read(&trace, path, 0, &e) != 0)
        ck_abort_msg("%s", e.text);
}

/* False, and a line that it is skipped, where the public traces are not. */
static bool read_public(const char *test, const char *name)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/data/mooncake_%s_trace.jsonl.gz", unit_shared(), name);
    if (access(path, R_OK)) {
        printf("SKIP %s: no shared data (%s trace)\n", test, name);
        return false;
    }
    read_trace(path);
    return true;
}

static struct sim_result run(struct sim_opts o)
{
    struct sim_result r;
    struct err e;
    if (sim_run(&o, &trace, &r, &e) != 0)
        ck_abort_msg("%s", e.text);
    return r;
}

/* Hits of LRU over `blocks` ids, all ids of a request touched from the last to the first when it arrives: by walking
 * the stack. O(n * stack). */
static double lru_exactly(size_t blocks)
{
    uint32_t *stack = malloc(trace.n_ids * sizeof *stack); /* newest last */
    size_t n = 0;
    uint64_t hits = 0;
    ck_assert_ptr_nonnull(stack);
    for (size_t i = 0; i < trace.n; i++) {
        const struct mooncake_request *q = &trace.requests[i];
        uint32_t run = 0;
        for (bool found = true; found && run < q->n_ids; run += found) {
            found = false;
            for (size_t j = n; !found && j > 0 && n - j < blocks; j--)
                found = stack[j - 1] == q->ids[run];
        }
        hits += run - (run == q->n_ids);
        for (uint32_t k = q->n_ids; k-- > 0;) {
            size_t j = n;
            while (j > 0 && stack[j - 1] != q->ids[k])
                j--;
            if (j > 0)
                memmove(stack + j - 1, stack + j, (n-- - j) * sizeof *stack);
            stack[n++] = q->ids[k];
        }
    }
    free(stack);
    return (double)hits / (double)trace.n_ids;
}

START_TEST(test_sim_gives_the_hits_of_exact_lru_on_a_small_trace)
{
    read_trace(SMALL);
    for (uint64_t tokens = M / 4; tokens <= 4 * M; tokens *= 2) {
        double exact = lru_exactly(tokens / MOONCAKE_ID_TOKENS);
        struct sim_result r = run((struct sim_opts){.tokens = {tokens}, .lru = true, .row_tokens = 8, .check = true});
        printf("%.2f M tokens: %.2f %%, exactly %.2f %%\n", (double)tokens / M, 100 * sim_hit_rate(&r), 100 * exact);
        ck_assert_double_le(fabs(sim_hit_rate(&r) - exact), 0.03);
    }
    struct sim_result r = run((struct sim_opts){.tokens = {100 * M}, .lru = true, .row_tokens = 8});
    ck_assert_double_eq_tol(sim_hit_rate(&r), mooncake_ideal(&trace, 1), 0.01);
    mooncake_free(&trace);
}
END_TEST

START_TEST(test_sim_is_the_same_again_and_accounts_for_all_tokens)
{
    read_trace(SMALL);
    const struct sim_opts o = {.tokens = {M / 4, M / 2, 2 * M}, .row_tokens = 2, .check = true, .write_share_bps = 1e9};
    struct sim_result a = run(o), b = run(o);
    ck_assert_mem_eq(&a, &b, sizeof a);
    ck_assert_uint_eq(a.requests, trace.n);
    ck_assert_uint_eq(a.input_tokens, trace.n_ids * MOONCAKE_ID_TOKENS);
    ck_assert_uint_eq(a.tier_tokens[TIER_HBM] + a.tier_tokens[TIER_DRAM] + a.tier_tokens[TIER_NVME], a.hit_tokens);
    for (int t = 0; t < TIER_COUNT; t++)
        ck_assert_uint_gt(a.tier_tokens[t], 0);
    ck_assert_double_le((double)a.down_bytes[TIER_NVME], 1e9 * (a.seconds + 301));
    mooncake_free(&trace);
}
END_TEST

START_TEST(test_a_small_budget_takes_more_of_the_hits_than_of_the_bytes)
{
    read_trace(SMALL);
    struct sim_opts o = {.tokens = {M / 4, M / 2, 8 * M}, .row_tokens = 4, .lru = true};
    struct sim_result all = run(o);
    o.lru = false;
    o.write_share_bps = sim_budget(&trace, 0.4 * (double)all.down_bytes[TIER_NVME]);
    struct sim_result some = run(o);
    printf("%.1f %% of the bytes, %.1f %% of the hits\n",
           100.0 * (double)some.down_bytes[TIER_NVME] / (double)all.down_bytes[TIER_NVME],
           100 * sim_hit_rate(&some) / sim_hit_rate(&all));
    ck_assert_double_le((double)some.down_bytes[TIER_NVME], 0.4 * (double)all.down_bytes[TIER_NVME]);
    ck_assert_double_ge(sim_hit_rate(&some), 0.6 * sim_hit_rate(&all));
    mooncake_free(&trace);
}
END_TEST

/* -- the public traces. Hit rates by capacity as exact stack distances give them. */

static const struct {
    uint64_t tokens;
    double conversation, synthetic;
} exact[] = {
    {1 * M, .0533, .1424}, {2 * M, .0848, .2285}, {5 * M, .2071, .4206}, {8 * M, .2611, .5260}, {20 * M, .3513, .6393}};
#define N_EXACT (sizeof exact / sizeof *exact)

START_TEST(test_sim_gives_the_hits_of_exact_lru_on_public_traces)
{
    for (int t = 0; t < 2; t++) {
        if (!read_public("test_sim_gives_the_hits_of_exact_lru_on_public_traces", t ? "synthetic" : "conversation"))
            return;
        for (size_t i = 0; i < N_EXACT; i++) {
            struct sim_result r = run((struct sim_opts){.tokens = {exact[i].tokens}, .lru = true, .row_tokens = 8});
            double want = t ? exact[i].synthetic : exact[i].conversation;
            printf("%s lru %llu M tokens: %.2f %%, exactly %.2f %%\n", t ? "synthetic" : "conversation",
                   exact[i].tokens / M, 100 * sim_hit_rate(&r), 100 * want);
            ck_assert_double_le(fabs(sim_hit_rate(&r) - want), 0.005);
        }
        mooncake_free(&trace);
    }
}
END_TEST

START_TEST(test_our_policy_is_never_below_lru_on_public_traces)
{
    for (int t = 0; t < 2; t++) {
        if (!read_public("test_our_policy_is_never_below_lru_on_public_traces", t ? "synthetic" : "conversation"))
            return;
        for (size_t i = 0; i < N_EXACT; i += t ? 2 : 1) {
            struct sim_opts o = {.tokens = {300000, exact[i].tokens}, .lru = true, .row_tokens = 8};
            struct sim_result lru = run(o);
            o.lru = false;
            struct sim_result ours = run(o);
            printf("%s %llu M tokens: lru %.2f %%, ours %.2f %%\n", t ? "synthetic" : "conversation",
                   exact[i].tokens / M, 100 * sim_hit_rate(&lru), 100 * sim_hit_rate(&ours));
            /* a hundredth of a point: where nearly all fits, who comes first decides about single blocks */
            ck_assert_double_ge(sim_hit_rate(&ours), sim_hit_rate(&lru) - 1e-4);
        }
        mooncake_free(&trace);
    }
}
END_TEST

/* Without any tier below it the pool gives up by the same policy. */
START_TEST(test_our_policy_in_the_pool_alone_is_far_above_lru_on_a_public_trace)
{
    if (!read_public("test_our_policy_in_the_pool_alone_is_far_above_lru_on_a_public_trace", "conversation"))
        return;
    for (uint64_t tokens = M; tokens <= 2 * M; tokens += M) {
        struct sim_opts o = {.tokens = {tokens}, .lru = true, .row_tokens = 8};
        struct sim_result lru = run(o);
        o.lru = false;
        struct sim_result ours = run(o);
        printf("pool of %llu M tokens: lru %.2f %%, ours %.2f %%; ttft p50 %.3f, %.3f s\n", tokens / M,
               100 * sim_hit_rate(&lru), 100 * sim_hit_rate(&ours), lru.ttft_p50, ours.ttft_p50);
        ck_assert_double_ge(sim_hit_rate(&ours), 1.5 * sim_hit_rate(&lru));
        ck_assert_double_le(ours.ttft_p50, lru.ttft_p50);
    }
    mooncake_free(&trace);
}
END_TEST

/* 0.3 M tokens in HBM, 2 M in DRAM, 20 M on NVMe: what a write budget costs in hits. */
START_TEST(test_a_write_budget_keeps_most_of_the_hits_on_the_public_trace)
{
    static const struct {
        double bytes, hits; /* at most, at least */
    } gates[] = {{.85, .95}, {.40, .68}};
    if (!read_public("test_a_write_budget_keeps_most_of_the_hits_on_the_public_trace", "conversation"))
        return;
    struct sim_opts o = {.tokens = {300000, 2 * M, 20 * M}, .row_tokens = 8, .lru = true};
    double ideal = mooncake_ideal(&trace, MOONCAKE_ID_TOKENS / (64 * o.row_tokens));
    struct sim_result all = run(o);
    double bytes = (double)all.down_bytes[TIER_NVME];
    printf("write all: %.0f GB, %.1f %% of an endless cache's hits\n", bytes / 1e9, 100 * sim_hit_rate(&all) / ideal);
    o.lru = false;
    for (size_t i = 0; i < sizeof gates / sizeof *gates; i++) {
        o.write_share_bps = sim_budget(&trace, gates[i].bytes * bytes);
        struct sim_result r = run(o);
        printf("%.1f %% of the bytes: %.1f %% of an endless cache's hits\n",
               100 * (double)r.down_bytes[TIER_NVME] / bytes, 100 * sim_hit_rate(&r) / ideal);
        ck_assert_double_le((double)r.down_bytes[TIER_NVME], gates[i].bytes * bytes);
        ck_assert_double_ge(sim_hit_rate(&r), gates[i].hits * ideal);
    }
    mooncake_free(&trace);
}
END_TEST

/* Whatever is found is loaded, or what costs all requests least is: that must not cost first tokens, nor more of the
 * hits than an idle machine computes while it reads. */
START_TEST(test_loading_by_cost_is_no_later_than_loading_all_on_public_traces)
{
    for (int t = 0; t < 2; t++) {
        if (!read_public("test_loading_by_cost_is_no_later_than_loading_all_on_public_traces",
                         t ? "synthetic" : "conversation"))
            return;
        struct sim_opts o = {.tokens = {300000, 2 * M, 20 * M}, .row_tokens = 8};
        struct sim_result all = run(o);
        o.by_cost = true;
        struct sim_result some = run(o);
        printf("%s: hits %.2f %%, by cost %.2f %%; ttft p50 %.3f / %.3f, p90 %.3f / %.3f, p99 %.3f / %.3f s\n",
               t ? "synthetic" : "conversation", 100 * sim_hit_rate(&all), 100 * sim_hit_rate(&some), all.ttft_p50,
               some.ttft_p50, all.ttft_p90, some.ttft_p90, all.ttft_p99, some.ttft_p99);
        ck_assert_double_ge(sim_hit_rate(&some), (t ? 0.7 : 0.95) * sim_hit_rate(&all));
        ck_assert_double_le(some.ttft_p50, 1.01 * all.ttft_p50);
        ck_assert_double_le(some.ttft_p90, 1.01 * all.ttft_p90);
        ck_assert_double_le(some.ttft_p99, 1.01 * all.ttft_p99);
        mooncake_free(&trace);
    }
}
END_TEST

/* -- reading */

START_TEST(test_traces_that_are_none_are_refused)
{
    static const char *const bad[] = {
        "",
        "\n",
        "{}\n",
        "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}\n",
        "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1, \"hash_ids\": []}\n",
        "{\"timestamp\": 0, \"input_length\": 0, \"output_length\": 1, \"hash_ids\": [1]}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char path[] = "/tmp/hearth-trace-XXXXXX";
        struct err e;
        int fd = mkstemp(path);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, bad[i], strlen(bad[i])), (ssize_t)strlen(bad[i]));
        close(fd);
        ck_assert_int_lt(mooncake_read(&trace, path, 0, &e), 0);
        unlink(path);
    }
    struct err e;
    ck_assert_int_lt(mooncake_read(&trace, "/nowhere/trace.jsonl", 0, &e), 0);
    ck_assert_int_lt(mooncake_read(&trace, "/nowhere/trace.jsonl.gz", 0, &e), 0);
}
END_TEST

UNIT_MAIN("sim", test_sim_gives_the_hits_of_exact_lru_on_a_small_trace,
          test_sim_is_the_same_again_and_accounts_for_all_tokens,
          test_a_small_budget_takes_more_of_the_hits_than_of_the_bytes,
          test_our_policy_in_the_pool_alone_is_far_above_lru_on_a_public_trace,
          test_sim_gives_the_hits_of_exact_lru_on_public_traces, test_our_policy_is_never_below_lru_on_public_traces,
          test_a_write_budget_keeps_most_of_the_hits_on_the_public_trace,
          test_loading_by_cost_is_no_later_than_loading_all_on_public_traces, test_traces_that_are_none_are_refused)
