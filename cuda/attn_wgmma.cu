/* attn_wgmma - causal attention of many query rows over paged KV, for Hopper: wgmma fed by the copy engine.
 *
 * Method. A tile is 64 vectors (rows times heads of one kv head) for each of S::wgs warpgroups, and walks over the keys
 * that its rows see in pieces of S::keys at absolute positions, the last piece first. One more warpgroup feeds them:
 * warp 0 brings K and V through a ring of stages (one box of the pool's tensor map for 64 tokens by 64 elements, so any
 * order of blocks costs nothing), warps 1-3 fetch the next tile's number and bring its q, rounded to bf16 with the
 * scale and log2(e) in it. CTAs stay until no tile is left; the longest come first.
 *
 * A warpgroup issues S(i + 1) = Q K^T and O += P(i) V together, and computes the softmax of S(i + 1) while O is under
 * way (Shah et al. 2024, algorithm 2); the warpgroups take turns at issuing, so that one's softmax runs beside the
 * other's products. Softmax is online (Milakov & Gimelshein 2018), in powers of 2.
 *
 * A row's bits depend on that row alone: pieces lie at absolute positions, a piece of which a row sees nothing changes
 * nothing in it, and the matrix instructions compute each row by itself.
 *
 * Cost: 4 D flops a key and vector on the tensor cores; K and V of a piece come from L2 once a tile. MUFU: one exp2 a
 * key and vector, half the tensor cores' time at D = 128, all of it at D = 64.
 *
 * V rows that nobody has written may hold NaN, and 0 times NaN is NaN: the piece with the sequence's end is cleared
 * behind it in shared memory, and boxes that nobody sees are not read at all.
 */
#include "cuda/prefill.cuh"
#include "cuda/tma.cuh"
#include "cuda/wgmma.cuh"

#define LOG2_E 1.4426950408889634f
#define LN_2   0.6931471805599453f

/* Named barriers. TURN + w: warpgroup w may issue; OWN + w: it has its q. */
enum { LOADERS = 1, TURN = 2, OWN = 5 };

/* keys: of a piece. stages: pieces in the ring. q_slots: 2, q of the next tile comes while this one is computed, or 1,
 * the warpgroups fetch it themselves. give, take: registers of a thread of the feeding and of the computing warpgroups.
 */
template <int d_, int keys_, int wgs_, int stages_, int q_slots_, int give_, int take_> struct prefill_shape {
    static constexpr int d = d_, keys = keys_, wgs = wgs_, stages = stages_, q_slots = q_slots_, give = give_,
                         take = take_;
    static constexpr int chunks = d / TMA_COLS, vectors = 64 * wgs, threads = 128 * (wgs + 1);
};

using shape_64 = prefill_shape<64, 128, 3, 3, 2, 32, 160>;
using shape_128 = prefill_shape<128, 128, 2, 2, 2, 40, 232>;
using shape_256 = prefill_shape<256, 64, 2, 2, 1, 40, 232>;

struct prefill_args {
    CUtensorMap map;
    struct prefill_out out;
    const float *q, *sink;
    int64_t q_stride;
    const int32_t *pos, *seq_row, *table, *table_at;
    struct prefill_work work;
    uint32_t block_tokens;
    int32_t head_dim, n_kv_heads, group, heads_at_once; /* heads_at_once: 1 or n_kv_heads */
    int32_t window, key_begin, key_end;
    float scale; /* with log2(e) */
};

/* What is known of a tile before it is computed. v0 < 0: there are no more. */
struct prefill_now {
    const int32_t *table;
    int32_t row0, n_vec, v0, g;
    int32_t begin, end;            /* keys that some row sees, */
    int32_t first, last;           /* pieces with such keys, */
    int32_t full_first, full_last; /* and those between which no row needs a mask */
    int32_t written;               /* keys of the sequence */
};

template <class S> struct prefill_shared {
    __nv_bfloat16 q[S::q_slots][S::wgs][S::chunks][64][TMA_COLS];
    __nv_bfloat16 k[S::stages][S::chunks][S::keys][TMA_COLS];
    __nv_bfloat16 v[S::stages][S::chunks][S::keys][TMA_COLS];
    struct prefill_now tile[2];
    uint64_t told[2], q_full[2], q_free[2]; /* of a tile: its numbers are there; its q, too; both may be overwritten */
    uint64_t k_full[S::stages], k_free[S::stages], v_full[S::stages], v_free[S::stages];
    uint64_t tail;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

static __device__ inline float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* lo in the lower half. */
static __device__ inline uint32_t pack_bf16(float lo, float hi)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
}

/* The keys [*begin, *end) that a row sees. */
static __device__ inline void row_range(const struct prefill_args &a, int32_t row, int32_t *begin, int32_t *end)
{
    int32_t pos = a.pos[row];
    *begin = a.key_begin;
    *end = a.key_end <= pos ? a.key_end : pos + 1;
    if (a.window && *begin < pos - a.window + 1)
        *begin = pos - a.window + 1;
}

/* -- feeding ----------------------------------------------------------------------------------------------------- */

/* The next tile, from the counter that all CTAs share. The last CTA to find none leaves zeros. */
template <class S> static __device__ void tile_take(const struct prefill_args &a, struct prefill_now *t)
{
    const int32_t all = a.work.n * a.n_kv_heads, at = atomicAdd(&a.work.next[0], 1);
    if (at >= all) {
        t->v0 = -1;
        __threadfence();
        if (atomicAdd(&a.work.next[1], 1) == (int32_t)gridDim.x - 1)
            a.work.next[0] = a.work.next[1] = 0;
        return;
    }
    const int32_t of_heads = a.work.n * a.heads_at_once, in = at % of_heads;
    const struct prefill_item it = a.work.item[in / a.heads_at_once];
    const int32_t row1 = a.seq_row[it.seq + 1];
    t->table = a.table + a.table_at[it.seq];
    t->row0 = a.seq_row[it.seq];
    t->n_vec = (row1 - t->row0) * a.group;
    t->v0 = it.v0;
    t->g = at / of_heads * a.heads_at_once + in % a.heads_at_once;
    t->written = a.pos[row1 - 1] + 1;
    int32_t end_of_first, begin_of_last;
    row_range(a, t->row0 + it.v0 / a.group, &t->begin, &end_of_first);
    row_range(a, t->row0 + (min(it.v0 + S::vectors, t->n_vec) - 1) / a.group, &begin_of_last, &t->end);
    t->first = t->begin / S::keys;
    t->last = t->begin < t->end ? (t->end + S::keys - 1) / S::keys : t->first;
    t->full_first = (begin_of_last + S::keys - 1) / S::keys;
    t->full_last = end_of_first / S::keys;
}

/* q of n vectors, from vector v0 of the tile's sequence, into shared memory, by `warps` warps. A lane owns 8 elements
 * of a vector; at_once: vectors it has under way. */
template <class S, int warps, int at_once>
static __device__ void load_q(const struct prefill_args &a, const struct prefill_now &t, int32_t v0, int32_t n, char *q,
                              int warp)
{
    constexpr int lanes = S::d / 8, side = 32 / lanes;
    const int lane = threadIdx.x % 32, d0 = lane % lanes * 8;
#pragma unroll(at_once)
    for (int i = warp * side + lane / lanes; i < n; i += warps * side) {
        const int32_t v = v0 + i;
        float4 x[2] = {};
        if (v < t.n_vec && d0 < a.head_dim) {
            const float4 *from = (const float4 *)(a.q + (t.row0 + v / a.group) * a.q_stride +
                                                  (size_t)(t.g * a.group + v % a.group) * a.head_dim + d0);
            x[0] = from[0];
            x[1] = from[1];
        }
        uint4 y = {pack_bf16(x[0].x * a.scale, x[0].y * a.scale), pack_bf16(x[0].z * a.scale, x[0].w * a.scale),
                   pack_bf16(x[1].x * a.scale, x[1].y * a.scale), pack_bf16(x[1].z * a.scale, x[1].w * a.scale)};
        const int wg = i / 64, row = i % 64, chunk = d0 / TMA_COLS, piece = d0 % TMA_COLS / 8;
        *(uint4 *)(q + (((wg * S::chunks + chunk) * 64 + row) * 8 + (piece ^ (row & 7))) * 16) = y;
    }
    fence_async();
}

/* Warps 1-3: number and q of the next tile. */
template <class S> static __device__ void feed_q(const struct prefill_args &a, struct prefill_shared<S> &s, int warp)
{
    for (uint32_t n = 0;; n++) {
        const uint32_t slot = n % 2;
        bar_wait(&s.q_free[slot], (n / 2 & 1) ^ 1);
        if (warp == 0 && threadIdx.x % 32 == 0) {
            tile_take<S>(a, &s.tile[slot]);
            bar_arrive(&s.told[slot]);
        }
        named_sync(LOADERS, 96);
        const struct prefill_now &t = s.tile[slot];
        const bool more = t.v0 >= 0;
        if (more && S::q_slots == 2)
            load_q<S, 3, 2>(a, t, t.v0, S::vectors, (char *)s.q[slot % S::q_slots], warp);
        __syncwarp();
        if (threadIdx.x % 32 == 0)
            bar_arrive(&s.q_full[slot]);
        if (!more)
            return;
    }
}

/* K (v = 0) or V (v = 1) of one piece: a lane a box. */
template <class S>
static __device__ void load_piece(const struct prefill_args &a, const struct prefill_now &t, int32_t piece, int v,
                                  char *to, uint64_t *full)
{
    const int32_t lane = threadIdx.x % 32, rows = tma_rows(a.block_tokens), chunk = lane % S::chunks;
    const int32_t row = lane / S::chunks * rows, key = piece * S::keys + row;
    if (row >= S::keys)
        return;
    const bool seen = key < t.end && key + rows > t.begin;
    const int32_t block = seen ? t.table[(uint32_t)key / a.block_tokens] : -1;
    tma_load(to + (chunk * S::keys + row) * TMA_COLS * 2, &a.map, full, chunk * TMA_COLS,
             (uint32_t)key % a.block_tokens, 2 * t.g + v, block);
}

/* V of the piece in which the sequence ends: zeros behind its last key. */
template <class S>
static __device__ void load_tail(const struct prefill_args &a, const struct prefill_now &t, int32_t piece, char *to,
                                 uint64_t *tail, uint32_t parity)
{
    const int32_t lane = threadIdx.x % 32, from = t.written - piece * S::keys;
    if (lane == 0)
        bar_expect(tail, S::keys * S::d * 2);
    __syncwarp();
    load_piece<S>(a, t, piece, 1, to, tail);
    bar_wait(tail, parity);
    for (int32_t i = from * 8 + lane; i < S::keys * 8; i += 32)
        for (int chunk = 0; chunk < S::chunks; chunk++)
            *(uint4 *)(to + (chunk * S::keys * 8 + i) * 16) = {};
    fence_async();
    __syncwarp();
}

/* Warp 0. Order of the copies: as they are used. at: the piece's number since the start. */
template <class S> static __device__ void feed_kv(const struct prefill_args &a, struct prefill_shared<S> &s)
{
    const int lane = threadIdx.x % 32;
    uint32_t k_at = 0, v_at = 0, tails = 0;
    for (uint32_t n = 0;; n++) {
        bar_wait(&s.told[n % 2], n / 2 & 1);
        const struct prefill_now t = s.tile[n % 2];
        __syncwarp();
        if (lane == 0)
            bar_arrive(&s.q_free[n % 2]);
        if (t.v0 < 0)
            return;
        for (int32_t piece = t.last; piece >= t.first; piece--) {
            if (piece > t.first) {
                const uint32_t st = k_at % S::stages;
                bar_wait(&s.k_free[st], (k_at / S::stages & 1) ^ 1);
                if (lane == 0)
                    bar_expect(&s.k_full[st], S::keys * S::d * 2);
                __syncwarp();
                load_piece<S>(a, t, piece - 1, 0, (char *)s.k[st], &s.k_full[st]);
                k_at++;
            }
            if (piece < t.last) {
                const uint32_t st = v_at % S::stages;
                const bool tail = (piece + 1) * S::keys > t.written;
                bar_wait(&s.v_free[st], (v_at / S::stages & 1) ^ 1);
                if (tail)
                    load_tail<S>(a, t, piece, (char *)s.v[st], &s.tail, tails++ & 1);
                if (lane == 0) {
                    if (tail)
                        bar_arrive(&s.v_full[st]);
                    else
                        bar_expect(&s.v_full[st], S::keys * S::d * 2);
                }
                __syncwarp();
                if (!tail)
                    load_piece<S>(a, t, piece, 1, (char *)s.v[st], &s.v_full[st]);
                v_at++;
            }
        }
    }
}

/* -- computing --------------------------------------------------------------------------------------------------- */

/* The two rows of a thread: maximum and sum so far (the sum of its own columns), and the keys they see. */
struct prefill_rows {
    float max[2], sum[2], shrink[2];
    int32_t begin[2], end[2];
};

template <class S> static __device__ inline void issue_scores(float (&s)[S::keys / 2], uint64_t q, uint64_t k)
{
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < S::chunks; c++)
#pragma unroll
        for (int i = 0; i < TMA_COLS / 16; i++)
            wgmma_abt(s, wgmma_at(q, c * 64 * 128 + i * 32), wgmma_at(k, c * S::keys * 128 + i * 32), c + i > 0);
    wgmma_commit();
}

template <class S>
static __device__ inline void issue_values(float (&o)[S::d / 2], const uint32_t (&p)[S::keys / 4], uint64_t v, int sum)
{
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < S::keys / 16; i++)
        wgmma_ab(o, p + 4 * i, wgmma_at(v, i * 16 * 128), i > 0 ? 1 : sum);
    wgmma_commit();
}

template <class S>
static __device__ inline void mask(float (&s)[S::keys / 2], const struct prefill_rows &r, int32_t key0)
{
    key0 += 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < S::keys / 2; i++) {
        const int32_t key = key0 + i / 4 * 8 + i % 2, h = i / 2 % 2;
        s[i] = key >= r.begin[h] && key < r.end[h] ? s[i] : -INFINITY;
    }
}

/* s becomes exp2(s - max); shrink: what earlier values are multiplied by. */
template <class S> static __device__ inline void softmax(float (&s)[S::keys / 2], struct prefill_rows &r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float max = r.max[h], other = -INFINITY;
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            max = fmaxf(max, s[4 * i + 2 * h]);
            other = fmaxf(other, s[4 * i + 2 * h + 1]);
        }
        max = fmaxf(max, other);
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        const float base = max == -INFINITY ? 0.0f : max;
        r.shrink[h] = exp2_fast(r.max[h] - base);
        r.max[h] = max;
        float sum = 0, odd = 0;
#pragma unroll
        for (int i = 0; i < S::keys / 8; i++) {
            s[4 * i + 2 * h] = exp2_fast(s[4 * i + 2 * h] - base);
            s[4 * i + 2 * h + 1] = exp2_fast(s[4 * i + 2 * h + 1] - base);
            sum += s[4 * i + 2 * h];
            odd += s[4 * i + 2 * h + 1];
        }
        r.sum[h] = r.sum[h] * r.shrink[h] + (sum + odd);
    }
}

template <class S> static __device__ inline void round_p(uint32_t (&p)[S::keys / 4], const float (&s)[S::keys / 2])
{
#pragma unroll
    for (int i = 0; i < S::keys / 4; i++)
        p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
}

template <class S> static __device__ inline void shrink(float (&o)[S::d / 2], const struct prefill_rows &r)
{
#pragma unroll
    for (int i = 0; i < S::d / 2; i++)
        o[i] *= r.shrink[i / 2 % 2];
}

static __device__ inline void put_pair(float *to, float x, float y)
{
    *(float2 *)to = {x, y};
}
static __device__ inline void put_pair(__nv_bfloat16 *to, float x, float y)
{
    *(uint32_t *)to = pack_bf16(x, y);
}

/* Rows of the tile to memory: row h of the thread is vector v[h]. */
template <class S, class Out>
static __device__ void write_rows(const struct prefill_args &a, float (&o)[S::d / 2], const struct prefill_rows &r,
                                  int32_t row0, int32_t n_vec, int32_t v0, int32_t g)
{
    const int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t v = v0 + 8 * h;
        float sum = r.sum[h];
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (v >= n_vec)
            continue;
        const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        const int32_t row = row0 + v / a.group, head = g * a.group + v % a.group;
        Out *to = (Out *)a.out.o + row * a.out.stride + (size_t)head * a.head_dim + 2 * (lane % 4);
#pragma unroll
        for (int i = 0; i < S::d / 8; i++)
            if (8 * i < a.head_dim)
                put_pair(to + 8 * i, o[4 * i + 2 * h] * scale, o[4 * i + 2 * h + 1] * scale);
        if (a.out.lse_ln && lane % 4 == 0)
            a.out.lse_ln[(size_t)row * (size_t)(a.n_kv_heads * a.group) + head] = sum == 0.0f
                                                                                      ? -INFINITY
                                                                                      : (r.max[h] + log2f(sum)) * LN_2;
    }
}

/* What a row begins with: its sink, in the part that has key 0. */
template <class S>
static __device__ inline void rows_begin(const struct prefill_args &a, struct prefill_rows *r, int32_t row0,
                                         int32_t n_vec, int32_t v0, int32_t g)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int32_t v = min(v0 + 8 * h, n_vec - 1);
        row_range(a, row0 + v / a.group, &r->begin[h], &r->end[h]);
        const bool sink = a.sink && a.key_begin == 0;
        r->max[h] = sink ? a.sink[g * a.group + v % a.group] * LOG2_E : -INFINITY;
        r->sum[h] = threadIdx.x % 4 == 0 && r->max[h] != -INFINITY ? 1.0f : 0.0f;
    }
}

static __device__ inline void release(uint64_t *bar)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        bar_arrive(bar);
}

/* Warpgroup wg of those that compute. at: pieces since the start. */
template <class S, class Out>
static __device__ void compute(const struct prefill_args &a, struct prefill_shared<S> &sh, int wg)
{
    constexpr int piece_bytes = S::keys * S::d * 2, q_bytes = S::vectors * S::d * 2;
    const uint64_t k_desc = wgmma_desc(shared_address(sh.k), 0),
                   v_desc = wgmma_desc(shared_address(sh.v), S::keys * 128);
    const uint64_t q_desc = wgmma_desc(shared_address(sh.q[0][wg]), 0);
    const int turn = TURN + wg, next_turn = TURN + (wg + 1) % S::wgs;
    uint32_t at = 0;
    if (wg == S::wgs - 1)
        named_arrive(TURN, 256);
    for (uint32_t n = 0;; n++) {
        const uint32_t slot = n % 2;
        bar_wait(&sh.q_full[slot], n / 2 & 1);
        const struct prefill_now &t = sh.tile[slot];
        if (t.v0 < 0)
            break;
        if (S::q_slots == 1) {
            load_q<S, 4, 8>(a, t, t.v0 + wg * 64, 64, (char *)sh.q[0][wg], threadIdx.x % 128 / 32);
            named_sync(OWN + wg, 128);
        }
        const int32_t row0 = t.row0, n_vec = t.n_vec, g = t.g, first = t.first, full_first = t.full_first,
                      full_last = t.full_last, v0 = t.v0 + wg * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        int32_t piece = t.last - 1;
        const uint64_t q = wgmma_at(q_desc, slot % S::q_slots * q_bytes);
        struct prefill_rows r;
        float o[S::d / 2], s[S::keys / 2];
        uint32_t p[S::keys / 4];
        rows_begin<S>(a, &r, row0, n_vec, v0, g);
#pragma unroll
        for (int i = 0; i < S::d / 2; i++)
            o[i] = 0;
        if (piece >= first) {
            bar_wait(&sh.k_full[at % S::stages], at / S::stages & 1);
            named_sync(turn, 256);
            issue_scores<S>(s, q, wgmma_at(k_desc, at % S::stages * piece_bytes));
            named_arrive(next_turn, 256);
            wgmma_wait<0>();
            wgmma_keep(s);
            release(&sh.k_free[at % S::stages]);
            if (piece >= full_last || piece < full_first)
                mask<S>(s, r, piece * S::keys);
            softmax<S>(s, r);
            round_p<S>(p, s);
            for (piece--; piece >= first; piece--, at++) {
                const uint32_t st = at % S::stages, par = at / S::stages & 1, st1 = (at + 1) % S::stages,
                               par1 = (at + 1) / S::stages & 1;
                bar_wait(&sh.k_full[st1], par1);
                named_sync(turn, 256);
                issue_scores<S>(s, q, wgmma_at(k_desc, st1 * piece_bytes));
                bar_wait(&sh.v_full[st], par);
                issue_values<S>(o, p, wgmma_at(v_desc, st * piece_bytes), 1);
                named_arrive(next_turn, 256);
                wgmma_wait<1>();
                wgmma_keep(s);
                release(&sh.k_free[st1]);
                if (piece >= full_last || piece < full_first)
                    mask<S>(s, r, piece * S::keys);
                softmax<S>(s, r);
                wgmma_wait<0>();
                wgmma_keep(o);
                release(&sh.v_free[st]);
                shrink<S>(o, r);
                round_p<S>(p, s);
            }
            release(&sh.q_free[slot]);
            bar_wait(&sh.v_full[at % S::stages], at / S::stages & 1);
            issue_values<S>(o, p, wgmma_at(v_desc, at % S::stages * piece_bytes), 1);
            wgmma_wait<0>();
            wgmma_keep(o);
            release(&sh.v_free[at % S::stages]);
            at++;
        } else {
            release(&sh.q_free[slot]);
        }
        write_rows<S, Out>(a, o, r, row0, n_vec, v0, g);
    }
}

template <class S> static __device__ void bars_begin(struct prefill_shared<S> &s)
{
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            bar_init(&s.told[i], 1);
            bar_init(&s.q_full[i], 3);
            bar_init(&s.q_free[i], 1 + 4 * S::wgs);
        }
        for (int i = 0; i < S::stages; i++) {
            bar_init(&s.k_full[i], 1);
            bar_init(&s.v_full[i], 1);
            bar_init(&s.k_free[i], 4 * S::wgs);
            bar_init(&s.v_free[i], 4 * S::wgs);
        }
        bar_init(&s.tail, 1);
        bar_init_done();
    }
    __syncthreads();
}

#endif

/* Grid: as many CTAs as the card has SMs; 128 threads feed, 128 S::wgs compute; shared: struct prefill_shared. */
template <class S, class Out>
static __global__ void __launch_bounds__(S::threads, 1) prefill_kernel(const __grid_constant__ struct prefill_args a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ __align__(1024) char shared[];
    struct prefill_shared<S> &s = *(struct prefill_shared<S> *)shared;
    const int wg = threadIdx.x / 128;
    bars_begin<S>(s);
    if (wg == 0) {
        regs_give<S::give>();
        const int warp = threadIdx.x / 32;
        if (warp == 0)
            feed_kv<S>(a, s);
        else
            feed_q<S>(a, s, warp - 1);
    } else {
        regs_take<S::take>();
        compute<S, Out>(a, s, wg - 1);
    }
#endif
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <class S> static void allow_shared(void)
{
    const int bytes = (int)sizeof(struct prefill_shared<S>);
    CU(cudaFuncSetAttribute(prefill_kernel<S, float>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    CU(cudaFuncSetAttribute(prefill_kernel<S, __nv_bfloat16>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
}

void wgmma_setup(void)
{
    allow_shared<shape_64>();
    allow_shared<shape_128>();
    allow_shared<shape_256>();
}

int32_t wgmma_tile(const struct attn_args *a)
{
    const uint32_t d = a->kv->head_dim;
    if (a->kv->format != KV_FORMAT_KV16 || d % 8 || a->q_stride % 4 || a->kv->head_stride != 2 * a->kv->v_offset)
        return 0;
    return d <= 64 ? shape_64::vectors : d <= 128 ? shape_128::vectors : shape_256::vectors;
}

template <class S> static void launch(const struct prefill_args &a, int32_t n_sm, cudaStream_t stream)
{
    const size_t bytes = sizeof(struct prefill_shared<S>);
    if (a.out.bf16)
        prefill_kernel<S, __nv_bfloat16><<<(unsigned)n_sm, S::threads, bytes, stream>>>(a);
    else
        prefill_kernel<S, float><<<(unsigned)n_sm, S::threads, bytes, stream>>>(a);
    LAUNCHED();
}

void wgmma_attention(const struct attn_args *a, const struct prefill_out *out, const struct step_dev *step,
                     const struct prefill_work *work, int32_t n_sm, cudaStream_t stream)
{
    const int32_t g_n = (int32_t)a->kv->n_kv_heads;
    struct prefill_args k = {};
    tma_map_pool(&k.map, a->kv);
    k.out = *out;
    k.q = a->q;
    k.sink = a->sink;
    k.q_stride = a->q_stride;
    k.pos = step->pos;
    k.seq_row = step->seq_row;
    k.table = step->table;
    k.table_at = step->table_at;
    k.work = *work;
    k.block_tokens = a->kv->block_tokens;
    k.head_dim = (int32_t)a->kv->head_dim;
    k.n_kv_heads = g_n;
    k.group = a->n_heads / g_n;
    /* A head at a time keeps its K and V in L2; with few tiles a head the last would leave SMs idle. */
    k.heads_at_once = work->n >= 3 * n_sm / 2 ? 1 : g_n;
    k.window = a->window;
    k.key_begin = a->key_begin;
    k.key_end = a->key_end;
    k.scale = a->scale * LOG2_E;
    if (k.head_dim <= 64)
        launch<shape_64>(k, n_sm, stream);
    else if (k.head_dim <= 128)
        launch<shape_128>(k, n_sm, stream);
    else
        launch<shape_256>(k, n_sm, stream);
}
