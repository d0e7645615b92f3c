/* decode_keys - inside decode attention: how a warp brings its keys in, and how it attends to them.
 *
 * A unit is 64 keys: 16 for each of four warps, which work alone until the end of a segment (a run's units of one
 * sequence, head and chunk): each copies its own keys with cp.async into a ring of stages, across segments, and reads
 * none of the others'. The tensor cores take the keys as rows of 16 and the query vectors (heads of a kv head times
 * rows) as columns of 8, so that groups of up to 8 waste little: S^T = K Q^T, O^T += V^T P^T. Scores and weights never
 * leave registers. The running maximum moves only when it is passed by 2^8, which is exact all the same.
 *
 * kv16 goes into the tensor cores as it is. kv8 is widened to half, exactly. A product sums over dims in any order, so
 * bytes stay where they lie: what is dim 4c + {0, 1, 2, 3} of 16 in memory is column 2c, 2c + 1, 2c + 8, 2c + 9 of K
 * and Q; dims 2r and 2r + 1 of V are rows r and r + 8.
 */
#ifndef HEARTH_CUDA_DECODE_KEYS_CUH
#define HEARTH_CUDA_DECODE_KEYS_CUH

#include "cuda/decode_plan.cuh"
#include "cuda/kv.cuh"
#include "cuda/ptx.cuh"

#define WARPS 4
#define KEYS  16 /* of a warp in a unit */
#define LOG2E 1.4426950408889634f
#define LN2   0.6931471805599453f

static_assert(WARPS * KEYS == DECODE_UNIT, "a unit gives each warp a tile");

struct decode_args {
    struct attn_partial out;
    __nv_bfloat16 *out_input; /* in place of out.o, or NULL */
    const float *q, *sink;
    int64_t q_stride;
    struct kv_view kv;
    const int32_t *pos, *table;
    struct decode_plan plan;
    float *partials;
    int32_t *arrived;
    int32_t n_heads, group, window, key_begin, key_end, block_shift;
    float scale; /* with log2(e): weights are powers of 2 */
};

/* Head size D, chunks of NT x 8 query vectors, keys of BYTES an element. */
template <int D, int NT, int BYTES> struct shape {
    static constexpr int nq = 8 * NT;
    static constexpr int row = BYTES * D;   /* bytes of a key */
    static constexpr int pieces = row / 16; /* of 16 bytes */
    static constexpr int tile = KEYS * row; /* bytes of K or V in a stage */
    static constexpr int room = (NT == 1 && BYTES == 2 ? 24 : 16) << (D == 256 && BYTES == 2 ? 11 : 10); /* of a warp */
    static constexpr int stages = room / (2 * tile);
    static constexpr int ring = 2 * tile * stages;
    static constexpr int od = D + 4; /* floats of a row of o: lanes 2 rows apart meet other banks */
    static constexpr int shared = WARPS * (ring + nq * (od + 2) * 4) + 16;
    static constexpr int ctas = 232448 / (shared + 1024); /* an SM holds */
    static constexpr int part = nq * (D + 2);             /* floats of a partial result */
    static_assert(stages >= 2, "one stage fills while one is read");
};

/* -- keys and values on their way in ----------------------------------------------------------------------------- */

/* A place in the row of units. */
struct place {
    struct decode_seq q;
    int32_t s, head, chunk, tile; /* the unit */
    int32_t left;                 /* units to the end of the run */
};

static __device__ inline struct place place_at(const struct decode_start &st)
{
    int32_t hc = st.n ? st.skip / st.seq.n_tiles : 0;
    return {st.seq, st.s, hc / max(st.seq.chunks, 1), hc % max(st.seq.chunks, 1), st.skip - hc * st.seq.n_tiles, st.n};
}

/* On by n units of the same segment. */
static __device__ inline void advance(const struct decode_args &a, struct place *p, int32_t n)
{
    p->tile += n;
    p->left -= n;
    if (p->tile < p->q.n_tiles || p->left == 0)
        return;
    p->tile = 0;
    if (++p->chunk < p->q.chunks)
        return;
    p->chunk = 0;
    if (++p->head < (int32_t)a.kv.n_kv_heads)
        return;
    p->head = 0;
    do
        p->q = a.plan.seq[++p->s];
    while (p->q.n_tiles == 0);
}

/* First key of the warp's part of a tile. */
static __device__ inline int32_t key_of(const struct decode_seq &q, int32_t tile)
{
    return (q.begin / DECODE_UNIT + tile) * DECODE_UNIT + (int32_t)threadIdx.x / 32 * KEYS;
}

static __device__ inline bool any_key(const struct decode_seq &q, int32_t key0)
{
    return key0 < q.end && key0 + KEYS > q.begin;
}

/* Loader of a warp: where it is, and the blocks of 32 tiles of its sequence, one a lane. */
struct loader {
    struct place at;
    int32_t s, tile0; /* of which sequence, from which tile on */
    int32_t blocks;
    uint64_t policy;
};

/* The block that holds the warp's keys of its next unit. */
static __device__ inline int32_t next_block(const struct decode_args &a, struct loader *l)
{
    int32_t i = l->at.tile - l->tile0;
    if (l->s != l->at.s || i < 0 || i >= 32) {
        int32_t key = min(key_of(l->at.q, l->at.tile + (int32_t)threadIdx.x % 32), max(l->at.q.end - 1, 0));
        l->blocks = a.table[l->at.q.table_at + (key >> a.block_shift)];
        l->s = l->at.s;
        l->tile0 = l->at.tile;
        i = 0;
    }
    return __shfl_sync(~0u, l->blocks, i);
}

/* Piece p of row r lies at p ^ (something of r), so that 8 rows' pieces p meet 8 different groups of banks. */
template <int PIECES> static __device__ inline int swizzle(int r, int p)
{
    return PIECES >= 8 ? p ^ (r & 7) : p ^ (r >> 1 & 3);
}

/* Queue the copy of the warp's keys of the next unit to `stage`: K, then V. Values that no row sees become 0, for 0
 * times what lies there may be NaN. */
template <int D, int NT, int BYTES>
static __device__ inline void load_unit(const struct decode_args &a, struct loader *l, uint32_t stage)
{
    using sh = shape<D, NT, BYTES>;
    constexpr int rows = 32 / sh::pieces; /* that the lanes copy at once, if not less */
    const int lane = threadIdx.x % 32;
    if (l->at.left > 0) {
        const struct decode_seq &q = l->at.q;
        const int32_t key0 = key_of(q, l->at.tile), block = next_block(a, l);
        if (any_key(q, key0)) {
            const uint8_t *from = (const uint8_t *)kv_row(&a.kv, block, (uint32_t)l->at.head, 0,
                                                          (uint32_t)key0 & (a.kv.block_tokens - 1));
#pragma unroll
            for (int i = 0; i < sh::tile / 512; i++) {
                int r = i * 512 / sh::row + (rows > 1 ? lane / sh::pieces : 0), p = (i * 32 + lane) % sh::pieces;
                const uint8_t *k = from + r * a.kv.row_stride + p * 16;
                uint32_t to = stage + r * sh::row + swizzle<sh::pieces>(r, p) * 16;
                copy16(to, k, true, l->policy);
                copy16(to + sh::tile, k + a.kv.v_offset, key0 + r >= q.begin && key0 + r < q.end, l->policy);
            }
        }
        advance(a, &l->at, 1);
    }
    copy_commit();
}

/* -- a warp and its keys ----------------------------------------------------------------------------------------- */

/* Query vectors as they lie in memory: the dims that a lane = 4 r + c holds of vector r of each eight. */
template <int D, int NT> struct queries {
    float x[NT][D / 16][4];
};

template <int D, int NT, int BYTES>
static __device__ inline void load_queries(const struct decode_args &a, const struct place &p, struct queries<D, NT> *q)
{
    const int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    const int32_t n_vec = p.q.n_rows * a.group;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        int32_t v = p.chunk * 8 * NT + 8 * t + r;
        const float *from = a.q + (p.q.row0 + v / a.group) * a.q_stride + (p.head * a.group + v % a.group) * D;
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            float *x = q->x[t][j];
#pragma unroll
            for (int k = 0; k < 2; k++) {
                const float *at = from + 16 * j + (BYTES == 1 ? 4 * c + 2 * k : 2 * c + 8 * k);
                float2 y = v < n_vec ? *(const float2 *)at : make_float2(0, 0);
                x[2 * k] = y.x;
                x[2 * k + 1] = y.y;
            }
        }
    }
}

/* What a lane holds of a segment: columns 2c and 2c + 1 of each eight vectors, rows r and r + 8 of 16 dims. */
template <int D, int NT> struct work {
    uint32_t q[NT][D / 16][2];
    float o[NT][D / 16][4];
    float max[NT][2], sum[NT][2]; /* sum: of the lane's keys */
    int32_t begin[NT][2], end[NT][2];
    int32_t all_begin, all_end; /* keys that all vectors see */
    float scale;
};

template <int BYTES> static __device__ inline uint32_t pack(float lo, float hi)
{
    return BYTES == 1 ? pack_f16(lo, hi) : pack_bf16(lo, hi);
}

template <int D, int NT, int BYTES>
static __device__ inline void begin_segment(const struct decode_args &a, const struct place &p,
                                            const struct queries<D, NT> &q, struct work<D, NT> *w)
{
    const int c = threadIdx.x % 4;
    w->all_begin = p.q.begin;
    w->all_end = p.q.end;
    w->scale = BYTES == 1 ? a.scale * kv_scale(&a.kv, (uint32_t)p.head, 0) : a.scale;
#pragma unroll
    for (int t = 0; t < NT; t++) {
#pragma unroll
        for (int j = 0; j < D / 16; j++)
#pragma unroll
            for (int k = 0; k < 2; k++) {
                w->q[t][j][k] = pack<BYTES>(q.x[t][j][2 * k], q.x[t][j][2 * k + 1]);
                w->o[t][j][2 * k] = w->o[t][j][2 * k + 1] = 0;
            }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            w->max[t][i] = -INFINITY;
            w->sum[t][i] = 0;
            w->begin[t][i] = p.q.begin;
            w->end[t][i] = p.q.end;
        }
    }
    for (int32_t row = 0; row < p.q.n_rows && p.q.n_rows > 1; row++) {
        int32_t pos = a.pos[p.q.row0 + row], end = min(a.key_end, pos + 1);
        int32_t begin = a.window ? max(a.key_begin, pos - a.window + 1) : a.key_begin;
        w->all_begin = max(w->all_begin, begin);
        w->all_end = min(w->all_end, end);
#pragma unroll
        for (int t = 0; t < NT; t++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if ((p.chunk * 8 * NT + 8 * t + 2 * c + i) / a.group == row) {
                    w->begin[t][i] = begin;
                    w->end[t][i] = end;
                }
    }
}

/* s = scores of the 16 keys at key0, whose K is at `stage`: rows r, r + 8. */
template <int D, int NT, int BYTES>
static __device__ inline void score(const struct work<D, NT> &w, uint32_t stage, int32_t key0, float s[NT][4])
{
    using sh = shape<D, NT, BYTES>;
    const int lane = threadIdx.x % 32, r = lane / 4, row = lane % 16;
    float more[NT][4];
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            s[t][i] = more[t][i] = 0;
#pragma unroll
    for (int j = 0; j < sh::pieces / 2; j++) { /* 16 dims of kv16, 32 of kv8 */
        uint32_t k[4], h[4];
        load_matrix4(k, stage + row * sh::row + swizzle<sh::pieces>(row, 2 * j + lane / 16) * 16);
        if constexpr (BYTES == 2) {
#pragma unroll
            for (int t = 0; t < NT; t++) /* two sums, since one would be a chain */
                mma_bf16(j % 2 ? more[t] : s[t], k, w.q[t][j]);
        } else {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                widen_e4m3(k[2 * half], &h[0], &h[2]);
                widen_e4m3(k[2 * half + 1], &h[1], &h[3]);
#pragma unroll
                for (int t = 0; t < NT; t++)
                    mma_f16(half ? more[t] : s[t], h, w.q[t][2 * j + half]);
            }
        }
    }
    const bool all = key0 >= w.all_begin && key0 + KEYS <= w.all_end;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t key = key0 + r + i / 2 * 8;
            s[t][i] = (s[t][i] + more[t][i]) * w.scale;
            if (!all && (key < w.begin[t][i % 2] || key >= w.end[t][i % 2]))
                s[t][i] = -INFINITY;
        }
}

/* Raise the maxima of columns that passed theirs by 2^8. What happens to a column depends on it alone. */
#define HEADROOM 8.0f
template <int D, int NT> static __device__ inline void raise_max(struct work<D, NT> *w, const float s[NT][4])
{
    bool passed = false;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            passed |= fmaxf(s[t][i], s[t][i + 2]) > w->max[t][i] + HEADROOM;
    if (!__any_sync(~0u, passed))
        return;
#pragma unroll
    for (int t = 0; t < NT; t++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float most = fmaxf(s[t][i], s[t][i + 2]), shrink = 1;
            for (int k = 4; k < 32; k *= 2)
                most = fmaxf(most, __shfl_xor_sync(~0u, most, k));
            if (most > w->max[t][i] + HEADROOM) {
                shrink = exp2_fast(w->max[t][i] - most);
                w->max[t][i] = most;
            }
            w->sum[t][i] *= shrink;
#pragma unroll
            for (int j = 0; j < D / 16; j++) {
                w->o[t][j][i] *= shrink;
                w->o[t][j][i + 2] *= shrink;
            }
        }
}

/* o += the 16 values at `stage`, weighted. */
template <int D, int NT, int BYTES>
static __device__ inline void add_values(struct work<D, NT> *w, uint32_t stage, const uint32_t p[NT][2])
{
    using sh = shape<D, NT, BYTES>;
    const int lane = threadIdx.x % 32, row = BYTES == 2 ? lane / 16 * 8 + lane % 8 : lane % 16;
    const int piece = BYTES == 2 ? lane / 8 % 2 : lane / 16;
#pragma unroll
    for (int j = 0; j < sh::pieces / 2; j++) {
        uint32_t v[4], h[4];
        load_matrix4_turned(v, stage + row * sh::row + swizzle<sh::pieces>(row, 2 * j + piece) * 16);
        if constexpr (BYTES == 2) {
#pragma unroll
            for (int t = 0; t < NT; t++)
                mma_bf16(w->o[t][j], v, p[t]);
        } else {
#pragma unroll
            for (int half = 0; half < 2; half++) { /* bytes: dims 2r and 2r + 1 of a key, then of the next */
                widen_e4m3(__byte_perm(v[2 * half], 0, 0x3120), &h[0], &h[1]);
                widen_e4m3(__byte_perm(v[2 * half + 1], 0, 0x3120), &h[2], &h[3]);
#pragma unroll
                for (int t = 0; t < NT; t++)
                    mma_f16(w->o[t][2 * j + half], h, p[t]);
            }
        }
    }
}

/* Dim of row r (high: r + 8) of o[.][j]. */
template <int BYTES> static __device__ inline int dim_of(int j, int r, int high)
{
    return 16 * j + (BYTES == 1 ? 2 * r + high : r + 8 * high);
}

/* The warp's 16 keys at key0 into w. */
template <int D, int NT, int BYTES>
static __device__ inline void attend(struct work<D, NT> *w, uint32_t stage, int32_t key0)
{
    float s[NT][4];
    uint32_t p[NT][2];
    score<D, NT, BYTES>(*w, stage, key0, s);
    raise_max<D, NT>(w, s);
#pragma unroll
    for (int t = 0; t < NT; t++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float max = w->max[t][i % 2] == -INFINITY ? 0 : w->max[t][i % 2];
            s[t][i] = exp2_fast(s[t][i] - max);
            w->sum[t][i % 2] += s[t][i];
        }
        p[t][0] = turn_matrix(pack<BYTES>(s[t][0], s[t][1]));
        p[t][1] = turn_matrix(pack<BYTES>(s[t][2], s[t][3]));
    }
    add_values<D, NT, BYTES>(w, stage + shape<D, NT, BYTES>::tile, p);
}

#endif
