/* linear - inside of the linear layers: what one is asked for, and its two ways (gemv.cu for few rows, gemm.cu).
 *
 * out = x W^T with one of the endings below. x: input rows, bfloat16 in cuda_pad(K) columns. W bfloat16, or e4m3 with a
 * scale per row (fp8.cuh).
 */
#ifndef HEARTH_CUDA_LINEAR_CUH
#define HEARTH_CUDA_LINEAR_CUH

#include "cuda/cuda.cuh"

#include <stdint.h>

/* What becomes of the sums. */
enum linear_out {
    LINEAR_F32, /* float [T][N] = the sums */
    LINEAR_ADD, /* float [T][N] += the sums: the residual stream */
    LINEAR_SILU /* input rows of N / 2 = silu(sum[f]) * sum[N / 2 + f]: gate and up */
};

/* x was not divided by its root mean square yet: squares[t][0 .. n) sum up to that of row t's squares over `width`
 * columns; the layer does it. */
struct linear_norm {
    const float *squares; /* NULL: x is as it shall be */
    int32_t n, width;
    float eps;
};

/* With LINEAR_ADD: prepare the next norm of what is written to out, [T][N]. x: input rows of out * w, not yet divided;
 * squares[t][gemv_tiles(N)]: for linear_norm. */
struct linear_next {
    const float *w; /* [N]; NULL: nothing is prepared */
    __nv_bfloat16 *x;
    float *squares;
};

struct linear_args {
    const __nv_bfloat16 *x;
    const struct weight *w;
    int32_t n_rows;
    enum linear_out kind;
    void *out;
    void *scratch = NULL;         /* LINEAR_SILU: [T][N] floats */
    struct linear_norm norm = {}; /* both where linear_is_gemv alone */
    struct linear_next next = {};
};

/* -- linear.cu */
/* Do so few rows go through gemv.cu, which takes norm and next? */
bool linear_is_gemv(const struct cuda *c, int32_t n_rows);
/* Queue the layer. */
void linear_run(struct cuda *c, const struct linear_args *a);

/* -- gemv.cu: at most GEMV_ROWS rows. The bits of a row do not depend on their number. */
#define GEMV_ROWS 16

/* Queue it. */
void gemv_run(struct cuda *c, const struct linear_args *a);
/* Sums of squares that a layer of this shape prepares for each row. */
int32_t gemv_tiles(int32_t n);

/* -- gemm.cu */
#define GEMM_WORKSPACE (32u << 20) /* bytes that cublasLt may work in */

enum {
    GEMM_ADD = 1,   /* to what is in out */
    GEMM_BF16 = 2,  /* out */
    GEMM_FP8 = 4,   /* w and x, with scales */
    GEMM_FIXED = 8, /* in the file of what was timed: in deterministic mode */
};

struct gemm_args {
    const void *w, *x;
    void *out;                                    /* [rows][n] */
    int32_t n, k, rows, kind;                     /* kind: of the above */
    const float *w_scale = NULL, *x_scale = NULL; /* [n], [rows] */
};

/* False: no memory. */
bool gemm_open(struct cuda *c, const char *gpu);
void gemm_close(struct cuda *c);
void gemm_run(struct cuda *c, const struct gemm_args *a);

#endif
