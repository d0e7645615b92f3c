/* jinja_expr - tokens to expressions, with Jinja2's grammar.
 *
 * Binary operators are parsed by precedence climbing, so that a level of brackets costs few stack frames; everything
 * that recurses counts in p->depth. A function returns NULL after a failure (p->rc is set).
 */
#include "engine/text/jinja_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum level { L_OR = 1, L_AND, L_NOT, L_COMPARE, L_SUM, L_CONCAT, L_PRODUCT, L_POWER };

struct binary_op {
    uint8_t level, type; /* enum level, enum jnode_type */
    uint8_t compare;     /* enum jcompare_op */
    uint8_t tokens;      /* 2 for "not in" */
};

/* Append node to a list; `tail` is where its address goes. */
static void append(struct jnode ***tail, struct jnode *node)
{
    **tail = node;
    *tail = &node->next;
}

static bool next_is_name(const struct jparser *p, const char *name)
{
    const struct jtok *t = p->t + 1; /* the last token is JT_END, no name: there is a next one */
    return t->type == JT_NAME && t->n == strlen(name) && memcmp(t->p, name, t->n) == 0;
}

/* The binary operator at the current token; level 0 = there is none. */
static struct binary_op binary_at(const struct jparser *p)
{
    static const struct {
        uint16_t op;
        struct binary_op is;
    } ops[] = {
        {JOP2('=', '='), {L_COMPARE, JN_COMPARE, JC_EQ, 1}},
        {JOP2('!', '='), {L_COMPARE, JN_COMPARE, JC_NE, 1}},
        {JOP2('<', '='), {L_COMPARE, JN_COMPARE, JC_LE, 1}},
        {JOP2('>', '='), {L_COMPARE, JN_COMPARE, JC_GE, 1}},
        {'<', {L_COMPARE, JN_COMPARE, JC_LT, 1}},
        {'>', {L_COMPARE, JN_COMPARE, JC_GT, 1}},
        {'+', {L_SUM, JN_BINARY, 0, 1}},
        {'-', {L_SUM, JN_BINARY, 0, 1}},
        {'~', {L_CONCAT, JN_CONCAT, 0, 1}},
        {'*', {L_PRODUCT, JN_BINARY, 0, 1}},
        {'/', {L_PRODUCT, JN_BINARY, 0, 1}},
        {JOP2('/', '/'), {L_PRODUCT, JN_BINARY, 0, 1}},
        {'%', {L_PRODUCT, JN_BINARY, 0, 1}},
        {JOP2('*', '*'), {L_POWER, JN_BINARY, 0, 1}},
    };
    if (p->t->type == JT_OP) {
        for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
            if (ops[i].op == p->t->op)
                return ops[i].is;
    } else if (jparse_is_name(p, "or")) {
        return (struct binary_op){L_OR, JN_OR, 0, 1};
    } else if (jparse_is_name(p, "and")) {
        return (struct binary_op){L_AND, JN_AND, 0, 1};
    } else if (jparse_is_name(p, "in")) {
        return (struct binary_op){L_COMPARE, JN_COMPARE, JC_IN, 1};
    } else if (jparse_is_name(p, "not") && next_is_name(p, "in")) {
        return (struct binary_op){L_COMPARE, JN_COMPARE, JC_NOT_IN, 2};
    }
    return (struct binary_op){0};
}

static struct jnode *parse_unary(struct jparser *p, bool filters);
static struct jnode *parse_level(struct jparser *p, unsigned level);

/* a < b <= c, a ~ b ~ c: one node with a list of operands; the first is there, the operator is current. */
static struct jnode *parse_chain(struct jparser *p, struct jnode *first, struct binary_op op)
{
    struct jnode *n = jparse_node(p, (enum jnode_type)op.type), **tail;
    if (!n)
        return NULL;
    tail = &n->list.items;
    append(&tail, first);
    n->list.n = 1;
    for (struct binary_op o = op; o.level == op.level; o = binary_at(p)) {
        p->t += o.tokens;
        struct jnode *operand = parse_level(p, op.level + 1);
        if (!operand)
            return NULL;
        operand->flag = op.type == JN_COMPARE ? o.compare : operand->flag;
        append(&tail, operand);
        n->list.n++;
    }
    return n;
}

static struct jnode *parse_binary(struct jparser *p, struct jnode *left, struct binary_op op)
{
    struct jnode *n = jparse_node(p, (enum jnode_type)op.type);
    if (!n)
        return NULL;
    n->op = p->t->op;
    p->t++;
    n->op3.a = left;
    n->op3.b = parse_level(p, op.level + 1);
    return n->op3.b ? n : NULL;
}

/* `not` binds everything of its own level and above. */
static struct jnode *parse_not(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_NOT);
    if (!n || jparse_enter(p) != 0)
        return NULL;
    p->t++;
    n->op3.a = parse_level(p, L_NOT);
    p->depth--;
    return n->op3.a ? n : NULL;
}

/* An expression of operators that bind at least as strong as `level`. */
static struct jnode *parse_level(struct jparser *p, unsigned level)
{
    struct jnode *left = level <= L_NOT && jparse_is_name(p, "not") ? parse_not(p) : parse_unary(p, true);
    while (left) {
        struct binary_op op = binary_at(p);
        if (!op.level || op.level < level)
            break;
        left = op.level == L_COMPARE || op.level == L_CONCAT ? parse_chain(p, left, op) : parse_binary(p, left, op);
    }
    return left;
}

struct jnode *jparse_expr_plain(struct jparser *p)
{
    if (jparse_enter(p) != 0)
        return NULL;
    struct jnode *n = parse_level(p, L_OR);
    p->depth--;
    return n;
}

struct jnode *jparse_expr(struct jparser *p)
{
    const struct jnode *unknown = p->unknown;
    struct jnode *n = jparse_expr_plain(p);
    while (n && jparse_is_name(p, "if")) {
        struct jnode *cond = jparse_node(p, JN_COND);
        if (!cond)
            return NULL;
        p->t++;
        cond->op3.b = n;
        cond->op3.a = jparse_expr_plain(p);
        if (!cond->op3.a)
            return NULL;
        if (jparse_skip_name(p, "else")) {
            if (jparse_enter(p) != 0)
                return NULL;
            cond->op3.c = jparse_expr(p);
            p->depth--;
            if (!cond->op3.c)
                return NULL;
        }
        p->unknown = unknown; /* what a condition guards may be unknown */
        n = cond;
    }
    return n;
}

static bool at_tuple_end(const struct jparser *p)
{
    return p->t->type == JT_PRINT_END || p->t->type == JT_BLOCK_END || (p->t->type == JT_OP && p->t->op == ')');
}

/* Items up to a token that can't begin one; needs a comma to be a tuple, unless it is empty within brackets. */
static struct jnode *parse_tuple(struct jparser *p, bool plain, bool brackets)
{
    struct jnode *n = jparse_node(p, JN_TUPLE), **tail;
    bool comma = false;
    if (!n)
        return NULL;
    tail = &n->list.items;
    while (!at_tuple_end(p) && !(plain && jparse_is_name(p, "recursive"))) {
        struct jnode *item = plain ? jparse_expr_plain(p) : jparse_expr(p);
        if (!item)
            return NULL;
        append(&tail, item);
        n->list.n++;
        if (!jparse_skip_op(p, ','))
            break;
        comma = true;
    }
    if (comma || (brackets && n->list.n == 0))
        return n;
    return n->list.n ? n->list.items : jparse_fail(p, "an expression is missing");
}

struct jnode *jparse_tuple(struct jparser *p, bool plain)
{
    return parse_tuple(p, plain, false);
}

/* [a, b] and {k: v}, after the opening bracket. */
static struct jnode *parse_literal(struct jparser *p, enum jnode_type type, char close)
{
    struct jnode *n = jparse_node(p, type), **tail;
    if (!n)
        return NULL;
    tail = &n->list.items;
    while (!jparse_skip_op(p, (uint8_t)close)) {
        if (n->list.n && jparse_expect_op(p, ',') != 0)
            return NULL;
        if (jparse_skip_op(p, (uint8_t)close))
            break;
        for (unsigned i = 0; i < (type == JN_DICT ? 2u : 1u); i++) {
            struct jnode *item = i == 0 || jparse_expect_op(p, ':') == 0 ? jparse_expr(p) : NULL;
            if (!item)
                return NULL;
            append(&tail, item);
            n->list.n++;
        }
    }
    return n;
}

/* Digits without the underscores, for strtoll and strtod; NULL when there is no memory. */
static char *digits_of(struct jparser *p, const struct jtok *t)
{
    char *s = arena_alloc(&p->j->mem, t->n + 1), *to = s;
    if (!s) {
        jparse_oom(p);
        return NULL;
    }
    for (size_t i = 0; i < t->n; i++)
        if (t->p[i] != '_')
            *to++ = t->p[i];
    *to = 0;
    return s;
}

static struct jnode *parse_number(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_CONST);
    char *s = digits_of(p, p->t);
    if (!n || !s)
        return NULL;
    if (p->t->type == JT_FLOAT) {
        n->value = jfloat(strtod(s, NULL));
    } else {
        char kind = s[0] == '0' ? (char)(s[1] | 0x20) : 0;
        int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
        errno = 0;
        n->value = jint(strtoll(base == 10 ? s : s + 2, NULL, base));
        if (errno == ERANGE)
            return jparse_fail(p, "the integer %s is beyond 64 bits", s);
    }
    p->t++;
    return n;
}

/* One string, or several beside each other. */
static struct jnode *parse_string(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_CONST);
    size_t len = 0, count = 0;
    for (; p->t[count].type == JT_STRING; count++)
        len += p->t[count].n;
    const char *text = p->t->p;
    if (count > 1) {
        char *to = arena_alloc(&p->j->mem, len + 1);
        text = to;
        for (size_t i = 0; to && i < count; i++) {
            memcpy(to, p->t[i].p, p->t[i].n);
            to += p->t[i].n;
        }
    }
    const struct jstr *s = text ? jparse_string(p, text, len) : NULL;
    if (!n || !s)
        return jparse_oom(p);
    n->value = jstring(s);
    p->t += count;
    return n;
}

static void note_special(struct jparser *p, uint32_t id)
{
    p->uses |= id == p->j->id_caller ? JSIG_CALLER : 0;
    p->uses |= id == p->j->id_kwargs ? JSIG_KWARGS : 0;
    p->uses |= id == p->j->id_varargs ? JSIG_VARARGS : 0;
}

static struct jnode *parse_name(struct jparser *p)
{
    static const struct {
        const char *name;
        struct jval value;
    } constants[] = {{"true", {.type = J_BOOL, .b = true}},
                     {"True", {.type = J_BOOL, .b = true}},
                     {"false", {.type = J_BOOL, .b = false}},
                     {"False", {.type = J_BOOL, .b = false}},
                     {"none", {.type = J_NONE}},
                     {"None", {.type = J_NONE}}};
    struct jnode *n = jparse_node(p, JN_CONST);
    for (size_t i = 0; n && i < sizeof constants / sizeof *constants; i++)
        if (jparse_skip_name(p, constants[i].name)) {
            n->value = constants[i].value;
            return n;
        }
    if (!n)
        return NULL;
    n->type = JN_NAME;
    n->name = jparse_name_id(p, p->t->p, p->t->n);
    if (p->rc < 0)
        return NULL;
    p->j->names[n->name].read = true;
    note_special(p, n->name);
    p->t++;
    return n;
}

static struct jnode *parse_primary(struct jparser *p)
{
    struct jnode *n;
    switch (p->t->type) {
    case JT_NAME:
        return parse_name(p);
    case JT_STRING:
        return parse_string(p);
    case JT_INT:
    case JT_FLOAT:
        return parse_number(p);
    case JT_OP:
        if (jparse_skip_op(p, '['))
            return parse_literal(p, JN_LIST, ']');
        if (jparse_skip_op(p, '{'))
            return parse_literal(p, JN_DICT, '}');
        if (jparse_skip_op(p, '(')) {
            n = parse_tuple(p, false, true);
            return n && jparse_expect_op(p, ')') == 0 ? n : NULL;
        }
        return jparse_fail(p, "unexpected '%.*s'", (int)p->t->n, p->t->p);
    default:
        return jparse_fail(p, "an expression is missing");
    }
}

/* One argument of a call; `kw` and `dynamic` arguments come after the plain ones. */
static int parse_arg(struct jparser *p, struct jargs *a, struct jnode ***pos, struct jnode ***kw)
{
    bool star = jparse_skip_op(p, '*'), star_star = !star && jparse_skip_op(p, JOP2('*', '*'));
    bool named = p->t->type == JT_NAME && p->t[1].type == JT_OP && p->t[1].op == '=';
    struct jnode *key = NULL;
    if (a->star_star || (star && a->star) || (!star && !star_star && !named && (a->star || a->n_kw))) {
        jparse_fail(p, "arguments of a call are in the wrong order");
        return p->rc;
    }
    if (!star && !star_star && named) {
        key = jparse_node(p, JN_KEYWORD);
        if (key)
            key->attr.name = jparse_string(p, p->t->p, p->t->n);
        p->t += 2;
    }
    struct jnode *value = jparse_expr(p);
    if (!value || p->rc < 0)
        return p->rc;
    if (star) {
        a->star = value;
    } else if (star_star) {
        a->star_star = value;
    } else if (key) {
        key->attr.of = value;
        append(kw, key);
        a->n_kw++;
    } else {
        append(pos, value);
        a->n_pos++;
    }
    return 0;
}

/* (a, b, k=c, *d, **e), the bracket is current. */
static int parse_args(struct jparser *p, struct jargs *a)
{
    struct jnode **pos = &a->pos, **kw = &a->kw;
    bool more = false;
    if (jparse_expect_op(p, '(') != 0)
        return p->rc;
    while (!jparse_skip_op(p, ')')) {
        if (more && jparse_expect_op(p, ',') != 0)
            return p->rc;
        if (more && jparse_skip_op(p, ')'))
            break;
        if (parse_arg(p, a, &pos, &kw) != 0)
            return p->rc;
        more = true;
    }
    return p->rc;
}

static struct jnode *parse_call(struct jparser *p, struct jnode *of)
{
    struct jnode *n = jparse_node(p, JN_CALL);
    if (!n)
        return NULL;
    n->call.of = of;
    return parse_args(p, &n->call.args) == 0 ? n : NULL;
}

/* What stands in x[...]: an expression or a slice. */
static struct jnode *parse_subscribed(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SLICE), *part[3] = {NULL};
    bool slice = false;
    if (!n)
        return NULL;
    for (unsigned i = 0; i < 3; i++) {
        bool absent = jparse_is_op(p, ':') || jparse_is_op(p, ']') || jparse_is_op(p, ',');
        if (!absent && !(part[i] = jparse_expr(p)))
            return NULL;
        if (i == 2 || !jparse_skip_op(p, ':'))
            break;
        slice = true;
    }
    if (!slice)
        return part[0] ? part[0] : jparse_fail(p, "an index is missing");
    n->op3.a = part[0];
    n->op3.b = part[1];
    n->op3.c = part[2];
    return n;
}

/* x[a] or x[a, b], after the bracket. */
static struct jnode *parse_index(struct jparser *p, struct jnode *of)
{
    struct jnode *n = jparse_node(p, JN_ITEM), *key = parse_subscribed(p), *tuple, **tail;
    if (!n || !key)
        return NULL;
    if (jparse_is_op(p, ',')) {
        if (!(tuple = jparse_node(p, JN_TUPLE)))
            return NULL;
        tail = &tuple->list.items;
        for (append(&tail, key), tuple->list.n = 1; jparse_skip_op(p, ','); tuple->list.n++) {
            if (!(key = parse_subscribed(p)))
                return NULL;
            append(&tail, key);
        }
        key = tuple;
    }
    n->op3.a = of;
    n->op3.b = key;
    return jparse_expect_op(p, ']') == 0 ? n : NULL;
}

/* x.name or x.0, after the dot. */
static struct jnode *parse_attr(struct jparser *p, struct jnode *of)
{
    struct jnode *n = jparse_node(p, JN_ATTR);
    if (!n)
        return NULL;
    if (p->t->type == JT_INT) {
        n->type = JN_ITEM;
        n->op3.a = of;
        n->op3.b = parse_number(p);
        return n->op3.b ? n : NULL;
    }
    if (p->t->type != JT_NAME)
        return jparse_fail(p, "a name or number is missing after '.'");
    n->attr.of = of;
    n->attr.name = jparse_string(p, p->t->p, p->t->n);
    p->t++;
    return n->attr.name ? n : NULL;
}

static struct jnode *parse_postfix(struct jparser *p, struct jnode *n)
{
    while (n) {
        if (jparse_skip_op(p, '.'))
            n = parse_attr(p, n);
        else if (jparse_skip_op(p, '['))
            n = parse_index(p, n);
        else if (jparse_is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    return n;
}

/* The name of a filter or test ("a.b" is one name to Jinja2; none of ours has a dot). */
static struct jnode *parse_called_name(struct jparser *p, enum jnode_type type, struct jnode *of)
{
    struct jnode *n = jparse_node(p, type);
    const char *name = p->t->p;
    if (!n || p->t->type != JT_NAME)
        return jparse_fail(p, "the name of a %s is missing", type == JN_FILTER ? "filter" : "test");
    size_t len = p->t->n;
    p->t++;
    while (jparse_is_op(p, '.') && p->t[1].type == JT_NAME) {
        len = (size_t)(p->t[1].p + p->t[1].n - name);
        p->t += 2;
    }
    n->call.of = of;
    n->call.name = jparse_string(p, name, len);
    n->call.func = type == JN_FILTER ? jfilter_find(name, len) : jtest_find(name, len);
    if (!n->call.func && !p->soft)
        p->unknown = n;
    return n->call.name ? n : NULL;
}

static struct jnode *parse_filter(struct jparser *p, struct jnode *of)
{
    struct jnode *n = parse_called_name(p, JN_FILTER, of);
    if (n && jparse_is_op(p, '(') && parse_args(p, &n->call.args) != 0)
        return NULL;
    return n;
}

struct jnode *jparse_filters(struct jparser *p, bool bare)
{
    struct jnode *n = NULL;
    if (bare && !(n = parse_filter(p, NULL)))
        return NULL;
    while (jparse_skip_op(p, '|'))
        if (!(n = parse_filter(p, n)))
            return NULL;
    return n;
}

/* A test may have one argument without brackets: x is divisibleby 3. */
static bool at_bare_argument(const struct jparser *p)
{
    switch (p->t->type) {
    case JT_NAME:
        return !jparse_is_name(p, "else") && !jparse_is_name(p, "or") && !jparse_is_name(p, "and");
    case JT_STRING:
    case JT_INT:
    case JT_FLOAT:
        return true;
    default:
        return jparse_is_op(p, '[') || jparse_is_op(p, '{');
    }
}

/* After `is`. */
static struct jnode *parse_test(struct jparser *p, struct jnode *of)
{
    bool negated = jparse_skip_name(p, "not");
    struct jnode *n = parse_called_name(p, JN_TEST, of);
    if (!n)
        return NULL;
    if (jparse_is_op(p, '(')) {
        if (parse_args(p, &n->call.args) != 0)
            return NULL;
    } else if (jparse_is_name(p, "is")) {
        return jparse_fail(p, "tests can't be chained with 'is'");
    } else if (at_bare_argument(p)) {
        n->call.args.pos = parse_postfix(p, parse_primary(p));
        n->call.args.n_pos = 1;
        if (!n->call.args.pos)
            return NULL;
    }
    if (!negated)
        return n;
    struct jnode *inverse = jparse_node(p, JN_NOT);
    if (inverse)
        inverse->op3.a = n;
    return inverse;
}

static struct jnode *parse_unary(struct jparser *p, bool filters)
{
    struct jnode *n = NULL;
    if (jparse_enter(p) != 0)
        return NULL;
    if (jparse_is_op(p, '-') || jparse_is_op(p, '+')) {
        n = jparse_node(p, p->t->op == '-' ? JN_NEG : JN_POS);
        p->t++;
        if (n && !(n->op3.a = parse_unary(p, false)))
            n = NULL;
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    while (n && filters) {
        if (jparse_skip_op(p, '|'))
            n = parse_filter(p, n);
        else if (jparse_skip_name(p, "is"))
            n = parse_test(p, n);
        else if (jparse_is_op(p, '('))
            n = parse_call(p, n);
        else
            break;
    }
    p->depth--;
    return n;
}
