/* tier_rig - see tier_rig.h. */
#include "tests/support/tier_rig.h"

#include <assert.h>
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* -- folders */

static char dirs[64][64];
static int n_dirs;
static pid_t maker;

static void remove_dirs(void)
{
    char cmd[128];
    for (int i = 0; getpid() == maker && i < n_dirs; i++) {
        snprintf(cmd, sizeof cmd, "rm -rf %s", dirs[i]);
        if (system(cmd) != 0)
            printf("left behind: %s\n", dirs[i]);
    }
}

const char *rig_dir(void)
{
    const char *tmp = getenv("TMPDIR");
    assert(n_dirs < 64);
    snprintf(dirs[n_dirs], sizeof dirs[n_dirs], "%.30s/hearth-tiers-XXXXXX", tmp ? tmp : "/tmp");
    char *made = mkdtemp(dirs[n_dirs]);
    assert(made);
    if (n_dirs++ == 0 || maker != getpid())
        atexit(remove_dirs);
    maker = getpid();
    return made;
}

/* -- engine */

static struct engine_config config_of(const struct rig_opts *o)
{
    struct engine_config c = {.block_tokens = o->block_tokens ? o->block_tokens : 16,
                              .dram_bytes = (o->dram_slots ? o->dram_slots : 16) * 4096,
                              .nvme_write_bytes_per_day = o->bytes_per_day,
                              .io_threads = o->io_threads ? o->io_threads : 1,
                              .load_always = 1};
    c.secret[0] = o->secret;
    if (o->dirs)
        snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", o->dirs);
    c.nvme_bytes = (o->nvme_slots ? o->nvme_slots : 64) * (4096 + 512) + 16384;
    return c;
}

static const char *device;

static const char *describe_device(const struct backend *be)
{
    return device;
}

static int probe_device(uint64_t *memory, struct err *e)
{
    *memory = 0;
    return 0;
}

int rig_try(struct rig *r, const struct rig_opts *o, struct err *e)
{
    static struct backend_ops ops;
    memset(r, 0, sizeof *r);
    r->o = *o;
    struct engine_config c = config_of(o);
    fake_clock_on();
    fake_machine_open(&r->m, &c, o->n_blocks ? o->n_blocks : 8, NULL);
    for (int f = 0; f < KV_FORMATS; f++)
        r->m.fingerprints[f].b[0] = o->model;
    if (o->format)
        r->m.layout.format = o->format;
    if (o->numerics || o->device) {
        ops = *backend_ops(r->m.be);
        ops.name = o->numerics ? o->numerics : ops.name;
        ops.probe = o->device ? probe_device : NULL;
        ops.describe = o->device ? describe_device : ops.describe;
        device = o->device;
        r->m.config.deterministic = o->device != NULL;
        ((struct backend_head *)(void *)r->m.be)->ops = &ops;
    }
    int ret = hand_try(&r->h, &r->m, e);
    if (ret)
        fake_machine_close(&r->m);
    return ret;
}

void rig_open(struct rig *r, const struct rig_opts *o)
{
    struct err e = {0};
    ck_assert_msg(rig_try(r, o, &e) == 0, "%s", e.text);
}

void rig_close(struct rig *r)
{
    hand_close(&r->h);
    fake_machine_close(&r->m);
}

/* -- asking */

void rig_prompt(int32_t *ids, int32_t number)
{
    for (int i = 0; i < RIG_PROMPT; i++)
        ids[i] = (i * 31 + number * 7 + i * i * number) % FAKE_VOCAB;
}

uint64_t rig_submit(struct rig *r, int32_t number)
{
    int32_t ids[RIG_PROMPT];
    struct engine_request q = {.prompt = ids, .n_prompt = RIG_PROMPT, .max_tokens = RIG_OUT, .n = 1};
    struct err e = {0};
    uint64_t id;
    rig_prompt(ids, number);
    q.sampling = hand_greedy();
    memset(q.salt, r->salt, sizeof q.salt);
    ck_assert_msg(engine_submit(r->h.front, &q, &id, &e) == 0, "%s", e.text);
    return id;
}

uint32_t rig_finish(struct rig *r, int32_t number, uint64_t id)
{
    struct engine_event ev;
    struct engine_sampling greedy = hand_greedy();
    int32_t ids[RIG_PROMPT + RIG_OUT];
    uint32_t n = RIG_PROMPT, cached = 0, turns = 0;
    rig_prompt(ids, number);
    for (bool done = false; !done;) {
        loop_turn(&r->h.loop);
        ck_assert_msg(++turns < 100000000, "no answer");
        while (engine_poll(r->h.front, &ev)) {
            if (ev.id != id)
                continue; /* somebody else's */
            ck_assert_int_ne(ev.type, ENGINE_FAILED);
            for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++, n++) {
                int32_t want = fake_expect(ids, n, RIG_PROMPT, &greedy, 0);
                ck_assert_msg(ev.tokens[i] == want, "prompt %d token %u: %d, must be %d", number, n, ev.tokens[i],
                              want);
                ids[n] = want;
            }
            if (ev.type == ENGINE_DONE) {
                cached = ev.cached;
                done = true;
            }
        }
    }
    ck_assert_uint_eq(n, RIG_PROMPT + RIG_OUT);
    return cached;
}

void rig_settle(struct rig *r)
{
    do
        loop_turn(&r->h.loop);
    while (rig_tiers(r) && tiers_busy(rig_tiers(r)));
}

uint32_t rig_ask(struct rig *r, int32_t number)
{
    uint32_t cached = rig_finish(r, number, rig_submit(r, number));
    rig_settle(r);
    return cached;
}

struct tiers *rig_tiers(struct rig *r)
{
    return r->h.loop.kv.tiers;
}

struct tiers_stats rig_stats(struct rig *r)
{
    struct tiers_stats s = {0};
    tiers_get_stats(rig_tiers(r), &s);
    return s;
}
