/* ops_truth - see the header. */
#include "tests/support/ops_truth.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

void ops_attn_random(struct attn_args *a, struct ops_rng *r, const struct ops_kv_case *c, const float *sink)
{
    static const int32_t windows[] = {0, 0, 0, 1, 7, 64, 100};
    *a = (struct attn_args){
        .q = c->qkv,
        .q_stride = (int64_t)(c->n_heads + 2 * (int32_t)c->kv.n_kv_heads) * c->kv.head_dim,
        .step = &c->step,
        .kv = &c->kv,
        .n_heads = c->n_heads,
        .scale = 1 / sqrtf((float)c->kv.head_dim),
        .window = ops_pick(r, windows, 7),
        .sink = ops_int(r, 0, 1) ? sink : NULL,
        .key_end = INT32_MAX,
    };
    if (ops_int(r, 0, 2) == 0)
        a->key_begin = ops_int(r, 0, 100);
    if (ops_int(r, 0, 2) == 0)
        a->key_end = a->key_begin + ops_int(r, 0, 150);
}

static bool sees(const struct attn_args *a, int32_t pos, int32_t key)
{
    return key <= pos && key >= a->key_begin && key < a->key_end && (!a->window || key > pos - a->window);
}

double ops_attend(const struct ops_kv_case *c, const struct attn_args *a, int32_t th, double *o, double *size)
{
    int32_t t = th / a->n_heads, h = th % a->n_heads, s = c->step.row_seq[t], pos = c->step.pos[t];
    int32_t d = (int32_t)c->kv.head_dim, g_n = (int32_t)c->kv.n_kv_heads, g = h / (a->n_heads / g_n);
    const float *q = a->q + t * a->q_stride + (ptrdiff_t)h * d;
    bool sink = a->sink && a->key_begin == 0;
    double *score = malloc(((size_t)pos + 1) * sizeof *score), max = sink ? a->sink[h] : -INFINITY, sum = 0;
    assert(score);
    for (int32_t j = 0; j <= pos; j++) {
        const float *k = c->k[s] + ((ptrdiff_t)j * g_n + g) * d;
        score[j] = -INFINITY;
        if (!sees(a, pos, j))
            continue;
        double dot = 0;
        for (int32_t i = 0; i < d; i++)
            dot += (double)q[i] * k[i];
        score[j] = dot * a->scale;
        max = fmax(max, score[j]);
    }
    for (int32_t i = 0; i < d; i++)
        o[i] = size[i] = 0;
    for (int32_t j = 0; j <= pos && max > -INFINITY; j++)
        sum += score[j] = exp(score[j] - max);
    sum += sink ? exp(a->sink[h] - max) : 0;
    for (int32_t j = 0; j <= pos && sum > 0; j++) {
        const float *v = c->v[s] + ((ptrdiff_t)j * g_n + g) * d;
        double p = score[j] / sum;
        for (int32_t i = 0; p > 0 && i < d; i++) {
            o[i] += p * v[i];
            size[i] += p * fabs(v[i]);
        }
    }
    free(score);
    return max + log(sum);
}
