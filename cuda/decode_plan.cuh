/* decode_plan - between the plan of decode attention and its kernel.
 *
 * Work is counted in units: 64 keys of one sequence, for one kv head and one chunk of its query vectors. All units of a
 * step lie in one row: sequence by sequence, in it head by head, chunk by chunk, key by key. The row is cut into equal
 * runs, one a CTA of a grid that just fills the card, so that any mix of lengths is balanced. The plan is made on the
 * card from the step's positions.
 *
 * So a sequence's keys are cut where the other sequences' lengths say, and the bits of a row depend on its company:
 * deterministic mode goes another way (attn_fixed.cu).
 */
#ifndef HEARTH_CUDA_DECODE_PLAN_CUH
#define HEARTH_CUDA_DECODE_PLAN_CUH

#include "cuda/cuda.cuh"

#define DECODE_UNIT 64 /* keys */

/* A sequence in the row of units. */
struct decode_seq {
    int32_t first;      /* its first unit */
    int32_t n_tiles;    /* units of a head and chunk; 0: not decode */
    int32_t chunks;     /* of its query vectors */
    int32_t row0;       /* first row of the step, */
    int32_t n_rows;     /* and how many */
    int32_t table_at;   /* its block ids in the step's table */
    int32_t begin, end; /* keys that some row sees; tile 0 is that of `begin` */
};

/* Where the run of a CTA begins: unit `skip` of sequence s. */
struct decode_start {
    struct decode_seq seq;
    int32_t s, skip;
    int32_t n;   /* units of this run; 0: none */
    int32_t run; /* units of a full run */
};

struct decode_plan {
    const struct decode_seq *seq;     /* [S] */
    const struct decode_start *start; /* [grid] */
};

/* What a plan depends on beside the step. */
struct decode_terms {
    int32_t window, key_begin, key_end;
    int32_t group, n_kv_heads;
    int32_t chunk; /* query vectors of a chunk */
    int32_t grid;
};

/* Memory of decode attention and the plans of the latest step. */
struct attn {
    struct decode_seq *seq;     /* [ATTN_PLANS][max_seqs] */
    struct decode_start *start; /* [ATTN_PLANS][max_grid] */
    float *partials;            /* [2 * max_grid] partial results, see decode_end.cuh */
    int32_t *arrived;           /* [max_grid] how many of a segment's parts are there; 0 between calls */
    int32_t max_seqs, max_grid;
    int32_t shared_block, shared_sm; /* bytes that a CTA may have, that an SM has */
    uint64_t number;                 /* of the step that the plans below are for */
    int32_t n_plans, turn;
    struct decode_terms terms[ATTN_PLANS];
};

/* The plan of the step on `at` under t: made if it is not there. */
struct decode_plan attn_plan(struct cuda *c, uint64_t number, const struct step_dev *at, const struct decode_terms *t);

#endif
