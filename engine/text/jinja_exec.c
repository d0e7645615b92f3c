/* jinja_exec - statements: output, variables, blocks, macros.
 *
 * Variables live in a chain of scopes, as Jinja2's compiler resolves them: a loop turn, macro, call block, set block,
 * filter block and `with` have their own; `if` has none. A macro sees the scope it was defined in, as it is when
 * called.
 */
#include "engine/text/jinja_int.h"

#include "engine/base/vec.h"

#include <string.h>

/* --- scopes --- */
struct jscope *jscope_new(struct jeval *ev, struct jscope *parent)
{
    struct jscope *s = jalloc(ev, 1, sizeof *s);
    if (s)
        s->parent = parent;
    return s;
}

int jscope_set(struct jeval *ev, struct jscope *s, uint32_t name, struct jval v)
{
    size_t i = 0;
    while (i < s->n && s->v[i].name != name)
        i++;
    if (i == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 4;
        struct jbind *more = jalloc(ev, cap, sizeof *more);
        if (!more)
            return ev->rc;
        if (s->n)
            memcpy(more, s->v, s->n * sizeof *more);
        s->v = more;
        s->cap = cap;
    }
    s->v[i] = (struct jbind){name, v};
    s->n += i == s->n;
    return jcharge(ev, i / 16);
}

int jscope_get(struct jeval *ev, uint32_t name, struct jval *out)
{
    size_t looked_at = 0;
    for (const struct jscope *s = ev->scope; s; s = s->parent) {
        for (size_t i = 0; i < s->n; i++)
            if (s->v[i].name == name) {
                *out = s->v[i].val;
                return jcharge(ev, (looked_at + i) / 16);
            }
        looked_at += s->n + 1;
    }
    const struct jname *n = &ev->j->names[name];
    if (n->global)
        *out = (struct jval){.type = J_FUNC, .func = n->global};
    else
        *out = (struct jval){.type = J_UNDEF, .of = J_ABSENT, .s = n->s};
    return jcharge(ev, looked_at / 16);
}

/* --- output --- */
static int add_span(struct jeval *ev, size_t from, size_t to)
{
    struct jinja_spans *sp = ev->foreign;
    if (sp->n && sp->v[sp->n - 1].to == from) {
        sp->v[sp->n - 1].to = to;
        return 0;
    }
    if (vec_grow(&sp->v, &sp->cap, sp->n + 1, sizeof *sp->v) != 0)
        return joom(ev);
    sp->v[sp->n++] = (struct jinja_span){from, to};
    return 0;
}

static int emit_out(struct jeval *ev, const struct jstr *s)
{
    size_t at = ev->out->len;
    if (s->n > ev->out_max - (at - ev->out_start)) {
        ev->rc = err_set(ev->e, E2BIG, "chat template, line %u: more than %zu bytes of output", ev->line, ev->out_max);
        return ev->rc;
    }
    str_add(ev->out, s->p, s->n);
    if (ev->out->oom)
        return joom(ev);
    for (size_t i = 0, to; ev->foreign && i < s->n && ev->rc == 0; i = to) { /* runs of one kind */
        bool foreign = jstr_foreign_at(s, i);
        for (to = s->mask ? i + 1 : s->n; to < s->n && jstr_foreign_at(s, to) == foreign;)
            to++;
        if (foreign)
            add_span(ev, at + i, at + to);
    }
    return jcharge(ev, s->n / 64);
}

int jemit(struct jeval *ev, const struct jstr *s)
{
    if (!s || ev->rc < 0)
        return ev->rc;
    if (!ev->capture)
        return emit_out(ev, s);
    jtext_str(ev->capture, s);
    return ev->rc;
}

int jexec_scoped(struct jeval *ev, const struct jnode *body, struct jscope *scope)
{
    struct jscope *outer = ev->scope;
    if (!scope)
        return ev->rc;
    ev->scope = scope;
    int rc = jexec_body(ev, body);
    ev->scope = outer;
    return rc;
}

int jexec_capture(struct jeval *ev, const struct jnode *body, struct jscope *scope, struct jval *out)
{
    struct jtext t, *outer = ev->capture;
    jtext_start(&t, ev);
    ev->capture = &t;
    int rc = jexec_scoped(ev, body, scope);
    ev->capture = outer;
    if (rc == 0)
        *out = jstring(jtext_done(&t));
    return rc ? rc : ev->rc;
}

/* --- assignment --- */
static int assign_tuple(struct jeval *ev, const struct jnode *target, struct jval v)
{
    struct jlist *l = jval_items(ev, v);
    size_t i = 0;
    if (!l)
        return ev->rc;
    if (l->n != target->list.n)
        return jfail(ev, "%zu values to unpack into %u names", l->n, target->list.n);
    for (const struct jnode *t = target->list.items; t && ev->rc == 0; t = t->next)
        jexec_assign(ev, t, l->v[i++]);
    return ev->rc;
}

int jexec_assign(struct jeval *ev, const struct jnode *target, struct jval v)
{
    struct jval ns;
    if (target->type == JN_NAME)
        return jscope_set(ev, ev->scope, target->name, v);
    if (target->type == JN_TUPLE)
        return assign_tuple(ev, target, v);
    if (jscope_get(ev, target->ref.ns, &ns) != 0)
        return ev->rc;
    if (ns.type != J_NAMESPACE)
        return jfail(ev, "cannot assign attribute on non-namespace object");
    return jdict_set(ev, ns.d, jstring(target->ref.name), v);
}

/* --- macros --- */
static struct jval *take_keyword(const struct jcall *c, bool *taken, const struct jstr *name)
{
    for (size_t i = 0; i < c->n_kw; i++)
        if (!taken[i] && jstr_equal(c->kw[i].name, name)) {
            taken[i] = true;
            return &c->kw[i].val;
        }
    return NULL;
}

static int bind_rest(struct jeval *ev, const struct jsig *sig, const struct jcall *c, bool *taken)
{
    const struct jinja *j = ev->j;
    struct jval *caller = sig->uses & JSIG_CALLER ? take_keyword(c, taken, j->names[j->id_caller].s) : NULL;
    if (sig->uses & JSIG_CALLER)
        jscope_set(ev, ev->scope, j->id_caller, caller ? *caller : jundef_hint(ev, "no caller defined"));
    struct jdict *rest = jdict_new(ev, 0);
    for (size_t i = 0; rest && i < c->n_kw; i++) {
        if (taken[i])
            continue;
        if (!(sig->uses & JSIG_KWARGS))
            return jfail(ev, "a macro takes no keyword argument '%.*s'", jclip(c->kw[i].name->n), c->kw[i].name->p);
        jdict_set(ev, rest, jstring(c->kw[i].name), c->kw[i].val);
    }
    if (sig->uses & JSIG_KWARGS)
        jscope_set(ev, ev->scope, j->id_kwargs, (struct jval){.type = J_DICT, .d = rest});
    if (!(sig->uses & JSIG_VARARGS))
        return c->n_pos > sig->n ? jfail(ev, "a macro takes not more than %u arguments", sig->n) : ev->rc;
    struct jlist *more = jlist_new(ev, c->n_pos > sig->n ? c->n_pos - sig->n : 0);
    for (size_t i = 0; more && i < more->n; i++)
        more->v[i] = c->pos[sig->n + i];
    return jscope_set(ev, ev->scope, j->id_varargs, jlist_val(J_TUPLE, more));
}

/* The arguments of a call, in the macro's own scope, which is current. Defaults may name earlier arguments. */
static int bind_args(struct jeval *ev, const struct jsig *sig, const struct jcall *c)
{
    bool *taken = jalloc(ev, c->n_kw, sizeof *taken), *absent = jalloc(ev, sig->n, sizeof *absent);
    if (!taken || !absent)
        return ev->rc;
    for (uint32_t i = 0; i < sig->n; i++) {
        struct jval v = i < c->n_pos ? c->pos[i] : (struct jval){0};
        struct jval *kw = i < c->n_pos ? NULL : take_keyword(c, taken, ev->j->names[sig->names[i]].s);
        absent[i] = i >= c->n_pos && !kw;
        if (kw)
            v = *kw;
        else if (absent[i])
            v = (struct jval){.type = J_UNDEF, .of = J_ABSENT, .s = ev->j->names[sig->names[i]].s};
        if (jscope_set(ev, ev->scope, sig->names[i], v) != 0)
            return ev->rc;
    }
    if (bind_rest(ev, sig, c, taken) != 0)
        return ev->rc;
    for (uint32_t i = 0; i < sig->n; i++) {
        struct jval v;
        if (absent[i] && sig->defaults[i] &&
            (jeval_expr(ev, sig->defaults[i], &v) != 0 || jscope_set(ev, ev->scope, sig->names[i], v) != 0))
            return ev->rc;
    }
    return 0;
}

int jexec_macro(struct jeval *ev, struct jmacro *m, const struct jcall *c, struct jval *out)
{
    struct jscope *outer = ev->scope, *s = jscope_new(ev, m->scope);
    uint32_t line = ev->line;
    if (!s || jenter(ev) != 0)
        return ev->rc;
    ev->scope = s;
    int rc = bind_args(ev, &m->node->macro.sig, c);
    ev->scope = outer;
    if (rc == 0)
        rc = jexec_capture(ev, m->node->macro.body, s, out);
    ev->depth--;
    ev->line = rc ? ev->line : line;
    return rc;
}

static struct jval make_macro(struct jeval *ev, const struct jnode *n)
{
    struct jmacro *m = jalloc(ev, 1, sizeof *m);
    if (m)
        *m = (struct jmacro){n, ev->scope};
    return (struct jval){.type = m ? J_MACRO : J_ABSENT, .macro = m};
}

/* --- statements --- */
static int exec_text(struct jeval *ev, const struct jnode *n)
{
    return jemit(ev, n->value.s);
}

static int exec_print(struct jeval *ev, const struct jnode *n)
{
    struct jval v;
    if (jeval_expr(ev, n->expr, &v) != 0)
        return ev->rc;
    return jemit(ev, jval_str(ev, v));
}

static int exec_if(struct jeval *ev, const struct jnode *n)
{
    for (const struct jnode *b = n->branch.body; b; b = b->next) {
        struct jval v;
        bool truth = true;
        if (b->branch.test && (jeval_expr(ev, b->branch.test, &v) != 0 || jval_truth(ev, v, &truth) != 0))
            return ev->rc;
        if (truth)
            return jexec_body(ev, b->branch.body);
    }
    return 0;
}

static int exec_set(struct jeval *ev, const struct jnode *n)
{
    struct jval v;
    if (jeval_expr(ev, n->set.value, &v) != 0)
        return ev->rc;
    return jexec_assign(ev, n->set.target, v);
}

static int exec_set_block(struct jeval *ev, const struct jnode *n)
{
    struct jval v;
    int rc = jexec_capture(ev, n->set.body, jscope_new(ev, ev->scope), &v);
    if (rc == 0 && n->set.filter)
        rc = jeval_filter(ev, n->set.filter, v, &v);
    return rc ? rc : jexec_assign(ev, n->set.target, v);
}

static int exec_filter_block(struct jeval *ev, const struct jnode *n)
{
    struct jval v;
    int rc = jexec_capture(ev, n->set.body, jscope_new(ev, ev->scope), &v);
    if (rc == 0)
        rc = jeval_filter(ev, n->set.filter, v, &v);
    return rc ? rc : jemit(ev, jval_str(ev, v));
}

static int exec_with(struct jeval *ev, const struct jnode *n)
{
    struct jscope *outer = ev->scope, *s = jscope_new(ev, outer);
    for (const struct jnode *pair = n->set.value; s && pair && ev->rc == 0; pair = pair->next) {
        struct jval v;
        if (jeval_expr(ev, pair->set.value, &v) != 0)
            return ev->rc;
        ev->scope = s;
        jexec_assign(ev, pair->set.target, v);
        ev->scope = outer;
    }
    return ev->rc < 0 ? ev->rc : jexec_scoped(ev, n->set.body, s);
}

static int exec_scope(struct jeval *ev, const struct jnode *n)
{
    return jexec_scoped(ev, n->branch.body, jscope_new(ev, ev->scope));
}

static int exec_macro(struct jeval *ev, const struct jnode *n)
{
    struct jval m = make_macro(ev, n);
    return ev->rc < 0 ? ev->rc : jscope_set(ev, ev->scope, n->macro.name, m);
}

static int exec_call_block(struct jeval *ev, const struct jnode *n)
{
    const struct jnode *call = n->macro.call;
    struct jval callee, v, caller = make_macro(ev, n);
    struct jcall c;
    if (ev->rc < 0 || jeval_expr(ev, call->call.of, &callee) != 0 || jeval_args(ev, &call->call.args, &c) != 0)
        return ev->rc;
    c.kw[c.n_kw++] = (struct jkw){ev->j->names[ev->j->id_caller].s, caller};
    if (jeval_call(ev, callee, &c, &v) != 0)
        return ev->rc;
    return jemit(ev, jval_str(ev, v));
}

static int exec_break(struct jeval *ev, const struct jnode *n)
{
    return JFLOW_BREAK;
}

static int exec_continue(struct jeval *ev, const struct jnode *n)
{
    return JFLOW_CONTINUE;
}

int jexec_body(struct jeval *ev, const struct jnode *first)
{
    static int (*const exec[JN_TYPES])(struct jeval * ev,
                                       const struct jnode *n) = {[JN_TEXT] = exec_text,
                                                                 [JN_PRINT] = exec_print,
                                                                 [JN_IF] = exec_if,
                                                                 [JN_FOR] = jexec_for,
                                                                 [JN_SET] = exec_set,
                                                                 [JN_SET_BLOCK] = exec_set_block,
                                                                 [JN_MACRO] = exec_macro,
                                                                 [JN_CALL_BLOCK] = exec_call_block,
                                                                 [JN_FILTER_BLOCK] = exec_filter_block,
                                                                 [JN_WITH] = exec_with,
                                                                 [JN_SCOPE] = exec_scope,
                                                                 [JN_BREAK] = exec_break,
                                                                 [JN_CONTINUE] = exec_continue};
    int rc = 0;
    if (jenter(ev) != 0)
        return ev->rc;
    for (const struct jnode *n = first; n && rc == 0; n = n->next) {
        ev->line = n->line;
        rc = jcharge(ev, 1);
        if (rc == 0)
            rc = exec[n->type](ev, n);
    }
    ev->depth--;
    return rc;
}
