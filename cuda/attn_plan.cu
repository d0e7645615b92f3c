/* attn_plan - cut the keys of all sequences of a step into equal runs, on the card.
 *
 * One CTA; a few microseconds, once a step and kind of layer (window and key range). Nothing of it depends on what the
 * host knows of positions, so it can be captured and replayed for any lengths.
 */
#include "cuda/decode_plan.cuh"
#include "cuda/scan.cuh"

#include <assert.h>
#include <string.h>

#define THREADS 512

/* Sequence s, as if it began at unit 0. */
static __device__ struct decode_seq look(const struct step_dev &at, const struct decode_terms &t, int32_t s)
{
    struct decode_seq q = {};
    q.row0 = at.seq_row[s];
    q.n_rows = at.seq_row[s + 1] - q.row0;
    q.table_at = at.table_at[s];
    if (q.n_rows < 1 || q.n_rows > ATTN_DECODE_ROWS)
        return q;
    int32_t last = at.pos[q.row0 + q.n_rows - 1];
    if (last < 0) /* a row that only fills up */
        return q;
    q.begin = t.window ? max(t.key_begin, at.pos[q.row0] - t.window + 1) : t.key_begin;
    q.end = t.key_end <= last ? t.key_end : last + 1;
    q.chunks = (q.n_rows * t.group + t.chunk - 1) / t.chunk;
    /* one unit without keys writes the result where no key is seen */
    q.n_tiles = q.end > q.begin ? (q.end - 1) / DECODE_UNIT - q.begin / DECODE_UNIT + 1 : 1;
    return q;
}

/* The last sequence that begins at or before unit u: those without units begin where the next does. */
static __device__ int32_t find(const struct decode_seq *seq, int32_t n, int32_t u)
{
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        int32_t mid = (lo + hi + 1) / 2;
        if (seq[mid].first <= u)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}

/* Grid: 1; THREADS threads. A thread owns every THREADS-th sequence, then every THREADS-th run. */
static __global__ void __launch_bounds__(THREADS) plan_kernel(const struct step_dev at, const struct decode_terms t,
                                                              struct decode_seq *seq, struct decode_start *start)
{
    const int32_t n = at.n_seqs;
    int32_t total = 0;
    for (int32_t s0 = 0; s0 < n; s0 += THREADS) {
        int32_t s = s0 + threadIdx.x, units = 0, all;
        struct decode_seq q = {};
        if (s < n) {
            q = look(at, t, s);
            units = q.n_tiles * q.chunks * t.n_kv_heads;
        }
        q.first = total + sum_before<THREADS>(units, &all);
        if (s < n)
            seq[s] = q;
        total += all;
    }
    __syncthreads();
    int32_t run = max(1, (total + t.grid - 1) / t.grid);
    for (int32_t i = threadIdx.x; i < t.grid; i += THREADS) {
        struct decode_start st = {};
        int64_t u = (int64_t)i * run;
        st.run = run;
        st.n = (int32_t)max((int64_t)0, min((int64_t)run, total - u));
        if (st.n > 0) {
            st.s = find(seq, n, (int32_t)u);
            st.seq = seq[st.s];
            st.skip = (int32_t)u - st.seq.first;
        }
        start[i] = st;
    }
}

struct decode_plan attn_plan(struct cuda *c, uint64_t number, const struct step_dev *at, const struct decode_terms *t)
{
    struct attn *m = c->attn;
    assert(at->n_seqs <= m->max_seqs && t->grid <= m->max_grid);
    if (m->number != number)
        m->n_plans = m->turn = 0;
    int32_t i = 0;
    while (i < m->n_plans && memcmp(&m->terms[i], t, sizeof *t) != 0)
        i++;
    bool there = i < m->n_plans;
    if (i == ATTN_PLANS) /* the oldest goes: what is queued with it comes before its successor in the stream */
        i = m->turn++ % ATTN_PLANS;
    struct decode_seq *seq = m->seq + (size_t)i * (size_t)m->max_seqs;
    struct decode_start *start = m->start + (size_t)i * m->max_grid;
    if (there)
        return {seq, start};
    plan_kernel<<<1, THREADS, 0, c->stream>>>(*at, *t, seq, start);
    LAUNCHED();
    m->number = number;
    m->terms[i] = *t;
    m->n_plans = m->n_plans > i ? m->n_plans : i + 1;
    return {seq, start};
}
