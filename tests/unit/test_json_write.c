/* test_json_write - what is written reads back, and is what Python writes where we say so. */
#include "tests/support/unit.h"

#include "engine/base/json.h"
#include "engine/base/rng.h"
#include "engine/base/utf8.h"

#include <errno.h>
#include <math.h>
#include <string.h>

/* v of `text` written again into out. */
static void rewrite(struct str *out, const char *text, size_t n, bool sep)
{
    struct json *doc;
    struct err e = {0};
    ck_assert_msg(json_parse(&doc, text, n, NULL, &e) == 0, "%.*s: %s", (int)n, text, e.text);
    str_cut(out, 0);
    json_put_value(out, json_root(doc), sep);
    ck_assert(!out->oom);
    json_close(doc);
}

START_TEST(test_json_writes_text_with_the_escapes_of_the_rfc)
{
    static const struct {
        const char *text;
        size_t n;
        const char *json;
    } rows[] = {
        {"", 0, "\"\""},
        {"a/b", 3, "\"a/b\""},
        {"\"\\\b\f\n\r\t", 7, "\"\\\"\\\\\\b\\f\\n\\r\\t\""},
        {"\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\""},
        {"\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80", 9, "\"\xC3\xA9\xE2\x80\xA8\xF0\x9F\x98\x80\""},
        {"a\xFF\xE2\x82z", 5, "\"a\xEF\xBF\xBD\xEF\xBF\xBDz\""}, /* a stray byte is one, a cut character is one */
        {"\xED\xA0\x80", 3, "\"\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\""},
        {"\xF0\x9F\x98", 3, "\"\xEF\xBF\xBD\""},
    };
    struct str s = {0};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        str_cut(&s, 0);
        json_put_text(&s, rows[i].text, rows[i].n);
        ck_assert_str_eq(str_text(&s), rows[i].json);
    }
    str_cut(&s, 0);
    json_put_cstr(&s, "x\ty");
    ck_assert_str_eq(str_text(&s), "\"x\\ty\"");
    str_fini(&s);
}
END_TEST

START_TEST(test_json_any_bytes_become_a_string_that_reads_back)
{
    uint64_t rng = unit_seed("any bytes become a string that reads back");
    static const char some[] = "\xC3\xA9\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"\\\n";
    struct str s = {0};
    for (int round = 0; round < 20000; round++) {
        char bytes[16];
        size_t n = rng_next(&rng) % (sizeof bytes + 1);
        for (size_t i = 0; i < n; i++) /* any byte; or those of a few characters, so that some stay whole */
            bytes[i] = (char)(round & 1 ? rng_next(&rng) >> 8 : (uint64_t)some[rng_next(&rng) % (sizeof some - 1)]);
        str_cut(&s, 0);
        json_put_text(&s, bytes, n);
        struct json *doc;
        struct err e;
        if (json_parse(&doc, s.data, s.len, NULL, &e))
            ck_abort_msg("round %d: %s", round, e.text);
        size_t got;
        const char *text = json_text(json_root(doc), &got);
        if (!utf8_valid(text, got) || (utf8_valid(bytes, n) && (got != n || memcmp(text, bytes, n))))
            ck_abort_msg("round %d: other text", round);
        json_close(doc);
    }
    str_fini(&s);
}
END_TEST

START_TEST(test_json_writes_doubles_as_python_does)
{
    FILE *f = fopen("tests/golden/json_doubles.txt", "r");
    ck_assert_msg(f != NULL, "run from the root of the repository");
    unsigned long long bits;
    char want[40];
    struct str s = {0};
    int rows = 0;
    for (; fscanf(f, "%llx %39s", &bits, want) == 2; rows++) {
        double v;
        memcpy(&v, &bits, sizeof v);
        str_cut(&s, 0);
        json_put_double(&s, v);
        if (strcmp(s.data, want))
            ck_abort_msg("%a: %s, Python says %s", v, s.data, want);
    }
    fclose(f);
    ck_assert_int_ge(rows, 3000);
    str_cut(&s, 0);
    json_put_double(&s, NAN);
    json_put_double(&s, -INFINITY);
    ck_assert_str_eq(str_text(&s), "nullnull");
    str_fini(&s);
}
END_TEST

START_TEST(test_json_doubles_read_back_as_the_same_bits)
{
    uint64_t rng = unit_seed("doubles read back as the same bits");
    struct str s = {0};
    for (int i = 0; i < 100000; i++) {
        uint64_t bits = rng_next(&rng);
        double v;
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v))
            continue;
        str_cut(&s, 0);
        json_put_double(&s, v);
        double back = strtod(s.data, NULL);
        if (memcmp(&back, &v, sizeof v) || s.len > 24)
            ck_abort_msg("%a became %s", v, s.data);
    }
    str_fini(&s);
}
END_TEST

START_TEST(test_json_writes_values_as_python_does)
{
    FILE *f = fopen("tests/golden/json_dumps.txt", "r");
    ck_assert_msg(f != NULL, "run from the root of the repository");
    char *in = NULL, *want = NULL;
    size_t in_cap = 0, want_cap = 0;
    ssize_t in_n, want_n;
    struct str s = {0};
    int rows = 0;
    for (; (in_n = getline(&in, &in_cap, f)) > 0 && (want_n = getline(&want, &want_cap, f)) > 0; rows++) {
        want[want_n - 1] = 0;
        rewrite(&s, in, (size_t)in_n, true);
        ck_assert_str_eq(str_text(&s), want);
    }
    ck_assert_int_ge(rows, 400);
    free(in);
    free(want);
    fclose(f);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_compact_values_keep_their_digits)
{
    static const char text[] = " { \"a\" : [ 1.0 , 1E5 , -0 , 1e999 , 10000000000000000999 ] , \"b\" : [ -1 , 2 ] , "
                               "\"c\" : [ ] , \"d\" : { } }\n";
    struct str s = {0};
    rewrite(&s, text, sizeof text - 1, false);
    ck_assert_str_eq(str_text(&s), "{\"a\":[1.0,1E5,-0,1e999,10000000000000000999],\"b\":[-1,2],\"c\":[],\"d\":{}}");
    str_fini(&s);
}
END_TEST

START_TEST(test_json_a_value_within_a_document_is_written_alone)
{
    struct json *doc;
    struct err e;
    static const char text[] = "{\"a\":[{\"b\":[[],{}]},2],\"c\":{\"d\":\"e\"}}";
    struct str s = {0};
    ck_assert_int_eq(json_parse(&doc, text, sizeof text - 1, NULL, &e), 0);
    const struct json_val *a = json_get(json_root(doc), "a");
    json_put_value(&s, a, false);
    str_putc(&s, '|');
    json_put_value(&s, json_first(a), true);
    str_putc(&s, '|');
    json_put_value(&s, json_next(json_first(a)), true);
    str_putc(&s, '|');
    json_put_value(&s, json_get(json_get(json_root(doc), "c"), "d"), true);
    ck_assert_str_eq(str_text(&s), "[{\"b\":[[],{}]},2]|{\"b\": [[], {}]}|2|\"e\"");
    str_fini(&s);
    json_close(doc);
}
END_TEST

/* A random document twice: compact in `plain`; in `noisy` with blanks and needless escapes. */
struct twin {
    struct str plain, noisy;
    uint64_t rng;
    int budget; /* values that may still be made */
};

static uint64_t pick(struct twin *t, uint64_t n)
{
    return (rng_next(&t->rng) >> 20) % n;
}

static void twin_blank(struct twin *t)
{
    for (uint64_t n = pick(t, 3); n; n--)
        str_putc(&t->noisy, " \n\r\t"[pick(t, 4)]);
}

static void twin_puts(struct twin *t, const char *text)
{
    twin_blank(t);
    str_puts(&t->plain, text);
    str_puts(&t->noisy, text);
    twin_blank(t);
}

/* `prefix` keeps the keys of an object apart. */
static void twin_string(struct twin *t, const char *prefix)
{
    static const uint32_t chars[] = {'a', '"', '\\', '/', 0, 0x1F, 0x7F, 0xE9, 0x20AC, 0xFFFF, 0x10FFFF, 0x1F600, '\n'};
    char raw[64];
    size_t n = strlen(strcpy(raw, prefix));
    str_addf(&t->noisy, "\"%s", prefix);
    for (uint64_t left = pick(t, 5); left; left--) {
        uint32_t cp = chars[pick(t, sizeof chars / sizeof *chars)];
        size_t took = utf8_put(raw + n, cp);
        if (cp >= 0x10000 && pick(t, 2))
            str_addf(&t->noisy, "\\u%04x\\u%04X", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + (cp & 0x3FF));
        else if (cp < 0x20 || cp == '"' || cp == '\\' || (cp < 0x10000 && pick(t, 2)))
            str_addf(&t->noisy, "\\u%04x", cp);
        else
            str_add(&t->noisy, raw + n, took);
        n += took;
    }
    str_puts(&t->noisy, "\"");
    json_put_text(&t->plain, raw, n);
}

static void twin_value(struct twin *t, unsigned depth)
{
    static const char *const leaves[] = {"null", "true", "false", "0", "-0", "-1.50e-7", "12345678901234567890",
                                         "7",    "{}"};
    t->budget--;
    uint64_t kind = pick(t, depth && t->budget > 0 ? 6 : 2);
    if (kind == 0) {
        twin_puts(t, leaves[pick(t, sizeof leaves / sizeof *leaves)]);
        return;
    } else if (kind == 1) {
        twin_blank(t);
        twin_string(t, "");
        twin_blank(t);
        return;
    }
    bool object = kind >= 4;
    twin_puts(t, object ? "{" : "[");
    for (uint64_t i = 0, n = pick(t, 5); i < n; i++) {
        char prefix[24];
        snprintf(prefix, sizeof prefix, "%llu", (unsigned long long)i);
        if (i)
            twin_puts(t, ",");
        if (object) {
            twin_string(t, prefix);
            twin_puts(t, ":");
        }
        if (kind == 2)
            twin_puts(t, prefix); /* a flat array */
        else
            twin_value(t, depth - 1);
    }
    twin_puts(t, object ? "}" : "]");
}

START_TEST(test_json_random_documents_lose_nothing_but_blanks)
{
    struct twin t = {.rng = unit_seed("random documents lose nothing but blanks")};
    struct str once = {0}, spaced = {0}, again = {0};
    for (int round = 0; round < 3000; round++) {
        str_cut(&t.plain, 0);
        str_cut(&t.noisy, 0);
        t.budget = 300;
        twin_value(&t, 2 + (unsigned)round % 30);
        rewrite(&once, t.noisy.data, t.noisy.len, false);
        if (once.len != t.plain.len || memcmp(once.data, t.plain.data, once.len))
            ck_abort_msg("round %d: %s became %s", round, t.noisy.data, once.data);
        rewrite(&spaced, once.data, once.len, true);
        rewrite(&again, spaced.data, spaced.len, true);
        if (spaced.len != again.len || memcmp(spaced.data, again.data, again.len))
            ck_abort_msg("round %d: %s became %s", round, spaced.data, again.data);
    }
    str_fini(&t.plain);
    str_fini(&t.noisy);
    str_fini(&once);
    str_fini(&spaced);
    str_fini(&again);
}
END_TEST

UNIT_MAIN("json_write", test_json_writes_text_with_the_escapes_of_the_rfc,
          test_json_any_bytes_become_a_string_that_reads_back, test_json_writes_doubles_as_python_does,
          test_json_doubles_read_back_as_the_same_bits, test_json_writes_values_as_python_does,
          test_json_compact_values_keep_their_digits, test_json_a_value_within_a_document_is_written_alone,
          test_json_random_documents_lose_nothing_but_blanks)
