/* jinja_cli - the Jinja engine behind a pipe, for jinja_oracle.py.
 *
 * Reads cases, each a line with a length and then that many bytes of JSON:
 *     {"template": "...", "vars": {...}, "constants": {...}, "now": 0, "steps": 0, "memory": 0}
 * Answers each with one line: {"ok": "text", "foreign": [[from, to], ...]} in bytes, or {"error": "..."}.
 */
#include "engine/base/json.h"
#include "engine/text/jinja.h"

#include <stdio.h>
#include <stdlib.h>

static void put_result(const struct str *text, const struct jinja_spans *foreign)
{
    struct str line = {0};
    str_puts(&line, "{\"ok\": ");
    json_put_text(&line, text->data ? text->data : "", text->len);
    str_puts(&line, ", \"foreign\": [");
    for (size_t i = 0; i < foreign->n; i++)
        str_addf(&line, "%s[%zu, %zu]", i ? ", " : "", foreign->v[i].from, foreign->v[i].to);
    str_puts(&line, "]}");
    puts(str_text(&line));
    str_fini(&line);
}

static void put_error(const struct err *e)
{
    struct str line = {0};
    str_puts(&line, "{\"error\": ");
    json_put_cstr(&line, e->text);
    str_puts(&line, "}");
    puts(str_text(&line));
    str_fini(&line);
}

static int64_t number(const struct json_val *c, const char *key)
{
    const struct json_val *v = json_get(c, key);
    int64_t i = 0;
    return v && json_int(v, &i) ? i : 0;
}

static void run_case(const struct json_val *c)
{
    struct err e = {0};
    struct jinja *j = NULL;
    struct str text = {0};
    struct jinja_spans foreign = {0};
    size_t n = 0;
    const char *source = json_text(json_get(c, "template"), &n);
    struct jinja_input in = {.vars = json_get(c, "vars"), .constants = json_get(c, "constants")};
    in.now_s = number(c, "now");
    in.limits.steps = (uint64_t)number(c, "steps");
    in.limits.memory_bytes = (size_t)number(c, "memory");
    if (jinja_compile(&j, source, n, &e) == 0 && jinja_render(j, &in, &text, &foreign, &e) == 0)
        put_result(&text, &foreign);
    else
        put_error(&e);
    jinja_close(j);
    str_fini(&text);
    free(foreign.v);
}

int main(void)
{
    char head[32], *bytes = NULL;
    while (fgets(head, sizeof head, stdin)) {
        size_t n = strtoul(head, NULL, 10);
        struct err e = {0};
        struct json *doc = NULL;
        char *more = realloc(bytes, n + 1);
        if (!more || fread(more, 1, n, stdin) != n) {
            free(more ? more : bytes);
            return EXIT_FAILURE;
        }
        bytes = more;
        if (json_parse(&doc, bytes, n, &(struct json_limits){.depth = 200}, &e) == 0)
            run_case(json_root(doc));
        else
            put_error(&e);
        json_close(doc);
        fflush(stdout);
    }
    free(bytes);
    return EXIT_SUCCESS;
}
