/* aio - see aio.h: which kind. */
#include "engine/kv/aio.h"

#include "engine/base/sys.h"

int aio_open(struct aio **out, const struct aio_opts *o, struct err *e)
{
    if (o->kind == AIO_THREADS)
        return aio_threads_open(out, o, e);
    int ret = aio_uring_open(out, o, e);
    if (ret == 0 || o->kind == AIO_URING)
        return ret;
    return aio_threads_open(out, o, e);
}

void aio_ring(int bell)
{
    uint64_t one = 1;
    if (bell >= 0 && sys.write(bell, &one, sizeof one) < 0)
        return; /* full: it rings already; anything else costs the owner one wait that is too long */
}
