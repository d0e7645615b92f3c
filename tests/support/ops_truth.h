/* ops_truth - attention a second time: in double, in two passes, over plain arrays instead of blocks. */
#ifndef HEARTH_TESTS_OPS_TRUTH_H
#define HEARTH_TESTS_OPS_TRUTH_H

#include "tests/support/ops_gen.h"

/* Arguments over all rows of the case: window, sink (given, or left out) and key range at random; out is not set. */
void ops_attn_random(struct attn_args *a, struct ops_rng *r, const struct ops_kv_case *c, const float *sink);

/* Row and head `th` = t * H + h: writes o[D] and size[D] = sum of p |v| (what o's error is measured by) and returns
 * ln of the sum, -INFINITY when there is no key. */
double ops_attend(const struct ops_kv_case *c, const struct attn_args *a, int32_t th, double *o, double *size);

#endif
