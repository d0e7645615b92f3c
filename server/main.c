/* main - hearthd: the command line, and one action. */
#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/version.h"
#include "server/app.h"
#include "server/options.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int say_error(const struct err *e)
{
    fprintf(stderr, "hearthd: %s\n", e->text);
    return EXIT_FAILURE;
}

static int print(void (*put)(struct str *out))
{
    struct str out = {0};
    put(&out);
    fputs(str_text(&out), stdout);
    str_fini(&out);
    return fflush(stdout) ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int print_config(const struct config *c)
{
    struct str out = {0};
    config_print(c, &out);
    fputs(str_text(&out), stdout);
    str_fini(&out);
    return EXIT_SUCCESS;
}

/* A key on stdin to its line for the key file. */
static int hash_key(const struct options *o, struct err *e)
{
    char key[4096];
    struct str out = {0};
    size_t n = fread(key, 1, sizeof key, stdin);
    while (n > 0 && (key[n - 1] == '\n' || key[n - 1] == '\r'))
        n--;
    if (hash_init_library() != 0 || auth_hash_line(key, n, o->key_name, &out, e) != 0)
        return say_error(e);
    fputs(str_text(&out), stdout);
    str_fini(&out);
    return EXIT_SUCCESS;
}

static double gib(uint64_t bytes)
{
    return (double)bytes / (1 << 30);
}

/* The tiers below the pool: what they hold, and how fast the drives are. */
static void print_tiers(const struct config *c, const struct engine_plan *p)
{
    uint64_t slot = engine_kv_slot_bytes(p), dram = c->kv.dram.bytes / slot, nvme = c->kv.nvme.bytes / slot;
    if (dram)
        printf("KV in DRAM   %10.3f GiB  %llu blocks = %llu tokens\n", gib(c->kv.dram.bytes), (unsigned long long)dram,
               (unsigned long long)(dram * p->block_tokens));
    if (nvme)
        printf("KV on drives %10.3f GiB  about %llu blocks = %llu tokens\n", gib(c->kv.nvme.bytes),
               (unsigned long long)nvme, (unsigned long long)(nvme * p->block_tokens));
    for (size_t i = 0; i < c->kv.nvme.dirs.n; i++) {
        uint64_t write, read;
        struct err e;
        if (engine_kv_speed(c->kv.nvme.dirs.v[i], &write, &read, &e) != 0)
            printf("             %s\n", e.text);
        else
            printf("             %s: reads %.2f GB/s, writes %.2f GB/s\n", c->kv.nvme.dirs.v[i], (double)read / 1e9,
                   (double)write / 1e9);
    }
}

static void print_need(const char *of, uint64_t needed, uint64_t available)
{
    printf("%-12s %10.3f GiB needed of %.3f GiB available%s\n", of, gib(needed), gib(available),
           needed > available ? ": it does not fit; lower kv.bytes or kv.dram.bytes" : "");
}

/* The tiers take host memory. So does everything else, unless a GPU has memory of its own. */
static void print_memory(const struct engine_config *c, const struct engine_plan *p)
{
    uint64_t own = p->weight_bytes + p->activation_bytes + p->kv_bytes, below = engine_kv_host_bytes(c, p);
    bool gpu = strcmp(p->backend, "cuda") == 0;
    print_need("memory", gpu ? own : own + below, p->memory_available);
    if (gpu && below)
        print_need("host memory", below, sys_memory_available());
}

/* What the configuration takes and what would fit, as far as it fits at all; nothing is loaded. */
static int print_plan(const struct config *c, struct err *e)
{
    struct engine_config ec;
    struct engine_plan p;
    app_engine_config(c, &ec);
    int ret = engine_make_plan(&ec, &p, e);
    if (ret && ret != -ENOMEM)
        return say_error(e);
    uint64_t tokens = (uint64_t)p.n_blocks * p.block_tokens;
    printf("model        %s (%s), vocabulary %d, trained for %u tokens\n", p.name, p.arch, p.vocab, p.ctx_train);
    printf("backend      %s%s%s%s\n", p.backend, p.no_gpu[0] ? " (no GPU: " : "", p.no_gpu, p.no_gpu[0] ? ")" : "");
    printf("weights      %10.3f GiB\n", gib(p.weight_bytes));
    printf("activations  %10.3f GiB\n", gib(p.activation_bytes));
    printf("KV a token   %10llu bytes\n", (unsigned long long)p.kv_bytes_per_token);
    if (ret) /* it does not fit here: the sentence has the numbers of this machine */
        return say_error(e);
    printf("KV pool      %10.3f GiB  %u blocks of %u tokens = %llu tokens\n", gib(p.kv_bytes), p.n_blocks,
           p.block_tokens, (unsigned long long)tokens);
    printf("context      %10u tokens, %.3f GiB of KV each; %.1f sessions of full length fit\n", p.ctx_tokens,
           gib(p.ctx_tokens * p.kv_bytes_per_token), (double)tokens / p.ctx_tokens);
    for (uint32_t n = 2048; n < p.ctx_tokens; n *= 4)
        printf("             %10u tokens, %.3f GiB of KV each; %.1f sessions fit\n", n, gib(n * p.kv_bytes_per_token),
               (double)tokens / n);
    print_tiers(c, &p);
    print_memory(&ec, &p);
    return EXIT_SUCCESS;
}

static int check(const struct config *c, struct err *e)
{
    struct engine_plan p;
    if (app_check(c, &p, e) != 0)
        return say_error(e);
    printf("ok: configuration and model header (%s, context %u)\n", p.name, p.ctx_tokens);
    return EXIT_SUCCESS;
}

static int calibrate(const struct config *c, struct err *e)
{
    char path[4200];
    uint32_t n;
    if (app_calibrate(c, stdin, &n, path, sizeof path, e) != 0)
        return say_error(e);
    printf("%s: scales of kv8 from %u tokens\n", path, n);
    return EXIT_SUCCESS;
}

static int serve(const struct config *c, struct err *e)
{
    struct app a;
    if (app_open(&a, c, e) != 0)
        return say_error(e);
    int ret = app_run(&a, e);
    app_close(&a);
    if (ret)
        return say_error(e);
    log_info("server stop", "reason=drained");
    return EXIT_SUCCESS;
}

/* hearthd kv-check DIR, hearthd kv-purge DIR */
static int upkeep(int argc, char **argv)
{
    bool purge = strcmp(argv[1], "kv-purge") == 0;
    struct str report = {0};
    struct err e;
    if (argc != 3) {
        fprintf(stderr, "usage: hearthd %s DIR   (one of kv.nvme.dirs; no daemon may have it)\n", argv[1]);
        return EXIT_FAILURE;
    }
    int ret = purge ? engine_kv_purge(argv[2], &report, &e) : engine_kv_check(argv[2], &report, &e);
    fputs(str_text(&report), stdout);
    str_fini(&report);
    return ret < 0 ? say_error(&e) : ret ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct options o;
    struct config c;
    struct err e;
    int ret;
    if (argc > 1 && strcmp(argv[1], "--engine-child") == 0)
        return engine_child_main(argc - 2, argv + 2);
    if (argc > 1 && (strcmp(argv[1], "kv-check") == 0 || strcmp(argv[1], "kv-purge") == 0))
        return upkeep(argc, argv);
    if (options_parse(&o, &c, argc, argv, environ, &e) != 0) {
        config_fini(&c);
        return say_error(&e);
    }
    log_set_level((enum log_level)c.log.level);
    switch (o.action) {
    case OPTIONS_HELP:
        ret = print(options_put_help);
        break;
    case OPTIONS_HELP_KEYS:
        ret = print(options_put_keys);
        break;
    case OPTIONS_VERSION:
        ret = print(options_put_version);
        break;
    case OPTIONS_PRINT_CONFIG:
        ret = print_config(&c);
        break;
    case OPTIONS_HASH_KEY:
        ret = hash_key(&o, &e);
        break;
    case OPTIONS_PLAN:
        ret = print_plan(&c, &e);
        break;
    case OPTIONS_CHECK:
        ret = check(&c, &e);
        break;
    case OPTIONS_CALIBRATE:
        ret = calibrate(&c, &e);
        break;
    default:
        ret = serve(&c, &e);
    }
    config_fini(&c);
    return ret;
}
