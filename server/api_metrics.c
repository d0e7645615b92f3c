/* api_metrics - GET /metrics, the text format of Prometheus. Needs a key where keys are configured: it tells how busy
 * the server is. The engine's numbers are taken when asked for. */
#include "server/app.h"
#include "server/metric.h"
#include "server/route.h"
#include "server/sessions_app.h"

/* The rows of the four flows stand in one order for each number. */
static void take_flow(const struct engine_flow *f, int n)
{
    metric_set((enum metric_id)(METRIC_HBM_UP_MOVES + n), f->moves);
    metric_set((enum metric_id)(METRIC_HBM_UP_BYTES + n), f->bytes);
    metric_set((enum metric_id)(METRIC_HBM_UP_TIME + n), f->us);
    metric_set((enum metric_id)(METRIC_HBM_UP_FAILED + n), f->failed);
    metric_set((enum metric_id)(METRIC_HBM_UP_QUEUED + n), f->queued);
}

static void take_tiers(const struct engine_tiers *t)
{
    metric_set(METRIC_TIER_TOKENS_HBM, t->cached_tokens[0]);
    metric_set(METRIC_TIER_TOKENS_DRAM, t->cached_tokens[1]);
    metric_set(METRIC_TIER_TOKENS_NVME, t->cached_tokens[2]);
    metric_set(METRIC_TIER_DRAM_SIZE, t->dram_blocks);
    metric_set(METRIC_TIER_NVME_SIZE, t->nvme_blocks);
    metric_set(METRIC_TIER_DRAM_USED, t->dram_used);
    metric_set(METRIC_TIER_NVME_USED, t->nvme_used);
    metric_set(METRIC_TIER_BLOCK_BYTES, t->block_bytes);
    take_flow(&t->hbm_up, 0);
    take_flow(&t->hbm_down, 1);
    take_flow(&t->nvme_up, 2);
    take_flow(&t->nvme_down, 3);
    metric_set(METRIC_TIER_EVICTED, t->evicted_dram);
    metric_set(METRIC_TIER_LOST_DRAM, t->lost_dram);
    metric_set(METRIC_TIER_LOST_NVME, t->lost_nvme);
    metric_set(METRIC_TIER_BAD_DRAM, t->verify_failed[1]);
    metric_set(METRIC_TIER_BAD_NVME, t->verify_failed[2]);
    metric_set(METRIC_TIER_LATE, t->late);
    metric_set(METRIC_TIER_NOT_STORED, t->not_stored);
    metric_set(METRIC_TIER_SWAPPED, t->swapped);
    metric_set(METRIC_TIER_DROPPED, t->dropped);
    metric_set(METRIC_TIER_REFUSED, t->refused_bytes);
    metric_set(METRIC_TIER_BUDGET, t->budget_bytes);
    metric_set(METRIC_TIER_BUDGET_DAY, t->bytes_per_day);
}

static void take_sessions(struct app *a)
{
    const struct sessions_table *t = app_sessions_table(a);
    for (int i = 0; i < SESSION_STATES; i++)
        metric_set((enum metric_id)(METRIC_SESSIONS_IDLE + i), t->in_state[i]);
    metric_set(METRIC_SESSIONS_DRAM, t->kept_blocks[1]);
    metric_set(METRIC_SESSIONS_NVME, t->kept_blocks[2]);
}

static void take_engine(struct app *a)
{
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    metric_set(METRIC_READY, a->state == APP_READY && st.state == ENGINE_READY);
    metric_set(METRIC_LOAD_PERCENT, st.load_percent);
    metric_set(METRIC_ENGINE_RESTARTS, st.restarts);
    metric_set(METRIC_RUNNING, st.running);
    metric_set(METRIC_WAITING, st.waiting);
    metric_set(METRIC_WAITING_TOKENS, st.waiting_tokens);
    metric_set(METRIC_KV_BYTES, st.kv_bytes);
    metric_set(METRIC_KV_USAGE, st.n_blocks ? st.used_blocks * 1000000 / st.n_blocks : 0);
    metric_set(METRIC_KV_USED, st.used_blocks);
    metric_set(METRIC_KV_CACHED, st.cached_blocks);
    metric_set(METRIC_KV_FREE, st.n_blocks - st.used_blocks - st.cached_blocks);
    metric_set(METRIC_KV_BLOCK_TOKENS, st.block_tokens);
    metric_set(METRIC_EVICTIONS, st.evictions);
    metric_set(METRIC_PREEMPTIONS, st.preemptions);
    metric_set(METRIC_PROMPT_TOKENS, st.prompt_tokens);
    metric_set(METRIC_CACHE_QUERIES, st.prompt_tokens);
    metric_set(METRIC_CACHE_HITS, st.cached_tokens);
    metric_set(METRIC_TOKENS_CACHED, st.cached_tokens);
    metric_set(METRIC_TOKENS_COMPUTED, st.prompt_tokens - st.cached_tokens);
    metric_set(METRIC_GENERATED_TOKENS, st.generated_tokens);
    metric_set(METRIC_STEPS, st.steps);
    metric_set(METRIC_STEP_ROWS, st.rows);
    metric_set(METRIC_STEP_TIME, st.step_us);
    metric_set(METRIC_LATE_STEPS, st.late_steps);
    take_tiers(&st.tiers);
}

/* What it computes on, and why not on a GPU where one was asked for. Nothing before the engine is there. */
static void put_backend(const struct app *a, struct str *out)
{
    struct engine_stats st;
    engine_get_stats(a->engine, &st);
    if (!st.device[0])
        return;
    str_puts(out, "# HELP hearth_backend_info What computes; fallback: why backend auto does without a GPU.\n"
                  "# TYPE hearth_backend_info gauge\nhearth_backend_info{");
    metric_put_label(out, "backend", a->plan.backend);
    str_putc(out, ',');
    metric_put_label(out, "device", st.device);
    str_putc(out, ',');
    metric_put_label(out, "fallback", a->plan.no_gpu);
    str_puts(out, "} 1\n");
}

static void handle_metrics(struct app *a, struct http_call *c)
{
    struct str out = {0};
    take_engine(a);
    take_sessions(a);
    metric_set(METRIC_HTTP_CONNECTIONS, http_open_connections(a->http));
    metric_set(METRIC_HTTP_CALLS, http_open_calls(a->http));
    metric_put(&out, a->conf->metrics.compat == CONFIG_METRICS_VLLM, a->card.id);
    put_backend(a, &out);
    if (out.oom) {
        struct api_error e;
        api_fail(&e, 503, "out_of_memory", NULL, "no memory for the answer");
        reply_error(c, &e);
    } else {
        http_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, 0, out.data, out.len);
    }
    str_fini(&out);
}

const struct route api_metrics_routes[] = {
    {"GET", "/metrics", ROUTE_KEY, handle_metrics},
    {NULL, NULL, ROUTE_KEY, NULL},
};
