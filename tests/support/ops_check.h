/* ops_check - comparing what an op gave with what it should give; a failure says backend, case, seed and place. */
#ifndef HEARTH_TESTS_OPS_CHECK_H
#define HEARTH_TESTS_OPS_CHECK_H

#include <stddef.h>

/* Say what is being checked ("linear T=3 N=5 K=64 ..."): printed when a check fails. */
void ops_note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Every bit alike. */
void ops_expect_bits(const char *what, const float *got, const float *want, size_t n);
/* |got[i] - want[i]| <= tol[i]; -inf equals -inf; a NaN on either side fails. */
void ops_expect_within(const char *what, const float *got, const double *want, const double *tol, size_t n);
/* Root of the mean of squares of got - want, over that of `scale`, at most `most`. Catches what is wrong by little but
 * everywhere, where a bound for the worst case must be wide. */
void ops_expect_rms(const char *what, const float *got, const double *want, const double *scale, size_t n, double most);
/* ||got - want|| <= most * ||want|| for a vector of n. */
void ops_expect_near(const char *what, const float *got, const double *want, size_t n, double most);

#endif
