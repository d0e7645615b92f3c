/* config - every setting of the daemon: one row a key (config_rows.h), one struct of plain fields.
 *
 * A key's name is its field: "kv.bytes" is c->kv.bytes. Sources, each over the one before: defaults, the YAML file,
 * HEARTH_* variables (HEARTH_KV_BYTES), --set key=value, flags. For every key it is kept where its value came from.
 * Lists are set whole; a repeated flag adds to the list that its first use began.
 *
 * Units: sizes are bytes, durations milliseconds. "auto" is 0. A number that is not set is NAN or -1, a text NULL.
 * Not MT-safe while it is filled; read-only afterwards. All memory is the struct's own arena.
 */
#ifndef HEARTH_SERVER_CONFIG_H
#define HEARTH_SERVER_CONFIG_H

#include "engine/base/arena.h"
#include "engine/base/err.h"
#include "engine/base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CONFIG_MAX_KEYS 64
#define CONFIG_MAX_LIST 64 /* items of a list */

enum config_engine { CONFIG_ENGINE_EXEC, CONFIG_ENGINE_THREAD };
enum config_backend { CONFIG_BACKEND_AUTO, CONFIG_BACKEND_CPU, CONFIG_BACKEND_CUDA };
enum config_isa { CONFIG_ISA_AUTO, CONFIG_ISA_REF, CONFIG_ISA_AVX2, CONFIG_ISA_AVX512 };
enum config_kv_format { CONFIG_KV16, CONFIG_KV32, CONFIG_KV8 };
enum config_load { CONFIG_LOAD_AUTO, CONFIG_LOAD_ALWAYS };
enum config_weights { CONFIG_WEIGHTS_AS_STORED, CONFIG_WEIGHTS_FP8 };
enum config_metrics { CONFIG_METRICS_NONE, CONFIG_METRICS_VLLM };

enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ENV, CONFIG_SET, CONFIG_FLAG };

struct config_list {
    const char **v;
    size_t n;
};

struct config_origin {
    enum config_source source;
    const char *where; /* "default", "hearth.yaml:12:3", "HEARTH_KV_BYTES", "--set", "--ctx-size" */
};

struct config {
    struct {
        const char *path, *random, *chat_template; /* NULL = not set */
        struct config_list alias;
        int weights; /* enum config_weights */
    } model;
    struct config_list listen;
    struct {
        int64_t max_connections, header_count;
        uint64_t max_body, body_memory, header_bytes, stream_bytes;
        uint64_t header_time, body_time, idle, write_stall; /* ms */
        const char *tls_cert, *tls_key;
    } http;
    struct {
        const char *key_file;
        bool salt_per_key;
    } auth;
    struct {
        int mode; /* enum config_engine */
        bool deterministic;
    } engine;
    int backend; /* enum config_backend */
    struct {
        int64_t threads; /* 0 = auto */
        int isa;         /* enum config_isa */
    } cpu;
    int64_t ctx_size; /* tokens; 0 = auto */
    struct {
        uint64_t bytes; /* 0 = auto */
        int64_t block_tokens;
        int format; /* enum config_kv_format */
        bool prefix_cache;
        int load; /* enum config_load */
        struct {
            uint64_t bytes; /* 0 = none */
        } dram;
        struct {
            struct config_list dirs;
            uint64_t bytes, write_bytes_per_day; /* the latter: 0 = no bound */
        } nvme;
    } kv;
    struct {
        int64_t step_ms, max_batch_tokens, max_seqs, max_queued, max_queued_tokens; /* the last: 0 = auto */
    } sched;
    struct { /* unset (NAN, -1): the model's generation defaults, then OpenAI's */
        double temperature, top_p, min_p, repetition_penalty;
        int64_t top_k, max_tokens;
    } sampling;
    struct {
        int64_t max;
        uint64_t ttl;                    /* ms */
        uint64_t dram_bytes, nvme_bytes; /* 0 = auto */
    } sessions;
    int64_t seed; /* -1 = a fresh one for each request that gives none */
    struct {
        int64_t workers;
    } text;
    struct {
        int level; /* enum log_level */
        bool prompts;
    } log;
    struct {
        int compat; /* enum config_metrics */
    } metrics;
    struct {
        uint64_t timeout; /* ms */
    } drain;

    struct config_origin origin[CONFIG_MAX_KEYS]; /* by row */
    struct arena mem;
};

/* -- life */
/* All defaults. 0 or -ENOMEM. After any failure of this module config_fini still frees everything. */
int config_init(struct config *c, struct err *e);
void config_fini(struct config *c);

/* -- sources, in this order; 0 or -errno with e, which names the place, the key, the value, the limits and the fix */
/* The YAML file: at most 1 MiB, 16 levels; no anchors or aliases; a key given twice is an error. Keys nest or are
 * dotted. */
int config_load_file(struct config *c, const char *path, struct err *e);
/* The same from memory; `name` stands for the file in errors. */
int config_load_yaml(struct config *c, const char *name, const char *text, size_t n, struct err *e);
/* HEARTH_* of `env` (NULL-terminated, as environ). Empty ones count as absent. Names that are no key are logged as a
 * warning, not refused: container managers put names of their own there. */
int config_load_env(struct config *c, char *const *env, struct err *e);
/* One key. NULL or "" puts the default back. `where` is copied. -ENOENT for an unknown key (names the nearest). */
int config_set(struct config *c, const char *key, const char *value, enum config_source source, const char *where,
               struct err *e);
/* Add to a list key: to what `source` has put there so far, or in place of what lower sources put. One item, not cut
 * at commas. */
int config_add(struct config *c, const char *key, const char *item, enum config_source source, const char *where,
               struct err *e);
/* Rules between keys: listen addresses are well-formed and not public without keys; certificate and key come together;
 * body_memory holds a max_body; of model.path and model.random the higher source wins, and one source may give only
 * one. Call once, last. */
int config_finish(struct config *c, struct err *e);

/* -- showing */
/* Every key with its value and a comment that says where it came from. The text is a valid configuration file. */
void config_print(const struct config *c, struct str *out);
/* Every key: type, default, range, help. For --help-keys. */
void config_print_keys(struct str *out);

/* -- rows, for tests and error texts */
size_t config_key_count(void);
const char *config_key_name(size_t i);
/* The key that `name` most likely means (never NULL). */
const char *config_key_nearest(const char *name);
/* Value of row i as it stands in a file ("null" when not set). */
void config_put_value(const struct config *c, size_t i, struct str *out);

#endif
