/* whole_server - all of hearthd in this process over made-up weights, and a client that allocates nothing.
 *
 * The loop and the engine run as threads; the client makes plain system calls into buffers that are always there. So
 * whatever fails between fail_nth and fail_stop (failing_malloc.h), or fail_call_nth and fail_call_stop
 * (failing_calls.h), fails in the server. One server at a time; test thread.
 */
#ifndef HEARTH_TESTS_WHOLE_SERVER_H
#define HEARTH_TESTS_WHOLE_SERVER_H

#include "engine/base/err.h"
#include "engine/engine.h"
#include "tests/support/answer.h"

#include <stdbool.h>

/* The configuration of all that follows; once, before anything fails. */
void whole_configure(void);
/* app_open, then app_run on a thread of its own. 0 or -errno with e. */
int whole_start(struct err *e);
/* Ask /ready until it says yes. False when the server has ended by itself. Aborts after 20 s. */
bool whole_wait_ready(void);
/* Has app_run returned by itself? */
bool whole_ended(void);
/* Stop, join and close. What app_run returned, with e. */
int whole_stop(struct err *e);

/* Send a whole request and read until the server closes; aborts after 20 s without a byte. */
void whole_ask(const char *request, struct answer *out);
/* What came, for messages. */
const char *whole_bytes(void);
/* Wait until nothing runs, waits or holds a KV block (aborts after 20 s): what was cancelled goes within two steps. */
void whole_wait_idle(void);

/* -- requests, terminated; seeded or greedy, so that their texts never change */
struct whole_requests {
    const char *chat;   /* streamed: 30 messages, 2 choices, log probabilities, stop strings, bias, penalties */
    const char *stream; /* completions streamed: 4 prompts, 2 choices, the same and more */
    const char *whole;  /* completions in one answer: 20 prompts of text and ids, 2 choices */
    const char *wrong;  /* 400 */
    const char *small;
};
struct whole_requests whole_make_requests(void);

#endif
