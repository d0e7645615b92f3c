/* test_arch_llama - the llama family: loading, refusals, memory plan, and that a row's logits depend on it alone. */
#include "tests/support/unit.h"

#include "engine/base/rng.h"
#include "tests/support/gguf_llama.h"
#include "tests/support/mini_engine.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { V = 512, N = 150 };

static char dir[] = "/tmp/hearth-llama-XXXXXX";
static char path[64];

static void begin(void)
{
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/model.gguf", dir);
}

static void end(void)
{
    remove(path);
    ck_assert_int_eq(remove(dir), 0);
}

static void write_tiny(struct gguf_write *w, const char *const *skip)
{
    struct loader *l;
    struct str s = {0};
    struct err e;
    ck_assert_int_eq(loader_open(&l, "random:tiny", &e), 0);
    gguf_llama_add(w, l, skip);
    gguf_write_finish(w, &s);
    gguf_write_file(path, &s);
    str_fini(&s);
    loader_close(l);
}

static struct mini *open_mini(struct mini_opts o)
{
    struct mini *m;
    struct err e = {0};
    o.source = o.source ? o.source : "random:tiny";
    ck_assert_msg(mini_open(&m, &o, &e) == 0, "%s", e.text);
    return m;
}

static void random_ids(int32_t *ids, int32_t n, uint64_t seed)
{
    for (int32_t i = 0; i < n; i++)
        ids[i] = (int32_t)(rng_next(&seed) % V);
}

/* Logits of N tokens by a mini engine with these options, in steps of chunk. */
static float *run(struct mini_opts o, const int32_t *ids, int32_t chunk)
{
    float *out = malloc(sizeof(float) * N * V);
    struct mini *m = open_mini(o);
    mini_logits(m, ids, N, chunk, out);
    mini_close(m);
    return out;
}

/* -- a row depends on itself and its past only */

START_TEST(test_chunking_and_blocks_change_no_bit)
{
    static const struct {
        int32_t chunk, block_tokens;
        uint64_t shuffle;
    } ways[] = {{1, 64, 0}, {7, 16, 3}, {64, 32, 4}, {65, 128, 5}, {149, 64, 6}};
    static const enum kv_format formats[] = {KV_FORMAT_KV32, KV_FORMAT_KV16};
    int32_t ids[N];
    random_ids(ids, N, 11);
    for (int f = 0; f < 2; f++) {
        float *whole = run((struct mini_opts){.format = formats[f]}, ids, N);
        for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
            struct mini_opts o = {
                .format = formats[f], .block_tokens = ways[i].block_tokens, .shuffle = ways[i].shuffle};
            float *other = run(o, ids, ways[i].chunk);
            ck_assert_mem_eq(whole, other, sizeof(float) * N * V);
            free(other);
        }
        free(whole);
    }
}
END_TEST

START_TEST(test_kv_formats_differ_a_little)
{
    int32_t ids[N];
    random_ids(ids, N, 12);
    float *a = run((struct mini_opts){.format = KV_FORMAT_KV32}, ids, N),
          *b = run((struct mini_opts){.format = KV_FORMAT_KV16}, ids, N);
    double worst = 0;
    for (int i = 0; i < N * V; i++) {
        double d = (double)a[i] - (double)b[i];
        worst = d * d > worst * worst ? d : worst;
    }
    ck_assert_double_gt(worst * worst, 1e-6); /* the format is in use */
    ck_assert_double_lt(worst * worst, 1);
    free(a);
    free(b);
}
END_TEST

START_TEST(test_other_sequences_in_the_step_change_no_bit)
{
    enum { SEQS = 8, STEPS = 40 };
    int32_t ids[SEQS][N], at[SEQS] = {0};
    uint64_t rng = unit_seed("batch composition");
    float *solo[SEQS];
    struct mini *m = open_mini((struct mini_opts){.n_seqs = SEQS, .block_tokens = 16, .shuffle = 9, .max_rows = 512});
    for (int s = 0; s < SEQS; s++) {
        random_ids(ids[s], N, 100 + (uint64_t)s);
        solo[s] = run((struct mini_opts){0}, ids[s], N);
    }
    int compared = 0;
    for (int step = 0; step < STEPS; step++) {
        int32_t seq[SEQS], n[SEQS], n_in = 0;
        for (int s = 0; s < SEQS; s++) { /* a random mix of decode rows and chunks */
            int32_t k = rng_next(&rng) % 3 ? 1 : (int32_t)(rng_next(&rng) % 20);
            k = k > N - at[s] ? N - at[s] : k;
            if (k == 0)
                continue;
            mini_add(m, s, ids[s] + at[s], k, k - 1);
            seq[n_in] = s;
            n[n_in++] = k;
        }
        if (n_in == 0)
            break;
        const float *logits = mini_run(m);
        for (int32_t i = 0; i < n_in; i++) {
            at[seq[i]] += n[i];
            ck_assert_mem_eq(logits + (size_t)i * V, solo[seq[i]] + (size_t)(at[seq[i]] - 1) * V, sizeof(float) * V);
            compared++;
        }
    }
    ck_assert_int_gt(compared, 100);
    for (int s = 0; s < SEQS; s++)
        free(solo[s]);
    mini_close(m);
}
END_TEST

START_TEST(test_steps_without_logits_only_fill_the_cache)
{
    int32_t ids[N];
    random_ids(ids, N, 13);
    float *whole = run((struct mini_opts){0}, ids, N);
    struct mini *m = open_mini((struct mini_opts){0});
    mini_add(m, 0, ids, 100, 100);
    mini_run(m);
    mini_add(m, 0, ids + 100, 50, 48); /* the last two */
    const float *two = mini_run(m);
    ck_assert_mem_eq(two, whole + (size_t)148 * V, sizeof(float) * 2 * V);
    mini_close(m);
    free(whole);
}
END_TEST

START_TEST(test_logits_depend_on_the_first_token)
{
    int32_t ids[N];
    random_ids(ids, N, 14);
    float *a = run((struct mini_opts){0}, ids, N);
    ids[0] = (ids[0] + 1) % V;
    float *b = run((struct mini_opts){0}, ids, N);
    for (int i = 0; i < N; i++)
        ck_assert_mem_ne(a + (size_t)i * V, b + (size_t)i * V, sizeof(float) * V);
    free(a);
    free(b);
}
END_TEST

/* -- files */

START_TEST(test_a_gguf_file_gives_the_logits_of_its_weights)
{
    struct gguf_write w = {0};
    int32_t ids[N];
    random_ids(ids, N, 15);
    begin();
    write_tiny(&w, NULL);
    float *a = run((struct mini_opts){.source = path}, ids, N), *b = run((struct mini_opts){0}, ids, N);
    ck_assert_mem_eq(a, b, sizeof(float) * N * V); /* q and k rows are back in their order */
    free(a);
    free(b);
    end();
}
END_TEST

START_TEST(test_a_tied_head_is_the_embedding)
{
    struct gguf_write w = {0}, same = {0};
    struct loader *l;
    struct weight_loan loan;
    struct err e;
    const uint64_t dims[] = {64, V};
    int32_t ids[N];
    random_ids(ids, N, 16);
    begin();
    write_tiny(&w, (const char *const[]){"output.weight", NULL});
    float *tied = run((struct mini_opts){.source = path}, ids, N);
    ck_assert_int_eq(loader_open(&l, "random:tiny", &e), 0);
    ck_assert_int_eq(loader_ops(l)->take(l, "token_embd.weight", &loan, &e), 0);
    gguf_write_tensor(&same, "output.weight", loan.part.dtype, dims, 2, loan.part.data, 64 * V * 2);
    loader_ops(l)->done(l, &loan);
    loader_close(l);
    write_tiny(&same, (const char *const[]){"output.weight", NULL});
    float *untied = run((struct mini_opts){.source = path}, ids, N);
    ck_assert_mem_eq(tied, untied, sizeof(float) * N * V);
    free(tied);
    free(untied);
    end();
}
END_TEST

/* Write tiny with rope.freq_base, eps and (unless NULL) rope factors as given. */
static void write_tiny_with(float base, float eps, const float factors[8])
{
    static const char *const skip[] = {"llama.rope.freq_base", "llama.attention.layer_norm_rms_epsilon", NULL};
    const uint64_t dims[] = {8};
    struct gguf_write w = {0};
    gguf_write_float(&w, skip[0], base);
    gguf_write_float(&w, skip[1], eps);
    if (factors)
        gguf_write_tensor(&w, "rope_freqs.weight", GGUF_DT_F32, dims, 1, factors, 8 * sizeof *factors);
    write_tiny(&w, skip);
}

static float *run_rope(const int32_t *ids, float base, const float factors[8])
{
    write_tiny_with(base, 1e-5f, factors);
    return run((struct mini_opts){.source = path}, ids, N);
}

static double largest_gap(const float *a, const float *b)
{
    double most = 0;
    for (int i = 0; i < N * V; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* theta_i = base^(-2i/D) / factor_i (Su et al. 2021, and Llama 3.1's factors): another base and the factors that make
 * up for it turn by the same angles. */
START_TEST(test_rope_factors_divide_the_frequencies_of_the_base)
{
    float to_base[8];
    int32_t ids[N];
    random_ids(ids, N, 17);
    begin();
    for (int i = 0; i < 8; i++)
        to_base[i] = (float)pow(500000.0 / 10000.0, 2.0 * i / 16);
    float *plain = run_rope(ids, 10000, NULL), *base = run_rope(ids, 500000, NULL),
          *factors = run_rope(ids, 10000, to_base);
    ck_assert_double_gt(largest_gap(plain, base), 1e-2);
    ck_assert_double_lt(largest_gap(factors, base), 1e-4);
    free(plain);
    free(base);
    free(factors);
    end();
}
END_TEST

/* cpu_ref that counts norms and wants this eps of each. */
static int norms;

static void watch_norm(struct backend *be, void *out, float *x, const float *add, const float *w, float eps,
                       int32_t n_rows, int32_t width)
{
    ck_assert_float_eq(eps, 1e-3f);
    norms++;
    backend_cpu_ref.add_norm(be, out, x, add, w, eps, n_rows, width);
}

static struct backend_ops watched;

static int open_watched(struct backend **out, const struct backend_opts *o, struct err *e)
{
    int rc = backend_cpu_ref.open(out, o, e);
    if (!rc)
        ((struct backend_head *)(void *)*out)->ops = &watched;
    return rc;
}

START_TEST(test_every_norm_takes_eps_from_the_file)
{
    int32_t ids[N];
    random_ids(ids, N, 18);
    watched = backend_cpu_ref;
    watched.open = open_watched;
    watched.add_norm = watch_norm;
    begin();
    write_tiny_with(10000, 1e-3f, NULL);
    free(run((struct mini_opts){.source = path, .backend = &watched}, ids, N));
    ck_assert_int_eq(norms, 2 * 2 + 1);
    end();
}
END_TEST

/* -- loading */

struct watch { /* of a load's progress */
    uint64_t last, total;
    int calls, stop_at;
};

static int watch_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct watch *w = ctx;
    ck_assert_uint_gt(done, w->last);
    ck_assert_uint_le(done, total);
    w->last = done;
    w->total = total;
    return ++w->calls == w->stop_at;
}

/* Load `source` with the reference backend and close it again. */
static int load(const char *source, struct watch *w, struct err *e)
{
    struct loader *l;
    struct backend *be;
    struct model *m = NULL;
    struct backend_opts o = {.max_rows = 8, .max_cols = 128};
    ck_assert_int_eq(loader_open(&l, source, e), 0);
    ck_assert_int_eq(backend_cpu_ref.open(&be, &o, e), 0);
    int rc = arch_find("llama")->open(&m, be, l, 8, 4, w ? watch_progress : NULL, w, e);
    ck_assert_int_eq(m == NULL, rc != 0);
    arch_find("llama")->close(m);
    backend_cpu_ref.close(be);
    loader_close(l);
    return rc;
}

START_TEST(test_loading_reports_every_byte_and_can_be_stopped_anywhere)
{
    struct watch w = {0};
    struct err e;
    ck_assert_int_eq(load("random:tiny", &w, &e), 0);
    ck_assert_int_eq(w.calls, 3 + 2 * 9);
    ck_assert_uint_eq(w.last, w.total);
    for (int i = 1; i <= w.calls; i++) {
        struct watch stop = {.stop_at = i};
        ck_assert_int_eq(load("random:tiny", &stop, &e), -ECANCELED);
        ck_assert_int_eq(stop.calls, i);
    }
}
END_TEST

START_TEST(test_a_missing_tensor_is_refused_by_name_before_anything_is_loaded)
{
    static const char *const names[] = {"blk.1.attn_q.weight", "blk.0.ffn_norm.weight", "blk.1.ffn_down.weight",
                                        "output_norm.weight"};
    begin();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct gguf_write w = {0};
        struct watch none = {0};
        struct err e = {0};
        write_tiny(&w, (const char *const[]){names[i], NULL});
        ck_assert_int_eq(load(path, &none, &e), -ENOENT);
        ck_assert_msg(strstr(e.text, names[i]), "%s", e.text);
        ck_assert_int_eq(none.calls, 0);
    }
    end();
}
END_TEST

START_TEST(test_tensors_of_another_size_or_kind_are_refused)
{
    static const struct {
        const char *name, *instead, *expect;
        uint64_t cols, rows;
        int code;
    } bad[] = {
        {"blk.0.attn_k.weight", "blk.0.attn_k.weight", "64 x 64: must be 32 x 64", 64, 64, EINVAL},
        {"output_norm.weight", "output_norm.weight", "1 x 32: must be 1 x 64", 32, 1, EINVAL},
        {"output.weight", "output.weight", "256 x 64: must be 512 x 64", 64, 256, EINVAL},
        {"none", "blk.0.attn_q.bias", "blk.0.attn_q.bias", 64, 1, ENOTSUP},
        {"none", "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp.weight", 64, 8, ENOTSUP},
    };
    begin();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct gguf_write w = {0};
        struct err e = {0};
        const uint64_t dims[] = {bad[i].cols, bad[i].rows};
        gguf_write_tensor(&w, bad[i].instead, GGUF_DT_F32, dims, 2, NULL, 4 * bad[i].cols * bad[i].rows);
        write_tiny(&w, (const char *const[]){bad[i].name, NULL});
        ck_assert_int_eq(load(path, NULL, &e), -bad[i].code);
        ck_assert_msg(strstr(e.text, bad[i].expect), "%s", e.text);
    }
    end();
}
END_TEST

/* cpu_ref whose memory ends after a number of allocations. */
static int allocs_left;

static void *short_alloc(struct backend *be, size_t bytes)
{
    return allocs_left-- > 0 ? backend_cpu_ref.alloc(be, bytes) : NULL;
}

static int short_weight_load(struct backend *be, struct weight *out, const struct weight_part *parts, int n,
                             struct err *e)
{
    return allocs_left-- > 0 ? backend_cpu_ref.weight_load(be, out, parts, n, e) : err_set(e, ENOMEM, "no memory here");
}

START_TEST(test_backend_memory_that_ends_anywhere_is_an_error_without_a_leak)
{
    struct backend_ops ops = backend_cpu_ref;
    struct backend_opts o = {.max_rows = 8, .max_cols = 128};
    struct backend *be;
    struct loader *l;
    struct model *m = NULL;
    struct err e = {0};
    int n = 0, rc;
    ops.alloc = short_alloc;
    ops.weight_load = short_weight_load;
    ck_assert_int_eq(backend_cpu_ref.open(&be, &o, &e), 0);
    ((struct backend_head *)(void *)be)->ops = &ops;
    ck_assert_int_eq(loader_open(&l, "random:tiny", &e), 0);
    do {
        allocs_left = n++;
        rc = arch_find("llama")->open(&m, be, l, 8, 4, NULL, NULL, &e);
        ck_assert(rc == 0 || rc == -ENOMEM);
    } while (rc);
    ck_assert_int_eq(n - 1, 1 + 5 + 2 + 2 * 4); /* block, norms, embed and head, layers */
    arch_find("llama")->close(m);
    loader_close(l);
    backend_cpu_ref.close(be);
}
END_TEST

START_TEST(test_plan_counts_weights_and_activations_from_the_directory)
{
    uint64_t weights, activations;
    struct loader *l;
    struct err e;
    ck_assert_int_eq(loader_open(&l, "random:llama-8b", &e), 0);
    ck_assert_int_eq(arch_find("llama")->plan(l, &backend_cpu_ref, 512, 64, &weights, &activations, &e), 0);
    /* 8,030,261,248 parameters: bf16, but 65 norms of 4096 are float32 */
    ck_assert_uint_eq(weights, 2 * 8030261248ull + 2 * 65 * 4096);
    ck_assert_uint_eq(activations, 4ull * (512 * (3 * 4096 + 6144 + 4096 + 3 * 14336) + 64 * (2 * 4096 + 128256)));
    loader_close(l);
}
END_TEST

START_TEST(test_families_are_found_by_name)
{
    ck_assert_ptr_nonnull(arch_find("llama"));
    ck_assert_ptr_null(arch_find("llam"));
    ck_assert_str_eq(arch_names(), "llama");
}
END_TEST

UNIT_MAIN("arch_llama", test_chunking_and_blocks_change_no_bit, test_kv_formats_differ_a_little,
          test_other_sequences_in_the_step_change_no_bit, test_steps_without_logits_only_fill_the_cache,
          test_logits_depend_on_the_first_token, test_a_gguf_file_gives_the_logits_of_its_weights,
          test_a_tied_head_is_the_embedding, test_rope_factors_divide_the_frequencies_of_the_base,
          test_every_norm_takes_eps_from_the_file, test_loading_reports_every_byte_and_can_be_stopped_anywhere,
          test_a_missing_tensor_is_refused_by_name_before_anything_is_loaded,
          test_tensors_of_another_size_or_kind_are_refused,
          test_backend_memory_that_ends_anywhere_is_an_error_without_a_leak,
          test_plan_counts_weights_and_activations_from_the_directory, test_families_are_found_by_name)
