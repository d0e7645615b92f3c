/* metric - counters, gauges and histograms in one fixed table (metric_list.h), and their Prometheus text.
 *
 * Counted where it happens, in whole numbers of the row's unit (tokens, bytes, ns, us, millionths); the text shows
 * seconds and ratios. Process-wide. MT-safe: relaxed atomics; a scrape may see one of two events that belong together.
 * Buckets of times end at 7200 s, of sizes at 10^6 tokens.
 */
#ifndef HEARTH_SERVER_METRIC_H
#define HEARTH_SERVER_METRIC_H

#include "engine/base/str.h"

#include <stdbool.h>
#include <stdint.h>

enum metric_id {
#define X(id, kind, unit, name, labels, vllm, vllm_labels, help) METRIC_##id,
#include "server/metric_list.h"
#undef X
    METRIC_COUNT
};

/* A counter goes up by n. */
void metric_add(enum metric_id m, uint64_t n);
/* A gauge, or a counter that somebody else keeps (the engine), is v now. */
void metric_set(enum metric_id m, uint64_t v);
/* A histogram sees one value in its unit. */
void metric_observe(enum metric_id m, uint64_t v);
/* What metric_add and metric_set made of it; of a histogram how many values it saw. */
uint64_t metric_get(enum metric_id m);

/* Append all in the text format 0.0.4 of Prometheus; with `vllm` under vLLM's names, too, which carry the label
 * model_name. */
void metric_put(struct str *out, bool vllm, const char *model);
/* Append name="value" with the escapes of that format. */
void metric_put_label(struct str *out, const char *name, const char *value);

#endif
