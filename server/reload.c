/* reload - see reload.h. */
#include "server/reload.h"

#include "engine/base/log.h"
#include "server/app.h"

#include <stdlib.h>

#define KEPT "next=\"the keys in force stay\""

struct reload {
    struct worker_job job;
    struct app *app;
    struct auth *fresh;
    struct err e;
    int ret;
    bool again; /* asked for meanwhile */
};

static void read_file(struct worker_job *j)
{
    struct reload *r = (struct reload *)(void *)j;
    r->ret = auth_open(&r->fresh, r->app->conf->auth.key_file, &r->e);
}

/* Also of a pool that closes, when the file may not have been read. */
static void take(struct worker_job *j)
{
    struct reload *r = (struct reload *)(void *)j;
    struct app *a = r->app;
    bool again = r->again;
    if (r->fresh) {
        auth_close(a->auth);
        a->auth = r->fresh;
        log_info("auth reload", "file=%s keys=%zu", a->conf->auth.key_file, auth_count(a->auth));
    } else if (r->ret) {
        log_error("auth reload", "error=\"%s\" " KEPT, r->e.text);
    }
    a->reload = NULL;
    free(r);
    if (again && a->http)
        reload_keys(a);
}

void reload_keys(struct app *a)
{
    if (a->reload) {
        a->reload->again = true;
        return;
    }
    struct reload *r = calloc(1, sizeof *r);
    if (!r) {
        log_error("auth reload", "error=\"out of memory\" " KEPT);
        return;
    }
    *r = (struct reload){.job = {.work = read_file, .done = take}, .app = a};
    if (workers_submit(a->workers, &r->job) != 0) {
        log_error("auth reload", "error=\"too much is being read\" " KEPT);
        free(r);
        return;
    }
    a->reload = r;
}
