/* scales - see scales.h. */
#include "engine/kv/scales.h"

#include "engine/base/crc.h"
#include "engine/base/sys.h"
#include "engine/kv/fmt_kv8.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER 16

static const char magic[4] = {'H', 'K', 'V', '8'};

int scales_path(char *out, size_t size, const char *model)
{
    int n = snprintf(out, size, "%s.kv8", model);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

float scale_for(float most)
{
    return most > 0 ? exp2f(ceilf(log2f(2 * most / KV8_MAX))) : 1;
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get_u32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static size_t file_bytes(uint32_t n_layers, uint32_t n_heads)
{
    return HEADER + 8 * (size_t)n_layers * n_heads + 4;
}

/* All of n bytes, or one more to see that there is one. */
static ssize_t read_all(int fd, uint8_t *to, size_t n)
{
    size_t at = 0;
    while (at < n) {
        ssize_t k = sys.read(fd, to + at, n - at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        if (k == 0)
            break;
        at += (size_t)k;
    }
    return (ssize_t)at;
}

static int parse(const uint8_t *f, size_t n, const char *path, uint32_t n_layers, uint32_t n_heads, float *out,
                 struct err *e)
{
    if (n < HEADER + 4 || memcmp(f, magic, sizeof magic) != 0 || get_u32(f + 4) != 1)
        return err_set(e, EINVAL, "%s: not a file of KV scales (version 1); make one with --calibrate", path);
    if (get_u32(f + 8) != n_layers || get_u32(f + 12) != n_heads)
        return err_set(e, EINVAL, "%s: scales for %u layers of %u KV heads, the model has %u of %u; --calibrate again",
                       path, get_u32(f + 8), get_u32(f + 12), n_layers, n_heads);
    if (n != file_bytes(n_layers, n_heads) || get_u32(f + n - 4) != crc32c(f, n - 4))
        return err_set(e, EINVAL, "%s: damaged; --calibrate again", path);
    for (size_t i = 0; i < 2 * (size_t)n_layers * n_heads; i++) {
        float x = f32_from_bits(get_u32(f + HEADER + 4 * i));
        if (!(x > 0) || !isfinite(x))
            return err_set(e, EINVAL, "%s: scale %zu is %g, must be above 0; --calibrate again", path, i, (double)x);
        out[i] = x;
    }
    return 0;
}

int scales_read(const char *path, uint32_t n_layers, uint32_t n_heads, float *out, struct err *e)
{
    size_t room = file_bytes(n_layers, n_heads) + 1;
    uint8_t *f = NULL;
    int ret, fd = sys.open(path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : err_set(e, errno, "%s: %s", path, strerror(errno));
    f = malloc(room);
    ssize_t n = f ? read_all(fd, f, room) : -ENOMEM;
    ret = n < 0 ? err_set(e, (int)-n, "%s: %s", path, strerror((int)-n))
                : parse(f, (size_t)n, path, n_layers, n_heads, out, e);
    free(f);
    sys.close(fd);
    return ret;
}

static int write_all(int fd, const uint8_t *from, size_t n)
{
    while (n > 0) {
        ssize_t k = sys.write(fd, from, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        from += k;
        n -= (size_t)k;
    }
    return sys.fsync(fd) ? -errno : 0;
}

int scales_write(const char *path, uint32_t n_layers, uint32_t n_heads, const float *scales, struct err *e)
{
    size_t n = file_bytes(n_layers, n_heads);
    uint8_t *f = malloc(n);
    char new[4200];
    int ret = f ? 0 : -ENOMEM, fd = -1;
    if (!ret && (size_t)snprintf(new, sizeof new, "%s.new", path) >= sizeof new)
        ret = -ENAMETOOLONG;
    if (ret)
        goto out;
    memcpy(f, magic, sizeof magic);
    put_u32(f + 4, 1);
    put_u32(f + 8, n_layers);
    put_u32(f + 12, n_heads);
    for (size_t i = 0; i < 2 * (size_t)n_layers * n_heads; i++)
        put_u32(f + HEADER + 4 * i, f32_bits(scales[i]));
    put_u32(f + n - 4, crc32c(f, n - 4));
    fd = sys.open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    ret = fd < 0 ? -errno : write_all(fd, f, n);
    if (fd >= 0 && sys.close(fd) && !ret)
        ret = -errno;
    if (!ret && sys.rename(new, path))
        ret = -errno;
    if (ret && fd >= 0)
        sys.unlink(new);
out:
    free(f);
    return ret ? err_set(e, -ret, "%s: %s", path, strerror(-ret)) : 0;
}
