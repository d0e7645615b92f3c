/* fake_cuda - a libhearth_cuda.so without CUDA: cpu_ref under the name of cuda, for test_backend.py, which builds it.
 *
 * Each look at the GPU and each open is a line "VERB PID DETERMINISTIC" in the file $FAKE_CUDA_LOG. $FAKE_CUDA says
 * what the look finds: nothing (there is one, with 1 GiB free), "none" or "crash".
 */
#include "engine/compute/backend.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct backend_ops hearth_backend_cuda;

static void note(const char *verb, bool deterministic)
{
    int fd = open(getenv("FAKE_CUDA_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || dprintf(fd, "%s %d %d\n", verb, (int)getpid(), deterministic) < 0)
        abort();
    close(fd);
}

static int fake_probe(uint64_t *memory, struct err *e)
{
    const char *found = getenv("FAKE_CUDA");
    note("probe", false);
    if (found && strcmp(found, "crash") == 0)
        raise(SIGKILL);
    if (found)
        return err_set(e, ENODEV, "no GPU can be used: it is \"fake\"");
    *memory = 1 << 30;
    return 0;
}

static int fake_open(struct backend **out, const struct backend_opts *o, struct err *e)
{
    note("open", o->deterministic);
    int ret = o->deterministic ? err_set(e, ENOTSUP, "engine.deterministic: not here")
                               : backend_cpu_ref.open(out, o, e);
    if (!ret)
        ((struct backend_head *)(void *)*out)->ops = &hearth_backend_cuda;
    return ret;
}

__attribute__((constructor)) static void fill(void)
{
    hearth_backend_cuda = backend_cpu_ref;
    hearth_backend_cuda.name = "cuda";
    hearth_backend_cuda.probe = fake_probe;
    hearth_backend_cuda.open = fake_open;
}
