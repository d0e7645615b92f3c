/* probe - what a drive gives by plain reads, beside which benches of the tiers stand; and CPU time. For benches. */
#ifndef HEARTH_TESTS_PROBE_H
#define HEARTH_TESTS_PROBE_H

#include <stdint.h>

struct probe_time {
    double seconds, cpu; /* of the process, all threads */
};

/* From here .. */
struct probe_time probe_begin(void);
/* .. to there. */
struct probe_time probe_end(struct probe_time begin);
/* Of n by seconds; sorts them. */
struct probe_time probe_median(struct probe_time *t, int n);

/* Read the first `bytes` of a file in pieces of `unit` (a multiple of 4096), `depth` at a time, as a program would that
 * does nothing else, O_DIRECT where the file system has it: by threads with pread, then by io_uring; the faster of the
 * two counts. They go round 256 MiB of memory. Negative seconds: it can't be read. */
struct probe_time probe_read(const char *path, uint64_t bytes, uint64_t unit, uint32_t depth);

#endif
