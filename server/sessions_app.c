/* sessions_app - see sessions_app.h. */
#include "server/sessions_app.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/utf8.h"
#include "server/sessions_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SAVE_AFTER_NS 5000000000ull
#define DAY_S         86400
#define TELL_A_TICK   16
#define LOST_MAX      8 /* sessions whose keeping ended at once, and whose forks are told again */

struct saving { /* who waits for the file */
    struct saving *next;
    void (*then)(struct app *a, void *ctx, int error);
    void *ctx;
};

struct app_sessions {
    struct worker_job job; /* first: the worker gives it back as this */
    struct app *app;
    struct sessions_table table;
    const char *dir; /* of the file; NULL = none */
    bool ready;      /* the file has been read: it may be written */
    bool dirty, busy;
    uint64_t since_ns;         /* dirty for so long */
    struct str bytes;          /* being written */
    int error;                 /* of the last writing */
    uint64_t told;             /* engines that were told what to keep, */
    uint64_t tell_from;        /* and the id of the session that this one hears of next */
    struct saving *now, *then; /* wait for the one under way; for the next */
};

/* -- the file */

static void write_file(struct worker_job *j)
{
    struct app_sessions *s = (struct app_sessions *)(void *)j;
    struct err e;
    s->error = s->bytes.oom ? -ENOMEM : sessions_file_write(s->dir, &s->bytes, &e);
    if (s->error)
        log_warn("sessions write", "error=\"%s\" next=\"it is tried again\"", s->bytes.oom ? "no memory" : e.text);
}

static void start_saving(struct app_sessions *s);

static void tell(struct app_sessions *s, struct saving *list, int error)
{
    for (struct saving *next; list; list = next) {
        next = list->next;
        list->then(s->app, list->ctx, error);
        free(list);
    }
}

static void wrote_file(struct worker_job *j)
{
    struct app_sessions *s = (struct app_sessions *)(void *)j;
    struct saving *list = s->now;
    s->busy = false;
    s->now = NULL;
    str_fini(&s->bytes);
    if (s->error) {
        s->dirty = true;
        s->since_ns = sys.now_ns();
    }
    tell(s, list, s->error);
    if (s->then)
        start_saving(s);
}

static void start_saving(struct app_sessions *s)
{
    if (s->busy)
        return;
    s->now = s->then;
    s->then = NULL;
    s->dirty = false;
    sessions_put(&s->table, &s->bytes);
    s->job = (struct worker_job){.work = write_file, .done = wrote_file};
    s->busy = true;
    s->error = -ECANCELED;                               /* should it never run */
    if (workers_submit(s->app->workers, &s->job) != 0) { /* they are too many to wait for */
        write_file(&s->job);
        wrote_file(&s->job);
    }
}

void app_sessions_save(struct app *a, void (*then)(struct app *a, void *ctx, int error), void *ctx)
{
    struct app_sessions *s = a->sessions;
    struct saving *w = s->dir && s->ready ? calloc(1, sizeof *w) : NULL;
    if (!w) {
        then(a, ctx, s->dir ? -ENOMEM : 0);
        return;
    }
    *w = (struct saving){s->then, then, ctx};
    s->then = w;
    start_saving(s);
}

bool app_sessions_stored(const struct app *a)
{
    return a->sessions->dir != NULL;
}

static void note_change(struct app *a)
{
    struct app_sessions *s = a->sessions;
    if (!s->dirty)
        s->since_ns = sys.now_ns();
    s->dirty = true;
}

/* -- life */

int app_sessions_open(struct app *a, struct err *e)
{
    uint64_t sip[2];
    struct app_sessions *s = calloc(1, sizeof *s);
    if (!s || sys.random(sip, sizeof sip) != 0 || sessions_init(&s->table, (uint32_t)a->conf->sessions.max, sip) != 0) {
        free(s);
        return err_set(e, ENOMEM, "sessions: out of memory");
    }
    s->app = a;
    if (a->conf->kv.nvme.dirs.n && a->conf->kv.nvme.bytes && a->conf->kv.prefix_cache)
        s->dir = a->conf->kv.nvme.dirs.v[0];
    a->sessions = s;
    return 0;
}

void app_sessions_ready(struct app *a)
{
    struct app_sessions *s = a->sessions;
    struct err e;
    if (s->ready)
        return;
    s->ready = true;
    if (!s->dir || sessions_file_read(s->dir, &s->table, &e) == 0)
        return;
    log_warn("sessions read", "error=\"%s\" next=\"names are kept in memory only; remove the file to store them\"",
             e.text);
    s->dir = NULL; /* what another version wrote stays as it is */
}

struct sessions_table *app_sessions_table(struct app *a)
{
    return &a->sessions->table;
}

/* -- what the engine is to keep */

static void send_keep(struct app *a, const struct session *s)
{
    struct engine_question q = {.verb = ENGINE_KEEP, .leaf = s->leaf};
    int64_t left = s->wish.used_s + s->wish.ttl_s - sys.wall_s();
    struct err e;
    uint64_t id;
    memcpy(q.salt, s->wish.salt, sizeof q.salt);
    for (int t = 0; t < 3; t++)
        q.keep_us[t] = s->kept[t] && left > 0 ? (uint64_t)left * 1000000 : 0;
    if (s->leaf.n_blocks && engine_ask(a->engine, &q, &id, &e) != 0) /* it is a wish, and renewed at the next use */
        log_debug("session keep", "error=\"%s\"", e.text);
}

static uint64_t blocks_for(uint64_t wish_bytes, uint64_t block_bytes, uint64_t blocks)
{
    uint64_t wish = block_bytes ? wish_bytes / block_bytes : 0, half = blocks / 2;
    return wish_bytes && wish < half ? wish : half;
}

/* Parts of what the tiers hold, as the engine says. */
static void set_limits(struct app *a)
{
    struct session_limits *l = &a->sessions->table.limits;
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    l->own[1] = blocks_for(a->conf->sessions.dram_bytes, st.tiers.block_bytes, st.tiers.dram_blocks);
    l->own[2] = blocks_for(a->conf->sessions.nvme_bytes, st.tiers.block_bytes, st.tiers.nvme_blocks);
    l->all[1] = st.tiers.dram_blocks / 2;
    l->all[2] = st.tiers.nvme_blocks / 2;
}

struct lost {
    struct app *app;
    uint64_t origins[LOST_MAX];
    uint32_t n;
};

static void grant_changed(void *ctx, struct session *s)
{
    struct lost *l = ctx;
    send_keep(l->app, s);
    if (!(s->kept[1] && s->kept[2]) && l->n < LOST_MAX)
        l->origins[l->n++] = s->wish.origin;
}

/* Forks share blocks: those that are still kept say so after one that is not has spoken. */
static void keep_forks(struct app *a, const struct session_owner *o, uint64_t origin)
{
    for (const struct session *s = o->newest; s; s = s->older)
        if (s->wish.origin == origin && (s->kept[1] || s->kept[2]))
            send_keep(a, s);
}

static void grant(struct app *a, struct session_owner *o)
{
    struct lost l = {.app = a};
    set_limits(a);
    sessions_grant(&a->sessions->table, o, sys.wall_s(), grant_changed, &l);
    for (uint32_t i = 0; i < l.n; i++)
        keep_forks(a, o, l.origins[i]);
}

void app_session_changed(struct app *a, struct session *s)
{
    const struct session_limits *l = &a->sessions->table.limits;
    grant(a, s->owner);
    if (l->all[1] || l->all[2])
        send_keep(a, s); /* its leaf and its time are new, or a suspension has kept it meanwhile */
    if (!(s->kept[1] && s->kept[2]))
        keep_forks(a, s->owner, s->wish.origin);
    note_change(a);
}

static void no_news(void *ctx, struct session *s)
{
    (void)ctx;
    (void)s;
}

/* A new engine, of this daemon or the first, knows nothing of what is to be kept: it hears it a few sessions a tick. */
static void tell_engine(struct app *a)
{
    struct app_sessions *s = a->sessions;
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    if (a->state != APP_READY || st.state != ENGINE_READY)
        return;
    if (s->told != st.restarts + 1) {
        s->told = st.restarts + 1;
        s->tell_from = 1;
        set_limits(a);
        for (struct session_owner *o = s->table.owners; o; o = o->next)
            sessions_grant(&s->table, o, sys.wall_s(), no_news, NULL);
    }
    for (int n = 0; n < TELL_A_TICK && s->tell_from <= s->table.last_id; s->tell_from++) {
        const struct session *t = sessions_by_id(&s->table, s->tell_from);
        if (!t || !(t->kept[1] || t->kept[2]))
            continue;
        send_keep(a, t);
        n++;
    }
}

void app_sessions_tick(struct app *a, uint64_t now_ns)
{
    struct app_sessions *s = a->sessions;
    tell_engine(a);
    if (!s->dirty || s->busy || now_ns - s->since_ns < SAVE_AFTER_NS)
        return;
    for (struct session_owner *o = s->table.owners; o; o = o->next) /* whose TTL is over gives room to others */
        grant(a, o);
    if (s->dir && s->ready)
        start_saving(s);
    s->dirty = false;
}

void app_sessions_close(struct app *a)
{
    struct app_sessions *s = a->sessions;
    struct err e;
    if (!s)
        return;
    tell(s, s->then, -ECANCELED);
    if (s->dirty && s->dir && s->ready) {
        sessions_put(&s->table, &s->bytes);
        if (s->bytes.oom || sessions_file_write(s->dir, &s->bytes, &e) != 0)
            log_warn("sessions write", "error=\"%s\" next=\"changes of the last seconds are lost\"",
                     s->bytes.oom ? "no memory" : e.text);
        str_fini(&s->bytes);
    }
    sessions_fini(&s->table);
    free(s);
    a->sessions = NULL;
}

/* -- names */

struct hash_key app_session_owner(const struct app *a, const struct http_call *c)
{
    struct hash_key none = {{0}};
    int key = a->auth ? auth_check_header(a->auth, http_header(c, "Authorization")) : -1;
    return key >= 0 ? *auth_salt(a->auth, key) : none;
}

int app_session_check_name(const char *name, size_t n, const char *field, struct api_error *e)
{
    if (n == 0 || n > SESSION_NAME_MAX)
        return api_fail(e, 400, "invalid_value", field, "%s of %zu bytes: must be 1 to %d", field, n, SESSION_NAME_MAX);
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            return api_fail(e, 400, "invalid_value", field, "%s: must not hold control characters", field);
    return utf8_valid(name, n) ? 0 : api_fail(e, 400, "invalid_value", field, "%s: must be UTF-8", field);
}

int app_session_name(const struct gen_params *p, const struct http_call *c, const char **out, struct api_error *e)
{
    const char *header = http_header(c, "X-Session-ID");
    const char *const from[] = {p->session_id, header, p->conversation, p->prompt_cache_key};
    static const char *const fields[] = {"session_id", "X-Session-ID", "conversation", "prompt_cache_key"};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++)
        if (from[i] && from[i][0]) {
            *out = from[i];
            return app_session_check_name(from[i], strlen(from[i]), fields[i], e);
        }
    *out = NULL;
    return 0;
}

/* -- requests */

static void note_gone(void *ctx, struct session *s)
{
    struct app *a = ctx;
    s->kept[1] = s->kept[2] = false; /* the numbers are set right when it is dropped */
    send_keep(a, s);
}

struct session *app_session_add(struct app *a, const struct hash_key *owner, const char *name,
                                const struct session_wish *wish)
{
    struct session *s = sessions_add(&a->sessions->table, owner, name, wish, note_gone, a);
    note_change(a);
    return s;
}

void app_session_drop(struct app *a, struct session *s)
{
    struct session_owner *o = s->owner;
    uint64_t origin = s->wish.origin;
    note_gone(a, s);
    sessions_drop(&a->sessions->table, s);
    grant(a, o);
    keep_forks(a, o, origin);
    note_change(a);
}

static void set_retention(struct app *a, struct session_wish *w, enum session_retention r)
{
    w->retention = r;
    w->ttl_s = r == SESSION_24H ? DAY_S : (int64_t)(a->conf->sessions.ttl / 1000);
}

uint64_t app_session_begin(struct app *a, const struct http_call *c, const struct gen_params *p, const char *name,
                           const uint8_t salt[32])
{
    struct sessions_table *t = &a->sessions->table;
    struct hash_key owner = app_session_owner(a, c);
    int64_t now = sys.wall_s();
    struct session *s = sessions_find(t, &owner, name);
    if (!s) {
        struct session_wish w = {.created_s = now, .priority = SESSION_NORMAL};
        set_retention(a, &w, SESSION_DEFAULT);
        s = app_session_add(a, &owner, name, &w);
        if (!s)
            return 0;
    }
    if (p->retention != SESSION_DEFAULT && p->retention != s->wish.retention)
        set_retention(a, &s->wish, p->retention);
    memcpy(s->wish.salt, salt, sizeof s->wish.salt);
    sessions_set_suspended(t, s, false);
    sessions_used(t, s, now);
    sessions_count(t, s, 1, 0);
    note_change(a);
    return s->id;
}

void app_session_leaf(struct app *a, uint64_t id, const struct engine_leaf *leaf)
{
    struct session *s = sessions_by_id(&a->sessions->table, id);
    if (!s)
        return;
    s->leaf = *leaf;
    sessions_used(&a->sessions->table, s, sys.wall_s());
    app_session_changed(a, s);
}

void app_session_end(struct app *a, uint64_t id)
{
    struct session *s = a->sessions ? sessions_by_id(&a->sessions->table, id) : NULL;
    if (s)
        sessions_count(&a->sessions->table, s, -1, 0);
}
