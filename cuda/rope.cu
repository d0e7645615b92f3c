/* rope - rotary embedding of q and k, and the KV write, in one launch.
 *
 * Bytes: the row of qkv once in and (q and k) once out, K and V once out: a few KB a row, so the launch is what it
 * costs. The angle is taken in double, as in cpu_ref; cosine and sine serve all heads of the row.
 */
#include "cuda/kv.cuh"

#include <string.h>

#define THREADS 256

struct rope_kernel_args {
    float *qkv;
    const float *inv_freq;
    struct kv_view kv;
    struct step_dev step;
    int32_t n_heads;
    float factor;
};

/* Grid: rows. A thread takes every THREADS-th pair (i, i + D/2) of the row's q and k heads, then elements of v. */
static __global__ void rope_kernel(const struct rope_kernel_args a)
{
    __shared__ float cosine[BACKEND_HEAD_DIM_MAX / 2], sine[BACKEND_HEAD_DIM_MAX / 2];
    const int32_t t = blockIdx.x, d = (int32_t)a.kv.head_dim, half = d / 2, g_n = (int32_t)a.kv.n_kv_heads;
    const int32_t pos = a.step.pos[t], *table = a.step.table + a.step.table_at[a.step.row_seq[t]];
    for (int32_t i = threadIdx.x; i < half; i += THREADS) {
        double c, s;
        sincos((double)pos * a.inv_freq[i], &s, &c);
        cosine[i] = (float)(c * a.factor);
        sine[i] = (float)(s * a.factor);
    }
    __syncthreads();
    float *row = a.qkv + (size_t)t * (size_t)(a.n_heads + 2 * g_n) * (size_t)d;
    for (int32_t n = threadIdx.x; n < (a.n_heads + g_n) * half; n += THREADS) {
        int32_t h = n / half, i = n % half;
        float *x = row + (size_t)h * d + i, u = x[0], v = x[half], c = cosine[i], s = sine[i];
        x[0] = u * c - v * s;
        x[half] = v * c + u * s;
        if (h >= a.n_heads) {
            uint8_t *k = kv_at(a.kv, table, pos, h - a.n_heads, 0);
            kv_put(a.kv, k, i, x[0]);
            kv_put(a.kv, k, i + half, x[half]);
        }
    }
    const float *v = row + (size_t)(a.n_heads + g_n) * d;
    for (int32_t n = threadIdx.x; n < g_n * d; n += THREADS)
        kv_put(a.kv, kv_at(a.kv, table, pos, n / d, 1), n % d, v[n]);
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

void cuda_rope_kv(struct backend *be, const struct rope_args *a)
{
    struct cuda *c = cuda_of(be);
    const struct kv_view *kv = a->kv;
    int32_t d = (int32_t)kv->head_dim;
    struct rope_kernel_args k = {
        a->qkv, send_inv_freq(c, a->inv_freq, d / 2), *kv, *stage_step(c, a->step), a->n_heads, a->attn_factor};
    rope_kernel<<<(unsigned)a->step->n_rows, THREADS, 0, c->stream>>>(k);
    LAUNCHED();
}
