/* linear - out[T][N] = x[T][K] * W[N][K]^T by cublasLt: bfloat16 in, float sums and float out.
 *
 * Method: one product over all parts of the weight, which lie one after the other; x comes as input rows. The library's
 * first choice for a shape is kept. It may sum in another order for another T, so a row's bits depend on T here.
 *
 * Cost: W once (2 N K bytes) for few rows; 2 T N K flops on the tensor cores for many.
 */
#include "cuda/cuda.cuh"

#include <assert.h>

static void plan_free(struct plan *p)
{
    if (!p->rows)
        return;
    LT(cublasLtMatrixLayoutDestroy(p->w));
    LT(cublasLtMatrixLayoutDestroy(p->x));
    LT(cublasLtMatrixLayoutDestroy(p->out));
    LT(cublasLtMatmulDescDestroy(p->op));
    *p = {};
}

/* To cublasLt, whose matrices are column-major, W is K x N and taken transposed, x is K x T, out is N x T. */
static void plan_make(struct cuda *c, struct plan *p, int32_t n, int32_t k, int32_t rows)
{
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t best = {};
    size_t workspace = LT_WORKSPACE;
    int found = 0;
    *p = {};
    p->n = n;
    p->k = k;
    p->rows = rows;
    LT(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans));
    LT(cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, (uint64_t)k, (uint64_t)n, k));
    LT(cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, (uint64_t)k, (uint64_t)rows, k));
    LT(cublasLtMatrixLayoutCreate(&p->out, CUDA_R_32F, (uint64_t)n, (uint64_t)rows, n));
    LT(cublasLtMatmulPreferenceCreate(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                            sizeof workspace));
    LT(cublasLtMatmulAlgoGetHeuristic(c->lt, p->op, p->w, p->x, p->out, p->out, pref, 1, &best, &found));
    LT(cublasLtMatmulPreferenceDestroy(pref));
    if (!found)
        cuda_die(__FILE__, __LINE__, "cublasLtMatmulAlgoGetHeuristic", "no algorithm for the shape");
    p->algo = best.algo;
}

static struct plan *plan_of(struct cuda *c, int32_t n, int32_t k, int32_t rows)
{
    uint64_t h = ((uint64_t)(uint32_t)n << 32 ^ (uint64_t)(uint32_t)k << 16 ^ (uint32_t)rows) * 0x9E3779B97F4A7C15u;
    struct plan *p = &c->plan[h >> 54];
    static_assert(PLANS == 1 << 10, "the hash's upper bits index the table");
    if (p->n != n || p->k != k || p->rows != rows) {
        plan_free(p);
        plan_make(c, p, n, k, rows);
    }
    return p;
}

void cuda_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows)
{
    struct cuda *c = cuda_of(be);
    const float one = 1, zero = 0;
    int32_t k = cuda_pad(w->cols);
    assert(n_rows > 0 && n_rows <= c->max_rows && w->cols <= c->max_cols);
    struct plan *p = plan_of(c, w->rows, k, n_rows);
    LT(cublasLtMatmul(c->lt, p->op, &one, w->part[0].data, p->w, x, p->x, &zero, out, p->out, out, p->out, &p->algo,
                      c->workspace, LT_WORKSPACE, c->stream));
}

void linear_close(struct cuda *c)
{
    for (int i = 0; i < PLANS; i++)
        plan_free(&c->plan[i]);
}
