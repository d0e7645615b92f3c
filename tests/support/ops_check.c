/* ops_check - see the header. (ck_assert writes to a file at each call: only failures go there.) */
#include "tests/support/ops_check.h"
#include "tests/support/unit.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

static char note[512] = "(no note)";

void ops_note(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(note, sizeof note, fmt, ap);
    va_end(ap);
}

void ops_expect_bits(const char *what, const float *got, const float *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&got[i], &want[i], sizeof *got))
            ck_abort_msg("%s: %s[%zu] is %.9g, not %.9g to the bit", note, what, i, (double)got[i], (double)want[i]);
}

void ops_expect_within(const char *what, const float *got, const double *want, const double *tol, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (want[i] == -INFINITY && got[i] == -INFINITY)
            continue;
        if (!(fabs(got[i] - want[i]) <= tol[i]))
            ck_abort_msg("%s: %s[%zu] is %.9g, not %.9g: off by %.3g, allowed %.3g", note, what, i, (double)got[i],
                         want[i], fabs(got[i] - want[i]), tol[i]);
    }
}

static double norm_of(const double *a, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * a[i];
    return sqrt(sum);
}

static double distance(const float *got, const double *want, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (got[i] - want[i]) * (got[i] - want[i]);
    return sqrt(sum);
}

void ops_expect_rms(const char *what, const float *got, const double *want, const double *scale, size_t n, double most)
{
    double off = distance(got, want, n), of = norm_of(scale, n);
    ck_assert_msg(off <= most * of, "%s: %s is off by %.3g of its size, allowed %.3g", note, what, off / of, most);
}

void ops_expect_near(const char *what, const float *got, const double *want, size_t n, double most)
{
    ops_expect_rms(what, got, want, want, n, most);
}
