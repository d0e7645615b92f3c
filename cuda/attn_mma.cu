/* attn_mma - causal attention of many query rows over paged KV for any card from sm_80 on: mma.sync fed by cp.async.
 *
 * Method. A CTA owns a tile of 16 vectors (rows times heads of one kv head) a warp and walks over the keys that they
 * see in pieces of S::keys at absolute positions, the last piece first (the order of attn_wgmma.cu, and a row's bits
 * depend on that row alone for the same reasons). While a piece is computed the next is copied. Scores, softmax and
 * values of a row stay in the registers of one warp (Dao 2023).
 *
 * Cost: 4 D flops a key and vector; K and V of a piece come from L2 once a tile, and from shared memory once a warp.
 */
#include "cuda/prefill_rows.cuh"
#include "cuda/ptx.cuh"

template <int d_, int keys_, int warps_> struct mma_shape {
    static constexpr int d = d_, keys = keys_, warps = warps_, vectors = 16 * warps, threads = 32 * warps;
};

using shape_64 = mma_shape<64, 64, 8>;
using shape_128 = mma_shape<128, 64, 8>;
using shape_256 = mma_shape<256, 32, 4>;

/* Rows of d elements in pieces of 16 bytes: piece u of row r lies at u ^ (r % 8), so that 8 rows meet different banks.
 * Two stages of K and V. */
template <class S> struct mma_shared {
    uint4 q[S::vectors * S::d / 8];
    uint4 k[2][S::keys * S::d / 8], v[2][S::keys * S::d / 8];
};

template <class S> static __device__ inline int32_t piece_at(int32_t row, int32_t u)
{
    return row * (S::d / 8) + (u ^ (row & 7));
}

/* To L2: lines that others read soon. */
static __device__ inline uint64_t policy_keep(void)
{
    uint64_t policy;
    asm("createpolicy.fractional.L2::evict_normal.b64 %0;" : "=l"(policy));
    return policy;
}

template <class S>
static __device__ void load_q(const struct prefill_args &a, const struct prefill_now &t, struct mma_shared<S> &s)
{
    for (int32_t i = threadIdx.x; i < S::vectors * S::d / 8; i += S::threads) {
        const int32_t row = i / (S::d / 8), u = i % (S::d / 8);
        s.q[piece_at<S>(row, u)] = q_piece(a, t, t.v0 + row, 8 * u);
    }
}

/* Queue the copies of K and V of a piece; zeros where nobody looks or nothing is written (0 times NaN is NaN). */
template <class S>
static __device__ void load_piece(const struct prefill_args &a, const struct prefill_now &t, int32_t piece,
                                  struct mma_shared<S> &s, int stage, uint64_t policy)
{
    for (int32_t i = threadIdx.x; i < S::keys * S::d / 8; i += S::threads) {
        const int32_t row = i / (S::d / 8), u = i % (S::d / 8), key = piece * S::keys + row;
        const bool there = key >= t.begin && key < t.end && 8 * u < a.head_dim;
        const uint32_t near = (uint32_t)min(max(key, t.begin), t.end - 1); /* its block is there in any case */
        const int32_t block = t.table[near / a.kv.block_tokens];
        const char *k = (const char *)kv_row(&a.kv, block, (uint32_t)t.g, 0, near % a.kv.block_tokens);
        const uint32_t at = there ? 16 * (uint32_t)u : 0;
        copy16(shared_at(&s.k[stage][piece_at<S>(row, u)]), k + at, there, policy);
        copy16(shared_at(&s.v[stage][piece_at<S>(row, u)]), k + a.kv.v_offset + at, there, policy);
    }
    copy_commit();
}

/* x = Q K^T of the warp's 16 vectors. */
template <class S>
static __device__ void scores(float (&x)[S::keys / 2], const struct mma_shared<S> &s, int stage, int warp)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < S::keys / 2; i++)
        x[i] = 0;
#pragma unroll
    for (int kk = 0; kk < S::d / 16; kk++) {
        uint32_t q[4];
        load_matrix4(q, shared_at(&s.q[piece_at<S>(warp * 16 + lane % 16, 2 * kk + lane / 16)]));
#pragma unroll
        for (int n = 0; n < S::keys / 16; n++) {
            uint32_t k[4];
            const int32_t row = n * 16 + lane / 16 * 8 + lane % 8;
            load_matrix4(k, shared_at(&s.k[stage][piece_at<S>(row, 2 * kk + lane / 8 % 2)]));
            mma_bf16(x + 8 * n, q, k);
            mma_bf16(x + 8 * n + 4, q, k + 2);
        }
    }
}

/* o += P V. */
template <class S>
static __device__ void values(float (&o)[S::d / 2], const uint32_t (&p)[S::keys / 4], const struct mma_shared<S> &s,
                              int stage)
{
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int kk = 0; kk < S::keys / 16; kk++)
#pragma unroll
        for (int n = 0; n < S::d / 16; n++) {
            uint32_t v[4];
            const int32_t row = kk * 16 + lane % 16;
            load_matrix4_turned(v, shared_at(&s.v[stage][piece_at<S>(row, 2 * n + lane / 16)]));
            mma_bf16(o + 8 * n, p + 4 * kk, v);
            mma_bf16(o + 8 * n + 4, p + 4 * kk, v + 2);
        }
}

/* Grid: kv heads x items, the longest items first; a warp owns 16 vectors; shared: struct mma_shared. */
template <class S, class Out>
static __global__ void __launch_bounds__(S::threads, 1) mma_kernel(const __grid_constant__ struct prefill_args a)
{
    extern __shared__ uint4 shared[];
    struct mma_shared<S> &s = *(struct mma_shared<S> *)shared;
    const int warp = threadIdx.x / 32, i = warp * 16 + threadIdx.x % 32 / 4;
    const uint64_t policy = policy_keep();
    struct prefill_now t;
    struct prefill_rows r;
    float o[S::d / 2] = {};
    tile_begin<S>(a, a.work.item[blockIdx.y], blockIdx.x, &t);
    rows_begin(a, t, i, &r);
    if (t.last > t.first)
        load_piece<S>(a, t, t.last - 1, s, 0, policy);
    load_q<S>(a, t, s);
    int stage = 0;
    for (int32_t piece = t.last - 1; piece >= t.first; piece--, stage ^= 1) {
        float x[S::keys / 2];
        uint32_t p[S::keys / 4];
        copy_wait<0>();
        __syncthreads(); /* this piece is there, the one before is computed by all */
        if (piece > t.first)
            load_piece<S>(a, t, piece - 1, s, stage ^ 1, policy);
        scores<S>(x, s, stage, warp);
        if (piece >= t.full_last || piece < t.full_first)
            mask<S>(x, r, piece * S::keys);
        softmax<S>(x, r);
        shrink<S>(o, r);
        round_p<S>(p, x);
        values<S>(o, p, s, stage);
    }
    write_rows<S, Out>(a, t, i, o, r);
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <class S> static void allow_shared(void)
{
    const int bytes = (int)sizeof(struct mma_shared<S>);
    CU(cudaFuncSetAttribute(mma_kernel<S, float>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    CU(cudaFuncSetAttribute(mma_kernel<S, __nv_bfloat16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

void mma_setup(void)
{
    allow_shared<shape_64>();
    allow_shared<shape_128>();
    allow_shared<shape_256>();
}

int32_t mma_tile(const struct kv_view *kv)
{
    const uint32_t d = kv->head_dim;
    if (kv->format != KV_FORMAT_KV16 || d % 8)
        return 0;
    return d <= 64 ? shape_64::vectors : d <= 128 ? shape_128::vectors : shape_256::vectors;
}

template <class S> static void launch(struct cuda *c, const struct prefill_args &a)
{
    const dim3 grid((unsigned)a.n_kv_heads, (unsigned)a.work.n);
    if (a.out.bf16)
        mma_kernel<S, __nv_bfloat16><<<grid, S::threads, sizeof(struct mma_shared<S>), c->stream>>>(a);
    else
        mma_kernel<S, float><<<grid, S::threads, sizeof(struct mma_shared<S>), c->stream>>>(a);
    LAUNCHED();
}

void mma_attention(struct cuda *c, const struct prefill_args *a)
{
    if (a->head_dim <= 64)
        launch<shape_64>(c, *a);
    else if (a->head_dim <= 128)
        launch<shape_128>(c, *a);
    else
        launch<shape_256>(c, *a);
}
