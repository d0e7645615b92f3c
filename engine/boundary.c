/* boundary - see boundary.h. */
#include "engine/boundary.h"

#include "engine/base/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

/* The arena is sparse: pages cost memory once a prompt was long enough to touch them. */
const struct boundary_sizes boundary_default_sizes = {1 << 18, 1 << 22, 256u << 20};

static void bind_parts(struct boundary *b)
{
    struct boundary_head *h = b->head;
    uint8_t *base = (uint8_t *)h;
    ring_attach(&b->in, base + h->in_at, h->in_cap);
    ring_attach(&b->out, base + h->out_at, h->out_cap);
    b->arena = base + h->arena_at;
    b->arena_bytes = h->arena_bytes;
}

static uint64_t page_up(uint64_t n)
{
    return (n + 4095) & ~(uint64_t)4095;
}

static void fill_head(struct boundary_head *h, const struct engine_config *c, uint32_t generation,
                      const struct boundary_sizes *z)
{
    h->in_at = page_up(sizeof *h);
    h->in_cap = z->in_cap;
    h->out_at = page_up(h->in_at + ring_shared_bytes(z->in_cap));
    h->out_cap = z->out_cap;
    h->arena_at = page_up(h->out_at + ring_shared_bytes(z->out_cap));
    h->arena_bytes = z->arena_bytes;
    h->total_bytes = h->arena_at + page_up(z->arena_bytes);
    h->version = BOUNDARY_VERSION;
    h->head_bytes = sizeof *h;
    h->generation = generation;
    h->config = *c;
    h->magic = BOUNDARY_MAGIC;
}

int boundary_create(struct boundary *b, const struct engine_config *c, uint32_t generation,
                    const struct boundary_sizes *sizes, struct err *e)
{
    struct boundary_head plan;
    memset(&plan, 0, sizeof plan);
    fill_head(&plan, c, generation, sizes);
    memset(b, 0, sizeof *b);
    b->memfd = b->wake_engine = b->wake_front = -1;

    int ret = 0;
    void *map = MAP_FAILED;
    b->memfd = sys.memfd_create("hearth-engine", MFD_CLOEXEC);
    if (b->memfd < 0 || sys.ftruncate(b->memfd, (off_t)plan.total_bytes) != 0)
        goto fail;
    map = sys.mmap(NULL, plan.total_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->memfd, 0);
    if (map == MAP_FAILED)
        goto fail;
    b->head = map;
    b->mapped = plan.total_bytes;
    b->wake_engine = sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->wake_front = sys.eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->wake_engine < 0 || b->wake_front < 0)
        goto fail;
    memcpy(b->head, &plan, sizeof plan);
    bind_parts(b);
    return 0;
fail:
    ret = err_set(e, errno ? errno : ENOMEM, "engine segment of %llu bytes: %s", (unsigned long long)plan.total_bytes,
                  strerror(errno));
    boundary_close(b);
    return ret;
}

/* Does [at, at + bytes) lie in the segment, page-aligned and after the header? */
static bool part_fits(const struct boundary_head *h, uint64_t at, uint64_t bytes)
{
    return at >= sizeof *h && at % 4096 == 0 && at <= h->total_bytes && bytes <= h->total_bytes - at;
}

static bool ring_fits(const struct boundary_head *h, uint64_t at, uint64_t cap)
{
    return cap >= 64 && cap <= 1u << 30 && (cap & (cap - 1)) == 0 && part_fits(h, at, ring_shared_bytes(cap));
}

int boundary_attach(struct boundary *b, int memfd, int wake_engine, int wake_front, struct err *e)
{
    struct stat st;
    memset(b, 0, sizeof *b);
    b->memfd = memfd;
    b->wake_engine = wake_engine;
    b->wake_front = wake_front;
    int ret;
    if (sys.fstat(memfd, &st) != 0 || st.st_size < (off_t)sizeof(struct boundary_head)) {
        ret = err_set(e, EINVAL, "engine segment: descriptor %d is no segment", memfd);
        goto fail;
    }
    b->mapped = (size_t)st.st_size;
    void *map = sys.mmap(NULL, b->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (map == MAP_FAILED) {
        ret = err_set(e, errno, "engine segment of %zu bytes: %s", b->mapped, strerror(errno));
        goto fail;
    }
    b->head = map;
    const struct boundary_head *h = b->head;
    if (h->magic != BOUNDARY_MAGIC || h->version != BOUNDARY_VERSION || h->head_bytes != sizeof *h ||
        h->total_bytes != b->mapped || !ring_fits(h, h->in_at, h->in_cap) || !ring_fits(h, h->out_at, h->out_cap) ||
        !part_fits(h, h->arena_at, h->arena_bytes)) {
        ret = err_set(e, EPROTO, "engine segment: header of version %u does not fit this program (version %u)",
                      h->version, BOUNDARY_VERSION);
        goto fail;
    }
    bind_parts(b);
    return 0;
fail:
    boundary_close(b);
    return ret;
}

void boundary_close(struct boundary *b)
{
    if (b->head)
        sys.munmap(b->head, b->mapped);
    for (int i = 0; i < 3; i++) {
        int fd = i == 0 ? b->memfd : i == 1 ? b->wake_engine : b->wake_front;
        if (fd >= 0)
            sys.close(fd);
    }
    memset(b, 0, sizeof *b);
    b->memfd = b->wake_engine = b->wake_front = -1;
}

void boundary_wake(int fd)
{
    uint64_t one = 1;
    ssize_t n = sys.write(fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so the other side is awake anyway */
}

void boundary_clear(int fd)
{
    uint64_t count;
    ssize_t n = sys.read(fd, &count, sizeof count);
    (void)n; /* EAGAIN: nobody had woken us */
}

/* *at += count * size, aligned; false on overflow or beyond end. */
static bool take(uint64_t *at, uint64_t count, uint64_t size, uint64_t end)
{
    if (count > end / size)
        return false;
    uint64_t bytes = msg_align8(count * size);
    if (*at > end || bytes > end - *at)
        return false;
    *at += bytes;
    return true;
}

bool msg_submit_layout(const struct msg_submit *m, struct msg_submit_layout *out)
{
    uint64_t at = 0, end = m->bytes;
    out->prompt = at;
    if (!take(&at, m->n_prompt, 4, end))
        return false;
    out->stop = at;
    if (!take(&at, m->n_stop, 4, end))
        return false;
    out->bias = at;
    if (!take(&at, m->n_bias, sizeof(struct engine_bias), end))
        return false;
    out->given_n = at;
    if (!take(&at, m->has_given ? m->n : 0, 4, end))
        return false;
    out->given = at;
    return true;
}
