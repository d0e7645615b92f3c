/* test_json - what is read, what is refused and with which words, exact numbers, limits, failing allocations. */
#include "tests/support/failing_malloc.h"
#include "tests/support/unit.h"

#include "engine/base/json.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <string.h>

#define TEXT(literal) (literal), sizeof(literal) - 1

static struct json *parse_n(const char *text, size_t n)
{
    struct json *doc = NULL;
    struct err e = {0};
    int rc = json_parse(&doc, text, n, NULL, &e);
    ck_assert_msg(rc == 0, "%.60s: %s", text, e.text);
    return doc;
}

static struct json *parse(const char *text)
{
    return parse_n(text, strlen(text));
}

/* Parse from a block of exactly n bytes, so that a sanitizer sees a read beyond them. */
static int try_parse(const char *text, size_t n, const struct json_limits *limits, struct err *e)
{
    struct json *doc = NULL;
    char *copy = malloc(n ? n : 1);
    memcpy(copy, text, n);
    *e = (struct err){0};
    int rc = json_parse(&doc, copy, n, limits, e);
    struct err again = {0};
    ck_assert_int_eq(json_check(copy, n, limits, &again), rc);
    ck_assert_str_eq(again.text, e->text);
    ck_assert((doc != NULL) == (rc == 0));
    free(copy);
    json_close(doc);
    return rc;
}

START_TEST(test_json_takes_what_the_rfc_allows)
{
    static const char *const rows[] = {
        "null",
        "true",
        " false ",
        "0",
        "-0",
        "-0.0",
        "1E+2",
        "0e0",
        "10",
        "\"\"",
        "\t\r\n []",
        "{}",
        "[ ]",
        "{ }",
        "[1,2]",
        "[ 1 , 2 ]",
        "[1,null]",
        "{\"a\":1,\"b\":{\"a\":2}}",
        "{\"\":0}",
        "\"\\u0000\"",
        "\"\x7F\"",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\\ud83d\\uDE00\"",
        "\"\xF4\x8F\xBF\xBF\"",
        "{\"a\":1,\"A\":2,\"a\\u0000\":3}",
        "[[[]]]",
        "[1,[2,[3]]]",
        "123456789012345678901234567890",
        "[-2147483648,2147483647]",
        "[2147483648]",
    };
    struct err e;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        ck_assert_msg(try_parse(rows[i], strlen(rows[i]), NULL, &e) == 0, "%s: %s", rows[i], e.text);
}
END_TEST

START_TEST(test_json_refuses_with_the_byte_and_what_was_expected)
{
    static const struct {
        const char *text;
        size_t n;
        const char *sentence;
    } rows[] = {
        {TEXT(""), "JSON, byte 0: expected a value, found the end"},
        {TEXT(" "), "JSON, byte 1: expected a value, found the end"},
        {TEXT("x"), "JSON, byte 0: expected a value, found 'x'"},
        {TEXT("\0"), "JSON, byte 0: expected a value, found byte 0x00"},
        {TEXT("\xEF\xBB\xBF{}"), "JSON, byte 0: expected a value, found byte 0xEF"},
        {TEXT("nul"), "JSON, byte 0: expected a value, found 'n'"},
        {TEXT("nulL"), "JSON, byte 0: expected a value, found 'n'"},
        {TEXT("True"), "JSON, byte 0: expected a value, found 'T'"},
        {TEXT("NaN"), "JSON, byte 0: expected a value, found 'N'"},
        {TEXT("'a'"), "JSON, byte 0: expected a value, found '''"},
        {TEXT("truex"), "JSON, byte 4: expected the end of the document, found 'x'"},
        {TEXT("1 2"), "JSON, byte 2: expected the end of the document, found '2'"},
        {TEXT("[]]"), "JSON, byte 2: expected the end of the document, found ']'"},
        {TEXT("{}\0"), "JSON, byte 2: expected the end of the document, found byte 0x00"},
        {TEXT("+1"), "JSON, byte 0: expected a value, found '+'"},
        {TEXT("-"), "JSON, byte 1: expected a digit, found the end"},
        {TEXT("-x"), "JSON, byte 1: expected a digit, found 'x'"},
        {TEXT("[- 1]"), "JSON, byte 2: expected a digit, found byte 0x20"},
        {TEXT("01"), "JSON, byte 1: expected the end of the document, found '1'"},
        {TEXT("[-01]"), "JSON, byte 3: expected ',' or ']', found '1'"},
        {TEXT("[1.]"), "JSON, byte 3: expected a digit after the point, found ']'"},
        {TEXT("[.5]"), "JSON, byte 1: expected a value, found '.'"},
        {TEXT("1e"), "JSON, byte 2: expected a digit of the exponent, found the end"},
        {TEXT("1e+"), "JSON, byte 3: expected a digit of the exponent, found the end"},
        {TEXT("0x1"), "JSON, byte 1: expected the end of the document, found 'x'"},
        {TEXT("[1,2"), "JSON, byte 4: expected ',' or ']', found the end"},
        {TEXT("[1,2}"), "JSON, byte 4: expected ',' or ']', found '}'"},
        {TEXT("[1 2]"), "JSON, byte 3: expected ',' or ']', found '2'"},
        {TEXT("[1,]"), "JSON, byte 3: expected a value, found ']'"},
        {TEXT("[,1]"), "JSON, byte 1: expected a value, found ','"},
        {TEXT("["), "JSON, byte 1: expected a value, found the end"},
        {TEXT("[1,"), "JSON, byte 3: expected a value, found the end"},
        {TEXT("[\f]"), "JSON, byte 1: expected a value, found byte 0x0C"},
        {TEXT("{"), "JSON, byte 1: expected a key in quotes, found the end"},
        {TEXT("{a:1}"), "JSON, byte 1: expected a key in quotes, found 'a'"},
        {TEXT("{1:1}"), "JSON, byte 1: expected a key in quotes, found '1'"},
        {TEXT("{\"a\":1,}"), "JSON, byte 7: expected a key in quotes, found '}'"},
        {TEXT("{\"a\" 1}"), "JSON, byte 5: expected ':' after the key, found '1'"},
        {TEXT("{\"a\""), "JSON, byte 4: expected ':' after the key, found the end"},
        {TEXT("{\"a\":}"), "JSON, byte 5: expected a value, found '}'"},
        {TEXT("{\"a\":1]"), "JSON, byte 6: expected ',' or '}', found ']'"},
        {TEXT("{\"a\":1 \"b\":2}"), "JSON, byte 7: expected ',' or '}', found '\"'"},
        {TEXT("\""), "JSON, byte 1: expected '\"' to end the string, found the end"},
        {TEXT("\"abc"), "JSON, byte 4: expected '\"' to end the string, found the end"},
        {TEXT("\"a\nb\""), "JSON, byte 2: expected an escape for a control character in a string, found byte 0x0A"},
        {TEXT("\"\0\""), "JSON, byte 1: expected an escape for a control character in a string, found byte 0x00"},
        {TEXT("\"\\"), "JSON, byte 2: expected one of \"\\/bfnrtu after a backslash, found the end"},
        {TEXT("\"\\x\""), "JSON, byte 2: expected one of \"\\/bfnrtu after a backslash, found 'x'"},
        {TEXT("\"\\\0\""), "JSON, byte 2: expected one of \"\\/bfnrtu after a backslash, found byte 0x00"},
        {TEXT("\"\\u12"), "JSON, byte 5: expected 4 hex digits after \\u, found the end"},
        {TEXT("\"\\u12g4\""), "JSON, byte 5: expected 4 hex digits after \\u, found 'g'"},
        {TEXT("\"\\U0041\""), "JSON, byte 2: expected one of \"\\/bfnrtu after a backslash, found 'U'"},
        {TEXT("\"\\uDE00\""), "JSON, byte 1: expected a high surrogate before this low one, found '\\'"},
        {TEXT("\"\\uD83D\""), "JSON, byte 7: expected a \\u escape of a low surrogate after a high one, found '\"'"},
        {TEXT("\"\\uD83D\\n\""), "JSON, byte 7: expected a \\u escape of a low surrogate after a high one, found '\\'"},
        {TEXT("\"\\uD83D\\uD83D\""),
         "JSON, byte 7: expected a \\u escape of a low surrogate after a high one, found '\\'"},
        {TEXT("\"\\uD83D\\uDE0"),
         "JSON, byte 7: expected a \\u escape of a low surrogate after a high one, found '\\'"},
        {TEXT("\"\\uD83D\\uFFFF\""),
         "JSON, byte 7: expected a \\u escape of a low surrogate after a high one, found '\\'"},
        {TEXT("\"\xE9\""), "JSON, byte 1: expected UTF-8, found byte 0xE9"},
        {TEXT("\"a\xC3"), "JSON, byte 2: expected UTF-8, found byte 0xC3"},
        {TEXT("\"\xED\xA0\x80\""), "JSON, byte 1: expected UTF-8, found byte 0xED"},
        {TEXT("\"\xC0\x80\""), "JSON, byte 1: expected UTF-8, found byte 0xC0"},
        {TEXT("{\"\xFF\":1}"), "JSON, byte 2: expected UTF-8, found byte 0xFF"},
    };
    struct err e;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ck_assert_msg(try_parse(rows[i].text, rows[i].n, NULL, &e) == -EINVAL, "%s", rows[i].sentence);
        ck_assert_str_eq(e.text, rows[i].sentence);
    }
}
END_TEST

START_TEST(test_json_refuses_every_part_of_a_document)
{
    static const char text[] =
        "{\"k\\u00e9y\":[1,-2.5e+3,\"\xE2\x82\xAC\\ud83d\\ude00\",true,null,[3,4],{}],\"z\":false}";
    struct err e;
    ck_assert_int_eq(try_parse(TEXT(text), NULL, &e), 0);
    for (size_t n = 0; n < sizeof text - 1; n++)
        ck_assert_msg(try_parse(text, n, NULL, &e) == -EINVAL, "%zu bytes of it", n);
}
END_TEST

START_TEST(test_json_a_key_may_stand_once_in_an_object)
{
    static const struct {
        const char *text, *sentence;
    } rows[] = {
        {"{\"a\":1,\"a\":1}", "JSON, byte 7: this key stands in the object already"},
        {"{\"a\":1,\"b\":2,\"\\u0061\":3}", "JSON, byte 13: this key stands in the object already"},
        {"{\"b\":1,\"a\":1,\"b\":1,\"a\":1,\"b\":1}", "JSON, byte 13: this key stands in the object already"},
        {"{\"\":1,\"\":2}", "JSON, byte 6: this key stands in the object already"},
        {"{\"a\":1,\"b\":1,\"a\":1,\"b\":1}", "JSON, byte 13: this key stands in the object already"},
        {"[{\"x\":{\"\xC3\xA9\":1,\"\\u00E9\":2}}]", "JSON, byte 14: this key stands in the object already"},
        {"{\"a\\u0000b\":1,\"a\\u0000b\":2}", "JSON, byte 14: this key stands in the object already"},
        {"{\"\\/\":1,\"/\":2}", "JSON, byte 8: this key stands in the object already"},
    };
    struct err e;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        ck_assert_msg(try_parse(rows[i].text, strlen(rows[i].text), NULL, &e) == -EINVAL, "%s", rows[i].text);
        ck_assert_str_eq(e.text, rows[i].sentence);
    }
    /* the same key in different objects is fine, so are keys that differ in case, in a NUL or in composition */
    ck_assert_int_eq(try_parse(TEXT("[{\"a\":{\"a\":1}},{\"a\":1}]"), NULL, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("{\"a\":1,\"A\":2,\"a\\u0000\":3,\"\\u0000a\":4,\"aa\":5}"), NULL, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("{\"\xC3\xA9\":1,\"e\xCC\x81\":2}"), NULL, &e), 0);
}
END_TEST

START_TEST(test_json_two_keys_with_one_hash_are_two_keys)
{
    /* found by search: the hash of json_check.c is the same for both */
#define ONE "\"\\u6AF3\\u9461\\u6DD5\\u55E1A\""
#define TWO "\"\\u599B\\u963A\\u766D\\u7F8D\\uD9F4\\uDF52\""
    struct err e;
    ck_assert_int_eq(try_parse(TEXT("{" ONE ":1," TWO ":2}"), NULL, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("{" TWO ":1," ONE ":2}"), NULL, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("{" ONE ":1," TWO ":2," ONE ":3}"), NULL, &e), -EINVAL);
    ck_assert_int_eq(try_parse(TEXT("{" TWO ":1," ONE ":2," TWO ":3}"), NULL, &e), -EINVAL);
}
END_TEST

START_TEST(test_json_finds_one_duplicate_among_100000_keys)
{
    struct str s = {0};
    struct err e;
    for (int i = 0; i < 100000; i++)
        str_addf(&s, "%c\"key %d\":%d", i ? ',' : '{', i * 7919 % 100003, i);
    size_t body = s.len;
    str_puts(&s, "}");
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), 0);
    str_cut(&s, body);
    str_puts(&s, ",\"key 7919\":0}");
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -EINVAL);
    char want[100];
    snprintf(want, sizeof want, "JSON, byte %zu: this key stands in the object already", body + 1);
    ck_assert_str_eq(e.text, want);
    str_fini(&s);
}
END_TEST

static size_t nest(struct str *s, const char *open, const char *inner, const char *close, int depth)
{
    str_cut(s, 0);
    for (int i = 0; i < depth; i++)
        str_puts(s, open);
    str_puts(s, inner);
    for (int i = 0; i < depth; i++)
        str_puts(s, close);
    return s->len;
}

START_TEST(test_json_nests_64_levels_and_no_more)
{
    static const struct {
        const char *open, *inner, *close;
    } rows[] = {
        {"[", "", "]"}, {"[", "1", "]"}, {"[", "\"x\"", "]"}, {"{\"a\":", "0", "}"}, {"[{\"b\":[", "1", "]}]"},
    };
    struct str s = {0};
    struct err e;
    struct json_limits shallow = {.depth = 6}, deep = {.depth = JSON_DEPTH_MAX};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int per = i == 4 ? 3 : 1;
        nest(&s, rows[i].open, rows[i].inner, rows[i].close, 63 / per);
        ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), 0);
        nest(&s, rows[i].open, rows[i].inner, rows[i].close, 66 / per);
        ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -E2BIG);
        nest(&s, rows[i].open, rows[i].inner, rows[i].close, 6 / per);
        ck_assert_int_eq(try_parse(s.data, s.len, &shallow, &e), 0);
        nest(&s, rows[i].open, rows[i].inner, rows[i].close, 9 / per);
        ck_assert_int_eq(try_parse(s.data, s.len, &shallow, &e), -E2BIG);
    }
    nest(&s, "[", "", "]", 64);
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), 0);
    nest(&s, "[", "", "]", 65);
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -E2BIG);
    ck_assert_str_eq(e.text, "JSON, byte 64: nested deeper than 64 levels");
    nest(&s, "[", "{}", "]", 64);
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -E2BIG);
    nest(&s, "[", "", "]", JSON_DEPTH_MAX);
    ck_assert_int_eq(try_parse(s.data, s.len, &deep, &e), 0);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_3000_nested_arrays_in_tools_are_an_error_and_nothing_worse)
{
    struct str s = {0}, text = {0};
    struct err e;
    nest(&s, "[", "", "]", 3000);
    str_addf(&text, "{\"messages\":[],\"tools\":%s}", s.data);
    ck_assert_int_eq(try_parse(text.data, text.len, NULL, &e), -E2BIG);
    ck_assert_str_eq(e.text, "JSON, byte 86: nested deeper than 64 levels");
    nest(&s, "{\"a\":", "", "", 1000000);
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -E2BIG);
    str_fini(&text);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_counts_values_but_not_the_elements_of_integer_arrays)
{
    struct json_limits five = {.nodes = 5};
    struct err e;
    ck_assert_int_eq(try_parse(TEXT("[true,true,true,true]"), &five, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("[true,true,true,true,true]"), &five, &e), -E2BIG);
    ck_assert_str_eq(e.text, "JSON, byte 21: more than 5 values");
    ck_assert_int_eq(try_parse(TEXT("{\"a\":1,\"b\":2,\"c\":3,\"d\":{}}"), &five, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("{\"a\":1,\"b\":2,\"c\":3,\"d\":[{}]}"), &five, &e), -E2BIG);
    ck_assert_int_eq(try_parse(TEXT("[[1,2,3,4,5,6],[1,2,3,4,5,6],[],[9]]"), &five, &e), 0);
    ck_assert_int_eq(try_parse(TEXT("[[1,2,3,4,5,6.0]]"), &five, &e), -E2BIG);
    ck_assert_int_eq(json_check("", (size_t)1 << 32, NULL, &e), -E2BIG); /* before a byte is read */
    ck_assert_str_eq(e.text, "JSON: 4294967296 bytes, the limit is 4 GiB");
    /* the default: a million, the outer array included */
    struct str s = {0};
    for (int i = 0; i < 999999; i++)
        str_puts(&s, i ? ",0.0" : "[0.0");
    str_puts(&s, "]");
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), 0);
    str_cut(&s, s.len - 1);
    str_puts(&s, ",0]");
    ck_assert_int_eq(try_parse(s.data, s.len, NULL, &e), -E2BIG);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_a_million_token_ids_cost_four_megabytes)
{
    struct str s = {0};
    for (int i = 0; i < 1000000; i++)
        str_addf(&s, "%c%d", i ? ',' : '[', i * 7 % 128256);
    str_puts(&s, "]");
    struct json *doc = parse_n(s.data, s.len);
    size_t n;
    const int32_t *ids = json_ints(json_root(doc), &n);
    ck_assert_uint_eq(n, 1000000);
    for (int i = 0; i < 1000000; i++)
        if (ids[i] != i * 7 % 128256)
            ck_abort_msg("element %d is %d", i, ids[i]);
    ck_assert_uint_le(malloc_usable_size(doc), 4000000 + 8192);
    ck_assert_ptr_null(json_first(json_root(doc)));
    ck_assert_uint_eq(json_count(json_root(doc)), 1000000);
    json_close(doc);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_only_arrays_of_plain_int32_are_flat)
{
    static const struct {
        const char *text;
        bool flat;
        size_t n;
    } rows[] = {
        {"[]", true, 0},
        {"[ \n]", true, 0},
        {"[0]", true, 1},
        {"[ -1 , 2147483647 ]", true, 2},
        {"[-2147483648]", true, 1},
        {"[2147483648]", false, 1},
        {"[-2147483649]", false, 1},
        {"[-0]", false, 1},
        {"[1.0]", false, 1},
        {"[1,1e0]", false, 2},
        {"[1,\"\"]", false, 2},
        {"[99999999999999]", false, 1},
        {"[[1],2]", false, 2},
        {"[1,2,null]", false, 3},
        {"{}", false, 0},
        {"1", false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct json *doc = parse(rows[i].text);
        size_t n = 0;
        const int32_t *ids = json_ints(json_root(doc), &n);
        ck_assert_msg((ids != NULL) == rows[i].flat, "%s", rows[i].text);
        ck_assert_uint_eq(n, rows[i].flat ? rows[i].n : 0);
        ck_assert_uint_eq(json_count(json_root(doc)), rows[i].n);
        ck_assert((json_first(json_root(doc)) != NULL) == (!rows[i].flat && rows[i].n));
        json_close(doc);
    }
    struct json *doc = parse("[[-5,6],[],[7]]");
    size_t n;
    const struct json_val *v = json_first(json_root(doc));
    const int32_t *ids = json_ints(v, &n);
    ck_assert(n == 2 && ids[0] == -5 && ids[1] == 6);
    ids = json_ints(json_next(json_next(v)), &n);
    ck_assert(n == 1 && ids[0] == 7);
    json_close(doc);
}
END_TEST

START_TEST(test_json_reads_integers_from_their_digits)
{
    static const struct {
        const char *text;
        bool whole;
        int64_t value;
    } rows[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"5", true, 5},
        {"-3", true, -3},
        {"5.0", true, 5},
        {"5e0", true, 5},
        {"0.5e1", true, 5},
        {"5000e-3", true, 5},
        {"1.20E2", true, 120},
        {"0.00", true, 0},
        {"0e999999999999999999999", true, 0},
        {"9007199254740993", true, 9007199254740993},
        {"-9007199254740993", true, -9007199254740993},
        {"9007199254740993.000", true, 9007199254740993},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9.223372036854775807e18", true, INT64_MAX},
        {"922337203685477580700e-2", true, INT64_MAX},
        {"1e18", true, 1000000000000000000},
        {"5.7", false, 0},
        {"5e-1", false, 0},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"9999999999999999999", false, 0},
        {"18446744073709551617", false, 0},
        {"100000000000000000000", false, 0},
        {"1e19", false, 0},
        {"1e999", false, 0},
        {"1e-999", false, 0},
        {"1e99999999999999999999", false, 0},
        {"1e-99999999999999999999", false, 0},
        {"9007199254740993.0000001", false, 0},
        {"true", false, 0},
        {"\"5\"", false, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct json *doc = parse(rows[i].text);
        int64_t got = 77;
        ck_assert_msg(json_int(json_root(doc), &got) == rows[i].whole, "%s", rows[i].text);
        ck_assert_msg(got == (rows[i].whole ? rows[i].value : 77), "%s gives %lld", rows[i].text, (long long)got);
        json_close(doc);
    }
    struct str s = {0}; /* 1000...0 with a million zeros, taken back by the exponent */
    str_puts(&s, "1");
    for (int i = 0; i < 1000000; i++)
        str_putc(&s, '0');
    str_puts(&s, "e-999999");
    struct json *doc = parse(str_text(&s));
    int64_t got;
    ck_assert(json_int(json_root(doc), &got) && got == 10);
    json_close(doc);
    str_fini(&s);
}
END_TEST

START_TEST(test_json_reads_doubles_and_keeps_digits)
{
    struct json *doc = parse(
        "[0.1,1e999,-1e999,1e-999,-0.0,123456789012345678901234567890,1.000000000000000005,\"1\"]");
    static const double want[] = {0.1, INFINITY, -INFINITY, 0, -0.0, 123456789012345678901234567890.0, 1};
    const struct json_val *v = json_first(json_root(doc));
    double got = 0;
    for (size_t i = 0; i < sizeof want / sizeof *want; i++, v = json_next(v)) {
        ck_assert(json_double(v, &got));
        ck_assert(got == want[i] && !signbit(got) == !signbit(want[i]));
    }
    ck_assert(!json_double(v, &got));
    ck_assert_ptr_null(json_digits(v, NULL));
    ck_assert_ptr_null(json_next(v));
    size_t n;
    const char *digits = json_digits(json_next(json_first(json_root(doc))), &n);
    ck_assert_str_eq(digits, "1e999");
    ck_assert_uint_eq(n, 5);
    json_close(doc);
}
END_TEST

START_TEST(test_json_strings_and_keys_may_hold_nul_and_any_character)
{
    struct json *doc = parse(
        "{\"a\\u0000b\":\"x\\u0000\\u0000y\",\"a\":\"\\u00e9\\u20AC\\ud83d\\ude00\\uFFFF\\\"\\\\\\/\\b\\f\\n\\r\\t\"}");
    const struct json_val *v = json_first(json_root(doc));
    size_t n;
    const char *key = json_key(v, &n);
    ck_assert_uint_eq(n, 3);
    ck_assert_mem_eq(key, "a\0b", 4);
    const char *text = json_text(v, &n);
    ck_assert_uint_eq(n, 4);
    ck_assert_mem_eq(text, "x\0\0y", 5);
    v = json_get(json_root(doc), "a"); /* not the key that begins with it */
    ck_assert_ptr_eq(v, json_next(json_first(json_root(doc))));
    ck_assert_str_eq(json_text(v, NULL), "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xEF\xBF\xBF\"\\/\b\f\n\r\t");
    json_close(doc);
}
END_TEST

START_TEST(test_json_walks_and_finds_members)
{
    struct json *doc = parse("{\"b\":[true,{\"c\":\"d\"},[]],\"B\":null,\"e\":{}, \"f\":false}");
    const struct json_val *root = json_root(doc), *v = json_get(root, "b");
    ck_assert_int_eq(json_typeof(root), JSON_OBJECT);
    ck_assert_uint_eq(json_count(root), 4);
    ck_assert_uint_eq(json_count(v), 3);
    ck_assert_int_eq(json_typeof(json_first(v)), JSON_TRUE);
    ck_assert_ptr_null(json_key(json_first(v), NULL));
    ck_assert_str_eq(json_text(json_get(json_next(json_first(v)), "c"), NULL), "d");
    ck_assert_ptr_null(json_next(json_next(json_next(json_first(v)))));
    ck_assert_str_eq(json_key(json_next(v), NULL), "B");
    ck_assert_int_eq(json_typeof(json_get(root, "B")), JSON_NULL);
    ck_assert_ptr_null(json_first(json_get(root, "e")));
    ck_assert_int_eq(json_typeof(json_get(root, "f")), JSON_FALSE);
    ck_assert_ptr_null(json_next(json_get(root, "f")));
    ck_assert_ptr_null(json_get(root, "c"));
    ck_assert_ptr_null(json_get(v, "c"));
    ck_assert_ptr_null(json_get(NULL, "c"));
    ck_assert_ptr_null(json_first(json_get(root, "f")));
    ck_assert_ptr_null(json_text(v, NULL));
    ck_assert_ptr_null(json_next(root));
    ck_assert_ptr_null(json_key(root, NULL));
    json_close(doc);
    json_close(NULL);
}
END_TEST

START_TEST(test_json_survives_the_failure_of_any_allocation)
{
    static char text[5000];
    int at = sprintf(text, "{\"a\":[1,2,3]");
    for (int i = 0; i < 200; i++)
        at += sprintf(text + at, ",\"key%d\":{\"x\":[%d,\"y\"]}", i, i);
    sprintf(text + at, "}");
    unsigned long n = 0, made;
    do {
        struct json *doc = NULL;
        struct err e = {0};
        fail_nth(++n);
        int rc = json_parse(&doc, text, strlen(text), NULL, &e);
        made = fail_stop();
        if (rc) {
            ck_assert_int_eq(rc, -ENOMEM);
            ck_assert(!doc && made >= n);
            ck_assert_msg(!strncmp(e.text, "JSON: no memory for", 19), "%s", e.text);
        } else {
            ck_assert_uint_eq(json_count(json_root(doc)), 201); /* qsort can do without the memory it asks for */
            json_close(doc);
        }
    } while (made >= n);
    printf("%lu allocations failed in turn\n", n - 1);
    ck_assert_uint_ge(n - 1, 5); /* the key stack grew, and the tree */
}
END_TEST

START_TEST(test_json_reads_of_an_absent_value_find_nothing)
{
    size_t n = 7;
    double d;
    int64_t i;
    ck_assert_ptr_null(json_get(NULL, "a"));
    ck_assert_ptr_null(json_first(NULL));
    ck_assert_ptr_null(json_text(NULL, &n));
    ck_assert_ptr_null(json_digits(NULL, &n));
    ck_assert_ptr_null(json_ints(NULL, &n));
    ck_assert(!json_double(NULL, &d) && !json_int(NULL, &i));
    ck_assert_uint_eq(json_count(NULL), 0);
}
END_TEST

UNIT_MAIN("json", test_json_reads_of_an_absent_value_find_nothing, test_json_takes_what_the_rfc_allows,
          test_json_refuses_with_the_byte_and_what_was_expected, test_json_refuses_every_part_of_a_document,
          test_json_a_key_may_stand_once_in_an_object, test_json_two_keys_with_one_hash_are_two_keys,
          test_json_finds_one_duplicate_among_100000_keys, test_json_nests_64_levels_and_no_more,
          test_json_3000_nested_arrays_in_tools_are_an_error_and_nothing_worse,
          test_json_counts_values_but_not_the_elements_of_integer_arrays,
          test_json_a_million_token_ids_cost_four_megabytes, test_json_only_arrays_of_plain_int32_are_flat,
          test_json_reads_integers_from_their_digits, test_json_reads_doubles_and_keeps_digits,
          test_json_strings_and_keys_may_hold_nul_and_any_character, test_json_walks_and_finds_members,
          test_json_survives_the_failure_of_any_allocation)
