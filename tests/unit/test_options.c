/* test_options - the command line: what is ours, what is somebody else's, and what goes over what. */
#include "tests/support/unit.h"

#include "server/options.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct options o;
static struct config c;
static struct err e;
static char *no_env[] = {NULL};

static int parse_env(char **env, int n, ...)
{
    char *argv[16] = {"hearthd"};
    va_list ap;
    va_start(ap, n);
    for (int i = 1; i <= n; i++)
        argv[i] = va_arg(ap, char *);
    va_end(ap);
    e = (struct err){0};
    return options_parse(&o, &c, n + 1, argv, env, &e);
}
#define COUNT(...) (sizeof((char *[]){__VA_ARGS__}) / sizeof(char *))
#define PARSE(...) parse_env(no_env, (int)COUNT(__VA_ARGS__), __VA_ARGS__)
#define FAILS(t, ...)                            \
    do {                                         \
        ck_assert_int_lt(PARSE(__VA_ARGS__), 0); \
        ck_assert_str_eq(e.text, t);             \
        config_fini(&c);                         \
    } while (0)

START_TEST(test_flags_take_their_value_both_ways)
{
    ck_assert_msg(PARSE("--model", "m.gguf", "--ctx-size=4096", "--threads", "0", "--log-level=debug", "--backend",
                        "cpu", "--alias", "a", "--alias=b", "--set", "kv.bytes=1GiB") == 0,
                  "%s", e.text);
    ck_assert_int_eq(o.action, OPTIONS_SERVE);
    ck_assert_str_eq(c.model.path, "m.gguf");
    ck_assert_int_eq(c.ctx_size, 4096);
    ck_assert_int_eq(c.cpu.threads, 0);
    ck_assert_int_eq(c.backend, CONFIG_BACKEND_CPU);
    ck_assert_uint_eq(c.model.alias.n, 2);
    ck_assert_str_eq(c.model.alias.v[1], "b");
    ck_assert_uint_eq(c.kv.bytes, 1ull << 30);
    config_fini(&c);
}
END_TEST

START_TEST(test_listen_repeats_and_host_and_port_make_one)
{
    ck_assert_int_eq(PARSE("--model=m", "--listen", "127.0.0.1:1", "--listen", "unix:/x"), 0);
    ck_assert_uint_eq(c.listen.n, 2);
    ck_assert_str_eq(c.listen.v[0], "127.0.0.1:1");
    config_fini(&c);
    ck_assert_int_eq(PARSE("--model=m", "--port", "9000"), 0);
    ck_assert_uint_eq(c.listen.n, 2);
    ck_assert_str_eq(c.listen.v[0], "127.0.0.1:9000");
    ck_assert_str_eq(c.listen.v[1], "[::1]:9000");
    config_fini(&c);
    ck_assert_int_eq(PARSE("--model=m", "--host", "::1"), 0);
    ck_assert_uint_eq(c.listen.n, 1);
    ck_assert_str_eq(c.listen.v[0], "[::1]:8080");
    config_fini(&c);
    FAILS("--port and --listen both say where to listen: give one (--listen HOST:PORT)", "--model=m", "--port=1",
          "--listen=127.0.0.1:2");
}
END_TEST

START_TEST(test_each_source_goes_over_the_one_before)
{
    char path[] = "/tmp/hearth-test-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    const char *yaml =
        "sched: {step_ms: 1, max_seqs: 1, max_queued: 1, max_batch_tokens: 16}\nctx_size: 16\nmodel.path: f\n";
    ck_assert_int_eq(write(fd, yaml, strlen(yaml)), (ssize_t)strlen(yaml));
    close(fd);
    char *env[] = {"HEARTH_SCHED_MAX_SEQS=2", "HEARTH_SCHED_MAX_QUEUED=2", "HEARTH_CTX_SIZE=32", NULL};
    ck_assert_msg(parse_env(env, 7, "--ctx-size", "64", "--config", path, "--set", "sched.max_queued=3",
                            "--set=ctx_size=48") == 0,
                  "%s", e.text);
    unlink(path);
    ck_assert_int_eq(c.sched.max_batch_tokens, 16);
    ck_assert_int_eq(c.sched.step_ms, 1);
    ck_assert_int_eq(c.sched.max_seqs, 2);
    ck_assert_int_eq(c.sched.max_queued, 3);
    ck_assert_int_eq(c.ctx_size, 64);
    config_fini(&c);
}
END_TEST

START_TEST(test_actions_are_told_apart)
{
    static const struct {
        char *flag;
        enum options_action action;
    } all[] = {{"--help", OPTIONS_HELP},
               {"-h", OPTIONS_HELP},
               {"--help-keys", OPTIONS_HELP_KEYS},
               {"--version", OPTIONS_VERSION},
               {"--print-config", OPTIONS_PRINT_CONFIG},
               {"--hash-key", OPTIONS_HASH_KEY}};
    char *env[] = {"HEARTH_BACKEND=broken", NULL};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        /* What only informs must work whatever the environment holds. */
        int rc = all[i].action == OPTIONS_PRINT_CONFIG ? PARSE(all[i].flag) : parse_env(env, 1, all[i].flag);
        ck_assert_msg(rc == 0, "%s", e.text);
        ck_assert_int_eq(o.action, all[i].action);
        config_fini(&c);
    }
    ck_assert_int_eq(PARSE("--hash-key=alice"), 0);
    ck_assert_str_eq(o.key_name, "alice");
    config_fini(&c);
    ck_assert_int_eq(PARSE("--check", "--model", "m", "--help"), 0);
    ck_assert_int_eq(o.action, OPTIONS_HELP);
    config_fini(&c);
    FAILS("--check and --plan are two things to do: give one", "--check", "--plan", "--model=m");
}
END_TEST

START_TEST(test_mistakes_get_one_sentence_with_the_fix)
{
    FAILS("--modle is no flag; the nearest is --model (--help lists all)", "--modle=x");
    FAILS("--kv-bytes is no flag; here: --set kv.bytes=VALUE", "--kv-bytes", "1GiB");
    FAILS("--http.max-body is no flag; here: --set http.max_body=VALUE", "--http.max_body=1GiB");
    FAILS("--port needs a value: --port N", "--port");
    FAILS("--model needs a value: --model FILE", "--model", "--check");
    FAILS("--model: the value is empty", "--model=");
    FAILS("--check takes no value", "--check=yes");
    FAILS("m.gguf: what is this? A model is given with --model m.gguf", "m.gguf");
    FAILS("--set kv.bytes: must be KEY=VALUE, such as kv.bytes=2GiB", "--set", "kv.bytes");
    FAILS("--set: no key is called kv.byte; the nearest is kv.bytes", "--set", "kv.byte=1");
    FAILS("--ctx-size: ctx_size 5: must be a whole number from 16 to 16777216, or auto (default auto)", "--ctx-size=5");
    FAILS("listen address \"127.0.0.1:70000\": the port must be 0 to 65535", "--model=m", "--port=70000");
    FAILS("no model: give --model FILE.gguf (make serve fetches a small one), or --set model.random=tiny for random "
          "weights",
          "--port=1");
}
END_TEST

START_TEST(test_flags_of_other_servers_name_ours)
{
    FAILS("--max-model-len is vLLM's; here: --ctx-size N", "--max-model-len", "4096");
    FAILS("--max-model-len is vLLM's; here: --ctx-size N", "--max_model_len=4096");
    FAILS("-ngl is llama.cpp's; here: --backend cuda (all layers)", "-ngl", "99");
    FAILS("--seed is vLLM's and llama.cpp's; here: --set seed=N", "--seed=1");
}
END_TEST

START_TEST(test_flags_named_for_others_exist_here)
{
    static const char *const some[] = {"--max-model-len", "--temp",    "-c", "--uds", "-hf",
                                       "--ssl-keyfile",   "--parallel"};
    const char *whose;
    for (size_t i = 0; i < sizeof some / sizeof *some; i++)
        ck_assert_ptr_nonnull(options_foreign(some[i], &whose));
    ck_assert_ptr_null(options_foreign("--model", &whose));
    /* Every "--set KEY=VALUE" that a hint shows must be a key that takes a value. */
    for (size_t i = 0; options_foreign_at(i); i++) {
        const char *ours = options_foreign(options_foreign_at(i), &whose), *at = strstr(ours, "--set ");
        ck_assert_ptr_null(strstr(options_foreign_at(i), "="));
        for (; at; at = strstr(at + 1, "--set ")) {
            char key[64];
            size_t n = strcspn(at + 6, "=");
            ck_assert_uint_lt(n, sizeof key);
            memcpy(key, at + 6, n);
            key[n] = 0;
            ck_assert_msg(strcmp(config_key_nearest(key), key) == 0, "%s", ours);
        }
    }
}
END_TEST

START_TEST(test_help_shows_every_flag_and_key_in_columns)
{
    struct str s = {0};
    options_put_help(&s);
    ck_assert_ptr_nonnull(strstr(s.data, "  --listen HOST:PORT     address"));
    ck_assert_ptr_nonnull(strstr(s.data, "\nNetwork:\n"));
    for (char *line = strtok(s.data, "\n"); line; line = strtok(NULL, "\n"))
        ck_assert_msg(strlen(line) <= 100, "%s", line);
    str_fini(&s);
    options_put_keys(&s);
    for (size_t i = 0; i < config_key_count(); i++)
        ck_assert_ptr_nonnull(strstr(s.data, config_key_name(i)));
    str_fini(&s);
    options_put_version(&s);
    ck_assert_ptr_nonnull(strstr(s.data, "libmicrohttpd "));
    str_fini(&s);
}
END_TEST

UNIT_MAIN("options", test_flags_take_their_value_both_ways, test_listen_repeats_and_host_and_port_make_one,
          test_each_source_goes_over_the_one_before, test_actions_are_told_apart,
          test_mistakes_get_one_sentence_with_the_fix, test_flags_of_other_servers_name_ours,
          test_flags_named_for_others_exist_here, test_help_shows_every_flag_and_key_in_columns)
