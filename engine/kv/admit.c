/* admit - see admit.h. */
#include "engine/kv/admit.h"

#include <math.h>
#include <string.h>

#define FADE_US    120e6 /* an offer counts 1/e after this time */
#define PER_OCTAVE 8     /* buckets for a factor of two in worth */
#define LEAST      (-64) /* log2 of the worth of bucket 0 */
#define US_PER_DAY 86400e6

void admit_init(struct admit *a, uint64_t bytes_per_day, uint64_t burst_bytes)
{
    memset(a, 0, sizeof *a);
    a->rate = (double)bytes_per_day / US_PER_DAY;
    a->burst = a->saved = (double)burst_bytes;
}

static int bucket_of(double worth)
{
    if (!(worth > 0))
        return 0;
    double b = (log2(worth) - LEAST) * PER_OCTAVE;
    return b < 0 ? 0 : b >= ADMIT_BUCKETS ? ADMIT_BUCKETS - 1 : (int)b;
}

static void pass_time(struct admit *a, uint64_t now_us)
{
    double us = a->started && now_us > a->now_us ? (double)(now_us - a->now_us) : 0;
    a->started = true;
    a->now_us = now_us;
    if (us == 0)
        return;
    double fade = exp(-us / FADE_US);
    for (int i = 0; i < ADMIT_BUCKETS; i++)
        a->offered[i] *= fade;
    a->total *= fade;
    a->window_us = a->window_us * fade + FADE_US * (1 - fade);
    a->saved = fmin(a->saved + us * a->rate, a->burst);
}

/* Uniform in [0, 1), the same for all blocks of a session (MurmurHash3's last steps). */
static double share_of(uint32_t session)
{
    uint32_t h = session;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    h ^= h >> 16;
    return h / 4294967296.0;
}

bool admit_offer(struct admit *a, double worth, uint32_t bytes, uint32_t session, uint64_t now_us)
{
    int bucket = bucket_of(worth);
    double above = 0;
    pass_time(a, now_us);
    a->offered[bucket] += bytes;
    a->total += bytes;
    for (int i = bucket + 1; i < ADMIT_BUCKETS; i++)
        above += a->offered[i];
    double paid = a->rate * a->window_us + a->saved;
    bool yes = a->rate == 0 || (a->saved >= bytes && above + share_of(session) * a->offered[bucket] < paid);
    if (yes) {
        a->saved -= bytes;
        a->bytes_admitted += bytes;
    } else {
        a->bytes_refused += bytes;
    }
    return yes;
}

void admit_refund(struct admit *a, uint32_t bytes)
{
    a->saved = fmin(a->saved + bytes, a->burst);
    a->bytes_admitted -= bytes;
}
