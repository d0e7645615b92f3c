/* jinja - see jinja.h, and jinja_int.h for the files this is made of. */
#include "engine/text/jinja_int.h"

#include "engine/base/sys.h"

#include <stdlib.h>
#include <string.h>

int jinja_compile(struct jinja **out, const char *source, size_t n, struct err *e)
{
    struct jinja *j = NULL;
    struct jtok *tokens = NULL;
    struct jparser p = {.e = e};
    int rc;
    if (n > JINJA_SOURCE_MAX)
        return err_set(e, E2BIG, "chat template: %zu bytes, more than %u", n, JINJA_SOURCE_MAX);
    j = calloc(1, sizeof *j);
    if (!j)
        return err_set(e, ENOMEM, "chat template: no memory");
    j->mem.limit = JINJA_TREE_MAX;
    rc = jlex(&j->mem, source, n, &tokens, e);
    p.j = j;
    p.t = tokens;
    if (rc == 0)
        rc = jparse(&p);
    free(tokens);
    if (rc == 0)
        *out = j;
    else
        jinja_close(j);
    return rc;
}

void jinja_close(struct jinja *j)
{
    if (!j)
        return;
    arena_fini(&j->mem);
    free(j->names);
    free(j);
}

bool jinja_reads(const struct jinja *j, const char *name)
{
    for (size_t i = 0; i < j->n_names; i++)
        if (j->names[i].read && jstr_is(j->names[i].s, name))
            return true;
    return false;
}

/* The globals that the template reads, out of the input. */
static int bind_globals(struct jeval *ev)
{
    for (size_t i = 0; i < ev->j->n_names; i++) {
        const struct jname *name = &ev->j->names[i];
        const struct json_val *v = name->read ? json_get(ev->in->vars, name->s->p) : NULL;
        bool foreign = v != NULL;
        struct jval val;
        if (!v && name->read)
            v = json_get(ev->in->constants, name->s->p);
        if (v && (jval_from_json(ev, v, foreign, &val) != 0 || jscope_set(ev, ev->scope, (uint32_t)i, val) != 0))
            return ev->rc;
    }
    return 0;
}

int jinja_render(const struct jinja *j, const struct jinja_input *in, struct str *out, struct jinja_spans *foreign,
                 struct err *e)
{
    const struct jinja_limits *l = &in->limits;
    struct jeval ev = {.j = j, .in = in, .e = e, .out = out, .foreign = foreign, .out_start = out->len};
    size_t spans = foreign ? foreign->n : 0;
    ev.max_steps = ev.steps = l->steps ? l->steps : 10 * 1000 * 1000;
    ev.max_depth = l->depth ? l->depth : 1000;
    ev.out_max = l->output_bytes ? l->output_bytes : 64u << 20;
    ev.mem.limit = l->memory_bytes ? l->memory_bytes : 256u << 20;
    if (sys.random(ev.hash_key, sizeof ev.hash_key) != 0)
        return err_set(e, EIO, "chat template: no random bytes");
    ev.scope = jscope_new(&ev, NULL);
    int rc = ev.scope ? bind_globals(&ev) : ev.rc;
    if (rc == 0)
        rc = jexec_body(&ev, j->body);
    if (rc < 0) {
        if (out->data)
            str_cut(out, ev.out_start);
        if (foreign)
            foreign->n = spans;
    }
    arena_fini(&ev.mem);
    return rc;
}
