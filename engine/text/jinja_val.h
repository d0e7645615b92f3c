/* jinja_val - values of the Jinja engine: the types, and what can be asked of them and done with them.
 *
 * A value is 16 bytes and passed as it is. What it points to lives in the arena of the render and never changes, but
 * for namespaces, loops and the position of an iterator; so slices share bytes and items with what they are cut from.
 */
#ifndef HEARTH_TEXT_JINJA_VAL_H
#define HEARTH_TEXT_JINJA_VAL_H

#include "engine/base/arena.h"
#include "engine/base/json.h"
#include "engine/base/utf8.h"

struct jeval; /* the state of one render (jinja_int.h) */

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

struct jval {
    uint8_t type; /* enum jtype */
    uint8_t of;   /* J_UNDEF: enum jtype of the object that lacks the attribute s; J_ABSENT: s is a variable;
                   * J_FUNC: s is a whole sentence */
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

/* A filter, test, method or global function. Arguments are bound to params before run: pos then has one value for each,
 * J_ABSENT where none is given. A free_form one gets the call as it is. run NULL: Python has it, we do not. */
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

/* What is missing: a sentence of our own (a literal), or the name that obj lacks. */
struct jval jundef_hint(struct jeval *ev, const char *hint);
struct jval jundef_attr(struct jval obj, const struct jstr *name);
const char *jtype_name(struct jval v); /* as Python says it: "dict", "str", ... */

/* Python's rules for bool(v), a == b, a < b, item in seq, len(v). 0 or -errno: comparing may be impossible, deep or
 * long. Order is -1, 0, 1, or 2 when NaN makes it neither. */
int jval_truth(struct jeval *ev, struct jval v, bool *out);
int jval_equal(struct jeval *ev, struct jval a, struct jval b, bool *out);
int jval_order(struct jeval *ev, struct jval a, struct jval b, int *out);
int jval_in(struct jeval *ev, struct jval item, struct jval seq, bool *out);
int jval_len(struct jeval *ev, struct jval v, int64_t *out);
enum jcompare_op { JC_EQ, JC_NE, JC_LT, JC_LE, JC_GT, JC_GE, JC_IN, JC_NOT_IN };
int jval_compare(struct jeval *ev, enum jcompare_op op, struct jval a, struct jval b, bool *out);
bool jval_hashable(struct jval v); /* may it be a key? */
bool jval_iterable(struct jval v);
/* The items to walk: lists as they are, keys of a dict, characters of a string; what is left of an iterator, which is
 * empty after. NULL when v has none. */
struct jlist *jval_items(struct jeval *ev, struct jval v);
/* Sort v[0..n) by key[0..n): stable, both are moved. */
int jval_sort(struct jeval *ev, struct jval *key, struct jval *v, size_t n, bool reverse);
/* The value of a JSON value, whose strings it refers to and marks. */
int jval_from_json(struct jeval *ev, const struct json_val *src, bool foreign, struct jval *out);

/* A list of n absent items; items [from, from + n) of l; a dict with room for cap pairs. */
struct jlist *jlist_new(struct jeval *ev, size_t n);
struct jlist *jlist_slice(struct jeval *ev, const struct jlist *l, size_t from, size_t n);
struct jdict *jdict_new(struct jeval *ev, size_t cap);
/* Look up (J_ABSENT when the key is not there) and set; a key that can't be hashed is an error. */
int jdict_get(struct jeval *ev, struct jdict *d, struct jval key, struct jval *out);
struct jval jdict_text(struct jeval *ev, struct jdict *d, const struct jstr *key);
int jdict_set(struct jeval *ev, struct jdict *d, struct jval key, struct jval val);

/* --- strings (jinja_text.c); positions are bytes unless they say characters --- */
struct jtext { /* a string being built */
    struct jeval *ev;
    struct jspace *sp;
};
void jtext_start(struct jtext *t, struct jeval *ev);
/* Begin with head, in place if it can grow there, and room for `more` bytes. */
void jtext_resume(struct jtext *t, struct jeval *ev, const struct jstr *head, size_t more);
void jtext_add(struct jtext *t, const char *p, size_t n, bool foreign);
void jtext_puts(struct jtext *t, const char *p, bool foreign);
void jtext_char(struct jtext *t, uint32_t cp, bool foreign);
void jtext_fill(struct jtext *t, uint32_t cp, size_t count, bool foreign);
void jtext_str(struct jtext *t, const struct jstr *s); /* NULL adds nothing */
void jtext_slice(struct jtext *t, const struct jstr *s, size_t from, size_t n);
const struct jstr *jtext_done(struct jtext *t); /* NULL when anything failed */

/* A string of n bytes at p, or of a literal; part of a string (shares its bytes); the same as markup or not; HTML
 * characters escaped (markup stays as it is). NULL passes through. */
const struct jstr *jstr_new(struct jeval *ev, const char *p, size_t n, bool foreign);
const struct jstr *jstr_cstr(struct jeval *ev, const char *literal);
const struct jstr *jstr_slice(struct jeval *ev, const struct jstr *s, size_t from, size_t n);
const struct jstr *jstr_markup(struct jeval *ev, const struct jstr *s, bool markup);
const struct jstr *jstr_escape(struct jeval *ev, const struct jstr *s);
size_t jstr_chars(const struct jstr *s);
size_t jstr_offset(struct jeval *ev, const struct jstr *s, size_t chars); /* where that character begins; n beyond */
bool jstr_equal(const struct jstr *a, const struct jstr *b);
bool jstr_is(const struct jstr *s, const char *text);
int jstr_order(const struct jstr *a, const struct jstr *b);
/* Where sub is first at or after `from`, and last so that it ends by `end`; SIZE_MAX when it is not there. */
size_t jstr_find(const struct jstr *s, size_t from, const struct jstr *sub);
size_t jstr_rfind(struct jeval *ev, const struct jstr *s, size_t end, const struct jstr *sub);
static inline bool jstr_foreign_at(const struct jstr *s, size_t i)
{
    return s->mask ? s->mask[i] : s->foreign;
}

/* --- text of values (jinja_repr.c, jinja_format.c) --- */
const struct jstr *jval_str(struct jeval *ev, struct jval v); /* str(v) */
void jval_repr(struct jtext *t, struct jval v);               /* repr(v) */
void jrepr_float(char buf[32], double f);
int jval_tojson(struct jeval *ev, struct jval in, const struct jcall *c, struct jval *out); /* the filter */
int jformat_percent(struct jeval *ev, const struct jstr *fmt, struct jval args, struct jval *out);
int jformat_braces(struct jeval *ev, const struct jstr *fmt, const struct jcall *c, struct jval *out);

/* --- characters (jinja_unicode.c), as Python's str has them --- */
enum jcase { JCASE_UPPER, JCASE_LOWER, JCASE_TITLE };
/* Classes, and the one to three characters that cp becomes in another case (their number is returned). */
bool junicode_space(uint32_t cp);
bool junicode_printable(uint32_t cp);
bool junicode_alpha(uint32_t cp);
bool junicode_decimal(uint32_t cp);
bool junicode_digit(uint32_t cp);
bool junicode_alnum(uint32_t cp);
bool junicode_upper(uint32_t cp);
bool junicode_lower(uint32_t cp);
bool junicode_title(uint32_t cp);
int junicode_map(enum jcase to, uint32_t cp, uint32_t out[3]);

#endif
