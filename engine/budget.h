/* budget - how long will a step take, and how many rows fit in what is left of it.
 *
 * Model: ns = a + b * rows + c * pairs, where pairs counts (row, key) pairs of attention. The three are fitted to
 * measured steps by recursive least squares with forgetting (Haykin, Adaptive Filter Theory, ch. 10), so that they
 * follow the machine. Pure arithmetic on numbers it is given: no clock inside, the same inputs give the same answers.
 * Engine thread.
 */
#ifndef HEARTH_ENGINE_BUDGET_H
#define HEARTH_ENGINE_BUDGET_H

#include <stdint.h>

struct budget {
    double theta[3]; /* a, b, c in ns for features 1, rows / 64, pairs / 65536 */
    double cov[3][3];
    double cost[3]; /* theta, none of them negative */
    uint64_t n;     /* steps seen */
};

void budget_init(struct budget *b);
/* A step of this size took ns. */
void budget_learn(struct budget *b, uint32_t rows, uint64_t pairs, uint64_t ns);
/* Predicted ns of a whole step. */
double budget_predict(const struct budget *b, uint32_t rows, uint64_t pairs);
/* Largest number of rows, 0 .. max_rows, of a sequence whose next position is `depth`, that add at most ns. */
uint32_t budget_rows(const struct budget *b, uint64_t depth, uint32_t max_rows, double ns);
/* What `rows` rows from `depth` on add to a step (without the constant). */
double budget_cost(const struct budget *b, uint64_t depth, uint32_t rows);

/* Pairs of rows at positions depth .. depth + rows - 1: each sees all positions up to its own. */
static inline uint64_t budget_pairs(uint64_t depth, uint32_t rows)
{
    return depth * rows + (uint64_t)rows * (rows + 1) / 2;
}

#endif
