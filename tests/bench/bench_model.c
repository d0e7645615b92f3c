/* bench_model - a whole model on cpu_fast: prefill of 512 tokens and decode of 1 and 8 rows, in tokens a second.
 *
 * usage: bench_model MODEL [threads] [seconds of each line]
 * Decode runs over contexts of 0 .. 127 tokens, as llama-bench's tg128 does. Token ids are arbitrary.
 */
#include "tests/support/mini_engine.h"

#include "engine/base/sys.h"

#include <stdio.h>
#include <stdlib.h>

enum { PROMPT = 512, DECODE = 128, STREAMS = 8 };

static double seconds(void)
{
    return (double)sys.now_ns() * 1e-9;
}

static int32_t some_id(const struct mini *m, int32_t i)
{
    return (int32_t)(((uint32_t)i * 2654435761u >> 8) % (uint32_t)mini_shape(m)->vocab);
}

static void prefill(struct mini *m)
{
    int32_t ids[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++)
        ids[i] = some_id(m, i);
    mini_reset(m, 0);
    mini_add(m, 0, ids, PROMPT, PROMPT - 1);
    mini_run(m);
}

static void decode(struct mini *m, int32_t streams)
{
    for (int32_t s = 0; s < streams; s++)
        mini_reset(m, s);
    for (int32_t i = 0; i < DECODE; i++) {
        for (int32_t s = 0; s < streams; s++)
            mini_add(m, s, &(int32_t){some_id(m, i * 31 + s)}, 1, 0);
        mini_run(m);
    }
}

/* Repeat for `wanted` seconds; print the best and the mean rate. */
static void measure(struct mini *m, const char *name, int32_t streams, int32_t tokens, double wanted)
{
    double best = 0, begin = seconds(), spent;
    int n = 0;
    do {
        double t = seconds();
        if (streams)
            decode(m, streams);
        else
            prefill(m);
        double rate = tokens / (seconds() - t);
        best = rate > best ? rate : best;
        spent = seconds() - begin;
        n++;
    } while (spent < wanted);
    printf("%-10s %8.1f tokens/s best, %8.1f mean of %d\n", name, best, tokens * n / spent, n);
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_model MODEL [threads] [seconds]\n");
        return 2;
    }
    struct mini *m = NULL;
    struct err e = {0};
    struct mini_opts o = {.source = argv[1],
                          .threads = argc > 2 ? atoi(argv[2]) : 0,
                          .format = KV_FORMAT_KV16,
                          .max_rows = PROMPT,
                          .n_seqs = STREAMS};
    double wanted = argc > 3 ? atof(argv[3]) : 3, begin = seconds();
    if (mini_open(&m, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    struct backend *be = mini_backend_of(m);
    printf("%s %s, loaded in %.2f s\n", backend_ops(be)->name, backend_ops(be)->describe(be), seconds() - begin);
    measure(m, "prefill", 0, PROMPT, wanted);
    measure(m, "decode 1", 1, DECODE, wanted);
    measure(m, "decode 8", STREAMS, DECODE * STREAMS, wanted);
    mini_close(m);
    return 0;
}
