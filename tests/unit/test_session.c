/* test_session - conversations asked about over the whole engine: what it says of a leaf is what looking every block up
 * with its ids says; what is parked is on the drive after a restart; what is brought up is in the pool; and the tokens
 * are what the ids determine all the while. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"
#include "engine/kvcache_int.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <errno.h>
#include <string.h>

#define BT         16
#define N_TALKS    12
#define IDS_MAX    640
#define MAX_BLOCKS (IDS_MAX / BT)

struct talk { /* a conversation and where it ended */
    int32_t ids[IDS_MAX];
    uint32_t n;
    struct engine_leaf leaf;
};

struct rig {
    struct machine m;
    struct hand_engine h;
    char dir[64];
    uint64_t rng;
    struct talk talks[N_TALKS];
};

static void rig_open(struct rig *r, uint32_t n_blocks, uint32_t dram_slots, uint32_t nvme_slots)
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

static void rig_close(struct rig *r)
{
    char cmd[128];
    hand_close(&r->h);
    fake_machine_close(&r->m);
    snprintf(cmd, sizeof cmd, "rm -rf %s", r->dir);
    ck_assert_int_eq(system(cmd), 0);
}

static struct kvcache *kv_of(struct rig *r)
{
    return &r->h.loop.kv;
}

static void settle(struct rig *r)
{
    struct tiers *t = kv_of(r)->tiers;
    for (int i = 0; i < 5 || (t && tiers_busy(t)) || sessions_busy(&r->h.loop.sessions); i++)
        loop_turn(&r->h.loop);
}

/* More is said and answered: up to n new ids, and n_out of the engine's, each held against what the ids determine. */
static void say(struct rig *r, struct talk *t, uint32_t n, uint32_t n_out, bool in_memory)
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

static struct engine_whereabouts ask(struct rig *r, const struct engine_leaf *leaf, enum engine_verb verb)
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

static struct hash_key root_of(const struct rig *r)
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

/* Where each block is, looked up with its ids. */
static struct engine_whereabouts truth(struct rig *r, const struct talk *t)
{
    struct kvcache *kv = kv_of(r);
    struct hash_key root = root_of(r), key, parent = root;
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

/* A conversation of n ids and an answer sleeps on the drive, all of it; the pool has so many blocks. */
static struct talk *asleep(struct rig *r, uint32_t n_blocks, uint32_t n, uint32_t n_out)
{
    struct talk *t = &r->talks[0];
    rig_open(r, n_blocks, 64, 500);
    say(r, t, n, n_out, false);
    struct engine_whereabouts w = ask(r, &t->leaf, ENGINE_PARK);
    ck_assert(w.answer == ENGINE_ANSWERED && w.in[2] == t->leaf.n_blocks && w.missing == 0);
    return t;
}

static void start_again(struct rig *r)
{
    hand_close(&r->h);
    hand_open(&r->h, &r->m);
}

static void expect_truth(struct rig *r, const struct talk *t)
{
    struct engine_whereabouts says = ask(r, &t->leaf, ENGINE_LOOK), want = truth(r, t);
    ck_assert_int_eq(says.answer, ENGINE_ANSWERED);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(says.in[i], want.in[i]);
    ck_assert_uint_eq(says.missing, want.missing);
}

START_TEST(test_what_is_said_of_random_conversations_is_what_their_ids_say)
{
    struct rig r;
    uint32_t parked = 0, brought = 0, walked = 0, gaps = 0;
    rig_open(&r, 48, 64, 500);
    r.rng = unit_seed("sessions");
    for (int round = 0; round < 1500; round++) {
        struct talk *t = &r.talks[rng_next(&r.rng) % N_TALKS];
        struct engine_whereabouts w;
        if (t->n == 0 || rng_next(&r.rng) % 2) {
            if (t->n > IDS_MAX - 150)
                t->n = 0; /* begins anew, under the same name */
            say(&r, t, 1 + (uint32_t)(rng_next(&r.rng) % 80), 1 + (uint32_t)(rng_next(&r.rng) % 40), false);
            continue;
        }
        if (t->leaf.n_blocks == 0)
            continue;
        settle(&r);
        switch (rng_next(&r.rng) % 4) {
        case 0:
            w = ask(&r, &t->leaf, ENGINE_PARK);
            ck_assert(w.answer == ENGINE_ANSWERED && w.parked_on == TIER_NVME);
            ck_assert_uint_eq(w.in[2] + w.missing, t->leaf.n_blocks);
            expect_truth(&r, t);
            parked += w.in[2];
            break;
        case 1:
            w = ask(&r, &t->leaf, ENGINE_BRING);
            ck_assert_int_eq(w.answer, ENGINE_ANSWERED);
            settle(&r);
            ck_assert(w.missing || (w.predict_us > 0) == (w.in[0] < t->leaf.n_blocks));
            if (truth(&r, t).missing == 0 && t->leaf.n_blocks <= 24) { /* none made room meanwhile */
                ck_assert_uint_eq(truth(&r, t).in[0], t->leaf.n_blocks);
                brought += t->leaf.n_blocks - w.in[0];
            }
            break;
        default: { /* walked up from the leaf alone: the same, but where there are gaps */
            struct talk forgot = *t;
            forgot.leaf.request = 0;
            expect_truth(&r, t);
            if (truth(&r, t).missing == 0) {
                expect_truth(&r, &forgot);
                walked++;
            } else {
                w = ask(&r, &forgot.leaf, ENGINE_LOOK);
                ck_assert_uint_ge(w.missing, truth(&r, t).missing);
                gaps++;
            }
        }
        }
        ck_assert_uint_eq(pool_n_used(kv_of(&r)->pool), 0);
    }
    printf("blocks parked %u, brought up %u; chains walked %u, with gaps %u\n", parked, brought, walked, gaps);
    ck_assert(parked > 1000 && brought > 100 && walked > 100);
    rig_close(&r);
}
END_TEST

/* The first grants to sessions and the first look at /metrics come before the engine has done a turn. */
START_TEST(test_an_engine_that_is_ready_says_at_once_what_its_tiers_hold)
{
    struct rig r;
    struct engine_stats st;
    rig_open(&r, 16, 8, 32);
    engine_get_stats(r.h.front, &st);
    ck_assert_uint_eq(st.tiers.dram_blocks, 8);
    ck_assert_uint_ge(st.tiers.nvme_blocks, 16);
    ck_assert_uint_gt(st.tiers.block_bytes, 0);
    rig_close(&r);
}
END_TEST

START_TEST(test_what_was_parked_is_found_by_its_leaf_after_a_restart)
{
    struct rig r;
    struct talk *t = asleep(&r, 40, 300, 20);
    start_again(&r);
    struct engine_whereabouts w = ask(&r, &t->leaf, ENGINE_LOOK);
    ck_assert(w.in[0] == 0 && w.in[1] == 0 && w.in[2] == t->leaf.n_blocks && w.missing == 0);
    w = ask(&r, &t->leaf, ENGINE_BRING);
    ck_assert_uint_gt(w.predict_us, 0);
    settle(&r);
    ck_assert_uint_eq(truth(&r, t).in[0], t->leaf.n_blocks);
    say(&r, t, 10, 20, false); /* and goes on: the tokens are right */
    ck_assert_uint_eq(kv_of(&r)->cached_tokens[TIER_HBM], 320 / BT * BT - BT);
    rig_close(&r);
}
END_TEST

START_TEST(test_what_is_brought_up_makes_way_for_who_waits)
{
    struct rig r;
    struct talk *t = asleep(&r, 40, 300, 20);
    for (uint32_t turns = 0; turns < 12; turns++) { /* it comes after so many turns, and needs the whole pool */
        struct talk big = {.n = 0};
        start_again(&r);
        ask(&r, &t->leaf, ENGINE_BRING);
        for (uint32_t i = 0; i < turns; i++)
            loop_turn(&r.h.loop);
        say(&r, &big, 590, 40, false);
        ck_assert_uint_eq(r.h.loop.sched.n_preempted, 0);
        settle(&r);
        ck_assert(kv_of(&r)->guest == NULL);
        ck_assert_uint_eq(pool_n_used(kv_of(&r)->pool), 0);
    }
    rig_close(&r);
}
END_TEST

START_TEST(test_a_chain_is_found_from_a_rung_when_its_end_is_gone)
{
    struct rig r;
    struct talk *t = asleep(&r, 40, 480, 8);
    start_again(&r);
    ck_assert_uint_eq(t->leaf.n_blocks, 30);
    struct tiers *tiers = kv_of(&r)->tiers;
    struct hash_key root = root_of(&r);
    for (uint32_t rung = 0; rung < 3; rung++) { /* blocks 29, 28, 27: gone */
        struct kvcache_cursor at = {.root = &root, .n = 30, .next = 29 - rung};
        struct hash_key keys[30];
        at.keys = keys;
        memset(keys, 0, sizeof keys);
        keys[29 - rung] = t->leaf.rungs[rung];
        ck_assert(kvcache_next(kv_of(&r), &at) && at.where == 1u << TIER_NVME);
        tiers_forget(tiers, &at.who);
    }
    struct engine_whereabouts w = ask(&r, &t->leaf, ENGINE_LOOK);
    ck_assert_uint_eq(w.in[2], 26); /* block 26 is only known by block 27; the next rung is 25 */
    ck_assert_uint_eq(w.missing, 4);
    rig_close(&r);
}
END_TEST

START_TEST(test_parking_says_what_it_can_not_do)
{
    struct rig r;
    rig_open(&r, 40, 0, 0);
    struct talk *t = &r.talks[0];
    say(&r, t, 100, 8, false);
    ck_assert_int_eq(ask(&r, &t->leaf, ENGINE_PARK).answer, ENGINE_NO_TIER);
    rig_close(&r);
    rig_open(&r, 40, 64, 0); /* DRAM alone */
    t = &r.talks[0];
    say(&r, t, 100, 8, false);
    struct engine_whereabouts w = ask(&r, &t->leaf, ENGINE_PARK);
    ck_assert(w.answer == ENGINE_ANSWERED && w.parked_on == TIER_DRAM && w.in[1] == 6);
    rig_close(&r);
    rig_open(&r, 40, 64, 3);
    t = &r.talks[0];
    say(&r, t, 100, 8, false);
    ck_assert_int_eq(ask(&r, &t->leaf, ENGINE_PARK).answer, ENGINE_NO_ROOM);
    rig_close(&r);
}
END_TEST

START_TEST(test_what_stays_in_memory_is_not_written_until_somebody_else_has_it)
{
    struct rig r;
    rig_open(&r, 40, 64, 100);
    struct talk *t = &r.talks[0];
    say(&r, t, 100, 8, true);
    settle(&r);
    struct engine_whereabouts w = truth(&r, t);
    ck_assert(w.in[1] == 6 && w.in[2] == 0);
    ck_assert_uint_gt(ask(&r, &t->leaf, ENGINE_BRING).in[0], 0); /* nobody else */
    settle(&r);
    ck_assert_uint_eq(truth(&r, t).in[2], 0);
    say(&r, t, 10, 1, false);
    settle(&r);
    ck_assert_uint_ge(truth(&r, t).in[2], 6);
    rig_close(&r);
}
END_TEST

START_TEST(test_what_is_kept_outlives_what_came_after_it)
{
    struct rig r;
    rig_open(&r, 24, 32, 0);
    struct talk *kept = &r.talks[0];
    struct engine_question q = {.verb = ENGINE_KEEP, .keep_us = {0, 1000000000, 0}};
    struct err e;
    uint64_t id;
    for (int i = 1; i < 8; i++) { /* what computing costs is known by then */
        say(&r, &r.talks[i], 200, 4, false);
        settle(&r);
    }
    say(&r, kept, 200, 4, false);
    settle(&r);
    q.leaf = kept->leaf;
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    settle(&r);
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i < 8; i++) {
            r.talks[i].n = 0;
            say(&r, &r.talks[i], 200, 4, false);
            settle(&r);
        }
        /* first it is all there, though seven times as much came after it; then its time is over */
        ck_assert_uint_eq(truth(&r, kept).in[1], round == 0 ? kept->leaf.n_blocks : 0);
        fake_now_ns += 2000000000000ull;
    }
    rig_close(&r);
}
END_TEST

START_TEST(test_what_is_kept_on_a_drive_outlives_what_came_after_it)
{
    struct rig r;
    rig_open(&r, 24, 32, 60);
    struct talk *kept = &r.talks[0];
    struct engine_question q = {.verb = ENGINE_KEEP, .keep_us = {0, 0, 1000000000}};
    struct err e;
    uint64_t id;
    for (int i = 1; i < 8; i++) {
        say(&r, &r.talks[i], 200, 4, false);
        settle(&r);
    }
    say(&r, kept, 200, 4, false);
    settle(&r);
    ck_assert_uint_eq(truth(&r, kept).in[2], kept->leaf.n_blocks);
    q.leaf = kept->leaf;
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    settle(&r);
    for (int round = 0; round < 2; round++) {
        for (int i = 1; i < 8; i++) {
            r.talks[i].n = 0;
            say(&r, &r.talks[i], 200, 4, false);
            settle(&r);
        }
        ck_assert_uint_eq(truth(&r, kept).in[2], round == 0 ? kept->leaf.n_blocks : 0);
        ck_assert_uint_eq(truth(&r, kept).in[1], 0); /* in DRAM it was not asked for */
        fake_now_ns += 2000000000000ull;
    }
    rig_close(&r);
}
END_TEST

/* -- parked is durable: what a power cut leaves */

static struct sys_table real;
static int unsynced[16], n_unsynced, sync_error;

static ssize_t noted_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    int i = 0;
    while (i < n_unsynced && unsynced[i] != fd)
        i++;
    if (i == n_unsynced)
        unsynced[n_unsynced++] = fd;
    return real.pwrite(fd, buf, n, off);
}

static int noted_fsync(int fd)
{
    for (int i = 0; !sync_error && i < n_unsynced; i++)
        if (unsynced[i] == fd)
            unsynced[i--] = unsynced[--n_unsynced];
    errno = sync_error;
    return sync_error ? -1 : real.fsync(fd);
}

START_TEST(test_parking_is_answered_when_all_is_synced_or_said_to_be_late)
{
    struct rig r;
    rig_open(&r, 40, 64, 500);
    real = sys;
    sys.pwrite = noted_pwrite;
    sys.fsync = noted_fsync;
    for (int i = 0; i < 4; i++) {
        say(&r, &r.talks[i], 200, 8, false);
        if (i % 2)
            settle(&r); /* it is written already, and was not synced */
        struct engine_whereabouts w = ask(&r, &r.talks[i].leaf, ENGINE_PARK);
        ck_assert_int_eq(w.answer, ENGINE_ANSWERED);
        ck_assert_uint_eq(w.in[2], r.talks[i].leaf.n_blocks);
        ck_assert_int_eq(n_unsynced, 0);
    }
    say(&r, &r.talks[4], 200, 8, false);
    sync_error = EIO; /* never durable: that is not what it says */
    struct engine_question q = {.verb = ENGINE_PARK, .leaf = r.talks[4].leaf};
    struct engine_event ev = {0};
    struct err e;
    uint64_t id;
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    for (int i = 0; i < 1000; i++)
        loop_turn(&r.h.loop);
    ck_assert(!engine_poll(r.h.front, &ev));
    fake_now_ns += (ENGINE_PARK_S + 1) * 1000000000ull;
    for (int i = 0; i < 10; i++)
        loop_turn(&r.h.loop);
    ck_assert(engine_poll(r.h.front, &ev) && ev.type == ENGINE_SAYS);
    ck_assert_int_eq(ev.says.answer, ENGINE_LATE);
    sys.pwrite = real.pwrite;
    sys.fsync = real.fsync;
    rig_close(&r);
}
END_TEST

/* A prompt of 30 blocks that sleep on the drive, each read in read_ns and computed in 8 ms, comes while n others are
 * answered: how many tokens are loaded. */
static uint64_t load_beside(struct rig *r, const struct talk *t, double read_ns, uint32_t n)
{
    struct engine_request q = {.max_tokens = 300, .n = 1, .sampling = hand_greedy()};
    struct talk again = *t;
    struct err e = {0};
    uint64_t id, loaded;
    hand_open(&r->h, &r->m);
    for (uint32_t i = 0; i < n; i++) {
        int32_t other = (int32_t)i;
        q.prompt = &other;
        q.n_prompt = 1;
        ck_assert_int_eq(engine_submit(r->h.front, &q, &id, &e), 0);
        for (int turn = 0; turn < 3; turn++)
            loop_turn(&r->h.loop);
    }
    ck_assert_uint_eq(r->h.loop.sched.n_running, n);
    kv_of(r)->tiers->read_ns = read_ns;
    again.n = 482;
    q.prompt = again.ids;
    q.n_prompt = 482;
    q.max_tokens = 1;
    ck_assert_int_eq(engine_submit(r->h.front, &q, &id, &e), 0);
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r->h.loop);
    loaded = kv_of(r)->cached_tokens[TIER_NVME];
    hand_close(&r->h);
    return loaded;
}

START_TEST(test_a_chain_is_read_or_computed_as_it_costs_all_least)
{
    struct rig r;
    struct talk *t = asleep(&r, 200, 480, 8);
    hand_close(&r.h);
    r.m.config.load_always = 0;
    /* nobody is held up: from both ends at once, 20 read in 80 ms while 10 are computed */
    uint64_t alone = load_beside(&r, t, 4e6, 0);
    printf("alone: %llu of 480\n", (unsigned long long)alone);
    ck_assert_uint_ge(alone, 18 * BT);
    ck_assert_uint_le(alone, 22 * BT);
    ck_assert_uint_eq(load_beside(&r, t, 4e6, 3), 480); /* computing one would hold up three others for 8 ms each */
    ck_assert_uint_eq(load_beside(&r, t, 20e6, 8),
                      480); /* reading is slower than computing, and still holds up fewer */
    ck_assert_uint_le(load_beside(&r, t, 20e6, 0), 10 * BT);
    ck_assert_uint_eq(load_beside(&r, t, 500e6, 0), 0); /* not one is worth its wait */
    hand_open(&r.h, &r.m);                              /* for rig_close */
    rig_close(&r);
}
END_TEST

/* Whose block is it, by its ids? */
static bool is_of(const struct talk *t, const struct kv_entry *e)
{
    for (uint32_t i = 0; i < BT; i++)
        if (e->depth >= t->leaf.n_blocks || e->ids[i][0] != t->ids[e->depth * BT + i])
            return false;
    return true;
}

START_TEST(test_what_is_parked_is_written_before_what_is_not)
{
    struct rig r;
    struct err e = {0};
    uint64_t id, last = 0, first = UINT64_MAX;
    rig_open(&r, 40, 64, 500);
    struct tiers *tiers = kv_of(&r)->tiers;
    tiers->writes_stop_until_ns = fake_now_ns + 1000000000000ull; /* all is queued meanwhile */
    say(&r, &r.talks[0], 200, 8, false);
    say(&r, &r.talks[1], 200, 8, false);
    struct engine_question q = {.verb = ENGINE_PARK, .leaf = r.talks[1].leaf};
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    for (int i = 0; i < 50; i++)
        loop_turn(&r.h.loop);
    ck_assert_uint_eq(truth(&r, &r.talks[0]).in[2] + truth(&r, &r.talks[1]).in[2], 0);
    tiers->writes_stop_until_ns = 0;
    for (int i = 0; i < 200; i++)
        loop_turn(&r.h.loop);
    ck_assert_uint_eq(truth(&r, &r.talks[0]).in[2], r.talks[0].leaf.n_blocks);
    ck_assert_uint_eq(truth(&r, &r.talks[1]).in[2], r.talks[1].leaf.n_blocks);
    for (int32_t slot = 0; slot < tier_head(tiers->nvme)->n_slots; slot++) {
        const struct kv_entry *at = tier_ops(tiers->nvme)->entry(tiers->nvme, slot);
        if (at && is_of(&r.talks[1], at))
            last = at->generation > last ? at->generation : last; /* generations are in the order of writing */
        else if (at && is_of(&r.talks[0], at))
            first = at->generation < first ? at->generation : first;
    }
    ck_assert(last > 0 && first < UINT64_MAX);
    ck_assert_uint_lt(last, first);
    rig_close(&r);
}
END_TEST

/* Reads that others wait for come first: behind them less is worth reading. */
START_TEST(test_a_second_chain_is_read_less_while_a_first_is_being_read)
{
    struct rig r;
    struct err e = {0};
    uint64_t id;
    rig_open(&r, 200, 64, 500);
    for (int i = 0; i < 2; i++) {
        say(&r, &r.talks[i], 480, 8, false);
        ck_assert_uint_eq(ask(&r, &r.talks[i].leaf, ENGINE_PARK).in[2], 30);
    }
    hand_close(&r.h);
    r.m.config.load_always = 0;
    hand_open(&r.h, &r.m);
    kv_of(&r)->tiers->read_ns = 4e6;
    for (int i = 0; i < 2; i++) {
        struct engine_request q = {
            .prompt = r.talks[i].ids, .n_prompt = 482, .max_tokens = 1, .n = 1, .sampling = hand_greedy()};
        ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    }
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r.h.loop);
    uint64_t loaded = kv_of(&r)->cached_tokens[TIER_NVME];
    printf("both: %llu of 960\n", (unsigned long long)loaded);
    /* the first one whole, for the second waits; that one a third: 10 more reads take as long as computing 20 */
    ck_assert_uint_ge(loaded, (30 + 8) * BT);
    ck_assert_uint_le(loaded, (30 + 12) * BT);
    rig_close(&r);
}
END_TEST

/* The same of a chain that lies in DRAM: tokens that are copied up, each block in copy_ns and computed in 8 ms. */
static uint64_t copy_beside(double copy_ns, uint32_t n)
{
    struct rig r;
    struct err e = {0};
    uint64_t id, copied;
    struct engine_request q = {.max_tokens = 300, .n = 1, .sampling = hand_greedy()};
    rig_open(&r, 200, 64, 0);
    kv_of(&r)->load_always = false;
    struct talk *t = &r.talks[0];
    say(&r, t, 480, 8, false);
    settle(&r);
    kvcache_make_free(kv_of(&r), kvcache_available(kv_of(&r)));
    ck_assert_uint_eq(truth(&r, t).in[0], 0);
    ck_assert_uint_eq(truth(&r, t).in[1], 30);
    for (uint32_t i = 0; i < n; i++) {
        int32_t other = (int32_t)i;
        q.prompt = &other;
        q.n_prompt = 1;
        ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
        for (int turn = 0; turn < 3; turn++)
            loop_turn(&r.h.loop);
    }
    ck_assert_uint_eq(r.h.loop.sched.n_running, n);
    kv_of(&r)->tiers->copy_ns = copy_ns;
    q.prompt = t->ids;
    q.n_prompt = 482;
    q.max_tokens = 1;
    ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    for (int turn = 0; turn < 200; turn++)
        loop_turn(&r.h.loop);
    copied = kv_of(&r)->cached_tokens[TIER_DRAM];
    rig_close(&r);
    return copied;
}

START_TEST(test_a_chain_in_dram_is_copied_or_computed_as_it_costs_all_least)
{
    ck_assert_uint_eq(copy_beside(1e6, 0), 480);
    ck_assert_uint_eq(copy_beside(20e6, 0), 0);
    ck_assert_uint_eq(copy_beside(20e6, 5), 480); /* computing would hold up five */
    ck_assert_uint_eq(copy_beside(1e9, 5), 0);
}
END_TEST

UNIT_MAIN("session", test_a_chain_is_read_or_computed_as_it_costs_all_least,
          test_what_is_said_of_random_conversations_is_what_their_ids_say,
          test_an_engine_that_is_ready_says_at_once_what_its_tiers_hold,
          test_what_was_parked_is_found_by_its_leaf_after_a_restart, test_what_is_brought_up_makes_way_for_who_waits,
          test_a_chain_is_found_from_a_rung_when_its_end_is_gone, test_parking_says_what_it_can_not_do,
          test_what_stays_in_memory_is_not_written_until_somebody_else_has_it,
          test_what_is_kept_outlives_what_came_after_it, test_what_is_kept_on_a_drive_outlives_what_came_after_it,
          test_parking_is_answered_when_all_is_synced_or_said_to_be_late,
          test_what_is_parked_is_written_before_what_is_not,
          test_a_second_chain_is_read_less_while_a_first_is_being_read,
          test_a_chain_in_dram_is_copied_or_computed_as_it_costs_all_least)
