/* jinja_tree - from source to tree: tokens, nodes, and what the two halves of the parser share. */
#ifndef HEARTH_TEXT_JINJA_TREE_H
#define HEARTH_TEXT_JINJA_TREE_H

#include "engine/text/jinja_val.h"

#define JINJA_SOURCE_MAX  (1u << 20)
#define JINJA_TOKENS_MAX  200000
#define JINJA_TREE_MAX    (4 << 20) /* bytes of a compiled template */
#define JINJA_PARSE_DEPTH 200       /* expressions and blocks within each other in a source */

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

/* Parse all tokens into p->j. 0 or -errno with the line in p->e. */
int jparse(struct jparser *p);

/* What the halves of the parser share. Pointers are NULL after a failure, p->rc says which; the token stays then. */
struct jnode *jparse_node(struct jparser *p, enum jnode_type type);
struct jnode *jparse_fail(struct jparser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct jnode *jparse_oom(struct jparser *p);
bool jparse_is_op(const struct jparser *p, uint16_t op);
bool jparse_is_name(const struct jparser *p, const char *name);
bool jparse_skip_op(struct jparser *p, uint16_t op); /* past it, if it is there */
bool jparse_skip_name(struct jparser *p, const char *name);
int jparse_expect_op(struct jparser *p, uint16_t op);
int jparse_enter(struct jparser *p); /* one level deeper; p->depth-- ends it */
uint32_t jparse_name_id(struct jparser *p, const char *s, size_t n);
const struct jstr *jparse_string(struct jparser *p, const char *s, size_t n);
struct jnode *jparse_expr(struct jparser *p);               /* with `a if b else c` */
struct jnode *jparse_expr_plain(struct jparser *p);         /* without */
struct jnode *jparse_tuple(struct jparser *p, bool plain);  /* one expression, or several with commas */
struct jnode *jparse_target(struct jparser *p, bool refs);  /* of for and set; refs: ns.attr may be one */
struct jnode *jparse_filters(struct jparser *p, bool bare); /* |a|b(c) of blocks; bare: the first has no bar */
int jparse_signature(struct jparser *p, struct jsig *sig);

#endif
