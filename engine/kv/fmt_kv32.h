/* fmt_kv32 - KV rows as float32: no rounding. Row: dim x 4 bytes. C17 and C++17. */
#ifndef HEARTH_KV_FMT_KV32_H
#define HEARTH_KV_FMT_KV32_H

#include "engine/base/device.h"

#include <stdint.h>
#include <string.h>

DEVICE_TOO uint64_t kv32_row_bytes(uint32_t dim)
{
    return (uint64_t)dim * 4;
}

DEVICE_TOO void kv32_put(void *row, const float *x, uint32_t dim)
{
    memcpy(row, x, (size_t)dim * 4);
}

DEVICE_TOO void kv32_get(float *out, const void *row, uint32_t dim)
{
    memcpy(out, row, (size_t)dim * 4);
}

#endif
