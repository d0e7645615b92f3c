/* jinja_test - the tests of `x is name`: all of Jinja2's. */
#include "engine/text/jinja_int.h"

#include <string.h>

static int t_defined(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type != J_UNDEF);
    return 0;
}

static int t_undefined(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_UNDEF);
    return 0;
}

static int t_none(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_NONE);
    return 0;
}

static int t_boolean(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_BOOL);
    return 0;
}

static int t_true(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_BOOL && in.b);
    return 0;
}

static int t_false(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_BOOL && !in.b);
    return 0;
}

static int t_integer(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_INT || in.type == J_BIG);
    return 0;
}

static int t_float(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_FLOAT);
    return 0;
}

static int t_number(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(jis_number(in) || in.type == J_BIG);
    return 0;
}

static int t_string(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_STR);
    return 0;
}

static int t_mapping(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_DICT);
    return 0;
}

static int t_iterable(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(jval_iterable(in) || in.type == J_LOOP);
    return 0;
}

static int t_sequence(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(jval_iterable(in) && in.type != J_VIEW && in.type != J_ITER);
    return 0;
}

static int t_callable(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_MACRO || in.type == J_FUNC || in.type == J_METHOD || in.type == J_LOOP ||
                 in.type == J_UNDEF);
    return 0;
}

static int t_escaped(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_STR && in.s->markup);
    return 0;
}

static int t_lower(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    *out = jbool(s && jstr_cased(s, junicode_upper));
    return ev->rc;
}

static int t_upper(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    const struct jstr *s = jval_str(ev, in);
    *out = jbool(s && jstr_cased(s, junicode_lower));
    return ev->rc;
}

/* in % by == rest */
static int leaves(struct jeval *ev, struct jval in, struct jval by, int64_t rest, struct jval *out)
{
    struct jval mod;
    bool same = false;
    if (jeval_binary(ev, '%', in, by, &mod) != 0 || jval_equal(ev, mod, jint(rest), &same) != 0)
        return ev->rc;
    *out = jbool(same);
    return 0;
}

static int t_odd(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return leaves(ev, in, jint(2), 1, out);
}

static int t_even(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return leaves(ev, in, jint(2), 0, out);
}

static int t_divisibleby(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return leaves(ev, in, c->pos[0], 0, out);
}

static int t_sameas(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    struct jval other = c->pos[0];
    bool same = in.type == other.type;
    if (same && (in.type == J_LIST || in.type == J_TUPLE || in.type == J_DICT))
        same = in.l == other.l;
    else if (same && jval_equal(ev, in, other, &same) != 0)
        return ev->rc;
    *out = jbool(same);
    return 0;
}

static int t_filter(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_STR && jfilter_find(in.s->p, in.s->n));
    return 0;
}

static int t_test(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    *out = jbool(in.type == J_STR && jtest_find(in.s->p, in.s->n));
    return 0;
}

static int compare(struct jeval *ev, enum jcompare_op op, struct jval in, const struct jcall *c, struct jval *out)
{
    bool holds = false;
    if (jval_compare(ev, op, in, c->pos[0], &holds) != 0)
        return ev->rc;
    *out = jbool(holds);
    return 0;
}

static int t_in(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_IN, in, c, out);
}

static int t_eq(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_EQ, in, c, out);
}

static int t_ne(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_NE, in, c, out);
}

static int t_gt(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_GT, in, c, out);
}

static int t_ge(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_GE, in, c, out);
}

static int t_lt(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_LT, in, c, out);
}

static int t_le(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out)
{
    return compare(ev, JC_LE, in, c, out);
}

static const struct jfunc tests[] = {
    {"defined", t_defined, 0, false, {0}},     {"undefined", t_undefined, 0, false, {0}},
    {"none", t_none, 0, false, {0}},           {"boolean", t_boolean, 0, false, {0}},
    {"true", t_true, 0, false, {0}},           {"false", t_false, 0, false, {0}},
    {"integer", t_integer, 0, false, {0}},     {"float", t_float, 0, false, {0}},
    {"number", t_number, 0, false, {0}},       {"string", t_string, 0, false, {0}},
    {"mapping", t_mapping, 0, false, {0}},     {"iterable", t_iterable, 0, false, {0}},
    {"sequence", t_sequence, 0, false, {0}},   {"callable", t_callable, 0, false, {0}},
    {"escaped", t_escaped, 0, false, {0}},     {"lower", t_lower, 0, false, {0}},
    {"upper", t_upper, 0, false, {0}},         {"odd", t_odd, 0, false, {0}},
    {"even", t_even, 0, false, {0}},           {"divisibleby", t_divisibleby, 1, false, {"num"}},
    {"sameas", t_sameas, 1, false, {"other"}}, {"filter", t_filter, 0, false, {0}},
    {"test", t_test, 0, false, {0}},           {"in", t_in, 1, false, {"seq"}},
    {"==", t_eq, 1, false, {"other"}},         {"eq", t_eq, 1, false, {"other"}},
    {"equalto", t_eq, 1, false, {"other"}},    {"!=", t_ne, 1, false, {"other"}},
    {"ne", t_ne, 1, false, {"other"}},         {">", t_gt, 1, false, {"other"}},
    {"gt", t_gt, 1, false, {"other"}},         {"greaterthan", t_gt, 1, false, {"other"}},
    {">=", t_ge, 1, false, {"other"}},         {"ge", t_ge, 1, false, {"other"}},
    {"<", t_lt, 1, false, {"other"}},          {"lt", t_lt, 1, false, {"other"}},
    {"lessthan", t_lt, 1, false, {"other"}},   {"<=", t_le, 1, false, {"other"}},
    {"le", t_le, 1, false, {"other"}},         {0},
};

const struct jfunc *jtest_find(const char *name, size_t n)
{
    for (const struct jfunc *f = tests; f->name; f++)
        if (strlen(f->name) == n && memcmp(f->name, name, n) == 0)
            return f;
    return NULL;
}

int jtest_run(struct jeval *ev, const struct jfunc *f, struct jval in, const struct jcall *c, bool *out)
{
    struct jval v;
    if (jfunc_run(ev, f, in, c, &v) != 0)
        return ev->rc;
    *out = v.b;
    return 0;
}
