/* cpu_fast_mem - memory of cpu_fast: large pages, and slabs for weights.
 *
 * Decode reads every weight once a token, so it pays for each 4 KiB page with a walk through the page table: 15 to 20 %
 * of its time on a Zen 3. Weights therefore lie one after the other in SLABS of 64 MiB that the system may back with
 * 2 MiB pages. A slab goes when its last weight goes.
 */
#include "engine/compute/cpu_fast.h"

#include "engine/base/sys.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE        ((size_t)4096)
#define LARGE_PAGE  ((size_t)2 << 20)
#define LARGE_BYTES ((size_t)1 << 20) /* blocks from here on are mapped */
#define SLAB_BYTES  ((size_t)64 << 20)

struct fast_slab {
    struct fast_slab *next;
    uint8_t *at;
    size_t bytes, used;
    uint32_t live; /* weights in it */
};

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* `bytes` at a multiple of a large page: map too much, cut off what is over. */
static void *map_large(size_t bytes)
{
    size_t want = bytes + LARGE_PAGE;
    if (want < bytes)
        return NULL;
    uint8_t *p = sys.mmap(NULL, want, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    size_t skip = up((uintptr_t)p, LARGE_PAGE) - (uintptr_t)p, end = up(skip + bytes, PAGE);
    if (skip)
        sys.munmap(p, skip);
    if (end < want)
        sys.munmap(p + end, want - end);
    sys.madvise(p + skip, bytes, MADV_HUGEPAGE); /* a wish: the memory works without */
    return p + skip;
}

void *fast_take(size_t bytes)
{
    if (bytes >= LARGE_BYTES)
        return map_large(bytes);
    size_t size = bytes ? up(bytes, 64) : 64;
    void *p = aligned_alloc(64, size);
    return p ? memset(p, 0, size) : NULL;
}

void fast_give(void *p, size_t bytes)
{
    if (p && bytes >= LARGE_BYTES)
        sys.munmap(p, up(bytes, PAGE));
    else
        free(p);
}

static struct fast_slab *add_slab(struct fast_slab **slabs, size_t bytes)
{
    struct fast_slab *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->bytes = up(bytes > SLAB_BYTES ? bytes : SLAB_BYTES, LARGE_PAGE);
    s->at = map_large(s->bytes);
    if (!s->at) {
        free(s);
        return NULL;
    }
    s->next = *slabs;
    *slabs = s;
    return s;
}

void *fast_slab_take(struct fast_slab **slabs, size_t bytes)
{
    bytes = up(bytes, 64);
    struct fast_slab *s = *slabs;
    if (!s || s->bytes - s->used < bytes)
        s = add_slab(slabs, bytes);
    if (!s)
        return NULL;
    void *p = s->at + s->used;
    s->used += bytes;
    s->live++;
    return p;
}

void fast_slab_give(struct fast_slab **slabs, const void *p)
{
    while (*slabs && ((const uint8_t *)p < (*slabs)->at || (const uint8_t *)p >= (*slabs)->at + (*slabs)->bytes))
        slabs = &(*slabs)->next;
    struct fast_slab *s = *slabs;
    assert(s && s->live > 0);
    if (--s->live > 0)
        return;
    *slabs = s->next;
    sys.munmap(s->at, s->bytes);
    free(s);
}
