/* attn_decode - attention of a few new rows of many sequences over paged KV, at the speed of the memory.
 *
 * Method. Flash-decoding (Dao et al. 2023): keys are split over CTAs, each part yields (o, max, sum), and the CTA that
 * finishes a sequence's last part merges them. Work comes in equal runs of units (decode_plan.cuh), so all CTAs of the
 * one resident wave end together. What a warp does with its keys is in decode_keys.cuh, the end of a segment in
 * decode_end.cuh.
 *
 * Cost: K and V bytes once per chunk of query vectors, everything else is small; bound by memory. In flight: all stages
 * but one of all warps, 128 KiB an SM, where about 20 would hide the latency.
 *
 * The bits of a row depend on how the keys of its sequence were cut, so on the lengths of all sequences of the step.
 */
#include "cuda/decode_end.cuh"

#include <algorithm>
#include <assert.h>
#include <new>

#define THREADS (WARPS * 32)

/* Grid: one resident wave; 128 threads; shared: a ring a warp, then the meeting. A CTA owns a run of units. */
template <int D, int NT, int BYTES>
static __global__ void __launch_bounds__(THREADS, shape<D, NT, BYTES>::ctas) decode_kernel(const struct decode_args a)
{
    using sh = shape<D, NT, BYTES>;
    constexpr bool early = D * NT <= 128; /* registers for the next queries beside the results */
    extern __shared__ __align__(128) uint8_t shared[];
    const uint32_t ring = shared_at(shared) + threadIdx.x / 32 * sh::ring;
    struct meeting<D, NT> *m = (struct meeting<D, NT> *)(shared + WARPS * sh::ring);
    const struct decode_start st = a.plan.start[blockIdx.x];
    struct place at = place_at(st);
    struct loader l = {at, -1, 0, 0, policy_read_once()};
    struct queries<D, NT> q;
    int slot = 0;
    for (int i = 0; i < sh::stages - 1; i++)
        load_unit<D, NT, BYTES>(a, &l, ring + i * 2 * sh::tile);
    if (early && at.left > 0)
        load_queries<D, NT, BYTES>(a, at, &q);
    while (at.left > 0) {
        struct work<D, NT> w;
        const int32_t n = min(at.left, at.q.n_tiles - at.tile);
        if (!early)
            load_queries<D, NT, BYTES>(a, at, &q);
        begin_segment<D, NT, BYTES>(a, at, q, &w);
        for (int32_t i = 0; i < n; i++) {
            copy_wait<sh::stages - 2>();
            __syncwarp(); /* the tile is there for all lanes, and all have read the one before */
            load_unit<D, NT, BYTES>(a, &l, ring + (slot + sh::stages - 1) % sh::stages * 2 * sh::tile);
            int32_t key0 = key_of(at.q, at.tile + i);
            if (any_key(at.q, key0))
                attend<D, NT, BYTES>(&w, ring + slot * 2 * sh::tile, key0);
            slot = (slot + 1) % sh::stages;
        }
        struct place next = at;
        advance(a, &next, n);
        if (early && next.left > 0)
            load_queries<D, NT, BYTES>(a, next, &q);
        end_segment<D, NT, BYTES>(a, at, st.run, &w, m);
        at = next;
    }
}

/* -- memory ------------------------------------------------------------------------------------------------------ */

template <int D, int NT, int BYTES> static bool fits(const struct attn *m)
{
    return shape<D, NT, BYTES>::shared <= m->shared_block;
}

template <int D, int NT, int BYTES> static void allow(const struct attn *m)
{
    if (fits<D, NT, BYTES>(m))
        CU(cudaFuncSetAttribute(decode_kernel<D, NT, BYTES>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                shape<D, NT, BYTES>::shared));
}

template <int BYTES> static void allow_all(const struct attn *m)
{
    allow<64, 1, BYTES>(m);
    allow<64, 2, BYTES>(m);
    allow<128, 1, BYTES>(m);
    allow<128, 2, BYTES>(m);
    allow<256, 1, BYTES>(m);
    allow<256, 2, BYTES>(m);
}

bool decode_open(struct cuda *c)
{
    struct attn *m = c->attn = new (std::nothrow) attn{};
    if (!m)
        return false;
    m->max_seqs = c->max_rows;
    m->max_grid = c->n_sm * 4;
    CU(cudaDeviceGetAttribute(&m->shared_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    CU(cudaDeviceGetAttribute(&m->shared_sm, cudaDevAttrMaxSharedMemoryPerMultiprocessor, 0));
    m->seq = (struct decode_seq *)cuda_alloc(c, sizeof *m->seq * ATTN_PLANS * (size_t)m->max_seqs);
    m->start = (struct decode_start *)cuda_alloc(c, sizeof *m->start * ATTN_PLANS * (size_t)m->max_grid);
    m->arrived = (int32_t *)cuda_alloc(c, sizeof *m->arrived * (size_t)m->max_grid);
    m->partials = (float *)cuda_alloc(c, sizeof(float) * 2 * (size_t)m->max_grid * shape<256, 2, 2>::part);
    allow_all<1>(m);
    allow_all<2>(m);
    return m->seq && m->start && m->arrived && m->partials;
}

void decode_close(struct cuda *c)
{
    struct attn *m = c->attn;
    if (!m)
        return;
    CU(cudaFree(m->seq));
    CU(cudaFree(m->start));
    CU(cudaFree(m->arrived));
    CU(cudaFree(m->partials));
    delete m;
}

/* -- launches ---------------------------------------------------------------------------------------------------- */

template <int D, int NT, int BYTES>
static void launch(struct cuda *c, const struct attn_args *a, const struct step_dev *at, struct decode_args *k)
{
    using sh = shape<D, NT, BYTES>;
    static_assert(sh::ctas >= 1 && sh::ctas <= 4, "max_grid is 4 CTAs an SM");
    struct attn *m = c->attn;
    const int32_t g_n = (int32_t)a->kv->n_kv_heads, ctas = std::min(sh::ctas, m->shared_sm / (sh::shared + 1024));
    struct decode_terms t = {a->window, a->key_begin, a->key_end, k->group, g_n, sh::nq, c->n_sm * ctas};
    k->plan = attn_plan(c, a->step->number, at, &t);
    decode_kernel<D, NT, BYTES><<<(unsigned)t.grid, THREADS, sh::shared, c->stream>>>(*k);
    LAUNCHED();
}

/* Chunks of 8 vectors when there are no more, or of 16, also where the rings of the former are too large for the card.
 */
template <int D, int BYTES>
static bool launch_for(struct cuda *c, const struct attn_args *a, const struct step_dev *at, struct decode_args *k,
                       int32_t n_vec)
{
    if (n_vec <= 8 && fits<D, 1, BYTES>(c->attn))
        launch<D, 1, BYTES>(c, a, at, k);
    else if (fits<D, 2, BYTES>(c->attn))
        launch<D, 2, BYTES>(c, a, at, k);
    else
        return false;
    return true;
}

static bool aligned(const struct attn_args *a)
{
    const struct kv_view *kv = a->kv;
    uint64_t any = (uint64_t)(uintptr_t)kv->base | kv->block_stride | kv->layer_offset | kv->head_stride |
                   kv->v_offset | kv->row_stride;
    return any % 16 == 0 && ((uint64_t)(uintptr_t)a->q | (uint64_t)a->q_stride * sizeof *a->q) % 8 == 0 &&
           ((uint64_t)(uintptr_t)a->out.o | (uint64_t)(uintptr_t)a->out_input) % 16 == 0;
}

/* Most rows of a sequence that is decode. */
static int32_t most_rows(const struct step *st)
{
    int32_t most = 0;
    for (int32_t s = 0; s < st->n_seqs; s++) {
        int32_t n = st->seq_row[s + 1] - st->seq_row[s];
        most = n <= ATTN_DECODE_ROWS && n > most ? n : most;
    }
    return most;
}

bool attn_decode(struct cuda *c, const struct attn_args *a, const struct step_dev *at)
{
    const struct kv_view *kv = a->kv;
    const uint32_t d = kv->head_dim;
    if (kv->format == KV_FORMAT_KV32 || (d != 64 && d != 128 && d != 256) || !aligned(a))
        return false;
    assert(kv->block_tokens % KEYS == 0 && (kv->block_tokens & (kv->block_tokens - 1)) == 0);
    struct decode_args k = {};
    k.out = a->out;
    k.out_input = (__nv_bfloat16 *)a->out_input;
    k.q = a->q;
    k.sink = a->sink;
    k.q_stride = a->q_stride;
    k.kv = *kv;
    k.pos = at->pos;
    k.table = at->table;
    k.partials = c->attn->partials;
    k.arrived = c->attn->arrived;
    k.n_heads = a->n_heads;
    k.group = a->n_heads / (int32_t)kv->n_kv_heads;
    k.window = a->window;
    k.key_begin = a->key_begin;
    k.key_end = a->key_end;
    k.block_shift = __builtin_ctz(kv->block_tokens);
    k.scale = a->scale * LOG2E;
    const bool wide = kv->format == KV_FORMAT_KV16;
    const int32_t n_vec = most_rows(a->step) * k.group;
    if (d == 64)
        return (wide ? launch_for<64, 2> : launch_for<64, 1>)(c, a, at, &k, n_vec);
    if (d == 128)
        return (wide ? launch_for<128, 2> : launch_for<128, 1>)(c, a, at, &k, n_vec);
    return (wide ? launch_for<256, 2> : launch_for<256, 1>)(c, a, at, &k, n_vec);
}
