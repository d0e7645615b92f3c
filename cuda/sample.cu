/* sample - tokens are chosen by the CPU twin on host threads: the logits come down, rows are shared out.
 *
 * Cost: R V 4 bytes over PCIe and one pass of sample_row_cpu a row. Exact, since it is the same code.
 */
#include "cuda/cuda.cuh"

extern "C" {
#include "engine/compute/cpu_fast_pool.h"
}

#include <assert.h>
#include <errno.h>
#include <new>
#include <stdlib.h>

#define SAMPLER_THREADS 8 /* at most */

struct sampler {
    struct fast_pool *pool;
    float *scratch; /* [threads][2 * max_vocab] */
    int32_t max_vocab;
    struct stage_slot logits, drawn; /* only their host parts are used */
};

struct sample_job {
    const float *logits;
    int32_t vocab;
    const struct sample_row *rows;
    struct sample_out *out;
    struct sampler *s;
};

static void sample_piece(void *ctx, int32_t piece, int32_t thread)
{
    const struct sample_job *j = (const struct sample_job *)ctx;
    sample_row_cpu(j->logits + (size_t)piece * j->vocab, j->vocab, &j->rows[piece], &j->out[piece],
                   j->s->scratch + (size_t)thread * 2 * (size_t)j->s->max_vocab);
}

void cuda_sample(struct backend *be, const float *logits, int32_t vocab, const struct sample_row *rows,
                 struct sample_out *out, int32_t n)
{
    struct cuda *c = cuda_of(be);
    struct sampler *s = c->sampler;
    size_t bytes = (size_t)n * (size_t)vocab * sizeof *logits;
    assert(vocab <= s->max_vocab);
    stage_reserve(&s->logits, bytes);
    CU(cudaMemcpyAsync(s->logits.host, logits, bytes, cudaMemcpyDeviceToHost, c->stream));
    CU(cudaStreamSynchronize(c->stream));
    struct sample_job job = {(const float *)s->logits.host, vocab, rows, out, s};
    fast_pool_run(s->pool, sample_piece, &job, n);
    stage_reserve(&s->drawn, (size_t)n * sizeof(int32_t));
    for (int32_t i = 0; i < n; i++) {
        assert(rows[i].after == 0);
        ((int32_t *)s->drawn.host)[i] = out[i].id;
    }
    CU(cudaMemcpyAsync(c->drawn, s->drawn.host, (size_t)n * sizeof(int32_t), cudaMemcpyHostToDevice, c->stream));
    CU(cudaEventRecord(s->drawn.copied, c->stream));
}

int sampler_open(struct sampler **out, int32_t threads, int32_t max_vocab, struct err *e)
{
    struct sampler *s = new (std::nothrow) sampler{};
    int rc = -ENOMEM;
    threads = threads < 1 ? 1 : threads > SAMPLER_THREADS ? SAMPLER_THREADS : threads;
    if (s)
        s->scratch = (float *)malloc((size_t)threads * 2 * ((size_t)max_vocab + 1) * sizeof *s->scratch);
    if (!s || !s->scratch) {
        rc = err_set(e, ENOMEM, "cuda: no memory for the sampler over %d logits", max_vocab);
        goto fail;
    }
    s->max_vocab = max_vocab;
    rc = fast_pool_open(&s->pool, threads, e);
    if (rc)
        goto fail;
    *out = s;
    return 0;
fail:
    sampler_close(s);
    return rc;
}

void sampler_close(struct sampler *s)
{
    if (!s)
        return;
    stage_free(&s->logits);
    stage_free(&s->drawn);
    fast_pool_close(s->pool);
    free(s->scratch);
    delete s;
}
