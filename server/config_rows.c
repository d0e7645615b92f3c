/* config_rows - see config_rows.h. The table below is the configuration: a key is one row.
 *
 * A row's default is text in the form of the file and goes through the same reader: there is no second way in.
 */
#include "server/config_rows.h"

#include "server/config_value.h"

#include <string.h>

/* The field's name is the key; a row whose field has the wrong C type does not compile. */
#define SAME(f, ctype)                 __builtin_types_compatible_p(__typeof__(((struct config *)0)->f), ctype)
#define FIELD(f, ctype)                #f, offsetof(struct config, f) + 0 * sizeof(char[SAME(f, ctype) ? 1 : -1])
#define BOOL(f, def, help)             FIELD(f, bool), ROW_BOOL, def, 0, 0, NULL, help
#define INT(f, def, lo, hi, help)      FIELD(f, int64_t), ROW_INT, def, lo, hi, NULL, help
#define INT_OF(f, def, only, help)     FIELD(f, int64_t), ROW_INT, def, 0, 0, only, help
#define FLOAT(f, def, lo, hi, help)    FIELD(f, double), ROW_FLOAT, def, lo, hi, NULL, help
#define TEXT(f, def, help)             FIELD(f, const char *), ROW_TEXT, def, 0, 0, NULL, help
#define PATH(f, def, help)             FIELD(f, const char *), ROW_PATH, def, 0, 0, NULL, help
#define BYTES(f, def, lo, hi, help)    FIELD(f, uint64_t), ROW_BYTES, def, lo, hi, NULL, help
#define DURATION(f, def, lo, hi, help) FIELD(f, uint64_t), ROW_DURATION, def, lo, hi, NULL, help
#define ENUM(f, def, only, help)       FIELD(f, int), ROW_ENUM, def, 0, 0, only, help
#define LIST(f, def, help)             FIELD(f, struct config_list), ROW_LIST, def, 0, 0, NULL, help

#define KIB  1024.0
#define MIB  (1024.0 * KIB)
#define GIB  (1024.0 * MIB)
#define PIB  (1024.0 * 1024.0 * GIB)
#define HOUR 3600000.0 /* ms */

const struct config_row config_rows[] = {
    {PATH(model.path, NULL, "model file (GGUF; of a split model the first part)")},
    {TEXT(model.random, NULL, "random weights instead of a file: SHAPE[:SEED], for tests and planning")},
    {LIST(model.alias, NULL, "names that requests may use for the model; the first is shown")},
    {PATH(model.chat_template, NULL, "Jinja file to use instead of the model's own chat template")},
    {ENUM(model.weights, "as_stored", "as_stored|fp8",
          "layers' weights: as the file has them, or in 8 bits (GPU only)")},
    {LIST(listen, "127.0.0.1:8080,[::1]:8080", "HOST:PORT, [IPV6]:PORT or unix:PATH; public ones need API keys")},
    {INT(http.max_connections, "4096", 1, 1000000, "open connections; one more is answered 503 and closed")},
    {BYTES(http.max_body, "64MiB", KIB, 4 * GIB, "request body; larger is answered 413")},
    {BYTES(http.body_memory, "512MiB", 2 * KIB, PIB, "all request bodies in memory together; above: 503")},
    {BYTES(http.header_bytes, "16KiB", KIB, 64 * KIB, "all headers of a request together; larger is answered 431")},
    {INT(http.header_count, "100", 8, 1000, "header fields of a request; more is answered 431")},
    {DURATION(http.header_time, "10s", 100, HOUR, "for the headers of a request to arrive")},
    {DURATION(http.body_time, "30s", 100, HOUR, "for the body to arrive, and 1 s more for each 64 KiB of it")},
    {DURATION(http.idle, "75s", 100, HOUR, "a keep-alive connection without a request; above clients' pools")},
    {DURATION(http.write_stall, "60s", 100, HOUR, "a client that takes no byte for so long is cut off")},
    {BYTES(http.stream_bytes, "64KiB", 4 * KIB, 16 * MIB, "answer bytes kept for a slow reader of a stream")},
    {PATH(http.tls_cert, NULL, "certificate chain (PEM); serves HTTPS")},
    {PATH(http.tls_key, NULL, "private key of the certificate (PEM)")},
    {PATH(auth.key_file, NULL, "API keys, one NAME:SHA256 a line (hearthd --hash-key makes them)")},
    {BOOL(auth.salt_per_key, "true", "each key has a prefix cache of its own, so timing tells nothing about others")},
    {ENUM(engine.mode, "exec", "exec|thread", "engine as a process of its own, or (tests) as a thread")},
    {BOOL(engine.deterministic, "false", "bits of an answer depend on its request alone; CPUs: always, GPUs: slower")},
    {ENUM(backend, "auto", "auto|cpu|cuda", "where to compute; auto takes a GPU when there is one")},
    {INT(cpu.threads, "auto", 1, 1024, "compute threads; auto: processors that affinity and cgroup allow")},
    {ENUM(cpu.isa, "auto", "auto|ref|avx2|avx512", "CPU kernels; auto takes the best that runs here")},
    {INT(ctx_size, "auto", 16, 16777216, "tokens of one conversation; auto: the model's, as far as memory goes")},
    {BYTES(kv.bytes, "auto", MIB, PIB, "KV pool; auto: with the weights 60 % of free memory, 88 % of a GPU's")},
    {INT_OF(kv.block_tokens, "64", "16|32|64|128", "tokens of a KV block, the unit of sharing and eviction")},
    {ENUM(kv.format, "kv16", "kv16|kv32|kv8",
          "numbers in the KV cache: floats of 16, 32 or 8 bits (kv8: see --calibrate)")},
    {BOOL(kv.prefix_cache, "true", "reuse the KV of prompts that begin alike")},
    {BYTES(kv.dram.bytes, "0", 0, PIB, "KV blocks kept in host memory below the pool; 0: none")},
    {LIST(kv.nvme.dirs, NULL, "folders, one a drive, where KV blocks sleep; needs kv.nvme.bytes")},
    {BYTES(kv.nvme.bytes, "0", 0, 1024 * PIB, "bytes that all of kv.nvme.dirs together may take")},
    {BYTES(kv.nvme.write_bytes_per_day, "0", 0, 1024 * PIB, "written to kv.nvme.dirs at most; 0: no bound")},
    {ENUM(kv.load, "auto", "auto|always",
          "what lies below is loaded if that costs all requests less time than computing, or always")},
    {INT(sessions.max, "4096", 1, 1000000, "named conversations of an API key; one more: the oldest is forgotten")},
    {DURATION(sessions.ttl, "10m", 0, 720 * HOUR, "after its last use a session's KV is kept before others so long")},
    {BYTES(sessions.dram_bytes, "auto", 0, PIB, "kept in DRAM for an API key's sessions; auto, at most: half of it")},
    {BYTES(sessions.nvme_bytes, "auto", 0, PIB, "kept on NVMe for an API key's sessions; auto, at most: half of it")},
    {INT(sched.step_ms, "100", 1, 60000, "bound on one step's time: prefill that shares it is cut to fit")},
    {INT(sched.max_batch_tokens, "512", 16, 1048576, "tokens computed in one step, prefill and decode together")},
    {INT(sched.max_seqs, "256", 1, 65536, "sequences computed in one step")},
    {INT(sched.max_queued, "256", 1, 1000000, "requests that wait; one more is answered 429 with Retry-After")},
    {INT(sched.max_queued_tokens, "auto", 1, 1e12, "prompt tokens that wait; auto: four times the KV pool")},
    {FLOAT(sampling.temperature, NULL, 0, 2, "default of requests; not set: the model's, then 1")},
    {FLOAT(sampling.top_p, NULL, 0, 1, "default of requests; not set: the model's, then 1")},
    {INT(sampling.top_k, NULL, 0, 2147483647, "default of requests, 0 = off; not set: the model's, then 0")},
    {FLOAT(sampling.min_p, NULL, 0, 1, "default of requests; not set: the model's, then 0")},
    {FLOAT(sampling.repetition_penalty, NULL, 0.01, 10, "default of requests; not set: the model's, then 1")},
    {INT(sampling.max_tokens, NULL, 1, 16777216, "default of requests; not set: the rest of the context")},
    {INT(seed, NULL, 0, 9007199254740992, "seed of requests that give none; not set: a fresh one for each")},
    {INT(text.workers, "2", 1, 256, "threads that parse, render templates and tokenize")},
    {ENUM(log.level, "info", "error|warn|info|debug", "lowest level that is written")},
    {BOOL(log.prompts, "false", "write prompts and answers to the log (they are private: off)")},
    {ENUM(metrics.compat, "none", "none|vllm", "vllm: export vLLM's metric names too, for existing dashboards")},
    {DURATION(drain.timeout, "120s", 0, 24 * HOUR, "for running requests to end after SIGTERM")},
};
#define N_ROWS (sizeof config_rows / sizeof *config_rows)
_Static_assert(N_ROWS <= CONFIG_MAX_KEYS, "raise CONFIG_MAX_KEYS");

size_t config_key_count(void)
{
    return N_ROWS;
}

const char *config_key_name(size_t i)
{
    return config_rows[i].name;
}

const struct config_row *config_row_find(const char *key)
{
    for (size_t i = 0; i < N_ROWS; i++)
        if (strcmp(config_rows[i].name, key) == 0)
            return &config_rows[i];
    return NULL;
}

const char *config_key_nearest(const char *name)
{
    const char *best = config_rows[0].name;
    unsigned least = ~0u;
    for (size_t i = 0; i < N_ROWS; i++) {
        const char *dot = strchr(config_rows[i].name, '.');
        unsigned d = value_distance(name, config_rows[i].name);
        unsigned tail = dot ? value_distance(name, dot + 1) + 1 : d; /* the section was forgotten */
        d = tail < d ? tail : d;
        if (d < least) {
            least = d;
            best = config_rows[i].name;
        }
    }
    return best;
}

bool config_row_is_auto(const struct config_row *r)
{
    return r->type != ROW_ENUM && r->def && strcmp(r->def, "auto") == 0;
}

void config_row_put_number(const struct config_row *r, double v, struct str *out)
{
    if (r->type == ROW_BYTES)
        value_put_bytes(out, (uint64_t)v);
    else if (r->type == ROW_DURATION)
        value_put_duration(out, (uint64_t)v);
    else if (r->type == ROW_INT)
        str_addf(out, "%lld", (long long)v);
    else
        value_put_float(out, v);
}

/* "16|32|64" as "16, 32 or 64". */
static void put_choices(const char *only, struct str *out)
{
    for (const char *p = only; *p; p++)
        if (*p == '|')
            str_puts(out, strchr(p + 1, '|') ? ", " : " or ");
        else
            str_putc(out, *p);
}

void config_row_put_limits(const struct config_row *r, struct str *out)
{
    static const char *const what[] = {
        [ROW_BOOL] = "true or false",
        [ROW_INT] = "a whole number",
        [ROW_FLOAT] = "a number",
        [ROW_TEXT] = "a text",
        [ROW_BYTES] = "a size such as 512MiB",
        [ROW_DURATION] = "a duration such as 30s or 100ms",
        [ROW_LIST] = "a list",
        [ROW_PATH] = "a path",
    };
    if (r->only) {
        put_choices(r->only, out);
        return;
    }
    str_puts(out, what[r->type]);
    if (r->lo >= r->hi)
        return;
    str_puts(out, " from ");
    config_row_put_number(r, r->lo, out);
    str_puts(out, " to ");
    config_row_put_number(r, r->hi, out);
    str_puts(out, config_row_is_auto(r) ? ", or auto" : "");
}
