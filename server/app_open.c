/* app_open - the parts of a server's start: text side, names, listeners, signals. See app.h.
 *
 * Each returns 0, or -errno with e; app_close undoes whatever has been done.
 */
#include "server/app.h"

#include "engine/base/hash.h"
#include "engine/base/log.h"
#include "engine/base/sys.h"
#include "engine/base/version.h"
#include "server/address.h"
#include "server/notify.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

#define HANDED_MAX 16 /* sockets from systemd */

/* -- configuration to engine */

void app_engine_config(const struct config *conf, struct engine_config *out)
{
    static const char *const backends[] = {"auto", "cpu", "cuda"};
    static const char *const isas[] = {"auto", "ref", "avx2", "avx512"};
    static const enum kv_format formats[] = {KV_FORMAT_KV16, KV_FORMAT_KV32, KV_FORMAT_KV8};
    memset(out, 0, sizeof *out);
    if (conf->model.random)
        snprintf(out->model, sizeof out->model, "random:%s", conf->model.random);
    else if (conf->model.path)
        snprintf(out->model, sizeof out->model, "%s", conf->model.path);
    snprintf(out->backend, sizeof out->backend, "%s", backends[conf->backend]);
    snprintf(out->isa, sizeof out->isa, "%s", isas[conf->cpu.isa]);
    out->threads = (uint32_t)conf->cpu.threads;
    out->ctx_tokens = (uint32_t)conf->ctx_size;
    out->kv_bytes = conf->kv.bytes;
    out->block_tokens = (uint32_t)conf->kv.block_tokens;
    out->kv_format = formats[conf->kv.format];
    out->dram_bytes = conf->kv.dram.bytes;
    for (size_t i = 0, n = 0; i < conf->kv.nvme.dirs.n && n < sizeof out->nvme_dirs; i++)
        n += (size_t)snprintf(out->nvme_dirs + n, sizeof out->nvme_dirs - n, "%s%s", i ? "," : "",
                              conf->kv.nvme.dirs.v[i]);
    out->nvme_bytes = conf->kv.nvme.bytes;
    out->nvme_write_bytes_per_day = conf->kv.nvme.write_bytes_per_day;
    out->load_always = conf->kv.load == CONFIG_LOAD_ALWAYS;
    out->max_rows = (uint32_t)conf->sched.max_batch_tokens;
    out->max_seqs = (uint32_t)conf->sched.max_seqs;
    out->max_queued = (uint32_t)conf->sched.max_queued;
    out->max_queued_tokens = (uint64_t)conf->sched.max_queued_tokens;
    out->step_ms = (uint32_t)conf->sched.step_ms;
    out->fp8_weights = conf->model.weights == CONFIG_WEIGHTS_FP8;
    out->deterministic = conf->engine.deterministic;
    out->no_prefix_cache = !conf->kv.prefix_cache;
    out->log_level = (uint8_t)conf->log.level;
}

#define CALIBRATE_BYTES_MAX (4u << 20)

static const char *model_source(const struct config *conf)
{
    return conf->model.random ? conf->model.random : conf->model.path;
}

/* general.sampling.*: GGUF keys that a model's makers may set; within the bounds of a request's fields. */
static void read_sampling(const struct gguf *g, struct model_sampling *m)
{
    static const char *const keys[] = {"general.sampling.temp", "general.sampling.top_p", "general.sampling.min_p",
                                       "general.sampling.penalty_repeat"};
    double *const to[] = {&m->temperature, &m->top_p, &m->min_p, &m->repetition_penalty};
    static const double least[] = {0, 0, 0, 0.01}, most[] = {2, 1, 1, 100};
    for (int i = 0; i < 4; i++) {
        double v;
        if (gguf_float(gguf_get(g, keys[i]), &v) && v >= least[i] && v <= most[i])
            *to[i] = v;
    }
    int64_t k;
    if (gguf_int(gguf_get(g, "general.sampling.top_k"), &k) && k >= 0 && k <= INT32_MAX)
        m->top_k = k;
}

/* Tokenizer and chat template, out of the model file or made for random weights. */
int app_open_text(struct app *a, struct err *e)
{
    static const char chatml[] =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    struct gguf *g = NULL;
    struct str file = {0};
    const char *source = NULL;
    size_t n = 0;
    int ret;
    a->sampling = (struct model_sampling){NAN, NAN, NAN, NAN, -1};
    if (a->conf->model.random) {
        ret = tokenizer_open_bytes(&a->tok, a->plan.vocab, e);
        source = chatml;
        n = sizeof chatml - 1;
    } else {
        ret = gguf_open(&g, a->conf->model.path, e);
        if (!ret && (ret = tokenizer_open(&a->tok, g, e)) != 0)
            err_prefix(e, "%s", a->conf->model.path);
        if (!ret) {
            source = gguf_text(gguf_get(g, "tokenizer.chat_template"), &n);
            read_sampling(g, &a->sampling);
        }
    }
    if (!ret && a->conf->model.chat_template) {
        ret = app_read_file(a->conf->model.chat_template, 4u << 20, &file, e);
        source = file.data;
        n = file.len;
    }
    if (!ret && source && (ret = chat_open(&a->chat, a->tok, source, n, e)) != 0)
        err_prefix(e, "%s", a->conf->model.chat_template ? a->conf->model.chat_template : model_source(a->conf));
    if (!ret && !source)
        log_warn("model chat",
                 "template=none next=\"only /v1/completions; give one with --set model.chat_template=FILE\"");
    if (!ret && tokenizer_vocab(a->tok) > a->plan.vocab)
        ret = err_set(e, EINVAL, "%s: the tokenizer has %d tokens, the model's output %d", a->conf->model.path,
                      tokenizer_vocab(a->tok), a->plan.vocab);
    str_fini(&file);
    gguf_close(g);
    return ret;
}

/* File name without folder and ".gguf", or the name of the random shape. */
int app_name_model(struct app *a, struct err *e)
{
    struct model_card *m = &a->card;
    m->created = sys.wall_s();
    if (a->conf->model.alias.n) {
        m->names = a->conf->model.alias;
    } else {
        const char *path = model_source(a->conf), *base = strrchr(path, '/');
        base = base ? base + 1 : path;
        size_t n = strlen(base);
        if (n > 5 && strcmp(base + n - 5, ".gguf") == 0)
            n -= 5;
        if (!(a->own_name = strndup(base, n)))
            return err_set(e, ENOMEM, "out of memory");
        m->names.v = (const char **)(void *)&a->own_name;
        m->names.n = 1;
    }
    m->id = m->names.v[0];
    snprintf(m->fingerprint, sizeof m->fingerprint, "fp_%.8s_%08x", version_number,
             (unsigned)hash_fnv(m->id, strlen(m->id)));
    return 0;
}

/* A socket of the service manager's, which may be public as little as our own. */
static int take_handed(struct app *a, int fd, struct err *e)
{
    struct address at;
    char text[sizeof at.host + 8];
    int ret = address_of_socket(fd, &at, e);
    if (ret)
        return ret;
    snprintf(text, sizeof text, at.kind == ADDRESS_UNIX ? "unix:%s" : at.kind == ADDRESS_V6 ? "[%s]:" : "%s:", at.host);
    if (address_is_public(&at) && !a->auth)
        return err_set(e, EINVAL,
                       "%s%u (a socket of systemd's): other machines can reach it, but there are no API keys; set "
                       "auth.key_file or let the socket unit listen on 127.0.0.1",
                       text, at.port);
    ret = http_listen_fd(a->http, fd, e);
    return ret ? ret : app_add_url(a, text, at.port, e);
}

int app_open_http(struct app *a, const struct http_app *callbacks, struct err *e)
{
    const struct config *c = a->conf;
    struct http_conf hc = {
        .max_connections = (uint32_t)c->http.max_connections,
        .header_bytes = c->http.header_bytes,
        .header_count = (uint32_t)c->http.header_count,
        .stream_bytes = c->http.stream_bytes,
        .body_memory = c->http.body_memory,
        .header_ms = (uint32_t)c->http.header_time,
        .idle_ms = (uint32_t)c->http.idle,
        .body_ms = (uint32_t)c->http.body_time,
        .write_stall_ms = (uint32_t)c->http.write_stall,
        .tls_cert = c->http.tls_cert,
        .tls_key = c->http.tls_key,
    };
    int fds[HANDED_MAX], n = 0;
    int ret = c->auth.key_file ? auth_open(&a->auth, c->auth.key_file, e) : 0;
    if (!ret)
        ret = http_open(&a->http, &hc, callbacks, e);
    if (!ret)
        ret = n = notify_listen_fds(fds, HANDED_MAX, e);
    for (int i = 0; ret >= 0 && i < n; i++)
        ret = take_handed(a, fds[i], e);
    /* sockets from the service manager take the place of those in the configuration */
    for (size_t i = 0; ret >= 0 && n == 0 && i < c->listen.n; i++) {
        ret = http_listen(a->http, c->listen.v[i], e);
        if (ret >= 0)
            ret = app_add_url(a, c->listen.v[i], ret, e);
    }
    return ret < 0 ? ret : 0;
}

int app_open_signals(struct app *a, struct err *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    int ret = pthread_sigmask(SIG_BLOCK, &set, NULL);
    a->signals = ret ? -1 : sys.signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return a->signals < 0 ? err_set(e, ret ? ret : errno, "signals: %s", strerror(ret ? ret : errno)) : 0;
}

int app_check(const struct config *conf, struct engine_plan *out, struct err *e)
{
    struct app a = {.conf = conf, .signals = -1};
    struct engine_config ec;
    app_engine_config(conf, &ec);
    int ret = hash_init_library() ? err_set(e, ENOTSUP, "libcrypto has no SHA-256") : engine_make_plan(&ec, &a.plan, e);
    if (!ret)
        ret = app_open_text(&a, e);
    if (!ret && conf->auth.key_file)
        ret = auth_open(&a.auth, conf->auth.key_file, e);
    *out = a.plan;
    app_close(&a);
    return ret;
}

int app_calibrate(const struct config *conf, FILE *text, uint32_t *n, char *path, size_t size, struct err *e)
{
    struct app a = {.conf = conf, .signals = -1};
    struct engine_config ec;
    struct str all = {0};
    struct token_ids ids = {0};
    char buf[4096];
    app_engine_config(conf, &ec);
    int ret = hash_init_library() ? err_set(e, ENOTSUP, "libcrypto has no SHA-256") : engine_make_plan(&ec, &a.plan, e);
    if (!ret)
        ret = app_open_text(&a, e);
    for (size_t k; !ret && all.len < CALIBRATE_BYTES_MAX && (k = fread(buf, 1, sizeof buf, text)) > 0;)
        str_add(&all, buf, k);
    if (!ret)
        ret = tokenizer_encode(a.tok, str_text(&all), all.len, false, &ids, e);
    if (!ret && ids.n < CALIBRATE_TOKENS_MIN)
        ret = err_set(e, EINVAL, "--calibrate: the text on stdin has %zu tokens, needs %d; give a few pages", ids.n,
                      CALIBRATE_TOKENS_MIN);
    *n = ids.n < a.plan.ctx_train ? (uint32_t)ids.n : a.plan.ctx_train;
    if (!ret)
        ret = engine_calibrate(&ec, ids.ids, *n, path, size, e);
    free(ids.ids);
    str_fini(&all);
    app_close(&a);
    return ret;
}

/* -- small things */

int app_read_file(const char *path, size_t max, struct str *out, struct err *e)
{
    int fd = sys.open(path, 0, 0), ret = 0;
    if (fd < 0)
        return err_set(e, errno, "%s: %s", path, strerror(errno));
    while (!ret) {
        char buf[4096];
        ssize_t n = sys.read(fd, buf, sizeof buf);
        if (n < 0)
            ret = err_set(e, errno, "%s: %s", path, strerror(errno));
        if (n <= 0)
            break;
        str_add(out, buf, (size_t)n);
        if (out->oom || out->len > max)
            ret = err_set(e, out->oom ? ENOMEM : EFBIG, "%s: more than %zu bytes", path, max);
    }
    sys.close(fd);
    return ret;
}

int app_add_url(struct app *a, const char *address, int port, struct err *e)
{
    struct str url = {0};
    const char *colon = strrchr(address, ':');
    if (strncmp(address, "unix:", 5) == 0)
        str_puts(&url, address);
    else
        str_addf(&url, "http%s://%.*s:%d", a->conf->http.tls_cert ? "s" : "", (int)(colon - address), address, port);
    const char **more = url.oom ? NULL : realloc(a->urls.v, (a->urls.n + 1) * sizeof *more);
    if (!more) {
        str_fini(&url);
        return err_set(e, ENOMEM, "out of memory");
    }
    a->urls.v = more;
    a->urls.v[a->urls.n++] = url.data;
    return 0;
}
