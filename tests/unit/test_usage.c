/* test_usage - what a request is told about its prompt: every token of it was found somewhere, or missed for a reason,
 * which is made on purpose here; and the first token that is new is named exactly. */
#include "tests/support/unit.h"

#include "tests/support/slow_tier.h"
#include "tests/support/tier_rig.h"

#include <string.h>

static struct rig r;

/* Ask with these ids; what its DONE says. */
static struct engine_event ask(const int32_t *ids, uint32_t n, bool no_cache)
{
    struct engine_request q = {.prompt = ids, .n_prompt = n, .max_tokens = RIG_OUT, .n = 1, .no_cache = no_cache};
    struct engine_event ev = {0};
    struct err e = {0};
    uint64_t id, sum = 0;
    q.sampling = hand_greedy();
    memset(q.salt, r.salt, sizeof q.salt);
    ck_assert_msg(engine_submit(r.h.front, &q, &id, &e) == 0, "%s", e.text);
    while (ev.type != ENGINE_DONE) {
        loop_turn(&r.h.loop);
        while (ev.type != ENGINE_DONE && engine_poll(r.h.front, &ev))
            ck_assert_int_ne(ev.type, ENGINE_FAILED);
    }
    rig_settle(&r);
    for (int why = 0; why < ENGINE_MISSES; why++)
        sum += ev.missed[why];
    ck_assert_uint_eq(ev.cached + sum, n); /* each token once */
    return ev;
}

static struct engine_event ask_number(int32_t number)
{
    int32_t ids[RIG_PROMPT];
    rig_prompt(ids, number);
    return ask(ids, RIG_PROMPT, false);
}

/* Of RIG_CACHED tokens so many were found, so many missed for this reason, and the rest are in a block that is not
 * whole. */
static void expect(const struct engine_event *ev, uint32_t cached, enum engine_miss why, uint32_t missed)
{
    ck_assert_uint_eq(ev->cached, cached);
    ck_assert_msg(ev->missed[why] == missed, "missed %u for reason %d, not %u", ev->missed[why], (int)why, missed);
    ck_assert_uint_eq(ev->missed[ENGINE_MISS_PARTIAL], RIG_PROMPT - RIG_CACHED);
    ck_assert_uint_eq(cached + missed, RIG_CACHED);
}

START_TEST(test_usage_names_the_first_token_that_is_new)
{
    int32_t first[RIG_PROMPT], ids[RIG_PROMPT];
    rig_open(&r, &(struct rig_opts){.n_blocks = 600});
    rig_prompt(first, 1);
    struct engine_event ev = ask(first, RIG_PROMPT, false);
    expect(&ev, 0, ENGINE_MISS_NEW, RIG_CACHED);
    ck_assert_uint_eq(ev.divergent, 0);
    ev = ask(first, RIG_PROMPT, false);
    expect(&ev, RIG_CACHED, ENGINE_MISS_NEW, 0);
    ck_assert_uint_eq(ev.divergent, UINT32_MAX);
    for (uint32_t at = 0; at < RIG_PROMPT; at += 3) { /* also in the last block, which the first answer made whole */
        memcpy(ids, first, sizeof ids);
        ids[at] = (first[at] + 1) % FAKE_VOCAB;
        ev = ask(ids, RIG_PROMPT, false);
        ck_assert_msg(ev.divergent == at, "changed at %u, told %u", at, ev.divergent);
        uint32_t cached = at < RIG_CACHED ? at / 16 * 16 : RIG_CACHED;
        expect(&ev, cached, ENGINE_MISS_NEW, RIG_CACHED - cached);
    }
    rig_close(&r);
}
END_TEST

START_TEST(test_usage_tells_nothing_of_other_tenants)
{
    rig_open(&r, &(struct rig_opts){.n_blocks = 100});
    ask_number(1);
    r.salt = 7;
    struct engine_event ev = ask_number(1);
    expect(&ev, 0, ENGINE_MISS_NEW, RIG_CACHED);
    ck_assert_uint_eq(ev.divergent, 0);
    rig_close(&r);
}
END_TEST

START_TEST(test_usage_tells_that_the_cache_was_not_asked)
{
    int32_t ids[RIG_PROMPT];
    rig_open(&r, &(struct rig_opts){.n_blocks = 100});
    ask_number(1);
    rig_prompt(ids, 1);
    struct engine_event ev = ask(ids, RIG_PROMPT, true);
    ck_assert_uint_eq(ev.missed[ENGINE_MISS_OFF], RIG_PROMPT);
    ck_assert_uint_eq(ev.divergent, UINT32_MAX);
    rig_close(&r);
}
END_TEST

START_TEST(test_usage_tells_what_had_to_make_room)
{
    rig_open(&r, &(struct rig_opts){.dram_slots = 1}); /* and the pool holds one prompt */
    ask_number(1);
    ask_number(2);
    struct engine_event ev = ask_number(1);
    ck_assert_uint_le(ev.cached, 16);
    expect(&ev, ev.cached, ENGINE_MISS_EVICTED, RIG_CACHED - ev.cached);
    ck_assert_uint_eq(ev.divergent, UINT32_MAX); /* all of it was known */
    rig_close(&r);
}
END_TEST

START_TEST(test_usage_tells_what_was_found_wrong)
{
    rig_open(&r, &(struct rig_opts){.dram_slots = 64});
    ask_number(1);
    ask_number(2);
    struct tiers *t = rig_tiers(&r);
    for (uint32_t s = 0; s < t->dram.n_slots; s++)
        if (t->dram_item[s] >= 0 && t->dram_entries[s].depth == 2)
            *(uint8_t *)tier_dram_at(&t->dram, (int32_t)s) ^= 1;
    struct engine_event ev = ask_number(1);
    expect(&ev, RIG_CACHED - 16, ENGINE_MISS_BAD, 16);
    ck_assert_uint_eq(ev.divergent, UINT32_MAX);
    ask_number(3);
    ev = ask_number(1); /* it was computed again */
    expect(&ev, RIG_CACHED, ENGINE_MISS_BAD, 0);
    rig_close(&r);
}
END_TEST

START_TEST(test_usage_tells_what_lies_there_in_another_format)
{
    struct rig_opts o = {.dirs = rig_dir(), .nvme_slots = 256}, other = o;
    other.format = KV_FORMAT_KV16;
    rig_open(&r, &o);
    ask_number(1);
    rig_close(&r);
    rig_open(&r, &other);
    struct engine_event ev = ask_number(1);
    expect(&ev, 0, ENGINE_MISS_FORMAT, RIG_CACHED);
    ev = ask_number(2);
    expect(&ev, 0, ENGINE_MISS_NEW, RIG_CACHED);
    rig_close(&r);
    rig_open(&r, &other);
    r.salt = 7; /* another tenant had nothing there */
    ev = ask_number(1);
    expect(&ev, 0, ENGINE_MISS_NEW, RIG_CACHED);
    rig_close(&r);
    rig_open(&r, &o);
    ev = ask_number(1);
    expect(&ev, RIG_CACHED, ENGINE_MISS_FORMAT, 0);
    rig_close(&r);
}
END_TEST

/* Prompt 1 sleeps on a drive alone, whose reads are held. */
static struct slow_tier *hold_reads(void)
{
    struct rig_opts o = {.dirs = rig_dir(), .dram_slots = 64, .nvme_slots = 300, .n_blocks = 16};
    rig_open(&r, &o);
    ask_number(1);
    rig_close(&r);
    rig_open(&r, &o);
    struct slow_tier *slow = slow_tier_open(rig_tiers(&r)->nvme);
    rig_tiers(&r)->nvme = (struct tier *)(void *)slow;
    slow->hold = true;
    return slow;
}

START_TEST(test_usage_tells_what_did_not_come_in_time)
{
    int32_t ids[RIG_PROMPT];
    struct engine_request q = {.prompt = ids, .n_prompt = RIG_PROMPT, .max_tokens = 1, .n = 1};
    struct engine_event ev = {0};
    struct err e;
    uint64_t id;
    struct slow_tier *slow = hold_reads();
    rig_prompt(ids, 1);
    q.sampling = hand_greedy();
    ck_assert_int_eq(engine_submit(r.h.front, &q, &id, &e), 0);
    for (int i = 0; i < 20; i++)
        loop_turn(&r.h.loop);
    fake_now_ns += 10000000000u;
    while (ev.type != ENGINE_DONE) {
        loop_turn(&r.h.loop);
        while (ev.type != ENGINE_DONE && engine_poll(r.h.front, &ev))
            ;
    }
    expect(&ev, 0, ENGINE_MISS_NOT_LOADED, RIG_CACHED);
    slow_tier_let_go(slow);
    rig_close(&r);
}
END_TEST

UNIT_MAIN("usage", test_usage_names_the_first_token_that_is_new, test_usage_tells_nothing_of_other_tenants,
          test_usage_tells_that_the_cache_was_not_asked, test_usage_tells_what_had_to_make_room,
          test_usage_tells_what_was_found_wrong, test_usage_tells_what_lies_there_in_another_format,
          test_usage_tells_what_did_not_come_in_time)
