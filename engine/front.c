/* front - the front's side of the boundary: submit, cancel, poll; and the engine's death, which clients do not see.
 *
 * Per live request the front keeps what it sent (the arena extent) and every token it got back. When the engine process
 * dies a new segment is made, a new engine started, and every live request is submitted again as prompt + given tokens,
 * unless it has been there when an engine died before: it may be what kills them.
 * Small messages (cancel, credit) that do not fit the ring now are marked on the request and tried again at each poll.
 *
 * front_poll.c reads what comes back.
 */
#include "engine/front.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/vec.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* -- start and stop */

static int watch(struct engine *g, int fd, struct err *e)
{
    struct epoll_event ev = {.events = EPOLLIN};
    return fd < 0 || sys.epoll_ctl(g->epoll, EPOLL_CTL_ADD, fd, &ev) == 0
               ? 0
               : err_set(e, errno, "engine: epoll: %s", strerror(errno));
}

/* A new segment and an engine over it. */
static int start(struct engine *g, struct err *e)
{
    int ret = boundary_create(&g->b, &g->config, g->generation + 1, &boundary_default_sizes, e);
    if (ret)
        return ret;
    ret = extent_init(&g->arena, g->b.arena_bytes);
    if (ret) {
        err_set(e, -ret, "engine segment: no memory");
        goto fail;
    }
    /* nothing may fail after a thread was started: only a process can be ended from outside */
    if ((ret = watch(g, g->b.wake_front, e)) || (ret = spawn_start(&g->spawn, g->mode, g->program, &g->b, e)))
        goto fail;
    if ((ret = watch(g, g->spawn.pidfd, e))) {
        spawn_kill(&g->spawn);
        goto fail;
    }
    g->generation++;
    memmove(g->started_ns + 1, g->started_ns, sizeof g->started_ns - sizeof *g->started_ns);
    g->started_ns[0] = sys.now_ns();
    return 0;
fail:
    extent_fini(&g->arena);
    boundary_close(&g->b); /* closing a descriptor takes it out of the epoll set */
    return ret;
}

int engine_open(struct engine **out, const struct engine_config *c, enum engine_mode mode, const char *program,
                struct err *e)
{
    struct engine *g = calloc(1, sizeof *g);
    if (!g)
        return err_set(e, ENOMEM, "engine: out of memory");
    g->config = *c;
    g->mode = mode;
    g->b.memfd = g->b.wake_engine = g->b.wake_front = g->spawn.pidfd = -1;
    int ret;
    g->epoll = sys.epoll_create1(EPOLL_CLOEXEC);
    if (g->epoll < 0) {
        ret = err_set(e, errno, "engine: epoll: %s", strerror(errno));
        goto fail;
    }
    if (program && !(g->program = strdup(program))) {
        ret = err_set(e, ENOMEM, "engine: out of memory");
        goto fail;
    }
    if ((ret = start(g, e)))
        goto fail;
    *out = g;
    return 0;
fail:
    engine_close(g);
    return ret;
}

static void free_live(struct live *r)
{
    for (uint32_t c = 0; r && r->choices && c < r->msg.n; c++)
        free(r->choices[c].tokens);
    if (r)
        free(r->choices);
    free(r);
}

/* A request with room for all its tokens (pages cost memory when they are used). NULL when there is none. */
static struct live *make_live(const struct engine_request *q)
{
    struct live *r = calloc(1, sizeof *r);
    bool ok = r && (r->choices = calloc(q->n, sizeof *r->choices));
    if (ok)
        r->msg.n = q->n;
    for (uint32_t c = 0; ok && c < q->n; c++)
        ok = (r->choices[c].tokens = malloc(q->max_tokens * sizeof(int32_t))) != NULL;
    if (ok)
        return r;
    free_live(r);
    return NULL;
}

void front_drop(struct engine *g, struct live *r)
{
    if (r->arena_bytes)
        extent_give(&g->arena, r->arena_at, r->arena_bytes);
    idmap_remove(&g->by_id, r->id);
    g->n_doomed -= r->doomed;
    g->live[r->at] = g->live[--g->n_live];
    g->live[r->at]->at = r->at;
    free_live(r);
}

static struct msg_head head_for(const struct engine *g, enum msg_type type, size_t size, uint64_t id, uint32_t choice)
{
    return (struct msg_head){(uint32_t)size, MSG_VERSION, (uint16_t)type, id, g->generation, choice};
}

static bool push(struct engine *g, const void *msg, size_t n)
{
    if (ring_push(&g->b.in, msg, n) != 0)
        return false;
    boundary_wake(g->b.wake_engine);
    return true;
}

void engine_close(struct engine *g)
{
    if (!g)
        return;
    if (g->mode == ENGINE_MODE_EXEC && g->spawn.running && atomic_load(&g->b.head->status.state) != ENGINE_READY)
        spawn_kill(&g->spawn); /* it looks at its ring when it has loaded: there is nothing to wait for */
    if (g->spawn.running) {
        struct msg_head quit = head_for(g, MSG_QUIT, sizeof quit, 0, 0);
        /* the engine empties the ring at every turn; one that could not start does not */
        while (!push(g, &quit, sizeof quit) && atomic_load(&g->b.head->status.state) != ENGINE_DEAD)
            usleep(1000);
        spawn_stop(&g->spawn);
    }
    while (g->n_live > 0)
        front_drop(g, g->live[g->n_live - 1]);
    if (g->b.head)
        boundary_close(&g->b);
    extent_fini(&g->arena);
    idmap_fini(&g->by_id);
    free(g->live);
    free(g->program);
    if (g->epoll >= 0)
        sys.close(g->epoll);
    free(g);
}

int engine_fd(const struct engine *g)
{
    return g->epoll;
}

int engine_pid(const struct engine *g)
{
    return g->spawn.running ? g->spawn.pid : 0;
}

/* -- submit */

static int check_request(const struct engine_request *r, struct err *e)
{
    if (r->n_prompt < 1 || r->n_prompt > INT32_MAX)
        return err_set(e, EINVAL, "prompt of %zu tokens: must be 1 to %d", r->n_prompt, INT32_MAX);
    if (r->max_tokens < 1)
        return err_set(e, EINVAL, "max_tokens %u: must be at least 1", r->max_tokens);
    if (r->n < 1 || r->n > ENGINE_N_MAX)
        return err_set(e, EINVAL, "n %u: must be 1 to %d", r->n, ENGINE_N_MAX);
    if (r->n_stop_ids > ENGINE_STOP_IDS_MAX)
        return err_set(e, EINVAL, "%u stop ids: at most %d", r->n_stop_ids, ENGINE_STOP_IDS_MAX);
    if (r->n_bias > ENGINE_BIAS_MAX)
        return err_set(e, EINVAL, "logit_bias of %u entries: at most %d", r->n_bias, ENGINE_BIAS_MAX);
    return 0;
}

/* Write the arrays of a SUBMIT into the arena and push it. `given`: tokens of an engine that died are in r->choices. */
static int send_submit(struct engine *g, struct live *r, const struct engine_request *q, bool given, struct err *e)
{
    struct msg_submit *m = &r->msg;
    uint64_t sum = 0;
    for (uint32_t c = 0; given && c < m->n; c++)
        sum += r->choices[c].over ? 0 : r->choices[c].n;
    m->has_given = given;
    m->bytes = msg_align8(4 * (uint64_t)q->n_prompt) + msg_align8(4 * (uint64_t)q->n_stop_ids) +
               q->n_bias * sizeof(struct engine_bias) + (given ? msg_align8(4 * (uint64_t)m->n) : 0) +
               msg_align8(4 * sum);
    if (extent_take(&g->arena, m->bytes, &m->at) != 0)
        return err_set(e, EAGAIN, "the queue is full: no room for %zu prompt tokens in the engine's segment",
                       q->n_prompt);
    r->arena_at = m->at;
    r->arena_bytes = m->bytes;
    m->head = head_for(g, MSG_SUBMIT, sizeof *m, r->id, 0);
    struct msg_submit_layout at;
    bool fits = msg_submit_layout(m, &at);
    assert(fits);
    (void)fits;
    uint8_t *base = g->b.arena + m->at;
    memcpy(base + at.prompt, q->prompt, q->n_prompt * 4);
    if (q->n_stop_ids) /* an absent list is NULL, which memcpy may not be given */
        memcpy(base + at.stop, q->stop_ids, q->n_stop_ids * 4);
    if (q->n_bias)
        memcpy(base + at.bias, q->bias, q->n_bias * sizeof *q->bias);
    uint8_t *to = base + at.given;
    for (uint32_t c = 0; given && c < m->n; c++) {
        const struct choice *ch = &r->choices[c];
        uint32_t n = ch->over ? MSG_GIVEN_DONE : (uint32_t)ch->n;
        memcpy(base + at.given_n + 4 * (size_t)c, &n, sizeof n);
        if (!ch->over && ch->n) {
            memcpy(to, ch->tokens, ch->n * 4);
            to += ch->n * 4;
        }
    }
    if (push(g, m, sizeof *m))
        return 0;
    extent_give(&g->arena, m->at, m->bytes);
    r->arena_bytes = 0;
    return err_set(e, EAGAIN, "the queue is full: the engine has not taken the last requests yet");
}

int engine_submit(struct engine *g, const struct engine_request *q, uint64_t *id, struct err *e)
{
    int ret = check_request(q, e);
    if (ret)
        return ret;
    if (g->dead)
        return err_set(e, EPIPE, "the engine has stopped: %s", g->error);
    struct live *r = make_live(q);
    if (!r || vec_grow(&g->live, &g->cap_live, g->n_live + 1, sizeof *g->live) != 0 ||
        idmap_put(&g->by_id, g->last_id + 1, r) != 0) {
        free_live(r);
        return err_set(e, ENOMEM, "out of memory");
    }
    r->id = ++g->last_id;
    r->at = g->n_live;
    g->live[g->n_live++] = r;
    r->msg.n_prompt = q->n_prompt;
    r->msg.n_stop = q->n_stop_ids;
    r->msg.n_bias = q->n_bias;
    r->msg.n = q->n;
    r->msg.max_tokens = q->max_tokens;
    r->msg.min_tokens = q->min_tokens;
    r->msg.priority = q->priority;
    r->msg.flags = (q->progress ? MSG_FLAG_PROGRESS : 0u) | (q->no_cache ? MSG_FLAG_NO_CACHE : 0u) |
                   (q->in_session ? MSG_FLAG_IN_SESSION : 0u) | (q->in_memory ? MSG_FLAG_IN_MEMORY : 0u);
    r->msg.sampling = q->sampling;
    memcpy(r->msg.salt, q->salt, sizeof r->msg.salt);
    ret = send_submit(g, r, q, false, e);
    if (ret) {
        front_drop(g, r);
        return ret;
    }
    *id = r->id;
    return 0;
}

/* -- small messages that may have to wait for room */

static bool try_cancel(struct engine *g, const struct live *r, uint32_t choice)
{
    struct msg_cancel m = {head_for(g, MSG_CANCEL, sizeof m, r->id, choice)};
    return push(g, &m, sizeof m);
}

static bool try_credit(struct engine *g, const struct live *r, uint32_t choice)
{
    struct msg_credit m = {head_for(g, MSG_CREDIT, sizeof m, r->id, choice), r->choices[choice].credit, 0};
    return push(g, &m, sizeof m);
}

void engine_cancel(struct engine *g, uint64_t id)
{
    struct live *r = idmap_get(&g->by_id, id);
    if (!r || r->cancel_due || g->dead)
        return;
    r->cancelled = true;
    r->cancel_due = !try_cancel(g, r, UINT32_MAX);
    g->n_due += r->cancel_due;
}

void engine_cancel_choice(struct engine *g, uint64_t id, uint32_t choice)
{
    struct live *r = idmap_get(&g->by_id, id);
    if (!r || choice >= r->msg.n || r->choices[choice].over || r->choices[choice].cancel_due || g->dead)
        return;
    r->choices[choice].cancelled = true;
    r->choices[choice].cancel_due = !try_cancel(g, r, choice);
    g->n_due += r->choices[choice].cancel_due;
}

void engine_credit(struct engine *g, uint64_t id, uint32_t choice, uint32_t tokens)
{
    struct live *r = idmap_get(&g->by_id, id);
    if (!r || choice >= r->msg.n || r->choices[choice].over || g->dead)
        return;
    struct choice *ch = &r->choices[choice];
    ch->credit = tokens;
    if (ch->credit_due)
        return;
    ch->credit_due = !try_credit(g, r, choice);
    g->n_due += ch->credit_due;
}

void front_send_due(struct engine *g)
{
    front_ask_due(g);
    if (!g->n_due)
        return;
    g->n_due = 0;
    for (size_t i = 0; i < g->n_live; i++) {
        struct live *r = g->live[i];
        if (r->cancel_due)
            r->cancel_due = !try_cancel(g, r, UINT32_MAX);
        g->n_due += r->cancel_due;
        for (uint32_t c = 0; c < r->msg.n; c++) {
            struct choice *ch = &r->choices[c];
            if (ch->cancel_due)
                ch->cancel_due = !ch->over && !try_cancel(g, r, c);
            if (ch->credit_due)
                ch->credit_due = !ch->over && !try_credit(g, r, c);
            g->n_due += ch->cancel_due + ch->credit_due;
        }
    }
}

/* -- death and restart */

/* Dead for good: why is kept, and poll FAILs what lives. */
static void give_up(struct engine *g, const char *why)
{
    g->dead = true;
    snprintf(g->error, sizeof g->error, "%s", why);
    log_error("engine dead", "error=\"%s\" requests=%zu", g->error, g->n_live);
}

/* The arrays of a request as they stand in the old segment. */
static struct engine_request request_in(const struct boundary *b, const struct live *r)
{
    struct msg_submit_layout at;
    bool fits = msg_submit_layout(&r->msg, &at);
    assert(fits);
    (void)fits;
    const uint8_t *base = b->arena + r->arena_at;
    return (struct engine_request){
        .prompt = (const int32_t *)(const void *)(base + at.prompt),
        .n_prompt = r->msg.n_prompt,
        .stop_ids = (const int32_t *)(const void *)(base + at.stop),
        .n_stop_ids = r->msg.n_stop,
        .bias = (const struct engine_bias *)(const void *)(base + at.bias),
        .n_bias = r->msg.n_bias,
    };
}

/* One more engine has died: of what it did if it was READY, else of its start. */
static void count_death(struct engine *g)
{
    for (size_t i = 0; i < g->n_live && g->ready.generation == g->generation; i++) {
        struct live *r = g->live[i];
        r->deaths += !r->doomed;
        if (r->deaths < DEATHS_MAX || r->doomed)
            continue;
        r->doomed = true;
        g->n_doomed++;
        log_error("engine suspect", "request=%llu prompt_tokens=%llu deaths=%u next=\"it is answered with an error\"",
                  (unsigned long long)r->id, (unsigned long long)r->msg.n_prompt, r->deaths);
    }
}

/* What was cancelled is cancelled again: the engine that was told is dead. */
static bool resubmit_all(struct engine *g, const struct boundary *old, struct err *e)
{
    g->n_due = 0;
    for (size_t i = 0; i < g->n_live; i++) {
        struct live *r = g->live[i];
        r->cancel_due = r->cancelled && !r->doomed;
        g->n_due += r->cancel_due;
        if (r->doomed) {
            r->arena_bytes = 0; /* its extent goes with the old arena */
            continue;
        }
        struct engine_request q = request_in(old, r);
        bool given = false;
        for (uint32_t c = 0; c < r->msg.n; c++) {
            given |= r->choices[c].over || r->choices[c].n > 0;
            r->choices[c].cancel_due = r->choices[c].cancelled && !r->choices[c].over;
            r->choices[c].credit_due = false;
            g->n_due += r->choices[c].cancel_due;
        }
        if (send_submit(g, r, &q, given, e) != 0)
            return false;
    }
    return true;
}

void front_restart(struct engine *g)
{
    struct err e = {0};
    const struct boundary_status *st = &g->b.head->status;
    if (atomic_load(&st->state) == ENGINE_DEAD) { /* it could not start: trying again gives the same */
        char text[ERR_TEXT_MAX];
        memcpy(text, st->error, sizeof text);
        text[sizeof text - 1] = 0;
        give_up(g, text);
        return;
    }
    uint64_t oldest = g->started_ns[RESTARTS_MAX - 1];
    if (oldest && sys.now_ns() - oldest < RESTART_WINDOW) {
        snprintf(e.text, sizeof e.text, "the engine process ended %d times within 60 s, last by %s", RESTARTS_MAX,
                 g->how);
        give_up(g, e.text);
        return;
    }
    log_error("engine restart", "ended_by=\"%s\" generation=%u requests=%zu", g->how, g->generation + 1, g->n_live);
    count_death(g);
    struct boundary old = g->b;
    struct extent_map old_arena = g->arena;
    if (start(g, &e) != 0) {
        g->b = old;
        g->arena = old_arena;
        give_up(g, e.text);
        return;
    }
    bool ok = resubmit_all(g, &old, &e);
    front_ask_again(g);
    extent_fini(&old_arena);
    boundary_close(&old);
    if (!ok) {
        for (size_t i = 0; i < g->n_live; i++) /* extents of the old arena are gone with it */
            g->live[i]->arena_bytes = 0;
        spawn_kill(&g->spawn);
        give_up(g, e.text);
    }
}
