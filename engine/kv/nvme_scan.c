/* nvme_scan - see nvme_scan.h.
 *
 * The file is cut into pieces; each thread takes the next one, reads it to its place and checks what came. A lock
 * guards which pieces are done.
 */
#include "engine/kv/nvme_scan.h"

#include "engine/base/log.h"
#include "engine/base/sys.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_SLOTS 8192 /* 4 MiB */
#define THREADS     8
#define ALONE       2 /* pieces that are not worth a thread */

struct nvme_scan {
    struct nvme_scan_opts o;
    char path[512];
    uint64_t start_ns;
    uint32_t n_pieces, known; /* known: the owner's; pieces from the first on that it need not wait for */
    uint32_t n_threads;
    pthread_t threads[THREADS];
    pthread_mutex_t lock;
    pthread_cond_t came;
    uint32_t next;                 /* under lock: piece that is taken next */
    struct nvme_scan_result found; /* under lock */
    bool *done;                    /* [n_pieces] under lock */
};

/* Bytes that came; what did not stays zero. */
static uint64_t read_piece(struct nvme_scan *s, uint64_t at, uint64_t bytes)
{
    uint8_t *to = (uint8_t *)s->o.entries + at;
    uint64_t done = 0;
    while (done < bytes) {
        ssize_t got = sys.pread(s->o.fd, to + done, bytes - done, (off_t)(s->o.off + at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            log_warn("tier index", "file=%s offset=%llu error=\"%s\" next=\"its blocks are forgotten\"", s->path,
                     (unsigned long long)(s->o.off + at + done), strerror(errno));
        if (got <= 0)
            break;
        done += (uint64_t)got;
    }
    return done;
}

static bool all_zero(const struct kv_entry *e)
{
    const uint8_t *p = (const uint8_t *)e;
    return p[0] == 0 && memcmp(p, p + 1, sizeof *e - 1) == 0;
}

static uint32_t keep_valid(struct nvme_scan *s, uint32_t from, uint32_t n)
{
    uint32_t n_damaged = 0;
    for (uint32_t i = from; i < from + n; i++) {
        struct kv_entry *e = &s->o.entries[i];
        s->o.there[i] = i < s->o.n_there && entry_valid(e, s->o.block_tokens, s->o.format);
        if (s->o.there[i])
            continue;
        n_damaged += !all_zero(e);
        memset(e, 0, sizeof *e);
    }
    return n_damaged;
}

static void do_piece(struct nvme_scan *s, uint32_t piece)
{
    uint32_t from = piece * PIECE_SLOTS, left = s->o.n_slots - from, n = left < PIECE_SLOTS ? left : PIECE_SLOTS;
    uint64_t bytes = ((uint64_t)n * ENTRY_BYTES + ENTRY_SECTOR - 1) / ENTRY_SECTOR * ENTRY_SECTOR;
    bytes = read_piece(s, (uint64_t)from * ENTRY_BYTES, bytes);
    uint32_t n_damaged = keep_valid(s, from, n);
    pthread_mutex_lock(&s->lock);
    s->found.bytes += bytes;
    s->found.n_damaged += n_damaged;
    s->found.ns = sys.now_ns() - s->start_ns;
    s->done[piece] = true;
    pthread_cond_signal(&s->came);
    pthread_mutex_unlock(&s->lock);
}

static bool take_piece(struct nvme_scan *s, uint32_t *piece)
{
    pthread_mutex_lock(&s->lock);
    bool any = s->next < s->n_pieces;
    *piece = s->next;
    s->next += any;
    pthread_mutex_unlock(&s->lock);
    return any;
}

static void *scan(void *arg)
{
    struct nvme_scan *s = arg;
    for (uint32_t piece; take_piece(s, &piece);)
        do_piece(s, piece);
    return NULL;
}

int nvme_scan_start(struct nvme_scan **out, const struct nvme_scan_opts *o)
{
    struct nvme_scan *s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    s->o = *o;
    snprintf(s->path, sizeof s->path, "%s", o->path);
    s->n_pieces = (uint32_t)(((uint64_t)o->n_slots + PIECE_SLOTS - 1) / PIECE_SLOTS);
    s->done = calloc(s->n_pieces + 1, sizeof *s->done);
    if (!s->done) {
        free(s);
        return -ENOMEM;
    }
    s->start_ns = sys.now_ns();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->came, NULL);
    while (s->n_pieces > ALONE && s->n_threads < THREADS &&
           pthread_create(&s->threads[s->n_threads], NULL, scan, s) == 0)
        s->n_threads++;
    if (s->n_threads == 0)
        scan(s);
    *out = s;
    return 0;
}

void nvme_scan_wait(struct nvme_scan *s, uint32_t slot)
{
    uint32_t piece = slot / PIECE_SLOTS;
    if (piece < s->known)
        return;
    pthread_mutex_lock(&s->lock);
    for (; s->known <= piece; s->known++)
        while (!s->done[s->known])
            pthread_cond_wait(&s->came, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

struct nvme_scan_result nvme_scan_end(struct nvme_scan *s)
{
    if (!s)
        return (struct nvme_scan_result){0};
    for (uint32_t i = 0; i < s->n_threads; i++)
        pthread_join(s->threads[i], NULL);
    struct nvme_scan_result found = s->found;
    pthread_cond_destroy(&s->came);
    pthread_mutex_destroy(&s->lock);
    free(s->done);
    free(s);
    return found;
}
