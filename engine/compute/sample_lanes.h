/* sample_lanes - passes over a row of logits, 16 bytes at a time: clean, weigh, add up, look for. Part of sample.c.
 *
 * The same bits on every machine: exp and log are written out (libm picks FMA variants at run time), vectors have fixed
 * lanes whatever the machine's are, and each sum has one order: chunks of 256, four lanes in each, lanes (0 + 2) +
 * (1 + 3), then the chunks upwards. Needs -ffp-contract=off. Vector types are gcc's and clang's.
 */
#ifndef HEARTH_COMPUTE_SAMPLE_LANES_H
#define HEARTH_COMPUTE_SAMPLE_LANES_H

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define CHUNK   256
#define EXP_MIN -87.0 /* below, a float weight would be subnormal */

typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef uint32_t v4u __attribute__((vector_size(16)));
typedef float v2f __attribute__((vector_size(8)));
typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));

#define LANES static inline __attribute__((always_inline))

LANES v4f load4(const float *p)
{
    v4f v;
    memcpy(&v, p, sizeof v);
    return v;
}

LANES v4f same4(float x)
{
    return (v4f){x, x, x, x};
}

/* m ? a : b, lane by lane; m is all ones or zero. */
LANES v4f pick4(v4i m, v4f a, v4f b)
{
    return (v4f)(((v4i)a & m) | ((v4i)b & ~m));
}

LANES v4f max4(v4f a, v4f b)
{
    return pick4(a > b, a, b);
}

LANES bool any4(v4i m)
{
    return ((v2l)m)[0] | ((v2l)m)[1];
}

/* gcc 12 converts lanes one by one; the instruction gives the same doubles. */
#ifdef __SSE2__
LANES v2d low2(v4f v)
{
    return (v2d)_mm_cvtps_pd((__m128)v);
}
#else
LANES v2d low2(v4f v)
{
    return (v2d){v[0], v[1]};
}
#endif

LANES v2d high2(v4f v)
{
    return low2(__builtin_shufflevector(v, v, 2, 3, 2, 3));
}

LANES v4f join4(v2d low, v2d high)
{
    v2f a = __builtin_convertvector(low, v2f), b = __builtin_convertvector(high, v2f);
    return __builtin_shufflevector(a, b, 0, 1, 2, 3);
}

/* The low 32 bits of each 64-bit lane. */
LANES v4i narrow4(v2l low, v2l high)
{
    return __builtin_shufflevector((v4i)low, (v4i)high, 0, 2, 4, 6);
}

/* A logit with a meaning: NaN is -inf, +inf is FLT_MAX. */
LANES v4f clean4(v4f l)
{
    l = pick4(l > same4(-INFINITY), l, same4(-INFINITY));
    return pick4(l < same4(FLT_MAX), l, same4(FLT_MAX));
}

static float clean(float l)
{
    if (!(l > -INFINITY))
        return -INFINITY;
    return l < FLT_MAX ? l : FLT_MAX;
}

/* exp((l - max) * inv_t) for l <= max; 0 under e^EXP_MIN and for NaN. The exponent x is taken in double,
 * x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 in float (rest 5e-9), times 2^k. */
LANES v4f weigh4(v4f l, v2d max, v2d inv_t)
{
    const v2d magic = {0x1.8p52, 0x1.8p52}; /* adding it rounds to an integer, which then is in the low bits */
    const v2d per_ln2 = {0x1.71547652b82fep+0, 0x1.71547652b82fep+0}, least = {EXP_MIN, EXP_MIN};
    const v2d ln2 = {0x1.62e42fefa39efp-1, 0x1.62e42fefa39efp-1};
    l = pick4(l > same4(FLT_MAX), same4(FLT_MAX), l);
    v2d xa = (low2(l) - max) * inv_t, xb = (high2(l) - max) * inv_t;
    v2d ka = xa * per_ln2 + magic, kb = xb * per_ln2 + magic;
    v4f r = join4(xa - (ka - magic) * ln2, xb - (kb - magic) * ln2), r2 = r * r, r4 = r2 * r2;
    v4f low = (1 + r) + (0.5f + r * (1.0f / 6)) * r2;
    v4f high = (1.0f / 24 + r * (1.0f / 120)) + (1.0f / 720 + r * (1.0f / 5040)) * r2;
    v4u bits = (v4u)(low + high * r4) + ((v4u)narrow4((v2l)ka, (v2l)kb) << 23);
    return (v4f)((v4i)bits & narrow4(xa >= least, xb >= least));
}

/* ln x for normal x > 0: x = 2^k m, ln m = 2 atanh((m - 1) / (m + 1)), m in [0.7, 1.5]. */
static double log_of(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int k = (int)(u >> 52) - 1023;
    u = (u & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    memcpy(&x, &u, sizeof x);
    if (x > 1.5) {
        x *= 0.5;
        k++;
    }
    double s = (x - 1) / (x + 1), s2 = s * s, sum = 0;
    for (int i = 23; i >= 1; i -= 2)
        sum = sum * s2 + 1.0 / i;
    return 2 * s * sum + k * 0x1.62e42fefa39efp-1;
}

/* The largest of n logits, cleaned (order does not matter); -inf for none. */
static float max_of(const float *x, int32_t n)
{
    v4f a = same4(-INFINITY), b = a, c = a, d = a;
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) { /* a NaN is not above anything */
        a = max4(load4(x + i), a);
        b = max4(load4(x + i + 4), b);
        c = max4(load4(x + i + 8), c);
        d = max4(load4(x + i + 12), d);
    }
    a = max4(max4(a, b), max4(c, d));
    float best = -INFINITY;
    for (int l = 0; l < 4; l++)
        best = a[l] > best ? a[l] : best;
    for (; i < n; i++)
        best = x[i] > best ? x[i] : best;
    return clean(best);
}

/* Is any of 16 floats in lo .. hi? Scans pass over what can't matter, 16 at a time. */
LANES bool any_between(const float *x, float lo, float hi)
{
    v4i any = {0, 0, 0, 0};
    for (int k = 0; k < 16; k += 4)
        any |= (load4(x + k) >= same4(lo)) & (load4(x + k) <= same4(hi));
    return any4(any);
}

/* From i, a multiple of 16, to the next 16 floats with one in lo .. hi, or to the last ones. */
static int32_t skip_to(const float *x, int32_t i, int32_t n, float lo, float hi)
{
    while (i + 16 <= n && !any_between(x + i, lo, hi))
        i += 16;
    return i;
}

/* A logit whose weight is about e^ln, and surely no more. */
static float logit_of(double ln, float max, double inv_t)
{
    return clean((float)(max + (ln - 0.01) / inv_t));
}

/* w[i] = exp((x[i] - max) * inv_t), or 0. x need not be clean; max > -inf. */
static void weigh(float *w, const float *x, int32_t n, float max, double inv_t)
{
    v2d m = {max, max}, by = {inv_t, inv_t};
    float rest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    float least = logit_of(EXP_MIN, max, inv_t);
    int32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        if (!any_between(x + i, least, INFINITY)) {
            memset(w + i, 0, 16 * sizeof *w);
            continue;
        }
        for (int32_t k = i; k < i + 16; k += 4) {
            v4f v = weigh4(load4(x + k), m, by);
            memcpy(w + k, &v, sizeof v);
        }
    }
    for (int32_t k; i < n; i += k) {
        k = n - i < 4 ? n - i : 4;
        memcpy(rest, x + i, (size_t)k * sizeof *x);
        v4f v = weigh4(load4(rest), m, by);
        memcpy(w + i, &v, (size_t)k * sizeof *w);
    }
}

/* Sum of n floats, n at most CHUNK, in four lanes. */
static double sum_of(const float *w, int32_t n)
{
    v2d a = {0, 0}, b = {0, 0};
    int32_t i = 0;
    for (; i + 4 <= n; i += 4) {
        a += low2(load4(w + i));
        b += high2(load4(w + i));
    }
    double s[4] = {a[0], a[1], b[0], b[1]};
    for (int l = 0; i + l < n; l++)
        s[l] += w[i + l];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static int32_t chunk_at(int32_t i, int32_t n)
{
    return n - i < CHUNK ? n - i : CHUNK;
}

static double total_of(const float *w, int32_t n)
{
    double sum = 0;
    for (int32_t i = 0; i < n; i += CHUNK)
        sum += sum_of(w + i, chunk_at(i, n));
    return sum;
}

#endif
