/* hand_engine - see hand_engine.h. */
#include "tests/support/hand_engine.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

void (*hand_about_to_open)(void);

int hand_try(struct hand_engine *h, struct machine *m, struct err *e)
{
    struct boundary_sizes sizes = {1 << 16, 1 << 16, 8 << 20};
    memset(h, 0, sizeof *h);
    struct engine *g = calloc(1, sizeof *g);
    assert(g);
    g->config = m->config;
    g->generation = 1;
    g->epoll = epoll_create1(EPOLL_CLOEXEC);
    g->spawn.pidfd = -1;
    g->spawn.running = true; /* "the thread" is the test */
    int ret = hash_init_library() || boundary_create(&g->b, &m->config, 1, &sizes, e) ||
              extent_init(&g->arena, g->b.arena_bytes) ||
              boundary_attach(&h->engine_side, dup(g->b.memfd), dup(g->b.wake_engine), dup(g->b.wake_front), e);
    assert(ret == 0 && h->engine_side.head != g->b.head);
    h->front = g;
    if (hand_about_to_open)
        hand_about_to_open();
    ret = loop_open(&h->loop, &h->engine_side, m, e);
    if (ret) {
        boundary_close(&h->engine_side);
        g->spawn.running = false;
        engine_close(g);
        return ret;
    }
    h->engine_side.head->status.vocab = m->vocab;
    h->engine_side.head->status.ctx_tokens = m->plan.ctx_tokens;
    h->engine_side.head->status.block_tokens = m->plan.block_tokens;
    atomic_store(&h->engine_side.head->status.state, ENGINE_READY);
    engine_get_stats(g, &(struct engine_stats){0}); /* it was READY, whatever a test says later */
    return 0;
}

void hand_open(struct hand_engine *h, struct machine *m)
{
    struct err e = {0};
    int ret = hand_try(h, m, &e);
    if (ret)
        printf("hand_open: %s\n", e.text);
    assert(ret == 0);
}

void hand_close(struct hand_engine *h)
{
    loop_close(&h->loop);
    boundary_close(&h->engine_side);
    h->front->spawn.running = false;
    engine_close(h->front);
}

struct engine_sampling hand_greedy(void)
{
    return (struct engine_sampling){.top_p = 1, .repetition = 1, .n_logprobs = -1};
}

uint64_t hand_submit(struct hand_engine *h, const int32_t *prompt, size_t n, uint32_t max_tokens)
{
    struct engine_request r = {.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens, .n = 1};
    struct err e = {0};
    uint64_t id = 0;
    r.sampling = hand_greedy();
    int ret = engine_submit(h->front, &r, &id, &e);
    if (ret)
        printf("hand_submit: %s\n", e.text);
    assert(ret == 0);
    return id;
}
