/* linear - the linear layers of the model: which way a product goes, and what gemm.cu leaves to be done after it.
 *
 * Up to GEMV_ROWS rows go to gemv.cu, which reads W at the speed of the memory; more go to cublasLt (gemm.cu). In
 * deterministic mode all go to the library, with one order of sums a matrix.
 *
 * Gate and up: few rows in one kernel with SwiGLU at its end; many as a product in bfloat16, then SwiGLU over it.
 */
#include "cuda/early.cuh"
#include "cuda/fp8.cuh"
#include "cuda/linear.cuh"

#include <assert.h>

#define THREADS 256

/* -- SwiGLU over a product in bfloat16 --------------------------------------------------------------------------- */

static __device__ inline uint32_t silu_pair(uint32_t gate, uint32_t up)
{
    float g0 = __uint_as_float(gate << 16), g1 = __uint_as_float(gate & 0xffff0000u);
    float u0 = __uint_as_float(up << 16), u1 = __uint_as_float(up & 0xffff0000u);
    __nv_bfloat162 v = __floats2bfloat162_rn(g0 / (1.0f + __expf(-g0)) * u0, g1 / (1.0f + __expf(-g1)) * u1);
    return *(const uint32_t *)&v;
}

/* Grid: runs of columns x rows; a thread owns 8 columns of one row: out[T][F] of gu[T][2F], here in eights. */
static __global__ void silu_kernel(uint4 *out, const uint4 *gu, int32_t eights)
{
    early_next();
    early_wait();
    int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i >= eights)
        return;
    const uint4 *row = gu + (size_t)blockIdx.y * 2 * eights, g = row[i], u = row[eights + i];
    out[(size_t)blockIdx.y * eights + i] = make_uint4(silu_pair(g.x, u.x), silu_pair(g.y, u.y), silu_pair(g.z, u.z),
                                                      silu_pair(g.w, u.w));
}

/* -- many rows --------------------------------------------------------------------------------------------------- */

static void multiply(struct cuda *c, const struct linear_args *a, void *out, int32_t kind)
{
    const struct weight *w = a->w;
    struct gemm_args g = {.w = w->part[0].data,
                          .x = a->x,
                          .out = out,
                          .n = w->rows,
                          .k = cuda_pad(w->cols),
                          .rows = a->n_rows,
                          .kind = kind};
    if (fp8_is(w)) {
        fp8_quantise(c->stream, c->x8, c->x8_scale, a->x, a->n_rows, w->cols);
        g.x = c->x8;
        g.w_scale = fp8_scales(w);
        g.x_scale = c->x8_scale;
        g.kind |= GEMM_FP8;
    }
    gemm_run(c, &g);
}

static void many_rows(struct cuda *c, const struct linear_args *a)
{
    int32_t f = a->w->rows / 2;
    assert(!a->norm.squares && !a->next.w);
    if (a->kind == LINEAR_F32) {
        multiply(c, a, a->out, 0);
    } else if (a->kind == LINEAR_ADD) {
        multiply(c, a, a->out, GEMM_ADD);
    } else if (f % 8 == 0 && a->n_rows <= 65535) {
        multiply(c, a, a->scratch, GEMM_BF16);
        dim3 grid((unsigned)(f / 8 + THREADS - 1) / THREADS, (unsigned)a->n_rows);
        launch_early(c, silu_kernel, grid, THREADS, (uint4 *)a->out, (const uint4 *)a->scratch, f / 8);
    } else {
        multiply(c, a, a->scratch, 0);
        cuda_silu_mul((struct backend *)(void *)c, a->out, (const float *)a->scratch, a->n_rows, f);
    }
}

/* -- ops --------------------------------------------------------------------------------------------------------- */

bool linear_is_gemv(const struct cuda *c, int32_t n_rows)
{
    return n_rows <= GEMV_ROWS && !c->deterministic;
}

void linear_run(struct cuda *c, const struct linear_args *a)
{
    assert(a->n_rows > 0 && a->n_rows <= c->max_rows && a->w->cols <= c->max_cols);
    if (linear_is_gemv(c, a->n_rows))
        gemv_run(c, a);
    else
        many_rows(c, a);
}

void cuda_linear(struct backend *be, float *out, const void *x, const struct weight *w, int32_t n_rows)
{
    struct linear_args a = {.x = (const __nv_bfloat16 *)x, .w = w, .n_rows = n_rows, .kind = LINEAR_F32, .out = out};
    linear_run(cuda_of(be), &a);
}

void cuda_linear_silu(struct backend *be, void *out, float *gu, const void *x, const struct weight *w, int32_t n_rows)
{
    struct linear_args a = {
        .x = (const __nv_bfloat16 *)x, .w = w, .n_rows = n_rows, .kind = LINEAR_SILU, .out = out, .scratch = gu};
    linear_run(cuda_of(be), &a);
}
