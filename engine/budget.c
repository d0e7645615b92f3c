/* budget - see budget.h. */
#include "engine/budget.h"

#include <math.h>
#include <string.h>

#define ROW_UNIT  64.0
#define PAIR_UNIT 65536.0
#define FORGET    0.98

static void features(uint32_t rows, uint64_t pairs, double x[3])
{
    x[0] = 1.0;
    x[1] = rows / ROW_UNIT;
    x[2] = (double)pairs / PAIR_UNIT;
}

/* Coefficients are costs: none is negative. One that the fit makes so is set to the least it may be, and the others
 * become what fits best with that (the fit conditioned on it: theta - cov[.][i] / cov[i][i] * (theta[i] - least)). To
 * set it alone would be wrong by far: rows and pairs of prompts grow together, and where a step of many rows costs less
 * a row, pairs come out negative and rows too dear. */
static void set_costs(struct budget *b)
{
    static const double least[3] = {0.0, 100.0 * ROW_UNIT, 0.001 * PAIR_UNIT};
    double cov[3][3];
    memcpy(cov, b->cov, sizeof cov);
    memcpy(b->cost, b->theta, sizeof b->cost);
    for (int i = 2; i >= 0; i--) {
        double over = b->cost[i] - least[i], of = cov[i][i];
        if (over >= 0)
            continue;
        for (int j = 0; j < 3 && of > 0; j++)
            b->cost[j] -= cov[j][i] / of * over;
        for (int j = 0; j < 3 && of > 0; j++)
            for (int k = 0; k < 3; k++)
                if (j != i && k != i)
                    cov[j][k] -= cov[j][i] * cov[i][k] / of;
        for (int j = 0; j < 3; j++)
            cov[i][j] = cov[j][i] = 0;
    }
    for (int i = 0; i < 3; i++)
        b->cost[i] = fmax(b->cost[i], least[i]);
}

/* Before anything is measured: slow, so that the first steps are short. 1 ms + 0.5 ms a row. */
void budget_init(struct budget *b)
{
    memset(b, 0, sizeof *b);
    b->theta[0] = 1e6;
    b->theta[1] = 0.5e6 * ROW_UNIT;
    b->theta[2] = 20.0 * PAIR_UNIT;
    for (int i = 0; i < 3; i++)
        b->cov[i][i] = 100.0;
    set_costs(b);
}

double budget_predict(const struct budget *b, uint32_t rows, uint64_t pairs)
{
    double x[3];
    features(rows, pairs, x);
    return b->cost[0] + b->cost[1] * x[1] + b->cost[2] * x[2];
}

void budget_learn(struct budget *b, uint32_t rows, uint64_t pairs, uint64_t ns)
{
    double x[3], px[3], denom = FORGET;
    features(rows, pairs, x);
    for (int i = 0; i < 3; i++) {
        px[i] = 0;
        for (int j = 0; j < 3; j++)
            px[i] += b->cov[i][j] * x[j];
        denom += x[i] * px[i];
    }
    double guess = b->theta[0] * x[0] + b->theta[1] * x[1] + b->theta[2] * x[2], err = (double)ns - guess;
    /* A step that another process held up says little: after the first few, one surprise moves the fit by at most its
     * own prediction. */
    double cap = fmax(fabs(guess), 1e5);
    if (b->n >= 8)
        err = fmax(-cap, fmin(cap, err));
    for (int i = 0; i < 3; i++)
        b->theta[i] += px[i] / denom * err;
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            b->cov[i][j] = (b->cov[i][j] - px[i] * px[j] / denom) / FORGET;
    for (int i = 0; i < 3; i++) /* forgetting without news makes the covariance grow: keep it bounded */
        if (b->cov[i][i] > 1e4)
            for (int j = 0; j < 3; j++)
                for (int k = 0; k < 3; k++)
                    b->cov[j][k] *= 0.5;
    b->n++;
    set_costs(b);
}

double budget_cost(const struct budget *b, uint64_t depth, uint32_t rows)
{
    return b->cost[1] * (rows / ROW_UNIT) + b->cost[2] * ((double)budget_pairs(depth, rows) / PAIR_UNIT);
}

uint32_t budget_rows(const struct budget *b, uint64_t depth, uint32_t max_rows, double ns)
{
    uint32_t lo = 0, hi = max_rows; /* cost grows with rows: largest that fits */
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo + 1) / 2;
        if (budget_cost(b, depth, mid) <= ns)
            lo = mid;
        else
            hi = mid - 1;
    }
    return lo;
}
