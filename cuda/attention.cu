/* attention - who computes a call: decode rows, prefill rows, and a plain kernel for shapes that neither takes.
 *
 * A sequence with at most ATTN_DECODE_ROWS rows in the step is decode (attn_decode.cu), one with more is prefill
 * (attn_prefill.cu). No launch depends on positions or block tables, only on how many rows and sequences there are, so
 * a step captured in a graph serves all lengths.
 *
 * The plain kernel takes every format, head size and stride: a CTA holds NV query vectors (rows times heads of one kv
 * head) and walks over their keys in tiles of 32 at absolute positions. K and V come into shared memory as float, so
 * that a key is read once for all NV; softmax is online (Milakov & Gimelshein 2018). A masked key has weight 0, and a
 * tile without keys changes nothing, so a row's bits depend neither on the rows beside it nor on how keys were skipped.
 *
 * Cost: 4 D flops a key and vector in float; K and V bytes once per NV vectors. Bound by latency in decode (a CTA a
 * row and kv head, keys one tile after the other) and by shared memory reads in prefill.
 */
#include "cuda/kv.cuh"

#include <assert.h>

#define THREADS 128
#define WARPS   (THREADS / 32)
#define KT      32 /* keys of a tile: one a lane */

struct plain_args {
    struct attn_partial out;
    __nv_bfloat16 *out_input; /* [T] rows of input_stride, or NULL */
    int32_t input_stride;
    const float *q;
    int64_t q_stride;
    struct kv_view kv;
    struct step_dev step;
    const float *sink;
    int32_t n_heads, window, key_begin, key_end;
    int32_t rows, heads;        /* of a CTA's vectors: rows x heads of a kv head <= NV */
    int32_t min_rows, max_rows; /* sequences with so many rows */
    float scale;
};

/* Vectors of one sequence that a CTA serves together: v is row row0 + v / heads, head head0 + v % heads. */
struct vectors {
    int32_t row0, n_rows, g, head0, heads;
};

/* A softmax sum in the making: relative to e^max. */
struct softmax {
    float max, sum;
};

/* -- one CTA ----------------------------------------------------------------------------------------------------- */

template <int DP, int NV> struct tile_shared {
    float q[NV][DP];
    float k[KT][DP + 1]; /* one float more, so that lanes on different keys meet different banks */
    float v[KT][DP];
    float p[NV][KT];
    float shrink[NV]; /* what the values so far are multiplied by */
    struct softmax all[NV];
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

/* q and the range of keys of each vector. Vectors behind the last see nothing. */
template <int DP, int NV>
static __device__ void load_vectors(const struct plain_args &a, const struct vectors &vs, struct tile_shared<DP, NV> &s)
{
    const int32_t d = (int32_t)a.kv.head_dim, n_vec = vs.n_rows * vs.heads;
    for (int i = threadIdx.x; i < NV * DP; i += THREADS) {
        int32_t v = i / DP, k = i % DP;
        const float *q = a.q + (vs.row0 + v / vs.heads) * a.q_stride + (size_t)(vs.head0 + v % vs.heads) * d;
        s.q[v][k] = v < n_vec && k < d ? q[k] : 0.0f;
    }
    if (threadIdx.x < NV) {
        int32_t v = threadIdx.x, begin = a.key_begin, end = 0;
        if (v < n_vec) {
            int32_t pos = a.step.pos[vs.row0 + v / vs.heads];
            end = a.key_end <= pos ? a.key_end : pos + 1;
            if (a.window && begin < pos - a.window + 1)
                begin = pos - a.window + 1;
        }
        s.begin[v] = begin;
        s.end[v] = end;
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
template <int DP, int NV, uint32_t format>
static __device__ void load_tile(int32_t half, float k_scale, float v_scale, struct tile_shared<DP, NV> &s)
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
            s.k[key][2 * pair] = there ? k[i].x * k_scale : 0.0f;
            s.k[key][2 * pair + 1] = there ? k[i].y * k_scale : 0.0f;
            s.v[key][2 * pair] = there ? v[i].x * v_scale : 0.0f;
            s.v[key][2 * pair + 1] = there ? v[i].y * v_scale : 0.0f;
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
static __device__ void attend_tile(const struct plain_args &a, struct tile_shared<DP, NV> &s, const int32_t *table,
                                   int32_t g, int32_t key0, int32_t begin, int32_t end,
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
    const int32_t half = (int32_t)a.kv.head_dim / 2;
    if (a.kv.format == KV_FORMAT_KV32)
        load_tile<DP, NV, KV_FORMAT_KV32>(half, 1, 1, s);
    else if (a.kv.format == KV_FORMAT_KV16)
        load_tile<DP, NV, KV_FORMAT_KV16>(half, 1, 1, s);
    else
        load_tile<DP, NV, KV_FORMAT_KV8>(half, kv_scale(&a.kv, (uint32_t)g, 0), kv_scale(&a.kv, (uint32_t)g, 1), s);
    __syncthreads();
    score_tile<DP, NV>(s, a.scale, key0, sm);
    __syncthreads();
    add_values<DP, NV>(s, o);
}

/* Element k of vector `at` = row * H + head. */
static __device__ inline void put_result(const struct plain_args &a, size_t at, int32_t k, float x)
{
    const int32_t d = (int32_t)a.kv.head_dim;
    if (a.out_input)
        a.out_input[at / a.n_heads * a.input_stride + at % a.n_heads * d + k] = __float2bfloat16_rn(x);
    else
        a.out.o[at * d + k] = x;
}

/* Results of the vectors; the sums travel through shared memory. */
template <int DP, int NV>
static __device__ void write_vectors(const struct plain_args &a, const struct vectors &vs,
                                     struct tile_shared<DP, NV> &s, const struct softmax sm[shape<DP, NV>::wv],
                                     const float o[shape<DP, NV>::nv][shape<DP, NV>::per])
{
    using sh = shape<DP, NV>;
    const int32_t d = (int32_t)a.kv.head_dim, n_vec = vs.n_rows * vs.heads;
    const int k0 = threadIdx.x % (DP / sh::per), v0 = threadIdx.x / (DP / sh::per) * sh::nv;
    for (int i = 0; i < sh::wv; i++)
        if (threadIdx.x % 32 == 0)
            s.all[threadIdx.x / 32 * sh::wv + i] = sm[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < sh::nv; i++) {
        int32_t v = v0 + i;
        if (v >= n_vec)
            continue;
        size_t at = (size_t)(vs.row0 + v / vs.heads) * a.n_heads + (size_t)(vs.head0 + v % vs.heads);
        struct softmax all = s.all[v];
#pragma unroll
        for (int e = 0; e < sh::per; e++)
            if (k0 + e * THREADS < d)
                put_result(a, at, k0 + e * THREADS, all.sum == 0.0f ? 0.0f : __fdiv_rn(o[i][e], all.sum));
        if (a.out_input && at % a.n_heads == (size_t)a.n_heads - 1 && k0 < a.input_stride - a.n_heads * d)
            put_result(a, at, d + k0, 0); /* the columns that fill up the row */
        if (a.out.lse_ln && k0 == 0)
            a.out.lse_ln[at] = all.sum == 0.0f ? -INFINITY : all.max + logf(all.sum);
    }
}

/* All keys of the vectors. What a sum begins with is the sink, in the part that has key 0. */
template <int DP, int NV>
static __device__ void attend(const struct plain_args &a, const struct vectors &vs, struct tile_shared<DP, NV> &s)
{
    using sh = shape<DP, NV>;
    const int32_t *table = a.step.table + a.step.table_at[a.step.row_seq[vs.row0]];
    int32_t begin, end;
    float o[sh::nv][sh::per] = {};
    struct softmax sm[sh::wv];
    __syncthreads(); /* the vectors before are written */
    load_vectors<DP, NV>(a, vs, s);
    __syncthreads();
    union_range<DP, NV>(s, &begin, &end);
    for (int i = 0; i < sh::wv; i++) {
        int32_t h = vs.head0 + (threadIdx.x / 32 * sh::wv + i) % vs.heads;
        bool sink = a.sink && a.key_begin == 0 && a.sink[h] != -INFINITY;
        sm[i] = {sink ? a.sink[h] : -INFINITY, sink ? 1.0f : 0.0f};
    }
    for (int32_t key0 = begin / KT * KT; key0 < end; key0 += KT)
        attend_tile<DP, NV>(a, s, table, vs.g, key0, begin, end, sm, o);
    write_vectors<DP, NV>(a, vs, s, sm, o);
}

/* Grid: runs of a.rows rows x (kv heads x runs of a.heads of their heads); 128 threads; shared: struct tile_shared. A
 * CTA owns the vectors of its rows and heads; rows of different sequences come one sequence after the other. */
template <int DP, int NV> static __global__ void __launch_bounds__(THREADS) plain_kernel(const struct plain_args a)
{
    extern __shared__ char shared[];
    const int32_t group = a.n_heads / (int32_t)a.kv.n_kv_heads, runs = (group + a.heads - 1) / a.heads;
    const int32_t last = min((int32_t)(blockIdx.x + 1) * a.rows, a.step.n_rows), run = (int32_t)blockIdx.y % runs;
    struct vectors vs = {(int32_t)blockIdx.x * a.rows, 0, (int32_t)blockIdx.y / runs};
    vs.head0 = vs.g * group + run * a.heads;
    vs.heads = min(a.heads, group - run * a.heads);
    for (; vs.row0 < last; vs.row0 += vs.n_rows) {
        int32_t seq = a.step.row_seq[vs.row0], end = a.step.seq_row[seq + 1], n = end - a.step.seq_row[seq];
        vs.n_rows = min(last, end) - vs.row0;
        if (n >= a.min_rows && n <= a.max_rows)
            attend<DP, NV>(a, vs, *(struct tile_shared<DP, NV> *)shared);
    }
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <int DP, int NV> static void allow_shared(void)
{
    CU(cudaFuncSetAttribute(plain_kernel<DP, NV>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                            (int)sizeof(struct tile_shared<DP, NV>)));
}

bool attention_open(struct cuda *c)
{
    allow_shared<128, 4>();
    allow_shared<128, 8>();
    allow_shared<128, 16>();
    allow_shared<256, 4>();
    allow_shared<256, 8>();
    allow_shared<256, 16>();
    return decode_open(c);
}

void attention_close(struct cuda *c)
{
    decode_close(c);
}

template <int DP, int NV> static void launch(struct cuda *c, struct plain_args k)
{
    int32_t group = k.n_heads / (int32_t)k.kv.n_kv_heads;
    k.heads = min(group, NV);
    k.rows = k.max_rows <= ATTN_DECODE_ROWS ? 1 : NV / k.heads;
    dim3 grid((unsigned)((k.step.n_rows + k.rows - 1) / k.rows),
              k.kv.n_kv_heads * (unsigned)((group + k.heads - 1) / k.heads));
    plain_kernel<DP, NV><<<grid, THREADS, sizeof(struct tile_shared<DP, NV>), c->stream>>>(k);
    LAUNCHED();
}

/* Prefill has rows enough to fill the largest tile. */
template <int DP> static void launch_any(struct cuda *c, const struct plain_args &k)
{
    int32_t group = k.max_rows <= ATTN_DECODE_ROWS ? k.n_heads / (int32_t)k.kv.n_kv_heads : 16;
    if (group <= 4)
        launch<DP, 4>(c, k);
    else if (group <= 8)
        launch<DP, 8>(c, k);
    else
        launch<DP, 16>(c, k);
}

/* Rows of sequences that have min_rows to max_rows of them. */
static void attn_plain(struct cuda *c, const struct attn_args *a, const struct step_dev *at, int32_t min_rows,
                       int32_t max_rows)
{
    struct plain_args k = {a->out,
                           (__nv_bfloat16 *)a->out_input,
                           cuda_pad(a->n_heads * (int32_t)a->kv->head_dim),
                           a->q,
                           a->q_stride,
                           *a->kv,
                           *at,
                           a->sink,
                           a->n_heads,
                           a->window,
                           a->key_begin,
                           a->key_end,
                           0,
                           0,
                           min_rows,
                           max_rows,
                           a->scale};
    if (a->kv->head_dim <= 64)
        launch_any<64>(c, k);
    else if (a->kv->head_dim <= 128)
        launch_any<128>(c, k);
    else
        launch_any<256>(c, k);
}

void cuda_attention(struct backend *be, const struct attn_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct kv_view *kv = a->kv;
    const struct step *st = a->step;
    bool decode = false, prefill = false;
    assert(a->n_heads % (int32_t)kv->n_kv_heads == 0 && a->window >= 0 && a->key_begin >= 0);
    assert(kv->head_dim % 2 == 0 && kv->head_dim <= BACKEND_HEAD_DIM_MAX);
    assert(kv->format == KV_FORMAT_KV16 || kv->format == KV_FORMAT_KV32 || kv->format == KV_FORMAT_KV8);
    const struct step_dev *at = stage_step(c, st);
    if (c->deterministic && attn_fixed(c, a, at))
        return;
    for (int32_t s = 0; s < st->n_seqs; s++)
        *(st->seq_row[s + 1] - st->seq_row[s] > ATTN_DECODE_ROWS ? &prefill : &decode) = true;
    if (prefill && (c->deterministic || !attn_prefill(c, a, at)))
        attn_plain(c, a, at, ATTN_DECODE_ROWS + 1, INT32_MAX);
    if (decode && (c->deterministic || !attn_decode(c, a, at)))
        attn_plain(c, a, at, 1, ATTN_DECODE_ROWS);
}
