/* test_tiers_late - loads that come late, fail, are shared, or are begun while their request waits: by a drive that a
 * test holds. */
#include "tests/support/unit.h"

#include "engine/kvcache_int.h"
#include "tests/support/slow_tier.h"
#include "tests/support/tier_rig.h"

#include <errno.h>
#include <string.h>

static struct rig r;
static struct slow_tier *slow;

/* Prompts 1 to 3 sleep on a drive alone; nothing is in the pool or in DRAM. */
static void begin(uint32_t n_blocks)
{
    struct rig_opts o = {.dirs = rig_dir(), .dram_slots = 64, .nvme_slots = 300, .n_blocks = n_blocks};
    rig_open(&r, &o);
    for (int n = 1; n <= 3; n++)
        rig_ask(&r, n);
    rig_close(&r);
    rig_open(&r, &o);
    slow = slow_tier_open(rig_tiers(&r)->nvme);
    rig_tiers(&r)->nvme = (struct tier *)(void *)slow;
    slow->hold = true;
}

static void turn(int n)
{
    while (n-- > 0)
        loop_turn(&r.h.loop);
}

START_TEST(test_late_loads_hold_nobody_back_and_are_computed_after_their_deadline)
{
    begin(16);
    uint64_t id = rig_submit(&r, 1);
    turn(50);
    ck_assert_uint_eq(slow->n_held, 6);
    ck_assert_uint_eq(r.h.loop.sched.n_running, 1);
    ck_assert_uint_eq(rig_finish(&r, 50, rig_submit(&r, 50)), 0); /* another one runs from its beginning to its end */
    ck_assert_uint_eq(slow->n_held, 6);
    turn(20);
    ck_assert_uint_eq(rig_stats(&r).nvme[1].moves, 0); /* reads first: what it leaves to be written waits for them */
    ck_assert_uint_ge(rig_stats(&r).nvme[1].queued, 6);
    fake_now_ns += 10000000000u;
    ck_assert_uint_eq(rig_finish(&r, 1, id), 0);
    ck_assert_uint_eq(rig_stats(&r).late, 6);
    ck_assert_uint_eq(rig_stats(&r).nvme[0].queued, 6); /* the reads are not over: their slots are still theirs */
    for (int n = 60; n < 75; n++)                       /* DRAM is filled and given up around them */
        rig_finish(&r, n, rig_submit(&r, n));
    ck_assert_uint_gt(rig_stats(&r).lost_dram + rig_stats(&r).evicted_dram, 0);
    struct tiers *t = rig_tiers(&r);
    uint32_t filling = 0;
    for (uint32_t n = 0; n < t->n_items; n++) {
        const struct item *i = &t->items[n];
        if (!i->used || i->in_dram != COPY_FILLING)
            continue;
        filling++;
        ck_assert_uint_eq(i->nvme_pins, 1); /* the place that is being read is given to nobody, either */
        ck_assert_int_eq(evict_state(t->in_nvme, i->nvme), EVICT_HELD);
    }
    ck_assert_uint_eq(filling, 6);
    slow_tier_let_go(slow); /* the data comes, long after the blocks were computed */
    rig_settle(&r);
    ck_assert_uint_ge(rig_stats(&r).nvme[1].moves, 6);
    ck_assert_uint_eq(rig_stats(&r).nvme[0].queued, 0);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);               /* the pool has given it up meanwhile */
    ck_assert_uint_ge(r.h.loop.kv.cached_tokens[TIER_DRAM], 64); /* what came late serves now */
    ck_assert_uint_eq(rig_stats(&r).verify_failed[TIER_DRAM] + rig_stats(&r).verify_failed[TIER_NVME], 0);
    rig_close(&r);
}
END_TEST

/* Late loads of a request whose six blocks are being read, so many ms after it came, by a drive that was thought to
 * take 10 ms a read and takes now_ms. */
static uint64_t late_after(uint64_t ms, double now_ms)
{
    begin(16);
    struct tiers *t = rig_tiers(&r);
    uint64_t least = t->o.deadline_ns / 1000000;
    t->read_ns = 10e6;
    rig_submit(&r, 1);
    turn(20);
    ck_assert_uint_eq(slow->n_held, 6);
    t->read_ns = now_ms * 1e6; /* as reads that came since have shown */
    fake_now_ns += (least + ms) * 1000000;
    turn(1);
    uint64_t late = rig_stats(&r).late;
    slow_tier_let_go(slow);
    rig_settle(&r);
    rig_close(&r);
    return late;
}

START_TEST(test_a_drive_that_is_slower_than_was_thought_gets_the_time_that_it_takes_within_bounds)
{
    /* allowed: twice what it takes, for each read up to a load's own; the first has 2 to begin with */
    ck_assert_uint_eq(late_after(75, 10), 2); /* 40 ms, 60, 80 ... */
    ck_assert_uint_eq(late_after(75, 15), 1); /* 60 ms, 90 ... */
    ck_assert_uint_eq(late_after(75, 30), 0); /* 120 ms ... */
    ck_assert_uint_eq(late_after(155, 40), 0);
    ck_assert_uint_eq(late_after(165, 40), 1);
    ck_assert_uint_eq(late_after(165, 400), 1); /* four times as slow, not more */
    ck_assert_uint_eq(late_after(75, 1), 2);    /* one that is faster loses nothing */
}
END_TEST

/* Six reads take 60 ms and are seen at once. */
START_TEST(test_a_drives_pace_does_not_depend_on_how_many_reads_are_seen_at_a_time)
{
    begin(16);
    struct tiers *t = rig_tiers(&r);
    t->read_ns = 10e6;
    uint64_t id = rig_submit(&r, 1);
    turn(20);
    ck_assert_uint_eq(slow->n_held, 6);
    slow_tier_let_go(slow);
    fake_now_ns += 60000000;
    turn(1);
    ck_assert_uint_eq(rig_stats(&r).nvme[0].moves, 6);
    ck_assert_double_eq_tol(t->read_ns, 10e6, 1);
    ck_assert_uint_eq(rig_finish(&r, 1, id), RIG_CACHED);
    rig_close(&r);
}
END_TEST

START_TEST(test_late_reads_may_come_when_their_request_is_long_gone)
{
    begin(30);
    uint64_t id = rig_submit(&r, 1);
    turn(5);
    engine_cancel(r.h.front, id);
    turn(5);
    ck_assert_uint_eq(r.h.loop.sched.n_running, 0);
    for (int n = 60; n < 75; n++)
        rig_finish(&r, n, rig_submit(&r, n));
    slow_tier_let_go(slow);
    rig_settle(&r);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);
    rig_close(&r);
}
END_TEST

START_TEST(test_two_requests_share_one_load)
{
    begin(30);
    uint64_t a = rig_submit(&r, 1), b = rig_submit(&r, 1);
    turn(20);
    ck_assert_uint_eq(slow->n_held, 6);
    ck_assert_uint_eq(r.h.loop.sched.n_running, 2);
    slow_tier_let_go(slow);
    /* both are answered in turns of one loop: the events of b are read while waiting for a */
    uint64_t hits = 0;
    for (int i = 0; i < 400; i++)
        loop_turn(&r.h.loop);
    struct engine_event ev;
    uint32_t n_done = 0;
    while (engine_poll(r.h.front, &ev))
        if (ev.type == ENGINE_DONE) {
            ck_assert(ev.id == a || ev.id == b);
            hits += ev.cached_in[TIER_NVME];
            n_done++;
        }
    ck_assert_uint_eq(n_done, 2);
    ck_assert_uint_eq(hits, 2 * RIG_CACHED);
    ck_assert_uint_eq(rig_stats(&r).gpu[0].moves, 6); /* and the bytes came once */
    ck_assert_uint_eq(rig_stats(&r).nvme[0].moves, 6);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);
    rig_close(&r);
}
END_TEST

/* Both wait for one load that fails in some way; each computes what it needs into blocks of its own. */
static void fail_shared(int how)
{
    begin(30);
    uint64_t a = rig_submit(&r, 1);
    turn(3);
    uint64_t b = rig_submit(&r, 1);
    turn(20);
    ck_assert_uint_eq(r.h.loop.sched.n_running, 2);
    if (how == 0)
        fake_now_ns += 10000000000u;
    slow->fail = how == 1 ? -EIO : 0;
    if (how == 2) { /* the first one goes away: the second has the load alone */
        engine_cancel(r.h.front, a);
        turn(3);
    }
    if (how != 0)
        slow_tier_let_go(slow);
    ck_assert_uint_eq(rig_finish(&r, 1, b), how == 2 ? RIG_CACHED : 0);
    slow->fail = 0;
    slow_tier_let_go(slow);
    rig_settle(&r);
    ck_assert_uint_eq(rig_ask(&r, 1), RIG_CACHED);
    rig_close(&r);
}

START_TEST(test_a_shared_load_that_is_late_fails_or_is_left_by_one_harms_nobody)
{
    for (int how = 0; how < 3; how++)
        fail_shared(how);
}
END_TEST

START_TEST(test_a_queued_request_has_its_blocks_fetched_while_it_waits)
{
    begin(8); /* one request at a time fits */
    slow->hold = false;
    uint64_t a = rig_submit(&r, 50), b = rig_submit(&r, 1);
    turn(12);
    ck_assert_uint_eq(r.h.loop.sched.n_running, 1);
    ck_assert_uint_eq(r.h.loop.sched.n_waiting, 1);
    ck_assert_uint_eq(rig_stats(&r).nvme[0].moves, 6);
    for (int i = 0; i < 20; i++) { /* and they stay in DRAM until it has had its turn */
        uint32_t held = 0;
        for (uint32_t s = 0; s < rig_tiers(&r)->dram.n_slots; s++)
            held += rig_tiers(&r)->dram_item[s] >= 0 && rig_tiers(&r)->items[rig_tiers(&r)->dram_item[s]].pins > 0;
        ck_assert_uint_ge(held, 6);
        if (r.h.loop.sched.n_waiting == 0)
            break;
        turn(1);
    }
    rig_finish(&r, 50, a);
    (void)b;
    rig_settle(&r);
    for (int i = 0; i < 200; i++)
        loop_turn(&r.h.loop);
    ck_assert_uint_eq(rig_stats(&r).hit_blocks[TIER_DRAM], 6); /* by the time it ran they were there */
    ck_assert_uint_eq(r.h.loop.kv.n_fetches, 0);
    ck_assert_uint_eq(rig_tiers(&r)->n_fetched, 0);
    rig_close(&r);
}
END_TEST

/* -- room in DRAM */

static uint64_t submit_long(int32_t first, uint32_t n, int32_t priority)
{
    int32_t ids[200];
    struct engine_request q = {.prompt = ids, .n_prompt = n, .max_tokens = 4, .n = 1, .in_memory = true};
    struct err e = {0};
    uint64_t id;
    for (uint32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i * 17 + i * i * 3) % FAKE_VOCAB;
    ids[n - 1] = first;
    q.sampling = hand_greedy();
    q.priority = priority;
    ck_assert_msg(engine_submit(r.h.front, &q, &id, &e) == 0, "%s", e.text);
    return id;
}

/* Prompt 1 in front of who waits. */
static uint64_t submit_first(void)
{
    int32_t ids[RIG_PROMPT];
    struct engine_request q = {.prompt = ids, .n_prompt = RIG_PROMPT, .max_tokens = RIG_OUT, .n = 1, .priority = 1};
    struct err e = {0};
    uint64_t id;
    rig_prompt(ids, 1);
    q.sampling = hand_greedy();
    ck_assert_msg(engine_submit(r.h.front, &q, &id, &e) == 0, "%s", e.text);
    return id;
}

/* DRAM holds one chain alone, which no drive has. Its second half is held for a request that waits, so its first half
 * can't be given up either (leaf first); and what is in front of that request in the queue has to be read. */
START_TEST(test_what_is_fetched_for_later_makes_way_for_a_load_that_somebody_waits_for)
{
    struct rig_opts o = {.dirs = rig_dir(), .dram_slots = 10, .nvme_slots = 300, .n_blocks = 12};
    rig_open(&r, &o);
    rig_ask(&r, 1);
    rig_close(&r);
    rig_open(&r, &o);
    struct tiers *t = rig_tiers(&r);
    struct kvcache *kv = &r.h.loop.kv;
    submit_long(1, 161, 0); /* ten blocks, in DRAM alone */
    turn(100);
    ck_assert_uint_eq(t->dram.n_slots - t->dram.n_free, 10);
    kvcache_make_free(kv, 7); /* its first five stay in the pool */
    uint64_t running = rig_submit(&r, 50);
    submit_long(2, 161, 0); /* it waits, and its last five are held before the other one stores anything */
    turn(3);
    ck_assert_uint_eq(t->n_fetched, 5);
    uint64_t id = submit_first();
    rig_finish(&r, 50, running);
    struct engine_event ev;
    bool done = false;
    for (int i = 0; i < 200 && !done; i++) {
        loop_turn(&r.h.loop);
        while (!done && engine_poll(r.h.front, &ev))
            done = ev.type == ENGINE_DONE && ev.id == id;
    }
    ck_assert_msg(done, "%u loads wait, %u places are held for later", t->n_loads, t->n_fetched);
    ck_assert_uint_eq(ev.cached_in[TIER_NVME], RIG_CACHED);
    ck_assert_uint_eq(rig_stats(&r).late, 0);
    turn(400);
    ck_assert_uint_eq(r.h.loop.n_live, 0);
    rig_close(&r);
}
END_TEST

/* Does block `depth` of a prompt lie in this slot of the drive? */
static bool lies_in(int32_t slot, int32_t number, uint32_t depth)
{
    const struct kv_entry *e = tier_ops(rig_tiers(&r)->nvme)->entry(rig_tiers(&r)->nvme, slot);
    int32_t ids[RIG_PROMPT];
    rig_prompt(ids, number);
    for (uint32_t i = 0; e && i < 16; i++)
        if (e->ids[i][0] != ids[16 * depth + i])
            return false;
    return e && e->depth == depth;
}

START_TEST(test_queued_requests_are_fetched_for_in_their_order_and_around_a_hole)
{
    const int32_t queue[3] = {3, 1, 2};
    begin(8);
    struct tiers *t = rig_tiers(&r);
    for (int32_t slot = 0; slot < tier_head(t->nvme)->n_slots; slot++)
        if (lies_in(slot, 1, 2))
            tiers_retire(t, &t->items[t->nvme_item[slot]]);
    uint64_t a = rig_submit(&r, 50);
    turn(1);
    for (int i = 0; i < 3; i++)
        rig_submit(&r, queue[i]);
    turn(10);
    ck_assert_uint_eq(r.h.loop.sched.n_waiting, 3);
    ck_assert_uint_eq(slow->n_held, 17);
    const struct tier_move *m = slow->held; /* the last one begun comes first */
    for (uint32_t n = 18; n-- > 0;) {
        if (n == 8)
            continue; /* the hole */
        ck_assert_msg(lies_in(m->slot, queue[n / 6], n % 6), "read %u", n);
        m = m->next;
    }
    slow_tier_let_go(slow);
    rig_finish(&r, 50, a);
    rig_settle(&r);
    rig_close(&r);
}
END_TEST

/* A step that is still queued may read what was in the block before. */
START_TEST(test_a_load_leaves_its_block_alone_until_the_step_that_may_read_it_is_over)
{
    begin(16);
    struct tiers *t = rig_tiers(&r);
    struct pool *pool = r.h.loop.kv.pool;
    uint64_t bytes = t->o.block_bytes;
    uint32_t n;
    int32_t block, ids[16];
    uint8_t *at, old[4096];
    slow->hold = false;
    struct item *i = &t->items[t->nvme_item[0]];
    const struct kv_entry *e = tiers_entry(t, i);
    struct hash_key root = {{0}};
    memcpy(root.b, e->root, sizeof e->root);
    for (int k = 0; k < 16; k++)
        ids[k] = e->ids[k][0];
    struct kv_ident who = {
        .key = e->key, .parent = e->parent, .root = &root, .check = e->check, .ids = ids, .depth = e->depth};
    ck_assert_int_eq(pool_take(pool, 1, &block), 0);
    at = (uint8_t *)r.m.pool + (uint64_t)block * bytes;
    memcpy(old, at, bytes);
    ck_assert_int_eq(tiers_load(t, &who, block, 7, 0), 0);
    for (int k = 0; k < 10; k++) {
        tiers_turn(t, 6);
        tiers_done(t, &n);
        ck_assert_uint_eq(n, 0);
    }
    ck_assert_int_eq(i->in_dram, COPY_READY); /* it has come so far */
    ck_assert_mem_eq(at, old, bytes);
    tiers_turn(t, 7);
    const struct tiers_outcome *o = tiers_done(t, &n);
    ck_assert_uint_eq(n, 1);
    ck_assert(o->load && o->ok && o->block == block && o->from == TIER_NVME);
    ck_assert_mem_ne(at, old, bytes);
    pool_drop(pool, block, 0);
    rig_close(&r);
}
END_TEST

/* -- joined to a computation: no tiers are needed for that */

static uint64_t rows;

static void count_rows(void *ctx, const struct loop *l, const struct plan *p, const float *logits)
{
    rows += p->n_rows;
}

static void begin_without_tiers(uint32_t max_rows)
{
    struct engine_config c = {.block_tokens = 16, .max_rows = max_rows};
    fake_clock_on();
    fake_machine_open(&r.m, &c, 40, NULL);
    hand_open(&r.h, &r.m);
    r.h.loop.trace = count_rows;
    rows = 0;
}

START_TEST(test_a_prompt_that_is_being_computed_is_computed_once)
{
    begin_without_tiers(16);
    uint64_t a = rig_submit(&r, 1);
    turn(2); /* in the middle of its prefill */
    uint64_t b = rig_submit(&r, 1), c = rig_submit(&r, 1);
    for (int i = 0; i < 200; i++)
        loop_turn(&r.h.loop);
    struct engine_event ev;
    uint32_t n_done = 0, cached = 0, n_tokens = 0;
    while (engine_poll(r.h.front, &ev)) {
        ck_assert(ev.id == a || ev.id == b || ev.id == c);
        n_tokens += ev.type == ENGINE_TOKENS ? ev.n : 0;
        n_done += ev.type == ENGINE_DONE;
        cached += ev.type == ENGINE_DONE ? ev.cached_in[TIER_HBM] : 0;
    }
    ck_assert_uint_eq(n_done, 3);
    ck_assert_uint_eq(n_tokens, 3 * RIG_OUT);
    ck_assert_uint_eq(cached, 2 * RIG_CACHED);
    /* one prompt, what is behind its full blocks for the two others, and the answers but their last tokens */
    ck_assert_uint_eq(rows, RIG_PROMPT + 2 * (RIG_PROMPT - RIG_CACHED) + 3 * (RIG_OUT - 1));
    rig_close(&r);
}
END_TEST

START_TEST(test_a_prompt_whose_first_computer_goes_away_is_computed_by_the_next)
{
    for (int turns = 1; turns < 9; turns++) {
        begin_without_tiers(16);
        uint64_t a = rig_submit(&r, 1);
        turn(turns);
        uint64_t b = rig_submit(&r, 1), c = rig_submit(&r, 1);
        turn(1);
        engine_cancel(r.h.front, a);
        turn(turns % 3);
        engine_cancel(r.h.front, turns % 2 ? b : c);
        rig_finish(&r, 1, turns % 2 ? c : b); /* checks its tokens */
        turn(5);
        ck_assert_uint_eq(pool_n_used(r.h.loop.kv.pool), 0);
        rig_close(&r);
    }
}
END_TEST

UNIT_MAIN("late loads", test_a_prompt_that_is_being_computed_is_computed_once,
          test_a_prompt_whose_first_computer_goes_away_is_computed_by_the_next,
          test_late_loads_hold_nobody_back_and_are_computed_after_their_deadline,
          test_a_drive_that_is_slower_than_was_thought_gets_the_time_that_it_takes_within_bounds,
          test_a_drives_pace_does_not_depend_on_how_many_reads_are_seen_at_a_time,
          test_late_reads_may_come_when_their_request_is_long_gone, test_two_requests_share_one_load,
          test_a_shared_load_that_is_late_fails_or_is_left_by_one_harms_nobody,
          test_a_queued_request_has_its_blocks_fetched_while_it_waits,
          test_what_is_fetched_for_later_makes_way_for_a_load_that_somebody_waits_for,
          test_queued_requests_are_fetched_for_in_their_order_and_around_a_hole,
          test_a_load_leaves_its_block_alone_until_the_step_that_may_read_it_is_over)
