/* failing_calls - make the Nth OS call of the process fail that goes through the sys table.
 *
 * fail_calls_begin puts a counting entry in front of each call of the table that can fail in reality (clocks and
 * futexes on valid words can't); fail_calls_end puts the table back. Both only while no other thread calls. Between
 * them fail_call_nth and fail_call_stop may be called at any time; calls of all threads count.
 *
 * A call that is struck does nothing and fails with the given errno, but close and munmap, which do their work and fail
 * all the same, as Linux does.
 */
#ifndef HEARTH_TESTS_FAILING_CALLS_H
#define HEARTH_TESTS_FAILING_CALLS_H

void fail_calls_begin(void);
void fail_calls_end(void);

/* Count from 0 again; the nth call from now (1 = the next) fails with `error`. With EINTR only calls that the kernel
 * lets a signal interrupt count. n = 0 only counts. */
void fail_call_nth(unsigned long n, int error);
/* Nothing fails any more. Returns how many calls there were since fail_call_nth; *what is the one that failed ("" =
 * none). */
unsigned long fail_call_stop(const char **what);

#endif
