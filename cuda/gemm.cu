/* gemm - linear layers of many rows by cublasLt: bfloat16 or e4m3 in, float sums.
 *
 * Method. A product of a shape is timed once with each algorithm that the library proposes, from cold caches, at its
 * first use in a process that is not recording a graph; the fastest is kept for all numbers of rows in its bucket
 * (buckets grow by a quarter or a half), and stored (tune.cuh). While a graph is recorded nothing can be timed: a shape
 * that is met first then gets the library's first choice, and is timed when it is met again.
 *
 * Algorithms that split K sum in other orders than those that do not, and which is proposed depends on the number of
 * rows. Where bits may not depend on it (backend_opts.deterministic), a matrix has one order of sums: that of the first
 * algorithm proposed for FIXED_ROWS rows that neither splits K nor reduces in another way. It serves all numbers of
 * rows; another one takes its place for a bucket only when it is faster and its products of noise have the same bits.
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

#include <stdlib.h>
#include <string.h>

#define PLANS    1024
#define PROPOSED 64        /* algorithms that the library is asked for */
#define WORTH    (1 << 20) /* weights that a product has at least to be timed */
#define ROUNDS   4
#define BATCH    4

#define COMPUTE_BOUND 192 /* rows from which reading W does not matter */

#define FIXED_ROWS 2048 /* whatever else is configured: the order of sums is the matrix's own */
#define ALIKE_ROWS 128  /* most rows of noise that two algorithms are compared on */
#define THREADS    256

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
    if (rows <= 8)
        return 8;
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

/* The fastest of r[n]. A product that adds is timed on other memory. False: there is none. */
static bool time_all(struct cuda *c, struct plan *p, const struct gemm_args *a, cublasLtMatmulHeuristicResult_t *r,
                     int n)
{
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

/* -- one order of sums ------------------------------------------------------------------------------------------- */

/* K in one piece, summed in one way. */
static bool is_whole(const cublasLtMatmulAlgo_t *algo)
{
    int32_t split = 0;
    uint32_t reduction = 0;
    size_t got;
    LT(cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split, sizeof split, &got));
    LT(cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction,
                                            &got));
    return split <= 1 && reduction == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The matrix's own; the layouts say `rows` again afterwards. */
static cublasLtMatmulAlgo_t own_algo(struct gemm *g, struct plan *p, int32_t rows)
{
    cublasLtMatmulHeuristicResult_t r[PROPOSED];
    plan_set_rows(p, FIXED_ROWS);
    int n = propose(g, p, r, PROPOSED), i = 0;
    while (i < n && !is_whole(&r[i].algo))
        i++;
    plan_set_rows(p, rows);
    if (i == n || !library_takes(g, p, &r[i].algo))
        cuda_die(__FILE__, __LINE__, "cublasLtMatmulAlgoGetHeuristic",
                 "no algorithm sums in one order for all numbers of rows");
    return r[i].algo;
}

static __device__ inline uint32_t noise_at(size_t i)
{
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 29) * 0xBF58476D1CE4E5B9u;
    return (uint32_t)(x >> 32);
}

/* Both: 256 CTAs, a thread every so many words. Values of either sign and of the magnitudes around 1: two bfloat16, or
 * four e4m3. */
static __global__ void __launch_bounds__(THREADS) noise_kernel(uint32_t *x, size_t n, bool fp8)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        x[i] = fp8 ? (noise_at(i) & 0x9f9f9f9fu) | 0x20202020u : (noise_at(i) & 0x80ff80ffu) | 0x3f003f00u;
}

static __global__ void __launch_bounds__(THREADS)
    differ_kernel(const uint32_t *a, const uint32_t *b, size_t n, int32_t *differ)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.x * THREADS)
        if (a[i] != b[i])
            *differ = 1;
}

/* What algorithms are compared on: noise, and the product of the matrix's own algorithm with it. */
struct alike {
    struct gemm_args args;
    size_t x_bytes, out_bytes;
    uint8_t *memory; /* x, out, out of the other one, scales of x, whether they differ */
    void *out, *other;
    int32_t *differ;
};

/* False: no memory. The layouts say the rows of the comparison from here on. */
static bool alike_begin(struct cuda *c, struct plan *p, const struct gemm_args *a, const cublasLtMatmulAlgo_t *own,
                        struct alike *k)
{
    const bool fp8 = p->key.kind & GEMM_FP8;
    const int32_t rows = a->rows < ALIKE_ROWS ? a->rows : ALIKE_ROWS;
    *k = {};
    k->args = *a;
    k->args.rows = rows;
    k->x_bytes = ((size_t)rows * (size_t)a->k * (fp8 ? 1 : 2) + 255) & ~(size_t)255;
    k->out_bytes = ((size_t)rows * (size_t)a->n * sizeof(float) + 255) & ~(size_t)255;
    k->memory = (uint8_t *)cuda_alloc(c, k->x_bytes + 2 * k->out_bytes + (ALIKE_ROWS + 1) * sizeof(float));
    if (!k->memory)
        return false;
    k->out = k->memory + k->x_bytes;
    k->other = k->memory + k->x_bytes + k->out_bytes;
    float *scale = (float *)(k->memory + k->x_bytes + 2 * k->out_bytes);
    k->differ = (int32_t *)(scale + ALIKE_ROWS);
    noise_kernel<<<256, THREADS, 0, c->stream>>>((uint32_t *)k->memory, k->x_bytes / 4, fp8);
    LAUNCHED();
    CU(cudaMemsetAsync(scale, 0x3f, ALIKE_ROWS * sizeof *scale, c->stream)); /* 0.75 */
    k->args.x = k->memory;
    k->args.x_scale = scale;
    set_scales(p, &k->args);
    plan_set_rows(p, rows);
    LT(multiply(c, p, own, &k->args, k->out));
    return true;
}

static bool is_alike(struct cuda *c, struct plan *p, const cublasLtMatmulAlgo_t *algo, struct alike *k)
{
    int32_t differ = 0;
    if (!library_takes(c->gemm, p, algo))
        return false;
    CU(cudaMemsetAsync(k->other, 0, k->out_bytes, c->stream));
    CU(cudaMemsetAsync(k->differ, 0, sizeof *k->differ, c->stream));
    if (multiply(c, p, algo, &k->args, k->other) != CUBLAS_STATUS_SUCCESS)
        return false;
    differ_kernel<<<256, THREADS, 0, c->stream>>>((uint32_t *)k->out, (uint32_t *)k->other, k->out_bytes / 4,
                                                  k->differ);
    LAUNCHED();
    CU(cudaMemcpyAsync(&differ, k->differ, sizeof differ, cudaMemcpyDeviceToHost, c->stream));
    CU(cudaStreamSynchronize(c->stream));
    return !differ;
}

/* Of r[n] leave those whose products have the bits of the matrix's own algorithm; returns how many. */
static int leave_alike(struct cuda *c, struct plan *p, const struct gemm_args *a, const cublasLtMatmulAlgo_t *own,
                       cublasLtMatmulHeuristicResult_t *r, int n)
{
    struct alike k;
    int left = 0;
    if (alike_begin(c, p, a, own, &k)) {
        for (int i = 0; i < n; i++)
            if (is_whole(&r[i].algo) && is_alike(c, p, &r[i].algo, &k))
                r[left++] = r[i];
        CU(cudaFree(k.memory));
    }
    plan_set_rows(p, a->rows);
    set_scales(p, a);
    return left;
}

static bool is_recording(struct cuda *c)
{
    cudaStreamCaptureStatus status;
    CU(cudaStreamIsCapturing(c->stream, &status));
    return status != cudaStreamCaptureStatusNone;
}

static bool is_worth(const struct gemm_args *a)
{
    return (int64_t)a->n * a->k >= WORTH;
}

/* The matrix's own algorithm, or one that is alike and faster. */
static void choose_fixed(struct cuda *c, struct plan *p, const struct gemm_args *a)
{
    struct gemm *g = c->gemm;
    cublasLtMatmulHeuristicResult_t r[PROPOSED];
    struct tune_key key = p->key;
    const cublasLtMatmulAlgo_t own = own_algo(g, p, a->rows);
    p->algo = own;
    p->timed = !is_worth(a);
    if (p->timed || is_recording(c))
        return;
    p->timed = true;
    key.kind |= GEMM_FIXED;
    if (tune_get(g->tune, &key, &r[0].algo) && leave_alike(c, p, a, &own, r, 1)) {
        p->algo = r[0].algo;
        return;
    }
    int n = leave_alike(c, p, a, &own, r, propose(g, p, r, PROPOSED));
    if (n == 0 || !time_all(c, p, a, r, n))
        return;
    tune_put(g->tune, &key, &p->algo);
    tune_save(g->tune);
}

static void choose(struct cuda *c, struct plan *p, const struct gemm_args *a)
{
    struct gemm *g = c->gemm;
    cublasLtMatmulHeuristicResult_t r[PROPOSED];
    if (tune_get(g->tune, &p->key, &p->algo) && library_takes(g, p, &p->algo)) {
        p->timed = true;
    } else if (is_worth(a) && !is_recording(c) && time_all(c, p, a, r, propose(g, p, r, PROPOSED))) {
        p->timed = true;
        tune_put(g->tune, &p->key, &p->algo);
        tune_save(g->tune);
    } else {
        propose(g, p, r, 1);
        p->algo = r[0].algo;
        p->timed = !is_worth(a);
    }
}

/* For the rows of a. */
static void plan_choose(struct cuda *c, struct plan *p, const struct gemm_args *a)
{
    plan_set_rows(p, a->rows);
    set_scales(p, a);
    if (c->deterministic)
        choose_fixed(c, p, a);
    else
        choose(c, p, a);
}

static struct plan *plan_of(struct cuda *c, const struct gemm_args *a)
{
    struct tune_key key = {a->n, a->k, bucket_of(a->rows), a->kind};
    uint64_t h = 0;
    const int32_t part[] = {key.n, key.k, key.rows, key.kind};
    for (int i = 0; i < 4; i++)
        h = (h ^ (uint32_t)part[i]) * 0x9E3779B97F4A7C15u;
    struct plan *p = &c->gemm->plan[h >> 54];
    static_assert(PLANS == 1 << 10, "the hash's upper bits index the table");
    if (memcmp(&p->key, &key, sizeof key) != 0) {
        plan_free(p);
        plan_make(p, &key);
        plan_choose(c, p, a);
    } else if (!p->timed && !is_recording(c)) {
        plan_choose(c, p, a);
    }
    return p;
}

void gemm_run(struct cuda *c, const struct gemm_args *a)
{
    struct plan *p = plan_of(c, a);
    set_scales(p, a);
    if (p->rows != a->rows) {
        plan_set_rows(p, a->rows);
        if (!library_takes(c->gemm, p, &p->algo))
            plan_choose(c, p, a);
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
