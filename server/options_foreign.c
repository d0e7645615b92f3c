/* options_foreign - what the flags of vLLM and llama.cpp's server are called here, for people who come from there.
 *
 * Names from their documentation, read 2026. A flag that is ours under the same name is not listed.
 */
#include "server/options.h"

#include <string.h>

#define VLLM  "vLLM"
#define LLAMA "llama.cpp"
#define BOTH  "vLLM's and llama.cpp" /* the reader adds 's */

static const struct {
    const char *flag, *whose, *ours;
} foreign[] = {
    {"--max-model-len", VLLM, "--ctx-size N"},
    {"--served-model-name", VLLM, "--alias NAME"},
    {"--api-key", BOTH, "--api-key-file FILE (a key on the command line shows in ps)"},
    {"--device", BOTH, "--backend cpu or cuda"},
    {"--max-num-seqs", VLLM, "--set sched.max_seqs=N"},
    {"--max-num-batched-tokens", VLLM, "--set sched.max_batch_tokens=N"},
    {"--max-num-queued-reqs", VLLM, "--set sched.max_queued=N"},
    {"--max-num-queued-tokens", VLLM, "--set sched.max_queued_tokens=N"},
    {"--gpu-memory-utilization", VLLM, "--set kv.bytes=SIZE (auto: what fits)"},
    {"--kv-cache-memory-bytes", VLLM, "--set kv.bytes=SIZE"},
    {"--num-gpu-blocks-override", VLLM, "--set kv.bytes=SIZE"},
    {"--kv-cache-dtype", VLLM, "--set kv.format=kv16 or kv32"},
    {"--block-size", VLLM, "--set kv.block_tokens=16, 32, 64 or 128"},
    {"--enable-prefix-caching", VLLM, "nothing: it is on (--set kv.prefix_cache=false turns it off)"},
    {"--no-enable-prefix-caching", VLLM, "--set kv.prefix_cache=false"},
    {"--enable-chunked-prefill", VLLM, "nothing: it is always on (--set sched.step_ms=N bounds a step)"},
    {"--chat-template", BOTH, "--set model.chat_template=FILE"},
    {"--seed", BOTH, "--set seed=N"},
    {"--uvicorn-log-level", VLLM, "--log-level LEVEL"},
    {"--enable-log-requests", VLLM, "nothing: one line a request is logged (--set log.prompts=true adds prompts)"},
    {"--disable-log-requests", VLLM, "--log-level warn"},
    {"--disable-log-stats", VLLM, "--log-level warn"},
    {"--ssl-certfile", VLLM, "--set http.tls_cert=FILE"},
    {"--ssl-keyfile", VLLM, "--set http.tls_key=FILE"},
    {"--uds", VLLM, "--listen unix:PATH"},
    {"--h11-max-header-count", VLLM, "--set http.header_count=N"},
    {"--shutdown-timeout", VLLM, "--set drain.timeout=120s"},
    {"--override-generation-config", VLLM, "--set sampling.temperature=X (see --help-keys for the others)"},
    {"--generation-config", VLLM, "nothing: defaults come from the model file (--set sampling.temperature=X)"},
    {"--tokenizer", VLLM, "nothing: the tokenizer is in the model file"},
    {"--dtype", VLLM, "nothing: the model file says it"},
    {"--quantization", VLLM, "nothing: the model file says it"},
    {"--load-format", VLLM, "nothing: the model file says it"},
    {"--revision", VLLM, "nothing: --model names one file"},
    {"--download-dir", VLLM, "HEARTH_CACHE=DIR scripts/fetch_model.sh NAME, then --model FILE"},
    {"--trust-remote-code", VLLM, "nothing: no code of a model is ever run"},
    {"--enforce-eager", VLLM, "nothing: there is no compile step"},
    {"--tensor-parallel-size", VLLM, "nothing yet: one device computes"},
    {"-tp", VLLM, "nothing yet: one device computes"},
    {"--pipeline-parallel-size", VLLM, "nothing yet: one device computes"},
    {"--cpu-offload-gb", VLLM, "nothing yet: weights stay on one device"},
    {"--enable-prompt-tokens-details", VLLM, "nothing: usage always counts cached tokens"},
    {"--scheduling-policy", VLLM, "nothing: a request's priority field is always heeded"},

    {"-m", LLAMA, "--model FILE"},
    {"-c", LLAMA, "--ctx-size N"},
    {"-t", LLAMA, "--threads N"},
    {"-a", LLAMA, "--alias NAME"},
    {"-tb", LLAMA, "--threads N"},
    {"--threads-batch", LLAMA, "--threads N"},
    {"--threads-http", LLAMA, "--set text.workers=N"},
    {"-b", LLAMA, "--set sched.max_batch_tokens=N"},
    {"--batch-size", LLAMA, "--set sched.max_batch_tokens=N"},
    {"-ub", LLAMA, "--set sched.max_batch_tokens=N"},
    {"--ubatch-size", LLAMA, "--set sched.max_batch_tokens=N"},
    {"-np", LLAMA, "--set sched.max_seqs=N (the context is not divided by it)"},
    {"--parallel", LLAMA, "--set sched.max_seqs=N (the context is not divided by it)"},
    {"-cb", LLAMA, "nothing: batching is always continuous"},
    {"--cont-batching", LLAMA, "nothing: batching is always continuous"},
    {"-ngl", LLAMA, "--backend cuda (all layers)"},
    {"--gpu-layers", LLAMA, "--backend cuda (all layers)"},
    {"--n-gpu-layers", LLAMA, "--backend cuda (all layers)"},
    {"-dev", LLAMA, "--backend cpu or cuda"},
    {"-n", LLAMA, "--set sampling.max_tokens=N"},
    {"--predict", LLAMA, "--set sampling.max_tokens=N"},
    {"--n-predict", LLAMA, "--set sampling.max_tokens=N"},
    {"-hf", LLAMA, "scripts/fetch_model.sh hf:ORG/REPO, then --model FILE"},
    {"--hf-repo", LLAMA, "scripts/fetch_model.sh hf:ORG/REPO, then --model FILE"},
    {"-hff", LLAMA, "scripts/fetch_model.sh hf:ORG/REPO:FILE, then --model FILE"},
    {"--hf-file", LLAMA, "scripts/fetch_model.sh hf:ORG/REPO:FILE, then --model FILE"},
    {"-hft", LLAMA, "HF_TOKEN=TOKEN scripts/fetch_model.sh hf:ORG/REPO"},
    {"--hf-token", LLAMA, "HF_TOKEN=TOKEN scripts/fetch_model.sh hf:ORG/REPO"},
    {"-mu", LLAMA, "scripts/fetch_model.sh URL, then --model FILE"},
    {"--model-url", LLAMA, "scripts/fetch_model.sh URL, then --model FILE"},
    {"-ctk", LLAMA, "--set kv.format=kv16 or kv32"},
    {"--cache-type-k", LLAMA, "--set kv.format=kv16 or kv32"},
    {"-ctv", LLAMA, "--set kv.format=kv16 or kv32"},
    {"--cache-type-v", LLAMA, "--set kv.format=kv16 or kv32"},
    {"-fa", LLAMA, "nothing: there is one attention, exact"},
    {"--flash-attn", LLAMA, "nothing: there is one attention, exact"},
    {"--cache-prompt", LLAMA, "nothing: it is on (--set kv.prefix_cache=false turns it off)"},
    {"--no-cache-prompt", LLAMA, "--set kv.prefix_cache=false"},
    {"--cache-reuse", LLAMA, "nothing: equal prefixes are reused, block by block"},
    {"--temp", LLAMA, "--set sampling.temperature=X"},
    {"--top-k", LLAMA, "--set sampling.top_k=N"},
    {"--top-p", LLAMA, "--set sampling.top_p=X"},
    {"--min-p", LLAMA, "--set sampling.min_p=X"},
    {"--repeat-penalty", LLAMA, "--set sampling.repetition_penalty=X"},
    {"-s", LLAMA, "--set seed=N"},
    {"--jinja", LLAMA, "nothing: the model's chat template is always used"},
    {"--chat-template-file", LLAMA, "--set model.chat_template=FILE"},
    {"--ssl-key-file", LLAMA, "--set http.tls_key=FILE"},
    {"--ssl-cert-file", LLAMA, "--set http.tls_cert=FILE"},
    {"-to", LLAMA, "--set http.write_stall=60s"},
    {"--timeout", LLAMA, "--set http.write_stall=60s"},
    {"--metrics", LLAMA, "nothing: /metrics is always there"},
    {"-v", LLAMA, "--log-level debug"},
    {"--verbose", LLAMA, "--log-level debug"},
    {"-lv", LLAMA, "--log-level LEVEL"},
    {"--log-verbosity", LLAMA, "--log-level LEVEL"},
    {"--log-disable", LLAMA, "--log-level error"},
    {"--log-file", LLAMA, "nothing: the log goes to stderr, redirect it"},
    {"--no-mmap", LLAMA, "nothing: weights are always mapped"},
    {"--no-warmup", LLAMA, "nothing: /ready waits for the first token of the server's own"},
};

const char *options_foreign_at(size_t i)
{
    return i < sizeof foreign / sizeof *foreign ? foreign[i].flag : NULL;
}

const char *options_foreign(const char *flag, const char **whose)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strcmp(foreign[i].flag, flag) == 0) {
            *whose = foreign[i].whose;
            return foreign[i].ours;
        }
    return NULL;
}
