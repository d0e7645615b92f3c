/* jinja_int - the Jinja engine within: its files, and the state of one render.
 *
 *     jinja_val.h     values                              jinja_tree.h     tokens and nodes
 *     jinja_lex.c     source -> tokens                    jinja_eval.c     expressions -> values
 *     jinja_parse.c   tokens -> statements                jinja_exec.c     statements, macros, assignment
 *     jinja_expr.c    tokens -> expressions               jinja_loop.c     for loops and `loop`
 *     jinja_text.c    strings, provenance, text builder   jinja_attr.c     x.y, x[y], slices
 *     jinja_value.c   truth, equality, order, length      jinja_method.c   methods of strings, dicts, lists
 *     jinja_data.c    lists, dicts, values out of JSON    jinja_split.c    methods that cut strings up
 *     jinja_repr.c    str(), repr(), tojson               jinja_filter*.c  filters
 *     jinja_format.c  "%s" % x and "{}".format(x)         jinja_test.c     tests
 *     jinja_unicode.c case and classes of characters      jinja_global.c   range, dict, namespace, ...
 *
 * Results: functions return 0 or -errno, or a pointer that is NULL on failure; either way the sentence is in ev->e and
 * the code in ev->rc, which is sticky: once it is negative nothing more happens, so builders check it once at the end.
 */
#ifndef HEARTH_TEXT_JINJA_INT_H
#define HEARTH_TEXT_JINJA_INT_H

#include "engine/text/jinja.h"
#include "engine/text/jinja_tree.h"
#include "engine/text/jinja_val.h"

#include <errno.h>

#define JINJA_RANGE_MAX 100000 /* of Jinja2's sandbox */

/* --- one render --- */
struct jscope {
    struct jscope *parent;
    struct jbind {
        uint32_t name;
        struct jval val;
    } * v;
    size_t n, cap;
};

struct jmacro {
    const struct jnode *node;
    struct jscope *scope; /* where it was defined */
};

struct jloop {
    struct jlist *items;
    size_t *at; /* next in items: in the list when that can be walked once, else own_at */
    size_t own_at;
    const struct jnode *node; /* its test filters the items */
    struct jscope *scope;     /* the loop stands in */
    bool filtered, has_ahead, has_changed;
    bool completed;                        /* a turn ran to its end */
    struct jval ahead, cur, prev, changed; /* ahead: taken from items, not yet visited */
    int64_t index0, length, depth0;        /* length -1: not known yet */
};

struct jeval {
    const struct jinja *j;
    const struct jinja_input *in;
    struct arena mem;
    uint64_t steps; /* left */
    uint64_t max_steps;
    unsigned depth, max_depth;
    uint32_t line;
    int rc;
    struct err *e;
    struct jscope *scope;
    struct jtext *capture; /* where output goes; NULL = out */
    struct str *out;
    struct jinja_spans *foreign;
    size_t out_start, out_max;
    uint64_t hash_key[2];
};

enum { JFLOW_BREAK = 1, JFLOW_CONTINUE = 2 };

static inline int jclip(size_t n) /* of a name in a sentence */
{
    return n < 64 ? (int)n : 64;
}
/* --- failing and limits (jinja_eval.c) --- */
int jfail(struct jeval *ev, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* -EINVAL with the line */
int jfail_undefined(struct jeval *ev, struct jval undef);                                /* "'x' is undefined" */
int joom(struct jeval *ev);                  /* no memory, or the limit of this render */
int jcharge(struct jeval *ev, size_t steps); /* 0, or -E2BIG when they are not left */
int jenter(struct jeval *ev);                /* charge one step and go a level deeper; ev->depth-- ends it */
void *jalloc(struct jeval *ev, size_t count, size_t size);

/* --- expressions (jinja_eval.c) --- */
int jeval_expr(struct jeval *ev, const struct jnode *n, struct jval *out);
int jeval_args(struct jeval *ev, const struct jargs *a, struct jcall *out);
int jeval_call(struct jeval *ev, struct jval callee, const struct jcall *c, struct jval *out);
int jeval_binary(struct jeval *ev, uint16_t op, struct jval a, struct jval b, struct jval *out); /* not and, or, ~ */
/* The filters of a block, on what it captured. */
int jeval_filter(struct jeval *ev, const struct jnode *n, struct jval in, struct jval *out);
/* Bind the arguments and run: filters, tests, methods and functions alike. */
int jfunc_run(struct jeval *ev, const struct jfunc *f, struct jval self, const struct jcall *c, struct jval *out);

/* --- statements (jinja_exec.c, jinja_loop.c): 0, -errno, or JFLOW_* on its way to the loop --- */
int jexec_body(struct jeval *ev, const struct jnode *first);
int jexec_scoped(struct jeval *ev, const struct jnode *body, struct jscope *scope);
int jexec_capture(struct jeval *ev, const struct jnode *body, struct jscope *scope, struct jval *out);
int jexec_for(struct jeval *ev, const struct jnode *n);
int jexec_assign(struct jeval *ev, const struct jnode *target, struct jval v);
int jexec_macro(struct jeval *ev, struct jmacro *m, const struct jcall *c, struct jval *out);
int jemit(struct jeval *ev, const struct jstr *s); /* to the output, or to what captures it */
struct jscope *jscope_new(struct jeval *ev, struct jscope *parent);
int jscope_set(struct jeval *ev, struct jscope *s, uint32_t name, struct jval v);
int jscope_get(struct jeval *ev, uint32_t name, struct jval *out); /* undefined when nothing has that name */
int jloop_attr(struct jeval *ev, struct jloop *lp, const struct jstr *name, struct jval *out); /* J_ABSENT: no such */
int jloop_call(struct jeval *ev, struct jloop *lp, const struct jcall *c, struct jval *out);   /* of a recursive one */

/* --- attributes (jinja_attr.c): x.name, x[key], x[a:b:c]; what is missing is undefined --- */
int jattr_get(struct jeval *ev, struct jval obj, const struct jstr *name, struct jval *out);
int jattr_item(struct jeval *ev, struct jval obj, struct jval key, struct jval *out);
int jattr_slice(struct jeval *ev, struct jval obj, const struct jval bound[3], struct jval *out);
/* attribute="a.b.0" of filters (or a number, or absent: obj stays): follow it from *obj. Where it leads to undefined,
 * `otherwise` replaces that, unless it is absent or none. */
int jattr_path(struct jeval *ev, struct jval path, struct jval otherwise, struct jval *obj);

/* --- methods (jinja_method.c, jinja_split.c), and what filters share with them; NULL after a failure --- */
const struct jfunc *jmethod_find(struct jval obj, const struct jstr *name);
extern const struct jfunc jmethod_unsafe; /* what would change a list or dict: undefined, an error when used */
extern const struct jfunc jmethod_cut[];  /* those of strings in jinja_split.c, ended by a NULL name */
enum { JSTRIP_LEFT = 1, JSTRIP_RIGHT = 2 };
/* chars NULL: white space. */
const struct jstr *jstr_strip(struct jeval *ev, const struct jstr *s, const struct jstr *chars, int sides);
struct jlist *jstr_lines(struct jeval *ev, const struct jstr *s, bool keep_ends);
const struct jstr *jstr_join(struct jeval *ev, const struct jstr *sep, struct jval items);
/* pair[0] becomes pair[1], count times at most (negative: always). */
const struct jstr *jstr_replace(struct jeval *ev, const struct jstr *s, const struct jstr *const pair[2],
                                int64_t count);
/* Case of the first character, and of the rest. */
const struct jstr *jstr_case(struct jeval *ev, enum jcase first, enum jcase rest, const struct jstr *s);
const struct jstr *jstr_center(struct jeval *ev, const struct jstr *s, int64_t width, uint32_t fill);
bool jstr_all(const struct jstr *s, bool (*is)(uint32_t cp));         /* and there is one */
bool jstr_cased(const struct jstr *s, bool (*not_this)(uint32_t cp)); /* islower and isupper */

/* --- tables of names; NULL when there is none --- */
extern const struct jfunc jfilter_of_sequences[]; /* those in jinja_filter_seq.c, ended by a NULL name */
const struct jfunc *jfilter_find(const char *name, size_t n);
const struct jfunc *jtest_find(const char *name, size_t n);
const struct jfunc *jglobal_find(const char *name, size_t n);
int jtest_run(struct jeval *ev, const struct jfunc *f, struct jval in, const struct jcall *c, bool *out);

#endif
