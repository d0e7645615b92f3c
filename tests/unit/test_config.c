/* test_config - values, sources, their order, and hearth.yaml as the code has it. */
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "server/address.h"
#include "server/config.h"
#include "server/config_value.h"

#include <errno.h>
#include <math.h>
#include <string.h>

static struct config c;
static struct err e;

static void begin(void)
{
    e = (struct err){0};
    ck_assert_int_eq(config_init(&c, &e), 0);
}

static int load(const char *yaml)
{
    return config_load_yaml(&c, "h.yaml", yaml, strlen(yaml), &e);
}

static int set(const char *key, const char *value)
{
    return config_set(&c, key, value, CONFIG_SET, "--set", &e);
}

START_TEST(test_sizes_take_both_kinds_of_units)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},       {"4096", 4096},     {"2GiB", 2ull << 30}, {"512MiB", 512 << 20}, {"1.5GB", 1500000000},
                {"1kB", 1000},  {"1 KiB", 1024},    {"2g", 2ull << 30},   {"0.5KiB", 512},       {"7B", 7},
                {"1.0009B", 1}, {"1.5gib", 3 << 29}};
    uint64_t v;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(value_bytes(good[i].text, &v) == 0, "%s", good[i].text);
        ck_assert_uint_eq(v, good[i].bytes);
    }
    static const char *const bad[] = {"", "-1", "GiB", "1.GiB", "1e9", "1 2", "1XB", "1  KiB", "0x10", "1GiB "};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(value_bytes(bad[i], &v) == -EINVAL, "%s", bad[i]);
    ck_assert_int_eq(value_bytes("99999999999999999999", &v), -ERANGE);
    ck_assert_int_eq(value_bytes("9000000TiB", &v), -ERANGE);
}
END_TEST

START_TEST(test_durations_need_a_unit_and_add_up)
{
    uint64_t v;
    ck_assert_int_eq(value_duration("1h30m", &v), 0);
    ck_assert_uint_eq(v, 5400000);
    ck_assert_int_eq(value_duration("1.5s", &v), 0);
    ck_assert_uint_eq(v, 1500);
    ck_assert_int_eq(value_duration("100ms", &v), 0);
    ck_assert_uint_eq(v, 100);
    ck_assert_int_eq(value_duration("0", &v), 0);
    ck_assert_uint_eq(v, 0);
    static const char *const bad[] = {"", "30", "s", "30 s", "1m30", "-1s", "1x", "1sm"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(value_duration(bad[i], &v) == -EINVAL, "%s", bad[i]);
    ck_assert_int_eq(value_duration("9999999999999d", &v), -ERANGE);
}
END_TEST

START_TEST(test_numbers_are_read_whole_or_not_at_all)
{
    int64_t i;
    double d;
    bool b;
    ck_assert_int_eq(value_int("-9223372036854775808", &i), 0);
    ck_assert(i == INT64_MIN);
    ck_assert_int_eq(value_int("9223372036854775808", &i), -ERANGE);
    ck_assert_int_eq(value_int("99999999999999999999999999999999999999999999", &i), -ERANGE);
    ck_assert_int_eq(value_int("1.0", &i), -EINVAL);
    ck_assert_int_eq(value_int("-", &i), -EINVAL);
    ck_assert_int_eq(value_float("0.7", &d), 0);
    ck_assert(d == 0.7);
    ck_assert_int_eq(value_float("nan", &d), -EINVAL);
    ck_assert_int_eq(value_float("0x1p3", &d), -EINVAL);
    ck_assert_int_eq(value_float("1e999", &d), -ERANGE);
    ck_assert_int_eq(value_float("1.5.2", &d), -EINVAL);
    ck_assert_int_eq(value_bool("Yes", &b), 0);
    ck_assert(b);
    ck_assert_int_eq(value_bool("maybe", &b), -EINVAL);
}
END_TEST

START_TEST(test_what_is_written_reads_back)
{
    static const uint64_t sizes[] = {0, 1, 999, 1000, 1024, 1500, 65536, 1ull << 40, (1ull << 40) + 1, INT64_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct str s = {0};
        uint64_t v;
        value_put_bytes(&s, sizes[i]);
        ck_assert_int_eq(value_bytes(s.data, &v), 0);
        ck_assert_uint_eq(v, sizes[i]);
        str_cut(&s, 0);
        value_put_duration(&s, sizes[i]);
        ck_assert_int_eq(value_duration(s.data, &v), 0);
        ck_assert_uint_eq(v, sizes[i]);
        str_fini(&s);
    }
    struct str s = {0};
    value_put_bytes(&s, 64 << 20);
    value_put_duration(&s, 90000);
    value_put_float(&s, 0.1);
    value_put_text(&s, "a\xc2\x85 b\"\xff");
    ck_assert_str_eq(s.data, "64MiB90s0.1\"a\\u0085 b\\u0022\xef\xbf\xbd\"");
    str_fini(&s);
}
END_TEST

START_TEST(test_distance_counts_edits_and_swaps)
{
    ck_assert_uint_eq(value_distance("", "abc"), 3);
    ck_assert_uint_eq(value_distance("kitten", "sitting"), 3);
    ck_assert_uint_eq(value_distance("kv.byets", "kv.bytes"), 1);
    ck_assert_uint_eq(value_distance("same", "same"), 0);
}
END_TEST

START_TEST(test_defaults_are_what_the_manual_says)
{
    begin();
    ck_assert_uint_eq(c.listen.n, 2);
    ck_assert_str_eq(c.listen.v[1], "[::1]:8080");
    ck_assert_uint_eq(c.http.max_body, 64 << 20);
    ck_assert_uint_eq(c.http.write_stall, 60000);
    ck_assert_int_eq(c.kv.block_tokens, 64);
    ck_assert_int_eq(c.kv.format, CONFIG_KV16);
    ck_assert_uint_eq(c.kv.bytes, 0);
    ck_assert_int_eq(c.engine.mode, CONFIG_ENGINE_EXEC);
    ck_assert_int_eq(c.log.level, LOG_INFO);
    ck_assert(c.auth.salt_per_key && c.kv.prefix_cache && !c.log.prompts);
    ck_assert(isnan(c.sampling.temperature));
    ck_assert_int_eq(c.sampling.top_k, -1);
    ck_assert_int_eq(c.seed, -1);
    ck_assert_ptr_null(c.model.path);
    config_fini(&c);
}
END_TEST

START_TEST(test_a_file_nests_or_dots_its_keys)
{
    begin();
    ck_assert_msg(
        load("kv:\n  bytes: 2GiB\n  format: kv32\nsched.step_ms: 50\nlisten:\n- 127.0.0.1:1\n- unix:/run/h\n"
             "model: {path: 'a b', alias: [x, \"y,z\"]}\nsampling:\n  temperature: 0.5\n  top_p: ~\nlog:\n") == 0,
        "%s", e.text);
    ck_assert_uint_eq(c.kv.bytes, 2ull << 30);
    ck_assert_int_eq(c.kv.format, CONFIG_KV32);
    ck_assert_int_eq(c.sched.step_ms, 50);
    ck_assert_uint_eq(c.listen.n, 2);
    ck_assert_str_eq(c.listen.v[1], "unix:/run/h");
    ck_assert_str_eq(c.model.path, "a b");
    ck_assert_uint_eq(c.model.alias.n, 2);
    ck_assert_str_eq(c.model.alias.v[1], "y,z");
    ck_assert(c.sampling.temperature == 0.5);
    ck_assert(isnan(c.sampling.top_p));
    config_fini(&c);
}
END_TEST

START_TEST(test_files_that_say_nothing_are_fine)
{
    static const char *const empty[] = {"", "\n", "# only a comment\n", "---\n", "null\n", "{}", "kv:\n"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        begin();
        ck_assert_msg(load(empty[i]) == 0, "%s: %s", empty[i], e.text);
        config_fini(&c);
    }
}
END_TEST

START_TEST(test_a_bad_file_names_line_column_and_fix)
{
    static const struct {
        const char *yaml, *error;
    } bad[] = {
        {"kv:\n  byte: 1\n", "h.yaml:2:3: no key is called kv.byte; the nearest is kv.bytes"},
        {"kv:\n  block_tokens: 48\n", "h.yaml:2:17: kv.block_tokens 48: must be 16, 32, 64 or 128 (default 64)"},
        {"kv:\n  bytes: 1KiB\n",
         "h.yaml:2:10: kv.bytes 1KiB: must be a size such as 512MiB from 1MiB to 1024TiB, or auto (default auto)"},
        {"drain: {timeout: 30}",
         "h.yaml:1:18: drain.timeout 30: must be a duration such as 30s or 100ms from 0 to 1d (default 120s)"},
        {"log.level: loud", "h.yaml:1:12: log.level loud: must be error, warn, info or debug (default info)"},
        {"kv:\n  bytes: 1MiB\n  bytes: 2MiB\n", "h.yaml:3:3: kv.bytes was given in line 2 already: keep one"},
        {"kv.bytes: 1MiB\nkv:\n  bytes: 2MiB\n", "h.yaml:3:3: kv.bytes was given in line 1 already: keep one"},
        {"kv:\nlog:\nkv:\n", "h.yaml:3:1: kv was given in line 1 already: keep one"},
        {"kv: 5\n", "h.yaml:1:5: a section needs keys below it, not a value"},
        {"kv: [5]\n", "h.yaml:1:5: a list is not expected here"},
        {"kv:\n  bytes: [1, 2]\n", "h.yaml:2:11: kv.bytes takes one value, not a list"},
        {"kv:\n  bytes: {a: 1}\n", "h.yaml:2:10: a value is expected here, not a section"},
        {"listen: [[a]]\n", "h.yaml:1:10: a list is not expected here"},
        {"listen: [{a: 1}]\n", "h.yaml:1:10: a value is expected here, not a section"},
        {"seed: &a 5\n", "h.yaml:1:7: anchors are not allowed"},
        {"seed: *a\n", "h.yaml:1:7: aliases are not allowed"},
        {"seed: 1\n---\nseed: 2\n", "h.yaml:2:1: a second document is not allowed"},
        {"- a\n", "h.yaml:1:1: a list is not expected here"},
        {"hello\n", "h.yaml:1:1: the file must hold `key: value` lines"},
        {"seed: \"a\\0b\"\n", "h.yaml:1:7: a NUL byte is not allowed"},
        {"? {a: b}\n: c\n", "h.yaml:1:3: a value is expected here, not a section"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin();
        ck_assert_msg(load(bad[i].yaml) < 0, "%s", bad[i].yaml);
        ck_assert_str_eq(e.text, bad[i].error);
        config_fini(&c);
    }
}
END_TEST

START_TEST(test_a_broken_file_is_an_error_with_its_place)
{
    static const char *const bad[] = {"kv: {",      "kv:\n\tbytes: 1\n", "a: b: c\n",       "\"",
                                      "seed: @x\n", "\xff\xfe\xff",      "%YAML 9.9\n---\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin();
        ck_assert_int_lt(load(bad[i]), 0);
        ck_assert_msg(strncmp(e.text, "h.yaml:", 7) == 0, "%s", e.text);
        config_fini(&c);
    }
}
END_TEST

START_TEST(test_a_file_that_nests_without_end_is_refused_at_once)
{
    enum { N = 1 << 20 };
    char *text = malloc(N + 2);
    memset(text, '[', N);
    text[N] = 0;
    begin();
    ck_assert_int_eq(load(text), -EINVAL);
    memcpy(text, "listen: ", 8);
    ck_assert_int_eq(load(text), -EINVAL);
    memset(text, '{', N);
    ck_assert_int_lt(load(text), 0);
    memset(text, '#', N + 1);
    text[N + 1] = 0;
    ck_assert_int_eq(load(text), -EFBIG);
    config_fini(&c);
    free(text);
}
END_TEST

START_TEST(test_a_list_has_an_end)
{
    char text[2048] = "listen: [";
    for (int i = 0; i < 65; i++)
        strcat(text, "a:1, ");
    strcat(text, "]");
    begin();
    ck_assert_int_eq(load(text), -E2BIG);
    config_fini(&c);
}
END_TEST

START_TEST(test_a_missing_file_is_named)
{
    begin();
    ck_assert_int_eq(config_load_file(&c, "/nowhere/h.yaml", &e), -ENOENT);
    ck_assert_str_eq(e.text, "configuration file /nowhere/h.yaml: No such file or directory");
    config_fini(&c);
}
END_TEST

START_TEST(test_variables_go_over_the_file_and_strangers_are_left_alone)
{
    char *env[] = {"PATH=/bin",
                   "HEARTH_KV_BYTES=1GiB",
                   "HEARTH_LISTEN=127.0.0.1:1, [::1]:2",
                   "HEARTH_CTX_SIZE=",
                   "HEARTH_SERVICE_HOST=10.0.0.1",
                   "HEARTH_MODEL=x",
                   NULL};
    begin();
    log_set_level(LOG_ERROR);
    ck_assert_int_eq(load("kv.bytes: 2GiB\nctx_size: 4096\n"), 0);
    ck_assert_int_eq(config_load_env(&c, env, &e), 0);
    ck_assert_uint_eq(c.kv.bytes, 1ull << 30);
    ck_assert_int_eq(c.ctx_size, 4096);
    ck_assert_uint_eq(c.listen.n, 2);
    ck_assert_str_eq(c.listen.v[1], "[::1]:2");
    char *bad[] = {"HEARTH_KV_FORMAT=int4", NULL};
    ck_assert_int_eq(config_load_env(&c, bad, &e), -EINVAL);
    ck_assert_str_eq(e.text, "HEARTH_KV_FORMAT: kv.format int4: must be kv16, kv32 or kv8 (default kv16)");
    config_fini(&c);
}
END_TEST

START_TEST(test_an_unset_value_goes_back_to_its_default)
{
    begin();
    ck_assert_int_eq(set("kv.block_tokens", "128"), 0);
    ck_assert_int_eq(set("kv.block_tokens", ""), 0);
    ck_assert_int_eq(c.kv.block_tokens, 64);
    ck_assert_int_eq(set("sampling.top_k", "40"), 0);
    ck_assert_int_eq(c.sampling.top_k, 40);
    ck_assert_int_eq(set("sampling.top_k", NULL), 0);
    ck_assert_int_eq(c.sampling.top_k, -1);
    config_fini(&c);
}
END_TEST

START_TEST(test_a_failed_set_changes_nothing)
{
    begin();
    ck_assert_int_eq(set("kv.bytes", "2GiB"), 0);
    ck_assert_int_eq(set("kv.bytes", "7"), -EINVAL);
    ck_assert_int_eq(set("kv.bytes", "auto "), -EINVAL);
    ck_assert_uint_eq(c.kv.bytes, 2ull << 30);
    ck_assert_int_eq(set("kv.nope", "1"), -ENOENT);
    ck_assert_int_eq(set("engine.mode", ""), 0);
    ck_assert_int_eq(set("engine.mode", "e"), -EINVAL);
    ck_assert_int_eq(set("engine.mode", "exec|thread"), -EINVAL);
    config_fini(&c);
}
END_TEST

START_TEST(test_a_repeated_flag_adds_to_its_own_list_only)
{
    begin();
    ck_assert_int_eq(set("model.alias", "a,b"), 0);
    ck_assert_int_eq(config_add(&c, "model.alias", "x,y", CONFIG_FLAG, "--alias", &e), 0);
    ck_assert_int_eq(config_add(&c, "model.alias", "z", CONFIG_FLAG, "--alias", &e), 0);
    ck_assert_uint_eq(c.model.alias.n, 2);
    ck_assert_str_eq(c.model.alias.v[0], "x,y");
    config_fini(&c);
}
END_TEST

START_TEST(test_every_key_is_a_variable_of_its_own)
{
    for (size_t i = 0; i < config_key_count(); i++)
        for (size_t j = 0; j < i; j++) {
            const char *a = config_key_name(i), *b = config_key_name(j);
            while (*a && (*a == *b || (strchr("._", *a) && strchr("._", *b) && *b)))
                a++, b++;
            ck_assert_msg(*a || *b, "%s and %s", config_key_name(i), config_key_name(j));
        }
}
END_TEST

START_TEST(test_addresses_are_taken_apart)
{
    static const struct {
        const char *text;
        enum address_kind kind;
        const char *host;
        int port;
        bool public;
    } good[] = {
        {"127.0.0.1:8080", ADDRESS_HOST, "127.0.0.1", 8080, false},
        {"127.9.9.9:0", ADDRESS_HOST, "127.9.9.9", 0, false},
        {"localhost:65535", ADDRESS_HOST, "localhost", 65535, false},
        {"localhost.example.org:80", ADDRESS_HOST, "localhost.example.org", 80, true},
        {"0.0.0.0:80", ADDRESS_HOST, "0.0.0.0", 80, true},
        {"10.0.0.1:80", ADDRESS_HOST, "10.0.0.1", 80, true},
        {"my-host:80", ADDRESS_HOST, "my-host", 80, true},
        {"127.0.0.1.example.org:80", ADDRESS_HOST, "127.0.0.1.example.org", 80, true},
        {"[::1]:80", ADDRESS_V6, "::1", 80, false},
        {"[::]:80", ADDRESS_V6, "::", 80, true},
        {"[::ffff:127.0.0.1]:80", ADDRESS_V6, "::ffff:127.0.0.1", 80, false},
        {"[::ffff:10.0.0.1]:80", ADDRESS_V6, "::ffff:10.0.0.1", 80, true},
        {"[fe80::1]:80", ADDRESS_V6, "fe80::1", 80, true},
        {"unix:/run/h.sock", ADDRESS_UNIX, "/run/h.sock", 0, false},
    };
    struct address a;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ck_assert_msg(address_parse(good[i].text, &a, &e) == 0, "%s", e.text);
        ck_assert_int_eq(a.kind, good[i].kind);
        ck_assert_str_eq(a.host, good[i].host);
        ck_assert_int_eq(a.port, good[i].port);
        ck_assert_msg(address_is_public(&a) == good[i].public, "%s", good[i].text);
    }
    static const char *const bad[] = {"",       "8080",  ":80",  "a:",          "a:65536", "a:-1",  "a: 1",  "a:80:80",
                                      "::1:80", "[::1]", "[]:1", "[1.2.3.4]:1", "[::1:80", "unix:", "a b:1", "a:+1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(address_parse(bad[i], &a, &e) == -EINVAL, "%s", bad[i]);
}
END_TEST

START_TEST(test_a_public_address_without_keys_is_refused_with_the_fix)
{
    begin();
    ck_assert_int_eq(set("listen", "127.0.0.1:1,0.0.0.0:8080"), 0);
    ck_assert_int_eq(config_finish(&c, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "listen 0.0.0.0:8080: other machines can reach it"));
    ck_assert_ptr_nonnull(strstr(e.text, "--api-key-file"));
    ck_assert_int_eq(set("auth.key_file", "keys"), 0);
    ck_assert_int_eq(config_finish(&c, &e), 0);
    config_fini(&c);
}
END_TEST

START_TEST(test_of_two_models_the_higher_source_wins)
{
    begin();
    ck_assert_int_eq(load("model.path: a.gguf\n"), 0);
    ck_assert_int_eq(set("model.random", "tiny"), 0);
    ck_assert_int_eq(config_finish(&c, &e), 0);
    ck_assert_ptr_null(c.model.path);
    ck_assert_str_eq(c.model.random, "tiny");
    ck_assert_int_eq(set("model.path", "b.gguf"), 0);
    ck_assert_int_eq(config_finish(&c, &e), -EINVAL);
    ck_assert_str_eq(e.text, "model.path (--set) and model.random (--set) are both given: keep one");
    config_fini(&c);
}
END_TEST

START_TEST(test_body_memory_that_holds_no_largest_body_is_refused)
{
    begin();
    ck_assert_int_eq(set("http.body_memory", "64MiB"), 0);
    ck_assert_int_eq(config_finish(&c, &e), -EINVAL);
    ck_assert_ptr_nonnull(strstr(e.text, "http.body_memory 67108864: must be more than http.max_body 67108864"));
    ck_assert_int_eq(set("http.max_body", "1MiB"), 0);
    ck_assert_int_eq(config_finish(&c, &e), 0);
    config_fini(&c);
}
END_TEST

START_TEST(test_half_of_tls_is_refused)
{
    begin();
    ck_assert_int_eq(set("http.tls_cert", "c.pem"), 0);
    ck_assert_int_eq(config_finish(&c, &e), -EINVAL);
    ck_assert_str_eq(e.text, "http.tls_cert is set without http.tls_key: HTTPS needs both");
    config_fini(&c);
}
END_TEST

/* Values of both, row by row. */
static void check_same(const struct config *a, const struct config *b)
{
    for (size_t i = 0; i < config_key_count(); i++) {
        struct str x = {0}, y = {0};
        config_put_value(a, i, &x);
        config_put_value(b, i, &y);
        ck_assert_msg(strcmp(x.data, y.data) == 0, "%s: %s, not %s", config_key_name(i), x.data, y.data);
        str_fini(&x);
        str_fini(&y);
    }
}

START_TEST(test_what_is_printed_is_a_file_that_means_the_same)
{
    struct config back;
    struct str s = {0};
    begin();
    ck_assert_int_eq(load("kv.bytes: 1500000000\nmodel: {alias: [\"a, b\", 'null', 'x: y', \"#\"], path: \"true\"}\n"
                          "sampling.temperature: 0.30000000000000004\nseed: 7\nlisten: 'unix:/a b'\n"
                          "sched.max_queued_tokens: 5\nhttp.idle: 1500ms\n"),
                     0);
    config_print(&c, &s);
    ck_assert_int_eq(config_init(&back, &e), 0);
    ck_assert_msg(config_load_yaml(&back, "p", s.data, s.len, &e) == 0, "%s\n%s", e.text, s.data);
    check_same(&back, &c);
    ck_assert_ptr_nonnull(strstr(s.data, "  bytes: 1500MB"));
    ck_assert_ptr_nonnull(strstr(s.data, "# h.yaml:1:11"));
    ck_assert_ptr_nonnull(strstr(s.data, "# default"));
    str_fini(&s);
    config_fini(&back);
    config_fini(&c);
}
END_TEST

START_TEST(test_hearth_yaml_shows_every_key_with_its_default)
{
    struct config file;
    begin();
    ck_assert_int_eq(config_init(&file, &e), 0);
    ck_assert_msg(config_load_file(&file, "config/hearth.yaml", &e) == 0, "%s", e.text);
    check_same(&file, &c);
    for (size_t i = 0; i < config_key_count(); i++)
        ck_assert_msg(strncmp(file.origin[i].where, "config/hearth.yaml:", 19) == 0, "%s is missing",
                      config_key_name(i));
    config_fini(&file);
    config_fini(&c);
}
END_TEST

UNIT_MAIN("config", test_sizes_take_both_kinds_of_units, test_durations_need_a_unit_and_add_up,
          test_numbers_are_read_whole_or_not_at_all, test_what_is_written_reads_back,
          test_distance_counts_edits_and_swaps, test_defaults_are_what_the_manual_says,
          test_a_file_nests_or_dots_its_keys, test_files_that_say_nothing_are_fine,
          test_a_bad_file_names_line_column_and_fix, test_a_broken_file_is_an_error_with_its_place,
          test_a_file_that_nests_without_end_is_refused_at_once, test_a_list_has_an_end, test_a_missing_file_is_named,
          test_variables_go_over_the_file_and_strangers_are_left_alone, test_an_unset_value_goes_back_to_its_default,
          test_a_failed_set_changes_nothing, test_a_repeated_flag_adds_to_its_own_list_only,
          test_every_key_is_a_variable_of_its_own, test_addresses_are_taken_apart,
          test_a_public_address_without_keys_is_refused_with_the_fix, test_of_two_models_the_higher_source_wins,
          test_body_memory_that_holds_no_largest_body_is_refused, test_half_of_tls_is_refused,
          test_what_is_printed_is_a_file_that_means_the_same, test_hearth_yaml_shows_every_key_with_its_default)
