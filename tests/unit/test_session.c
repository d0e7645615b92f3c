/* test_session - conversations asked about over the whole engine: what it says of a leaf is what looking every block up
 * with its ids says; what is parked is on the drive after a restart; what is brought up is in the pool; and the tokens
 * are what the ids determine all the while. */
#include "engine/base/rng.h"
#include "engine/base/sys.h"
#include "engine/kv/tiers_int.h"
#include "engine/kvcache_int.h"
#include "tests/support/talks.h"
#include "tests/support/unit.h"

#include <errno.h>
#include <string.h>

static void start_again(struct talks *r)
{
    hand_close(&r->h);
    hand_open(&r->h, &r->m);
}

static void expect_truth(struct talks *r, const struct talk *t)
{
    struct engine_whereabouts says = talks_ask(r, &t->leaf, ENGINE_LOOK), want = talks_truth(r, t);
    ck_assert_int_eq(says.answer, ENGINE_ANSWERED);
    for (int i = 0; i < 3; i++)
        ck_assert_uint_eq(says.in[i], want.in[i]);
    ck_assert_uint_eq(says.missing, want.missing);
}

START_TEST(test_what_is_said_of_random_conversations_is_what_their_ids_say)
{
    struct talks r;
    uint32_t parked = 0, brought = 0, walked = 0, gaps = 0;
    talks_open(&r, 48, 64, 500);
    r.rng = unit_seed("sessions");
    for (int round = 0; round < 1500; round++) {
        struct talk *t = &r.talks[rng_next(&r.rng) % N_TALKS];
        struct engine_whereabouts w;
        if (t->n == 0 || rng_next(&r.rng) % 2) {
            if (t->n > IDS_MAX - 150)
                t->n = 0; /* begins anew, under the same name */
            talks_say(&r, t, 1 + (uint32_t)(rng_next(&r.rng) % 80), 1 + (uint32_t)(rng_next(&r.rng) % 40), false);
            continue;
        }
        if (t->leaf.n_blocks == 0)
            continue;
        talks_settle(&r);
        switch (rng_next(&r.rng) % 4) {
        case 0:
            w = talks_ask(&r, &t->leaf, ENGINE_PARK);
            ck_assert(w.answer == ENGINE_ANSWERED && w.parked_on == TIER_NVME);
            ck_assert_uint_eq(w.in[2] + w.missing, t->leaf.n_blocks);
            expect_truth(&r, t);
            parked += w.in[2];
            break;
        case 1:
            w = talks_ask(&r, &t->leaf, ENGINE_BRING);
            ck_assert_int_eq(w.answer, ENGINE_ANSWERED);
            talks_settle(&r);
            ck_assert(w.missing || (w.predict_us > 0) == (w.in[0] < t->leaf.n_blocks));
            if (talks_truth(&r, t).missing == 0 && t->leaf.n_blocks <= 24) { /* none made room meanwhile */
                ck_assert_uint_eq(talks_truth(&r, t).in[0], t->leaf.n_blocks);
                brought += t->leaf.n_blocks - w.in[0];
            }
            break;
        default: { /* walked up from the leaf alone: the same, but where there are gaps */
            struct talk forgot = *t;
            forgot.leaf.request = 0;
            expect_truth(&r, t);
            if (talks_truth(&r, t).missing == 0) {
                expect_truth(&r, &forgot);
                walked++;
            } else {
                w = talks_ask(&r, &forgot.leaf, ENGINE_LOOK);
                ck_assert_uint_ge(w.missing, talks_truth(&r, t).missing);
                gaps++;
            }
        }
        }
        ck_assert_uint_eq(pool_n_used(talks_kv(&r)->pool), 0);
    }
    printf("blocks parked %u, brought up %u; chains walked %u, with gaps %u\n", parked, brought, walked, gaps);
    ck_assert(parked > 1000 && brought > 100 && walked > 100);
    talks_close(&r);
}
END_TEST

/* The first grants to sessions and the first look at /metrics come before the engine has done a turn. */
START_TEST(test_an_engine_that_is_ready_says_at_once_what_its_tiers_hold)
{
    struct talks r;
    struct engine_stats st;
    talks_open(&r, 16, 8, 32);
    engine_get_stats(r.h.front, &st);
    ck_assert_uint_eq(st.tiers.dram_blocks, 8);
    ck_assert_uint_ge(st.tiers.nvme_blocks, 16);
    ck_assert_uint_gt(st.tiers.block_bytes, 0);
    talks_close(&r);
}
END_TEST

START_TEST(test_what_was_parked_is_found_by_its_leaf_after_a_restart)
{
    struct talks r;
    struct talk *t = talks_asleep(&r, 40, 300, 20);
    start_again(&r);
    struct engine_whereabouts w = talks_ask(&r, &t->leaf, ENGINE_LOOK);
    ck_assert(w.in[0] == 0 && w.in[1] == 0 && w.in[2] == t->leaf.n_blocks && w.missing == 0);
    w = talks_ask(&r, &t->leaf, ENGINE_BRING);
    ck_assert_uint_gt(w.predict_us, 0);
    talks_settle(&r);
    ck_assert_uint_eq(talks_truth(&r, t).in[0], t->leaf.n_blocks);
    talks_say(&r, t, 10, 20, false); /* and goes on: the tokens are right */
    ck_assert_uint_eq(talks_kv(&r)->cached_tokens[TIER_HBM], 320 / BT * BT - BT);
    talks_close(&r);
}
END_TEST

START_TEST(test_what_is_brought_up_makes_way_for_who_waits)
{
    struct talks r;
    struct talk *t = talks_asleep(&r, 40, 300, 20);
    for (uint32_t turns = 0; turns < 12; turns++) { /* it comes after so many turns, and needs the whole pool */
        struct talk big = {.n = 0};
        start_again(&r);
        talks_ask(&r, &t->leaf, ENGINE_BRING);
        for (uint32_t i = 0; i < turns; i++)
            loop_turn(&r.h.loop);
        talks_say(&r, &big, 590, 40, false);
        ck_assert_uint_eq(r.h.loop.sched.n_preempted, 0);
        talks_settle(&r);
        ck_assert(talks_kv(&r)->guest == NULL);
        ck_assert_uint_eq(pool_n_used(talks_kv(&r)->pool), 0);
    }
    talks_close(&r);
}
END_TEST

START_TEST(test_a_chain_is_found_from_a_rung_when_its_end_is_gone)
{
    struct talks r;
    struct talk *t = talks_asleep(&r, 40, 480, 8);
    start_again(&r);
    ck_assert_uint_eq(t->leaf.n_blocks, 30);
    struct tiers *tiers = talks_kv(&r)->tiers;
    struct hash_key root = talks_root(&r);
    for (uint32_t rung = 0; rung < 3; rung++) { /* blocks 29, 28, 27: gone */
        struct kvcache_cursor at = {.root = &root, .n = 30, .next = 29 - rung};
        struct hash_key keys[30];
        at.keys = keys;
        memset(keys, 0, sizeof keys);
        keys[29 - rung] = t->leaf.rungs[rung];
        ck_assert(kvcache_next(talks_kv(&r), &at) && at.where == 1u << TIER_NVME);
        tiers_forget(tiers, &at.who);
    }
    struct engine_whereabouts w = talks_ask(&r, &t->leaf, ENGINE_LOOK);
    ck_assert_uint_eq(w.in[2], 26); /* block 26 is only known by block 27; the next rung is 25 */
    ck_assert_uint_eq(w.missing, 4);
    talks_close(&r);
}
END_TEST

START_TEST(test_parking_says_what_it_can_not_do)
{
    struct talks r;
    talks_open(&r, 40, 0, 0);
    struct talk *t = &r.talks[0];
    talks_say(&r, t, 100, 8, false);
    ck_assert_int_eq(talks_ask(&r, &t->leaf, ENGINE_PARK).answer, ENGINE_NO_TIER);
    talks_close(&r);
    talks_open(&r, 40, 64, 0); /* DRAM alone */
    t = &r.talks[0];
    talks_say(&r, t, 100, 8, false);
    struct engine_whereabouts w = talks_ask(&r, &t->leaf, ENGINE_PARK);
    ck_assert(w.answer == ENGINE_ANSWERED && w.parked_on == TIER_DRAM && w.in[1] == 6);
    talks_close(&r);
    talks_open(&r, 40, 64, 3);
    t = &r.talks[0];
    talks_say(&r, t, 100, 8, false);
    ck_assert_int_eq(talks_ask(&r, &t->leaf, ENGINE_PARK).answer, ENGINE_NO_ROOM);
    talks_close(&r);
}
END_TEST

START_TEST(test_what_stays_in_memory_is_not_written_until_somebody_else_has_it)
{
    struct talks r;
    talks_open(&r, 40, 64, 100);
    struct talk *t = &r.talks[0];
    talks_say(&r, t, 100, 8, true);
    talks_settle(&r);
    struct engine_whereabouts w = talks_truth(&r, t);
    ck_assert(w.in[1] == 6 && w.in[2] == 0);
    ck_assert_uint_gt(talks_ask(&r, &t->leaf, ENGINE_BRING).in[0], 0); /* nobody else */
    talks_settle(&r);
    ck_assert_uint_eq(talks_truth(&r, t).in[2], 0);
    talks_say(&r, t, 10, 1, false);
    talks_settle(&r);
    ck_assert_uint_ge(talks_truth(&r, t).in[2], 6);
    talks_close(&r);
}
END_TEST

static void seven_others(struct talks *r)
{
    for (int i = 1; i < 8; i++) {
        r->talks[i].n = 0;
        talks_say(r, &r->talks[i], 200, 4, false);
        talks_settle(r);
    }
}

/* First it is all there, though seven times as much came after it; then its time is over. */
static void expect_kept_for_its_time(int tier, uint32_t nvme_slots)
{
    struct talks r;
    talks_open(&r, 24, 32, nvme_slots);
    struct talk *kept = &r.talks[0];
    struct engine_question q = {.verb = ENGINE_KEEP};
    struct err e;
    uint64_t id;
    seven_others(&r); /* what computing costs is known by then */
    talks_say(&r, kept, 200, 4, false);
    talks_settle(&r);
    ck_assert_uint_eq(talks_truth(&r, kept).in[tier], kept->leaf.n_blocks);
    q.leaf = kept->leaf;
    q.keep_us[tier] = 1000000000;
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    talks_settle(&r);
    for (int round = 0; round < 2; round++) {
        seven_others(&r);
        ck_assert_uint_eq(talks_truth(&r, kept).in[tier], round == 0 ? kept->leaf.n_blocks : 0);
        ck_assert_uint_eq(talks_truth(&r, kept).in[3 - tier], 0); /* on the other tier it was not asked for */
        fake_now_ns += 2000000000000ull;
    }
    talks_close(&r);
}

START_TEST(test_what_is_kept_outlives_what_came_after_it)
{
    expect_kept_for_its_time(TIER_DRAM, 0);
}
END_TEST

START_TEST(test_what_is_kept_on_a_drive_outlives_what_came_after_it)
{
    expect_kept_for_its_time(TIER_NVME, 60);
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
    struct talks r;
    talks_open(&r, 40, 64, 500);
    real = sys;
    sys.pwrite = noted_pwrite;
    sys.fsync = noted_fsync;
    for (int i = 0; i < 4; i++) {
        talks_say(&r, &r.talks[i], 200, 8, false);
        if (i % 2)
            talks_settle(&r); /* it is written already, and was not synced */
        struct engine_whereabouts w = talks_ask(&r, &r.talks[i].leaf, ENGINE_PARK);
        ck_assert_int_eq(w.answer, ENGINE_ANSWERED);
        ck_assert_uint_eq(w.in[2], r.talks[i].leaf.n_blocks);
        ck_assert_int_eq(n_unsynced, 0);
    }
    talks_say(&r, &r.talks[4], 200, 8, false);
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
    talks_close(&r);
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
    struct talks r;
    struct err e = {0};
    uint64_t id, last = 0, first = UINT64_MAX;
    talks_open(&r, 40, 64, 500);
    struct tiers *tiers = talks_kv(&r)->tiers;
    tiers->writes_stop_until_ns = fake_now_ns + 1000000000000ull; /* all is queued meanwhile */
    talks_say(&r, &r.talks[0], 200, 8, false);
    talks_say(&r, &r.talks[1], 200, 8, false);
    struct engine_question q = {.verb = ENGINE_PARK, .leaf = r.talks[1].leaf};
    ck_assert_int_eq(engine_ask(r.h.front, &q, &id, &e), 0);
    for (int i = 0; i < 50; i++)
        loop_turn(&r.h.loop);
    ck_assert_uint_eq(talks_truth(&r, &r.talks[0]).in[2] + talks_truth(&r, &r.talks[1]).in[2], 0);
    tiers->writes_stop_until_ns = 0;
    for (int i = 0; i < 200; i++)
        loop_turn(&r.h.loop);
    ck_assert_uint_eq(talks_truth(&r, &r.talks[0]).in[2], r.talks[0].leaf.n_blocks);
    ck_assert_uint_eq(talks_truth(&r, &r.talks[1]).in[2], r.talks[1].leaf.n_blocks);
    for (int32_t slot = 0; slot < tier_head(tiers->nvme)->n_slots; slot++) {
        const struct kv_entry *at = tier_ops(tiers->nvme)->entry(tiers->nvme, slot);
        if (at && is_of(&r.talks[1], at))
            last = at->generation > last ? at->generation : last; /* generations are in the order of writing */
        else if (at && is_of(&r.talks[0], at))
            first = at->generation < first ? at->generation : first;
    }
    ck_assert(last > 0 && first < UINT64_MAX);
    ck_assert_uint_lt(last, first);
    talks_close(&r);
}
END_TEST

UNIT_MAIN("session", test_what_is_said_of_random_conversations_is_what_their_ids_say,
          test_an_engine_that_is_ready_says_at_once_what_its_tiers_hold,
          test_what_was_parked_is_found_by_its_leaf_after_a_restart, test_what_is_brought_up_makes_way_for_who_waits,
          test_a_chain_is_found_from_a_rung_when_its_end_is_gone, test_parking_says_what_it_can_not_do,
          test_what_stays_in_memory_is_not_written_until_somebody_else_has_it,
          test_what_is_kept_outlives_what_came_after_it, test_what_is_kept_on_a_drive_outlives_what_came_after_it,
          test_parking_is_answered_when_all_is_synced_or_said_to_be_late,
          test_what_is_parked_is_written_before_what_is_not)
