/* test_jinja - the template engine against what Jinja2 gave, hostile templates, limits, provenance. */
#include "tests/support/unit.h"

#include "engine/text/jinja.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static const struct jinja_limits small = {.steps = 1000000, .output_bytes = 2 << 20, .memory_bytes = 10 << 20};

/* Compile and render; what went wrong is in e. */
static int render(const char *source, size_t n, const struct jinja_input *in, struct str *out,
                  struct jinja_spans *foreign, struct err *e)
{
    struct jinja *j = NULL;
    int rc = jinja_compile(&j, source, n, e);
    if (rc == 0)
        rc = jinja_render(j, in, out, foreign, e);
    jinja_close(j);
    return rc;
}

static struct json *parse(const char *text, size_t n)
{
    struct json *doc = NULL;
    struct err e = {0};
    int rc = json_parse(&doc, text, n, NULL, &e);
    ck_assert_msg(rc == 0, "%s", e.text);
    return doc;
}

/* --- against Jinja2 --- */
static int check_case(const struct json_val *c, const struct json_val *vars)
{
    struct jinja_input in = {.vars = vars, .now_s = 1767323045};
    struct str out = {0};
    struct err e = {0};
    size_t n, n_want = 0;
    const char *source = json_text(json_get(c, "t"), &n), *want = NULL;
    if (json_get(c, "ok"))
        want = json_text(json_get(c, "ok"), &n_want);
    int rc = render(source, n, &in, &out, NULL, &e);
    bool same = want ? rc == 0 && out.len == n_want && memcmp(str_text(&out), want, n_want) == 0 : rc < 0;
    if (!same)
        printf("%s\n  gives %s\n  not   %s\n", source, rc ? e.text : str_text(&out), want ? want : "an error");
    str_fini(&out);
    return same ? 0 : 1;
}

START_TEST(test_small_templates_give_what_jinja2_gives)
{
    FILE *f = fopen("tests/golden/jinja_cases.jsonl", "r");
    char *line = NULL;
    size_t cap = 0, cases = 0;
    int failed = 0;
    ck_assert_ptr_nonnull(f);
    ssize_t n = getline(&line, &cap, f);
    struct json *vars = parse(line, (size_t)n);
    while ((n = getline(&line, &cap, f)) > 0) {
        struct json *doc = parse(line, (size_t)n);
        failed += check_case(json_root(doc), json_root(vars));
        json_close(doc);
        cases++;
    }
    json_close(vars);
    free(line);
    fclose(f);
    ck_assert_uint_ge(cases, 300);
    ck_assert_int_eq(failed, 0);
}
END_TEST

/* --- hostile templates --- */
struct hostile { /* before, `repeat` n times, between, `repeat2` n times, after */
    const char *before, *repeat;
    size_t n;
    const char *between, *repeat2, *after;
};

static const struct hostile hostile[] = {
    {"{% for i in range(10**9) %}x{% endfor %}", "", 0, "", "", ""},
    {"{{ range(10**9)|list }}", "", 0, "", "", ""},
    {"", "{% for x in range(1000) %}", 4, "x", "{% endfor %}", ""},
    {"{{ 'x' * 10**9 }}", "", 0, "", "", ""},
    {"{{ 'x' * 10**18 }}", "", 0, "", "", ""},
    {"{{ ['x'] * 10**18 }}", "", 0, "", "", ""},
    {"{{ [1, 2, 3] * 10**7 }}", "", 0, "", "", ""},
    {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "", 0, "", "", ""},
    {"{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "", 0, "", "", ""},
    {"{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}", "", 0, "", "", ""},
    {"{% macro m() %}{% call m() %}x{% endcall %}{% endmacro %}{{ m() }}", "", 0, "", "", ""},
    {"{% macro m(a=m()) %}{% endmacro %}{{ m() }}", "", 0, "", "", ""},
    {"{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}", "", 0, "", "", ""},
    {"{{ ", "(", 60000, "1", ")", " }}"},
    {"{{ ", "[", 60000, "1", "]", " }}"},
    {"{{ ", "{1:", 60000, "1", "}", " }}"},
    {"{{ ", "f(", 60000, "1", ")", " }}"},
    {"{{ ", "x[", 60000, "1", "]", " }}"},
    {"{{ ", "not ", 60000, "1", "", " }}"},
    {"{{ ", "- ", 60000, "1", "", " }}"},
    {"{{ ", "1 if 1 else ", 60000, "1", "", " }}"},
    {"{{ x", ".x", 60000, "", "", " }}"},
    {"{{ 1", " + 1", 60000, "", "", " }}"},
    {"{{ 1", "|abs", 60000, "", "", " }}"},
    {"{{ 1", "|map('map'", 60000, "", ")", " }}"},
    {"", "{% if 1 %}", 60000, "", "{% endif %}", ""},
    {"", "{% for x in [1] %}", 60000, "", "{% endfor %}", ""},
    {"", "{% macro m() %}", 60000, "", "{% endmacro %}", ""},
    {"", "{% set x %}", 60000, "", "{% endset %}", ""},
    {"{% for ", "(", 60000, "a", ")", " in [1] %}{% endfor %}"},
    {"", "{{", 60000, "", "", ""},
    {"", "{%", 60000, "", "", ""},
    {"", "{# ", 60000, "", "", ""},
    {"{{ '", "\\'", 60000, "", "", ""},
    {"", "{% raw %}", 60000, "", "", ""},
    {"{% set ns = namespace(s='xx') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}", "", 0, "", "",
     ""},
    {"{% set ns = namespace(s='xx') %}{% for i in range(100) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "", 0, "", "",
     ""},
    {"{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}", "", 0, "", "",
     ""},
    {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}", "", 0, "",
     "", ""},
    {"{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l "
     "}}",
     "", 0, "", "", ""},
    {"{% set ns = namespace(l=[]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}", "", 0,
     "", "", ""},
    {"{% set ns = namespace(l=[]) %}{% for i in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
     "", 0, "", "", ""},
    {"{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "", 0, "", "", ""},
    {"{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns|tojson }}", "", 0, "", "", ""},
    {"{{ ('a' * 4000)|replace('a', 'b' * 4000) }}", "", 0, "", "", ""},
    {"{{ ('a' * 9000)|replace('', 'b' * 9000) }}", "", 0, "", "", ""},
    {"{{ 2 ** 10 ** 9 }}", "", 0, "", "", ""},
    {"{{ 'a\n'|indent(10 ** 9) }}", "", 0, "", "", ""},
    {"{{ ('a\n' * 5000)|indent('b' * 5000) }}", "", 0, "", "", ""},
    {"{{ 'a'|center(10 ** 9) }}", "", 0, "", "", ""},
    {"{{ 'a'.zfill(10 ** 18) }}", "", 0, "", "", ""},
    {"{{ '%1000000000d' % 1 }}", "", 0, "", "", ""},
    {"{{ '%.1000000000f' % 1.5 }}", "", 0, "", "", ""},
    {"{{ '%*d' % (10**18, 1) }}", "", 0, "", "", ""},
    {"{{ '{:1000000000}'.format(1) }}", "", 0, "", "", ""},
    {"{{ range(9999)|join('x' * 9999) }}", "", 0, "", "", ""},
    {"{{ [1]|batch(10 ** 9, 1)|list }}", "", 0, "", "", ""},
    {"{{ [1]|slice(10 ** 9)|list }}", "", 0, "", "", ""},
    {"{{ {}|tojson(indent=10**9) }}{{ [1]|tojson(indent=10**9) }}", "", 0, "", "", ""},
    {"{% for i in range(99) %}{{ range(99999)|sort(reverse=true)|first }}{% endfor %}", "", 0, "", "", ""},
    {"{% for i in range(99) %}{{ range(99999)|unique|list|length }}{% endfor %}", "", 0, "", "", ""},
    {"{% for i in range(99) %}{{ range(99999)|map('string')|join|length }}{% endfor %}", "", 0, "", "", ""},
    {"{% for i in range(9999) %}{{ 99999 in range(99999) }}{% endfor %}", "", 0, "", "", ""},
    {"{% for i in range(9999) %}{{ ('a' * 99999)|length }}{{ ('a' * 99999).find('b') }}{% endfor %}", "", 0, "", "",
     ""},
    {"{% set s = 'a' * 3000000 %}{{ s.rfind(s[:1500000] + 'b') }}{{ s|list|length }}", "", 0, "", "", ""},
    {"{{ ('a' * 2000000).split('a')|length }}", "", 0, "", "", ""},
    {"{{ ('é' * 2000000)[::-1]|length }}", "", 0, "", "", ""},
    {"{% for i in range(99999) %}{{ ('é' * 99999)[99998] }}{% endfor %}", "", 0, "", "", ""},
    {"{% for i in range(9999) %}{{ 'a' * 9999 }}{% endfor %}", "", 0, "", "", ""},
    {"{% set x = 'a' * 999999 %}{% for i in range(9999) %}{{ x == x[:-1] + 'a' }}{% endfor %}", "", 0, "", "", ""},
    {"{% set x = 'a' * 999999 %}{% for i in range(9999) %}{{ x[:-1] in x[1:] }}{{ x < x[:-1] + 'b' }}{% endfor %}", "",
     0, "", "", ""},
    {"{% set x = 'a' * 999999 %}{% for i in range(9999) %}{{ x.count('b') }}{{ x.isalpha() }}{{ x.strip('b') }}{% "
     "endfor %}",
     "", 0, "", "", ""},
    {"{% for i in range(9999) %}{{ missing.x }}{% endfor %}", "", 0, "", "", ""},
};

static size_t source_of(const struct hostile *h, struct str *s)
{
    str_puts(s, h->before);
    for (size_t i = 0; i < h->n; i++)
        str_puts(s, h->repeat);
    str_puts(s, h->between);
    for (size_t i = 0; i < h->n; i++)
        str_puts(s, h->repeat2);
    str_puts(s, h->after);
    return s->len;
}

static double cpu_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

static long peak_kib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEASURED 0 /* a sanitizer's time and memory say nothing */
#elif defined(__has_feature)
#define MEASURED \
    (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer) && !__has_feature(memory_sanitizer))
#else
#define MEASURED 1
#endif

START_TEST(test_hostile_templates_end_soon_and_small)
{
    struct json *vars = parse("{\"x\": [1]}", 10);
    struct jinja_input in = {.vars = json_root(vars), .limits = small};
    double slowest = 0;
    size_t n = sizeof hostile / sizeof *hostile;
    long before = peak_kib();
    for (size_t i = 0; i < n; i++) {
        struct str source = {0}, out = {0};
        struct err e = {0};
        source_of(&hostile[i], &source);
        double start = cpu_ms();
        int rc = render(source.data, source.len, &in, &out, NULL, &e);
        double took = cpu_ms() - start;
        slowest = took > slowest ? took : slowest;
        ck_assert_msg(rc == -E2BIG || rc == -EINVAL, "%s gives %d", hostile[i].before, rc);
        ck_assert_msg(e.text[0], "%s gives no reason", hostile[i].before);
        ck_assert_uint_eq(out.len, 0);
        if (MEASURED)
            ck_assert_msg(took < 100, "%s takes %.1f ms", hostile[i].before, took);
        str_fini(&source);
        str_fini(&out);
    }
    printf("%zu hostile templates: the slowest takes %.1f ms, the peak grows by %ld KiB\n", n, slowest,
           peak_kib() - before);
    if (MEASURED)
        ck_assert_int_lt(peak_kib() - before, 16 << 10);
    json_close(vars);
}
END_TEST

/* --- limits name themselves --- */
static void check_limit(const char *source, struct jinja_limits limits, const char *says)
{
    struct jinja_input in = {.limits = limits};
    struct str out = {0};
    struct err e = {0};
    ck_assert_int_eq(render(source, strlen(source), &in, &out, NULL, &e), -E2BIG);
    ck_assert_msg(strstr(e.text, says), "%s", e.text);
    str_fini(&out);
}

START_TEST(test_each_limit_names_itself)
{
    check_limit("{% for i in range(9999) %}{% endfor %}", (struct jinja_limits){.steps = 100}, "more than 100 steps");
    check_limit("{% for i in range(99) %}xy{% endfor %}", (struct jinja_limits){.output_bytes = 10},
                "more than 10 bytes of output");
    check_limit("{% set x = 'a' * 99999 %}", (struct jinja_limits){.memory_bytes = 9999},
                "more than 9999 bytes of memory");
    check_limit("{{ [[[[[1]]]]] }}", (struct jinja_limits){.depth = 5}, "more than 5 levels of nesting");
    struct str long_source = {0}; /* plain text: no token and no step is too many */
    for (int i = 0; i < (1 << 20) / 16 + 1; i++)
        str_puts(&long_source, "sixteen letters ");
    check_limit(str_text(&long_source), (struct jinja_limits){0}, "more than 1048576");
    str_fini(&long_source);
}
END_TEST

START_TEST(test_errors_name_the_line_and_the_thing)
{
    static const struct {
        const char *source, *says;
    } cases[] = {
        {"a\n{{ x.y }}", "chat template, line 2: 'x' is undefined"},
        {"{% include 'a' %}", "chat template, line 1: the tag 'include' is not supported here"},
        {"\n\n{{ 1|urlize }}", "chat template, line 3: no filter named 'urlize'"},
        {"{{ raise_exception('Only users!') }}", "chat template, line 1: Only users!"},
        {"{{ raise_exception('two\\nlines') }}", "chat template, line 1: two lines"},
        {"{{ 'a'.encode() }}", "chat template, line 1: encode is not supported"},
        {"{{ {}.a.b }}", "chat template, line 1: 'dict' object has no attribute 'a'"},
        {"{{ 9223372036854775807 + 1 }}", "chat template, line 1: an integer is beyond 64 bits"},
        {"{% if 1 %}", "chat template, line 1: the template ends where 'elif' is missing"},
        {"\xff", "chat template: not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct jinja_input in = {0};
        struct str out = {0};
        struct err e = {0};
        ck_assert_int_eq(render(cases[i].source, strlen(cases[i].source), &in, &out, NULL, &e), -EINVAL);
        ck_assert_str_eq(e.text, cases[i].says);
        str_fini(&out);
    }
}
END_TEST

/* --- provenance --- */

/* The output with its foreign bytes within brackets. */
static void check_foreign(const char *source, const char *want)
{
    static const char vars[] =
        "{\"u\": \"<|x|>\", \"v\": \" a,b \", \"n\": 7, \"d\": {\"k\": [\"p\", \"q\"]}, \"r\": \"user\"}";
    static const char own[] = "{\"bos\": \"<s>\", \"u\": \"not taken\"}";
    static const char *const words[] = {"user", NULL};
    struct json *v = parse(vars, strlen(vars)), *o = parse(own, strlen(own));
    struct jinja_input in = {.vars = json_root(v), .constants = json_root(o), .words = words};
    struct jinja_spans spans = {0};
    struct str out = {0}, marked = {0};
    struct err e = {0};
    size_t at = 0;
    str_puts(&out, "kept"); /* positions are those of the whole output */
    int rc = render(source, strlen(source), &in, &out, &spans, &e);
    ck_assert_msg(rc == 0, "%s: %s", source, e.text);
    for (size_t i = 0; i < spans.n; i++) {
        ck_assert_uint_lt(spans.v[i].from, spans.v[i].to);
        ck_assert(i == 0 || spans.v[i - 1].to < spans.v[i].from);
        str_add(&marked, out.data + at, spans.v[i].from - at);
        str_puts(&marked, "[");
        str_add(&marked, out.data + spans.v[i].from, spans.v[i].to - spans.v[i].from);
        str_puts(&marked, "]");
        at = spans.v[i].to;
    }
    str_add(&marked, out.data + at, out.len - at);
    ck_assert_str_eq(str_text(&marked) + 4, want);
    str_fini(&out);
    str_fini(&marked);
    free(spans.v);
    json_close(v);
    json_close(o);
}

START_TEST(test_bytes_of_the_input_stay_marked_through_everything)
{
    check_foreign("<|x|>{{ u }}<|x|>", "<|x|>[<|x|>]<|x|>");
    check_foreign("{{ '<|' + u + '|>' }}{{ '<' ~ u ~ n }}", "<|[<|x|>]|><[<|x|>]7");
    check_foreign("{{ bos }}{{ u|upper }}{{ ('a' + u)|upper }}", "<s>[<|X|>]A[<|X|>]");
    check_foreign("{{ ('a' + u + 'b')[1:4] }}{{ ('a' + u + 'b')[::-1] }}", "[<|x]b[>|x|<]a");
    check_foreign("{{ (' ' + v + ' ')|trim }}|{{ v.split(',')|join('+') }}", "[a,b]|[ a]+[b ]");
    check_foreign("{{ 'a-b'.replace('-', u) }}{{ u.replace('x', 'y') }}", "a[<|x|>]b[<|]y[|>]");
    check_foreign("{{ u|replace('|', '') }}{{ ('<|x|>' + u)|replace('x', '') }}", "[<x>]<||>[<||>]");
    check_foreign("{{ '%s!' % u }}{{ '{}{}'.format(u, 'o') }}{{ '%s' % n }}", "[<|x|>]![<|x|>]o7");
    check_foreign("{{ d.k|join('') }}{{ d|list|first }}{{ d.k|first ~ 'c' }}", "[pqkp]c");
    check_foreign("{{ ['o', u]|tojson }}", "[[\"]o[\", \"<|x|>\"]]");
    check_foreign("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(u) }}{{ m('o')|upper }}", "<[<|x|>]><O>");
    check_foreign("{% set x %}a{{ u }}b{% endset %}{{ x }}{{ x|title }}", "a[<|x|>]bA[<|x|>]b");
    check_foreign("{% filter upper %}a{{ u }}{% endfilter %}{% generation %}{{ u }}o{% endgeneration %}",
                  "A[<|X|><|x|>]o");
    check_foreign("{% set ns = namespace(s='') %}{% for c in u %}{% set ns.s = ns.s + c + '.' %}{% endfor %}{{ ns.s }}",
                  "[<].[|].[x].[|].[>].");
    check_foreign("{% for k, x in d.items() %}{{ k }}{% for y in x %}{{ loop.index }}{{ y }}{% endfor %}{% endfor %}",
                  "[k]1[p]2[q]");
    check_foreign("{{ r }}{{ r == 'user' }}{{ u == '<|x|>' }}{{ u.startswith('<|') }}", "userTrueTrueTrue");
    check_foreign("{{ u|e }}{{ (u|safe) + '<' }}{{ u|indent(first=true) }}", "[&lt;|x|&gt;<|x|>]&lt;    [<|x|>]");
    check_foreign("{{ '%c' % 60 }}{{ u|string|default('o') }}{{ missing|default(u) }}", "[<<|x|><|x|>]");
    check_foreign("{{ u|truncate(3, true, '', 0) }}{{ u|center(7) }}{{ v.splitlines()|first }}",
                  "[<|x] [<|x|>] [ a,b ]");
}
END_TEST

START_TEST(test_strings_grow_in_place_without_touching_each_other)
{
    check_foreign(
        "{% set a = 'ab' * 20 %}{% set b = a + 'c' %}{% set c = b + 'd' %}{% set e = b + u %}{% set f = c + u %}"
        "{{ a|length }}{{ b[38:] }}{{ c[38:] }}{{ e[38:] }}{{ f[38:] }}{{ b[38:] }}{{ c[38:] }}",
        "40abcabcdabc[<|x|>]abcd[<|x|>]abcabcd");
}
END_TEST

/* --- the rest of the contract --- */
START_TEST(test_reads_tells_what_a_template_takes_from_outside)
{
    static const char source[] =
        "{% set a = 1 %}{{ b.c }}{% if d is defined %}{% for e in f %}{{ 'g' }}{% endfor %}{% endif %}";
    struct jinja *j = NULL;
    struct err e = {0};
    ck_assert_int_eq(jinja_compile(&j, source, strlen(source), &e), 0);
    ck_assert(jinja_reads(j, "b") && jinja_reads(j, "d") && jinja_reads(j, "f"));
    ck_assert(!jinja_reads(j, "a") && !jinja_reads(j, "c") && !jinja_reads(j, "e") && !jinja_reads(j, "g"));
    jinja_close(j);
    jinja_close(NULL);
}
END_TEST

START_TEST(test_a_failed_render_leaves_nothing_behind)
{
    struct jinja_input in = {0};
    struct jinja_spans spans = {0};
    struct str out = {0};
    struct err e = {0};
    str_puts(&out, "before");
    ck_assert_int_eq(render("abc{{ 1 / 0 }}", 14, &in, &out, &spans, &e), -EINVAL);
    ck_assert_str_eq(str_text(&out), "before");
    ck_assert_uint_eq(spans.n, 0);
    str_fini(&out);
    free(spans.v);
}
END_TEST

/* A thread whose stack holds little; what it renders nests as deep as the limit lets it. */
static void *render_deep(void *arg)
{
    static const char *const sources[] = {
        "{% macro m(x) %}{% if x %}{% for i in [1] %}{{ [m(x)|trim] }}{% endfor %}{% endif %}{% endmacro %}{{ m(1) }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(2000) %}{% set ns.l = [{1: ns.l}] %}{% endfor %}{{ ns.l }}",
        "{% set n = namespace(l=[]) %}{% for i in range(2000) %}{% set n.l = [{1: n.l}] %}{% endfor %}{{ n.l|tojson }}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
    };
    int *failed = arg;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        struct jinja_input in = {0};
        struct str out = {0};
        struct err e = {0};
        *failed += render(sources[i], strlen(sources[i]), &in, &out, NULL, &e) != -E2BIG;
        str_fini(&out);
    }
    return NULL;
}

START_TEST(test_the_default_depth_fits_a_stack_of_half_a_mebibyte)
{
    pthread_attr_t attr;
    pthread_t t;
    int failed = 0;
    ck_assert_int_eq(pthread_attr_init(&attr), 0);
    ck_assert_int_eq(pthread_attr_setstacksize(&attr, MEASURED ? 512 << 10 : 16 << 20), 0);
    ck_assert_int_eq(pthread_create(&t, &attr, render_deep, &failed), 0);
    ck_assert_int_eq(pthread_join(t, NULL), 0);
    ck_assert_int_eq(failed, 0);
    pthread_attr_destroy(&attr);
}
END_TEST

UNIT_MAIN("jinja", test_small_templates_give_what_jinja2_gives, test_hostile_templates_end_soon_and_small,
          test_each_limit_names_itself, test_errors_name_the_line_and_the_thing,
          test_bytes_of_the_input_stay_marked_through_everything,
          test_strings_grow_in_place_without_touching_each_other, test_reads_tells_what_a_template_takes_from_outside,
          test_a_failed_render_leaves_nothing_behind, test_the_default_depth_fits_a_stack_of_half_a_mebibyte)
