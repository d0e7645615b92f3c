/* bench_sample - microseconds for one row of V logits, by parameters: the least of 50 runs each.
 *
 *     make build/tests/bench/bench_sample && build/tests/bench/bench_sample [V]
 *
 * Two kinds of row: normal logits of deviation 3 (top-p has thousands of ids to look at: a hard case), and a peaked
 * one as models give it (a few ids well above the rest).
 */
#include "engine/base/sys.h"
#include "engine/compute/sample.h"

#include "engine/base/rng.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name;
    struct sample_row row;
} rows[] = {
    {"greedy", {.temperature = 0, .top_p = 1, .repetition = 1, .n_logprobs = -1}},
    {"greedy, 20 logprobs", {.temperature = 0, .top_p = 1, .repetition = 1, .n_logprobs = 20}},
    {"temperature 1", {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1}},
    {"top-k 50", {.temperature = 1, .top_p = 1, .repetition = 1, .n_logprobs = -1, .top_k = 50}},
    {"top-p 0.9", {.temperature = 1, .top_p = 0.9f, .repetition = 1, .n_logprobs = -1}},
    {"top-k 50, top-p 0.9", {.temperature = 1, .top_p = 0.9f, .repetition = 1, .n_logprobs = -1, .top_k = 50}},
    {"all, 20 logprobs",
     {.temperature = 0.7f, .top_p = 0.9f, .min_p = 0.02f, .repetition = 1, .n_logprobs = 20, .top_k = 50}},
};

static void fill(float *l, int vocab, int peaked)
{
    uint64_t state = 1;
    for (int i = 0; i < vocab; i++) {
        float sum = 0;
        for (int k = 0; k < 12; k++)
            sum += (float)(rng_next(&state) >> 40) * 0x1p-24f;
        l[i] = (sum - 6) * (peaked ? 2 : 3) + (peaked && i % 4999 == 7 ? 12 : 0);
    }
}

static double least_us(const float *l, int vocab, const struct sample_row *row, float *scratch)
{
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 50; i++) {
        struct sample_out out;
        uint64_t start = sys.now_ns();
        sample_row_cpu(l, vocab, row, &out, scratch);
        uint64_t took = sys.now_ns() - start;
        least = took < least ? took : least;
    }
    return (double)least / 1000;
}

int main(int argc, char **argv)
{
    int vocab = argc > 1 ? atoi(argv[1]) : 49152;
    float *l = vocab > 0 ? malloc((size_t)vocab * sizeof *l) : NULL;
    float *scratch = vocab > 0 ? malloc(2 * (size_t)vocab * sizeof *scratch) : NULL;
    if (!l || !scratch) {
        fprintf(stderr, "usage: bench_sample [V], V above 0\n");
        return 1;
    }
    printf("V = %d\n%-24s %10s %10s\n", vocab, "us a row", "normal", "peaked");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        printf("%-24s", rows[i].name);
        for (int peaked = 0; peaked < 2; peaked++) {
            fill(l, vocab, peaked);
            printf(" %10.1f", least_us(l, vocab, &rows[i].row, scratch));
        }
        printf("\n");
    }
    free(scratch);
    free(l);
    return 0;
}
