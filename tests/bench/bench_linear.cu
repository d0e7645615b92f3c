/* bench_linear - linear layers on the GPU beside what the card reads (R), copies (C) and the best of cublasLt (G).
 *
 * usage: bench_linear [FILTER [ROWS]]    shapes whose name begins with FILTER ("8b", "1b.o"); with ROWS: the library's
 *                                        best product of so many rows alone, bfloat16 out (G of a prefill)
 *
 * One JSON object a line. All data random; weights are many copies, used in turn, so that none is in L2 when it is
 * read; a figure is the median of graph replays, each with all copies, per product. Every product that is timed is
 * compared before with the library's over the same numbers, its output poisoned. R     the best of four read-only
 * kernels over 8 GiB; C: a copy of 4 GiB, bytes read and written G     the fastest of all algorithms that
 * cublasLtMatmulAlgoGetHeuristic proposes, timed in the same way K8    GEMV of 1 to 8 rows: the four layers of 8B in
 * their order, 8 layers of them, bytes / R over the time K9    16 rows and more: G over the time of ours
 */
#include "cuda/fp8.cuh"
#include "cuda/linear.cuh"

#include <algorithm>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#define ARENA    (8ull << 30)
#define COLD     (320ull << 20) /* bytes of different weights that a figure goes over, at least */
#define MAX_ROWS 8192
#define SAMPLES  7

struct shape {
    const char *name;
    int32_t n, k;
};

static const struct shape shapes[] = {
    {"8b.qkv", 6144, 4096},    {"8b.o", 4096, 4096},   {"8b.gate_up", 28672, 4096}, {"8b.down", 4096, 14336},
    {"8b.head", 128256, 4096}, {"1b.qkv", 3072, 2048}, {"1b.o", 2048, 2048},        {"1b.gate_up", 16384, 2048},
    {"1b.down", 2048, 8192},   {"135m.qkv", 960, 576}, {"135m.o", 576, 576},        {"135m.gate_up", 3072, 576},
    {"135m.down", 576, 1536},
};

#define LAYER_SHAPES 4 /* the first ones: a layer of 8B */

static struct cuda *c;
static uint8_t *arena;     /* weights */
static __nv_bfloat16 *in;  /* [MAX_ROWS][14336] */
static float *out, *right; /* [MAX_ROWS][28672] or [16][128256] */
static float *wrong;       /* one float */
static double rate;        /* R, bytes a second */

/* -- kernels of the bench ---------------------------------------------------------------------------------------- */

static __device__ inline float uniform(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (float)(int32_t)(z >> 32) * 0x1p-31f;
}

static __global__ void fill_kernel(__nv_bfloat16 *to, size_t n, uint64_t seed)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = __float2bfloat16_rn(uniform(i + seed));
}

/* Random e4m3 without NaN: magnitudes below 32. */
static __global__ void fill8_kernel(uint32_t *to, size_t n)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = __float_as_uint(uniform(i)) * 2654435761u & 0xe7e7e7e7u;
}

static __global__ void fill_floats(float *to, size_t n, float low, float high)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        to[i] = low + (high - low) * (0.5f + 0.5f * uniform(i));
}

/* A CTA reads one run, V loads of 16 bytes a thread in flight. */
template <int V> static __global__ void __launch_bounds__(256) read_kernel(const uint4 *p, size_t n, float *sink)
{
    const size_t per = n / gridDim.x;
    const uint4 *run = p + per * blockIdx.x;
    uint32_t sum = 0;
    for (size_t i = threadIdx.x; i < per; i += 256 * V) {
        uint4 v[V];
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = __ldcs(run + i + j * 256);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (sum == 0x12345678)
        *sink = 1;
}

/* wrong = max |a - b| / (|b| + floor), NaN as 1e9. */
static __global__ void compare_kernel(const float *a, const float *b, size_t n, float floor, float *worst)
{
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        float e = fabsf(a[i] - b[i]) / (fabsf(b[i]) + floor);
        atomicMax((int *)worst, __float_as_int(e <= 1e9f ? e : 1e9f));
    }
}

/* -- timing ------------------------------------------------------------------------------------------------------ */

static double median(std::vector<float> t)
{
    std::sort(t.begin(), t.end());
    return (double)t[t.size() / 2] * 1e-3;
}

/* Seconds of `run`, which queues work; recorded in a graph unless it can't be. */
template <class F> static double timed(F run, bool graph = true)
{
    cudaEvent_t a, b;
    cudaGraph_t g;
    cudaGraphExec_t exec = NULL;
    std::vector<float> t;
    CU(cudaEventCreate(&a));
    CU(cudaEventCreate(&b));
    if (graph) {
        CU(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal));
        run();
        CU(cudaStreamEndCapture(c->stream, &g));
        CU(cudaGraphInstantiate(&exec, g, 0));
        CU(cudaGraphDestroy(g));
    }
    for (int i = -2; i < SAMPLES; i++) {
        float ms;
        CU(cudaEventRecord(a, c->stream));
        if (exec)
            CU(cudaGraphLaunch(exec, c->stream));
        else
            run();
        CU(cudaEventRecord(b, c->stream));
        CU(cudaEventSynchronize(b));
        CU(cudaEventElapsedTime(&ms, a, b));
        if (i >= 0)
            t.push_back(ms);
    }
    if (exec)
        CU(cudaGraphExecDestroy(exec));
    CU(cudaEventDestroy(a));
    CU(cudaEventDestroy(b));
    return median(t);
}

static void probes(const char *gpu)
{
    struct {
        double t;
    } best = {1};
    const uint4 *p = (const uint4 *)arena;
    auto see = [&](double t) { best.t = std::min(best.t, t); };
    see(timed([&] { read_kernel<8><<<8192, 256, 0, c->stream>>>(p, ARENA / 16, wrong); }, false));
    see(timed([&] { read_kernel<8><<<32768, 256, 0, c->stream>>>(p, ARENA / 16, wrong); }, false));
    see(timed([&] { read_kernel<4><<<65536, 256, 0, c->stream>>>(p, ARENA / 16, wrong); }, false));
    see(timed([&] { read_kernel<4><<<131072, 256, 0, c->stream>>>(p, ARENA / 16, wrong); }, false));
    rate = (double)ARENA / best.t;
    double copy = timed(
        [&] { CU(cudaMemcpyAsync(arena, arena + ARENA / 2, ARENA / 2, cudaMemcpyDeviceToDevice, c->stream)); }, false);
    printf("{\"probe\": \"R\", \"GBps\": %.0f, \"gpu\": \"%s\"}\n", rate * 1e-9, gpu);
    printf("{\"probe\": \"C\", \"GBps\": %.0f}\n", (double)ARENA / copy * 1e-9);
}

/* -- products ---------------------------------------------------------------------------------------------------- */

static size_t bytes_of(const struct shape *s, bool fp8)
{
    return fp8 ? (size_t)s->n * (size_t)(s->k + 4) : (size_t)s->n * (size_t)s->k * 2;
}

static struct weight weight_at(const struct shape *s, bool fp8, size_t at)
{
    struct weight w = {};
    w.rows = s->n;
    w.cols = s->k;
    w.n_parts = 1;
    w.part[0] = {arena + at, bytes_of(s, fp8), fp8 ? (uint32_t)DT_F8 : (uint32_t)DT_BF16, s->n};
    return w;
}

/* Space between copies of a weight, and how many are used in turn. */
static size_t stride_of(const struct shape *s, bool fp8)
{
    return (bytes_of(s, fp8) + 255) & ~(size_t)255;
}

static int copies_of(const struct shape *s, bool fp8)
{
    size_t n = COLD / stride_of(s, fp8) + 2;
    return (int)std::min<size_t>(n, std::min<size_t>(ARENA / stride_of(s, fp8), 160));
}

static void run(const struct weight *w, int32_t rows, enum linear_out kind)
{
    struct linear_args a = {.x = in, .w = w, .n_rows = rows, .kind = kind, .out = out, .scratch = right};
    linear_run(c, &a);
}

static double time_ours(const struct shape *s, bool fp8, int32_t rows, enum linear_out kind)
{
    struct weight first = weight_at(s, fp8, 0);
    int n = copies_of(s, fp8);
    run(&first, rows, kind); /* the library's algorithm is chosen here */
    return timed([&] {
               for (int i = 0; i < n; i++) {
                   struct weight w = weight_at(s, fp8, (size_t)i * stride_of(s, fp8));
                   run(&w, rows, kind);
               }
           }) /
           n;
}

/* -- the library, every algorithm -------------------------------------------------------------------------------- */

struct product {
    cublasLtHandle_t lt;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulHeuristicResult_t algo[64];
    int n;
    void *workspace;
};

/* Inputs of type `in`, output of type `out`; e4m3 without scales: those of a whole matrix, which the library does
 * fastest. */
static void product_open(struct product *p, const struct shape *s, int32_t rows, cudaDataType_t in, cudaDataType_t out)
{
    cublasOperation_t trans = CUBLAS_OP_T;
    cublasLtMatmulPreference_t pref;
    size_t bytes = GEMM_WORKSPACE;
    LT(cublasLtCreate(&p->lt));
    CU(cudaMalloc(&p->workspace, bytes));
    LT(cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &trans, sizeof trans));
    if (in == CUDA_R_8F_E4M3) {
        int8_t fast = 1;
        LT(cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast));
    }
    LT(cublasLtMatrixLayoutCreate(&p->w, in, (uint64_t)s->k, (uint64_t)s->n, s->k));
    LT(cublasLtMatrixLayoutCreate(&p->x, in, (uint64_t)s->k, (uint64_t)rows, s->k));
    LT(cublasLtMatrixLayoutCreate(&p->out, out, (uint64_t)s->n, (uint64_t)rows, s->n));
    LT(cublasLtMatmulPreferenceCreate(&pref));
    LT(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes));
    LT(cublasLtMatmulAlgoGetHeuristic(p->lt, p->op, p->w, p->x, p->out, p->out, pref, 64, p->algo, &p->n));
    LT(cublasLtMatmulPreferenceDestroy(pref));
}

static void product_run(struct product *p, int algo, const uint8_t *w, float *to)
{
    const float one = 1, zero = 0;
    LT(cublasLtMatmul(p->lt, p->op, &one, w, p->w, in, p->x, &zero, to, p->out, to, p->out, &p->algo[algo].algo,
                      p->workspace, GEMM_WORKSPACE, c->stream));
}

static void product_close(struct product *p)
{
    LT(cublasLtMatrixLayoutDestroy(p->w));
    LT(cublasLtMatrixLayoutDestroy(p->x));
    LT(cublasLtMatrixLayoutDestroy(p->out));
    LT(cublasLtMatmulDescDestroy(p->op));
    CU(cudaFree(p->workspace));
    LT(cublasLtDestroy(p->lt));
}

static double time_product(struct product *p, int algo, const struct shape *s)
{
    int n = copies_of(s, false);
    return timed([&] {
               for (int i = 0; i < n; i++)
                   product_run(p, algo, arena + (size_t)i * stride_of(s, false), out);
           }) /
           n;
}

/* Index of the best; the result over the first weights goes to `right`. */
static int best_of_library(struct product *p, const struct shape *s)
{
    double best = 1e9;
    int at = 0;
    product_run(p, 0, arena, right);
    for (int a = 0; a < p->n; a++) {
        double t = time_product(p, a, s);
        at = t < best ? a : at;
        best = std::min(best, t);
    }
    return at;
}

/* -- checks ------------------------------------------------------------------------------------------------------ */

static float compare(const float *a, const float *b, size_t n, float floor)
{
    float e = 0;
    CU(cudaMemsetAsync(wrong, 0, sizeof *wrong, c->stream));
    compare_kernel<<<512, 256, 0, c->stream>>>(a, b, n, floor, wrong);
    LAUNCHED();
    CU(cudaMemcpyAsync(&e, wrong, sizeof e, cudaMemcpyDeviceToHost, c->stream));
    CU(cudaStreamSynchronize(c->stream));
    return e;
}

/* Against the library's result in `right`: sums of K products of uniform numbers in another order. */
static float check(const struct shape *s, int32_t rows)
{
    struct weight w = weight_at(s, false, 0);
    CU(cudaMemsetAsync(out, 0xff, (size_t)rows * (size_t)s->n * sizeof *out, c->stream));
    run(&w, rows, LINEAR_F32);
    return compare(out, right, (size_t)rows * (size_t)s->n, sqrtf((float)s->k));
}

/* -- rows of the table ------------------------------------------------------------------------------------------- */

static void bench_shape(const struct shape *s, int32_t rows)
{
    struct product p;
    double g = 1e9, t = 1e9, bytes = (double)bytes_of(s, false);
    product_open(&p, s, rows, CUDA_R_16BF, CUDA_R_32F);
    int best = best_of_library(&p, s);
    float e = check(s, rows);
    for (int i = 0; i < 3; i++) { /* by turns: a hot card is slower */
        t = std::min(t, time_ours(s, false, rows, LINEAR_F32));
        g = std::min(g, time_product(&p, best, s));
    }
    product_close(&p);
    printf("{\"figure\": \"%s\", \"shape\": \"%s\", \"type\": \"bf16\", \"rows\": %d, \"us\": %.2f, \"GBps\": %.0f, "
           "\"TFLOPs\": %.0f, \"of_R\": %.3f, \"G_us\": %.2f, \"of_G\": %.3f, \"gate\": %s, \"error\": %.1e%s}\n",
           rows >= 16 ? "K9" : "K8", s->name, rows, t * 1e6, bytes / t * 1e-9, 2e-12 * rows * (double)s->n * s->k / t,
           bytes / rate / t, g * 1e6, g / t, rows >= 16 ? "0.98" : "null", (double)e,
           e > 1e-4f ? ", \"WRONG\": true" : "");
    fflush(stdout);
}

/* The best of the library with the output in bfloat16, under a load that lasts: the first look over all algorithms. */
static void bench_library(const struct shape *s, bool fp8, int32_t rows)
{
    struct product p;
    double g = 1e9;
    product_open(&p, s, rows, fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF, CUDA_R_16BF);
    int best = best_of_library(&p, s);
    for (int i = 0; i < 3; i++)
        g = std::min(g, time_product(&p, best, s));
    printf("{\"figure\": \"G\", \"shape\": \"%s\", \"type\": \"%s\", \"rows\": %d, \"algorithms\": %d, \"us\": %.2f, "
           "\"TFLOPs\": %.1f}\n",
           s->name, fp8 ? "e4m3" : "bf16", rows, p.n, g * 1e6, 2e-12 * rows * (double)s->n * s->k / g);
    product_close(&p);
    fflush(stdout);
}

static void bench_fp8(const struct shape *s, int32_t rows)
{
    double t = time_ours(s, true, rows, LINEAR_F32), bytes = (double)bytes_of(s, true);
    printf("{\"shape\": \"%s\", \"type\": \"e4m3\", \"rows\": %d, \"us\": %.2f, \"GBps\": %.0f, \"TFLOPs\": %.0f, "
           "\"of_R\": %.3f}\n",
           s->name, rows, t * 1e6, bytes / t * 1e-9, 2e-12 * rows * (double)s->n * s->k / t, bytes / rate / t);
    fflush(stdout);
}

/* Layers of 8B one after the other, as a decode step meets them. */
static void bench_layers(bool fp8, int32_t rows)
{
    const int layers = 8;
    double bytes = 0, t = timed([&] {
                              size_t at = 0;
                              for (int l = 0; l < layers; l++)
                                  for (int i = 0; i < LAYER_SHAPES; i++) {
                                      struct weight w = weight_at(&shapes[i], fp8, at);
                                      run(&w, rows, i == 0 ? LINEAR_F32 : i == 2 ? LINEAR_SILU : LINEAR_ADD);
                                      at += stride_of(&shapes[i], fp8);
                                  }
                          }) /
                          layers;
    for (int i = 0; i < LAYER_SHAPES; i++)
        bytes += (double)bytes_of(&shapes[i], fp8);
    printf("{\"figure\": \"K8\", \"shape\": \"layer of 8b\", \"type\": \"%s\", \"rows\": %d, \"us\": %.2f, "
           "\"GBps\": %.0f, \"of_R\": %.3f, \"gate\": 0.85, \"stretch\": 0.93}\n",
           fp8 ? "e4m3" : "bf16", rows, t * 1e6, bytes / t * 1e-9, bytes / rate / t);
    fflush(stdout);
}

/* -- open -------------------------------------------------------------------------------------------------------- */

static int open_all(void)
{
    struct backend *be;
    struct err e = {};
    struct backend_opts o = {};
    o.max_rows = MAX_ROWS;
    o.max_seqs = 256;
    o.max_cols = 14336;
    if (hearth_backend_cuda.open(&be, &o, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    c = cuda_of(be);
    arena = (uint8_t *)cuda_alloc(c, ARENA);
    in = (__nv_bfloat16 *)cuda_alloc(c, (size_t)MAX_ROWS * 14336 * 2);
    out = (float *)cuda_alloc(c, (size_t)MAX_ROWS * 28672 * 4);
    right = (float *)cuda_alloc(c, (size_t)MAX_ROWS * 28672 * 4);
    wrong = (float *)cuda_alloc(c, sizeof *wrong);
    if (!arena || !in || !out || !right || !wrong || !fp8_open(c)) {
        fprintf(stderr, "bench_linear: not enough memory on the GPU\n");
        return 1;
    }
    fill_kernel<<<2048, 256, 0, c->stream>>>((__nv_bfloat16 *)arena, ARENA / 2, 1);
    fill_kernel<<<2048, 256, 0, c->stream>>>(in, (size_t)MAX_ROWS * 14336, ARENA);
    LAUNCHED();
    return 0;
}

/* e4m3 everywhere, but for the scales behind each copy of each shape: those are set when the shape is timed. */
static void to_fp8(const struct shape *s)
{
    fill8_kernel<<<2048, 256, 0, c->stream>>>((uint32_t *)arena, ARENA / 4);
    for (int i = 0; s && i < copies_of(s, true); i++)
        fill_floats<<<64, 256, 0, c->stream>>>(
            (float *)(arena + (size_t)i * stride_of(s, true) + (size_t)s->n * (size_t)s->k), (size_t)s->n, 0.001f,
            0.02f);
    LAUNCHED();
}

static void bench_libraries(const char *filter, int32_t rows)
{
    for (bool fp8 : {false, true}) {
        if (fp8 && 10 * c->major + c->minor < 89)
            return;
        if (fp8) {
            to_fp8(NULL);
            fill8_kernel<<<2048, 256, 0, c->stream>>>((uint32_t *)in, (size_t)MAX_ROWS * 14336 / 2);
            LAUNCHED();
        }
        for (const struct shape &s : shapes)
            if (!strncmp(s.name, filter, strlen(filter)) && s.n < 100000)
                bench_library(&s, fp8, rows);
    }
}

int main(int argc, char **argv)
{
    const char *filter = argc > 1 ? argv[1] : "";
    int32_t only = argc > 2 ? atoi(argv[2]) : 0;
    if (only < 0 || only > MAX_ROWS) {
        fprintf(stderr, "bench_linear: %s rows: must be 1 to %d\n", argv[2], MAX_ROWS);
        return 2;
    }
    if (open_all())
        return 1;
    if (only) {
        bench_libraries(filter, only);
        return 0;
    }
    probes(hearth_backend_cuda.describe((struct backend *)(void *)c));
    fill_kernel<<<2048, 256, 0, c->stream>>>((__nv_bfloat16 *)arena, ARENA / 2, 1);
    for (int32_t rows : {1, 2, 4, 8})
        bench_layers(false, rows);
    for (const struct shape &s : shapes)
        if (!strncmp(s.name, filter, strlen(filter)))
            for (int32_t rows : {1, 8, 16, 32, 64, 128, 256, 512, 2048})
                if (rows <= 64 || s.n < 100000)
                    bench_shape(&s, rows);
    if (10 * c->major + c->minor < 89)
        return 0;
    to_fp8(NULL);
    for (int32_t rows : {1, 2, 4, 8})
        bench_layers(true, rows);
    for (const struct shape &s : shapes)
        if (!strncmp(s.name, filter, strlen(filter)) && s.n < 100000) {
            to_fp8(&s);
            for (int32_t rows : {1, 8, 16, 32, 64, 256, 2048})
                bench_fp8(&s, rows);
        }
    return 0;
}
