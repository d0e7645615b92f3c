/* inbox - messages from the front become requests and sequences. See loop.h.
 *
 * The front is the same program, but its bytes lie in shared memory and pass the fuzzer: every count and offset is
 * checked against the arena, every id against the vocabulary, before it is used. All memory a request can need is taken
 * here.
 */
#include "engine/loop.h"

#include "engine/base/sys.h"
#include "engine/base/vec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_BLOCKS_MAX (1u << 22)

struct submit_view { /* arrays of a SUBMIT, in the arena */
    const int32_t *prompt, *stop, *given;
    const struct engine_bias *bias;
    const uint32_t *given_n;
};

static bool ids_ok(const int32_t *ids, uint64_t n, int32_t vocab)
{
    for (uint64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return false;
    return true;
}

/* Are the given tokens there, and no more than allowed? */
static bool given_ok(const struct msg_submit *m, const struct submit_view *v, uint64_t bytes, int32_t vocab)
{
    uint64_t sum = 0;
    for (uint32_t c = 0; m->has_given && c < m->n; c++) {
        if (v->given_n[c] == MSG_GIVEN_DONE)
            continue;
        if (v->given_n[c] >= m->max_tokens)
            return false;
        sum += v->given_n[c];
    }
    return sum * 4 <= bytes && ids_ok(v->given, sum, vocab);
}

static bool sampling_ok(const struct engine_sampling *s)
{
    const float f[] = {s->temperature, s->top_p, s->min_p, s->repetition, s->presence, s->frequency};
    for (size_t i = 0; i < sizeof f / sizeof *f; i++)
        if (!isfinite(f[i]))
            return false;
    return s->temperature >= 0 && s->repetition > 0 && s->n_logprobs >= -1 && s->n_logprobs <= ENGINE_LOGPROBS_MAX;
}

/* Locate and check everything a SUBMIT points to. */
static bool view_submit(const struct loop *l, const struct msg_submit *m, struct submit_view *v)
{
    struct msg_submit_layout at;
    if (m->at % 8 || m->at > l->b->arena_bytes || m->bytes > l->b->arena_bytes - m->at)
        return false;
    if (m->n_prompt < 1 || m->n_prompt > INT32_MAX || m->max_tokens < 1 || m->n < 1 || m->n > ENGINE_N_MAX ||
        m->n_stop > ENGINE_STOP_IDS_MAX || m->n_bias > ENGINE_BIAS_MAX || !msg_submit_layout(m, &at) ||
        !sampling_ok(&m->sampling))
        return false;
    const uint8_t *base = l->b->arena + m->at;
    v->prompt = (const int32_t *)(const void *)(base + at.prompt);
    v->stop = (const int32_t *)(const void *)(base + at.stop);
    v->bias = (const struct engine_bias *)(const void *)(base + at.bias);
    v->given_n = (const uint32_t *)(const void *)(base + at.given_n);
    v->given = (const int32_t *)(const void *)(base + at.given);
    int32_t vocab = l->m->vocab;
    if (!ids_ok(v->prompt, m->n_prompt, vocab) || !ids_ok(v->stop, m->n_stop, vocab))
        return false;
    for (uint32_t i = 0; i < m->n_bias; i++)
        if (!ids_ok(&v->bias[i].id, 1, vocab) || isnan(v->bias[i].bias))
            return false;
    return given_ok(m, v, m->bytes - at.given, vocab);
}

/* Does the engine take it at all? Sends the refusal. */
static bool may_enter(struct loop *l, const struct msg_submit *m)
{
    const struct engine_config *c = &l->m->config;
    uint64_t id = m->head.id, tokens = m->n_prompt + m->max_tokens;
    uint32_t n_blocks = l->m->plan.n_blocks, bt = l->m->layout.block_tokens;
    uint64_t need = table_blocks_for(bt, tokens);
    uint64_t room = c->max_queued + (c->max_seqs - l->sched.n_running);
    if (tokens > l->m->plan.ctx_tokens)
        outbox_fail(l, id, ENGINE_FAIL_TOO_LONG, "%llu prompt tokens + max_tokens %u are more than the context of %u",
                    (unsigned long long)m->n_prompt, m->max_tokens, l->m->plan.ctx_tokens);
    else if (need > n_blocks)
        outbox_fail(l, id, ENGINE_FAIL_TOO_LONG,
                    "%llu prompt tokens + max_tokens %u need %llu KV blocks of %u tokens, the pool has %u",
                    (unsigned long long)m->n_prompt, m->max_tokens, (unsigned long long)need, bt, n_blocks);
    else if (m->n > c->max_seqs)
        outbox_fail(l, id, ENGINE_FAIL_TOO_LONG, "n %u is more than the %u sequences that may run at once", m->n,
                    c->max_seqs);
    else if (l->sched.n_waiting >= room)
        outbox_fail(l, id, ENGINE_FAIL_QUEUE_FULL, "the queue is full: %zu requests wait, the limit is %u",
                    l->sched.n_waiting, c->max_queued);
    else if (l->sched.n_waiting > 0 && l->sched.waiting_tokens + m->n_prompt > c->max_queued_tokens)
        outbox_fail(l, id, ENGINE_FAIL_QUEUE_FULL, "the queue is full: %llu prompt tokens wait, the limit is %llu",
                    (unsigned long long)l->sched.waiting_tokens, (unsigned long long)c->max_queued_tokens);
    else
        return true;
    return false;
}

/* Whose bits blocks have: the backend's, and where they are promised to be the same again, that of this very device and
 * its libraries. */
static void put_numerics(const struct machine *m, char *to, size_t size)
{
    const struct backend_ops *op = backend_ops(m->be);
    bool device = m->config.deterministic && op->probe;
    snprintf(to, size, "%s%s%s", op->name, device ? " on " : "", device ? op->describe(m->be) : "");
}

/* Seed of the block keys of a tenant's requests. 0 or -ENOMEM. */
static int root_under(const struct loop *l, uint32_t format, const uint8_t salt[32], struct hash_key *out)
{
    char numerics[256];
    struct kvcache_identity who = {
        .model = l->m->fingerprints[format],
        .block_tokens = l->m->layout.block_tokens,
        .format = format,
        .numerics = numerics,
    };
    put_numerics(l->m, numerics, sizeof numerics);
    memcpy(who.secret, l->m->config.secret, sizeof who.secret);
    return kvcache_root(&who, salt, out);
}

static int root_of(const struct loop *l, const uint8_t salt[32], struct hash_key *out)
{
    return root_under(l, l->m->layout.format, salt, out);
}

/* The same under the other formats, when a drive has something of them. */
static int other_roots(const struct loop *l, const uint8_t salt[32], struct request *r)
{
    int ret = 0;
    for (uint32_t f = KV_FORMAT_KV32; l->kv.foreign && !ret && f < KV_FORMATS; f++)
        if (f != l->m->layout.format)
            ret = root_under(l, f, salt, &r->other_roots[r->n_other_roots++]);
    return ret;
}

static struct request *make_request(struct loop *l, const struct msg_submit *m, const struct submit_view *v)
{
    struct request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->id = m->head.id;
    r->order = ++l->n_requests;
    r->n = m->n;
    r->n_prompt = (uint32_t)m->n_prompt;
    r->max_tokens = m->max_tokens;
    r->min_tokens = m->min_tokens;
    r->priority = m->priority;
    r->progress = m->flags & MSG_FLAG_PROGRESS;
    r->no_cache = m->flags & MSG_FLAG_NO_CACHE;
    r->in_session = m->flags & MSG_FLAG_IN_SESSION;
    r->in_memory = m->flags & MSG_FLAG_IN_MEMORY;
    r->sampling = m->sampling;
    r->n_stop = m->n_stop;
    r->n_bias = m->n_bias;
    r->arrived_ns = sys.now_ns();
    r->stop_ids = malloc((m->n_stop + 1) * sizeof *r->stop_ids);
    r->bias = malloc((m->n_bias + 1) * sizeof *r->bias);
    r->divergent = UINT32_MAX;
    if (!r->stop_ids || !r->bias || root_of(l, m->salt, &r->root) != 0 || other_roots(l, m->salt, r) != 0) {
        request_close(r);
        return NULL;
    }
    memcpy(r->stop_ids, v->stop, m->n_stop * sizeof *r->stop_ids);
    for (uint32_t i = 0; i < m->n_bias; i++)
        r->bias[i] = (struct sample_bias){v->bias[i].id, v->bias[i].bias};
    return r;
}

/* Sequences of all choices; a choice that was finished by the engine before is not made. */
static int make_seqs(struct loop *l, struct reqseqs *r, const struct msg_submit *m, const struct submit_view *v)
{
    const int32_t *given = v->given;
    for (uint32_t c = 0; c < m->n; c++) {
        uint32_t n_given = m->has_given ? v->given_n[c] : 0;
        if (n_given == MSG_GIVEN_DONE) {
            r->req->n_over++;
            continue;
        }
        r->seqs[c] = seq_open(r->req, c, v->prompt, given, n_given, l->m->layout.block_tokens);
        if (!r->seqs[c])
            return -ENOMEM;
        given += n_given;
        r->seqs[c]->state = SEQ_OVER; /* until it stands in the queue */
    }
    return 0;
}

/* Put what can run into the queue: choice 0 alone when the others fork from it, else every choice. */
static int queue_seqs(struct loop *l, struct reqseqs *r, bool has_given)
{
    bool forks = r->req->n > 1 && !has_given;
    for (uint32_t c = 0; c < (forks ? 1 : r->req->n); c++) {
        if (!r->seqs[c])
            continue;
        r->seqs[c]->forks = forks;
        int ret = sched_add(&l->sched, r->seqs[c]);
        if (ret)
            return ret;
    }
    for (uint32_t c = 1; forks && c < r->req->n; c++)
        r->seqs[c]->state = SEQ_UNBORN;
    return 0;
}

static void submit(struct loop *l, const struct msg_submit *m)
{
    struct submit_view v;
    if (idmap_get(&l->requests, m->head.id))
        return; /* an id twice: the first one keeps it */
    if (!view_submit(l, m, &v)) {
        outbox_fail(l, m->head.id, ENGINE_FAIL_INTERNAL, "the request does not fit its segment");
        return;
    }
    if (!may_enter(l, m))
        return;
    struct reqseqs *r = calloc(1, sizeof *r);
    struct request *req = r ? make_request(l, m, &v) : NULL;
    if (!req || !(r->seqs = calloc(m->n, sizeof *r->seqs)) ||
        vec_grow(&l->live, &l->cap_live, l->n_live + 1, sizeof *l->live) != 0 ||
        idmap_put(&l->requests, req->id, r) != 0) {
        request_close(req);
        if (r)
            free(r->seqs);
        free(r);
        outbox_fail(l, m->head.id, ENGINE_FAIL_INTERNAL, "out of memory");
        return;
    }
    r->req = req;
    r->at = l->n_live;
    l->live[l->n_live++] = r;
    if (make_seqs(l, r, m, &v) != 0 || queue_seqs(l, r, m->has_given) != 0) {
        loop_drop_request(l, r);
        outbox_fail(l, m->head.id, ENGINE_FAIL_INTERNAL, "out of memory");
    }
}

static void cancel(struct loop *l, const struct msg_head *h)
{
    struct reqseqs *r = idmap_get(&l->requests, h->id);
    if (!r)
        return;
    if (h->choice != UINT32_MAX && r->seqs[0] && r->seqs[0]->forks)
        return; /* choices are cancelled for what they said: these have said nothing yet */
    for (uint32_t c = 0; c < r->req->n; c++) {
        struct seq *q = r->seqs[c];
        if (q && q->state != SEQ_OVER && (h->choice == UINT32_MAX || h->choice == c))
            loop_finish_seq(l, q, ENGINE_FINISH_CANCELLED, -1);
    }
}

static void credit(struct loop *l, const struct msg_credit *m)
{
    struct reqseqs *r = idmap_get(&l->requests, m->head.id);
    struct seq *q = r && m->head.choice < r->req->n ? r->seqs[m->head.choice] : NULL;
    if (q && m->tokens > q->credit && m->tokens <= q->n_sent)
        q->credit = m->tokens;
}

/* A question about a session. What can't be taken is answered at once: read_inbox left room. */
static void ask(struct loop *l, const struct msg_ask *m)
{
    const struct engine_question *q = &m->question;
    struct hash_key root;
    bool ok = q->verb >= ENGINE_LOOK && q->verb <= ENGINE_KEEP && q->leaf.n_blocks >= 1 &&
              q->leaf.n_blocks <= LEAF_BLOCKS_MAX && root_of(l, q->salt, &root) == 0;
    if (ok && sessions_ask(&l->sessions, m->head.id, q, &root) == 0)
        return;
    if (q->verb != ENGINE_KEEP)
        outbox_say(l, m->head.id, &(struct engine_whereabouts){.answer = ok ? ENGINE_BUSY : ENGINE_NO_MEMORY});
}

void inbox_handle(struct loop *l, const uint8_t *msg, size_t n)
{
    struct msg_head h;
    struct msg_submit s;
    struct msg_credit c;
    struct msg_ask a;
    if (n < sizeof h)
        return;
    memcpy(&h, msg, sizeof h);
    if (h.size != n || h.version != MSG_VERSION || h.generation != l->b->head->generation)
        return;
    switch (h.type) {
    case MSG_SUBMIT:
        if (n == sizeof s) {
            memcpy(&s, msg, sizeof s);
            submit(l, &s);
        }
        break;
    case MSG_CANCEL:
        cancel(l, &h);
        break;
    case MSG_CREDIT:
        if (n == sizeof c) {
            memcpy(&c, msg, sizeof c);
            credit(l, &c);
        }
        break;
    case MSG_ASK:
        if (n == sizeof a) {
            memcpy(&a, msg, sizeof a);
            ask(l, &a);
        }
        break;
    case MSG_QUIT:
        l->quit = true;
        break;
    default:
        break;
    }
}
