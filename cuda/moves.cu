/* moves - blocks between the KV pool on the card and pinned host memory, on a stream for each direction, beside the
 * steps. See backend.h.
 *
 * A move is a copy by the DMA engines and a seal kernel that reads the block on the card once (before the copy down,
 * after the copy up) and writes the sums to the host by itself; then an event. Copies and seals have a stream each, so
 * that copies stand one behind the other. Nothing else is queued: a small copy of the sums, or a call to the host
 * between two moves, costs more than a block of 1 MiB. The bell hangs at a stream of its own, on the oldest move under
 * way in its direction, and is hung again when that was taken. Down waits for an event of the steps' stream; up waits
 * for nothing, the caller knows that no step names the block.
 *
 * Host memory is pinned in pieces by a thread of its own, from the beginning on, since gigabytes take seconds; a move
 * whose piece is not pinned yet is refused for now.
 *
 * Cost: bytes / link each way; the seal reads bytes once from device memory. A kernel of a step that finds a block of
 * seal threads on an SM waits for it there, and the step for its slowest SM: so seals are short, one read of four
 * chunks a warp on all SMs for 8 MiB. What they cost a step is in NOTES.md.
 */
#include "cuda/cuda.cuh"

extern "C" {
#include "engine/base/log.h"
#include "engine/base/sys.h"
}

#include <assert.h>
#include <atomic>
#include <errno.h>
#include <new>
#include <pthread.h>
#include <stdlib.h>

#define PIECE   (1ull << 30)
#define THREADS 256
#define WARPS   (THREADS / 32)
#define PER_SM  2                 /* blocks of threads */
#define AHEAD   4                 /* chunks that a warp reads at a time */
#define WORDS   (SEAL_PAIRS / 32) /* of a chunk that a lane takes */

struct move_flight { /* one move under way */
    struct backend_move *m;
    cudaEvent_t between; /* its copy and its seal, */
    cudaEvent_t done;    /* and after both */
};

struct move_lane { /* a direction */
    cudaStream_t copies, seals;
    struct move_flight *ring; /* [depth] */
    uint32_t first, n;
    uint64_t *sums;      /* [depth][3] on the card: two sums, blocks of threads that are done; zero between moves */
    uint64_t *host_sums; /* [depth][2] pinned */
    cudaStream_t bell_stream;
    std::atomic<bool> hangs; /* the bell, on a move under way */
    int bell;
};

struct moves {
    uint32_t depth;
    struct move_lane lanes[2]; /* down, up */
    cudaEvent_t queued;        /* on the steps' stream */
    struct seal_key *key;      /* on the card */
    uint64_t length[2];        /* multipliers of the length */
    uint8_t *host;
    size_t host_bytes;
    std::atomic<size_t> pinned; /* bytes from the beginning that are */
    std::atomic<bool> quit;
    pthread_t pinner;
};

/* -- seals: a warp takes AHEAD chunks, WORDS words a lane of each, and the next ones; a block of threads adds up before
 * it goes to memory. A lane multiplies its own part of a chunk: sums are linear. */

static __device__ uint64_t pair_product(uint64_t w, uint64_t k)
{
    return (uint64_t)((uint32_t)w + (uint32_t)k) * (uint32_t)((uint32_t)(w >> 32) + (uint32_t)(k >> 32));
}

/* The last block of threads hands the sums to the host and leaves zeros. */
static __device__ void hand_over(uint64_t *sums, uint64_t *host)
{
    __threadfence();
    if (atomicAdd((unsigned long long *)&sums[2], 1ull) + 1 != gridDim.x)
        return;
    for (int i = 0; i < 2; i++)
        host[i] = atomicExch((unsigned long long *)&sums[i], 0ull);
    sums[2] = 0;
    __threadfence_system();
}

/* A lane's words of chunk c; zeros behind the end, whose products are not added. */
static __device__ void read_chunk(uint64_t w[WORDS], const uint64_t *words, uint64_t n_words, uint64_t c)
{
    const uint64_t from = c * SEAL_PAIRS + threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        w[i] = from + 32 * i < n_words ? words[from + 32 * i] : 0;
}

static __device__ void add_chunk(uint64_t sum[2], const uint64_t w[WORDS], const uint64_t k[2][WORDS],
                                 const seal_key *key, uint64_t n_words, uint64_t c)
{
    const uint64_t from = c * SEAL_PAIRS + threadIdx.x % 32;
    uint64_t x[2] = {};
#pragma unroll
    for (int i = 0; i < WORDS; i++)
        if (from + 32 * i < n_words) {
            x[0] += pair_product(w[i], k[0][i]);
            x[1] += pair_product(w[i], k[1][i]);
        }
    sum[0] += x[0] * seal_multiplier(key->chunk[0], c);
    sum[1] += x[1] * seal_multiplier(key->chunk[1], c);
}

/* Grid: at most PER_SM an SM. Block: THREADS. sums [3] zero; host [2], pinned. Memory bound. */
static __global__ void __launch_bounds__(THREADS, 2)
    seal_kernel(uint64_t *sums, uint64_t *host, const uint64_t *words, uint64_t n_words, const seal_key *key)
{
    __shared__ uint64_t part[2][WARPS];
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint64_t step = (uint64_t)gridDim.x * WARPS;
    uint64_t k[2][WORDS], sum[2] = {};
    for (int i = 0; i < WORDS; i++) {
        k[0][i] = key->pair[0][lane + 32 * i];
        k[1][i] = key->pair[1][lane + 32 * i];
    }
    for (uint64_t c = (uint64_t)blockIdx.x * WARPS + warp; c * SEAL_PAIRS < n_words; c += AHEAD * step) {
        uint64_t w[AHEAD][WORDS];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            read_chunk(w[i], words, n_words, c + i * step);
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            add_chunk(sum, w[i], k, key, n_words, c + i * step);
    }
    for (int o = 16; o > 0; o /= 2)
        for (int i = 0; i < 2; i++)
            sum[i] += __shfl_down_sync(~0u, sum[i], o);
    if (lane == 0)
        for (int i = 0; i < 2; i++)
            part[i][warp] = sum[i];
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (int i = 0; i < 2; i++) {
        uint64_t all = 0;
        for (int w = 0; w < WARPS; w++)
            all += part[i][w];
        atomicAdd((unsigned long long *)&sums[i], (unsigned long long)all);
    }
    hand_over(sums, host);
}

static void queue_seal(struct cuda *c, struct move_lane *l, uint32_t at)
{
    const struct backend_move *m = l->ring[at].m;
    const uint64_t words = m->bytes / 8, chunks = (words + SEAL_PAIRS - 1) / SEAL_PAIRS;
    const uint64_t blocks = (chunks + WARPS - 1) / WARPS, most = PER_SM * (uint64_t)c->n_sm;
    seal_kernel<<<(unsigned)(blocks < most ? blocks : most), THREADS, 0, l->seals>>>(
        l->sums + 3 * at, l->host_sums + 2 * at, (const uint64_t *)m->device, words, c->moves->key);
    LAUNCHED();
}

static void queue_copy(struct move_lane *l, const struct backend_move *m)
{
    if (m->up)
        CU(cudaMemcpyAsync(m->device, m->host, m->bytes, cudaMemcpyHostToDevice, l->copies));
    else
        CU(cudaMemcpyAsync(m->host, m->device, m->bytes, cudaMemcpyDeviceToHost, l->copies));
}

/* -- moving */

static void CUDART_CB ring(void *arg)
{
    struct move_lane *l = (struct move_lane *)arg;
    uint64_t one = 1;
    l->hangs.store(false); /* first: who is woken by the bell hangs it again */
    if (sys.write(l->bell, &one, sizeof one) < 0)
        return; /* it rings already */
}

static void hang_bell(struct move_lane *l)
{
    if (l->bell < 0 || l->n == 0 || l->hangs.exchange(true))
        return;
    CU(cudaStreamWaitEvent(l->bell_stream, l->ring[l->first].done, 0));
    CU(cudaLaunchHostFunc(l->bell_stream, ring, l));
}

int cuda_move(struct backend *be, struct backend_move *m)
{
    struct cuda *c = cuda_of(be);
    struct moves *v = c->moves;
    struct move_lane *l = &v->lanes[m->up];
    assert(m->bytes % 8 == 0 && (uint8_t *)m->host >= v->host && m->bytes <= v->host_bytes);
    size_t end = (size_t)((uint8_t *)m->host - v->host) + m->bytes;
    if (l->n == v->depth || end > v->pinned.load(std::memory_order_acquire))
        return -EAGAIN;
    uint32_t at = (l->first + l->n) % v->depth;
    struct move_flight *f = &l->ring[at];
    cudaStream_t first = m->up ? l->copies : l->seals, then = m->up ? l->seals : l->copies;
    f->m = m;
    if (m->up) {
        queue_copy(l, m);
    } else {
        CU(cudaEventRecord(v->queued, c->stream));
        CU(cudaStreamWaitEvent(first, v->queued, 0));
        queue_seal(c, l, at);
    }
    CU(cudaEventRecord(f->between, first));
    CU(cudaStreamWaitEvent(then, f->between, 0));
    if (m->up)
        queue_seal(c, l, at);
    else
        queue_copy(l, m);
    CU(cudaEventRecord(f->done, then));
    l->n++;
    hang_bell(l);
    return 0;
}

static void take_done(struct moves *v, struct move_lane *l, struct backend_move ***last)
{
    while (l->n > 0) {
        struct move_flight *f = &l->ring[l->first];
        cudaError_t rc = cudaEventQuery(f->done);
        if (rc == cudaErrorNotReady)
            return;
        CU(rc);
        for (int i = 0; i < 2; i++)
            f->m->seal.v[i] = l->host_sums[2 * l->first + i] + f->m->bytes * v->length[i];
        f->m->next = NULL;
        **last = f->m;
        *last = &f->m->next;
        l->first = (l->first + 1) % v->depth;
        l->n--;
    }
}

struct backend_move *cuda_moved(struct backend *be)
{
    struct moves *v = cuda_of(be)->moves;
    struct backend_move *list = NULL, **last = &list;
    for (int i = 0; i < 2; i++) {
        take_done(v, &v->lanes[i], &last);
        hang_bell(&v->lanes[i]);
    }
    return list;
}

/* -- open and close */

static void *pin(void *arg)
{
    struct moves *v = (struct moves *)arg;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed; /* a step may be recorded meanwhile */
    CU(cudaSetDevice(0));
    CU(cudaThreadExchangeStreamCaptureMode(&mode));
    for (size_t at = 0; at < v->host_bytes && !v->quit.load(); at += PIECE) {
        size_t n = v->host_bytes - at < PIECE ? v->host_bytes - at : PIECE;
        cudaError_t rc = cudaHostRegister(v->host + at, n, cudaHostRegisterDefault);
        if (rc != cudaSuccess) {
            cudaGetLastError();
            log_error("cuda pin", "bytes=%zu of=%zu error=\"%s\" next=\"KV moves no further than that\"", at,
                      v->host_bytes, cudaGetErrorString(rc));
            break;
        }
        v->pinned.store(at + n, std::memory_order_release);
    }
    return NULL;
}

static void lane_open(struct move_lane *l, uint32_t depth, int bell)
{
    l->bell = bell;
    CU(cudaStreamCreateWithFlags(&l->bell_stream, cudaStreamNonBlocking));
    CU(cudaStreamCreateWithFlags(&l->copies, cudaStreamNonBlocking));
    CU(cudaStreamCreateWithFlags(&l->seals, cudaStreamNonBlocking));
    CU(cudaMalloc(&l->sums, depth * 24));
    CU(cudaMemset(l->sums, 0, depth * 24));
    CU(cudaHostAlloc(&l->host_sums, depth * 16, cudaHostAllocDefault));
    l->ring = new struct move_flight[depth]();
    for (uint32_t i = 0; i < depth; i++) {
        CU(cudaEventCreateWithFlags(&l->ring[i].between, cudaEventDisableTiming));
        CU(cudaEventCreateWithFlags(&l->ring[i].done, cudaEventDisableTiming));
    }
}

static void lane_close(struct move_lane *l, uint32_t depth)
{
    CU(cudaStreamSynchronize(l->copies));
    CU(cudaStreamSynchronize(l->seals));
    CU(cudaStreamSynchronize(l->bell_stream));
    CU(cudaStreamDestroy(l->bell_stream));
    for (uint32_t i = 0; i < depth; i++) {
        CU(cudaEventDestroy(l->ring[i].between));
        CU(cudaEventDestroy(l->ring[i].done));
    }
    delete[] l->ring;
    CU(cudaFree(l->sums));
    CU(cudaFreeHost(l->host_sums));
    CU(cudaStreamDestroy(l->copies));
    CU(cudaStreamDestroy(l->seals));
}

int cuda_moves_open(struct backend *be, const struct seal_key *key, void *host, size_t host_bytes, uint32_t depth,
                    int bell, struct err *e)
{
    struct cuda *c = cuda_of(be);
    assert(!c->moves && depth > 0);
    struct moves *v = new (std::nothrow) moves{};
    if (!v)
        return err_set(e, ENOMEM, "cuda: out of memory");
    v->depth = depth;
    v->host = (uint8_t *)host;
    v->host_bytes = host_bytes;
    for (int i = 0; i < 2; i++) {
        lane_open(&v->lanes[i], depth, bell);
        v->length[i] = seal_multiplier(key->chunk[i], SEAL_LENGTH);
    }
    CU(cudaEventCreateWithFlags(&v->queued, cudaEventDisableTiming));
    CU(cudaMalloc(&v->key, sizeof *key));
    CU(cudaMemcpy(v->key, key, sizeof *key, cudaMemcpyHostToDevice));
    int rc = pthread_create(&v->pinner, NULL, pin, v);
    if (rc) {
        v->pinner = 0;
        c->moves = v;
        cuda_moves_close(be);
        return err_set(e, rc, "cuda: thread that pins memory: %d", rc);
    }
    c->moves = v;
    return 0;
}

void cuda_moves_close(struct backend *be)
{
    struct cuda *c = cuda_of(be);
    struct moves *v = c->moves;
    if (!v)
        return;
    v->quit.store(true);
    if (v->pinner)
        pthread_join(v->pinner, NULL);
    for (int i = 0; i < 2; i++)
        lane_close(&v->lanes[i], v->depth);
    for (size_t at = 0; at < v->pinned.load(); at += PIECE)
        CU(cudaHostUnregister(v->host + at));
    CU(cudaEventDestroy(v->queued));
    CU(cudaFree(v->key));
    delete v;
    c->moves = NULL;
}
