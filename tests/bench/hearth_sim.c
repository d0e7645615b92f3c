/* hearth_sim - how much of a trace would have been hits, on which tier, and what that moves and saves.
 *
 *     hearth-sim TRACE [--hbm-tokens N] [--dram-tokens N] [--nvme-tokens N] [--policy ours|lru] [--write-mb-s N]
 *                      [--frontier] [--requests N] [--row-tokens N] [--by-cost]
 *
 * TRACE: JSON lines as in tests/support/mooncake.h, or such a file in gzip. A tier that is not named is not there; when
 * none is named they are 0.3 M, 2 M and 20 M tokens. Numbers take k and M.
 */
#include "tests/support/sim.h"

#include "engine/base/hash.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] = "usage: hearth-sim TRACE [--hbm-tokens N] [--dram-tokens N] [--nvme-tokens N]\n"
                            "                  [--policy ours|lru] [--write-mb-s N] [--frontier] [--requests N]\n"
                            "                  [--row-tokens 1|2|4|8] [--by-cost] [--check]\n";

struct args {
    struct sim_opts o;
    const char *path;
    bool frontier, tiers_named;
    size_t requests;
};

/* A count with k, M or G behind it; false when it is none. */
static bool number(const char *s, double *out)
{
    char *end;
    double v = strtod(s, &end), unit = 1;
    if (*end == 'k' || *end == 'K')
        unit = 1e3, end++;
    else if (*end == 'M' || *end == 'm')
        unit = 1e6, end++;
    else if (*end == 'G' || *end == 'g')
        unit = 1e9, end++;
    *out = v * unit;
    return end != s && *end == 0 && v >= 0 && *out < 1e13;
}

static bool take(struct args *a, int option, double v)
{
    switch (option) {
    case 'h':
    case 'd':
    case 'n':
        a->o.tokens[option == 'h' ? TIER_HBM : option == 'd' ? TIER_DRAM : TIER_NVME] = (uint64_t)v;
        a->tiers_named = true;
        return true;
    case 'w':
        a->o.write_share_bps = v * 1e6;
        return true;
    case 'r':
        a->requests = (size_t)v;
        return true;
    default:
        a->o.row_tokens = (uint32_t)v;
        return v == 1 || v == 2 || v == 4 || v == 8;
    }
}

static bool parse(int argc, char **argv, struct args *a)
{
    static const struct option options[] = {{"hbm-tokens", required_argument, NULL, 'h'},
                                            {"dram-tokens", required_argument, NULL, 'd'},
                                            {"nvme-tokens", required_argument, NULL, 'n'},
                                            {"policy", required_argument, NULL, 'p'},
                                            {"write-mb-s", required_argument, NULL, 'w'},
                                            {"frontier", no_argument, NULL, 'f'},
                                            {"requests", required_argument, NULL, 'r'},
                                            {"row-tokens", required_argument, NULL, 't'},
                                            {"by-cost", no_argument, NULL, 'c'},
                                            {"check", no_argument, NULL, 'k'},
                                            {0}};
    double v;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'f')
            a->frontier = true;
        else if (c == 'c')
            a->o.by_cost = true;
        else if (c == 'k')
            a->o.check = true;
        else if (c == 'p' && (strcmp(optarg, "lru") == 0 || strcmp(optarg, "ours") == 0))
            a->o.lru = optarg[0] == 'l';
        else if (c == '?' || c == 'p' || !number(optarg, &v) || !take(a, c, v))
            return false;
    }
    a->path = argv[optind];
    return argc == optind + 1;
}

static void print_tier(const char *name, const struct sim_opts *o, const struct sim_result *r, enum tier_id t)
{
    if (o->tokens[t])
        printf("%-5s %8.2f M tokens   hits %12" PRIu64 " / %" PRIu64
               " tokens = %5.2f %%   up %9.2f GB   down %9.2f GB\n",
               name, (double)o->tokens[t] / 1e6, r->tier_tokens[t], r->input_tokens,
               100.0 * (double)r->tier_tokens[t] / (double)r->input_tokens, (double)r->up_bytes[t] / 1e9,
               (double)r->down_bytes[t] / 1e9);
}

static void print_result(const struct sim_opts *o, const struct sim_result *r, double ideal)
{
    printf("requests %" PRIu64 ", %.0f s simulated, %" PRIu64 " steps, %" PRIu64 " preempted, policy %s\n", r->requests,
           r->seconds, r->steps, r->preempted, o->lru ? "lru" : "ours");
    print_tier("hbm", o, r, TIER_HBM);
    print_tier("dram", o, r, TIER_DRAM);
    print_tier("nvme", o, r, TIER_NVME);
    printf("hit rate %.2f %%\n", 100 * sim_hit_rate(r));
    printf("of an endless cache's %.2f %%: %.1f %%\n", 100 * ideal, 100 * sim_hit_rate(r) / ideal);
    printf("ttft p50 %.3f s, p90 %.3f s, p99 %.3f s\n", r->ttft_p50, r->ttft_p90, r->ttft_p99);
    printf("computing saved %.0f s\n", r->saved_seconds);
    if (o->tokens[TIER_DRAM] || o->tokens[TIER_NVME])
        printf("blocks: %" PRIu64 " given up by dram with a copy on nvme, %" PRIu64 " without; %" PRIu64
               " given up by nvme; %" PRIu64 " found no room; %" PRIu64 " loads late\n",
               r->tiers.evicted_dram, r->tiers.lost_dram, r->tiers.lost_nvme, r->tiers.not_stored, r->tiers.late);
}

/* What fewer bytes to NVMe cost in hits: against writing all, by plain LRU. */
static int frontier(const struct args *a, const struct mooncake *trace, double ideal, struct err *e)
{
    static const int shares[] = {100, 95, 90, 85, 80, 70, 60, 50, 40, 30, 20};
    struct sim_opts o = a->o;
    struct sim_result all, r;
    o.lru = true;
    o.write_share_bps = 0;
    int ret = sim_run(&o, trace, &all, e);
    if (ret)
        return ret;
    double bytes = (double)all.down_bytes[TIER_NVME];
    printf("policy  budget   written GB   of write-all   hit rate   of ideal   ttft p50 s   p99 s\n");
    printf("lru     none   %12.1f        100.0 %%    %6.2f %%    %5.1f %%      %7.3f %7.3f\n", bytes / 1e9,
           100 * sim_hit_rate(&all), 100 * sim_hit_rate(&all) / ideal, all.ttft_p50, all.ttft_p99);
    o.lru = false;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        o.write_share_bps = sim_budget(trace, bytes * shares[i] / 100);
        ret = sim_run(&o, trace, &r, e);
        if (ret)
            return ret;
        printf("ours    %3d %%  %12.1f        %5.1f %%    %6.2f %%    %5.1f %%      %7.3f %7.3f\n", shares[i],
               (double)r.down_bytes[TIER_NVME] / 1e9, 100 * (double)r.down_bytes[TIER_NVME] / bytes,
               100 * sim_hit_rate(&r), 100 * sim_hit_rate(&r) / ideal, r.ttft_p50, r.ttft_p99);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct args a = {.o = {.row_tokens = 1}};
    struct mooncake trace;
    struct sim_result r;
    struct err e;
    if (!parse(argc, argv, &a)) {
        fputs(usage, stderr);
        return 2;
    }
    if (!a.tiers_named) {
        const uint64_t tokens[TIER_COUNT] = {300000, 2000000, 20000000};
        memcpy(a.o.tokens, tokens, sizeof tokens);
    }
    int ret = hash_init_library();
    if (ret)
        err_set(&e, -ret, "libcrypto has no SHA-256");
    else
        ret = mooncake_read(&trace, a.path, a.requests, &e);
    if (ret) {
        fprintf(stderr, "hearth-sim: %s\n", e.text);
        return 1;
    }
    double ideal = mooncake_ideal(&trace, MOONCAKE_ID_TOKENS / (64 * a.o.row_tokens));
    ret = a.frontier ? frontier(&a, &trace, ideal, &e) : sim_run(&a.o, &trace, &r, &e);
    if (ret)
        fprintf(stderr, "hearth-sim: %s\n", e.text);
    else if (!a.frontier)
        print_result(&a.o, &r, ideal);
    mooncake_free(&trace);
    return ret ? 1 : 0;
}
