/* chat - see chat.h. */
#include "engine/text/chat.h"

#include "engine/base/vec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct chat {
    const struct tokenizer *t;
    struct jinja *template;
    struct json *constants; /* what every render sees besides its own variables */
};

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function", NULL};

/* "name": "the token's text", when there is one. */
static void put_token(struct str *s, const struct tokenizer *t, const char *name, int32_t id)
{
    size_t n = 0;
    const char *text = tokenizer_token_bytes(t, id, &n);
    if (!text)
        return;
    str_addf(s, ", \"%s\": ", name);
    json_put_text(s, text, n);
}

static int make_constants(struct chat *c, struct err *e)
{
    struct str s = {0};
    str_puts(&s, "{\"tools\": null, \"documents\": null");
    put_token(&s, c->t, "bos_token", tokenizer_bos(c->t));
    put_token(&s, c->t, "eos_token", tokenizer_eos(c->t));
    str_puts(&s, "}");
    int rc = s.oom ? err_set(e, ENOMEM, "chat template: no memory") : json_parse(&c->constants, s.data, s.len, NULL, e);
    str_fini(&s);
    return rc;
}

int chat_open(struct chat **out, const struct tokenizer *t, const char *source, size_t n, struct err *e)
{
    struct chat *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(e, ENOMEM, "chat template: no memory");
    c->t = t;
    int rc = jinja_compile(&c->template, source, n, e);
    if (rc == 0)
        rc = make_constants(c, e);
    if (rc == 0)
        *out = c;
    else
        chat_close(c);
    return rc;
}

void chat_close(struct chat *c)
{
    if (!c)
        return;
    jinja_close(c->template);
    json_close(c->constants);
    free(c);
}

/* Names that a client must not set: the server's own, and those that mean a function. */
static bool reserved(const char *name, size_t n)
{
    static const char *const names[] = {
        "messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
        "range",    "dict",  "namespace", "raise_exception",       "strftime_now"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == n && memcmp(names[i], name, n) == 0)
            return true;
    return n >= 6 && memcmp(name + n - 6, "_token", 6) == 0;
}

bool chat_reads(const struct chat *c, const char *name)
{
    return jinja_reads(c->template, name);
}

int chat_check_kwargs(const struct chat *c, const struct json_val *kwargs, struct err *e)
{
    if (json_typeof(kwargs) != JSON_OBJECT)
        return err_set(e, EINVAL, "chat_template_kwargs: must be an object");
    for (const struct json_val *v = json_first(kwargs); v; v = json_next(v)) {
        size_t n;
        const char *name = json_key(v, &n);
        int shown = n < 64 ? (int)n : 64;
        if (reserved(name, n))
            return err_set(e, EINVAL, "chat_template_kwargs.%.*s: is set by the server", shown, name);
        if (strlen(name) != n || !jinja_reads(c->template, name))
            continue;
        if (json_typeof(v) == JSON_ARRAY || json_typeof(v) == JSON_OBJECT)
            return err_set(e, EINVAL, "chat_template_kwargs.%.*s: must be a string, number, boolean or null", shown,
                           name);
    }
    return 0;
}

static int push_id(struct token_ids *out, int32_t id, struct err *e)
{
    if (vec_grow(&out->ids, &out->cap, out->n + 1, sizeof *out->ids) != 0)
        return err_set(e, ENOMEM, "chat template: no memory");
    out->ids[out->n++] = id;
    return 0;
}

/* Encode a rendered prompt: control tokens are those that lie in bytes of the template's own, all else is text. */
static int encode(const struct tokenizer *t, const struct str *text, const struct jinja_spans *foreign,
                  struct token_ids *out, struct err *e)
{
    size_t from = 0, i = 0, span = 0;
    int rc = 0;
    while (rc == 0 && i < text->len) {
        size_t own_end = span < foreign->n ? foreign->v[span].from : text->len, len = 0;
        if (i >= own_end) {
            i = foreign->v[span++].to;
            continue;
        }
        int32_t id = tokenizer_match_special(t, text->data + i, own_end - i, &len);
        if (id < 0) {
            i++;
            continue;
        }
        if (i > from)
            rc = tokenizer_encode(t, text->data + from, i - from, false, out, e);
        if (rc == 0)
            rc = push_id(out, id, e);
        from = i += len;
    }
    if (rc == 0 && from < text->len)
        rc = tokenizer_encode(t, text->data + from, text->len - from, false, out, e);
    return rc;
}

static const char *trim(const char *s, size_t *n)
{
    static const char blanks[] = " \t\r\n\v\f";
    while (*n && strchr(blanks, s[*n - 1]))
        --*n;
    while (*n && strchr(blanks, *s)) {
        s++;
        --*n;
    }
    return s;
}

/* Where the last `text` in s[from..to) begins; SIZE_MAX when there is none. */
static size_t find_last(const struct str *s, size_t from, size_t to, const char *text, size_t n)
{
    for (size_t at = to >= n ? to - n + 1 : 0; at > from; at--)
        if (memcmp(s->data + at - 1, text, n) == 0)
            return at - 1;
    return SIZE_MAX;
}

/* The same in what came from the caller; a content that is a role's name counts as the template's, so that comes last.
 */
static size_t find_foreign(const struct str *s, const struct jinja_spans *foreign, const char *text, size_t n)
{
    for (size_t i = foreign->n; i > 0; i--) {
        size_t at = find_last(s, foreign->v[i - 1].from, foreign->v[i - 1].to, text, n);
        if (at != SIZE_MAX)
            return at;
    }
    return find_last(s, 0, s->len, text, n);
}

static bool goes_on(const struct json_val *vars)
{
    const struct json_val *v = json_get(vars, "continue_final_message");
    return v && json_typeof(v) == JSON_TRUE;
}

/* Drop what the template wrote behind the last message's content: blanks at its end stay when the template kept them,
 * as in Transformers. */
static int end_in_message(const struct json_val *vars, struct str *text, struct jinja_spans *foreign, struct err *e)
{
    const struct json_val *last = NULL;
    size_t n = 0, whole;
    for (const struct json_val *m = json_first(json_get(vars, "messages")); m; m = json_next(m))
        last = m;
    const char *content = json_text(json_get(last, "content"), &n), *end = content ? content + n : NULL;
    const char *core = content ? trim(content, &n) : "";
    size_t at = n ? find_foreign(text, foreign, core, n) : SIZE_MAX;
    if (at == SIZE_MAX)
        return err_set(e, EINVAL,
                       n ? "continue_final_message: the chat template changes the last message's content"
                         : "continue_final_message: the last message has no content to go on from");
    whole = (size_t)(end - core);
    if (whole <= text->len - at && memcmp(text->data + at, core, whole) == 0)
        n = whole;
    str_cut(text, at + n);
    while (foreign->n && foreign->v[foreign->n - 1].from >= text->len)
        foreign->n--;
    if (foreign->n && foreign->v[foreign->n - 1].to > text->len)
        foreign->v[foreign->n - 1].to = text->len;
    return 0;
}

int chat_encode(const struct chat *c, const struct json_val *vars, int64_t now_s, struct str *text,
                struct token_ids *out, struct err *e)
{
    const struct jinja_input in = {.vars = vars, .constants = json_root(c->constants), .words = roles, .now_s = now_s};
    struct jinja_spans foreign = {0};
    struct str rendered = {0};
    size_t n = out->n;
    int rc = jinja_render(c->template, &in, &rendered, &foreign, e);
    if (rc == 0 && goes_on(vars))
        rc = end_in_message(vars, &rendered, &foreign, e);
    if (rc == 0)
        rc = encode(c->t, &rendered, &foreign, out, e);
    if (rc < 0)
        out->n = n;
    else if (text)
        str_add(text, str_text(&rendered), rendered.len);
    str_fini(&rendered);
    free(foreign.v);
    return rc;
}
