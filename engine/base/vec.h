/* vec - growth of a plain array that its owner keeps as (pointer, count, capacity). One function, no macro types. */
#ifndef HEARTH_BASE_VEC_H
#define HEARTH_BASE_VEC_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Make *data hold at least `need` items of `item` bytes; *cap is in items. Doubles. Returns 0 or -ENOMEM, with nothing
 * changed. `data` is the address of the array pointer. */
static inline int vec_grow(void *data, size_t *cap, size_t need, size_t item)
{
    if (need <= *cap)
        return 0;
    size_t n = *cap ? *cap * 2 : 8;
    if (n < need)
        n = need;
    if (n > SIZE_MAX / item)
        return -ENOMEM;
    void *old;
    memcpy(&old, data, sizeof old); /* the caller's pointer has its own type: bytes are copied, no alias is made */
    void *bigger = realloc(old, n * item);
    if (!bigger)
        return -ENOMEM;
    memcpy(data, &bigger, sizeof bigger);
    *cap = n;
    return 0;
}

#endif
