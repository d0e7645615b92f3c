/* read - matrices from model files onto the card: reading, copying and decoding overlap.
 *
 * Method. A weight is cut into pieces of whole rows, about PIECE_BYTES each, which wait in a queue. WORKERS threads
 * take them: read into pinned memory, queue the copy and the decoding on a stream of their own, and go on with the
 * other of their two buffers while the card works. So as many requests are with the drive as there are workers, and the
 * slower of drive and bus sets the pace.
 *
 * A piece that the page cache has whole is taken from there (preadv2 with RWF_NOWAIT); any other is read past the cache
 * with O_DIRECT: a model is read once, and 16 GB of it would drive out what others use. File systems without O_DIRECT
 * are read as they can.
 *
 * weight_read returns when its pieces are queued, and waits only when the queue is full. The first error stays; it is
 * told by the next call, and the rest of the queue is dropped. Threads live from the first weight_read to weight_wait.
 */
#include "cuda/cuda.cuh"

extern "C" {
#include "engine/base/sys.h"
}

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <new>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#define WORKERS     8
#define PIECE_BYTES (4u << 20)
#define QUEUE       64   /* pieces: 256 MB ahead of the drive */
#define SECTOR      4096 /* alignment of O_DIRECT */

struct piece {
    char path[512];
    uint64_t at, bytes; /* in the file */
    struct coded_rows decode;
    struct weight w;
    int32_t row, n; /* rows of w */
};

struct worker {
    pthread_t thread;
    struct reader *of;
    cudaStream_t stream;
    struct stage_slot slot[2];
    __nv_bfloat16 *wide; /* rows on their way into 8 bits */
    int turn;
    int cached, direct; /* descriptors of `path`, or -1 */
    char path[512];
};

struct reader {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* queue, busy, closing */
    struct piece queue[QUEUE];
    unsigned head, n, busy; /* n pieces from head on; busy ones are with a worker */
    bool closing;
    struct err error; /* the first; code 0: none */
    int device, n_workers;
    struct cuda *c;
    struct worker worker[WORKERS];
};

/* -- reading ----------------------------------------------------------------------------------------------------- */

static void close_files(struct worker *w)
{
    if (w->cached >= 0)
        sys.close(w->cached);
    if (w->direct >= 0)
        sys.close(w->direct);
    w->cached = w->direct = -1;
    w->path[0] = 0;
}

static int open_files(struct worker *w, const char *path, struct err *e)
{
    if (!strcmp(w->path, path))
        return 0;
    close_files(w);
    w->cached = sys.open(path, O_RDONLY | O_CLOEXEC, 0);
    if (w->cached < 0)
        return err_set(e, errno, "%s: %s", path, strerror(errno));
    w->direct = sys.open(path, O_RDONLY | O_CLOEXEC | O_DIRECT, 0);
    snprintf(w->path, sizeof w->path, "%s", path);
    return 0;
}

/* n bytes from `at` on, of which the last `spare` may lie behind the end of the file. 0 or -errno. */
static int read_whole(int fd, uint8_t *to, uint64_t n, uint64_t at, uint64_t spare)
{
    for (uint64_t got = 0; got + spare < n;) {
        ssize_t k = sys.pread(fd, to + got, n - got, (off_t)(at + got));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return k < 0 ? -errno : -EIO;
        got += (uint64_t)k;
    }
    return 0;
}

/* The first byte is asked for alone: what is not there makes the kernel read ahead, and by no more than it was asked.
 */
static bool read_cached(int fd, uint8_t *to, uint64_t n, uint64_t at)
{
    struct iovec first = {to, 1}, all = {to, n};
    return sys.preadv2(fd, &first, 1, (off_t)at, RWF_NOWAIT) == 1 &&
           sys.preadv2(fd, &all, 1, (off_t)at, RWF_NOWAIT) == (ssize_t)n;
}

/* The piece into the slot; *skip: its first byte there. */
static int read_piece(struct worker *w, struct stage_slot *s, const struct piece *p, uint64_t *skip, struct err *e)
{
    uint64_t from = p->at / SECTOR * SECTOR, end = (p->at + p->bytes + SECTOR - 1) / SECTOR * SECTOR;
    int rc = open_files(w, p->path, e);
    if (rc)
        return rc;
    stage_reserve(s, end - from);
    *skip = 0;
    if (read_cached(w->cached, (uint8_t *)s->host, p->bytes, p->at))
        return 0;
    *skip = p->at - from;
    rc = w->direct < 0 ? -EINVAL
                       : read_whole(w->direct, (uint8_t *)s->host, end - from, from, end - (p->at + p->bytes));
    if (rc == -EINVAL || rc == -EFAULT) { /* not past the cache, then */
        *skip = 0;
        rc = read_whole(w->cached, (uint8_t *)s->host, p->bytes, p->at, 0);
    }
    return rc ? err_set(e, -rc, "%s: reading %llu bytes at %llu: %s", p->path, (unsigned long long)p->bytes,
                        (unsigned long long)p->at, strerror(-rc))
              : 0;
}

static int bring(struct worker *w, struct piece *p, struct err *e)
{
    struct stage_slot *s = &w->slot[w->turn++ % 2];
    uint64_t skip;
    int rc = read_piece(w, s, p, &skip, e);
    if (rc)
        return rc;
    CU(cudaMemcpyAsync(s->dev, (uint8_t *)s->host + skip, p->bytes, cudaMemcpyHostToDevice, w->stream));
    CU(cudaEventRecord(s->copied, w->stream));
    p->decode.rows = (const uint8_t *)s->dev;
    weight_decode(w->stream, &p->w, p->row, p->n, &p->decode, w->wide);
    return 0;
}

/* -- the queue --------------------------------------------------------------------------------------------------- */

static void *work(void *arg)
{
    struct worker *w = (struct worker *)arg;
    struct reader *r = w->of;
    struct err e = {};
    CU(cudaSetDevice(r->device));
    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->n && !r->closing)
            pthread_cond_wait(&r->changed, &r->lock);
        if (!r->n)
            break;
        struct piece p = r->queue[r->head];
        bool drop = r->error.code;
        r->head = (r->head + 1) % QUEUE;
        r->n--;
        r->busy++;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->lock);
        int rc = drop ? 0 : bring(w, &p, &e);
        pthread_mutex_lock(&r->lock);
        r->busy--;
        if (rc && !r->error.code)
            r->error = e;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static void put(struct reader *r, const struct piece *p)
{
    pthread_mutex_lock(&r->lock);
    while (r->n == QUEUE)
        pthread_cond_wait(&r->changed, &r->lock);
    r->queue[(r->head + r->n) % QUEUE] = *p;
    r->n++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* Rows of a part in pieces; whole heads where the file interleaves their rows. */
static void put_part(struct reader *r, const struct weight *w, int32_t first, const struct weight_part *part)
{
    uint64_t row = quant_row_bytes(part->dtype, part->cols);
    int32_t unit = part->head_dim ? part->head_dim : 1, most = weight_rows_max(w) / unit * unit;
    int32_t at_once = (int32_t)(PIECE_BYTES / row) / unit * unit;
    at_once = at_once < unit ? unit : at_once;
    at_once = at_once > most && most ? most : at_once;
    for (int32_t i = 0; i < part->rows; i += at_once) {
        struct piece p = {};
        int32_t n = part->rows - i < at_once ? part->rows - i : at_once;
        snprintf(p.path, sizeof p.path, "%s", part->path);
        p.at = part->at + (uint64_t)i * row;
        p.bytes = (uint64_t)n * row;
        p.decode = {NULL, part->dtype, part->cols, part->head_dim};
        p.w = *w;
        p.row = first + i;
        p.n = n;
        put(r, &p);
    }
}

/* -- open and close ---------------------------------------------------------------------------------------------- */

/* When the queue is empty; the first error, code 0 when there was none. */
static struct err reader_close(struct reader *r)
{
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    for (int i = 0; i < r->n_workers; i++) {
        struct worker *w = &r->worker[i];
        pthread_join(w->thread, NULL);
        CU(cudaStreamSynchronize(w->stream));
        CU(cudaStreamDestroy(w->stream));
        stage_free(&w->slot[0]);
        stage_free(&w->slot[1]);
        CU(cudaFree(w->wide));
        close_files(w);
    }
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    r->c->reader = NULL;
    struct err error = r->error;
    delete r;
    return error;
}

static int reader_open(struct cuda *c, struct err *e)
{
    struct reader *r = new (std::nothrow) reader{};
    if (!r)
        return err_set(e, ENOMEM, "no memory to read the model with");
    c->reader = r;
    r->c = c;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    CU(cudaGetDevice(&r->device));
    for (int i = 0; i < WORKERS; i++) {
        struct worker *w = &r->worker[i];
        w->of = r;
        w->cached = w->direct = -1;
        CU(cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking));
        int rc = pthread_create(&w->thread, NULL, work, w);
        if (rc) {
            CU(cudaStreamDestroy(w->stream));
            if (i)
                break; /* fewer will do */
            reader_close(r);
            return err_set(e, rc, "no thread to read the model with: %s", strerror(rc));
        }
        r->n_workers++;
    }
    return 0;
}

/* The workers' rows in bfloat16, before a weight in 8 bits is queued. */
static bool take_wide(struct reader *r)
{
    for (int i = 0; i < r->n_workers; i++)
        if (!r->worker[i].wide && cudaMalloc(&r->worker[i].wide, WEIGHT_WIDE_BYTES) != cudaSuccess) {
            cudaGetLastError();
            return false;
        }
    return true;
}

static int reader_error(struct reader *r, struct err *e)
{
    pthread_mutex_lock(&r->lock);
    int rc = r->error.code ? err_set(e, r->error.code, "%s", r->error.text) : 0;
    pthread_mutex_unlock(&r->lock);
    return rc;
}

int cuda_weight_read(struct backend *be, struct weight *out, const struct weight_part *parts, int n_parts,
                     struct err *e)
{
    struct cuda *c = cuda_of(be);
    int rc = c->reader ? reader_error(c->reader, e) : reader_open(c, e);
    if (!rc && parts[0].keep && !take_wide(c->reader))
        rc = err_set(e, ENOMEM, "no memory on the GPU to turn weights into 8 bits");
    if (!rc)
        rc = weight_open(c, out, parts, n_parts, e);
    if (rc)
        return rc;
    CU(cudaStreamSynchronize(c->stream)); /* its memory is zeroed before the workers write */
    for (int32_t i = 0, first = 0; i < n_parts; first += parts[i++].rows)
        put_part(c->reader, out, first, &parts[i]);
    return 0;
}

int cuda_weight_wait(struct backend *be, struct err *e)
{
    struct reader *r = cuda_of(be)->reader;
    if (!r)
        return 0;
    struct err error = reader_close(r);
    return error.code ? err_set(e, error.code, "%s", error.text) : 0;
}

void reader_stop(struct cuda *c)
{
    struct reader *r = c->reader;
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    if (!r->error.code)
        err_set(&r->error, ECANCELED, "loading was stopped");
    pthread_mutex_unlock(&r->lock);
    reader_close(r);
}
