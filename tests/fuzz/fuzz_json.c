/* fuzz_json - any bytes: the check and the parse agree, what is accepted survives being written, the first byte picks
 * the limits. */
#include "engine/base/json.h"

#include <stdlib.h>
#include <string.h>

#define MUST(condition) ((condition) ? (void)0 : abort())

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ask everything of every value; returns how many there are. */
static size_t walk(const struct json_val *v)
{
    size_t n, values = 1;
    double d;
    int64_t i;
    if (json_text(v, &n))
        MUST(json_text(v, NULL)[n] == 0);
    if (json_int(v, &i))
        MUST(json_double(v, &d) && d == (double)i); /* both are the same number, rounded once */
    if (json_ints(v, &n))
        MUST(n == json_count(v));
    for (const struct json_val *c = json_first(v); c; c = json_next(c)) {
        const char *key = json_key(c, &n);
        MUST(!key == (json_typeof(v) == JSON_ARRAY));
        if (key && strlen(key) == n)
            MUST(json_get(v, key) == c);
        values += walk(c);
    }
    return values;
}

/* Write v, parse that and write it again: the same bytes. */
static void write_twice(const struct json_val *v, bool sep, const struct json_limits *limits)
{
    struct str once = {0}, again = {0};
    struct json *doc;
    struct err e = {0};
    json_put_value(&once, v, sep);
    if (json_parse(&doc, once.data, once.len, limits, &e) == 0) {
        json_put_value(&again, json_root(doc), sep);
        MUST(once.len == again.len && !memcmp(once.data, again.data, once.len));
        json_close(doc);
    } else {
        MUST(sep && strstr(once.data, "Infinity")); /* as Python writes it, which is no JSON */
    }
    str_fini(&once);
    str_fini(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    struct json_limits limits = {.depth = data[0] & 1 ? 3 : 0, .nodes = data[0] & 2 ? 10 : 0};
    const char *bytes = (const char *)data + 1;
    struct json *doc = NULL;
    struct err e = {0}, again = {0};
    int rc = json_parse(&doc, bytes, size - 1, &limits, &e);
    MUST(json_check(bytes, size - 1, &limits, &again) == rc && !strcmp(e.text, again.text));
    if (rc) {
        MUST(!doc && e.text[0]);
        return 0;
    }
    size_t values = walk(json_root(doc));
    MUST(values <= (limits.nodes ? limits.nodes : 1000000));
    write_twice(json_root(doc), false, &limits);
    write_twice(json_root(doc), true, &limits);
    json_close(doc);
    return 0;
}
