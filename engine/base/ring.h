/* ring - one producer, one consumer, byte messages, in memory that two threads or two processes share.
 *
 * The shared part is two counters and the bytes: no pointers, so it may be mapped anywhere. Each side keeps the
 * capacity in its own struct and never reads it from shared memory again. The consumer distrusts what it reads: a
 * length or a counter that makes no sense gives -EBADMSG, never an access outside the ring. Wake-ups are not the ring's
 * business.
 *
 * A message is a u32 length, the bytes, and padding to 8. It may wrap; pop copies it out, so it can't change
 * afterwards.
 */
#ifndef HEARTH_BASE_RING_H
#define HEARTH_BASE_RING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring_shared {       /* lies in the segment */
    _Atomic uint64_t head; /* bytes produced since the beginning */
    char pad0[56];
    _Atomic uint64_t tail; /* bytes consumed */
    char pad1[56];
    uint8_t bytes[];
};

_Static_assert(sizeof(struct ring_shared) == 128, "shared layout");

struct ring { /* one side's handle */
    struct ring_shared *shared;
    uint64_t cap; /* bytes of data, a power of two */
};

/* Bytes of shared memory for a ring of cap data bytes. */
static inline size_t ring_shared_bytes(uint64_t cap)
{
    return sizeof(struct ring_shared) + cap;
}

/* Bind a handle. cap is a power of two >= 64. The memory was zeroed before the first attach. */
void ring_attach(struct ring *r, void *shared, uint64_t cap);

/* Longest message that can ever fit. */
static inline size_t ring_max_message(const struct ring *r)
{
    return (size_t)r->cap / 2;
}

/* Producer. 0; -EAGAIN: no room now; -EMSGSIZE: can never fit. */
int ring_push(struct ring *r, const void *bytes, size_t n);

/* Producer. Can a message of n bytes be pushed now? */
bool ring_has_room(const struct ring *r, size_t n);

/* Consumer. Copies one message out: its length (> 0), 0 when there is none, -EMSGSIZE when buf is too small (the
 * message stays), -EBADMSG when the shared bytes make no sense (the ring is dead then). */
ptrdiff_t ring_pop(struct ring *r, void *buf, size_t cap);

#endif
