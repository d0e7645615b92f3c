/* err - the sentence for humans that goes with a negative errno.
 *
 * Every function that can fail for a reason a person must act on takes a `struct err *` (never NULL) and returns
 * 0 or -errno; counts are >= 0. The text names the thing, the value, the limit and the fix:
 *     "kv.block_tokens 48: must be 16, 32, 64 or 128"
 * It is written only on failure. It never holds addresses, prompts or secrets. MT-safe: each thread has its own err.
 */
#ifndef HEARTH_BASE_ERR_H
#define HEARTH_BASE_ERR_H

#define ERR_TEXT_MAX 512

struct err {
    int code;                /* positive errno, 0 = nothing written */
    char text[ERR_TEXT_MAX]; /* one sentence, no newline, always terminated */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Write the sentence (cut to fit) and return -code, so that `return err_set(e, EINVAL, "...")` reads well. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "prefix: " before the sentence that is there; keeps the code. For callers that know which file or key it was. */
void err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif

#endif
