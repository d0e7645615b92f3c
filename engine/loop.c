/* loop - see loop.h. */
#include "engine/loop.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/vec.h"
#include "engine/tiering.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_MS 5    /* longest wait with requests that can't go on by themselves, */
#define IDLE_MS 1000 /* and without any */

static int flight_open(struct flight *f, uint32_t max_rows, uint32_t max_seqs, uint32_t max_blocks)
{
    f->plan.runs = calloc(max_seqs, sizeof *f->plan.runs);
    f->seqs = calloc(max_seqs, sizeof *f->seqs);
    return f->plan.runs && f->seqs ? batch_open(&f->batch, max_rows, max_seqs, max_blocks) : -ENOMEM;
}

static void flight_close(struct flight *f)
{
    batch_close(f->batch);
    free(f->plan.runs);
    free(f->seqs);
}

static void publish_status(struct loop *l)
{
    struct boundary_status *st = &l->b->head->status;
    atomic_store(&st->used_blocks, pool_n_used(l->kv.pool));
    atomic_store(&st->cached_blocks, pool_n_idle(l->kv.pool));
    atomic_store(&st->running, l->sched.n_running);
    atomic_store(&st->waiting, l->sched.n_waiting);
    atomic_store(&st->waiting_tokens, l->sched.waiting_tokens);
    atomic_store(&st->preemptions, l->sched.n_preempted);
    atomic_store(&st->evictions, l->kv.evictions);
    tiering_publish(&l->kv, st);
    atomic_fetch_add(&st->alive, 1);
}

int loop_open(struct loop *l, struct boundary *b, struct machine *m, struct err *e)
{
    const struct engine_config *c = &m->config;
    struct sched_limits limits = {c->max_seqs, c->max_rows, c->step_ms * 1e6};
    uint32_t max_blocks = (uint32_t)table_blocks_for(m->layout.block_tokens, m->plan.ctx_tokens);
    memset(l, 0, sizeof *l);
    l->b = b;
    l->m = m;
    l->depth = machine_depth(m);
    struct returns *returns = NULL;
    int ret = c->no_prefix_cache
                  ? 0
                  : returns_open(&returns, &(struct returns_opts){.block_tokens = m->layout.block_tokens});
    if (!ret)
        ret = kvcache_open(&l->kv, m->plan.n_blocks, m->layout.block_tokens, !c->no_prefix_cache, returns);
    if (!ret)
        ret = sched_open(&l->sched, &limits, &l->kv);
    if (!ret)
        ret = sessions_open(&l->sessions, &l->kv);
    for (uint32_t i = 0; i < l->depth && !ret; i++)
        ret = flight_open(&l->flights[i], c->max_rows, c->max_seqs, max_blocks);
    if (ret) {
        loop_close(l);
        return err_set(e, ENOMEM, "engine: no memory for the tables of %u blocks and %u sequences", m->plan.n_blocks,
                       c->max_seqs);
    }
    ret = tiering_open(&l->kv, m, b->wake_engine, e);
    if (ret)
        loop_close(l);
    else
        publish_status(l); /* who sees the engine ready sees its tiers */
    return ret;
}

void loop_close(struct loop *l)
{
    if (l->n_flights > 0) /* its results would go into memory that is gone */
        backend_ops(l->m->be)->sync(l->m->be);
    while (l->n_live > 0)
        loop_drop_request(l, l->live[l->n_live - 1]);
    sessions_close(&l->sessions);
    if (l->b)
        tiering_drain(&l->kv, l->b->wake_engine);
    free(l->live);
    idmap_fini(&l->requests);
    for (uint32_t i = 0; i < LOOP_DEPTH_MAX; i++)
        flight_close(&l->flights[i]);
    if (l->sched.slots)
        sched_close(&l->sched);
    kvcache_close(&l->kv);
    memset(l, 0, sizeof *l);
}

/* What steps under way still draw for q is thrown away. */
static void forget_runs(struct loop *l, const struct seq *q)
{
    for (uint32_t f = 0; f < l->n_flights; f++)
        for (uint32_t i = 0; i < l->flights[f].plan.n_runs; i++)
            if (l->flights[f].seqs[i] == q)
                l->flights[f].seqs[i] = NULL;
}

void loop_finish_seq(struct loop *l, struct seq *q, enum engine_finish why, int32_t stop_id)
{
    assert(q->state != SEQ_OVER);
    q->finish = why;
    q->stop_id = stop_id;
    if (q->req->in_session)
        sessions_note(&l->sessions, q);
    forget_runs(l, q);
    sched_remove(&l->sched, q);
}

void loop_drop_request(struct loop *l, struct reqseqs *r)
{
    for (uint32_t i = 0; i < r->req->n; i++) {
        if (r->seqs[i] && r->seqs[i]->state != SEQ_OVER) {
            forget_runs(l, r->seqs[i]);
            sched_remove(&l->sched, r->seqs[i]);
        }
        seq_close(r->seqs[i]);
    }
    idmap_remove(&l->requests, r->req->id);
    l->live[r->at] = l->live[--l->n_live];
    l->live[r->at]->at = r->at;
    request_close(r->req);
    free(r->seqs);
    free(r);
}

/* -- one turn */

static bool read_inbox(struct loop *l)
{
    bool any = false;
    /* a message may have to be answered at once (FAILED): it is read only when that answer has room */
    while (ring_has_room(&l->b->out, MSG_MAX)) {
        ptrdiff_t n = ring_pop(&l->b->in, l->msg, sizeof l->msg);
        if (n == 0)
            break;
        assert(n > 0); /* the front is this program: a broken ring is a broken invariant */
        inbox_handle(l, l->msg, (size_t)n);
        any = true;
    }
    return any;
}

/* The first draw of a forking prompt is choice 0's; the others get their sequences now. */
static void make_choices(struct loop *l, struct seq *parent)
{
    struct reqseqs *r = idmap_get(&l->requests, parent->req->id);
    for (uint32_t c = 1; c < parent->req->n; c++)
        sched_adopt(&l->sched, parent, r->seqs[c]);
    parent->forks = false;
}

static bool is_stop(const struct request *r, int32_t id)
{
    for (uint32_t i = 0; i < r->n_stop; i++)
        if (r->stop_ids[i] == id)
            return true;
    return false;
}

static void keep_logprob(struct seq *q, const struct sample_out *o)
{
    struct engine_logprob *lp = &q->logprobs[seq_generated(q) % ENGINE_CREDIT];
    lp->logprob = o->logprob;
    lp->n_top = o->n_top;
    for (int32_t i = 0; i < o->n_top; i++) {
        lp->top[i].id = o->top[i].id;
        lp->top[i].logprob = o->top[i].logprob;
    }
}

static void accept_token(struct loop *l, struct seq *q, const struct sample_out *o)
{
    struct request *r = q->req;
    assert(o->id >= 0 && o->id < l->m->vocab);
    r->last_ns = sys.now_ns();
    if (!r->first_ns)
        r->first_ns = r->last_ns;
    if (is_stop(r, o->id)) {
        loop_finish_seq(l, q, ENGINE_FINISH_STOP, o->id);
        return;
    }
    if (q->logprobs)
        keep_logprob(q, o);
    sched_accept(&l->sched, q, o->id);
    atomic_fetch_add(&l->b->head->status.generated_tokens, 1);
    if (seq_generated(q) == r->max_tokens)
        loop_finish_seq(l, q, ENGINE_FINISH_LENGTH, -1);
}

static void note_time(struct loop *l, const struct plan *p, uint64_t ns)
{
    struct boundary_status *st = &l->b->head->status;
    budget_learn(&l->sched.budget, p->n_rows, p->pairs, ns);
    atomic_fetch_add(&st->steps, 1);
    atomic_fetch_add(&st->step_us, ns / 1000);
    atomic_fetch_add(&st->rows, p->n_rows);
    if (ns > 2 * (uint64_t)l->sched.limits.step_ns)
        atomic_fetch_add(&st->late_steps, 1);
    log_debug("engine step", "step=%llu rows=%u decodes=%u pairs=%llu predicted_ms=%.1f ms=%.1f",
              (unsigned long long)p->step, p->n_rows, p->n_decode, (unsigned long long)p->pairs,
              (double)p->predicted_ns / 1e6, (double)ns / 1e6);
}

static void commit_run(struct loop *l, struct seq *q, uint32_t n_draws, const struct sample_out *o)
{
    kvcache_publish(&l->kv, q);
    if (n_draws == 0)
        return;
    q->n_ahead--;
    if (n_draws > 1) {
        if (q->state == SEQ_WAITING)
            return; /* preempted before it forked: it will, with the same tokens */
        make_choices(l, q);
    }
    struct reqseqs *r = idmap_get(&l->requests, q->req->id);
    for (uint32_t c = 0; c < n_draws; c++)
        accept_token(l, r->seqs[q->choice + c], o + c);
}

/* Wait for the oldest step and take what it brought. */
static void commit(struct loop *l)
{
    const struct backend_ops *ops = backend_ops(l->m->be);
    struct flight f = l->flights[0];
    const struct plan *p = &f.plan;
    if (ops->step_wait)
        ops->step_wait(l->m->be, p->step);
    else
        ops->sync(l->m->be);
    uint64_t now = sys.now_ns();
    note_time(l, p, f.queued_ns > l->last_done_ns ? now - f.queued_ns : now - l->last_done_ns);
    l->last_done_ns = now;
    l->n_flights--;
    for (uint32_t i = 0; i < l->n_flights; i++)
        l->flights[i] = l->flights[i + 1];
    l->flights[l->n_flights] = f;
    kvcache_finish(&l->kv, p->step);
    const struct sample_out *o = batch_results(f.batch);
    for (uint32_t i = 0; i < p->n_runs; o += p->runs[i++].n_draws)
        if (f.seqs[i])
            commit_run(l, f.seqs[i], p->runs[i].n_draws, o);
}

static void note_admitted(struct loop *l, const struct plan *p)
{
    uint64_t now = sys.now_ns();
    for (uint32_t i = 0; i < p->n_runs; i++) {
        struct seq *q = l->sched.slots[p->runs[i].slot];
        struct request *r = q->req;
        if (r->admitted)
            continue;
        r->admitted = true;
        r->admitted_ns = now;
        atomic_fetch_add(&l->b->head->status.prompt_tokens, r->n_prompt);
    }
}

/* Remember what the step is about, until commit. */
static void take_off(struct loop *l, const struct plan *p)
{
    struct flight *f = &l->flights[l->n_flights++];
    struct plan_run *runs = f->plan.runs;
    uint32_t draw = 0;
    f->plan = *p;
    f->plan.runs = runs;
    memcpy(runs, p->runs, p->n_runs * sizeof *runs);
    for (uint32_t i = 0; i < p->n_runs; draw += runs[i++].n_draws) {
        struct seq *q = f->seqs[i] = l->sched.slots[runs[i].slot];
        q->n_ahead += runs[i].n_draws > 0;
        q->draw = draw;
    }
}

/* Plan the next step and queue it. False when nothing can run. */
static bool queue_step(struct loop *l)
{
    const struct plan *p = sched_step(&l->sched, l->step + 1);
    if (!p)
        return false;
    const struct backend_ops *ops = backend_ops(l->m->be);
    struct flight *f = &l->flights[l->n_flights];
    f->queued_ns = sys.now_ns();
    l->kv.queued = ++l->step;
    note_admitted(l, p);
    const struct step *step = batch_build(f->batch, p, l->sched.slots);
    for (uint32_t i = 0; i < p->n_copies; i++)
        machine_copy_block(l->m, p->copies[i].from, p->copies[i].to);
    float *logits = machine_forward(l->m, step);
    if (p->n_draws)
        ops->sample(l->m->be, logits, l->m->vocab, batch_draws(f->batch), batch_results(f->batch), (int32_t)p->n_draws);
    if (ops->step_end)
        ops->step_end(l->m->be, p->step);
    if (l->trace) {
        ops->sync(l->m->be);
        l->trace(l->trace_ctx, l, p, logits);
    }
    take_off(l, p);
    return true;
}

/* Queue a step; wait for the oldest when as many are queued as may be, or there is none to queue. */
static bool run_step(struct loop *l)
{
    bool queued = queue_step(l);
    if (l->n_flights == l->depth || (l->n_flights > 0 && !queued)) {
        commit(l);
        return true;
    }
    return queued;
}

bool loop_turn(struct loop *l)
{
    bool busy = read_inbox(l);
    busy |= sched_move(&l->sched);
    busy |= sessions_turn(&l->sessions, l->sched.n_waiting == 0);
    busy |= run_step(l);
    publish_status(l);
    busy |= outbox_flush(l);
    if (l->m->config.check)
        sched_check(&l->sched);
    return busy;
}

void loop_run(struct loop *l)
{
    while (!l->quit) {
        if (loop_turn(l))
            continue;
        /* Nothing to do: wait for the front. Requests that live but can't run or send wait for its credit or for room
         * in the out ring, which has no bell: look again soon. A bell that could not be rung costs IDLE_MS. */
        struct pollfd p = {.fd = l->b->wake_engine, .events = POLLIN};
        sys.poll(&p, 1, l->n_live || sessions_busy(&l->sessions) ? BUSY_MS : IDLE_MS);
        boundary_clear(l->b->wake_engine);
    }
}

/* -- the engine as a whole */

static int note_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct boundary *b = ctx;
    atomic_store(&b->head->status.load_permille, total ? (uint32_t)(done * 1000 / total) : 0);
    boundary_wake(b->wake_front);
    return 0;
}

int engine_main(struct boundary *b)
{
    struct boundary_status *st = &b->head->status;
    struct engine_config c = b->head->config;
    struct machine m;
    struct loop l;
    struct err e;
    atomic_store(&st->state, ENGINE_LOADING);
    int ret = hash_init_library();
    if (ret) {
        err_set(&e, -ret, "libcrypto has no SHA-256");
        goto fail;
    }
    ret = machine_open(&m, &c, note_progress, b, &e);
    if (ret)
        goto fail;
    ret = loop_open(&l, b, &m, &e);
    if (ret) {
        machine_close(&m);
        goto fail;
    }
    st->ctx_tokens = m.plan.ctx_tokens;
    st->block_tokens = m.plan.block_tokens;
    st->vocab = m.vocab;
    st->n_blocks = m.plan.n_blocks;
    st->kv_bytes = m.plan.kv_bytes;
    snprintf(st->device, sizeof st->device, "%s", m.device);
    atomic_store(&st->load_permille, 1000);
    atomic_store(&st->state, ENGINE_READY);
    boundary_wake(b->wake_front);
    loop_run(&l);
    loop_close(&l);
    machine_close(&m);
    return 0;
fail:
    log_error("engine start", "error=\"%s\"", e.text);
    memcpy(st->error, e.text, sizeof st->error);
    atomic_store(&st->state, ENGINE_DEAD);
    boundary_wake(b->wake_front);
    return ret;
}
