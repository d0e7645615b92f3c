/* admit - is a block worth writing to flash? Rank by worth under a budget of bytes.
 *
 * A drive's endurance is a rate (bytes a day), and more than that is offered. What was offered lately stands in a
 * histogram by worth; what ranks above the quantile that the budget pays for is admitted. At the quantile itself the
 * session decides (by its hash), so that a chain is written whole or not at all: half a prefix saves little. What is
 * not spent is saved up to `burst`, and widens the quantile; the budget is never overdrawn.
 *
 * Pure arithmetic: no clock, no I/O, no allocation; the same calls give the same answers. Engine thread. O(buckets).
 */
#ifndef HEARTH_KV_ADMIT_H
#define HEARTH_KV_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

#define ADMIT_BUCKETS 512

struct admit {
    double rate;                   /* bytes a microsecond; 0 = no limit */
    double saved, burst;           /* bytes */
    double offered[ADMIT_BUCKETS]; /* bytes by log worth, fading */
    double total, window_us;       /* sum of offered; time that it stands for */
    uint64_t now_us;
    bool started;
    uint64_t bytes_admitted, bytes_refused;
};

/* bytes_per_day 0: all is admitted. A burst is what may be saved up, and what is there at first. */
void admit_init(struct admit *a, uint64_t bytes_per_day, uint64_t burst_bytes);
/* A block of this worth (evict_worth) and session would be written now. True: write it, its bytes are spent. */
bool admit_offer(struct admit *a, double worth, uint32_t bytes, uint32_t session, uint64_t now_us);
/* It was not written after all (no slot, an error): its bytes are given back. */
void admit_refund(struct admit *a, uint32_t bytes);

#endif
