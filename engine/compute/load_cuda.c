/* load_cuda - see load_cuda.h. */
#include "engine/compute/load_cuda.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SYMBOL "hearth_backend_cuda"

int load_cuda_from(const char *path, const struct backend_ops **out, uint64_t *memory, struct err *e)
{
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return err_set(e, ENOTSUP, "%s", dlerror());
    const struct backend_ops *ops = dlsym(so, SYMBOL);
    int ret;
    if (!ops) {
        ret = err_set(e, ENOTSUP, "%s: it has no %s", path, SYMBOL);
        goto fail;
    }
    if (ops->abi != BACKEND_ABI) {
        ret = err_set(e, ENOTSUP, "%s has interface %u, this hearthd needs %u: install both from one build", path,
                      ops->abi, BACKEND_ABI);
        goto fail;
    }
    ret = ops->probe(memory, e);
    if (ret)
        goto fail;
    *out = ops;
    return 0;
fail:
    dlclose(so);
    return ret;
}

int load_cuda(const struct backend_ops **out, uint64_t *memory, struct err *e)
{
    static const char *const beside[] = {"", "../lib/hearth/"};
    char exe[PATH_MAX], path[PATH_MAX + 64];
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!driver) /* asked first: our library brings hundreds of megabytes of others, for nothing where there is no GPU
                  */
        return err_set(e, ENOTSUP, "no NVIDIA driver");
    dlclose(driver);
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0)
        return err_set(e, errno, "/proc/self/exe: %s", strerror(errno));
    exe[n] = 0;
    *(strrchr(exe, '/') + 1) = 0;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        snprintf(path, sizeof path, "%s%s%s", exe, beside[i], CUDA_LIBRARY);
        if (access(path, F_OK) == 0)
            return load_cuda_from(path, out, memory, e);
    }
    return err_set(e, ENOENT, "%s is not installed (looked beside the program and in ../lib/hearth)", CUDA_LIBRARY);
}
