/* attention - causal attention over paged KV on plain CUDA cores: correct first, replaced piece by piece later.
 *
 * Method. Keys go in pieces of 128 at absolute positions, a piece in tiles of 32. A CTA holds NV query vectors (rows
 * times heads of one kv head) and, tile by tile, brings K and V into shared memory as float, so that a key is read once
 * for all NV. Softmax is online within a piece (Milakov & Gimelshein 2018); pieces are merged in order. A prefill
 * tile walks over all pieces itself; few vectors over many keys are split: a CTA a piece, partial results (o, max, sum)
 * in memory, and a second launch that merges them in the same order with the same operations. So a row's bits depend
 * neither on how it was cut nor on the rows beside it: a masked key has weight 0, and a piece without keys changes
 * nothing. Fused multiply-adds are written out, since two kernels must round alike.
 *
 * Cost: 4 D flops a key and vector in float; K and V bytes once per NV vectors. Decode is bound by latency and by the
 * unpacking of K into shared memory, prefill by shared memory reads.
 */
#include "cuda/kv.cuh"

#include <assert.h>

#define THREADS 128
#define WARPS   (THREADS / 32)
#define KT      32 /* keys of a tile: one a lane */

struct attn_kernel_args {
    struct attn_partial out;
    const float *q;
    int64_t q_stride;
    struct kv_view kv;
    struct step_dev step;
    float *partials;
    const float *sink;
    int32_t n_heads, window, key_begin, key_end;
    float scale;
};

/* A softmax sum in the making: relative to e^max. */
struct softmax {
    float max, sum;
};

/* Weights with which a (the older) and b come together; both 0 where neither saw a key. */
static __device__ inline void merge_weights(struct softmax *a, struct softmax b, float *wa, float *wb)
{
    float max = fmaxf(a->max, b.max);
    *wa = a->max == -INFINITY ? 0.0f : expf(a->max - max);
    *wb = b.max == -INFINITY ? 0.0f : expf(b.max - max);
    a->sum = fmaf(a->sum, *wa, __fmul_rn(b.sum, *wb));
    a->max = max;
}

static __device__ inline float merge_value(float a, float wa, float b, float wb)
{
    return fmaf(a, wa, __fmul_rn(b, wb));
}

/* What a row's sum begins with: its sink, in the part that has key 0. */
static __device__ inline struct softmax first_of(const struct attn_kernel_args &a, int32_t h)
{
    if (a.sink && a.key_begin == 0 && a.sink[h] != -INFINITY)
        return {a.sink[h], 1.0f};
    return {-INFINITY, 0.0f};
}

/* -- one CTA ----------------------------------------------------------------------------------------------------- */

template <int DP, int NV> struct tile_shared {
    float q[NV][DP];
    float k[KT][DP + 1]; /* one float more, so that lanes on different keys meet different banks */
    float v[KT][DP];
    float p[NV][KT];
    float shrink[NV]; /* what the values so far are multiplied by */
    float wa[NV], wb[NV];
    const uint8_t *row[2][KT];  /* K and V rows of the tile, */
    bool seen[KT];              /* and whether any vector sees the key */
    int32_t begin[NV], end[NV]; /* keys that a vector sees */
};

/* Threads in PV: DP <= 128: groups of DP threads, each with its share of the vectors; DP = 256: two elements a thread.
 */
template <int DP, int NV> struct shape {
    static constexpr int groups = DP <= THREADS ? THREADS / DP : 1;
    static constexpr int per = DP <= THREADS ? 1 : DP / THREADS; /* elements a thread */
    static constexpr int nv = NV / groups;                       /* vectors a thread */
    static constexpr int wv = NV / WARPS;                        /* vectors a warp scores */
};

/* The vectors of the tile: q, and the range of keys of each. Vectors behind the last see nothing. */
template <int DP, int NV>
static __device__ void load_vectors(const struct attn_kernel_args &a, const struct attn_item &it, int32_t g,
                                    struct tile_shared<DP, NV> &s)
{
    const int32_t d = (int32_t)a.kv.head_dim, group = a.n_heads / (int32_t)a.kv.n_kv_heads;
    const int32_t row0 = a.step.seq_row[it.seq], n_vec = (a.step.seq_row[it.seq + 1] - row0) * group;
    for (int i = threadIdx.x; i < NV * DP; i += THREADS) {
        int32_t v = it.v0 + i / DP, k = i % DP;
        bool there = v < n_vec && k < d;
        s.q[i / DP][k] = there ? a.q[(row0 + v / group) * a.q_stride + (size_t)(g * group + v % group) * d + k] : 0.0f;
    }
    if (threadIdx.x < NV) {
        int32_t v = it.v0 + threadIdx.x, begin = a.key_begin, end = 0;
        if (v < n_vec) {
            int32_t pos = a.step.pos[row0 + v / group];
            end = a.key_end <= pos ? a.key_end : pos + 1;
            if (a.window && begin < pos - a.window + 1)
                begin = pos - a.window + 1;
        }
        s.begin[threadIdx.x] = begin;
        s.end[threadIdx.x] = end;
    }
}

/* Keys that some vector sees, as [*begin, *end). */
template <int DP, int NV>
static __device__ void union_range(const struct tile_shared<DP, NV> &s, int32_t *begin, int32_t *end)
{
    *begin = INT32_MAX;
    *end = 0;
    for (int v = 0; v < NV; v++)
        if (s.begin[v] < s.end[v]) {
            *begin = min(*begin, s.begin[v]);
            *end = max(*end, s.end[v]);
        }
}

/* K and V of the tile into shared memory; zeros where no vector looks, for 0 times garbage may be NaN. All loads of a
 * thread are under way before the first is used: without a branch between them, from a row that is there in any case.
 */
template <int DP, int NV, uint32_t format> static __device__ void load_tile(int32_t half, struct tile_shared<DP, NV> &s)
{
    constexpr int n = KT * DP / 2 / THREADS, at_once = n < 8 ? n : 8;
    for (int i0 = 0; i0 < n; i0 += at_once) {
        float2 k[at_once], v[at_once];
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            int at = threadIdx.x + (i0 + i) * THREADS, key = at / (DP / 2), pair = min(at % (DP / 2), half - 1);
            k[i] = kv_get_pair<format>(s.row[0][key], pair);
            v[i] = kv_get_pair<format>(s.row[1][key], pair);
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) {
            int at = threadIdx.x + (i0 + i) * THREADS, key = at / (DP / 2), pair = at % (DP / 2);
            bool there = s.seen[key] && pair < half;
            s.k[key][2 * pair] = there ? k[i].x : 0.0f;
            s.k[key][2 * pair + 1] = there ? k[i].y : 0.0f;
            s.v[key][2 * pair] = there ? v[i].x : 0.0f;
            s.v[key][2 * pair + 1] = there ? v[i].y : 0.0f;
        }
    }
}

/* Scores of a warp's vectors against the lane's key; then softmax over the tile. */
template <int DP, int NV>
static __device__ void score_tile(struct tile_shared<DP, NV> &s, float scale, int32_t key0,
                                  struct softmax sm[shape<DP, NV>::wv])
{
    constexpr int wv = shape<DP, NV>::wv;
    const int lane = threadIdx.x % 32, v0 = threadIdx.x / 32 * wv;
    float dot[wv] = {};
#pragma unroll 4
    for (int k = 0; k < DP; k++) {
        float x = s.k[lane][k];
#pragma unroll
        for (int i = 0; i < wv; i++)
            dot[i] = fmaf(s.q[v0 + i][k], x, dot[i]);
    }
#pragma unroll
    for (int i = 0; i < wv; i++) {
        int32_t key = key0 + lane, v = v0 + i;
        float logit = key >= s.begin[v] && key < s.end[v] ? __fmul_rn(dot[i], scale) : -INFINITY, max = logit;
        for (int k = 16; k; k /= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, k));
        max = fmaxf(max, sm[i].max);
        float p = logit == -INFINITY ? 0.0f : expf(logit - max), sum = p;
        for (int k = 16; k; k /= 2)
            sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, k));
        float shrink = sm[i].max == -INFINITY ? 0.0f : expf(sm[i].max - max);
        sm[i] = {max, fmaf(sm[i].sum, shrink, sum)};
        s.p[v][lane] = p;
        if (lane == 0)
            s.shrink[v] = shrink;
    }
}

/* o = o * shrink + p V. */
template <int DP, int NV>
static __device__ void add_values(const struct tile_shared<DP, NV> &s, float o[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    using sh = shape<DP, NV>;
    const int k0 = threadIdx.x % (DP / sh::per), v0 = threadIdx.x / (DP / sh::per) * sh::nv;
#pragma unroll
    for (int i = 0; i < sh::nv; i++)
#pragma unroll
        for (int e = 0; e < sh::per; e++)
            o[i][e] = __fmul_rn(o[i][e], s.shrink[v0 + i]);
#pragma unroll 4
    for (int key = 0; key < KT; key++)
#pragma unroll
        for (int e = 0; e < sh::per; e++) {
            float x = s.v[key][k0 + e * THREADS];
#pragma unroll
            for (int i = 0; i < sh::nv; i++)
                o[i][e] = fmaf(s.p[v0 + i][key], x, o[i][e]);
        }
}

/* One tile of keys into (sm, o). */
template <int DP, int NV>
static __device__ void attend_tile(const struct attn_kernel_args &a, struct tile_shared<DP, NV> &s,
                                   const int32_t *table, int32_t g, int32_t key0, int32_t begin, int32_t end,
                                   struct softmax sm[shape<DP, NV>::wv], float o[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    __syncthreads(); /* the tile before has been read */
    if (threadIdx.x < 2 * KT) {
        int32_t v = threadIdx.x / KT, i = threadIdx.x % KT, key = key0 + i;
        s.row[v][i] = kv_at(a.kv, table, min(max(key, begin), end - 1), g, v);
        if (v == 0)
            s.seen[i] = key >= begin && key < end;
    }
    __syncthreads();
    if (a.kv.format == KV_FORMAT_KV32)
        load_tile<DP, NV, KV_FORMAT_KV32>((int32_t)a.kv.head_dim / 2, s);
    else
        load_tile<DP, NV, KV_FORMAT_KV16>((int32_t)a.kv.head_dim / 2, s);
    __syncthreads();
    score_tile<DP, NV>(s, a.scale, key0, sm);
    __syncthreads();
    add_values<DP, NV>(s, o);
}

/* Merge the piece (sm, o) into (all, acc). */
template <int DP, int NV>
static __device__ void merge_piece(struct tile_shared<DP, NV> &s, struct softmax all[shape<DP, NV>::wv],
                                   const struct softmax sm[shape<DP, NV>::wv],
                                   float acc[shape<DP, NV>::nv][shape<DP, NV>::per],
                                   const float o[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    using sh = shape<DP, NV>;
    const int w0 = threadIdx.x / 32 * sh::wv, v0 = threadIdx.x / (DP / sh::per) * sh::nv;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sh::wv; i++) {
        float wa, wb;
        merge_weights(&all[i], sm[i], &wa, &wb);
        if (threadIdx.x % 32 == 0) {
            s.wa[w0 + i] = wa;
            s.wb[w0 + i] = wb;
        }
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sh::nv; i++)
#pragma unroll
        for (int e = 0; e < sh::per; e++)
            acc[i][e] = merge_value(acc[i][e], s.wa[v0 + i], o[i][e], s.wb[v0 + i]);
}

/* Final results of the tile; sums travel through shared memory (s.wa: sum, s.wb: max). */
template <int DP, int NV>
static __device__ void write_tile(const struct attn_kernel_args &a, const struct attn_item &it, int32_t g,
                                  struct tile_shared<DP, NV> &s, const struct softmax all[shape<DP, NV>::wv],
                                  const float acc[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    using sh = shape<DP, NV>;
    const int32_t d = (int32_t)a.kv.head_dim, group = a.n_heads / (int32_t)a.kv.n_kv_heads;
    const int32_t row0 = a.step.seq_row[it.seq], n_vec = (a.step.seq_row[it.seq + 1] - row0) * group;
    const int k0 = threadIdx.x % (DP / sh::per), v0 = threadIdx.x / (DP / sh::per) * sh::nv;
    __syncthreads();
    for (int i = 0; i < sh::wv; i++)
        if (threadIdx.x % 32 == 0) {
            s.wa[threadIdx.x / 32 * sh::wv + i] = all[i].sum;
            s.wb[threadIdx.x / 32 * sh::wv + i] = all[i].max;
        }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sh::nv; i++) {
        int32_t v = it.v0 + v0 + i;
        if (v >= n_vec)
            continue;
        size_t at = (size_t)(row0 + v / group) * a.n_heads + (size_t)(g * group + v % group);
        float sum = s.wa[v0 + i];
#pragma unroll
        for (int e = 0; e < sh::per; e++)
            if (k0 + e * THREADS < d)
                a.out.o[at * d + k0 + e * THREADS] = sum == 0.0f ? 0.0f : __fdiv_rn(acc[i][e], sum);
        if (a.out.lse_ln && k0 == 0)
            a.out.lse_ln[at] = sum == 0.0f ? -INFINITY : s.wb[v0 + i] + logf(sum);
    }
}

/* The partial result of one piece, for combine_kernel: d values, max, sum. */
template <int DP, int NV>
static __device__ void write_partial(const struct attn_kernel_args &a, const struct attn_item &it, int32_t g,
                                     const struct softmax sm[shape<DP, NV>::wv],
                                     const float o[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    using sh = shape<DP, NV>;
    const int32_t d = (int32_t)a.kv.head_dim;
    const int k0 = threadIdx.x % (DP / sh::per), v0 = threadIdx.x / (DP / sh::per) * sh::nv;
    float *to = a.partials + (size_t)(it.slot + (int64_t)g * NV) * (size_t)(d + 2);
#pragma unroll
    for (int i = 0; i < sh::nv; i++)
#pragma unroll
        for (int e = 0; e < sh::per; e++)
            if (k0 + e * THREADS < d)
                to[(size_t)(v0 + i) * (size_t)(d + 2) + k0 + e * THREADS] = o[i][e];
    for (int i = 0; i < sh::wv; i++)
        if (threadIdx.x % 32 == 0) {
            float *end = to + (size_t)(threadIdx.x / 32 * sh::wv + i) * (size_t)(d + 2) + d;
            end[0] = sm[i].max;
            end[1] = sm[i].sum;
        }
}

/* Grid: items x kv heads; 128 threads; shared: struct tile_shared. A CTA owns the NV vectors of its item. */
template <int DP, int NV>
static __global__ void __launch_bounds__(THREADS)
    attn_kernel(const struct attn_kernel_args a, const struct attn_item *items)
{
    using sh = shape<DP, NV>;
    extern __shared__ char shared[];
    struct tile_shared<DP, NV> &s = *(struct tile_shared<DP, NV> *)shared;
    const struct attn_item it = items[blockIdx.x];
    const int32_t g = blockIdx.y, group = a.n_heads / (int32_t)a.kv.n_kv_heads, *table;
    int32_t begin, end;
    float acc[sh::nv][sh::per] = {};
    struct softmax all[sh::wv];
    table = a.step.table + a.step.table_at[it.seq];
    load_vectors<DP, NV>(a, it, g, s);
    __syncthreads();
    union_range<DP, NV>(s, &begin, &end);
    for (int i = 0; i < sh::wv; i++)
        all[i] = first_of(a, g * group + (it.v0 + threadIdx.x / 32 * sh::wv + i) % group);
    for (int32_t piece = it.piece0; piece < it.piece1; piece++) {
        float o[sh::nv][sh::per] = {};
        struct softmax sm[sh::wv];
        for (int i = 0; i < sh::wv; i++)
            sm[i] = {-INFINITY, 0.0f};
        for (int32_t key0 = piece * ATTN_PIECE; key0 < (piece + 1) * ATTN_PIECE; key0 += KT)
            if (key0 < end && key0 + KT > begin)
                attend_tile<DP, NV>(a, s, table, g, key0, begin, end, sm, o);
        if (it.slot >= 0)
            write_partial<DP, NV>(a, it, g, sm, o);
        else
            merge_piece<DP, NV>(s, all, sm, acc, o);
    }
    if (it.slot < 0)
        write_tile<DP, NV>(a, it, g, s, all, acc);
}

/* Grid: rows x heads; a thread owns elements of the head. Merges the pieces of rows that were split, in order. */
static __global__ void combine_kernel(const struct attn_kernel_args a)
{
    const struct attn_split sp = a.step.split[blockIdx.x];
    const int32_t h = blockIdx.y, d = (int32_t)a.kv.head_dim, g_n = (int32_t)a.kv.n_kv_heads, group = a.n_heads / g_n;
    const size_t step = (size_t)g_n * sp.nv * (size_t)(d + 2), at = (size_t)blockIdx.x * a.n_heads + h;
    if (sp.n == 0)
        return;
    const float *from = a.partials +
                        (size_t)(sp.slot + (int64_t)(h / group) * sp.nv + sp.v + h % group) * (size_t)(d + 2);
    for (int32_t k = threadIdx.x; k < d; k += THREADS) {
        struct softmax all = first_of(a, h);
        float acc = 0;
        const float *p = from;
#pragma unroll 4
        for (int32_t i = 0; i < sp.n; i++, p += step) {
            float wa, wb;
            merge_weights(&all, {p[d], p[d + 1]}, &wa, &wb);
            acc = merge_value(acc, wa, p[k], wb);
        }
        a.out.o[at * d + k] = all.sum == 0.0f ? 0.0f : __fdiv_rn(acc, all.sum);
        if (a.out.lse_ln && k == 0)
            a.out.lse_ln[at] = all.sum == 0.0f ? -INFINITY : all.max + logf(all.sum);
    }
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <int DP, int NV> static void allow_shared(void)
{
    CU(cudaFuncSetAttribute(attn_kernel<DP, NV>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            (int)sizeof(struct tile_shared<DP, NV>)));
}

void attention_setup(void)
{
    allow_shared<128, 4>();
    allow_shared<128, 8>();
    allow_shared<128, 16>();
    allow_shared<256, 4>();
    allow_shared<256, 8>();
    allow_shared<256, 16>();
}

template <int DP, int NV> static void launch(struct cuda *c, const struct attn_kernel_args &k)
{
    int cls = attn_class(NV);
    if (k.step.n_items[cls] == 0)
        return;
    dim3 grid((unsigned)k.step.n_items[cls], k.kv.n_kv_heads);
    attn_kernel<DP, NV><<<grid, THREADS, sizeof(struct tile_shared<DP, NV>), c->stream>>>(k, k.step.item[cls]);
    LAUNCHED();
}

template <int DP> static void launch_classes(struct cuda *c, const struct attn_kernel_args &k)
{
    launch<DP, 4>(c, k);
    launch<DP, 8>(c, k);
    launch<DP, 16>(c, k);
}

void cuda_attention(struct backend *be, const struct attn_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct kv_view *kv = a->kv;
    int32_t g_n = (int32_t)kv->n_kv_heads, d = (int32_t)kv->head_dim;
    assert(a->n_heads % g_n == 0 && d % 2 == 0 && d <= BACKEND_HEAD_DIM_MAX && a->window >= 0 && a->key_begin >= 0);
    assert(kv->format == KV_FORMAT_KV16 || kv->format == KV_FORMAT_KV32);
    struct attn_kernel_args k = {
        a->out,      a->q,    a->q_stride, *kv,       *stage_step(c, a->step, a->n_heads / g_n, g_n, d),
        c->partials, a->sink, a->n_heads,  a->window, a->key_begin,
        a->key_end,  a->scale};
    if (d <= 64)
        launch_classes<64>(c, k);
    else if (d <= 128)
        launch_classes<128>(c, k);
    else
        launch_classes<256>(c, k);
    if (!k.step.any_split)
        return;
    combine_kernel<<<dim3((unsigned)a->step->n_rows, (unsigned)a->n_heads), THREADS, 0, c->stream>>>(k);
    LAUNCHED();
}
