/* test_llama_numpy - random:tiny on cpu_ref against NumPy float64 (make_llama_numpy.py): relative error at most 1e-4.
 *
 * Tolerance: activations are stored as float32 (2^-24 each), a pass has about 20 roundings in sequence on values of
 * order 1 and attention logits of order 10 amplify them by e^x; measured worst case is below 1e-5.
 */
#include "tests/support/unit.h"

#include "tests/support/mini_engine.h"

#include <errno.h>
#include <math.h>
#include <string.h>

enum { MAX_TOKENS = 1024, MAX_ROWS = 64 };

struct golden { /* one case of llama_numpy.txt */
    char source[64];
    int n_ids, n_rows;
    int32_t ids[MAX_TOKENS], rows[MAX_ROWS];
    float *logits; /* [n_rows][V] */
};

static FILE *open_data(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f, "%s: %s (run from the root of the repository)", path, strerror(errno));
    return f;
}

static void read_ints(FILE *f, int32_t *out, int n)
{
    for (int i = 0; i < n; i++)
        ck_assert_int_eq(fscanf(f, "%d", &out[i]), 1);
}

/* The next case of both files; false at the end. */
static bool next_case(FILE *text, FILE *data, size_t vocab, struct golden *g)
{
    if (fscanf(text, "%63s %d %d", g->source, &g->n_ids, &g->n_rows) != 3)
        return false;
    ck_assert(g->n_ids <= MAX_TOKENS && g->n_rows <= MAX_ROWS);
    read_ints(text, g->ids, g->n_ids);
    read_ints(text, g->rows, g->n_rows);
    size_t n = (size_t)g->n_rows * vocab;
    g->logits = malloc(n * sizeof *g->logits);
    ck_assert_uint_eq(fread(g->logits, sizeof *g->logits, n, data), n);
    return true;
}

/* Largest error over the rows, relative to the largest logit of its row. */
static double worst_error(const struct golden *g, const float *ours, size_t vocab)
{
    double worst = 0;
    for (int r = 0; r < g->n_rows; r++) {
        const float *a = g->logits + (size_t)r * vocab, *b = ours + (size_t)g->rows[r] * vocab;
        double top = 0, off = 0;
        for (size_t i = 0; i < vocab; i++) {
            ck_assert(isfinite(b[i]));
            top = fmax(top, fabs((double)a[i]));
            off = fmax(off, fabs((double)a[i] - (double)b[i]));
        }
        worst = fmax(worst, off / top);
    }
    return worst;
}

static void compare(int32_t chunk, int32_t block_tokens, uint64_t shuffle)
{
    FILE *text = open_data("llama_numpy.txt"), *data = open_data("llama_numpy.f32");
    struct golden g;
    int cases = 0;
    while (next_case(text, data, 512, &g)) {
        struct mini_opts o = {.source = g.source,
                              .backend = &backend_cpu_ref,
                              .block_tokens = block_tokens,
                              .max_rows = MAX_TOKENS,
                              .shuffle = shuffle};
        struct mini *m;
        struct err e = {0};
        ck_assert_msg(mini_open(&m, &o, &e) == 0, "%s", e.text);
        float *ours = malloc((size_t)g.n_ids * 512 * sizeof *ours);
        mini_logits(m, g.ids, g.n_ids, chunk, ours);
        double worst = worst_error(&g, ours, 512);
        printf("%s, steps of %d, blocks of %d: worst relative error %.2e\n", g.source, chunk, block_tokens, worst);
        ck_assert_double_le(worst, 1e-4);
        mini_close(m);
        free(ours);
        free(g.logits);
        cases++;
    }
    ck_assert_int_eq(cases, 3);
    fclose(text);
    fclose(data);
}

START_TEST(test_tiny_llama_equals_numpy_in_one_step)
{
    compare(MAX_TOKENS, 64, 0);
}
END_TEST

START_TEST(test_tiny_llama_equals_numpy_token_by_token_over_scattered_blocks)
{
    compare(1, 16, 5);
}
END_TEST

START_TEST(test_tiny_llama_equals_numpy_in_odd_steps)
{
    compare(37, 128, 9);
}
END_TEST

UNIT_MAIN("llama_numpy", test_tiny_llama_equals_numpy_in_one_step,
          test_tiny_llama_equals_numpy_token_by_token_over_scattered_blocks, test_tiny_llama_equals_numpy_in_odd_steps)
