/* metric - see metric.h. */
#include "server/metric.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum kind { COUNTER, GAUGE, HISTOGRAM };
enum unit { ONE, PPM, US, NS };

static const struct row {
    enum kind kind;
    enum unit unit;
    const char *name, *labels, *vllm, *vllm_labels, *help;
} rows[METRIC_COUNT] = {
#define X(id, kind, unit, name, labels, vllm, vllm_labels, help) {kind, unit, name, labels, vllm, vllm_labels, help},
#include "server/metric_list.h"
#undef X
};

static const double scale[] = {[ONE] = 1, [PPM] = 1e-6, [US] = 1e-6, [NS] = 1e-9};

#define N_BOUNDS 22
#define MS       1000000ull
#define S        1000000000ull
static const uint64_t time_bounds[N_BOUNDS] = {
    1 * MS, 2 * MS, 5 * MS, 10 * MS, 20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS, 1 * S,    2 * S,
    5 * S,  10 * S, 20 * S, 60 * S,  120 * S, 300 * S, 600 * S,  1200 * S, 2400 * S, 3600 * S, 7200 * S};
static const uint64_t size_bounds[N_BOUNDS] = {1,     2,      5,      10,     20,     50,     100,   200,
                                               500,   1000,   2000,   4000,   8000,   16000,  32000, 64000,
                                               96000, 128000, 192000, 256000, 512000, 1000000};

static struct value {
    _Atomic uint64_t v;                    /* counter, gauge; sum of a histogram */
    _Atomic uint64_t bucket[N_BOUNDS + 1]; /* values <= bound i and > bound i - 1; the last: above all */
} values[METRIC_COUNT];

void metric_add(enum metric_id m, uint64_t n)
{
    assert(rows[m].kind == COUNTER);
    atomic_fetch_add_explicit(&values[m].v, n, memory_order_relaxed);
}

void metric_set(enum metric_id m, uint64_t v)
{
    assert(rows[m].kind != HISTOGRAM);
    atomic_store_explicit(&values[m].v, v, memory_order_relaxed);
}

static const uint64_t *bounds_of(const struct row *r)
{
    return r->unit == ONE ? size_bounds : time_bounds;
}

void metric_observe(enum metric_id m, uint64_t v)
{
    const uint64_t *bounds = bounds_of(&rows[m]);
    int i = 0;
    assert(rows[m].kind == HISTOGRAM);
    while (i < N_BOUNDS && v > bounds[i])
        i++;
    atomic_fetch_add_explicit(&values[m].bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&values[m].v, v, memory_order_relaxed);
}

uint64_t metric_get(enum metric_id m)
{
    uint64_t n = 0;
    if (rows[m].kind != HISTOGRAM)
        return atomic_load_explicit(&values[m].v, memory_order_relaxed);
    for (int i = 0; i <= N_BOUNDS; i++)
        n += atomic_load_explicit(&values[m].bucket[i], memory_order_relaxed);
    return n;
}

/* -- text */

/* One face of the table: our names, or vLLM's. */
struct face {
    bool vllm;
    const char *model; /* label text with quotes, for vLLM's */
};

static const char *name_of(const struct face *f, const struct row *r)
{
    return f->vllm ? r->vllm : r->name;
}

/* name + suffix, then the labels that are not empty. */
static void put_name(struct str *out, const struct face *f, const struct row *r, const char *suffix, const char *le)
{
    const char *all[] = {f->vllm ? f->model : "", f->vllm ? r->vllm_labels : r->labels, le};
    bool open = false;
    str_addf(out, "%s%s", name_of(f, r), suffix);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (*all[i]) {
            str_addf(out, "%s%s", open ? "," : "{", all[i]);
            open = true;
        }
    str_puts(out, open ? "} " : " ");
}

static void put_number(struct str *out, enum unit unit, uint64_t v)
{
    if (unit == ONE)
        str_addf(out, "%llu\n", (unsigned long long)v);
    else
        str_addf(out, "%.15g\n", (double)v * scale[unit]);
}

static void put_histogram(struct str *out, const struct face *f, const struct row *r, struct value *v)
{
    uint64_t below = 0;
    for (int i = 0; i <= N_BOUNDS; i++) {
        char le[48] = "le=\"+Inf\"";
        if (i < N_BOUNDS)
            snprintf(le, sizeof le, "le=\"%.15g\"", (double)bounds_of(r)[i] * scale[r->unit]);
        below += atomic_load_explicit(&v->bucket[i], memory_order_relaxed);
        put_name(out, f, r, "_bucket", le);
        put_number(out, ONE, below);
    }
    put_name(out, f, r, "_sum", "");
    put_number(out, r->unit, atomic_load_explicit(&v->v, memory_order_relaxed));
    put_name(out, f, r, "_count", ""); /* of the same reading as the buckets: they always agree */
    put_number(out, ONE, below);
}

static void put_face(struct str *out, const struct face *f)
{
    static const char *const kinds[] = {"counter", "gauge", "histogram"};
    const char *last = "";
    for (int m = 0; m < METRIC_COUNT; m++) {
        const struct row *r = &rows[m];
        const char *name = name_of(f, r);
        if (!*name)
            continue;
        if (strcmp(name, last) != 0)
            str_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, r->help, name, kinds[r->kind]);
        last = name;
        if (r->kind == HISTOGRAM) {
            put_histogram(out, f, r, &values[m]);
        } else {
            put_name(out, f, r, "", "");
            put_number(out, r->unit, metric_get((enum metric_id)m));
        }
    }
}

void metric_put_label(struct str *out, const char *name, const char *value)
{
    str_addf(out, "%s=\"", name);
    for (; *value; value++)
        if (*value == '\n')
            str_puts(out, "\\n");
        else if (*value == '"' || *value == '\\')
            str_addf(out, "\\%c", *value);
        else
            str_putc(out, *value);
    str_putc(out, '"');
}

void metric_put(struct str *out, bool vllm, const char *model)
{
    struct str label = {0};
    put_face(out, &(struct face){.vllm = false});
    if (vllm) {
        metric_put_label(&label, "model_name", model);
        put_face(out, &(struct face){.vllm = true, .model = str_text(&label)});
        out->oom |= label.oom;
    }
    str_fini(&label);
}
