/* gemv - linear layers of 1 to 16 rows: each weight is read once, at the speed of the memory.
 *
 * Method. A CTA of NW warps owns a tile of 8 RG rows of W and all of K; its warps take turns along K, and their sums
 * meet in shared memory in the order of the warps. W is the right operand of mma.m16n8k16 (8 rows of W are its
 * columns), x the left one, of which 8 or 16 rows are used. A sum does not care in which order k comes: lane (g, t)
 * takes 16 consecutive bytes of W row g, which are what two products (bfloat16) or four (e4m3) need, and the same
 * columns of x row g. So all loads are 16 bytes wide and nothing is shuffled. Two buffers of U steps are in registers:
 * one on its way while the other is multiplied.
 *
 * e4m3 weights become half (exact), and with them x / 16, so that x up to 2^20 fits; 16 and the row's scale come back
 * at the end.
 *
 * Overlap. The grid is launched while the one in front still runs: it asks for the first two buffers of W, brings the
 * head of its rows into L2, and only then waits for that grid's results. So the memory has work while small kernels
 * run.
 *
 * Bits. An element depends on its row of x and on the tiling, and that on (N, K, type) alone: a row has the same bits
 * alone and among 16.
 *
 * Cost: W once; x once a tile, from L1 or L2: 1 / RG of the weights' traffic at 8 rows.
 */
#include "cuda/fp8.cuh"
#include "cuda/linear.cuh"

#include <assert.h>
#include <cuda_fp16.h>

#define X_SCALE 16

struct gemv_args {
    const uint8_t *w;   /* [n][k] */
    const float *scale; /* [n], e4m3 alone */
    const __nv_bfloat16 *x;
    void *out;
    struct linear_norm norm;
    struct linear_next next;
    enum linear_out kind;
    int32_t n, k, rows;
    int32_t stride; /* columns of a row of out */
};

/* -- one lane's loads and products ------------------------------------------------------------------------------- */

/* 16 bytes of weights: read once, so not into L1, and with their neighbours into L2. Not as ld.global.nc: the assembler
 * would move such loads behind the wait for the grid in front. */
static __device__ inline uint4 load_weights(const uint8_t *p)
{
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

static __device__ inline uint4 load_x(const __nv_bfloat16 *p)
{
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* c[16][8] += a[16][16] b[16][8]. */
template <bool half>
static __device__ inline void mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                  uint32_t b1)
{
    if constexpr (half)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* Two e4m3 as two halves. */
static __device__ inline uint32_t half2_of_e4m3(uint32_t two)
{
    uint32_t h = 0;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"((uint16_t)two));
#endif
    return h;
}

/* Two bfloat16 as two halves, divided by X_SCALE. */
static __device__ inline uint32_t half2_of_bf16(uint32_t two)
{
    __half2 h = __floats2half2_rn(__uint_as_float(two << 16) * (1.0f / X_SCALE),
                                  __uint_as_float(two & 0xffff0000u) * (1.0f / X_SCALE));
    return *(const uint32_t *)&h;
}

static __device__ inline void wait_for_grid_before(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ inline void let_next_grid_start(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* What a lane holds of one buffer: U steps of RG groups of 8 rows of W, and of XH groups of 8 rows of x. */
template <int RG, int U, int XH, bool F8> struct buffer {
    static constexpr int wide = F8 ? 16 : 8; /* elements of W in 16 bytes */
    static constexpr int step = 4 * wide, xn = wide / 8;
    uint4 w[U][RG], x[U][XH][xn];

    __device__ inline void get_w(const uint8_t *const row[RG], int32_t k, int32_t k_end)
    {
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int i = 0; i < RG; i++)
                w[u][i] = k + u * step < k_end ? load_weights(row[i] + (size_t)(k + u * step) * (F8 ? 1 : 2)) : uint4{};
    }

    __device__ inline void get_x(const __nv_bfloat16 *from, int32_t row, int32_t rows, int32_t k, int32_t k_end)
    {
#pragma unroll
        for (int u = 0; u < U; u++)
#pragma unroll
            for (int h = 0; h < XH; h++)
#pragma unroll
                for (int j = 0; j < xn; j++)
                    x[u][h][j] = k + u * step < k_end && row + 8 * h < rows
                                     ? load_x(from + (size_t)(row + 8 * h) * k_end + k + u * step + 8 * j)
                                     : uint4{};
    }

    __device__ inline void multiply(float sum[RG][4]) const
    {
#pragma unroll
        for (int u = 0; u < U; u++) {
            uint32_t a[2][4 * xn] = {};
#pragma unroll
            for (int h = 0; h < XH; h++)
#pragma unroll
                for (int j = 0; j < xn; j++) {
                    const uint4 v = x[u][h][j];
                    a[h][4 * j] = F8 ? half2_of_bf16(v.x) : v.x;
                    a[h][4 * j + 1] = F8 ? half2_of_bf16(v.y) : v.y;
                    a[h][4 * j + 2] = F8 ? half2_of_bf16(v.z) : v.z;
                    a[h][4 * j + 3] = F8 ? half2_of_bf16(v.w) : v.w;
                }
#pragma unroll
            for (int i = 0; i < RG; i++) {
                const uint32_t v[4] = {w[u][i].x, w[u][i].y, w[u][i].z, w[u][i].w};
#pragma unroll
                for (int j = 0; j < 2 * xn; j++)
                    mma<F8>(sum[i], a[0][2 * j], a[1][2 * j], a[0][2 * j + 1], a[1][2 * j + 1],
                            F8 ? half2_of_e4m3(v[j] & 0xffff) : v[2 * j % 4],
                            F8 ? half2_of_e4m3(v[j] >> 16) : v[(2 * j + 1) % 4]);
            }
        }
    }
};

/* -- the ending -------------------------------------------------------------------------------------------------- */

/* Row of W that row j of the tile is: gate and up rows in groups of 8 by turns for LINEAR_SILU. Behind the last: it. */
static __device__ inline int32_t row_of(const struct gemv_args &a, int32_t tile, int32_t j)
{
    if (a.kind != LINEAR_SILU)
        return min((int32_t)blockIdx.x * tile + j, a.n - 1);
    int32_t f = min((int32_t)blockIdx.x * tile / 2 + j / 16 * 8 + j % 8, a.n / 2 - 1);
    return j / 8 % 2 ? a.n / 2 + f : f;
}

/* 1 / rms of the rows of x, into shared memory; a warp a row. */
static __device__ void row_scales(const struct linear_norm &norm, int32_t rows, float *scale)
{
    for (int32_t m = threadIdx.x / 32; m < rows; m += blockDim.x / 32) {
        float sum = 0;
        for (int32_t i = threadIdx.x % 32; i < norm.n; i += 32)
            sum += norm.squares[(size_t)m * norm.n + i];
        for (int k = 16; k; k /= 2)
            sum += __shfl_xor_sync(~0u, sum, k);
        if (threadIdx.x % 32 == 0)
            scale[m] = 1.0f / sqrtf(sum / (float)norm.width + norm.eps);
    }
}

/* Sums of all warps, of row j of the tile for row m of x. */
template <int NW, int M, int TILE> static __device__ inline float total(const float (*part)[M][TILE], int m, int j)
{
    float s = 0;
#pragma unroll
    for (int w = 0; w < NW; w++)
        s += part[w][m][j];
    return s;
}

/* Add to the residual stream; square and scale what comes out for the next norm. All lanes of a warp come along. */
template <int TILE>
static __device__ void put_added(const struct gemv_args &a, int32_t m, int32_t n, bool there, float s)
{
    float v = 0;
    if (there) {
        float *x = (float *)a.out + (size_t)m * a.stride + n;
        *x = v = *x + s;
    }
    if (!a.next.w)
        return;
    if (there)
        a.next.x[(size_t)m * cuda_pad(a.n) + n] = __float2bfloat16_rn(v * a.next.w[n]);
    float squares = v * v;
    for (int k = TILE / 2; k; k /= 2)
        squares += __shfl_xor_sync(~0u, squares, k);
    if (m < a.rows && threadIdx.x % TILE == 0)
        a.next.squares[(size_t)m * gridDim.x + blockIdx.x] = squares;
}

/* -- the kernel -------------------------------------------------------------------------------------------------- */

/* Grid: tiles of 8 RG rows of W; NW warps. */
template <int RG, int NW, int U, int XH, bool F8>
static __global__ void __launch_bounds__(NW * 32) gemv_kernel(const __grid_constant__ struct gemv_args a)
{
    using buf = buffer<RG, U, XH, F8>;
    constexpr int tile = 8 * RG, size = F8 ? 1 : 2;
    constexpr int block = 2 * buf::step,
                  turn = NW * block; /* columns that a warp takes at a time; from one to the next */
    constexpr int second = U == 2 ? turn : buf::step,
                  both = U == 2 ? 2 * turn : turn; /* from b[0] to b[1]; to their next */
    static_assert(U == 1 || U == 2, "a block is one buffer, or both");
    __shared__ float part[NW][8 * XH][tile + (RG < 4 ? 8 : 4)], x_scale[8 * XH];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
    const uint8_t *row[RG];
    buf b[2];
    float sum[RG][4] = {};

    let_next_grid_start();
#pragma unroll
    for (int i = 0; i < RG; i++)
        row[i] = a.w + (size_t)row_of(a, tile, 8 * i + g) * a.k * size;
    int32_t k = warp * block, mine = t * buf::wide;
#pragma unroll
    for (int i = 0; i < 2; i++)
        b[i].get_w(row, k + i * second + mine, a.k);
    wait_for_grid_before();
#pragma unroll
    for (int i = 0; i < 2; i++)
        b[i].get_x(a.x, g, a.rows, k + i * second + mine, a.k);
    if (a.norm.squares)
        row_scales(a.norm, a.rows, x_scale);
    for (; k < a.k; k += both) { /* all lanes alike: products are a warp's work */
#pragma unroll
        for (int i = 0; i < 2; i++) {
            b[i].multiply(sum);
            b[i].get_w(row, k + both + i * second + mine, a.k);
            b[i].get_x(a.x, g, a.rows, k + both + i * second + mine, a.k);
        }
    }
#pragma unroll
    for (int i = 0; i < RG; i++)
#pragma unroll
        for (int h = 0; h < XH; h++)
            *(float2 *)&part[warp][8 * h + g][8 * i + 2 * t] = make_float2(sum[i][2 * h], sum[i][2 * h + 1]);
    __syncthreads();

    constexpr int M = 8 * XH, T = tile + (RG < 4 ? 8 : 4);
    const int wide = a.kind == LINEAR_SILU ? tile / 2 : tile, all = (a.rows * wide + 31) / 32 * 32;
    for (int i = threadIdx.x; i < all; i += NW * 32) {
        const int m = i / wide, j = i % wide;
        const int32_t n = (int32_t)blockIdx.x * wide + j, rows_w = a.kind == LINEAR_SILU ? a.n / 2 : a.n;
        const bool there = m < a.rows && n < rows_w;
        const int r = a.kind == LINEAR_SILU ? j / 8 * 16 + j % 8 : j;
        float s = 0, up = 0;
        if (m < a.rows) {
            float by = a.norm.squares ? x_scale[m] : 1.0f;
            if (F8)
                by *= X_SCALE;
            s = total<NW, M, T>(part, m, r) * by;
            if (F8)
                s *= a.scale[row_of(a, tile, r)];
            if (a.kind == LINEAR_SILU && RG > 1) {
                up = total<NW, M, T>(part, m, r + 8) * by;
                if (F8)
                    up *= a.scale[row_of(a, tile, r + 8)];
            }
        }
        if (a.kind == LINEAR_ADD)
            put_added<tile>(a, m, n, there, s);
        else if (a.kind == LINEAR_F32 && there)
            ((float *)a.out)[(size_t)m * a.stride + n] = s;
        else if (a.kind == LINEAR_SILU && m < a.rows && n < a.stride)
            ((__nv_bfloat16 *)a.out)[(size_t)m * a.stride + n] = __float2bfloat16_rn(
                there ? s / (1.0f + __expf(-s)) * up : 0.0f);
    }
}

/* -- which shape of CTA ------------------------------------------------------------------------------------------ */

typedef void gemv_fn(const struct gemv_args);

#define RG   2 /* groups of 8 rows of W a tile */
#define TILE (8 * RG)

/* Warps of a CTA: 8 where there are tiles enough for two CTAs on each SM, else 16. Of N alone, as gemv.cu promises. */
static int warps_for(const struct cuda *c, int32_t n)
{
    return n >= 2 * TILE * c->n_sm ? 8 : 16;
}

/* deep: buffers of two steps, which take the registers of a second CTA of 16 warps. */
template <bool F8> static gemv_fn *kernel_for(int warps, bool deep, bool more_rows)
{
    if (more_rows)
        return warps == 8 ? gemv_kernel<RG, 8, 1, 2, F8> : gemv_kernel<RG, 16, 1, 2, F8>;
    if (warps == 8)
        return deep ? gemv_kernel<RG, 8, 2, 1, F8> : gemv_kernel<RG, 8, 1, 1, F8>;
    return deep ? gemv_kernel<RG, 16, 2, 1, F8> : gemv_kernel<RG, 16, 1, 1, F8>;
}

int32_t gemv_tiles(int32_t n)
{
    return (n + TILE - 1) / TILE;
}

void gemv_run(struct cuda *c, const struct linear_args *a)
{
    const struct weight *w = a->w;
    bool fp8 = fp8_is(w);
    int warps = warps_for(c, w->rows);
    bool deep = warps == 8 ? !fp8 : gemv_tiles(w->rows) <= c->n_sm;
    int32_t k = cuda_pad(w->cols);
    struct gemv_args g = {.w = (const uint8_t *)w->part[0].data,
                          .scale = fp8 ? fp8_scales(w) : NULL,
                          .x = a->x,
                          .out = a->out,
                          .norm = a->norm,
                          .next = a->next,
                          .kind = a->kind,
                          .n = w->rows,
                          .k = k,
                          .rows = a->n_rows,
                          .stride = a->kind == LINEAR_SILU ? cuda_pad(w->rows / 2) : w->rows};
    assert(a->n_rows > 0 && a->n_rows <= GEMV_ROWS && (a->kind != LINEAR_SILU || w->rows % 2 == 0));
    cudaLaunchAttribute early = {};
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t how = {};
    how.gridDim = dim3((unsigned)(a->kind == LINEAR_SILU ? (g.stride + TILE / 2 - 1) / (TILE / 2) : gemv_tiles(g.n)));
    how.blockDim = dim3(32 * (unsigned)warps);
    how.stream = c->stream;
    how.attrs = &early;
    how.numAttrs = c->major >= 9 ? 1 : 0;
    CU(cudaLaunchKernelEx(
        &how, fp8 ? kernel_for<true>(warps, deep, a->n_rows > 8) : kernel_for<false>(warps, deep, a->n_rows > 8), g));
}
