/* ops_gen - random inputs for op tests: numbers, weights of every type, steps over a paged KV pool.
 *
 * All of it is host memory and a pure function of the generator's state, so a seed repeats a case. Tests assert that
 * memory is there. What a case does not define is poison (0xff: NaN in every float type), so that reading it shows.
 */
#ifndef HEARTH_TESTS_OPS_GEN_H
#define HEARTH_TESTS_OPS_GEN_H

#include "engine/compute/backend.h"

#include <stddef.h>
#include <stdint.h>

struct ops_rng {
    uint64_t state;
};

/* lo .. hi, both included. */
int32_t ops_int(struct ops_rng *r, int32_t lo, int32_t hi);
/* One of n values. */
int32_t ops_pick(struct ops_rng *r, const int32_t *of, size_t n);
/* Normal with deviation 1 (sum of uniforms). */
float ops_gauss(struct ops_rng *r);
/* n normals times scale, malloc'ed. */
float *ops_gauss_array(struct ops_rng *r, size_t n, float scale);
/* 0 .. n-1 in random order, malloc'ed. */
int32_t *ops_shuffled(struct ops_rng *r, int32_t n);
/* bytes of 0xff, malloc'ed. */
void *ops_poison(size_t bytes);

/* A weight matrix as a loader hands it over: parts with gaps between rows, and the values they stand for. */
struct ops_matrix {
    struct weight_part part[WEIGHT_PARTS_MAX];
    int32_t n_parts, rows, cols;
    double *value; /* [rows][cols], decoded from the bytes by the test's own arithmetic */
};

void ops_matrix_make(struct ops_matrix *m, struct ops_rng *r, const uint32_t *dtypes, int32_t n_parts,
                     int32_t part_rows, int32_t cols);
/* The same matrix rounded to bfloat16; `value` is not set. */
void ops_matrix_to_bf16(struct ops_matrix *to, const struct ops_matrix *m);
void ops_matrix_free(struct ops_matrix *m);

/* Several sequences, each with computed keys and new rows, their KV in a pool with shuffled block ids. */
struct ops_kv_case {
    struct step step;  /* rows of all sequences; ids unused; a new number */
    struct kv_view kv; /* base points at `pool` */
    uint8_t *pool;     /* poison but for the positions written */
    size_t pool_bytes;
    int32_t n_heads; /* H */
    int32_t *len;    /* [S] keys of each sequence, new rows included */
    float *qkv;      /* [T][(H + 2G) * D] */
    float **k, **v;  /* [S] -> [len][G][D]: what the pool holds, exactly */
    float *scale;    /* kv8: [G][K, V], powers of 2; kv.scale points there */
    int32_t *ints;   /* memory of the step's arrays */
};

struct ops_kv_dims {
    int32_t head_dim, n_kv_heads, group; /* H = group * n_kv_heads */
    int32_t block_tokens;
    uint32_t format;
    int32_t n_seqs, max_past, max_new; /* each sequence: 0 .. max_past keys, then 1 .. max_new rows */
};

/* Random dims within what the contract allows, small enough for a scalar backend. */
struct ops_kv_dims ops_kv_dims_random(struct ops_rng *r);
/* With `fill` every position of every sequence lies in the pool; else only those before the step's rows. */
void ops_kv_case_make(struct ops_kv_case *c, struct ops_rng *r, const struct ops_kv_dims *d, int fill);
void ops_kv_case_free(struct ops_kv_case *c);
/* A number that no step has had. */
uint64_t ops_next_step(void);
/* What rope_kv has to leave in a copy of c->pool: the k and v rows of qkv (rotated already) at the step's positions. */
void ops_kv_write(const struct ops_kv_case *c, const float *qkv, uint8_t *pool);

/* A step of the rows `pick` of c->step in that order, each as a sequence of its own over the same blocks: the same
 * row in other company. Free out->ids. */
struct step ops_step_of_rows(const struct ops_kv_case *c, const int32_t *pick, int32_t n);

#endif
