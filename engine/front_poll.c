/* front_poll - what comes out of the segment becomes events, after every field has been checked.
 *
 * The engine may be a process that went wrong: an unknown request, a choice that is over, an id outside the vocabulary,
 * a token too many or a wrong size is -EBADMSG, and the engine is ended and started anew as if it had died. What it
 * says of itself is copied once, when it is READY; what bounds are checked against it can't change after.
 */
#include "engine/front.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Copy what the engine says of itself when it first says READY. -EBADMSG: it makes no sense, or is not what the engine
 * before it said, whose tokens are with the clients. */
static int note_ready(struct engine *g)
{
    const struct boundary_status *st = &g->b.head->status;
    if (g->ready.generation == g->generation || atomic_load(&st->state) != ENGINE_READY)
        return 0;
    struct front_ready r = {
        .generation = g->generation,
        .ctx_tokens = st->ctx_tokens,
        .block_tokens = st->block_tokens,
        .n_blocks = st->n_blocks,
        .vocab = st->vocab,
        .kv_bytes = st->kv_bytes,
    };
    memcpy(r.device, st->device, sizeof r.device - 1);
    if (r.vocab < 1 || (g->ready.generation && r.vocab != g->ready.vocab))
        return -EBADMSG;
    g->ready = r;
    return 0;
}

static int accept_tokens(struct engine *g, struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_tokens m;
    if (n < sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    bool lp = r->msg.sampling.n_logprobs >= 0;
    if (m.n < 1 || m.n > ENGINE_EVENT_TOKENS || (m.has_logprobs != 0) != lp ||
        n != sizeof m + m.n * 4 + (lp ? m.n * sizeof(struct engine_logprob) : 0))
        return -EBADMSG;
    struct choice *ch = &r->choices[m.head.choice];
    if (m.n > r->msg.max_tokens - ch->n)
        return -EBADMSG;
    memcpy(ev->tokens, g->msg + sizeof m, m.n * 4);
    for (uint32_t i = 0; i < m.n; i++)
        if (ev->tokens[i] < 0 || ev->tokens[i] >= g->ready.vocab)
            return -EBADMSG;
    if (lp) {
        memcpy(g->logprobs, g->msg + sizeof m + m.n * 4, m.n * sizeof *g->logprobs);
        for (uint32_t i = 0; i < m.n; i++) {
            if (g->logprobs[i].n_top < 0 || g->logprobs[i].n_top > r->msg.sampling.n_logprobs)
                return -EBADMSG;
            for (int32_t j = 0; j < g->logprobs[i].n_top; j++)
                if (g->logprobs[i].top[j].id < 0 || g->logprobs[i].top[j].id >= g->ready.vocab)
                    return -EBADMSG;
        }
    }
    memcpy(ch->tokens + ch->n, ev->tokens, m.n * 4);
    ch->n += m.n;
    ev->type = ENGINE_TOKENS;
    ev->n = m.n;
    ev->logprobs = lp ? g->logprobs : NULL;
    return 1;
}

static int accept_choice_done(struct engine *g, struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_choice_done m;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    if (m.finish < ENGINE_FINISH_STOP || m.finish > ENGINE_FINISH_CANCELLED || m.stop_id < -1 ||
        m.stop_id >= g->ready.vocab)
        return -EBADMSG;
    r->choices[m.head.choice].over = true;
    r->n_over++;
    ev->type = ENGINE_CHOICE_DONE;
    ev->finish = m.finish;
    ev->stop_id = m.stop_id;
    return 1;
}

static int accept_progress(struct engine *g, struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_progress m;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    if (m.total != r->msg.n_prompt || m.done > m.total || m.cached > m.total)
        return -EBADMSG;
    ev->type = ENGINE_PROGRESS;
    ev->done = m.done;
    ev->total = m.total;
    ev->cached = m.cached;
    return 1;
}

static int accept_done(struct engine *g, struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_done m;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    uint64_t in_tiers = (uint64_t)m.cached_in[0] + m.cached_in[1] + m.cached_in[2];
    uint64_t missed = 0;
    for (int i = 0; i < ENGINE_MISSES; i++)
        missed += m.missed[i];
    if (m.total != r->msg.n_prompt || m.cached > m.total || in_tiers != m.cached || missed > m.total - m.cached ||
        (m.divergent >= m.total && m.divergent != UINT32_MAX) || r->n_over != r->msg.n)
        return -EBADMSG;
    ev->type = ENGINE_DONE;
    ev->done = ev->total = m.total;
    ev->cached = m.cached;
    memcpy(ev->cached_in, m.cached_in, sizeof ev->cached_in);
    memcpy(ev->missed, m.missed, sizeof ev->missed);
    ev->divergent = m.divergent;
    ev->queue_us = m.queue_us;
    ev->load_us = m.load_us;
    ev->prefill_us = m.prefill_us;
    ev->decode_us = m.decode_us;
    front_drop(g, r);
    return 1;
}

static int accept_failed(struct engine *g, struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_failed m;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    if (m.failure < ENGINE_FAIL_QUEUE_FULL || m.failure > ENGINE_FAIL_INTERNAL)
        return -EBADMSG;
    m.text[sizeof m.text - 1] = 0;
    ev->type = ENGINE_FAILED;
    ev->failure = m.failure;
    memcpy(ev->text, m.text, sizeof ev->text);
    front_drop(g, r);
    return 1;
}

/* One message of n bytes in g->msg. 1: ev is set; 0: nothing for the caller; -EBADMSG: the engine can't be trusted. */
static int accept_message(struct engine *g, size_t n, struct engine_event *ev)
{
    struct msg_head h;
    if (n < sizeof h)
        return -EBADMSG;
    memcpy(&h, g->msg, sizeof h);
    if (h.size != n || h.version != MSG_VERSION || h.generation != g->generation)
        return -EBADMSG;
    if (h.type == MSG_SAYS)
        return front_accept_says(g, n, ev);
    struct live *r = idmap_get(&g->by_id, h.id);
    if (!r || r->doomed || h.choice >= r->msg.n ||
        (h.type != MSG_DONE && h.type != MSG_FAILED && h.type != MSG_LEAF && r->choices[h.choice].over))
        return -EBADMSG;
    memset(ev, 0, sizeof *ev);
    ev->id = h.id;
    ev->choice = h.choice;
    ev->stop_id = -1;
    switch (h.type) {
    case MSG_TOKENS:
        return accept_tokens(g, r, n, ev);
    case MSG_PROGRESS:
        return accept_progress(g, r, n, ev);
    case MSG_CHOICE_DONE:
        return accept_choice_done(g, r, n, ev);
    case MSG_DONE:
        return accept_done(g, r, n, ev);
    case MSG_LEAF:
        return front_accept_leaf(g, r, n, ev);
    case MSG_FAILED:
        return accept_failed(g, r, n, ev);
    default:
        return -EBADMSG;
    }
}

static int fail(struct engine *g, struct live *r, enum engine_failure why, const char *text, struct engine_event *ev)
{
    memset(ev, 0, sizeof *ev);
    ev->type = ENGINE_FAILED;
    ev->id = r->id;
    ev->stop_id = -1;
    ev->failure = why;
    snprintf(ev->text, sizeof ev->text, "%s", text);
    front_drop(g, r);
    return 1;
}

/* FAILED for a request that a second engine died with. */
static int fail_doomed(struct engine *g, struct engine_event *ev)
{
    size_t i = 0;
    while (!g->live[i]->doomed)
        i++;
    return fail(g, g->live[i], ENGINE_FAIL_DIED, "the engine died twice while it worked on this request", ev);
}

/* Of a dead engine: FAILED for each live request, one a call. */
static int fail_next(struct engine *g, struct engine_event *ev)
{
    return g->n_live == 0 ? front_ask_fail(g, ev)
                          : fail(g, g->live[g->n_live - 1], ENGINE_FAIL_INTERNAL,
                                 "the engine has stopped; the server's log says why", ev);
}

/* Next message of the ring that is an event for the caller: 1, 0 when there is none, -EBADMSG. */
static int next_event(struct engine *g, struct engine_event *ev)
{
    ptrdiff_t n = ring_pop(&g->b.out, g->msg, sizeof g->msg);
    if (note_ready(g) != 0) /* after the message: it says READY before it says anything else */
        return -EBADMSG;
    return n > 0 ? accept_message(g, (size_t)n, ev) : (int)n;
}

static bool ring_has_news(const struct engine *g)
{
    return atomic_load(&g->b.out.shared->head) != atomic_load(&g->b.out.shared->tail);
}

int engine_poll(struct engine *g, struct engine_event *ev)
{
    while (!g->dead) {
        front_send_due(g);
        if (g->n_doomed)
            return fail_doomed(g, ev);
        int ret = next_event(g, ev);
        if (ret == 1)
            return 1;
        if (ret < 0) {
            assert(g->mode == ENGINE_MODE_EXEC); /* a thread of this process that talks nonsense is a bug here */
            snprintf(g->how, sizeof g->how, "a message that makes no sense");
            if (g->spawn.running)
                spawn_kill(&g->spawn);
            front_restart(g);
            continue;
        }
        boundary_clear(g->b.wake_front);
        /* asked before the ring is looked at again: all that an engine wrote before its end is in it by then */
        spawn_ended(&g->spawn, g->how);
        if (ring_has_news(g))
            continue;
        bool could_not_start = g->mode == ENGINE_MODE_THREAD && atomic_load(&g->b.head->status.state) == ENGINE_DEAD;
        if (g->spawn.running && !could_not_start)
            return 0; /* what comes from now on rings the bell again */
        front_restart(g);
    }
    boundary_clear(g->b.wake_front);
    return fail_next(g, ev);
}

static uint64_t at_most(uint64_t v, uint64_t limit)
{
    return v < limit ? v : limit;
}

void engine_get_stats(struct engine *g, struct engine_stats *out)
{
    const struct boundary_status *st = &g->b.head->status;
    bool sane = note_ready(g) == 0; /* else the next poll ends it */
    memset(out, 0, sizeof *out);
    uint32_t state = sane ? atomic_load(&st->state) : ENGINE_LOADING, permille = atomic_load(&st->load_permille);
    out->state = g->dead || state > ENGINE_DEAD ? ENGINE_DEAD : (enum engine_state)state;
    out->load_percent = permille > 1000 ? 100 : permille / 10;
    out->restarts = g->generation - 1;
    memcpy(out->error, g->dead ? g->error : st->error, sizeof out->error);
    out->error[sizeof out->error - 1] = 0;
    memcpy(out->device, g->ready.device, sizeof out->device);
    out->ctx_tokens = g->ready.ctx_tokens;
    out->block_tokens = g->ready.block_tokens;
    out->vocab = g->ready.vocab;
    out->n_blocks = g->ready.n_blocks;
    out->kv_bytes = g->ready.kv_bytes;
    out->used_blocks = at_most(atomic_load(&st->used_blocks), out->n_blocks);
    out->cached_blocks = at_most(atomic_load(&st->cached_blocks), out->n_blocks - out->used_blocks);
    out->running = atomic_load(&st->running);
    out->waiting = atomic_load(&st->waiting);
    out->waiting_tokens = atomic_load(&st->waiting_tokens);
    out->alive = atomic_load(&st->alive);
    out->steps = atomic_load(&st->steps);
    out->step_us = atomic_load(&st->step_us);
    out->rows = atomic_load(&st->rows);
    out->prompt_tokens = atomic_load(&st->prompt_tokens);
    out->cached_tokens = at_most(atomic_load(&st->cached_tokens), out->prompt_tokens);
    out->generated_tokens = atomic_load(&st->generated_tokens);
    out->preemptions = atomic_load(&st->preemptions);
    out->evictions = atomic_load(&st->evictions);
    out->late_steps = atomic_load(&st->late_steps);
    uint64_t tiers[sizeof out->tiers / 8] = {0};
    for (size_t i = 0; i < sizeof out->tiers / 8; i++)
        tiers[i] = atomic_load(&st->tiers[i]);
    memcpy(&out->tiers, tiers, sizeof out->tiers);
}
