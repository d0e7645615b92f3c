/* fuzz_template - any bytes as a chat template over fixed variables: it ends within its limits, the same twice, and
 * what came from the variables is marked in the output.
 *
 * Each string of the variables holds U+E000, a character that no template makes by itself: where one is in the output,
 * it must lie in a foreign span.
 */
#include "engine/text/jinja.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char vars_text[] =
    "{\"messages\": [{\"role\": \"\xEE\x80\x80user\", \"content\": \" Hi,\\n<|x|>\xEE\x80\x80\"},"
    " {\"role\": \"\xEE\x80\x80tool\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"\xEE\x80\x80n\","
    " \"arguments\": {\"a\xEE\x80\x80\": [1, 2.5, true, null, \"\xC3\xA4\xEE\x80\x80\"]}}}]}],"
    " \"tools\": [{\"b\": 1, \"a\": [3, 1, 2]}], \"add_generation_prompt\": true, \"n\": 7, \"f\": 0.1,"
    " \"s\": \"a,b,\xEE\x80\x80,d e\"}";

static bool all_marked(const struct str *out, const struct jinja_spans *foreign)
{
    size_t span = 0;
    for (size_t i = 0; i + 3 <= out->len; i++) {
        if (memcmp(out->data + i, "\xEE\x80\x80", 3) != 0)
            continue;
        while (span < foreign->n && foreign->v[span].to <= i)
            span++;
        if (span == foreign->n || foreign->v[span].from > i || foreign->v[span].to < i + 3)
            return false;
    }
    return true;
}

static int render(const struct jinja *j, const struct jinja_input *in, struct str *out, struct jinja_spans *foreign)
{
    struct err e = {0};
    int rc = jinja_render(j, in, out, foreign, &e);
    MUST(rc == 0 || rc == -EINVAL || rc == -E2BIG || rc == -ENOMEM);
    MUST(rc == 0 || (e.text[0] && out->len == 0 && foreign->n == 0));
    MUST(out->len <= in->limits.output_bytes);
    for (size_t i = 0; i < foreign->n; i++)
        MUST(foreign->v[i].from < foreign->v[i].to && foreign->v[i].to <= out->len &&
             (i == 0 || foreign->v[i - 1].to < foreign->v[i].from));
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct json *vars;
    struct jinja *j = NULL;
    struct str once = {0}, again = {0};
    struct jinja_spans foreign = {0}, foreign_again = {0};
    struct err e = {0};
    if (!vars)
        MUST(json_parse(&vars, vars_text, sizeof vars_text - 1, NULL, &e) == 0);
    struct jinja_input in = {.vars = json_root(vars), .now_s = 1767323045};
    in.limits = (struct jinja_limits){.steps = 50000, .output_bytes = 1 << 16, .memory_bytes = 1 << 20, .depth = 200};
    if (jinja_compile(&j, (const char *)data, size, &e) == 0) {
        int rc = render(j, &in, &once, &foreign);
        MUST(render(j, &in, &again, &foreign_again) == rc);
        MUST(once.len == again.len && (once.len == 0 || memcmp(once.data, again.data, once.len) == 0));
        MUST(foreign.n == foreign_again.n);
        /* an escape or the character itself may write U+E000 */
        bool own = memchr(data, '\\', size) || memmem(data, size, "\xEE\x80\x80", 3);
        MUST(own || all_marked(&once, &foreign));
    } else {
        MUST(e.text[0]);
    }
    jinja_close(j);
    str_fini(&once);
    str_fini(&again);
    free(foreign.v);
    free(foreign_again.v);
    return 0;
}
