/* test_metric - what is counted comes out as Prometheus reads it. */
#include "tests/support/unit.h"

#include "server/metric.h"

#include <ctype.h>
#include <pthread.h>
#include <string.h>

static char *text(bool vllm, const char *model)
{
    struct str s = {0};
    metric_put(&s, vllm, model);
    ck_assert(!s.oom);
    return s.data;
}

/* The number that follows `name` and a blank at the start of a line; -1 = not there. */
static double value_of(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = text; p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        if (strncmp(p, name, n) == 0 && p[n] == ' ')
            return strtod(p + n, NULL);
    return -1;
}

START_TEST(test_counters_and_gauges_are_shown_in_their_unit)
{
    metric_add(METRIC_HTTP_2XX, 3);
    metric_add(METRIC_HTTP_2XX, 4);
    metric_set(METRIC_KV_USAGE, 250000);
    metric_set(METRIC_STEP_TIME, 1500000);
    char *t = text(false, "");
    ck_assert(value_of(t, "hearth_http_requests_total{code=\"2xx\"}") == 7);
    ck_assert(value_of(t, "hearth_http_requests_total{code=\"5xx\"}") == 0);
    ck_assert(value_of(t, "hearth_kv_usage_ratio") == 0.25);
    ck_assert(value_of(t, "hearth_step_seconds_total") == 1.5);
    ck_assert_ptr_null(strstr(t, "vllm:"));
    free(t);
}
END_TEST

START_TEST(test_a_histogram_is_cumulative_and_reaches_two_hours)
{
    metric_observe(METRIC_TTFT, 1000000);          /* 1 ms: its own bound */
    metric_observe(METRIC_TTFT, 1000001);          /* just above */
    metric_observe(METRIC_TTFT, 7200000000000ull); /* 2 h */
    metric_observe(METRIC_TTFT, 9000000000000ull); /* above all */
    char *t = text(false, "");
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_bucket{le=\"0.001\"}") == 1);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_bucket{le=\"0.002\"}") == 2);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_bucket{le=\"3600\"}") == 2);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_bucket{le=\"7200\"}") == 3);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_bucket{le=\"+Inf\"}") == 4);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_count") == 4);
    ck_assert(value_of(t, "hearth_time_to_first_token_seconds_sum") == 16200.002000001);
    ck_assert_uint_eq(metric_get(METRIC_TTFT), 4);
    free(t);
}
END_TEST

START_TEST(test_vllm_names_stand_beside_ours)
{
    metric_add(METRIC_FINISH_LENGTH, 2);
    metric_set(METRIC_RUNNING, 5);
    metric_observe(METRIC_E2E, 1);
    char *t = text(true, "a\"b\\c\nd");
    ck_assert(value_of(t, "vllm:request_success_total{model_name=\"a\\\"b\\\\c\\nd\",finished_reason=\"length\"}") ==
              2);
    ck_assert(value_of(t, "vllm:num_requests_running{model_name=\"a\\\"b\\\\c\\nd\"}") == 5);
    ck_assert(value_of(t, "vllm:e2e_request_latency_seconds_bucket{model_name=\"a\\\"b\\\\c\\nd\",le=\"0.001\"}") == 1);
    ck_assert(value_of(t, "hearth_requests_running") == 5);
    free(t);
}
END_TEST

/* Name of a metric: letters, digits, '_' and ':'. */
static size_t name_length(const char *p)
{
    size_t n = 0;
    while (isalnum((unsigned char)p[n]) || p[n] == '_' || p[n] == ':')
        n++;
    return n;
}

START_TEST(test_every_line_is_of_the_text_format_and_each_family_stands_once)
{
    char *t = text(true, "m"), family[128] = "";
    char seen[256][128];
    int n_seen = 0;
    for (char *line = strtok(t, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            size_t n = name_length(line + 7);
            snprintf(family, sizeof family, "%.*s", (int)n, line + 7);
            ck_assert_msg(line[7 + n] == ' ' && strlen(line + 7 + n) > 8, "%s has no help", family);
            for (int i = 0; i < n_seen; i++)
                ck_assert_str_ne(seen[i], family);
            memcpy(seen[n_seen++], family, sizeof family);
            continue;
        }
        if (strncmp(line, "# TYPE ", 7) == 0) {
            ck_assert(strncmp(line + 7, family, strlen(family)) == 0);
            bool total = strstr(family, "_total") != NULL, counter = strstr(line, " counter") != NULL;
            ck_assert_msg(total == counter, "%s", line);
            continue;
        }
        size_t n = name_length(line);
        ck_assert_msg(n && strncmp(line, family, strlen(family)) == 0, "%s", line);
        char *end, *number = strrchr(line, ' ');
        ck_assert(line[n] == '{' ? number[-1] == '}' : number == line + n);
        strtod(number + 1, &end);
        ck_assert_msg(end > number + 1 && !*end, "%s", line);
    }
    free(t);
}
END_TEST

static void *count(void *arg)
{
    (void)arg;
    for (int i = 0; i < 100000; i++) {
        metric_add(METRIC_STEPS, 1);
        metric_observe(METRIC_ITL, (uint64_t)i * 1000);
    }
    return NULL;
}

START_TEST(test_threads_lose_no_count)
{
    pthread_t thread[4];
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, count, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    ck_assert_uint_eq(metric_get(METRIC_STEPS), 400000);
    ck_assert_uint_eq(metric_get(METRIC_ITL), 400000);
}
END_TEST

UNIT_MAIN("metric", test_counters_and_gauges_are_shown_in_their_unit,
          test_a_histogram_is_cumulative_and_reaches_two_hours, test_vllm_names_stand_beside_ours,
          test_every_line_is_of_the_text_format_and_each_family_stands_once, test_threads_lose_no_count)
