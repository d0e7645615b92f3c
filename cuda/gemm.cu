/* gemm - linear layers of many rows by cublasLt: bfloat16 or e4m3 in, float sums.
 *
 * Method. A product of a shape is timed once with each algorithm that the library proposes, from cold caches, at its
 * first use in a process that is not recording a graph; the fastest is kept for all numbers of rows in its bucket
 * (buckets grow by a quarter or a half), and stored (tune.cuh). While a graph is recorded nothing can be timed: a shape
 * that is met first then gets the library's first choice, and is timed when it is met again.
 *
 * The library may sum in another order for another number of rows. Where bits may not depend on it
 * (backend_opts.deterministic), one algorithm serves all numbers of rows of a matrix: the first that neither splits K
 * nor reduces in another way.
 *
 * e4m3: rows of x are quantised with a scale each (fp8.cu); the library multiplies by both scales.
 *
 * Cost: 2 T N K flops on the tensor cores; W once for few rows.
 */
#include "cuda/fp8.cuh"
#include "cuda/linear.cuh"
#include "cuda/tune.cuh"

extern "C" {
#include "engine/base/log.h"
}

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PLANS    1024
#define PROPOSED 64        /* algorithms that the library is asked for */
#define WORTH    (1 << 20) /* weights that a product has at least to be timed */
#define ROUNDS   4
#define BATCH    4

#define COMPUTE_BOUND 192 /* rows from which reading W does not matter */

struct plan {
    struct tune_key key; /* n = 0: empty */
    bool timed;          /* or read from the file, or fixed */
    int32_t rows;        /* that the layouts say, and that the algorithm was checked for */
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
};

struct gemm {
    cublasLtHandle_t lt;
    void *workspace;
    struct tune *tune;
    cudaEvent_t begin, end;
    struct plan plan[PLANS]; /* by hash */
};

/* The bucket of a number of rows: its largest. */
static int32_t bucket_of(int32_t rows)
{
    int32_t step = 16;
    while (4 * step < rows)
        step *= 2;
    return (rows + step - 1) / step * step;
}

/* -- plans ------------------------------------------------------------------------------------------------------- */

static void plan_free(struct plan *p)
{
    if (!p->key.n)
        return;
    LT(cublasLtMatrixLayoutDestroy(p->w));
    LT(cublasLtMatrixLayoutDestroy(p->x));
    LT(cublasLtMatrixLayoutDestroy(p->out));
    LT(cublasLtMatmulDescDestroy(p->op));
    *p = {};
}

static void set(cublasLtMatmulDesc_t op, cublasLtMatmulDescAttributes_t what, int32_t value)
{
    LT(cublasLtMatmulDescSetAttribute(op, what, &value, sizeof value));
}

/* To cublasLt, whose matrices are column-major, W is K x N and taken transposed, x is K x T, out is N x T. */
static void plan_make(struct plan *p, const struct tune_key *key)
{
    bool fp8 = key->kind & GEMM_FP8;
    cudaDataType_t in = fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF, out = key->kind & GEMM_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    *p = {};
    p->key = *key;
    LT(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set(p->op, CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (fp8) {
        int8_t fast = 1; /* sums of the tensor cores are kept in fewer bits: nothing beside the 3 of e4m3 */
        LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast));
        set(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
        set(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    }
    LT(cublasLtMatrixLayoutCreate(&p->w, in, (uint64_t)key->k, (uint64_t)key->n, key->k));
    LT(cublasLtMatrixLayoutCreate(&p->x, in, (uint64_t)key->k, 1, key->k));
    LT(cublasLtMatrixLayoutCreate(&p->out, out, (uint64_t)key->n, 1, key->n));
}

static void plan_set_rows(struct plan *p, int32_t rows)
{
    uint64_t cols = (uint64_t)rows;
    p->rows = rows;
    LT(cublasLtMatrixLayoutSetAttribute(p->x, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols));
    LT(cublasLtMatrixLayoutSetAttribute(p->out, CUBLASLT_MATRIX_LAYOUT_COLS, &cols, sizeof cols));
}

static int propose(struct gemm *g, struct plan *p, cublasLtMatmulHeuristicResult_t *out, int most)
{
    cublasLtMatmulPreference_t pref;
    size_t workspace = GEMM_WORKSPACE;
    int found = 0;
    LT(cublasLtMatmulPreferenceCreate(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                            sizeof workspace));
    LT(cublasLtMatmulAlgoGetHeuristic(g->lt, p->op, p->w, p->x, p->out, p->out, pref, most, out, &found));
    LT(cublasLtMatmulPreferenceDestroy(pref));
    if (!found)
        cuda_die(__FILE__, __LINE__, "cublasLtMatmulAlgoGetHeuristic", "no algorithm for the shape");
    return found;
}

static bool library_takes(struct gemm *g, const struct plan *p, const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t r;
    return cublasLtMatmulAlgoCheck(g->lt, p->op, p->w, p->x, p->out, p->out, algo, &r) == CUBLAS_STATUS_SUCCESS &&
           r.workspaceSize <= GEMM_WORKSPACE;
}

/* The library wants to know of the scales before it proposes anything. */
static void set_scales(struct plan *p, const struct gemm_args *a)
{
    if (!(p->key.kind & GEMM_FP8))
        return;
    LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &a->w_scale, sizeof(void *)));
    LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a->x_scale, sizeof(void *)));
}

static cublasStatus_t multiply(struct cuda *c, const struct plan *p, const cublasLtMatmulAlgo_t *algo,
                               const struct gemm_args *a, void *out)
{
    const float one = 1, beta = p->key.kind & GEMM_ADD ? 1 : 0;
    return cublasLtMatmul(c->gemm->lt, p->op, &one, a->w, p->w, a->x, p->x, &beta, out, p->out, out, p->out, algo,
                          c->gemm->workspace, GEMM_WORKSPACE, c->stream);
}

/* -- which algorithm --------------------------------------------------------------------------------------------- */

/* Milliseconds of n products and, where W is what takes time, as many clearings of the cache between them. INFINITY
 * when the algorithm does not run. */
static float time_algo(struct cuda *c, struct plan *p, const cublasLtMatmulAlgo_t *algo, const struct gemm_args *a,
                       void *out, int n)
{
    struct gemm *g = c->gemm;
    float ms;
    CU(cudaEventRecord(g->begin, c->stream));
    for (int i = 0; i < n; i++) {
        if (a->rows < COMPUTE_BOUND)
            CU(cudaMemsetAsync(g->workspace, 0, GEMM_WORKSPACE, c->stream));
        if (multiply(c, p, algo, a, out) != CUBLAS_STATUS_SUCCESS)
            return INFINITY;
    }
    CU(cudaEventRecord(g->end, c->stream));
    CU(cudaEventSynchronize(g->end));
    CU(cudaEventElapsedTime(&ms, g->begin, g->end));
    return ms;
}

/* Index of the fastest; all of them in turn a few times, since the card gets slower as it gets hot. */
static int fastest(struct cuda *c, struct plan *p, const cublasLtMatmulHeuristicResult_t *r, int n,
                   const struct gemm_args *a, void *out)
{
    float best[PROPOSED];
    int first = 0;
    for (int i = 0; i < n; i++) /* to warm up; what does not run stays at INFINITY */
        best[i] = time_algo(c, p, &r[i].algo, a, out, 1) < INFINITY ? 1e9f : INFINITY;
    for (int k = 0; k < ROUNDS; k++)
        for (int i = 0; i < n; i++)
            if (best[i] < INFINITY)
                best[i] = fminf(best[i], time_algo(c, p, &r[i].algo, a, out, BATCH));
    for (int i = 1; i < n; i++)
        if (best[i] < best[first])
            first = i;
    log_debug("gemm timed", "n=%d k=%d rows=%d kind=%d algorithms=%d best=%d ms=%.4f", p->key.n, p->key.k, a->rows,
              p->key.kind, n, first, (double)best[first] / BATCH);
    return first;
}

/* A product that adds is timed on other memory. False: there is none. */
static bool time_all(struct cuda *c, struct plan *p, const struct gemm_args *a)
{
    cublasLtMatmulHeuristicResult_t r[PROPOSED];
    int n = propose(c->gemm, p, r, PROPOSED);
    void *out = a->out;
    if (p->key.kind & GEMM_ADD && cudaMalloc(&out, (size_t)a->rows * (size_t)a->n * sizeof(float)) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    p->algo = r[fastest(c, p, r, n, a, out)].algo;
    if (out != a->out)
        CU(cudaFree(out));
    return true;
}

/* For all numbers of rows: K in one piece, summed in one way. */
static void fix_algo(struct gemm *g, struct plan *p)
{
    cublasLtMatmulHeuristicResult_t r[PROPOSED];
    int n = propose(g, p, r, PROPOSED);
    for (int i = 0; i < n; i++) {
        uint32_t split = 0, reduction = 0;
        size_t got;
        LT(cublasLtMatmulAlgoConfigGetAttribute(&r[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split,
                                                &got));
        LT(cublasLtMatmulAlgoConfigGetAttribute(&r[i].algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                                sizeof reduction, &got));
        if (split <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE) {
            p->algo = r[i].algo;
            return;
        }
    }
    cuda_die(__FILE__, __LINE__, "cublasLtMatmulAlgoGetHeuristic", "no deterministic algorithm for the shape");
}

static bool is_recording(struct cuda *c)
{
    cudaStreamCaptureStatus status;
    CU(cudaStreamIsCapturing(c->stream, &status));
    return status != cudaStreamCaptureStatusNone;
}

static void choose(struct cuda *c, struct plan *p, const struct gemm_args *a)
{
    struct gemm *g = c->gemm;
    cublasLtMatmulHeuristicResult_t first;
    set_scales(p, a);
    if (c->deterministic) {
        fix_algo(g, p);
        p->timed = true;
    } else if (tune_get(g->tune, &p->key, &p->algo) && library_takes(g, p, &p->algo)) {
        p->timed = true;
    } else if ((int64_t)a->n * a->k >= WORTH && !is_recording(c) && time_all(c, p, a)) {
        p->timed = true;
        tune_put(g->tune, &p->key, &p->algo);
        tune_save(g->tune);
    } else {
        propose(g, p, &first, 1);
        p->algo = first.algo;
        p->timed = (int64_t)a->n * a->k < WORTH;
    }
}

static struct plan *plan_of(struct cuda *c, const struct gemm_args *a)
{
    struct tune_key key = {a->n, a->k, c->deterministic ? c->max_rows : bucket_of(a->rows), a->kind};
    uint64_t h = 0;
    const int32_t part[] = {key.n, key.k, key.rows, key.kind};
    for (int i = 0; i < 4; i++)
        h = (h ^ (uint32_t)part[i]) * 0x9E3779B97F4A7C15u;
    struct plan *p = &c->gemm->plan[h >> 54];
    static_assert(PLANS == 1 << 10, "the hash's upper bits index the table");
    if (memcmp(&p->key, &key, sizeof key) != 0) {
        plan_free(p);
        plan_make(p, &key);
        plan_set_rows(p, c->deterministic ? c->max_rows : a->rows);
        choose(c, p, a);
    } else if (!p->timed && !is_recording(c)) {
        plan_set_rows(p, a->rows);
        choose(c, p, a);
    }
    return p;
}

void gemm_run(struct cuda *c, const struct gemm_args *a)
{
    struct plan *p = plan_of(c, a);
    set_scales(p, a);
    if (p->rows != a->rows) {
        plan_set_rows(p, a->rows);
        if (!library_takes(c->gemm, p, &p->algo)) {
            assert(!c->deterministic);
            choose(c, p, a);
        }
    }
    LT(multiply(c, p, &p->algo, a, a->out));
}

/* -- open and close ---------------------------------------------------------------------------------------------- */

bool gemm_open(struct cuda *c, const char *gpu)
{
    struct gemm *g = (struct gemm *)calloc(1, sizeof *g);
    if (!g)
        return false;
    c->gemm = g;
    LT(cublasLtCreate(&g->lt));
    CU(cudaEventCreate(&g->begin));
    CU(cudaEventCreate(&g->end));
    g->workspace = cuda_alloc(c, GEMM_WORKSPACE);
    g->tune = tune_open(gpu);
    return g->workspace && g->tune;
}

void gemm_close(struct cuda *c)
{
    struct gemm *g = c->gemm;
    if (!g)
        return;
    for (int i = 0; i < PLANS; i++)
        plan_free(&g->plan[i]);
    tune_close(g->tune);
    CU(cudaEventDestroy(g->begin));
    CU(cudaEventDestroy(g->end));
    CU(cudaFree(g->workspace));
    LT(cublasLtDestroy(g->lt));
    free(g);
    c->gemm = NULL;
}
