/* f16 - IEEE half and bfloat16 to and from float, scalar and exact (round to nearest even). C17 and C++17. */
#ifndef HEARTH_BASE_F16_H
#define HEARTH_BASE_F16_H

#include "engine/base/device.h"

#include <stdint.h>
#include <string.h>

DEVICE_TOO float f32_from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

DEVICE_TOO uint32_t f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

DEVICE_TOO float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

/* NaN stays NaN (quiet bit set, so that rounding can't turn it into infinity). */
DEVICE_TOO uint16_t bf16_from_f32(float f)
{
    uint32_t u = f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

DEVICE_TOO float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exp = (h >> 10) & 31u, man = h & 0x3ffu;
    if (exp == 31)
        return f32_from_bits(sign | 0x7f800000u | (man << 13));
    if (exp)
        return f32_from_bits(sign | ((exp + 112u) << 23) | (man << 13));
    float f = (float)man * f32_from_bits(0x33800000u); /* subnormal: man x 2^-24, exact */
    return f32_from_bits(f32_bits(f) | sign);
}

DEVICE_TOO uint16_t f16_from_f32(float f)
{
    uint32_t u = f32_bits(f), sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (mag >= 0x477ff000u) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00u);
    if (mag < 0x38800000u) { /* subnormal: adding 0.5 makes the float unit round at 2^-24 */
        float r = f32_from_bits(mag) + 0.5f;
        return (uint16_t)(sign | (f32_bits(r) - 0x3f000000u));
    }
    return (uint16_t)(sign | ((mag - 0x38000000u + 0xfffu + ((mag >> 13) & 1u)) >> 13));
}

#endif
