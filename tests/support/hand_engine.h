/* hand_engine - front and loop over one segment in one thread: a test submits, turns the loop by hand, and polls. */
#ifndef HEARTH_TESTS_HAND_ENGINE_H
#define HEARTH_TESTS_HAND_ENGINE_H

#include "engine/front.h"
#include "engine/loop.h"

struct hand_engine {
    struct engine *front;
    struct boundary engine_side; /* mapped a second time, at another address */
    struct loop loop;
};

/* m outlives it. */
void hand_open(struct hand_engine *h, struct machine *m);
/* The same where the engine's loop may fail to open: 0 or -errno with e. */
extern void (*hand_about_to_open)(
    void); /* called before the loop is opened: from here on calls may fail. NULL = nothing */
int hand_try(struct hand_engine *h, struct machine *m, struct err *e);
void hand_close(struct hand_engine *h);

/* Sampling that is plainly greedy. */
struct engine_sampling hand_greedy(void);
/* Submit with defaults: greedy, n = 1; returns the id (asserts success). */
uint64_t hand_submit(struct hand_engine *h, const int32_t *prompt, size_t n, uint32_t max_tokens);

#endif
