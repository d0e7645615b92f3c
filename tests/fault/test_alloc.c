/* test_alloc - the whole server in one process while the Nth allocation fails, for every N of a start and of three
 * requests: only the request at hand suffers, with a well-formed answer or a closed connection; an answer that looks
 * whole is the same as ever; the next request is served as ever, and nothing is left over.
 */
#include "tests/support/failing_malloc.h"
#include "tests/support/unit.h"
#include "tests/support/whole_server.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define LEAST_ALLOCATIONS 500

static struct whole_requests requests;
static struct answer calm_small, calm, now;

static int open_descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

/* As it is when nothing fails. */
static void ask_calmly(const char *request, enum answer_kind kind, struct answer *out)
{
    whole_ask(request, out);
    ck_assert_msg(out->kind == kind && (kind == ANSWER_ERROR || out->text[0][0]), "%s: %.500s", out->bad,
                  whole_bytes());
}

static void expect_calm_small(const char *what, unsigned long n)
{
    whole_ask(requests.small, &now);
    ck_assert_msg(now.kind == ANSWER_WHOLE && answer_same(&now, &calm_small), "%s, after allocation %lu failed: %.500s",
                  what, n, whole_bytes());
}

/* Every N of one request. How many allocations a run without failure makes. */
static unsigned long fail_each(const char *request, enum answer_kind kind, const char *what)
{
    unsigned long n = 1, refused = 0;
    ask_calmly(request, kind, &calm);
    for (bool hit = true; hit; n++) {
        fail_nth(n);
        whole_ask(request, &now);
        unsigned long made = fail_stop();
        hit = made >= n;
        ck_assert_msg(now.kind != ANSWER_BAD, "%s, allocation %lu of %lu: %s", what, n, made, now.bad);
        ck_assert_msg(now.kind != ANSWER_WHOLE || answer_same(&now, &calm),
                      "%s, allocation %lu of %lu: an answer of 200 is not the same as ever", what, n, made);
        refused += now.kind != calm.kind;
        whole_wait_idle();
        expect_calm_small(what, n);
    }
    printf("%s: %lu allocations, %lu of them refused the request\n", what, n - 2, refused);
    ck_assert_uint_gt(refused, 0);
    return n - 2;
}

START_TEST(test_every_allocation_may_fail_and_only_its_request_suffers)
{
    struct err e = {0};
    whole_configure();
    requests = whole_make_requests();
    ck_assert_msg(whole_start(&e) == 0, "%s", e.text);
    ck_assert(whole_wait_ready());
    ask_calmly(requests.small, ANSWER_WHOLE, &calm_small);
    unsigned long n = fail_each(requests.chat, ANSWER_WHOLE, "chat");
    n += fail_each(requests.stream, ANSWER_WHOLE, "stream");
    n += fail_each(requests.whole, ANSWER_WHOLE, "whole");
    n += fail_each(requests.wrong, ANSWER_ERROR, "wrong");
    ck_assert_uint_ge(n, LEAST_ALLOCATIONS);
    ck_assert_msg(whole_stop(&e) == 0, "%s", e.text); /* which asserts that no generation is left */
}
END_TEST

START_TEST(test_every_allocation_of_a_start_may_fail_with_a_sentence)
{
    struct err e = {0};
    unsigned long n = 1, refused = 0;
    whole_configure();
    requests = whole_make_requests();
    ck_assert_msg(whole_start(&e) == 0 && whole_wait_ready(), "%s", e.text);
    ask_calmly(requests.small, ANSWER_WHOLE, &calm_small);
    ck_assert_int_eq(whole_stop(&e), 0);
    int before = open_descriptors();
    for (bool hit = true; hit; n++) {
        e = (struct err){0};
        fail_nth(n);
        int ret = whole_start(&e);
        bool started = ret == 0, ready = started && whole_wait_ready();
        hit = fail_stop() >= n;
        if (ready)
            expect_calm_small("start", n);
        if (started)
            ret = whole_stop(&e);
        refused += ret != 0;
        ck_assert_msg(ready || ret < 0, "start, allocation %lu: it neither serves nor says why not", n);
        ck_assert_msg(!ret || (e.text[0] && !strchr(e.text, '\n')), "start, allocation %lu: no sentence", n);
        ck_assert_int_eq(open_descriptors(), before);
    }
    printf("start: %lu allocations, %lu of them refused it\n", n - 2, refused);
    ck_assert_uint_gt(refused, 50);
}
END_TEST

UNIT_MAIN("alloc", test_every_allocation_may_fail_and_only_its_request_suffers,
          test_every_allocation_of_a_start_may_fail_with_a_sentence)
