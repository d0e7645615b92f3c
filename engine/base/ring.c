/* ring - see ring.h. */
#include "engine/base/ring.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

void ring_attach(struct ring *r, void *shared, uint64_t cap)
{
    assert(cap >= 64 && (cap & (cap - 1)) == 0);
    r->shared = shared;
    r->cap = cap;
}

static void copy_in(struct ring *r, uint64_t at, const void *bytes, size_t n)
{
    size_t off = (size_t)(at & (r->cap - 1)), first = (size_t)r->cap - off;
    if (first > n)
        first = n;
    memcpy(r->shared->bytes + off, bytes, first);
    memcpy(r->shared->bytes, (const uint8_t *)bytes + first, n - first);
}

static void copy_out(const struct ring *r, uint64_t at, void *bytes, size_t n)
{
    size_t off = (size_t)(at & (r->cap - 1)), first = (size_t)r->cap - off;
    if (first > n)
        first = n;
    memcpy(bytes, r->shared->bytes + off, first);
    memcpy((uint8_t *)bytes + first, r->shared->bytes, n - first);
}

static uint64_t whole(size_t n)
{
    return ((uint64_t)n + 4 + 7) & ~(uint64_t)7;
}

bool ring_has_room(const struct ring *r, size_t n)
{
    uint64_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);
    /* acquire: the consumer has finished reading what it says it consumed */
    uint64_t tail = atomic_load_explicit(&r->shared->tail, memory_order_acquire);
    return head - tail <= r->cap && whole(n) <= r->cap - (head - tail);
}

int ring_push(struct ring *r, const void *bytes, size_t n)
{
    if (n == 0 || n > ring_max_message(r))
        return -EMSGSIZE;
    if (!ring_has_room(r, n))
        return -EAGAIN;
    uint64_t head = atomic_load_explicit(&r->shared->head, memory_order_relaxed);
    uint32_t len = (uint32_t)n;
    copy_in(r, head, &len, sizeof len);
    copy_in(r, head + 4, bytes, n);
    /* release: the bytes are there before the consumer can see the new head */
    atomic_store_explicit(&r->shared->head, head + whole(n), memory_order_release);
    return 0;
}

ptrdiff_t ring_pop(struct ring *r, void *buf, size_t cap)
{
    uint64_t tail = atomic_load_explicit(&r->shared->tail, memory_order_relaxed);
    uint64_t head = atomic_load_explicit(&r->shared->head, memory_order_acquire);
    uint64_t held = head - tail;
    if (held == 0)
        return 0;
    if (held > r->cap || held < 8 || (held & 7))
        return -EBADMSG;
    uint32_t len;
    copy_out(r, tail, &len, sizeof len);
    if (len == 0 || len > ring_max_message(r) || whole(len) > held)
        return -EBADMSG;
    if (len > cap)
        return -EMSGSIZE;
    copy_out(r, tail + 4, buf, len);
    atomic_store_explicit(&r->shared->tail, tail + whole(len), memory_order_release);
    return len;
}
