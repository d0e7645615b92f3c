/* attn_mma - causal attention of many query rows over paged KV for any card from sm_80 on: mma.sync fed by cp.async.
 *
 * Method. A CTA owns a tile of 16 vectors (rows times heads of one kv head) a warp and walks over the keys that they
 * see in pieces of S::keys at absolute positions, the last piece first (the order of attn_wgmma.cu, and a row's bits
 * depend on that row alone for the same reasons). While a piece is computed the next is copied. Scores, softmax and
 * values of a row stay in the registers of one warp (Dao 2023). kv8 is copied as it lies, and each piece widened in
 * shared memory before it is computed.
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

/* Queue the copies of K and V of a piece, S::d elements of `bytes` a key, to where the caller's to(v, row, u) says for
 * 16 bytes each; zeros where nobody looks or nothing is written (0 times NaN is NaN). */
template <class S, int bytes, class To>
static __device__ inline void copy_piece(const struct prefill_args &a, const struct prefill_now &t, int32_t piece,
                                         uint64_t policy, To to)
{
    constexpr int units = S::d * bytes / 16;
    for (int32_t i = threadIdx.x; i < S::keys * units; i += S::threads) {
        const int32_t row = i / units, u = i % units, key = piece * S::keys + row;
        const bool there = key >= t.begin && key < t.end && 16 * u < a.head_dim * bytes;
        const uint32_t near = (uint32_t)min(max(key, t.begin), t.end - 1); /* its block is there in any case */
        const int32_t block = t.table[near / a.kv.block_tokens];
        const char *k = (const char *)kv_row(&a.kv, block, (uint32_t)t.g, 0, near % a.kv.block_tokens);
        const uint32_t at = there ? 16 * (uint32_t)u : 0;
        copy16(shared_at(to(0, row, u)), k + at, there, policy);
        copy16(shared_at(to(1, row, u)), k + a.kv.v_offset + at, there, policy);
    }
    copy_commit();
}

/* Of kv8: bytes as they lie, two stages of them in the room of stage 1. */
template <class S> static __device__ inline uint4 *bytes_at(struct mma_shared<S> &s, int stage, int v, int32_t i)
{
    return (v ? s.v[1] : s.k[1]) + stage * (S::keys * S::d / 16) + i;
}

template <class S, bool kv8>
static __device__ void load_piece(const struct prefill_args &a, const struct prefill_now &t, int32_t piece,
                                  struct mma_shared<S> &s, int stage, uint64_t policy)
{
    if (kv8)
        copy_piece<S, 1>(a, t, piece, policy,
                         [&](int v, int32_t row, int32_t u) { return bytes_at(s, stage, v, row * (S::d / 16) + u); });
    else
        copy_piece<S, 2>(a, t, piece, policy, [&](int v, int32_t row, int32_t u) {
            return (v ? s.v[stage] : s.k[stage]) + piece_at<S>(row, u);
        });
}

/* 8 bytes times scale, as bfloat16: what attn_widen.cu makes of them, too. */
static __device__ inline uint4 widened(uint32_t lo, uint32_t hi, float scale)
{
    uint32_t h[4];
    widen_e4m3(lo, &h[0], &h[1]);
    widen_e4m3(hi, &h[2], &h[3]);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 x = __half22float2(*(const __half2 *)&h[i]);
        h[i] = pack_bf16(x.x * scale, x.y * scale);
    }
    return {h[0], h[1], h[2], h[3]};
}

/* The bytes of a stage become the piece in stage 0. */
template <class S>
static __device__ void widen_piece(const struct prefill_args &a, const struct prefill_now &t, struct mma_shared<S> &s,
                                   int stage)
{
    const float k_scale = kv_scale(&a.kv, (uint32_t)t.g, 0), v_scale = kv_scale(&a.kv, (uint32_t)t.g, 1);
    for (int32_t i = threadIdx.x; i < S::keys * S::d / 16; i += S::threads) {
        const int32_t row = i / (S::d / 16), u = 2 * (i % (S::d / 16));
        const uint4 k = *bytes_at(s, stage, 0, i), v = *bytes_at(s, stage, 1, i);
        s.k[0][piece_at<S>(row, u)] = widened(k.x, k.y, k_scale);
        s.k[0][piece_at<S>(row, u + 1)] = widened(k.z, k.w, k_scale);
        s.v[0][piece_at<S>(row, u)] = widened(v.x, v.y, v_scale);
        s.v[0][piece_at<S>(row, u + 1)] = widened(v.z, v.w, v_scale);
    }
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

/* A part of an item. */
template <class S, class Out, bool kv8>
static __device__ void attend(const struct prefill_args &a, const struct prefill_now &t, struct mma_shared<S> &s)
{
    const int warp = threadIdx.x / 32, i = warp * 16 + threadIdx.x % 32 / 4;
    const uint64_t policy = policy_keep();
    struct prefill_rows r;
    float o[S::d / 2] = {};
    rows_begin(a, t, i, &r);
    if (t.last > t.first)
        load_piece<S, kv8>(a, t, t.last - 1, s, 0, policy);
    load_q<S>(a, t, s);
    int stage = 0;
    for (int32_t piece = t.last - 1; piece >= t.first; piece--, stage ^= 1) {
        float x[S::keys / 2];
        uint32_t p[S::keys / 4];
        copy_wait<0>();
        __syncthreads(); /* this piece is there, the one before is computed by all */
        if (piece > t.first)
            load_piece<S, kv8>(a, t, piece - 1, s, stage ^ 1, policy);
        if (kv8) {
            widen_piece<S>(a, t, s, stage);
            __syncthreads();
        }
        const int at = kv8 ? 0 : stage;
        scores<S>(x, s, at, warp);
        if (piece >= t.full_last || piece < t.full_first)
            mask<S>(x, r, piece * S::keys);
        softmax<S>(x, r);
        shrink<S>(o, r);
        round_p<S>(p, x);
        values<S>(o, p, s, at);
    }
    write_rows<S, Out>(a, t, i, o, r);
}

/* Grid: kv heads x items, the longest items first, or with fixed parts as many CTAs as have slots; a warp owns 16
 * vectors; shared: struct mma_shared. */
template <class S, class Out, bool kv8>
static __global__ void __launch_bounds__(S::threads, 1) mma_kernel(const __grid_constant__ struct prefill_args a)
{
    extern __shared__ uint4 shared[];
    struct mma_shared<S> &s = *(struct mma_shared<S> *)shared;
    const int32_t all = items_of(a) * a.n_kv_heads;
    for (int32_t at = (int32_t)blockIdx.x; at < all; at += (int32_t)gridDim.x) {
        const struct prefill_item it = a.work.item[at / a.n_kv_heads];
        for (int32_t turn = 0; turn < turns_of(a, it); turn++) {
            struct prefill_now t;
            tile_begin<S>(a, it, at % a.n_kv_heads, turn, (int32_t)blockIdx.x, &t);
            __syncthreads(); /* the tile before has been read */
            attend<S, Out, kv8>(a, t, s);
        }
    }
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <class S, bool kv8> static void allow_shared(void)
{
    const int bytes = (int)sizeof(struct mma_shared<S>);
    CU(cudaFuncSetAttribute(mma_kernel<S, float, kv8>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    CU(cudaFuncSetAttribute(mma_kernel<S, __nv_bfloat16, kv8>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

template <bool kv8> static void allow_shapes(void)
{
    allow_shared<shape_64, kv8>();
    allow_shared<shape_128, kv8>();
    allow_shared<shape_256, kv8>();
}

void mma_setup(void)
{
    allow_shapes<false>();
    allow_shapes<true>();
}

int32_t mma_tile(const struct kv_view *kv)
{
    const uint32_t d = kv->head_dim;
    if (d % 8 || (kv->format != KV_FORMAT_KV16 && (kv->format != KV_FORMAT_KV8 || d % 16)))
        return 0;
    return d <= 64 ? shape_64::vectors : d <= 128 ? shape_128::vectors : shape_256::vectors;
}

template <class S, bool kv8> static void launch(struct cuda *c, const struct prefill_args &a)
{
    const dim3 grid(a.part_keys ? (unsigned)(FIXED_CTAS * c->n_sm) : (unsigned)(a.n_kv_heads * a.work.n));
    if (a.out.bf16)
        mma_kernel<S, __nv_bfloat16, kv8><<<grid, S::threads, sizeof(struct mma_shared<S>), c->stream>>>(a);
    else
        mma_kernel<S, float, kv8><<<grid, S::threads, sizeof(struct mma_shared<S>), c->stream>>>(a);
    LAUNCHED();
}

template <bool kv8> static void launch_shape(struct cuda *c, const struct prefill_args &a)
{
    if (a.head_dim <= 64)
        launch<shape_64, kv8>(c, a);
    else if (a.head_dim <= 128)
        launch<shape_128, kv8>(c, a);
    else
        launch<shape_256, kv8>(c, a);
}

void mma_attention(struct cuda *c, const struct prefill_args *a)
{
    if (a->kv.format == KV_FORMAT_KV8)
        launch_shape<true>(c, *a);
    else
        launch_shape<false>(c, *a);
}
