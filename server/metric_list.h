/* metric_list - every metric is one row: id, kind, unit of what is counted, name, labels, vLLM's name and labels, help.
 *
 * Rows of one name stand together. A name of vLLM's ("" = none) is exported too when metrics.compat says so. X(...) is
 * given by who includes this.
 */

/* What clients did */
X(HTTP_2XX, COUNTER, ONE, "hearth_http_requests_total", "code=\"2xx\"", "", "", "Requests answered, by status.")
X(HTTP_3XX, COUNTER, ONE, "hearth_http_requests_total", "code=\"3xx\"", "", "", "")
X(HTTP_4XX, COUNTER, ONE, "hearth_http_requests_total", "code=\"4xx\"", "", "", "")
X(HTTP_5XX, COUNTER, ONE, "hearth_http_requests_total", "code=\"5xx\"", "", "", "")
X(HTTP_GONE, COUNTER, ONE, "hearth_http_requests_total", "code=\"gone\"", "", "", "")
X(HTTP_CONNECTIONS, GAUGE, ONE, "hearth_http_connections", "", "", "", "Open connections.")
X(HTTP_CALLS, GAUGE, ONE, "hearth_http_requests_open", "", "", "", "Requests being read or answered.")

/* What became of choices and requests */
X(FINISH_STOP, COUNTER, ONE, "hearth_requests_finished_total", "reason=\"stop\"", "vllm:request_success_total",
  "finished_reason=\"stop\"", "Choices that ended, by reason.")
X(FINISH_LENGTH, COUNTER, ONE, "hearth_requests_finished_total", "reason=\"length\"", "vllm:request_success_total",
  "finished_reason=\"length\"", "")
X(FINISH_CANCELLED, COUNTER, ONE, "hearth_requests_finished_total", "reason=\"cancelled\"",
  "vllm:request_success_total", "finished_reason=\"abort\"", "")
X(FINISH_ERROR, COUNTER, ONE, "hearth_requests_finished_total", "reason=\"error\"", "vllm:request_success_total",
  "finished_reason=\"error\"", "")
X(REFUSED_QUEUE, COUNTER, ONE, "hearth_requests_refused_total", "reason=\"queue_full\"", "", "",
  "Requests not taken, by reason.")
X(REFUSED_TOO_LONG, COUNTER, ONE, "hearth_requests_refused_total", "reason=\"too_long\"", "", "", "")
X(REFUSED_NOT_READY, COUNTER, ONE, "hearth_requests_refused_total", "reason=\"not_ready\"", "", "", "")
X(REFUSED_KEY, COUNTER, ONE, "hearth_requests_refused_total", "reason=\"no_key\"", "", "", "")

/* The queue and the KV pool */
X(RUNNING, GAUGE, ONE, "hearth_requests_running", "", "vllm:num_requests_running", "", "Sequences being computed.")
X(WAITING, GAUGE, ONE, "hearth_requests_waiting", "", "vllm:num_requests_waiting", "", "Requests in the queue.")
X(WAITING_TOKENS, GAUGE, ONE, "hearth_waiting_tokens", "", "", "", "Prompt tokens in the queue.")
X(KV_USAGE, GAUGE, PPM, "hearth_kv_usage_ratio", "", "vllm:kv_cache_usage_perc", "",
  "Part of the KV pool that sequences hold, 0 to 1.")
X(KV_BYTES, GAUGE, ONE, "hearth_kv_bytes", "", "", "", "Size of the KV pool.")
X(KV_USED, GAUGE, ONE, "hearth_kv_blocks", "state=\"used\"", "", "", "Blocks of the KV pool, by state.")
X(KV_CACHED, GAUGE, ONE, "hearth_kv_blocks", "state=\"cached\"", "", "", "")
X(KV_FREE, GAUGE, ONE, "hearth_kv_blocks", "state=\"free\"", "", "", "")
X(KV_BLOCK_TOKENS, GAUGE, ONE, "hearth_kv_block_tokens", "", "", "", "Tokens of a block.")
X(EVICTIONS, COUNTER, ONE, "hearth_kv_evictions_total", "", "", "", "Cached blocks that were forgotten for room.")
X(PREEMPTIONS, COUNTER, ONE, "hearth_preemptions_total", "", "vllm:num_preemptions_total", "",
  "Sequences that gave their blocks back and were computed again.")

/* KV tiers below the pool */
X(TIER_TOKENS_HBM, COUNTER, ONE, "hearth_tier_hit_tokens_total", "tier=\"hbm\"", "", "",
  "Prompt tokens that were not computed, by where their KV lay.")
X(TIER_TOKENS_DRAM, COUNTER, ONE, "hearth_tier_hit_tokens_total", "tier=\"dram\"", "", "", "")
X(TIER_TOKENS_NVME, COUNTER, ONE, "hearth_tier_hit_tokens_total", "tier=\"nvme\"", "", "", "")
X(TIER_DRAM_SIZE, GAUGE, ONE, "hearth_tier_blocks", "tier=\"dram\"", "", "", "Blocks that a tier can hold.")
X(TIER_NVME_SIZE, GAUGE, ONE, "hearth_tier_blocks", "tier=\"nvme\"", "", "", "")
X(TIER_DRAM_USED, GAUGE, ONE, "hearth_tier_used_blocks", "tier=\"dram\"", "", "", "Blocks that it holds.")
X(TIER_NVME_USED, GAUGE, ONE, "hearth_tier_used_blocks", "tier=\"nvme\"", "", "", "")
X(TIER_BLOCK_BYTES, GAUGE, ONE, "hearth_tier_block_bytes", "", "", "", "Bytes of a block's place in a tier.")
X(HBM_UP_MOVES, COUNTER, ONE, "hearth_tier_moves_total", "tier=\"hbm\",direction=\"up\"", "", "",
  "Moves between tiers that have ended.")
X(HBM_DOWN_MOVES, COUNTER, ONE, "hearth_tier_moves_total", "tier=\"hbm\",direction=\"down\"", "", "", "")
X(NVME_UP_MOVES, COUNTER, ONE, "hearth_tier_moves_total", "tier=\"nvme\",direction=\"up\"", "", "", "")
X(NVME_DOWN_MOVES, COUNTER, ONE, "hearth_tier_moves_total", "tier=\"nvme\",direction=\"down\"", "", "", "")
X(HBM_UP_BYTES, COUNTER, ONE, "hearth_tier_move_bytes_total", "tier=\"hbm\",direction=\"up\"", "", "", "Bytes moved.")
X(HBM_DOWN_BYTES, COUNTER, ONE, "hearth_tier_move_bytes_total", "tier=\"hbm\",direction=\"down\"", "", "", "")
X(NVME_UP_BYTES, COUNTER, ONE, "hearth_tier_move_bytes_total", "tier=\"nvme\",direction=\"up\"", "", "", "")
X(NVME_DOWN_BYTES, COUNTER, ONE, "hearth_tier_move_bytes_total", "tier=\"nvme\",direction=\"down\"", "", "", "")
X(HBM_UP_TIME, COUNTER, US, "hearth_tier_move_seconds_total", "tier=\"hbm\",direction=\"up\"", "", "",
  "Times of all moves together; over moves: the mean latency.")
X(HBM_DOWN_TIME, COUNTER, US, "hearth_tier_move_seconds_total", "tier=\"hbm\",direction=\"down\"", "", "", "")
X(NVME_UP_TIME, COUNTER, US, "hearth_tier_move_seconds_total", "tier=\"nvme\",direction=\"up\"", "", "", "")
X(NVME_DOWN_TIME, COUNTER, US, "hearth_tier_move_seconds_total", "tier=\"nvme\",direction=\"down\"", "", "", "")
X(HBM_UP_FAILED, COUNTER, ONE, "hearth_tier_move_failures_total", "tier=\"hbm\",direction=\"up\"", "", "",
  "Moves that failed.")
X(HBM_DOWN_FAILED, COUNTER, ONE, "hearth_tier_move_failures_total", "tier=\"hbm\",direction=\"down\"", "", "", "")
X(NVME_UP_FAILED, COUNTER, ONE, "hearth_tier_move_failures_total", "tier=\"nvme\",direction=\"up\"", "", "", "")
X(NVME_DOWN_FAILED, COUNTER, ONE, "hearth_tier_move_failures_total", "tier=\"nvme\",direction=\"down\"", "", "", "")
X(HBM_UP_QUEUED, GAUGE, ONE, "hearth_tier_moves_queued", "tier=\"hbm\",direction=\"up\"", "", "",
  "Moves under way or waiting.")
X(HBM_DOWN_QUEUED, GAUGE, ONE, "hearth_tier_moves_queued", "tier=\"hbm\",direction=\"down\"", "", "", "")
X(NVME_UP_QUEUED, GAUGE, ONE, "hearth_tier_moves_queued", "tier=\"nvme\",direction=\"up\"", "", "", "")
X(NVME_DOWN_QUEUED, GAUGE, ONE, "hearth_tier_moves_queued", "tier=\"nvme\",direction=\"down\"", "", "", "")
X(TIER_EVICTED, COUNTER, ONE, "hearth_tier_evictions_total", "tier=\"dram\",reason=\"room\",below=\"yes\"", "", "",
  "Copies given up, by reason, and whether a lower tier has one, too.")
X(TIER_LOST_DRAM, COUNTER, ONE, "hearth_tier_evictions_total", "tier=\"dram\",reason=\"room\",below=\"no\"", "", "", "")
X(TIER_LOST_NVME, COUNTER, ONE, "hearth_tier_evictions_total", "tier=\"nvme\",reason=\"room\",below=\"no\"", "", "", "")
X(TIER_BAD_DRAM, COUNTER, ONE, "hearth_tier_verify_failures_total", "tier=\"dram\"", "", "",
  "Blocks whose seal did not fit: not used, and retired.")
X(TIER_BAD_NVME, COUNTER, ONE, "hearth_tier_verify_failures_total", "tier=\"nvme\"", "", "", "")
X(TIER_LATE, COUNTER, ONE, "hearth_tier_late_loads_total", "", "", "",
  "Loads given up at their deadline: computed again.")
X(TIER_NOT_STORED, COUNTER, ONE, "hearth_tier_not_stored_total", "", "", "", "Full blocks that found no room in DRAM.")
X(TIER_SWAPPED, COUNTER, ONE, "hearth_preempted_blocks_total", "left=\"swapped\"", "", "",
  "Full blocks of preempted sequences, with a copy below the pool or without.")
X(TIER_DROPPED, COUNTER, ONE, "hearth_preempted_blocks_total", "left=\"dropped\"", "", "", "")
X(TIER_REFUSED, COUNTER, ONE, "hearth_tier_write_refused_bytes_total", "", "", "",
  "Bytes that DRAM gave up without their having been written to NVMe, under a budget.")
X(TIER_BUDGET, GAUGE, ONE, "hearth_tier_write_budget_bytes", "", "", "", "Bytes that may be written to NVMe now.")
X(TIER_BUDGET_DAY, GAUGE, ONE, "hearth_tier_write_bytes_per_day", "", "", "", "Write budget of a day; 0: no bound.")

/* Sessions */
X(SESSIONS_IDLE, GAUGE, ONE, "hearth_sessions", "state=\"idle\"", "", "", "Named conversations, by state.")
X(SESSIONS_ACTIVE, GAUGE, ONE, "hearth_sessions", "state=\"active\"", "", "", "")
X(SESSIONS_SUSPENDING, GAUGE, ONE, "hearth_sessions", "state=\"suspending\"", "", "", "")
X(SESSIONS_SUSPENDED, GAUGE, ONE, "hearth_sessions", "state=\"suspended\"", "", "", "")
X(SESSIONS_DRAM, GAUGE, ONE, "hearth_session_kept_blocks", "tier=\"dram\"", "", "",
  "Blocks that are kept for sessions before others.")
X(SESSIONS_NVME, GAUGE, ONE, "hearth_session_kept_blocks", "tier=\"nvme\"", "", "", "")

/* Tokens and steps */
X(PROMPT_TOKENS, COUNTER, ONE, "hearth_prompt_tokens_total", "", "vllm:prompt_tokens_total", "",
  "Prompt tokens of admitted requests.")
X(CACHE_QUERIES, COUNTER, ONE, "hearth_prefix_cache_queried_tokens_total", "", "vllm:prefix_cache_queries_total", "",
  "Prompt tokens looked up in the prefix cache.")
X(CACHE_HITS, COUNTER, ONE, "hearth_prefix_cache_hit_tokens_total", "", "vllm:prefix_cache_hits_total", "",
  "Prompt tokens found in the prefix cache.")
X(TOKENS_COMPUTED, COUNTER, ONE, "hearth_prompt_tokens_by_source_total", "source=\"computed\"",
  "vllm:prompt_tokens_by_source_total", "source=\"local_compute\"", "Prompt tokens, by where their KV came from.")
X(TOKENS_CACHED, COUNTER, ONE, "hearth_prompt_tokens_by_source_total", "source=\"cached\"",
  "vllm:prompt_tokens_by_source_total", "source=\"local_cache_hit\"", "")
X(GENERATED_TOKENS, COUNTER, ONE, "hearth_generated_tokens_total", "", "vllm:generation_tokens_total", "",
  "Tokens generated.")
X(STEPS, COUNTER, ONE, "hearth_steps_total", "", "", "", "Engine steps.")
X(STEP_ROWS, COUNTER, ONE, "hearth_step_tokens_total", "", "", "", "Tokens computed in steps, prefill and decode.")
X(STEP_TIME, COUNTER, US, "hearth_step_seconds_total", "", "", "", "Time spent in steps.")
X(LATE_STEPS, COUNTER, ONE, "hearth_late_steps_total", "", "", "", "Steps over twice sched.step_ms.")

/* Times and sizes of requests */
X(TTFT, HISTOGRAM, NS, "hearth_time_to_first_token_seconds", "", "vllm:time_to_first_token_seconds", "",
  "From the end of the request to its first token.")
X(ITL, HISTOGRAM, NS, "hearth_inter_token_seconds", "", "vllm:inter_token_latency_seconds", "",
  "Between two tokens of a choice.")
X(E2E, HISTOGRAM, NS, "hearth_request_seconds", "", "vllm:e2e_request_latency_seconds", "",
  "From the end of the request to the end of its answer.")
X(QUEUE_TIME, HISTOGRAM, NS, "hearth_queue_seconds", "", "vllm:request_queue_time_seconds", "",
  "Waiting before the first step.")
X(PREFILL_TIME, HISTOGRAM, NS, "hearth_prefill_seconds", "", "vllm:request_prefill_time_seconds", "",
  "From the first step to the first token.")
X(DECODE_TIME, HISTOGRAM, NS, "hearth_decode_seconds", "", "vllm:request_decode_time_seconds", "",
  "From the first token to the last.")
X(INFERENCE_TIME, HISTOGRAM, NS, "hearth_inference_seconds", "", "vllm:request_inference_time_seconds", "",
  "Prefill and decode together.")
X(REQUEST_PROMPT, HISTOGRAM, ONE, "hearth_request_prompt_tokens", "", "vllm:request_prompt_tokens", "",
  "Prompt tokens of a request.")
X(REQUEST_COMPUTED, HISTOGRAM, ONE, "hearth_request_computed_tokens", "", "vllm:request_prefill_kv_computed_tokens", "",
  "Prompt tokens of a request that the cache did not have.")
X(REQUEST_GENERATED, HISTOGRAM, ONE, "hearth_request_generated_tokens", "", "vllm:request_generation_tokens", "",
  "Tokens generated for a request.")

/* The engine */
X(READY, GAUGE, ONE, "hearth_ready", "", "", "", "1 when requests are taken, else 0.")
X(LOAD_PERCENT, GAUGE, ONE, "hearth_load_percent", "", "", "", "How much of the weights is loaded.")
X(ENGINE_RESTARTS, COUNTER, ONE, "hearth_engine_restarts_total", "", "", "", "Engines started after the first.")
