/* outbox - what sequences have produced goes to the front. See loop.h.
 *
 * Nothing is lost when the ring is full: tokens stay in their sequence, and the next turn sends what is due, per choice
 * in order: tokens, then CHOICE_DONE; after the last choice DONE, and the request is forgotten.
 */
#include "engine/loop.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct msg_head head_of(const struct loop *l, enum msg_type type, size_t size, uint64_t id, uint32_t choice)
{
    return (struct msg_head){(uint32_t)size, MSG_VERSION, (uint16_t)type, id, l->b->head->generation, choice};
}

static bool push(struct loop *l, const void *msg, size_t n)
{
    int ret = ring_push(&l->b->out, msg, n);
    assert(ret != -EMSGSIZE);
    return ret == 0;
}

void outbox_fail(struct loop *l, uint64_t id, enum engine_failure why, const char *fmt, ...)
{
    struct msg_failed m;
    memset(&m, 0, sizeof m);
    m.head = head_of(l, MSG_FAILED, sizeof m, id, 0);
    m.failure = why;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(m.text, sizeof m.text, fmt, ap);
    va_end(ap);
    bool sent = push(l, &m, sizeof m);
    assert(sent); /* read_inbox left room */
    (void)sent;
    boundary_wake(l->b->wake_front);
}

/* Tokens of q that are due, at most one message. */
static bool send_tokens(struct loop *l, struct seq *q)
{
    uint32_t due = seq_generated(q) - q->n_sent, n = due < ENGINE_EVENT_TOKENS ? due : ENGINE_EVENT_TOKENS;
    size_t size = sizeof(struct msg_tokens) + n * 4 + (q->logprobs ? n * sizeof(struct engine_logprob) : 0);
    struct msg_tokens m = {head_of(l, MSG_TOKENS, size, q->req->id, q->choice), n, q->logprobs != NULL};
    uint8_t *at = l->msg;
    memcpy(at, &m, sizeof m);
    at += sizeof m;
    memcpy(at, q->ids + q->n_prompt + q->n_sent, n * 4);
    at += n * 4;
    for (uint32_t i = 0; q->logprobs && i < n; i++, at += sizeof(struct engine_logprob))
        memcpy(at, &q->logprobs[(q->n_sent + i) % ENGINE_CREDIT], sizeof(struct engine_logprob));
    if (!push(l, l->msg, size))
        return false;
    q->n_sent += n;
    return true;
}

static bool send_choice_done(struct loop *l, struct seq *q)
{
    struct msg_choice_done m = {head_of(l, MSG_CHOICE_DONE, sizeof m, q->req->id, q->choice), q->finish, q->stop_id};
    return push(l, &m, sizeof m);
}

static bool send_progress(struct loop *l, struct seq *q)
{
    uint64_t begin, end;
    uint32_t done = q->n_prompt;
    if (table_next_absent(&q->table, q->n_prompt, &begin, &end))
        done = (uint32_t)begin;
    if (!q->req->progress || !q->req->admitted || seq_generated(q) > 0 || done <= q->progress_sent)
        return true;
    struct msg_progress m = {head_of(l, MSG_PROGRESS, sizeof m, q->req->id, q->choice), done, q->n_prompt,
                             q->req->cached, 0};
    if (!push(l, &m, sizeof m))
        return false;
    q->progress_sent = done;
    return true;
}

static uint64_t us_between(uint64_t from_ns, uint64_t to_ns)
{
    return from_ns && to_ns > from_ns ? (to_ns - from_ns) / 1000 : 0;
}

static bool send_done(struct loop *l, const struct request *r)
{
    struct msg_done m = {.head = head_of(l, MSG_DONE, sizeof m, r->id, 0),
                         .total = r->n_prompt,
                         .cached = r->cached,
                         .divergent = r->divergent,
                         .queue_us = us_between(r->arrived_ns, r->admitted_ns),
                         .load_us = r->load_ns / 1000,
                         .prefill_us = us_between(r->admitted_ns, r->first_ns),
                         .decode_us = us_between(r->first_ns, r->last_ns)};
    memcpy(m.cached_in, r->cached_in, sizeof m.cached_in);
    memcpy(m.missed, r->missed, sizeof m.missed);
    return push(l, &m, sizeof m);
}

static bool send_leaf(struct loop *l, struct request *r)
{
    struct msg_leaf m = {.head = head_of(l, MSG_LEAF, sizeof m, r->id, 0), .leaf = r->leaf};
    if (r->leaf_sent || r->leaf.request == 0)
        return true;
    r->leaf_sent = push(l, &m, sizeof m);
    return r->leaf_sent;
}

bool outbox_say(struct loop *l, uint64_t question, const struct engine_whereabouts *says)
{
    struct msg_says m = {.head = head_of(l, MSG_SAYS, sizeof m, question, 0), .says = *says};
    return push(l, &m, sizeof m);
}

/* Answers about sessions that are due. */
static bool send_answers(struct loop *l)
{
    struct engine_whereabouts says;
    bool any = false;
    for (uint64_t id; (id = sessions_answer(&l->sessions, &says)) && outbox_say(l, id, &says); any = true)
        sessions_answered(&l->sessions, id);
    return any;
}

/* Everything due of one request. False when the ring is full. Sets *gone when the request is forgotten. */
static bool flush_request(struct loop *l, struct reqseqs *r, bool *sent, bool *gone)
{
    for (uint32_t c = 0; c < r->req->n; c++) {
        struct seq *q = r->seqs[c];
        if (!q)
            continue;
        while (q->n_sent < seq_generated(q)) {
            if (!send_tokens(l, q))
                return false;
            *sent = true;
        }
        if (q->state == SEQ_RUNNING && !send_progress(l, q))
            return false;
        if (q->state != SEQ_OVER)
            continue;
        if (!send_choice_done(l, q))
            return false;
        *sent = true;
        r->req->n_over++;
        seq_close(q);
        r->seqs[c] = NULL;
    }
    if (r->req->n_over < r->req->n)
        return true;
    if (!send_leaf(l, r->req) || !send_done(l, r->req))
        return false;
    *sent = *gone = true;
    loop_drop_request(l, r);
    return true;
}

bool outbox_flush(struct loop *l)
{
    bool sent = send_answers(l);
    for (size_t i = 0; i < l->n_live;) {
        bool gone = false;
        if (!flush_request(l, l->live[i], &sent, &gone))
            break;
        i += !gone; /* the last one took the place of what has gone */
    }
    if (sent)
        boundary_wake(l->b->wake_front);
    return sent;
}
