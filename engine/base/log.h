/* log - structured lines on stderr: "LEVEL module verb key=value ...".
 *
 * One line is one write(2), so lines of several threads never mix. Nothing per token at info. Prompts, completions and
 * keys never go in, unless the operator asked (log.prompts). MT-safe.
 */
#ifndef HEARTH_BASE_LOG_H
#define HEARTH_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

#ifdef __cplusplus
extern "C" {
#endif

/* Set the lowest level that is written (default info). Any thread. */
void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* "error|warn|info|debug" -> level; -EINVAL for anything else. */
int log_level_parse(const char *name, enum log_level *out);

/* Write one line. `what` is "module verb", e.g. log_line(LOG_INFO, "tier open", "dir=%s bytes=%zu", dir, n).
 * Control bytes and newlines in the values are written as '?', so a hostile value cannot forge a line. */
void log_line(enum log_level level, const char *what, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif

#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
