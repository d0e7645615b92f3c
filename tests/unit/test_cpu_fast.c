/* test_cpu_fast - the bits of a row depend on that row alone: not on the rows beside it, the threads or the ISA; and
 * cpu_fast is near cpu_ref.
 *
 * Tolerance of linear: activations rounded to 16 bits (half a step of max|x| / 32767 in each block of 32, independent)
 * leave an error of some 1e-5 of the largest output; 1e-4 catches every wrong term. Float weights: float sums, 1e-5.
 * Attention: float sums and exp at 2e-7, 2e-5.
 */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "engine/compute/backend.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static uint64_t state;

static float uniform(void)
{
    return (float)(rng_next(&state) >> 40) / 8388608.0f - 1.0f;
}

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = uniform();
}

static struct backend *open_backend(const struct backend_ops *ops, int32_t threads, const char *isa)
{
    struct backend *be = NULL;
    struct err e = {0};
    struct backend_opts o = {.threads = threads, .isa = isa, .max_rows = 256, .max_cols = 4096, .max_vocab = 100};
    ck_assert_msg(ops->open(&be, &o, &e) == 0, "%s", e.text);
    return be;
}

/* cpu_fast on each ISA of this machine with different threads; the first is what the others must equal. */
struct fleet {
    struct backend *be[4];
    int n;
};

static struct fleet open_fleet(void)
{
    struct fleet f = {.n = 3};
    f.be[0] = open_backend(&backend_cpu_fast, 1, "avx2");
    f.be[1] = open_backend(&backend_cpu_fast, 2, "avx2");
    f.be[2] = open_backend(&backend_cpu_fast, 5, "avx2");
    if (__builtin_cpu_supports("avx512vnni"))
        f.be[f.n++] = open_backend(&backend_cpu_fast, 3, "avx512");
    for (int i = 0; i < f.n; i++) /* else one ISA would be compared with itself */
        ck_assert_ptr_nonnull(strstr(backend_cpu_fast.describe(f.be[i]), i < 3 ? "AVX2," : "AVX-512,"));
    return f;
}

static void close_fleet(struct fleet *f)
{
    for (int i = 0; i < f->n; i++)
        backend_cpu_fast.close(f->be[i]);
}

static double worst(const float *a, const float *b, size_t n)
{
    double w = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - b[i]);
        w = d > w || isnan(d) ? d : w;
    }
    return w;
}

static double largest(const float *a, size_t n)
{
    double w = 0;
    for (size_t i = 0; i < n; i++)
        w = fabs((double)a[i]) > w ? fabs((double)a[i]) : w;
    return w;
}

/* -- linear */

/* Random file bytes of a part; finite scales of about 0.01. */
static void *random_part(struct weight_part *p)
{
    p->row_bytes = quant_row_bytes(p->dtype, p->cols);
    uint8_t *bytes = malloc((size_t)p->rows * p->row_bytes);
    size_t n = (size_t)p->rows * p->row_bytes, size = p->row_bytes / (size_t)p->cols;
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)rng_next(&state);
    size_t block = p->dtype == DT_Q4_0 ? 18 : p->dtype == DT_Q4_1 ? 20 : p->dtype == DT_Q8_0 ? 34 : size;
    for (size_t i = 0; i < n; i += block) {
        float x = uniform() * 0.01f, m = uniform() * 0.1f;
        uint16_t d = f16_from_f32(x), dm = f16_from_f32(m), b = bf16_from_f32(x);
        if (p->dtype == DT_F32)
            memcpy(bytes + i, &x, 4);
        else
            memcpy(bytes + i, p->dtype == DT_BF16 ? &b : &d, 2);
        if (p->dtype == DT_Q4_1)
            memcpy(bytes + i + 2, &dm, 2);
    }
    p->data = bytes;
    return bytes;
}

static void check_linear(struct fleet *f, struct backend *ref, const uint32_t *types, const int32_t *rows, int n_parts,
                         int32_t k, int32_t m)
{
    struct weight_part part[WEIGHT_PARTS_MAX];
    void *bytes[WEIGHT_PARTS_MAX];
    struct weight w, wr;
    struct err e = {0};
    bool exact = true;
    for (int i = 0; i < n_parts; i++) {
        part[i] = (struct weight_part){.dtype = types[i], .rows = rows[i], .cols = k};
        bytes[i] = random_part(&part[i]);
        exact &= types[i] != DT_Q4_0 && types[i] != DT_Q4_1 && types[i] != DT_Q8_0;
    }
    ck_assert_int_eq(backend_cpu_ref.weight_load(ref, &wr, part, n_parts, &e), 0);
    size_t n = (size_t)m * (size_t)wr.rows;
    float *x = malloc((size_t)(m * k) * 4), *a = malloc(n * 4), *b = malloc(n * 4), *r = malloc(n * 4);
    fill(x, (size_t)(m * k));
    backend_cpu_ref.linear(ref, r, x, &wr, m);
    for (int i = 0; i < f->n; i++) {
        ck_assert_int_eq(backend_cpu_fast.weight_load(f->be[i], &w, part, n_parts, &e), 0);
        backend_cpu_fast.linear(f->be[i], i ? b : a, x, &w, m);
        if (i)
            ck_assert_msg(memcmp(a, b, n * 4) == 0, "type %u k %d m %d: backend %d differs", types[0], k, m, i);
        for (int32_t t = 0; t < m; t++)
            backend_cpu_fast.linear(f->be[i], b + (size_t)t * w.rows, x + (size_t)t * k, &w, 1);
        ck_assert_msg(memcmp(a, b, n * 4) == 0, "type %u k %d m %d: a row alone differs", types[0], k, m);
        float row[4096], row_ref[4096];
        for (int32_t id = 0; id < w.rows; id += 7) {
            struct step st = {.n_rows = 1, .ids = &id};
            backend_cpu_fast.embed(f->be[i], row, &w, &st);
            backend_cpu_ref.embed(ref, row_ref, &wr, &st);
            ck_assert_mem_eq(row, row_ref, (size_t)k * 4);
        }
        backend_cpu_fast.weight_free(f->be[i], &w);
    }
    double off = worst(a, r, n), top = largest(r, n);
    ck_assert_msg(off <= (exact ? 1e-5 : 1e-4) * top, "type %u k %d m %d: off %g of %g", types[0], k, m, off, top);
    backend_cpu_ref.weight_free(ref, &wr);
    for (int i = 0; i < n_parts; i++)
        free(bytes[i]);
    free(x);
    free(a);
    free(b);
    free(r);
}

START_TEST(test_linear_row_is_the_same_alone_and_in_a_batch_on_any_threads)
{
    state = unit_seed("linear");
    struct fleet f = open_fleet();
    struct backend *ref = open_backend(&backend_cpu_ref, 1, NULL);
    static const uint32_t types[] = {DT_Q4_1, DT_Q4_0, DT_Q8_0, DT_F32, DT_F16, DT_BF16};
    static const int32_t batches[] = {1, 2, 3, 4, 5, 7, 10, 16, 61}; /* full tiles and each rest, packed and unpacked */
    for (int t = 0; t < 6; t++)
        for (int b = 0; b < 9; b++) {
            check_linear(&f, ref, (const uint32_t[]){types[t]}, (const int32_t[]){48}, 1, 576, batches[b]);
            check_linear(&f, ref, (const uint32_t[]){types[t]}, (const int32_t[]){83}, 1, 32, batches[b]);
        }
    for (int t = 0; t < 6; t++) {
        uint32_t mixed[] = {types[t], types[(t + 1) % 6], types[(t + 4) % 6]};
        check_linear(&f, ref, mixed, (const int32_t[]){96, 5, 33}, 3, 1536 + 32 * t, 19);
        check_linear(&f, ref, mixed, (const int32_t[]){17, 32, 1}, 2, 3200, 2);
        check_linear(&f, ref, mixed, (const int32_t[]){40}, 1, 800, 58 + t); /* two chunks of K, each rest of a tile */
    }
    backend_cpu_ref.close(ref);
    close_fleet(&f);
}
END_TEST

START_TEST(test_linear_stands_extreme_quants)
{
    struct backend *be = open_backend(&backend_cpu_fast, 1, NULL), *ref = open_backend(&backend_cpu_ref, 1, NULL);
    struct err e = {0};
    for (int sign = -1; sign <= 1; sign += 2) { /* every product at its largest: no sum may saturate */
        uint8_t bytes[2][16 * 34];
        struct weight_part p[2] = {{.data = bytes[0], .dtype = DT_Q8_0, .rows = 16, .cols = 32, .row_bytes = 34},
                                   {.data = bytes[1], .dtype = DT_Q4_1, .rows = 16, .cols = 32, .row_bytes = 20}};
        for (int i = 0; i < 16; i++) {
            memcpy(bytes[0] + 34 * i, &(uint16_t){0x3c00}, 2);
            memset(bytes[0] + 34 * i + 2, i % 2 ? -128 : 127, 32);
            memcpy(bytes[1] + 20 * i, &(uint16_t[]){0x3c00, 0xb800}, 4);
            memset(bytes[1] + 20 * i + 4, 0xff, 16);
        }
        float x[2][32], out[2][32], want[2][32];
        for (int i = 0; i < 64; i++)
            x[i / 32][i % 32] = (float)sign * 127;
        struct weight w, wr;
        ck_assert_int_eq(backend_cpu_fast.weight_load(be, &w, p, 2, &e), 0);
        ck_assert_int_eq(backend_cpu_ref.weight_load(ref, &wr, p, 2, &e), 0);
        backend_cpu_ref.linear(ref, want[0], x[0], &wr, 2);
        for (int32_t m = 2; m >= 1; m--) {
            memset(out, 0, sizeof out[0]);
            backend_cpu_fast.linear(be, out[0], x[0], &w, m);
            ck_assert_double_le(worst(out[0], want[0], 64), 1e-6 * largest(want[0], 64));
        }
        backend_cpu_fast.weight_free(be, &w);
        backend_cpu_ref.weight_free(ref, &wr);
    }
    backend_cpu_ref.close(ref);
    backend_cpu_fast.close(be);
}
END_TEST

/* -- attention */

enum { D_MAX = 128, CTX = 1400, MAX_T = 256 };

/* A pool with some sequences; seq s has blocks in scattered order. Keys and values random, what no one may read NaN. */
struct world {
    struct kv_view kv;
    int32_t n_heads, n_seqs, blocks_per_seq;
    int32_t *table, table_at[9];
    void *bytes;
};

static void make_world(struct world *w, uint32_t format, uint32_t block_tokens, int32_t n_seqs, int32_t h, int32_t g,
                       int32_t d)
{
    uint64_t row = (uint64_t)d * (format == KV_FORMAT_KV16 ? 2 : 4), head = 2 * row * block_tokens;
    *w = (struct world){.n_heads = h, .n_seqs = n_seqs};
    w->blocks_per_seq = (CTX + (int32_t)block_tokens - 1) / (int32_t)block_tokens;
    int32_t n = w->blocks_per_seq * n_seqs;
    w->kv = (struct kv_view){.block_stride = head * (uint64_t)g,
                             .head_stride = head,
                             .v_offset = row * block_tokens,
                             .row_stride = row,
                             .block_tokens = block_tokens,
                             .format = format,
                             .head_dim = (uint32_t)d,
                             .n_kv_heads = (uint32_t)g};
    w->kv.base = w->bytes = malloc(w->kv.block_stride * (uint64_t)n);
    memset(w->bytes, 0xff, w->kv.block_stride * (uint64_t)n);
    w->table = malloc((size_t)n * sizeof *w->table);
    for (int32_t i = 0; i < n; i++)
        w->table[i] = (int32_t)(((int64_t)i * 7919 + 3) % n);
    for (int32_t s = 0; s <= n_seqs; s++)
        w->table_at[s] = s * w->blocks_per_seq;
}

static void free_world(struct world *w)
{
    free(w->bytes);
    free(w->table);
}

struct rows { /* a step over the world */
    struct step st;
    int32_t pos[MAX_T], seq[MAX_T], first[9];
};

static void add_rows(struct rows *r, const struct world *w, int32_t seq, int32_t pos, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        r->pos[r->st.n_rows] = pos + i;
        r->seq[r->st.n_rows++] = seq;
    }
    for (int32_t s = seq + 1; s <= w->n_seqs; s++)
        r->first[s] = r->st.n_rows;
    r->st.n_seqs = w->n_seqs;
    r->st.pos = r->pos;
    r->st.row_seq = r->seq;
    r->st.seq_row = r->first;
    r->st.table = w->table;
    r->st.table_at = w->table_at;
}

/* Write keys and values of positions [0, n) of seq through rope_kv, 50 rows at a time. */
static void write_kv(struct backend *be, const struct world *w, int32_t seq, int32_t n)
{
    int32_t d = (int32_t)w->kv.head_dim, width = (w->n_heads + 2 * (int32_t)w->kv.n_kv_heads) * d;
    float *qkv = malloc((size_t)(50 * width) * 4), inv[D_MAX / 2];
    for (int32_t i = 0; i < d / 2; i++)
        inv[i] = powf(10000.0f, -2.0f * (float)i / (float)d);
    for (int32_t p = 0; p < n; p += 50) {
        struct rows r = {0};
        add_rows(&r, w, seq, p, n - p < 50 ? n - p : 50);
        fill(qkv, (size_t)(50 * width));
        struct rope_args a = {qkv, &r.st, inv, &w->kv, w->n_heads, 1};
        backend_ops(be)->rope_kv(be, &a);
    }
    free(qkv);
}

struct result {
    float *o, *lse;
    size_t n, d;
};

static struct result attend(struct backend *be, const struct world *w, const struct rows *r, const float *q,
                            int32_t window, const float *sink, int32_t begin, int32_t end)
{
    size_t d = w->kv.head_dim, n = (size_t)r->st.n_rows * (size_t)w->n_heads;
    struct result out = {malloc(n * d * 4), malloc(n * 4), n, d};
    struct attn_args a = {.out = {out.o, out.lse},
                          .q = q,
                          .q_stride = (int64_t)((size_t)w->n_heads * d),
                          .step = &r->st,
                          .kv = &w->kv,
                          .n_heads = w->n_heads,
                          .scale = 0.3f,
                          .window = window,
                          .sink = sink,
                          .key_begin = begin,
                          .key_end = end};
    backend_ops(be)->attention(be, &a);
    return out;
}

static void drop(struct result *r)
{
    free(r->o);
    free(r->lse);
}

static void same(const struct result *a, const struct result *b, const char *what)
{
    ck_assert_msg(memcmp(a->o, b->o, a->n * a->d * 4) == 0 && memcmp(a->lse, b->lse, a->n * 4) == 0, "%s", what);
}

static void near_by(const struct result *a, const struct result *b, double tolerance, const char *what)
{
    double o = worst(a->o, b->o, a->n * a->d), l = 0;
    for (size_t i = 0; i < a->n; i++)
        if (a->lse[i] != b->lse[i]) {
            double d = fabs((double)a->lse[i] - b->lse[i]);
            l = d > l || isnan(d) ? d : l;
        }
    ck_assert_msg(o <= tolerance && l <= tolerance * 4, "%s: o off %g, lse off %g", what, o, l);
}

static void check_attention(uint32_t format, uint32_t block_tokens, int32_t h, int32_t g, int32_t d, int32_t window)
{
    struct fleet f = open_fleet();
    struct backend *ref = open_backend(&backend_cpu_ref, 1, NULL);
    struct world w;
    make_world(&w, format, block_tokens, 3, h, g, d);
    write_kv(ref, &w, 0, 700);
    write_kv(ref, &w, 1, 40);
    write_kv(ref, &w, 2, 1301);
    struct rows r = {0};
    add_rows(&r, &w, 0, 640, 60); /* a prefill chunk, a short decode, a long decode */
    add_rows(&r, &w, 1, 39, 1);
    add_rows(&r, &w, 2, 1300, 1);
    size_t width = (size_t)(h * d);
    float *q = malloc((size_t)r.st.n_rows * width * 4), sink[64];
    fill(q, (size_t)r.st.n_rows * width);
    fill(sink, (size_t)h);
    struct result first = attend(f.be[0], &w, &r, q, window, sink, 0, INT32_MAX);
    struct result truth = attend(ref, &w, &r, q, window, sink, 0, INT32_MAX);
    for (size_t i = 0; i < truth.n; i++)
        if (isnan(truth.lse[i]) || isnan(first.lse[i])) {
            fprintf(stderr, "nan at %zu %zu: %g %g\n", i / h, i % h, truth.lse[i], first.lse[i]);
        }
    near_by(&first, &truth, 2e-5, "cpu_fast against cpu_ref");
    drop(&truth);
    for (int i = 1; i < f.n; i++) {
        struct result other = attend(f.be[i], &w, &r, q, window, sink, 0, INT32_MAX);
        same(&first, &other, "threads or ISA change bits");
        drop(&other);
    }
    for (int32_t t = 0; t < r.st.n_rows; t++) {
        struct rows one = {0};
        add_rows(&one, &w, r.seq[t], r.pos[t], 1);
        struct result alone = attend(f.be[t % f.n], &w, &one, q + (size_t)t * width, window, sink, 0, INT32_MAX);
        size_t at = (size_t)t * (size_t)h;
        struct result part = {first.o + at * (size_t)d, first.lse + at, (size_t)h, (size_t)d};
        same(&part, &alone, "a row alone differs");
        drop(&alone);
    }
    struct result a = attend(f.be[1], &w, &r, q, window, sink, 0, 333);
    struct result b = attend(f.be[1], &w, &r, q, window, sink, 333, INT32_MAX);
    backend_cpu_fast.merge(f.be[1], (struct attn_partial){a.o, a.lse}, (struct attn_partial){b.o, b.lse}, (int32_t)a.n,
                           d);
    near_by(&a, &first, 1e-6, "split keys merged");
    drop(&a);
    drop(&b);
    drop(&first);
    free(q);
    free_world(&w);
    backend_cpu_ref.close(ref);
    close_fleet(&f);
}

START_TEST(test_attention_row_is_the_same_alone_in_a_chunk_and_on_any_threads)
{
    state = unit_seed("attention");
    check_attention(KV_FORMAT_KV16, 64, 9, 3, 64, 0);
    check_attention(KV_FORMAT_KV16, 16, 8, 2, 128, 0);
    check_attention(KV_FORMAT_KV32, 32, 4, 4, 20, 0);
    check_attention(KV_FORMAT_KV32, 128, 6, 1, 36, 100);
    check_attention(KV_FORMAT_KV16, 16, 5, 1, 6, 7);
}
END_TEST

START_TEST(test_open_names_the_isa_it_does_not_know)
{
    struct backend *be = NULL;
    struct err e = {0};
    struct backend_opts o = {.threads = 1, .isa = "sse9", .max_rows = 1, .max_cols = 32};
    ck_assert_int_lt(backend_cpu_fast.open(&be, &o, &e), 0);
    ck_assert_ptr_null(be);
    ck_assert_str_eq(e.text, "cpu.isa sse9: must be auto, avx2 or avx512");
}
END_TEST

START_TEST(test_weight_load_refuses_an_unknown_type)
{
    struct backend *be = open_backend(&backend_cpu_fast, 2, NULL);
    struct weight w = {0};
    struct err e = {0};
    struct weight_part p = {.data = "", .dtype = 14, .rows = 1, .cols = 32};
    ck_assert_int_eq(backend_cpu_fast.weight_load(be, &w, &p, 1, &e), -ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "weight type 14"));
    ck_assert_ptr_nonnull(strstr(backend_cpu_fast.describe(be), ", 2 threads"));
    backend_cpu_fast.close(be);
}
END_TEST

UNIT_MAIN("cpu_fast", test_linear_row_is_the_same_alone_and_in_a_batch_on_any_threads,
          test_linear_stands_extreme_quants, test_attention_row_is_the_same_alone_in_a_chunk_and_on_any_threads,
          test_open_names_the_isa_it_does_not_know, test_weight_load_refuses_an_unknown_type)
