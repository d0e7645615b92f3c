/* jinja_parse - tokens to statements, with Jinja2's grammar, and what both halves of the parser share.
 *
 * Blocks within each other recurse and count in p->depth. include, import, from, extends, block and autoescape are
 * refused by name: a chat template stands alone. Unknown filters and tests are an error here, unless an `if` guards
 * them.
 */
#include "engine/text/jinja_int.h"

#include "engine/base/hash.h"
#include "engine/base/vec.h"

#include <stdarg.h>
#include <stdio.h>

struct jnode *jparse_fail(struct jparser *p, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (p->rc == 0)
        p->rc = err_set(p->e, EINVAL, "chat template, line %u: %s", p->t->line, text);
    return NULL;
}

struct jnode *jparse_oom(struct jparser *p)
{
    if (p->rc == 0)
        p->rc = jlex_oom(&p->j->mem, p->e);
    return NULL;
}

struct jnode *jparse_node(struct jparser *p, enum jnode_type type)
{
    struct jnode *n = arena_alloc(&p->j->mem, sizeof *n);
    if (!n)
        return jparse_oom(p);
    n->type = (uint8_t)type;
    n->line = p->t->line;
    return n;
}

bool jparse_is_op(const struct jparser *p, uint16_t op)
{
    return p->t->type == JT_OP && p->t->op == op;
}

bool jparse_is_name(const struct jparser *p, const char *name)
{
    return p->t->type == JT_NAME && p->t->n == strlen(name) && memcmp(p->t->p, name, p->t->n) == 0;
}

bool jparse_skip_op(struct jparser *p, uint16_t op)
{
    bool is = jparse_is_op(p, op);
    p->t += is;
    return is;
}

bool jparse_skip_name(struct jparser *p, const char *name)
{
    bool is = jparse_is_name(p, name);
    p->t += is;
    return is;
}

int jparse_expect_op(struct jparser *p, uint16_t op)
{
    if (p->rc == 0 && !jparse_skip_op(p, op))
        jparse_fail(p, "'%c' is missing", op);
    return p->rc;
}

int jparse_enter(struct jparser *p)
{
    if (p->depth == JINJA_PARSE_DEPTH)
        jparse_fail(p, "nested deeper than %d", JINJA_PARSE_DEPTH);
    else
        p->depth++;
    return p->rc;
}

static int grow_slots(struct jparser *p)
{
    size_t n = p->n_slots ? p->n_slots * 2 : 64;
    uint32_t *slots = calloc(n, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; i < p->j->n_names; i++) {
        size_t at = hash_fnv(p->j->names[i].s->p, p->j->names[i].s->n) & (n - 1);
        while (slots[at])
            at = (at + 1) & (n - 1);
        slots[at] = (uint32_t)i + 1;
    }
    free(p->slots);
    p->slots = slots;
    p->n_slots = n;
    return 0;
}

uint32_t jparse_name_id(struct jparser *p, const char *s, size_t n)
{
    struct jinja *j = p->j;
    if ((j->n_names + 1) * 2 > p->n_slots && grow_slots(p) != 0)
        goto oom;
    size_t at = hash_fnv(s, n) & (p->n_slots - 1);
    for (; p->slots[at]; at = (at + 1) & (p->n_slots - 1)) {
        const struct jstr *name = j->names[p->slots[at] - 1].s;
        if (name->n == n && memcmp(name->p, s, n) == 0)
            return p->slots[at] - 1;
    }
    if (vec_grow(&j->names, &j->cap_names, j->n_names + 1, sizeof *j->names) != 0)
        goto oom;
    const char *copy = arena_copy(&j->mem, s, n);
    const struct jstr *str = copy ? jparse_string(p, copy, n) : NULL;
    if (!str)
        goto oom;
    j->names[j->n_names] = (struct jname){.s = str, .global = jglobal_find(s, n)};
    p->slots[at] = (uint32_t)++j->n_names;
    return p->slots[at] - 1;
oom:
    jparse_oom(p);
    return 0;
}

const struct jstr *jparse_string(struct jparser *p, const char *text, size_t n)
{
    struct jstr *s = arena_alloc(&p->j->mem, sizeof *s);
    if (!s) {
        jparse_oom(p);
        return NULL;
    }
    s->p = text;
    s->n = n;
    for (size_t i = 0; i < n; i++)
        s->chars += ((uint8_t)text[i] & 0xC0) != 0x80;
    return s;
}

static struct jnode *parse_body(struct jparser *p, const char *const *ends);

/* The body of a block whose tag is read but for its end; the token that ended it is current, at its name. */
static struct jnode *parse_block_body(struct jparser *p, const char *const *ends)
{
    jparse_skip_op(p, ':');
    if (p->t->type != JT_BLOCK_END)
        return jparse_fail(p, "unexpected '%.*s' in a block tag", (int)p->t->n, p->t->p);
    p->t++;
    return parse_body(p, ends);
}

/* Body of a block that has its own variables: the guard of an outer `if` does not reach in. */
static struct jnode *parse_inner_body(struct jparser *p, const char *end)
{
    const char *const ends[] = {end, NULL};
    bool soft = p->soft;
    p->soft = false;
    struct jnode *body = parse_block_body(p, ends);
    p->soft = soft;
    p->t += p->rc == 0;
    return body;
}

static struct jnode *parse_if(struct jparser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct jnode *n = jparse_node(p, JN_IF), **tail = n ? &n->branch.body : NULL;
    bool soft = p->soft, is_else = false;
    p->soft = true;
    while (n && p->rc == 0) {
        struct jnode *b = jparse_node(p, JN_BRANCH);
        if (!b || (!is_else && !(b->branch.test = jparse_tuple(p, true))))
            return NULL;
        *tail = b;
        tail = &b->next;
        b->branch.body = parse_block_body(p, is_else ? last : ends);
        if (p->rc < 0 || jparse_skip_name(p, "endif"))
            break;
        is_else = jparse_is_name(p, "else");
        p->t++;
    }
    p->soft = soft;
    return n;
}

static struct jnode *parse_for(struct jparser *p)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    struct jnode *n = jparse_node(p, JN_FOR);
    if (!n || !(n->loop.target = jparse_target(p, false)))
        return NULL;
    if (!jparse_skip_name(p, "in"))
        return jparse_fail(p, "'in' is missing");
    if (!(n->loop.iter = jparse_tuple(p, true)))
        return NULL;
    if (jparse_skip_name(p, "if") && !(n->loop.test = jparse_expr(p)))
        return NULL;
    n->flag = jparse_skip_name(p, "recursive");
    bool soft = p->soft;
    p->soft = false;
    p->loops++;
    n->loop.body = parse_block_body(p, ends);
    p->loops--;
    p->soft = soft;
    if (p->rc == 0 && jparse_skip_name(p, "else"))
        n->loop.orelse = parse_inner_body(p, "endfor");
    else
        p->t += p->rc == 0;
    return n;
}

static struct jnode *parse_set(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SET);
    if (!n || !(n->set.target = jparse_target(p, true)))
        return NULL;
    if (jparse_skip_op(p, '=')) {
        n->set.value = jparse_tuple(p, false);
        return n;
    }
    n->type = JN_SET_BLOCK;
    n->set.filter = jparse_filters(p, false);
    n->set.body = parse_inner_body(p, "endset");
    return n;
}

int jparse_signature(struct jparser *p, struct jsig *sig)
{
    size_t cap = 0, cap_defaults = 0;
    struct jnode **defaults = NULL;
    uint32_t *names = NULL;
    if (jparse_expect_op(p, '(') != 0)
        return p->rc;
    while (p->rc == 0 && !jparse_skip_op(p, ')')) {
        if (sig->n && jparse_expect_op(p, ',') != 0)
            break;
        if (p->t->type != JT_NAME) {
            jparse_fail(p, "the name of an argument is missing");
            break;
        }
        if (vec_grow(&names, &cap, sig->n + 1, sizeof *names) != 0 ||
            vec_grow(&defaults, &cap_defaults, sig->n + 1, sizeof(struct jnode *)) != 0) {
            jparse_oom(p);
            break;
        }
        names[sig->n] = jparse_name_id(p, p->t->p, p->t->n);
        p->t++;
        bool given = jparse_skip_op(p, '=');
        defaults[sig->n] = given ? jparse_expr(p) : NULL;
        if (!given && sig->n && defaults[sig->n - 1])
            jparse_fail(p, "an argument without a default follows one with a default");
        sig->n++;
    }
    if (p->rc == 0 && sig->n) {
        sig->names = (uint32_t *)(void *)arena_copy(&p->j->mem, names, sig->n * sizeof *names);
        sig->defaults = (struct jnode **)(void *)arena_copy(&p->j->mem, defaults, sig->n * sizeof(struct jnode *));
        if (!sig->names || !sig->defaults)
            jparse_oom(p);
    }
    free(names);
    free(defaults);
    return p->rc;
}

/* The body of a macro or call block: notes which of caller, kwargs and varargs it reads. */
static struct jnode *parse_macro_body(struct jparser *p, struct jsig *sig, const char *end)
{
    uint8_t outer = p->uses;
    unsigned loops = p->loops;
    p->uses = 0;
    p->loops = 0;
    struct jnode *body = parse_inner_body(p, end);
    sig->uses = p->uses;
    p->uses |= outer;
    p->loops = loops;
    return body;
}

static struct jnode *parse_macro(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_MACRO);
    if (!n || p->t->type != JT_NAME)
        return jparse_fail(p, "the name of a macro is missing");
    n->macro.name = jparse_name_id(p, p->t->p, p->t->n);
    p->t++;
    if (jparse_signature(p, &n->macro.sig) == 0)
        n->macro.body = parse_macro_body(p, &n->macro.sig, "endmacro");
    return n;
}

static struct jnode *parse_call_block(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_CALL_BLOCK);
    if (!n || (jparse_is_op(p, '(') && jparse_signature(p, &n->macro.sig) != 0))
        return NULL;
    n->macro.call = jparse_expr(p);
    if (n->macro.call && n->macro.call->type != JN_CALL)
        return jparse_fail(p, "a call block needs a call");
    n->macro.body = parse_macro_body(p, &n->macro.sig, "endcall");
    return n;
}

static struct jnode *parse_filter_block(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_FILTER_BLOCK);
    if (!n || !(n->set.filter = jparse_filters(p, true)))
        return NULL;
    n->set.body = parse_inner_body(p, "endfilter");
    return n;
}

static struct jnode *parse_with(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_WITH), **tail = n ? &n->set.value : NULL;
    while (n && p->rc == 0 && p->t->type != JT_BLOCK_END) {
        struct jnode *pair = jparse_node(p, JN_SET);
        if (!pair || (n->set.value && jparse_expect_op(p, ',') != 0) || !(pair->set.target = jparse_target(p, false)) ||
            jparse_expect_op(p, '=') != 0 || !(pair->set.value = jparse_expr(p)))
            return NULL;
        *tail = pair;
        tail = &pair->next;
    }
    if (n)
        n->set.body = parse_inner_body(p, "endwith");
    return n;
}

/* {% generation %} marks what an assistant wrote, for training; its body is rendered like that of a call block. */
static struct jnode *parse_generation(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_SCOPE);
    unsigned loops = p->loops;
    p->loops = 0;
    if (n)
        n->branch.body = parse_inner_body(p, "endgeneration");
    p->loops = loops;
    return n;
}

static struct jnode *parse_print(struct jparser *p)
{
    struct jnode *n = jparse_node(p, JN_PRINT);
    if (n)
        n->expr = jparse_expr(p);
    return n;
}

static struct jnode *parse_break(struct jparser *p)
{
    return p->loops ? jparse_node(p, JN_BREAK) : jparse_fail(p, "break outside a loop");
}

static struct jnode *parse_continue(struct jparser *p)
{
    return p->loops ? jparse_node(p, JN_CONTINUE) : jparse_fail(p, "continue outside a loop");
}

/* After "{%": one statement up to its last "%}". */
static struct jnode *parse_statement(struct jparser *p)
{
    static const struct {
        const char *name;
        struct jnode *(*parse)(struct jparser *p);
    } tags[] = {{"if", parse_if},
                {"set", parse_set},
                {"for", parse_for},
                {"macro", parse_macro},
                {"break", parse_break},
                {"continue", parse_continue},
                {"generation", parse_generation},
                {"call", parse_call_block},
                {"filter", parse_filter_block},
                {"with", parse_with},
                {"print", parse_print}};
    if (p->t->type != JT_NAME)
        return jparse_fail(p, "the name of a tag is missing");
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (jparse_skip_name(p, tags[i].name)) {
            struct jnode *n = tags[i].parse(p);
            if (p->rc == 0 && p->t->type != JT_BLOCK_END)
                jparse_fail(p, "unexpected '%.*s' at the end of a %s tag", (int)p->t->n, p->t->p, tags[i].name);
            p->t += p->rc == 0;
            return n;
        }
    return jparse_fail(p, "the tag '%.*s' is not supported here", (int)p->t->n, p->t->p);
}

static bool at_end(struct jparser *p, const char *const *ends)
{
    if (p->t->type != JT_BLOCK_BEGIN || !ends)
        return false;
    p->t++;
    for (; *ends; ends++)
        if (jparse_is_name(p, *ends))
            return true;
    p->t--;
    return false;
}

static struct jnode *parse_one(struct jparser *p)
{
    struct jnode *n;
    if (p->t->type == JT_TEXT) {
        n = jparse_node(p, JN_TEXT);
        if (n)
            n->value = jstring(jparse_string(p, p->t->p, p->t->n));
        p->t++;
        return n;
    }
    if (p->t->type == JT_BLOCK_BEGIN) {
        p->t++;
        return parse_statement(p);
    }
    n = jparse_node(p, JN_PRINT);
    p->t++;
    if (n && (n->expr = jparse_tuple(p, false)) && p->t->type != JT_PRINT_END)
        return jparse_fail(p, "unexpected '%.*s' in a print tag", (int)p->t->n, p->t->p);
    p->t += p->rc == 0;
    return n;
}

/* Statements up to a tag that begins with one of `ends` (the token is at its name), or the end of the source. */
static struct jnode *parse_body(struct jparser *p, const char *const *ends)
{
    struct jnode *first = NULL, **tail = &first;
    if (jparse_enter(p) != 0)
        return NULL;
    while (p->rc == 0 && p->t->type != JT_END && !at_end(p, ends)) {
        *tail = parse_one(p);
        if (*tail && p->rc == 0)
            tail = &(*tail)->next;
        if (p->rc == 0 && p->unknown)
            jparse_fail(p, "no %s named '%.*s'", p->unknown->type == JN_FILTER ? "filter" : "test",
                        (int)p->unknown->call.name->n, p->unknown->call.name->p);
    }
    if (p->rc == 0 && ends && p->t->type == JT_END)
        jparse_fail(p, "the template ends where '%s' is missing", ends[0]);
    p->depth--;
    return first;
}

static struct jnode *parse_target_name(struct jparser *p, bool refs)
{
    static const char *const reserved[] = {"true", "false", "none", "True", "False", "None"};
    if (p->t->type != JT_NAME)
        return jparse_fail(p, "the name of a variable is missing");
    for (size_t i = 0; i < sizeof reserved / sizeof *reserved; i++)
        if (jparse_is_name(p, reserved[i]))
            return jparse_fail(p, "can't assign to '%s'", reserved[i]);
    bool ref = refs && p->t[1].type == JT_OP && p->t[1].op == '.';
    struct jnode *n = jparse_node(p, ref ? JN_NSREF : JN_NAME);
    uint32_t id = jparse_name_id(p, p->t->p, p->t->n);
    p->t++;
    if (!n || !ref) {
        if (n)
            n->name = id;
        return n;
    }
    n->ref.ns = id;
    p->t++;
    if (p->t->type != JT_NAME)
        return jparse_fail(p, "a name is missing after '.'");
    n->ref.name = jparse_string(p, p->t->p, p->t->n);
    p->t++;
    return n;
}

struct jnode *jparse_target(struct jparser *p, bool refs)
{
    struct jnode *n = jparse_node(p, JN_TUPLE), **tail = n ? &n->list.items : NULL;
    bool comma = false;
    if (!n || jparse_enter(p) != 0)
        return NULL;
    while (p->t->type == JT_NAME ? !jparse_is_name(p, "in") : jparse_is_op(p, '(')) {
        struct jnode *item;
        if (jparse_skip_op(p, '(')) {
            item = jparse_target(p, refs);
            if (item && jparse_expect_op(p, ')') != 0)
                return NULL;
        } else {
            item = parse_target_name(p, refs);
        }
        if (!item)
            return NULL;
        *tail = item;
        tail = &item->next;
        n->list.n++;
        comma = jparse_skip_op(p, ',');
        if (!comma)
            break;
    }
    p->depth--;
    if (n->list.n == 0)
        return jparse_fail(p, "the name of a variable is missing");
    return n->list.n == 1 && !comma ? n->list.items : n;
}

int jparse(struct jparser *p)
{
    struct jinja *j = p->j;
    j->id_loop = jparse_name_id(p, "loop", 4);
    j->id_caller = jparse_name_id(p, "caller", 6);
    j->id_varargs = jparse_name_id(p, "varargs", 7);
    j->id_kwargs = jparse_name_id(p, "kwargs", 6);
    j->body = parse_body(p, NULL);
    free(p->slots);
    return p->rc;
}
