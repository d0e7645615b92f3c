/* test_front_ask - questions about sessions: what an engine can't make the front believe, and that each is answered,
 * also when there is no engine any more. */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <errno.h>
#include <string.h>

static struct machine m;
static struct hand_engine h;
static uint64_t request;

/* An engine like a process: nonsense ends it, and no new one is to be had. One request in a session runs. */
static void begin(void)
{
    static const int32_t prompt[] = {1, 2, 3};
    struct engine_config c = {.block_tokens = 16};
    struct err e;
    fake_machine_open(&m, &c, 40, NULL);
    hand_open(&h, &m);
    h.front->mode = ENGINE_MODE_EXEC;
    h.front->spawn.mode = ENGINE_MODE_THREAD; /* nothing to reap or kill */
    struct engine_request r = {
        .prompt = prompt, .n_prompt = 3, .max_tokens = 50, .n = 1, .sampling = hand_greedy(), .in_session = true};
    ck_assert_int_eq(engine_submit(h.front, &r, &request, &e), 0);
}

static void end(void)
{
    h.loop.quit = true;
    hand_close(&h);
    fake_machine_close(&m);
}

static uint64_t ask(uint32_t n_blocks)
{
    struct engine_question q = {.verb = ENGINE_LOOK, .leaf = {.n_tokens = 16 * n_blocks, .n_blocks = n_blocks}};
    struct err e;
    uint64_t id;
    ck_assert_int_eq(engine_ask(h.front, &q, &id, &e), 0);
    return id;
}

static void say(const struct msg_says *s)
{
    ck_assert_int_eq(ring_push(&h.engine_side.out, s, sizeof *s), 0);
}

static struct msg_says says(uint64_t id)
{
    return (struct msg_says){{sizeof(struct msg_says), MSG_VERSION, MSG_SAYS, id, 1, 0}, {.answer = ENGINE_ANSWERED}};
}

/* Was it handed on? Then *ev is it; else the engine is given up. */
static bool believed(struct engine_event *ev)
{
    log_set_level(LOG_ERROR - 1);
    atomic_store(&h.engine_side.head->status.state, ENGINE_DEAD);
    ck_assert_int_eq(engine_poll(h.front, ev), 1);
    return !h.front->dead;
}

START_TEST(test_an_answer_that_can_not_be_is_not_believed)
{
    struct engine_event ev;
    for (int lie = 0; lie < 9; lie++) {
        begin();
        struct msg_says s = says(ask(10));
        s.says.in[0] = s.says.missing = 10; /* no lie: it may be so */
        s.head.id += lie == 1;
        s.says.answer = lie == 2 ? 0 : lie == 3 ? ENGINE_GONE : lie == 4 ? 99 : ENGINE_ANSWERED;
        s.says.in[2] = lie == 5 ? 11 : 0;
        s.says.missing += lie == 6;
        s.says.parked_on = lie == 7 ? 3 : 0;
        s.head.size -= lie == 8;
        if (lie == 8)
            ck_assert_int_eq(ring_push(&h.engine_side.out, &s, sizeof s - 1), 0);
        else
            say(&s);
        ck_assert_msg(believed(&ev) == (lie == 0), "lie %d", lie);
        ck_assert(lie != 0 || (ev.type == ENGINE_SAYS && ev.says.in[0] == 10));
        end();
    }
}
END_TEST

START_TEST(test_a_second_answer_is_not_believed)
{
    struct engine_event ev;
    begin();
    struct msg_says s = says(ask(10));
    say(&s);
    say(&s);
    ck_assert(believed(&ev) && ev.id == s.head.id);
    ck_assert(!believed(&ev));
    end();
}
END_TEST

START_TEST(test_a_leaf_that_can_not_be_is_not_believed)
{
    struct engine_event ev;
    for (int lie = 0; lie < 5; lie++) {
        begin();
        struct msg_leaf l = {{sizeof l, MSG_VERSION, MSG_LEAF, request, 1, 0},
                             {.request = request, .n_tokens = 53, .n_blocks = 3}};
        l.head.id += lie == 1;
        l.leaf.request += lie == 2;
        l.leaf.n_tokens += lie == 3;
        l.leaf.n_blocks += lie == 4;
        ck_assert_int_eq(ring_push(&h.engine_side.out, &l, sizeof l), 0);
        ck_assert_msg(believed(&ev) == (lie == 0), "lie %d", lie);
        ck_assert(lie != 0 || (ev.type == ENGINE_LEAF && ev.leaf.n_blocks == 3));
        end();
    }
}
END_TEST

START_TEST(test_no_more_questions_than_there_is_room_for)
{
    struct engine_question q = {.verb = ENGINE_LOOK, .leaf = {.n_tokens = 16, .n_blocks = 1}};
    struct engine_event ev;
    struct err e;
    uint64_t id, first = 0;
    uint32_t answered = 0;
    begin();
    for (int i = 0; i < ENGINE_QUESTIONS; i++)
        id = ask(1), first = first ? first : id;
    ck_assert_int_eq(engine_ask(h.front, &q, &id, &e), -EAGAIN);
    ck_assert_ptr_nonnull(strstr(e.text, "64 questions"));
    for (int i = 0; i < 200; i++) {
        loop_turn(&h.loop);
        while (engine_poll(h.front, &ev))
            answered += ev.type == ENGINE_SAYS && ev.says.answer == ENGINE_ANSWERED && ev.says.missing == 1;
    }
    ck_assert_uint_eq(answered, ENGINE_QUESTIONS);
    ask(1);
    end();
}
END_TEST

START_TEST(test_questions_of_a_dead_engine_are_answered_by_the_front)
{
    struct engine_event ev;
    struct err e;
    begin();
    uint64_t a = ask(1), b = ask(2), id, sum = 0;
    struct msg_says s = says(99);
    say(&s);
    ck_assert(!believed(&ev)); /* the request has FAILED */
    for (int i = 0; i < 2; i++) {
        ck_assert(engine_poll(h.front, &ev) == 1 && ev.type == ENGINE_SAYS && ev.says.answer == ENGINE_GONE);
        sum += ev.id;
    }
    ck_assert(sum == a + b && engine_poll(h.front, &ev) == 0);
    ck_assert_int_eq(engine_ask(h.front, &(struct engine_question){.verb = ENGINE_LOOK}, &id, &e), -EPIPE);
    end();
}
END_TEST

UNIT_MAIN("front_ask", test_an_answer_that_can_not_be_is_not_believed, test_a_second_answer_is_not_believed,
          test_a_leaf_that_can_not_be_is_not_believed, test_no_more_questions_than_there_is_room_for,
          test_questions_of_a_dead_engine_are_answered_by_the_front)
