/* gpu_bench - what benches of whole steps share: rates, floors, decode steps one behind the other, a prompt in chunks.
 */
#ifndef HEARTH_TESTS_GPU_BENCH_H
#define HEARTH_TESTS_GPU_BENCH_H

#include "tests/support/mini_engine.h"

/* Most sequences of bench_decode_steps, and steps that it makes of each. */
enum { BENCH_ROWS = 512, BENCH_STEPS = 60 };

struct bench_decode {
    double step, idle_mean, idle_p99; /* seconds: median; between a step's end on the card and the next one's begin */
};

double bench_seconds(void);            /* of a clock that only goes on */
double bench_median(double *x, int n); /* sorts x */
/* Bytes a second, read and written, of copies of 1 GiB (two of them are taken and given back). */
double bench_copy_rate(struct backend *be);
/* Bytes of the weights that every step reads: bfloat16, or e4m3 with a float a row for all but the head. */
double bench_weight_bytes(const struct model_shape *s, bool in_8_bits);
/* KV bytes of a token. */
double bench_kv_bytes(const struct model_shape *s, enum kv_format format);
/* BENCH_STEPS decode steps of sequences 0 to b - 1, each queued while the one before runs; the first ten are not
 * counted. */
struct bench_decode bench_decode_steps(struct mini *m, int32_t b);
/* Sequence 0 anew from ids[n] in steps of `chunk`: seconds from the first step queued to the token after it known. */
double bench_prompt(struct mini *m, const int32_t *ids, int32_t n, int32_t chunk);
/* n ids that look random. */
void bench_ids(int32_t *ids, int32_t n, int32_t vocab);

#endif
