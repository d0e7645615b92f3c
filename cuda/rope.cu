/* rope - rotary embedding of q and k, and the KV write, in one launch.
 *
 * Bytes: the row of qkv once in and (q and k) once out, K and V once out: a few KB a row, so the launch is what it
 * costs. Cosine and sine of a position are the same in every layer: the first layer of a step computes them (the angle
 * in double, as in cpu_ref), the others read them.
 */
#include "cuda/early.cuh"
#include "cuda/kv.cuh"

#include <string.h>

#define THREADS 256

struct rope_kernel_args {
    float *qkv;
    const float2 *turn; /* [T][D/2] cosine and sine */
    struct kv_view kv;
    struct step_dev step;
    int32_t n_heads;
};

/* Grid: rows; a thread owns pairs. */
static __global__ void turn_kernel(float2 *turn, const int32_t *pos, const float *inv_freq, int32_t half, float factor)
{
    for (int32_t i = threadIdx.x; i < half; i += blockDim.x) {
        double c, s;
        sincos((double)pos[blockIdx.x] * inv_freq[i], &s, &c);
        turn[(size_t)blockIdx.x * half + i] = {(float)(c * factor), (float)(s * factor)};
    }
}

/* Grid: rows x runs of THREADS pairs or elements. The pairs (i, i + D/2) of the row's q heads, then of its k heads,
 * then pairs of elements of v: a thread owns one. */
static __global__ void rope_kernel(const struct rope_kernel_args a)
{
    early_next();
    early_wait();
    const int32_t t = blockIdx.x, half = (int32_t)a.kv.head_dim / 2, g_n = (int32_t)a.kv.n_kv_heads;
    const int32_t n = blockIdx.y * THREADS + threadIdx.x, h = n / half, i = n % half, pos = a.step.pos[t];
    if (pos < 0 || h >= a.n_heads + 2 * g_n)
        return;
    float *x = a.qkv + ((size_t)t * (size_t)(a.n_heads + 2 * g_n) + (size_t)h) * 2 * (size_t)half + i;
    float u = x[0], v = x[half];
    int is_v = h >= a.n_heads + g_n;
    if (!is_v) {
        float2 turn = a.turn[(size_t)t * half + i];
        float p = u * turn.x - v * turn.y, q = v * turn.x + u * turn.y;
        x[0] = u = p;
        x[half] = v = q;
    }
    if (h < a.n_heads)
        return;
    const int32_t *table = a.step.table + a.step.table_at[a.step.row_seq[t]];
    const int32_t g = h - a.n_heads - (is_v ? g_n : 0);
    const float scale = kv_scale(&a.kv, (uint32_t)g, is_v);
    uint8_t *row = kv_at(a.kv, table, pos, g, is_v);
    kv_put(a.kv, row, i, u, scale);
    kv_put(a.kv, row, i + half, v, scale);
}

/* inv_freq on the card: sent when it is not the one that is there. */
static const float *send_inv_freq(struct cuda *c, const float *host, int32_t half)
{
    size_t bytes = (size_t)half * sizeof *host;
    if (memcmp(c->inv_freq_host, host, bytes) != 0) {
        memcpy(c->inv_freq_host, host, bytes);
        CU(cudaMemcpyAsync(c->inv_freq, c->inv_freq_host, bytes, cudaMemcpyHostToDevice, c->stream));
    }
    return c->inv_freq;
}

/* Cosines and sines of the step, unless they are there. */
static void make_turns(struct cuda *c, const struct rope_args *a, const struct step_dev *at)
{
    int32_t half = (int32_t)a->kv->head_dim / 2;
    bool same = memcmp(c->inv_freq_host, a->inv_freq, (size_t)half * sizeof *a->inv_freq) == 0;
    if (same && c->turns.number == a->step->number && c->turns.factor == a->attn_factor)
        return;
    const float *inv_freq = send_inv_freq(c, a->inv_freq, half);
    turn_kernel<<<(unsigned)a->step->n_rows, BACKEND_HEAD_DIM_MAX / 2, 0, c->stream>>>(c->turn, at->pos, inv_freq, half,
                                                                                       a->attn_factor);
    LAUNCHED();
    c->turns = {a->step->number, a->attn_factor};
}

void cuda_rope_kv(struct backend *be, const struct rope_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct step_dev *at = stage_step(c, a->step);
    int32_t pairs = (a->n_heads + 2 * (int32_t)a->kv->n_kv_heads) * (int32_t)a->kv->head_dim / 2;
    make_turns(c, a, at);
    struct rope_kernel_args k = {a->qkv, c->turn, *a->kv, *at, a->n_heads};
    dim3 grid((unsigned)a->step->n_rows, (unsigned)(pairs + THREADS - 1) / THREADS);
    launch_early(c, rope_kernel, grid, THREADS, k);
}
