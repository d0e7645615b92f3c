/* test_calls - the whole server in one process while the Nth OS call fails, for every N of a start and of a request:
 * with EIO, as if the machine were broken, and with EINTR, as if a signal had come. A start fails with one sentence or
 * serves; a request gets a well-formed answer or a closed connection; the next is served as ever, unless the loop can't
 * wait for its clients any more and the server ends, saying so.
 */
#include "tests/support/failing_calls.h"
#include "tests/support/unit.h"
#include "tests/support/whole_server.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static struct whole_requests requests;
static struct answer calm_small, calm, now;

static int open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

static void begin(void)
{
    struct err e = {0};
    whole_configure();
    requests = whole_make_requests();
    fail_calls_begin();
    ck_assert_msg(whole_start(&e) == 0 && whole_wait_ready(), "%s", e.text);
    whole_ask(requests.small, &calm_small);
    whole_ask(requests.chat, &calm);
    ck_assert(calm_small.kind == ANSWER_WHOLE && calm.kind == ANSWER_WHOLE);
}

static bool a_sentence(const struct err *e)
{
    return e->text[0] && !strchr(e->text, '\n');
}

/* After call n failed the server serves, or has ended because it could not wait: then start it anew. */
static void expect_life(const char *what, int error, unsigned long n)
{
    struct err e = {0};
    whole_ask(requests.small, &now);
    if (now.kind == ANSWER_WHOLE && answer_same(&now, &calm_small))
        return;
    ck_assert_msg(whole_ended() && error != EINTR && strcmp(what, "epoll_wait") == 0, "after %s (call %lu): %.500s",
                  what, n, whole_bytes());
    ck_assert(whole_stop(&e) < 0 && a_sentence(&e));
    ck_assert_msg(whole_start(&e) == 0 && whole_wait_ready(), "%s", e.text);
}

static void fail_each_of_a_request(int error)
{
    struct err e;
    const char *what;
    unsigned long n = 1, cut = 0;
    begin();
    for (bool hit = true; hit; n++) {
        fail_call_nth(n, error);
        whole_ask(requests.chat, &now);
        hit = fail_call_stop(&what) >= n;
        ck_assert_msg(now.kind != ANSWER_BAD, "%s (call %lu): %s", what, n, now.bad);
        ck_assert_msg(now.kind != ANSWER_WHOLE || answer_same(&now, &calm),
                      "%s (call %lu): an answer of 200 is not the same as ever", what, n);
        cut += now.kind != ANSWER_WHOLE;
        if (!whole_ended())
            whole_wait_idle();
        expect_life(what, error, n);
    }
    printf("request, %s: %lu calls, %lu of them ended it\n", strerror(error), n - 2, cut);
    ck_assert_msg(whole_stop(&e) == 0, "%s", e.text);
    fail_calls_end();
}

static void fail_each_of_a_start(int error)
{
    struct err e;
    const char *what;
    unsigned long n = 1, refused = 0;
    begin();
    ck_assert_int_eq(whole_stop(&e), 0);
    int before = open_descriptors();
    for (bool hit = true; hit; n++) {
        e = (struct err){0};
        fail_call_nth(n, error);
        int ret = whole_start(&e);
        bool started = ret == 0, ready = started && whole_wait_ready();
        hit = fail_call_stop(&what) >= n;
        if (ready)
            expect_life(what, error, n);
        if (started)
            ret = whole_stop(&e);
        refused += ret != 0;
        ck_assert_msg(ready || ret < 0, "start, %s (call %lu): it neither serves nor says why not", what, n);
        ck_assert_msg(!ret || a_sentence(&e), "start, %s (call %lu): no sentence", what, n);
        ck_assert_msg(open_descriptors() == before, "start, %s (call %lu): descriptors are left", what, n);
    }
    printf("start, %s: %lu calls, %lu of them refused it\n", strerror(error), n - 2, refused);
    fail_calls_end();
}

START_TEST(test_every_call_of_a_request_may_fail_and_only_that_request_suffers)
{
    fail_each_of_a_request(EIO);
}
END_TEST

START_TEST(test_every_call_of_a_request_may_be_interrupted)
{
    fail_each_of_a_request(EINTR);
}
END_TEST

START_TEST(test_every_call_of_a_start_may_fail_with_a_sentence)
{
    fail_each_of_a_start(EIO);
}
END_TEST

START_TEST(test_every_call_of_a_start_may_be_interrupted)
{
    fail_each_of_a_start(EINTR);
}
END_TEST

UNIT_MAIN("calls", test_every_call_of_a_request_may_fail_and_only_that_request_suffers,
          test_every_call_of_a_request_may_be_interrupted, test_every_call_of_a_start_may_fail_with_a_sentence,
          test_every_call_of_a_start_may_be_interrupted)
