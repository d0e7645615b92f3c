/* jinja_eval - expressions to values. One function for each kind of node; every node costs a step and a level of depth,
 * both limited, so that neither a long run nor a deep tree can hurt.
 */
#include "engine/text/jinja_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int jfail(struct jeval *ev, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    for (char *p = text; *p; p++) /* a template may raise with whatever it was given; a sentence has one line */
        *p = (uint8_t)*p < 0x20 ? ' ' : *p;
    if (ev->rc == 0)
        ev->rc = err_set(ev->e, EINVAL, "chat template, line %u: %s", ev->line, text);
    return ev->rc;
}

/* A limit of this render; the text says which. */
static int limit_hit(struct jeval *ev, const char *what, uint64_t max)
{
    if (ev->rc == 0)
        ev->rc = err_set(ev->e, E2BIG, "chat template, line %u: more than %llu %s", ev->line, (unsigned long long)max,
                         what);
    return ev->rc;
}

int joom(struct jeval *ev)
{
    if (ev->mem.limit && ev->mem.used > ev->mem.limit / 2) /* an arena says no without saying why */
        return limit_hit(ev, "bytes of memory", ev->mem.limit);
    if (ev->rc == 0)
        ev->rc = err_set(ev->e, ENOMEM, "chat template: no memory");
    return ev->rc;
}

void *jalloc(struct jeval *ev, size_t count, size_t size)
{
    if (size && count > ev->mem.limit / size) {
        limit_hit(ev, "bytes of memory", ev->mem.limit);
        return NULL;
    }
    void *p = arena_alloc(&ev->mem, count * size);
    if (!p && count * size > ev->mem.limit - ev->mem.used)
        limit_hit(ev, "bytes of memory", ev->mem.limit);
    else if (!p)
        joom(ev);
    return p;
}

int jcharge(struct jeval *ev, size_t steps)
{
    if (ev->rc < 0)
        return ev->rc;
    if (steps > ev->steps)
        return limit_hit(ev, "steps", ev->max_steps);
    ev->steps -= steps;
    return 0;
}

int jenter(struct jeval *ev)
{
    if (jcharge(ev, 1) != 0)
        return ev->rc;
    if (ev->depth == ev->max_depth)
        return limit_hit(ev, "levels of nesting", ev->max_depth);
    ev->depth++;
    return 0;
}

/* --- plain nodes --- */
static int eval_const(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    *out = n->value;
    return 0;
}

static int eval_name(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    return jscope_get(ev, n->name, out);
}

static int eval_items(struct jeval *ev, const struct jnode *n, struct jlist *l)
{
    size_t i = 0;
    for (const struct jnode *item = n; item; item = item->next)
        if (jeval_expr(ev, item, &l->v[i++]) != 0)
            return ev->rc;
    return 0;
}

static int eval_list(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jlist *l = jlist_new(ev, n->list.n);
    *out = jlist_val(n->type == JN_LIST ? J_LIST : J_TUPLE, l);
    return l ? eval_items(ev, n->list.items, l) : ev->rc;
}

static int eval_dict(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jdict *d = jdict_new(ev, n->list.n / 2);
    for (const struct jnode *k = n->list.items; d && k; k = k->next->next) {
        struct jval key, val;
        if (jeval_expr(ev, k, &key) != 0 || jeval_expr(ev, k->next, &val) != 0 || jdict_set(ev, d, key, val) != 0)
            return ev->rc;
    }
    *out = (struct jval){.type = J_DICT, .d = d};
    return ev->rc;
}

static int eval_attr(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval obj;
    if (jeval_expr(ev, n->attr.of, &obj) != 0)
        return ev->rc;
    ev->line = n->line;
    return jattr_get(ev, obj, n->attr.name, out);
}

static int eval_item(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    const struct jnode *key = n->op3.b, *part[3] = {key->op3.a, key->op3.b, key->op3.c};
    struct jval obj, bound[3] = {{0}};
    if (jeval_expr(ev, n->op3.a, &obj) != 0)
        return ev->rc;
    if (key->type != JN_SLICE) {
        if (jeval_expr(ev, key, &bound[0]) != 0)
            return ev->rc;
        ev->line = n->line;
        return jattr_item(ev, obj, bound[0], out);
    }
    for (int i = 0; i < 3; i++)
        if (part[i] && jeval_expr(ev, part[i], &bound[i]) != 0)
            return ev->rc;
    ev->line = n->line;
    return jattr_slice(ev, obj, bound, out);
}

static int eval_slice(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    return jfail(ev, "slices of several dimensions are not supported");
}

/* --- operators --- */
static int eval_not(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval v;
    bool truth;
    if (jeval_expr(ev, n->op3.a, &v) != 0 || jval_truth(ev, v, &truth) != 0)
        return ev->rc;
    *out = jbool(!truth);
    return 0;
}

static int eval_sign(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval v;
    if (jeval_expr(ev, n->op3.a, &v) != 0)
        return ev->rc;
    if (v.type == J_UNDEF)
        return jfail_undefined(ev, v);
    if (!jis_number(v))
        return jfail(ev, "bad operand type for unary %c: '%s'", n->type == JN_NEG ? '-' : '+', jtype_name(v));
    if (v.type == J_FLOAT)
        *out = jfloat(n->type == JN_NEG ? -v.f : v.f);
    else if (n->type == JN_NEG && jas_int(v) == INT64_MIN)
        return jfail(ev, "an integer is beyond 64 bits");
    else
        *out = jint(n->type == JN_NEG ? -jas_int(v) : jas_int(v));
    return 0;
}

static int eval_and_or(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    bool truth;
    if (jeval_expr(ev, n->op3.a, out) != 0 || jval_truth(ev, *out, &truth) != 0)
        return ev->rc;
    return truth == (n->type == JN_AND) ? jeval_expr(ev, n->op3.b, out) : 0;
}

static int eval_cond(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval test;
    bool truth;
    if (jeval_expr(ev, n->op3.a, &test) != 0 || jval_truth(ev, test, &truth) != 0)
        return ev->rc;
    if (truth || n->op3.c)
        return jeval_expr(ev, truth ? n->op3.b : n->op3.c, out);
    *out = jundef_hint(ev, "the inline if-expression evaluated to false and no else section was defined");
    return ev->rc;
}

static int eval_compare(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval left, right;
    bool holds = true;
    if (jeval_expr(ev, n->list.items, &left) != 0)
        return ev->rc;
    for (const struct jnode *o = n->list.items->next; o && holds; o = o->next) {
        if (jeval_expr(ev, o, &right) != 0)
            return ev->rc;
        ev->line = n->line;
        if (jval_compare(ev, (enum jcompare_op)o->flag, left, right, &holds) != 0)
            return ev->rc;
        left = right;
    }
    *out = jbool(holds);
    return 0;
}

static int eval_concat(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jtext t;
    struct jlist *l = jlist_new(ev, n->list.n);
    if (!l || eval_items(ev, n->list.items, l) != 0)
        return ev->rc;
    const struct jstr *first = jval_str(ev, l->v[0]);
    if (!first)
        return ev->rc;
    jtext_resume(&t, ev, first, 0);
    for (size_t i = 1; i < l->n && ev->rc == 0; i++)
        jtext_str(&t, jval_str(ev, l->v[i]));
    *out = jstring(jtext_done(&t));
    return ev->rc;
}

/* --- arithmetic --- */
static int float_op(struct jeval *ev, uint16_t op, double a, double b, struct jval *out)
{
    if (b == 0 && (op == '/' || op == '%' || op == JOP2('/', '/')))
        return jfail(ev, "division by zero");
    double mod = fmod(a, b);
    if (mod != 0 && (mod < 0) != (b < 0))
        mod += b;
    switch (op) {
    case '+':
        *out = jfloat(a + b);
        return 0;
    case '-':
        *out = jfloat(a - b);
        return 0;
    case '*':
        *out = jfloat(a * b);
        return 0;
    case '/':
        *out = jfloat(a / b);
        return 0;
    case '%':
        *out = jfloat(mod);
        return 0;
    case JOP2('/', '/'):
        *out = jfloat(round((a - mod) / b));
        return 0;
    default:
        if ((a == 0 && b < 0) || (a < 0 && b != floor(b)))
            return jfail(ev, "a power that is no real number");
        *out = jfloat(pow(a, b));
        return 0;
    }
}

/* a ** b for b >= 0; false when it needs more than 64 bits. */
static bool int_power(int64_t a, int64_t b, int64_t *out)
{
    *out = 1;
    for (; b > 0; b >>= 1) {
        if ((b & 1) && __builtin_mul_overflow(*out, a, out))
            return false;
        if (b > 1 && __builtin_mul_overflow(a, a, &a))
            return false;
    }
    return true;
}

static int int_op(struct jeval *ev, uint16_t op, int64_t a, int64_t b, struct jval *out)
{
    int64_t r = 0;
    bool fits = true;
    if ((op == '/') || (op == JOP2('*', '*') && b < 0))
        return float_op(ev, op, (double)a, (double)b, out);
    if (b == 0 && (op == '%' || op == JOP2('/', '/')))
        return jfail(ev, "integer division or modulo by zero");
    if (op == '+')
        fits = !__builtin_add_overflow(a, b, &r);
    else if (op == '-')
        fits = !__builtin_sub_overflow(a, b, &r);
    else if (op == '*')
        fits = !__builtin_mul_overflow(a, b, &r);
    else if (op == JOP2('*', '*'))
        fits = int_power(a, b, &r);
    else if (b == -1) /* the one quotient that can overflow */
        fits = op == '%' || !__builtin_sub_overflow(0, a, &r);
    else if (op == '%')
        r = a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    else
        r = a / b - (a % b != 0 && (a < 0) != (b < 0));
    *out = jint(r);
    return fits ? 0 : jfail(ev, "an integer is beyond 64 bits");
}

static int add_strings(struct jeval *ev, const struct jstr *a, const struct jstr *b, struct jval *out)
{
    struct jtext t;
    bool markup = a->markup || b->markup;
    if (markup) { /* what is not markup is escaped */
        a = jstr_escape(ev, a);
        b = jstr_escape(ev, b);
        if (!a || !b)
            return ev->rc;
    }
    jtext_resume(&t, ev, a, b->n);
    jtext_str(&t, b);
    *out = jstring(jstr_markup(ev, jtext_done(&t), markup));
    return ev->rc;
}

static int add_lists(struct jeval *ev, struct jval a, struct jval b, struct jval *out)
{
    struct jlist *l = jlist_new(ev, a.l->n + b.l->n);
    if (!l)
        return ev->rc;
    memcpy(l->v, a.l->v, a.l->n * sizeof *l->v);
    memcpy(l->v + a.l->n, b.l->v, b.l->n * sizeof *l->v);
    *out = jlist_val((enum jtype)a.type, l);
    return 0;
}

/* A string, list or tuple `times` times. */
static int repeat(struct jeval *ev, struct jval v, int64_t times, struct jval *out)
{
    size_t count = times > 0 ? (size_t)times : 0;
    if (v.type == J_STR) {
        struct jtext t;
        if (count && v.s->n > ev->mem.limit / count)
            return limit_hit(ev, "bytes of memory", ev->mem.limit);
        jtext_start(&t, ev);
        for (size_t i = 0; i < count && v.s->n && jcharge(ev, 1) == 0; i++)
            jtext_str(&t, v.s);
        *out = jstring(jtext_done(&t));
        return ev->rc;
    }
    if (count && v.l->n > ev->mem.limit / sizeof v / count)
        return limit_hit(ev, "bytes of memory", ev->mem.limit);
    struct jlist *l = jlist_new(ev, v.l->n * count);
    for (size_t i = 0; l && i < l->n; i++)
        l->v[i] = v.l->v[i % v.l->n];
    *out = jlist_val((enum jtype)v.type, l);
    return ev->rc;
}

static bool repeats(struct jval v)
{
    return v.type == J_STR || v.type == J_LIST || v.type == J_TUPLE;
}

int jeval_binary(struct jeval *ev, uint16_t op, struct jval a, struct jval b, struct jval *out)
{
    if (jis_number(a) && jis_number(b)) {
        if (a.type == J_FLOAT || b.type == J_FLOAT)
            return float_op(ev, op, jas_double(a), jas_double(b), out);
        return int_op(ev, op, jas_int(a), jas_int(b), out);
    }
    if (a.type == J_STR && op == '%')
        return jformat_percent(ev, a.s, b, out);
    if (a.type == J_UNDEF || b.type == J_UNDEF)
        return jfail_undefined(ev, a.type == J_UNDEF ? a : b);
    if (op == '+' && a.type == J_STR && b.type == J_STR)
        return add_strings(ev, a.s, b.s, out);
    if (op == '+' && a.type == b.type && (a.type == J_LIST || a.type == J_TUPLE))
        return add_lists(ev, a, b, out);
    if (op == '*' && repeats(a) && jis_integer(b))
        return repeat(ev, a, jas_int(b), out);
    if (op == '*' && repeats(b) && jis_integer(a))
        return repeat(ev, b, jas_int(a), out);
    if (a.type == J_BIG || b.type == J_BIG)
        return jfail(ev, "an integer is beyond 64 bits");
    const char text[3] = {(char)op, (char)(op >> 8), 0};
    return jfail(ev, "unsupported operand types for %s: '%s' and '%s'", text, jtype_name(a), jtype_name(b));
}

static int eval_binary(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval a, b;
    if (jeval_expr(ev, n->op3.a, &a) != 0 || jeval_expr(ev, n->op3.b, &b) != 0)
        return ev->rc;
    ev->line = n->line;
    return jeval_binary(ev, n->op, a, b, out);
}

/* --- calls --- */

/* Add what *args and **kwargs hold to a call whose written arguments are evaluated. */
static int eval_stars(struct jeval *ev, const struct jargs *a, struct jcall *c)
{
    struct jval star = {0}, map = {0};
    if ((a->star && jeval_expr(ev, a->star, &star) != 0) || (a->star_star && jeval_expr(ev, a->star_star, &map) != 0))
        return ev->rc;
    struct jlist *more = a->star ? jval_items(ev, star) : NULL;
    if (a->star_star && map.type != J_DICT)
        return jfail(ev, "argument after ** must be a mapping, not %s", jtype_name(map));
    size_t n_pos = more ? more->n : 0, n_kw = a->star_star ? map.d->n : 0;
    struct jval *pos = jalloc(ev, c->n_pos + n_pos, sizeof *pos);
    struct jkw *kw = jalloc(ev, c->n_kw + n_kw, sizeof *kw);
    if (!pos || !kw || ev->rc < 0)
        return ev->rc;
    memcpy(pos, c->pos, c->n_pos * sizeof *pos);
    memcpy(kw, c->kw, c->n_kw * sizeof *kw);
    c->pos = pos;
    c->kw = kw;
    for (size_t i = 0; i < n_pos; i++)
        c->pos[c->n_pos++] = more->v[i];
    for (size_t i = 0; i < n_kw; i++) {
        if (map.d->p[i].key.type != J_STR)
            return jfail(ev, "keywords must be strings");
        c->kw[c->n_kw++] = (struct jkw){map.d->p[i].key.s, map.d->p[i].val};
    }
    return 0;
}

int jeval_args(struct jeval *ev, const struct jargs *a, struct jcall *c)
{
    /* one keyword more than written: a call block adds its caller */
    *c = (struct jcall){.pos = jalloc(ev, a->n_pos, sizeof *c->pos), .kw = jalloc(ev, a->n_kw + 1, sizeof *c->kw)};
    if (!c->pos || !c->kw)
        return ev->rc;
    for (const struct jnode *n = a->pos; n; n = n->next)
        if (jeval_expr(ev, n, &c->pos[c->n_pos++]) != 0)
            return ev->rc;
    for (const struct jnode *n = a->kw; n; n = n->next) {
        c->kw[c->n_kw].name = n->attr.name;
        if (jeval_expr(ev, n->attr.of, &c->kw[c->n_kw++].val) != 0)
            return ev->rc;
    }
    return a->star || a->star_star ? eval_stars(ev, a, c) : 0;
}

/* Put the arguments of c where f has its parameters. */
static int bind(struct jeval *ev, const struct jfunc *f, const struct jcall *c, struct jval bound[JFUNC_PARAMS])
{
    size_t n = 0;
    while (f->params[n])
        n++;
    if (c->n_pos > n)
        return jfail(ev, "%s takes at most %zu arguments, %zu are given", f->name, n, c->n_pos);
    for (size_t i = 0; i < c->n_pos; i++)
        bound[i] = c->pos[i];
    for (size_t i = 0; i < c->n_kw; i++) {
        size_t k = 0;
        while (k < n && !jstr_is(c->kw[i].name, f->params[k]))
            k++;
        if (k == n || bound[k].type != J_ABSENT)
            return jfail(ev, "%s: unexpected argument '%.*s'", f->name, jclip(c->kw[i].name->n), c->kw[i].name->p);
        bound[k] = c->kw[i].val;
    }
    for (size_t i = 0; i < f->required; i++)
        if (bound[i].type == J_ABSENT)
            return jfail(ev, "%s: the argument '%s' is missing", f->name, f->params[i]);
    return 0;
}

int jfunc_run(struct jeval *ev, const struct jfunc *f, struct jval self, const struct jcall *c, struct jval *out)
{
    struct jval bound[JFUNC_PARAMS] = {{0}};
    const struct jcall as_bound = {.pos = bound, .n_pos = JFUNC_PARAMS};
    if (!f->run)
        return jfail(ev, "%s is not supported", f->name);
    if (f->free_form)
        return f->run(ev, self, c, out);
    if (bind(ev, f, c, bound) != 0)
        return ev->rc;
    return f->run(ev, self, &as_bound, out);
}

int jeval_call(struct jeval *ev, struct jval callee, const struct jcall *c, struct jval *out)
{
    switch (callee.type) {
    case J_UNDEF:
        return jfail_undefined(ev, callee);
    case J_MACRO:
        return jexec_macro(ev, callee.macro, c, out);
    case J_FUNC:
        return jfunc_run(ev, callee.func, (struct jval){0}, c, out);
    case J_METHOD:
        return jfunc_run(ev, callee.bound->func, callee.bound->self, c, out);
    case J_LOOP:
        return jloop_call(ev, callee.loop, c, out);
    default:
        return jfail(ev, "'%s' object is not callable", jtype_name(callee));
    }
}

static int eval_call(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jval callee;
    struct jcall c;
    if (jeval_expr(ev, n->call.of, &callee) != 0 || jeval_args(ev, &n->call.args, &c) != 0)
        return ev->rc;
    ev->line = n->line;
    return jeval_call(ev, callee, &c, out);
}

static int unknown(struct jeval *ev, const struct jnode *n)
{
    return jfail(ev, "no %s named '%.*s'", n->type == JN_FILTER ? "filter" : "test", jclip(n->call.name->n),
                 n->call.name->p);
}

int jeval_filter(struct jeval *ev, const struct jnode *n, struct jval in, struct jval *out)
{
    struct jcall c;
    if (n->call.of && jeval_filter(ev, n->call.of, in, &in) != 0) /* a chain on a block: its start has no `of` */
        return ev->rc;
    if (jeval_args(ev, &n->call.args, &c) != 0)
        return ev->rc;
    ev->line = n->line;
    return n->call.func ? jfunc_run(ev, n->call.func, in, &c, out) : unknown(ev, n);
}

static int eval_filter_test(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    struct jcall c;
    struct jval in;
    bool holds;
    if (jeval_expr(ev, n->call.of, &in) != 0 || jeval_args(ev, &n->call.args, &c) != 0)
        return ev->rc;
    ev->line = n->line;
    if (!n->call.func)
        return unknown(ev, n);
    if (n->type == JN_FILTER)
        return jfunc_run(ev, n->call.func, in, &c, out);
    if (jtest_run(ev, n->call.func, in, &c, &holds) != 0)
        return ev->rc;
    *out = jbool(holds);
    return 0;
}

int jeval_expr(struct jeval *ev, const struct jnode *n, struct jval *out)
{
    static int (*const eval[JN_TYPES])(struct jeval * ev, const struct jnode *n, struct jval *out) = {
        [JN_CONST] = eval_const, [JN_NAME] = eval_name,          [JN_LIST] = eval_list,        [JN_TUPLE] = eval_list,
        [JN_DICT] = eval_dict,   [JN_ATTR] = eval_attr,          [JN_ITEM] = eval_item,        [JN_SLICE] = eval_slice,
        [JN_CALL] = eval_call,   [JN_FILTER] = eval_filter_test, [JN_TEST] = eval_filter_test, [JN_NOT] = eval_not,
        [JN_NEG] = eval_sign,    [JN_POS] = eval_sign,           [JN_BINARY] = eval_binary,    [JN_AND] = eval_and_or,
        [JN_OR] = eval_and_or,   [JN_COMPARE] = eval_compare,    [JN_CONCAT] = eval_concat,    [JN_COND] = eval_cond};
    if (jenter(ev) != 0)
        return ev->rc;
    ev->line = n->line;
    int rc = eval[n->type](ev, n, out);
    ev->depth--;
    return rc;
}
