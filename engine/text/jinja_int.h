/* jinja_int - what the files of the Jinja engine share: tokens, tree, values, the state of one render.
 *
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

#include "engine/base/arena.h"
#include "engine/base/utf8.h"
#include "engine/text/jinja.h"

#include <errno.h>

#define JINJA_SOURCE_MAX  (1u << 20)
#define JINJA_TOKENS_MAX  200000
#define JINJA_TREE_MAX    (4 << 20) /* bytes of a compiled template */
#define JINJA_PARSE_DEPTH 200       /* expressions and blocks within each other in a source */
#define JINJA_RANGE_MAX   100000    /* of Jinja2's sandbox */

/* --- values: 16 bytes, passed by value; what they point to lives in the arena of the render and never changes,
 * but for namespaces, loops and the position of an iterator --- */
enum jtype {
    J_ABSENT, /* an argument that was not given; no value of a template */
    J_UNDEF,
    J_NONE,
    J_BOOL,
    J_INT,
    J_BIG, /* an integer of the input beyond 64 bits: its digits; it can be printed and compared with itself */
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_VIEW,  /* dict.items() and the like: iterable, has a length, no index */
    J_ITER,  /* what map, select, ... give: can be walked once */
    J_RANGE, /* a list that prints as range(a, b) */
    J_DICT,
    J_NAMESPACE,
    J_LOOP,
    J_MACRO,
    J_FUNC,  /* a global function */
    J_METHOD /* a method and its object */
};

struct jeval;
struct jval {
    uint8_t type; /* enum jtype */
    uint8_t of;   /* J_UNDEF: enum jtype of the object that lacks the attribute `name`; J_ABSENT: a variable is
                   * undefined; J_FUNC: no object, `name` is a whole sentence */
    union {
        bool b;
        int64_t i;
        double f;
        const struct jstr *s; /* J_STR, J_BIG; J_UNDEF: the name, or a hint */
        struct jlist *l;      /* J_LIST .. J_RANGE */
        struct jdict *d;      /* J_DICT, J_NAMESPACE */
        struct jloop *loop;
        struct jmacro *macro;
        const struct jfunc *func;
        struct jbound *bound;
    };
};

/* Valid UTF-8, not terminated. `mask` NULL: all bytes are foreign or none; else one byte per byte, 1 = foreign. */
struct jstr {
    const char *p;
    size_t n;
    size_t chars; /* code points; SIZE_MAX = not counted yet (never in a compiled template: those are shared) */
    const uint8_t *mask;
    struct jspace *space; /* the buffer that p lies in, when it may still grow there */
    bool foreign;
    bool markup; /* came through |safe or |escape: + and methods escape what joins it */
};

struct jlist {
    struct jval *v;
    size_t n;
    size_t at;            /* J_ITER: next item */
    const int64_t *range; /* J_RANGE: start, stop, step */
    const char *what;     /* J_VIEW: "dict_items", ...; J_TUPLE: "group" for what groupby gives */
};

struct jpair {
    struct jval key, val;
};
struct jdict {
    struct jpair *p; /* in order of insertion */
    size_t n, cap;
    uint32_t *slot; /* open addressing over p (entry + 1, 0 = free), made when a look-up meets more than 8 pairs */
    size_t n_slots;
};

struct jkw {
    const struct jstr *name;
    struct jval val;
};
struct jcall { /* the arguments of one call */
    struct jval *pos;
    size_t n_pos;
    struct jkw *kw;
    size_t n_kw;
};

/* A filter, method or global function. With `params` arguments are bound to them before run (absent ones J_ABSENT) and
 * pos has one value for each; without, run gets the call as it is. run NULL: Python has it, we do not. */
#define JFUNC_PARAMS 5
struct jfunc {
    const char *name;
    int (*run)(struct jeval *ev, struct jval self, const struct jcall *c, struct jval *out);
    uint8_t required; /* how many of params must be given */
    bool free_form;
    const char *params[JFUNC_PARAMS + 1];
};

struct jbound {
    const struct jfunc *func;
    struct jval self;
};

/* --- tokens --- */
enum jtok_type {
    JT_END,
    JT_TEXT,
    JT_PRINT_BEGIN,
    JT_PRINT_END,
    JT_BLOCK_BEGIN,
    JT_BLOCK_END,
    JT_NAME,
    JT_STRING,
    JT_INT,
    JT_FLOAT,
    JT_OP /* op: the character, or first | second << 8 */
};
struct jtok {
    uint8_t type; /* enum jtok_type */
    uint16_t op;
    uint32_t line;
    const char *p; /* text, name, decoded string, digits */
    size_t n;
};
#define JOP2(a, b) ((uint16_t)((a) | (b) << 8))

/* What a failed allocation of the template's arena means: -ENOMEM, or -E2BIG for its limit. */
int jlex_oom(const struct arena *mem, struct err *e);
/* Tokens of n bytes of source, ended by JT_END; free(*out). Their text is in the arena. 0, -EINVAL, -E2BIG, -ENOMEM. */
int jlex(struct arena *mem, const char *source, size_t n, struct jtok **out, struct err *e);

/* --- the tree --- */
enum jnode_type {
    JN_CONST,
    JN_NAME,
    JN_LIST,
    JN_TUPLE,
    JN_DICT,
    JN_ATTR,
    JN_ITEM,
    JN_SLICE,
    JN_CALL,
    JN_FILTER,
    JN_TEST,
    JN_NOT,
    JN_NEG,
    JN_POS,
    JN_BINARY,
    JN_AND,
    JN_OR,
    JN_COMPARE,
    JN_CONCAT,
    JN_COND,
    JN_KEYWORD, /* name=value in a call */
    JN_BRANCH,  /* of JN_IF */
    JN_NSREF,   /* ns.attr as a target */
    JN_TEXT,
    JN_PRINT,
    JN_IF,
    JN_FOR,
    JN_SET,
    JN_SET_BLOCK,
    JN_MACRO,
    JN_CALL_BLOCK,
    JN_FILTER_BLOCK,
    JN_WITH,
    JN_SCOPE, /* generation */
    JN_BREAK,
    JN_CONTINUE,
    JN_TYPES
};
enum jcompare_op { JC_EQ, JC_NE, JC_LT, JC_LE, JC_GT, JC_GE, JC_IN, JC_NOT_IN };

struct jargs { /* of a call as written */
    struct jnode *pos, *kw;
    uint32_t n_pos, n_kw;
    struct jnode *star, *star_star;
};

enum { JSIG_CALLER = 1, JSIG_KWARGS = 2, JSIG_VARARGS = 4 };
struct jsig {
    uint32_t *names;
    struct jnode **defaults; /* NULL where there is none */
    uint32_t n;
    uint8_t uses; /* JSIG_*: which special names the body reads */
};

struct jnode {
    uint8_t type; /* enum jnode_type */
    uint8_t flag; /* JN_FOR: recursive; operand of JN_COMPARE: enum jcompare_op */
    uint16_t op;  /* JN_BINARY: as in jtok */
    uint32_t line;
    struct jnode *next; /* in the list that holds it */
    union {
        struct jval value;  /* JN_CONST, JN_TEXT */
        uint32_t name;      /* JN_NAME */
        struct jnode *expr; /* JN_PRINT */
        struct {            /* JN_LIST, JN_TUPLE, JN_CONCAT; JN_DICT: keys and values in turn */
            struct jnode *items;
            uint32_t n;
        } list;
        struct { /* operators; JN_ITEM: object a, key b; JN_SLICE: from, to, step; JN_COND: test, then, else */
            struct jnode *a, *b, *c;
        } op3;
        struct { /* JN_ATTR, JN_KEYWORD */
            struct jnode *of;
            const struct jstr *name;
        } attr;
        struct { /* JN_NSREF */
            uint32_t ns;
            const struct jstr *name;
        } ref;
        struct { /* JN_CALL: of; JN_FILTER and JN_TEST: of (NULL in a filter block), name and what it means */
            struct jnode *of;
            const struct jstr *name;
            const struct jfunc *func; /* NULL: unknown, an error when it is reached */
            struct jargs args;
        } call;
        struct { /* JN_IF: branches, the last may have no test; JN_BRANCH; JN_SCOPE */
            struct jnode *test, *body;
        } branch;
        struct {
            struct jnode *target, *iter, *test, *body, *orelse;
        } loop;
        struct { /* JN_SET: value; JN_SET_BLOCK: body, filter; JN_FILTER_BLOCK: body, filter; JN_WITH: pairs of SET */
            struct jnode *target, *value, *body, *filter;
        } set;
        struct { /* JN_MACRO: name, body; JN_CALL_BLOCK: call, body */
            struct jsig sig;
            struct jnode *call, *body;
            uint32_t name;
        } macro;
    };
};

struct jname {
    const struct jstr *s;       /* terminated */
    const struct jfunc *global; /* what it means when nothing else does, or NULL */
    bool read;
};
struct jinja {
    struct arena mem; /* source, tree, constants */
    struct jnode *body;
    struct jname *names;
    size_t n_names, cap_names;
    uint32_t id_loop, id_caller, id_varargs, id_kwargs;
};

struct jparser {
    struct jinja *j;
    struct jtok *t; /* current */
    struct err *e;
    int rc; /* sticky */
    unsigned depth;
    unsigned loops;              /* for bodies around, in this macro */
    uint8_t uses;                /* JSIG_* seen since the macro began */
    bool soft;                   /* within {% if %}: an unknown filter is an error only when it is reached */
    const struct jnode *unknown; /* the last unknown filter or test that no condition guards */
    uint32_t *slots;             /* hash table of names */
    size_t n_slots;
};

int jparse(struct jparser *p);
struct jnode *jparse_node(struct jparser *p, enum jnode_type type);
struct jnode *jparse_fail(struct jparser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct jnode *jparse_oom(struct jparser *p);
bool jparse_is_op(const struct jparser *p, uint16_t op);
bool jparse_is_name(const struct jparser *p, const char *name);
bool jparse_skip_op(struct jparser *p, uint16_t op);
bool jparse_skip_name(struct jparser *p, const char *name);
int jparse_expect_op(struct jparser *p, uint16_t op);
int jparse_enter(struct jparser *p); /* one level deeper; p->depth-- ends it */
uint32_t jparse_name_id(struct jparser *p, const char *s, size_t n);
const struct jstr *jparse_string(struct jparser *p, const char *s, size_t n);
struct jnode *jparse_expr(struct jparser *p);               /* with `a if b else c` */
struct jnode *jparse_expr_plain(struct jparser *p);         /* without */
struct jnode *jparse_tuple(struct jparser *p, bool plain);  /* expression, or several with commas */
struct jnode *jparse_target(struct jparser *p, bool refs);  /* of for and set */
struct jnode *jparse_filters(struct jparser *p, bool bare); /* a|b(c), for blocks; bare: the first has no | */
int jparse_signature(struct jparser *p, struct jsig *sig);

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

enum { JFLOW_BREAK = 1, JFLOW_CONTINUE = 2 }; /* what jexec_body returns besides 0 and -errno */

static inline int jclip(size_t n) /* of a name in a sentence */
{
    return n < 64 ? (int)n : 64;
}
int jfail(struct jeval *ev, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int jfail_undefined(struct jeval *ev, struct jval undef); /* "'x' is undefined" */
int joom(struct jeval *ev);                               /* no memory, or the limit of this render */
int jcharge(struct jeval *ev, size_t steps);
int jenter(struct jeval *ev); /* charge one step and go a level deeper; ev->depth-- ends it */
void *jalloc(struct jeval *ev, size_t count, size_t size);

int jeval_expr(struct jeval *ev, const struct jnode *n, struct jval *out);
int jeval_call(struct jeval *ev, struct jval callee, const struct jcall *c, struct jval *out);
int jeval_args(struct jeval *ev, const struct jargs *a, struct jcall *out);
int jeval_binary(struct jeval *ev, uint16_t op, struct jval a, struct jval b, struct jval *out);
int jeval_filter(struct jeval *ev, const struct jnode *n, struct jval in, struct jval *out);
int jfunc_run(struct jeval *ev, const struct jfunc *f, struct jval self, const struct jcall *c, struct jval *out);

int jexec_body(struct jeval *ev, const struct jnode *first);
int jexec_capture(struct jeval *ev, const struct jnode *body, struct jscope *scope, struct jval *out);
int jexec_scoped(struct jeval *ev, const struct jnode *body, struct jscope *scope);
int jexec_assign(struct jeval *ev, const struct jnode *target, struct jval v);
int jexec_macro(struct jeval *ev, struct jmacro *m, const struct jcall *c, struct jval *out);
int jexec_for(struct jeval *ev, const struct jnode *n);
int jemit(struct jeval *ev, const struct jstr *s);
struct jscope *jscope_new(struct jeval *ev, struct jscope *parent);
int jscope_set(struct jeval *ev, struct jscope *s, uint32_t name, struct jval v);
int jscope_get(struct jeval *ev, uint32_t name, struct jval *out);
int jloop_attr(struct jeval *ev, struct jloop *lp, const struct jstr *name, struct jval *out); /* J_ABSENT: no such */
int jloop_call(struct jeval *ev, struct jloop *lp, const struct jcall *c, struct jval *out);

/* --- values (jinja_value.c) --- */
static inline struct jval jnone(void)
{
    return (struct jval){.type = J_NONE};
}
static inline struct jval jbool(bool b)
{
    return (struct jval){.type = J_BOOL, .b = b};
}
static inline struct jval jint(int64_t i)
{
    return (struct jval){.type = J_INT, .i = i};
}
static inline struct jval jfloat(double f)
{
    return (struct jval){.type = J_FLOAT, .f = f};
}
static inline struct jval jstring(const struct jstr *s)
{
    return (struct jval){.type = s ? J_STR : J_ABSENT, .s = s};
}
static inline struct jval jlist_val(enum jtype type, struct jlist *l)
{
    return (struct jval){.type = l ? type : J_ABSENT, .l = l};
}
static inline bool jis_number(struct jval v) /* bool counts, as in Python */
{
    return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT;
}
static inline bool jis_integer(struct jval v)
{
    return v.type == J_BOOL || v.type == J_INT;
}
static inline bool jis_list(struct jval v) /* .l is valid */
{
    return v.type >= J_LIST && v.type <= J_RANGE;
}
static inline int64_t jas_int(struct jval v)
{
    return v.type == J_BOOL ? v.b : v.i;
}
static inline double jas_double(struct jval v)
{
    return v.type == J_FLOAT ? v.f : (double)jas_int(v);
}

struct jval jundef_hint(struct jeval *ev, const char *hint); /* hint: a literal */
struct jval jundef_attr(struct jval obj, const struct jstr *name);
const char *jtype_name(struct jval v); /* as Python says it: "dict", "str", ... */
int jval_truth(struct jeval *ev, struct jval v, bool *out);
int jval_equal(struct jeval *ev, struct jval a, struct jval b, bool *out);
int jval_order(struct jeval *ev, struct jval a, struct jval b, int *out); /* <0, 0, >0; an error for mixed types */
int jval_in(struct jeval *ev, struct jval item, struct jval seq, bool *out);
int jval_len(struct jeval *ev, struct jval v, int64_t *out);
bool jval_iterable(struct jval v);
/* The items to walk: lists as they are, keys of a dict, characters of a string; what is left of an iterator, which is
 * empty after. */
struct jlist *jval_items(struct jeval *ev, struct jval v);
int jval_compare(struct jeval *ev, enum jcompare_op op, struct jval a, struct jval b, bool *out);
/* Sort v[0..n) by key[0..n), stable, both moved. */
int jval_sort(struct jeval *ev, struct jval *key, struct jval *v, size_t n, bool reverse);
int jval_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out);

struct jlist *jlist_new(struct jeval *ev, size_t n);
struct jlist *jlist_slice(struct jeval *ev, const struct jlist *l, size_t from, size_t n);
struct jdict *jdict_new(struct jeval *ev, size_t cap);
int jdict_get(struct jeval *ev, struct jdict *d, struct jval key, struct jval *out); /* J_ABSENT when it is not there */
struct jval jdict_text(struct jeval *ev, struct jdict *d, const struct jstr *key);
int jdict_set(struct jeval *ev, struct jdict *d, struct jval key, struct jval val);
bool jval_hashable(struct jval v);

/* --- strings (jinja_text.c) --- */
struct jtext { /* a string being built */
    struct jeval *ev;
    struct jspace *sp;
};
void jtext_start(struct jtext *t, struct jeval *ev);
/* Begins with head, in place if it can, with room for `more` bytes. */
void jtext_resume(struct jtext *t, struct jeval *ev, const struct jstr *head, size_t more);
void jtext_add(struct jtext *t, const char *p, size_t n, bool foreign);
void jtext_puts(struct jtext *t, const char *p, bool foreign);
void jtext_char(struct jtext *t, uint32_t cp, bool foreign);
void jtext_str(struct jtext *t, const struct jstr *s);
void jtext_slice(struct jtext *t, const struct jstr *s, size_t from, size_t n); /* bytes */
void jtext_fill(struct jtext *t, uint32_t cp, size_t count, bool foreign);
const struct jstr *jtext_done(struct jtext *t); /* NULL when something failed */

const struct jstr *jstr_new(struct jeval *ev, const char *p, size_t n, bool foreign); /* refers to p */
const struct jstr *jstr_cstr(struct jeval *ev, const char *literal);
const struct jstr *jstr_slice(struct jeval *ev, const struct jstr *s, size_t from, size_t n); /* bytes; shares them */
const struct jstr *jstr_markup(struct jeval *ev, const struct jstr *s, bool markup);
const struct jstr *jstr_escape(struct jeval *ev, const struct jstr *s); /* HTML; markup stays as it is */
size_t jstr_chars(const struct jstr *s);
size_t jstr_offset(struct jeval *ev, const struct jstr *s, size_t chars); /* byte of that character */
bool jstr_equal(const struct jstr *a, const struct jstr *b);
bool jstr_is(const struct jstr *s, const char *text);
int jstr_order(const struct jstr *a, const struct jstr *b);
size_t jstr_find(const struct jstr *s, size_t from, const struct jstr *sub); /* byte, or SIZE_MAX */
size_t jstr_rfind(struct jeval *ev, const struct jstr *s, size_t end,
                  const struct jstr *sub); /* the last that ends by `end` */
static inline bool jstr_foreign_at(const struct jstr *s, size_t i)
{
    return s->mask ? s->mask[i] : s->foreign;
}

/* --- text of values (jinja_repr.c, jinja_format.c) --- */
const struct jstr *jval_str(struct jeval *ev, struct jval v); /* str(v) */
void jval_repr(struct jtext *t, struct jval v);
void jrepr_float(char buf[32], double f);
int jval_tojson(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out);
int jformat_percent(struct jeval *ev, const struct jstr *fmt, struct jval args, struct jval *out);
int jformat_braces(struct jeval *ev, const struct jstr *fmt, const struct jcall *c, struct jval *out);

/* --- attributes, methods, filters, tests, globals --- */
enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE };
int jattr_get(struct jeval *ev, struct jval obj, const struct jstr *name, struct jval *out); /* x.name */
int jattr_item(struct jeval *ev, struct jval obj, struct jval key, struct jval *out);        /* x[key] */
int jattr_path(struct jeval *ev, struct jval obj, struct jval path, struct jval *out);       /* attribute="a.b.0" */
int jattr_slice(struct jeval *ev, struct jval obj, const struct jval bound[3], struct jval *out);
const struct jfunc *jmethod_find(struct jval obj, const struct jstr *name);
extern const struct jfunc jmethod_unsafe; /* what would change a list or dict: undefined, an error when used */
extern const struct jfunc jmethod_cut[];  /* those of strings that cut them up, ended by a NULL name (jinja_split.c) */
enum { JSTRIP_LEFT = 1, JSTRIP_RIGHT = 2 };
const struct jstr *jstr_strip(struct jeval *ev, const struct jstr *s, const struct jstr *chars,
                              int sides); /* or NULL */
struct jlist *jstr_lines(struct jeval *ev, const struct jstr *s, bool keep_ends);
const struct jstr *jstr_join(struct jeval *ev, const struct jstr *sep, struct jval items);
const struct jstr *jstr_replace(struct jeval *ev, const struct jstr *s, const struct jstr *const pair[2],
                                int64_t count);
const struct jstr *jstr_case(struct jeval *ev, enum jcase first, enum jcase rest, const struct jstr *s);
const struct jstr *jstr_center(struct jeval *ev, const struct jstr *s, int64_t width, uint32_t fill);
bool jstr_all(const struct jstr *s, bool (*is)(uint32_t cp));         /* and not empty */
bool jstr_cased(const struct jstr *s, bool (*not_this)(uint32_t cp)); /* islower, isupper */
extern const struct jfunc jfilter_of_sequences[];                     /* ended by a NULL name (jinja_filter_seq.c) */
const struct jfunc *jfilter_find(const char *name, size_t n);
const struct jfunc *jtest_find(const char *name, size_t n);
const struct jfunc *jglobal_find(const char *name, size_t n);
int jtest_run(struct jeval *ev, const struct jfunc *f, struct jval in, const struct jcall *c, bool *out);

/* --- characters (jinja_unicode.c), as Python's str has them --- */
bool junicode_space(uint32_t cp);
bool junicode_printable(uint32_t cp);
bool junicode_alpha(uint32_t cp);
bool junicode_decimal(uint32_t cp);
bool junicode_digit(uint32_t cp);
bool junicode_alnum(uint32_t cp);
bool junicode_upper(uint32_t cp);
bool junicode_lower(uint32_t cp);
bool junicode_title(uint32_t cp);
int junicode_map(enum jcase to, uint32_t cp, uint32_t out[3]); /* code points written, 1..3 */

#endif
