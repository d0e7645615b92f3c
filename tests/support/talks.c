/* talks - see talks.h. */
#include "tests/support/talks.h"

#include "engine/base/rng.h"
#include "engine/kv/tiers_int.h"
#include "engine/kvcache_int.h"
#include "tests/support/unit.h"

#include <string.h>

void talks_open(struct talks *r, uint32_t n_blocks, uint32_t dram_slots, uint32_t nvme_slots)
{
    struct engine_config c = {.block_tokens = BT, .dram_bytes = dram_slots * 4096, .load_always = 1, .io_threads = 1};
    memset(r, 0, sizeof *r);
    fake_clock_on();
    strcpy(r->dir, "/tmp/hearth-session-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(r->dir));
    if (nvme_slots) {
        snprintf(c.nvme_dirs, sizeof c.nvme_dirs, "%s", r->dir);
        c.nvme_bytes = nvme_slots * (4096 + 512) + 16384;
    }
    fake_machine_open(&r->m, &c, n_blocks, &(struct fake_cost){1000000, 500000, 1000, false});
    hand_open(&r->h, &r->m);
}

void talks_close(struct talks *r)
{
    char cmd[128];
    hand_close(&r->h);
    fake_machine_close(&r->m);
    snprintf(cmd, sizeof cmd, "rm -rf %s", r->dir);
    ck_assert_int_eq(system(cmd), 0);
}

struct kvcache *talks_kv(struct talks *r)
{
    return &r->h.loop.kv;
}

void talks_settle(struct talks *r)
{
    struct tiers *t = talks_kv(r)->tiers;
    for (int i = 0; i < 5 || (t && tiers_busy(t)) || sessions_busy(&r->h.loop.sessions); i++)
        loop_turn(&r->h.loop);
}

void talks_say(struct talks *r, struct talk *t, uint32_t n, uint32_t n_out, bool in_memory)
{
    struct engine_sampling greedy = hand_greedy();
    struct engine_event ev;
    struct err e = {0};
    uint64_t id;
    for (uint32_t i = 0; i < n; i++)
        t->ids[t->n++] = (int32_t)(rng_next(&r->rng) % FAKE_VOCAB);
    struct engine_request q = {.prompt = t->ids,
                               .n_prompt = t->n,
                               .max_tokens = n_out,
                               .n = 1,
                               .sampling = greedy,
                               .in_session = true,
                               .in_memory = in_memory};
    uint32_t n_prompt = t->n;
    bool leaf = false;
    ck_assert_msg(engine_submit(r->h.front, &q, &id, &e) == 0, "%s", e.text);
    for (bool done = false; !done;) {
        loop_turn(&r->h.loop);
        while (engine_poll(r->h.front, &ev)) {
            for (uint32_t i = 0; ev.type == ENGINE_TOKENS && i < ev.n; i++) {
                ck_assert_int_eq(ev.tokens[i], fake_expect(t->ids, t->n, n_prompt, &greedy, 0));
                t->ids[t->n++] = ev.tokens[i];
            }
            if (ev.type == ENGINE_LEAF) {
                t->leaf = ev.leaf;
                leaf = true;
            }
            done |= ev.type == ENGINE_DONE;
        }
    }
    ck_assert(leaf);
    ck_assert_uint_eq(t->leaf.n_tokens, t->n);
    ck_assert_uint_eq(t->leaf.n_blocks, (t->n - 1) / BT); /* the last token was not computed */
}

struct engine_whereabouts talks_ask(struct talks *r, const struct engine_leaf *leaf, enum engine_verb verb)
{
    struct engine_question q = {.verb = verb, .leaf = *leaf};
    struct engine_event ev;
    struct err e = {0};
    uint64_t id;
    ck_assert_msg(engine_ask(r->h.front, &q, &id, &e) == 0, "%s", e.text);
    for (int i = 0; i < 100000; i++) {
        loop_turn(&r->h.loop);
        if (engine_poll(r->h.front, &ev)) {
            ck_assert(ev.type == ENGINE_SAYS && ev.id == id);
            return ev.says;
        }
    }
    ck_abort_msg("no answer");
}

struct hash_key talks_root(const struct talks *r)
{
    struct kvcache_identity who = {.model = r->m.fingerprints[r->m.layout.format],
                                   .block_tokens = BT,
                                   .format = r->m.layout.format,
                                   .numerics = "fake"};
    const uint8_t salt[32] = {0};
    struct hash_key root;
    memcpy(who.secret, r->m.config.secret, sizeof who.secret);
    ck_assert_int_eq(kvcache_root(&who, salt, &root), 0);
    return root;
}

struct engine_whereabouts talks_truth(struct talks *r, const struct talk *t)
{
    struct kvcache *kv = talks_kv(r);
    struct hash_key root = talks_root(r), key, parent = root;
    struct engine_whereabouts w = {0};
    int32_t block = -1;
    uint64_t check = 0;
    for (uint32_t i = 0; i < t->leaf.n_blocks; i++, parent = key) {
        const int32_t *ids = t->ids + i * BT;
        prefix_key(&parent, ids, BT, &key);
        check = entry_check(check, &root, ids, BT);
        struct kv_ident c = {.key = key, .parent = parent, .root = &root, .check = check, .ids = ids, .depth = i};
        struct prefix_ident p = {.key = key, .root = &root, .parent = block, .ids = ids};
        uint32_t below = kv->tiers ? tiers_where(kv->tiers, &c) : 0;
        block = i == 0 || block >= 0 ? prefix_find(kv->prefix, &p) : -1;
        w.in[0] += block >= 0;
        w.in[1] += below >> TIER_DRAM & 1;
        w.in[2] += below >> TIER_NVME & 1;
        w.missing += block < 0 && !below;
    }
    return w;
}

struct talk *talks_asleep(struct talks *r, uint32_t n_blocks, uint32_t n, uint32_t n_out)
{
    struct talk *t = &r->talks[0];
    talks_open(r, n_blocks, 64, 500);
    talks_say(r, t, n, n_out, false);
    struct engine_whereabouts w = talks_ask(r, &t->leaf, ENGINE_PARK);
    ck_assert(w.answer == ENGINE_ANSWERED && w.in[2] == t->leaf.n_blocks && w.missing == 0);
    return t;
}
