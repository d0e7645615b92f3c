/* test_app_open - what a start takes out of a model file: tokenizer, chat template, the sampling its makers recommend;
 * and which file it names when something is missing. Small files, written here.
 */
#include "tests/support/gguf_llama.h"
#include "tests/support/unit.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "server/app.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char path[64];
static struct config conf;
static struct err e;

/* A model of the tiny shape with a vocabulary of four; keys in `skip` are left out. */
static void begin_file(struct gguf_write *w, const char *const *skip)
{
    static const char *const tokens[] = {"a", "b", "c", "ab"}, *const merges[] = {"a b"};
    struct loader *l;
    *w = (struct gguf_write){0};
    ck_assert_int_eq(loader_open(&l, "random:tiny", &e), 0);
    gguf_llama_add(w, l, skip);
    loader_close(l);
    gguf_write_text(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_write_texts(w, "tokenizer.ggml.tokens", tokens, 4);
    gguf_write_texts(w, "tokenizer.ggml.merges", merges, 1);
    gguf_write_int(w, "tokenizer.ggml.eos_token_id", GGUF_U32, 2);
}

static void end_file(struct gguf_write *w)
{
    struct str bytes = {0};
    snprintf(path, sizeof path, "/tmp/hearth-open-%d.gguf", (int)getpid());
    gguf_write_finish(w, &bytes);
    gguf_write_file(path, &bytes);
    str_fini(&bytes);
    ck_assert_int_eq(config_init(&conf, &e), 0);
    ck_assert_int_eq(config_set(&conf, "model.path", path, CONFIG_SET, "test", &e), 0);
    ck_assert_int_eq(config_set(&conf, "kv.bytes", "1MiB", CONFIG_SET, "test", &e), 0);
    ck_assert_msg(config_finish(&conf, &e) == 0, "%s", e.text);
}

static void done(void)
{
    unlink(path);
    config_fini(&conf);
}

/* The text side of the file, for its sampling. */
static struct model_sampling sampling_of(struct gguf_write *w)
{
    struct app a = {.conf = &conf, .signals = -1};
    gguf_write_text(w, "tokenizer.ggml.model", "gpt2");
    end_file(w);
    a.plan.vocab = 1000;
    ck_assert_msg(app_open_text(&a, &e) == 0, "%s", e.text);
    struct model_sampling m = a.sampling;
    app_close(&a);
    return m;
}

START_TEST(test_the_sampling_of_a_model_file_stands_below_the_configuration)
{
    struct gguf_write w;
    struct gen_params p;
    begin_file(&w, NULL);
    gguf_write_float(&w, "general.sampling.temp", 0.5f);
    gguf_write_float(&w, "general.sampling.top_p", 0.75f);
    gguf_write_float(&w, "general.sampling.min_p", 0.25f);
    gguf_write_float(&w, "general.sampling.penalty_repeat", 1.125f);
    gguf_write_int(&w, "general.sampling.top_k", GGUF_I32, 20);
    struct model_sampling m = sampling_of(&w);
    params_defaults(&p, &conf, &m);
    ck_assert(p.temperature == 0.5 && p.top_p == 0.75 && p.min_p == 0.25 && p.repetition_penalty == 1.125);
    ck_assert_int_eq(p.top_k, 20);
    ck_assert_int_eq(config_set(&conf, "sampling.temperature", "0", CONFIG_SET, "test", &e), 0);
    ck_assert_int_eq(config_set(&conf, "sampling.top_k", "0", CONFIG_SET, "test", &e), 0);
    params_defaults(&p, &conf, &m);
    ck_assert(p.temperature == 0 && p.top_k == 0 && p.top_p == 0.75);
    done();
}
END_TEST

START_TEST(test_sampling_that_no_request_could_ask_for_is_not_taken_from_a_file)
{
    struct gguf_write w;
    struct gen_params p;
    begin_file(&w, NULL);
    gguf_write_float(&w, "general.sampling.temp", -1);
    gguf_write_float(&w, "general.sampling.top_p", 1.5f);
    gguf_write_float(&w, "general.sampling.min_p", NAN);
    gguf_write_float(&w, "general.sampling.penalty_repeat", 0);
    gguf_write_text(&w, "general.sampling.top_k", "20");
    struct model_sampling m = sampling_of(&w);
    params_defaults(&p, &conf, &m);
    ck_assert(p.temperature == 1 && p.top_p == 1 && p.min_p == 0 && p.repetition_penalty == 1 && p.top_k == 0);
    done();
}
END_TEST

START_TEST(test_a_check_reads_tokenizer_and_template_too)
{
    struct gguf_write w;
    struct engine_plan plan;
    begin_file(&w, NULL);
    gguf_write_text(&w, "tokenizer.ggml.model", "gpt2");
    gguf_write_text(&w, "tokenizer.chat_template", "{{ messages[0].content }}");
    end_file(&w);
    ck_assert_msg(app_check(&conf, &plan, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(plan.n_blocks, (1 << 20) / (64 * plan.kv_bytes_per_token));
    done();
}
END_TEST

/* The file with `key` = `text` added (NULL: nothing) does not start, and the sentence names file and key. */
static void expect_refusal(const char *const *skip, const char *key, const char *text, const char *says)
{
    struct gguf_write w;
    struct engine_plan plan;
    begin_file(&w, skip);
    if (key)
        gguf_write_text(&w, key, text);
    if (!key || strcmp(key, "tokenizer.ggml.model") != 0)
        gguf_write_text(&w, "tokenizer.ggml.model", "gpt2");
    end_file(&w);
    ck_assert_int_lt(app_check(&conf, &plan, &e), 0);
    ck_assert_msg(strstr(e.text, path) && strstr(e.text, says) && !strchr(e.text, '\n'), "%s", e.text);
    done();
}

START_TEST(test_what_is_wrong_with_a_file_names_the_file)
{
    static const char *const no_arch[] = {"general.architecture", NULL},
                             *const no_layers[] = {"llama.block_count", NULL},
                             *const no_embedding[] = {"token_embd.weight", NULL};
    expect_refusal(NULL, "tokenizer.ggml.model", "bert", "bert");
    expect_refusal(NULL, "tokenizer.chat_template", "{% for %}", "chat template");
    expect_refusal(no_arch, NULL, NULL, "general.architecture");
    expect_refusal(no_arch, "general.architecture", "mamba", "mamba");
    expect_refusal(no_layers, NULL, NULL, "llama.block_count");
    expect_refusal(no_embedding, NULL, NULL, "token_embd.weight");
}
END_TEST

START_TEST(test_each_key_of_the_engine_reaches_it)
{
    static const char *const keys[][2] = {{"model.random", "tiny:9"},
                                          {"backend", "cpu"},
                                          {"cpu.isa", "avx2"},
                                          {"cpu.threads", "3"},
                                          {"ctx_size", "777"},
                                          {"kv.bytes", "5MiB"},
                                          {"kv.block_tokens", "32"},
                                          {"kv.format", "kv32"},
                                          {"kv.prefix_cache", "false"},
                                          {"sched.max_batch_tokens", "111"},
                                          {"sched.max_seqs", "22"},
                                          {"sched.max_queued", "33"},
                                          {"sched.max_queued_tokens", "4444"},
                                          {"sched.step_ms", "55"},
                                          {"engine.deterministic", "true"},
                                          {"log.level", "error"}};
    struct engine_config ec;
    ck_assert_int_eq(config_init(&conf, &e), 0);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        ck_assert_msg(config_set(&conf, keys[i][0], keys[i][1], CONFIG_SET, "test", &e) == 0, "%s", e.text);
    ck_assert_msg(config_finish(&conf, &e) == 0, "%s", e.text);
    app_engine_config(&conf, &ec);
    ck_assert_str_eq(ec.model, "random:tiny:9");
    ck_assert_str_eq(ec.backend, "cpu");
    ck_assert_str_eq(ec.isa, "avx2");
    ck_assert(ec.threads == 3 && ec.ctx_tokens == 777 && ec.kv_bytes == 5 << 20 && ec.block_tokens == 32);
    ck_assert(ec.kv_format == KV_FORMAT_KV32 && ec.no_prefix_cache && ec.deterministic && ec.log_level == LOG_ERROR);
    ck_assert(ec.max_rows == 111 && ec.max_seqs == 22 && ec.max_queued == 33 && ec.max_queued_tokens == 4444);
    ck_assert_uint_eq(ec.step_ms, 55);
    config_fini(&conf);
}
END_TEST

/* A machine with so many kB of memory that is free. */
static const char *free_memory;

static int open_meminfo(const char *name, int flags, mode_t mode)
{
    (void)flags, (void)mode;
    if (strcmp(name, "/proc/meminfo") != 0) {
        errno = ENOENT;
        return -1;
    }
    int fd = memfd_create("meminfo", 0);
    ck_assert_int_eq(write(fd, free_memory, strlen(free_memory)), (ssize_t)strlen(free_memory));
    lseek(fd, 0, SEEK_SET);
    return fd;
}

START_TEST(test_weights_and_pool_take_60_percent_of_what_is_free)
{
    struct engine_config ec = {.model = "random:tiny", .backend = "cpu", .isa = "ref", .threads = 1};
    struct engine_plan p;
    ck_assert_int_eq(hash_init_library(), 0);
    sys.open = open_meminfo;
    free_memory = "MemAvailable: 100000 kB\n";
    ck_assert_msg(engine_make_plan(&ec, &p, &e) == 0, "%s", e.text);
    ck_assert_uint_eq(p.memory_available, 102400000);
    uint64_t rest = 61440000 - p.weight_bytes - p.activation_bytes, block = p.block_tokens * p.kv_bytes_per_token;
    ck_assert_uint_eq(p.kv_bytes, rest / block * block);
    ck_assert_uint_eq(p.ctx_tokens, p.ctx_train); /* the pool holds more */
    ec.kv_bytes = 20 * block;                     /* asked for: whatever is free */
    ck_assert_int_eq(engine_make_plan(&ec, &p, &e), 0);
    ck_assert(p.n_blocks == 20 && p.ctx_tokens == 20 * p.block_tokens);
    ec.kv_bytes = 0;
    free_memory = "MemAvailable: 100 kB\n";
    ck_assert_int_eq(engine_make_plan(&ec, &p, &e), -ENOMEM);
    ck_assert_ptr_nonnull(strstr(e.text, "60 % of the available"));
}
END_TEST

UNIT_MAIN("app_open", test_weights_and_pool_take_60_percent_of_what_is_free, test_each_key_of_the_engine_reaches_it,
          test_the_sampling_of_a_model_file_stands_below_the_configuration,
          test_sampling_that_no_request_could_ask_for_is_not_taken_from_a_file,
          test_a_check_reads_tokenizer_and_template_too, test_what_is_wrong_with_a_file_names_the_file)
