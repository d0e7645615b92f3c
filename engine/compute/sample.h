/* sample - from a row of logits to a token: parameters in, token and logprobs out. C17 and C++17.
 *
 * Order, as OpenAI and vLLM have it: logits; log-softmax of the RAW logits gives the logprobs; logit_bias added; banned
 * ids to -inf; repetition penalty (Keskar et al. 2019: l > 0 ? l / r : l * r, ids of prompt and output);
 * frequency * count and presence * (count > 0) subtracted (output ids only); ids that the mask leaves out to -inf;
 * temperature 0 or top_k 1 = argmax (lowest id wins a tie); divide by temperature; top-k; top-p over the softmax of
 * what is left (smallest set with sum >= p, at least one); min-p (keep p_i >= min_p * p_max); draw by the inverse of
 * the cumulative sum in id order with one Philox uniform. Exact top-k: ties at the k-th value are resolved by lower id.
 * Pure: the same row gives the same token anywhere.
 *
 * Total: no input crashes or reads beyond the arrays, given valid ids (asserted). A NaN logit counts as -inf, +inf as
 * FLT_MAX. Where nothing is above -inf the token is id 0 and its logprob -inf. Parameters out of their range (negative,
 * NaN) are as if off, but for top_p below 0, which is 0 (one token stays).
 */
#ifndef HEARTH_COMPUTE_SAMPLE_H
#define HEARTH_COMPUTE_SAMPLE_H

#include <stdint.h>

#define SAMPLE_TOP_MAX 20 /* top_logprobs limit of the OpenAI API */

struct sample_seen { /* an id of prompt or output, once */
    int32_t id;
    uint32_t n_out; /* times it was generated; 0 = in the prompt only */
};

struct sample_bias {
    int32_t id;
    float bias;
};

struct sample_row {
    float temperature;         /* 0 = greedy */
    float top_p;               /* 1 = off */
    float min_p;               /* 0 = off */
    float repetition;          /* 1 = off */
    float presence, frequency; /* 0 = off */
    int32_t top_k;             /* 0 = off */
    int32_t n_logprobs;        /* -1 none, 0 the chosen one only, n = n best too */
    uint64_t seed;
    uint64_t position; /* of the token to be chosen in its sequence */
    uint32_t choice;   /* index among n choices */
    uint32_t after;    /* i + 1: what draw i of the call before chose was generated on top of `seen`; 0 = nothing */
    uint32_t n_seen, n_bias, n_banned;
    const struct sample_seen *seen; /* unordered; all ids valid */
    const struct sample_bias *bias;
    const int32_t *banned; /* eos ids while min_tokens is not reached */
    /* The mask of a grammar: [(V + 31) / 32], bit id % 32 of word id / 32 is 1 for ids that may come; NULL = all. Rows
     * that share one share its memory on the device. With no bit set the token is id 0. */
    const uint32_t *allowed;
};

struct sample_out {
    int32_t id;
    float logprob; /* of id under the raw logits; -INFINITY where its logit is; 0 when n_logprobs = -1 */
    int32_t n_top; /* n_logprobs, or fewer where fewer logits are above -inf */
    struct {
        int32_t id;
        float logprob;
    } top[SAMPLE_TOP_MAX]; /* best first; ties by lower id */
};

#ifdef __cplusplus
extern "C" {
#endif

/* The CPU twin: one row. `scratch` holds 2 * vocab floats and is the caller's (one per thread). */
void sample_row_cpu(const float *logits, int32_t vocab, const struct sample_row *p, struct sample_out *out,
                    float *scratch);
/* The same with the id that p->after names (-1: none). */
void sample_row_cpu_after(const float *logits, int32_t vocab, const struct sample_row *p, int32_t after,
                          struct sample_out *out, float *scratch);

#ifdef __cplusplus
}
#endif

#endif
