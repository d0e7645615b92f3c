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
#include "cuda/prefill_rows.cuh"
#include "cuda/tma.cuh"
#include "cuda/wgmma.cuh"

/* Named barriers. TURN + w: warpgroup w may issue; OWN + w: it has its q. */
enum { LOADERS = 1, TURN = 2, OWN = 5 };

/* keys: of a piece. stages: pieces in the ring. q_slots: 2, q of the next tile comes while this one is computed, or 1.
 * give, take: registers of a thread of the feeding and of the computing warpgroups.
 */
template <int d_, int keys_, int wgs_, int stages_, int q_slots_, int give_, int take_> struct prefill_shape {
    static constexpr int d = d_, keys = keys_, wgs = wgs_, stages = stages_, q_slots = q_slots_, give = give_,
                         take = take_;
    static constexpr int chunks = d / TMA_COLS, vectors = 64 * wgs, threads = 128 * (wgs + 1);
};

using shape_64 = prefill_shape<64, 128, 3, 3, 2, 32, 160>;
using shape_128 = prefill_shape<128, 128, 2, 2, 2, 40, 232>;
using shape_256 = prefill_shape<256, 64, 2, 2, 1, 40, 232>;

/* What the CTA has of the list: an item for a kv head, of which `turn` parts have been begun. */
struct taken {
    struct prefill_item it;
    int32_t g, turn, turns;
};

template <class S> struct prefill_shared {
    __nv_bfloat16 q[S::q_slots][S::wgs][S::chunks][64][TMA_COLS];
    __nv_bfloat16 k[S::stages][S::chunks][S::keys][TMA_COLS];
    __nv_bfloat16 v[S::stages][S::chunks][S::keys][TMA_COLS];
    struct prefill_now tile[2];
    struct taken taken;                     /* of the thread that takes tiles */
    uint64_t told[2], q_full[2], q_free[2]; /* of a tile: its numbers are there; its q, too; both may be overwritten */
    uint64_t k_full[S::stages], k_free[S::stages], v_full[S::stages], v_free[S::stages];
    uint64_t tail;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* -- feeding ----------------------------------------------------------------------------------------------------- */

/* The next tile: of the item at hand, or of the next from the counter that all CTAs share. The last CTA to find none
 * leaves zeros. */
template <class S>
static __device__ void tile_take(const struct prefill_args &a, struct taken *k, struct prefill_now *t)
{
    if (k->turn < k->turns) {
        tile_begin<S>(a, k->it, k->g, k->turn++, blockIdx.x, t);
        return;
    }
    const int32_t n = items_of(a), at = atomicAdd(&a.work.next[0], 1);
    if (at < n * a.n_kv_heads) {
        const int32_t of_heads = n * a.heads_at_once, in = at % of_heads;
        k->it = a.work.item[in / a.heads_at_once];
        k->g = at / of_heads * a.heads_at_once + in % a.heads_at_once;
        k->turn = 1;
        k->turns = turns_of(a, k->it);
        tile_begin<S>(a, k->it, k->g, 0, blockIdx.x, t);
        return;
    }
    t->v0 = -1;
    __threadfence();
    if (atomicAdd(&a.work.next[1], 1) == (int32_t)gridDim.x - 1)
        a.work.next[0] = a.work.next[1] = 0;
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
        const int wg = i / 64, row = i % 64, chunk = d0 / TMA_COLS, piece = d0 % TMA_COLS / 8;
        char *to = q + (((wg * S::chunks + chunk) * 64 + row) * 8 + (piece ^ (row & 7))) * 16;
        *(uint4 *)to = q_piece(a, t, v0 + i, d0);
    }
    fence_async();
}

/* Do the computing warpgroups fetch q of a CTA's tile n themselves? All of them together have more loads under way. */
template <class S> static __device__ inline bool own_q(uint32_t n)
{
    return n == 0 || S::q_slots == 1;
}

/* Warps 1-3: number and q of the next tile. */
template <class S> static __device__ void feed_q(const struct prefill_args &a, struct prefill_shared<S> &s, int warp)
{
    for (uint32_t n = 0;; n++) {
        const uint32_t slot = n % 2;
        bar_wait(&s.q_free[slot], (n / 2 & 1) ^ 1);
        if (warp == 0 && threadIdx.x % 32 == 0) {
            tile_take<S>(a, &s.taken, &s.tile[slot]);
            bar_arrive(&s.told[slot]);
        }
        named_sync(LOADERS, 96);
        const struct prefill_now &t = s.tile[slot];
        const bool more = t.v0 >= 0;
        if (more && !own_q<S>(n))
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
static __device__ void load_piece(const struct prefill_args &a, const CUtensorMap *map, const struct prefill_now &t,
                                  int32_t piece, int v, char *to, uint64_t *full)
{
    const int32_t lane = threadIdx.x % 32, rows = tma_rows(a.kv.block_tokens), chunk = lane % S::chunks;
    const int32_t row = lane / S::chunks * rows, key = piece * S::keys + row;
    if (row >= S::keys)
        return;
    const bool seen = key < t.end && key + rows > t.begin;
    const int32_t block = seen ? t.table[(uint32_t)key / a.kv.block_tokens] : -1;
    tma_load(to + (chunk * S::keys + row) * TMA_COLS * 2, map, full, chunk * TMA_COLS,
             (uint32_t)key % a.kv.block_tokens, 2 * t.g + v, block);
}

/* V of the piece in which the sequence ends: zeros behind its last key. */
template <class S>
static __device__ void load_tail(const struct prefill_args &a, const CUtensorMap *map, const struct prefill_now &t,
                                 int32_t piece, char *to, uint64_t *tail, uint32_t parity)
{
    const int32_t lane = threadIdx.x % 32, from = t.written - piece * S::keys;
    if (lane == 0)
        bar_expect(tail, S::keys * S::d * 2);
    __syncwarp();
    load_piece<S>(a, map, t, piece, 1, to, tail);
    bar_wait(tail, parity);
    for (int32_t i = from * 8 + lane; i < S::keys * 8; i += 32)
        for (int chunk = 0; chunk < S::chunks; chunk++)
            *(uint4 *)(to + (chunk * S::keys * 8 + i) * 16) = {};
    fence_async();
    __syncwarp();
}

/* Warp 0. Order of the copies: as they are used. at: the piece's number since the start. */
template <class S>
static __device__ void feed_kv(const struct prefill_args &a, const CUtensorMap *map, struct prefill_shared<S> &s)
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
                load_piece<S>(a, map, t, piece - 1, 0, (char *)s.k[st], &s.k_full[st]);
                k_at++;
            }
            if (piece < t.last) {
                const uint32_t st = v_at % S::stages;
                const bool tail = (piece + 1) * S::keys > t.written;
                bar_wait(&s.v_free[st], (v_at / S::stages & 1) ^ 1);
                if (tail)
                    load_tail<S>(a, map, t, piece, (char *)s.v[st], &s.tail, tails++ & 1);
                if (lane == 0) {
                    if (tail)
                        bar_arrive(&s.v_full[st]);
                    else
                        bar_expect(&s.v_full[st], S::keys * S::d * 2);
                }
                __syncwarp();
                if (!tail)
                    load_piece<S>(a, map, t, piece, 1, (char *)s.v[st], &s.v_full[st]);
                v_at++;
            }
        }
    }
}

/* -- computing --------------------------------------------------------------------------------------------------- */

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
        if (own_q<S>(n)) {
            load_q<S, 4, 8>(a, t, t.v0 + wg * 64, 64, (char *)sh.q[0][wg], threadIdx.x % 128 / 32);
            named_sync(OWN + wg, 128);
        }
        const int32_t i = wg * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        const int32_t first = t.first, full_first = t.full_first, full_last = t.full_last;
        int32_t piece = t.last - 1;
        const uint64_t q = wgmma_at(q_desc, slot % S::q_slots * q_bytes);
        struct prefill_rows r;
        float o[S::d / 2], s[S::keys / 2];
        uint32_t p[S::keys / 4];
        rows_begin(a, t, i, &r);
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
            bar_wait(&sh.v_full[at % S::stages], at / S::stages & 1);
            issue_values<S>(o, p, wgmma_at(v_desc, at % S::stages * piece_bytes), 1);
            wgmma_wait<0>();
            wgmma_keep(o);
            release(&sh.v_free[at % S::stages]);
            at++;
        }
        write_rows<S, Out>(a, t, i, o, r);
        release(&sh.q_free[slot]);
    }
}

template <class S> static __device__ void bars_begin(struct prefill_shared<S> &s)
{
    if (threadIdx.x == 0) {
        s.taken = {};
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
static __global__ void __launch_bounds__(S::threads, 1)
    prefill_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ struct prefill_args a)
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
            feed_kv<S>(a, &map, s);
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

int32_t wgmma_tile(const struct kv_view *kv)
{
    const uint32_t d = kv->head_dim;
    if (kv->format != KV_FORMAT_KV16 || d % 8 || kv->head_stride != 2 * kv->v_offset)
        return 0;
    return d <= 64 ? shape_64::vectors : d <= 128 ? shape_128::vectors : shape_256::vectors;
}

template <class S> static void launch(const CUtensorMap &map, const struct prefill_args &a, struct cuda *c)
{
    const size_t bytes = sizeof(struct prefill_shared<S>);
    if (a.out.bf16)
        prefill_kernel<S, __nv_bfloat16><<<(unsigned)c->n_sm, S::threads, bytes, c->stream>>>(map, a);
    else
        prefill_kernel<S, float><<<(unsigned)c->n_sm, S::threads, bytes, c->stream>>>(map, a);
    LAUNCHED();
}

void wgmma_attention(struct cuda *c, const struct prefill_args *a)
{
    CUtensorMap map;
    tma_map_pool(&map, &a->kv);
    if (a->head_dim <= 64)
        launch<shape_64>(map, *a, c);
    else if (a->head_dim <= 128)
        launch<shape_128>(map, *a, c);
    else
        launch<shape_256>(map, *a, c);
}
