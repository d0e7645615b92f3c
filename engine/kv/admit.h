/* admit - the budget of bytes for writing to flash: a drive's endurance is a rate.
 *
 * What is not spent is saved up to `burst`; more is never spent than was saved. Which block is worth its bytes is not
 * decided here (evict_spill).
 *
 * Pure arithmetic: no clock, no I/O; the same calls give the same answers. Engine thread.
 */
#ifndef HEARTH_KV_ADMIT_H
#define HEARTH_KV_ADMIT_H

#include <stdbool.h>
#include <stdint.h>

struct admit {
    double rate;         /* bytes a microsecond; 0 = no bound */
    double saved, burst; /* bytes; saved: at now_us */
    uint64_t now_us;
    bool started;
};

/* bytes_per_day 0: no bound. A burst is what may be saved up, and what is there at first. */
void admit_init(struct admit *a, uint64_t bytes_per_day, uint64_t burst_bytes);
/* Bytes that may be written now; INFINITY without a bound. */
double admit_left(const struct admit *a, uint64_t now_us);
/* Can no more be saved: what is not spent now is lost? Always so without a bound. */
bool admit_full(const struct admit *a, uint64_t now_us);
/* Spend so many. False: there are not so many. */
bool admit_take(struct admit *a, uint32_t bytes, uint64_t now_us);
/* They were not written after all. */
void admit_refund(struct admit *a, uint32_t bytes);

#endif
