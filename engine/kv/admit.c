/* admit - see admit.h. */
#include "engine/kv/admit.h"

#include <math.h>

#define US_PER_DAY 86400e6

void admit_init(struct admit *a, uint64_t bytes_per_day, uint64_t burst_bytes)
{
    *a = (struct admit){
        .rate = (double)bytes_per_day / US_PER_DAY, .saved = (double)burst_bytes, .burst = (double)burst_bytes};
}

double admit_left(const struct admit *a, uint64_t now_us)
{
    if (a->rate == 0)
        return INFINITY;
    double us = a->started && now_us > a->now_us ? (double)(now_us - a->now_us) : 0;
    return fmin(a->saved + us * a->rate, a->burst);
}

bool admit_full(const struct admit *a, uint64_t now_us)
{
    return a->rate == 0 || admit_left(a, now_us) >= a->burst;
}

bool admit_take(struct admit *a, uint32_t bytes, uint64_t now_us)
{
    double left = admit_left(a, now_us);
    if (left < bytes)
        return false;
    if (a->rate == 0)
        return true;
    a->saved = left - bytes;
    a->now_us = now_us > a->now_us ? now_us : a->now_us;
    a->started = true;
    return true;
}

void admit_refund(struct admit *a, uint32_t bytes)
{
    a->saved = fmin(a->saved + bytes, a->burst);
}
