/* llama_cpp_oracle - what llama.cpp says about smollm2_texts.txt: writes smollm2.topk for test_smollm2.c.
 *
 * Each text is tokenized (control tokens are known, no BOS added) and teacher-forced in a context of its own of at most
 * 1024 tokens on the CPU backend. llama.cpp multiplies block types with activations rounded to 8 bits, which moves the
 * logits more than anything else does. So the truth is llama.cpp on the same weights written out as F32 (nothing is
 * rounded then; KV cache F32): for every position its 64 largest logits and the logsumexp over the vocabulary. The file
 * as it is, with llama.cpp's defaults, is compared with that truth here, and the distance is stored: it says how exact
 * 8-bit activations are at their best.
 *
 * Run by hand, not in CI. The stored file came from the llama.cpp in llama-cpp-python 0.3.36 (GGML_NATIVE, AVX2) and
 * SmolLM2-135M-Instruct.Q4_1.gguf; $L is llama.cpp:
 *
 *     cmake -B $L/build -DBUILD_SHARED_LIBS=OFF -DCMAKE_BUILD_TYPE=Release $L
 *     cmake --build $L/build --target llama llama-quantize
 *     $L/build/bin/llama-quantize --allow-requantize MODEL.gguf F32.gguf F32
 *     c++ -O2 -std=c++17 -I$L/include -I$L/ggml/include tests/golden/llama_cpp_oracle.cpp -o oracle \
 *         $L/build/src/libllama.a $L/build/ggml/src/libggml.a $L/build/ggml/src/libggml-cpu.a \
 *         $L/build/ggml/src/libggml-base.a -fopenmp -lpthread -ldl
 *     ./oracle F32.gguf MODEL.gguf tests/golden/smollm2_texts.txt tests/golden/smollm2.topk
 *
 * File, little-endian: "HTOPK1\0\0"; u32 vocabulary, texts, k = 64; the file as it is against the truth: f32 mean and
 * 99th percentile of KL(truth || it), u32 positions where the truth's best two differ by more than 0.1, u32 those of
 * them where the best token is another; then each text: u32 n, u16 ids[n], and n times { f32 logsumexp - max, u16
 * ids[k], f16 logits[k] - max }, best first.
 */
#include <llama.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

static const int K = 64, CTX = 1024;

[[noreturn]] static void die(const char *what)
{
    fprintf(stderr, "%s\n", what);
    exit(1);
}

struct runner { // a model and a context of it
    llama_model *model;
    llama_context *ctx;
    const llama_vocab *vocab;
    int n_vocab;

    runner(const char *path, bool exact)
    {
        model = llama_model_load_from_file(path, llama_model_default_params());
        if (!model)
            die("a model does not load");
        llama_context_params cp = llama_context_default_params();
        cp.n_ctx = cp.n_batch = CTX;
        cp.n_threads = cp.n_threads_batch = 2;
        if (exact) {
            cp.type_k = cp.type_v = GGML_TYPE_F32;
            cp.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
        }
        ctx = llama_init_from_model(model, cp);
        if (!ctx)
            die("no context");
        vocab = llama_model_get_vocab(model);
        n_vocab = llama_vocab_n_tokens(vocab);
    }

    void decode(const std::vector<llama_token> &ids)
    {
        const int n = (int)ids.size();
        llama_memory_clear(llama_get_memory(ctx), true);
        llama_batch b = llama_batch_init(n, 0, 1);
        b.n_tokens = n;
        for (int i = 0; i < n; i++) {
            b.token[i] = ids[i];
            b.pos[i] = i;
            b.n_seq_id[i] = 1;
            b.seq_id[i][0] = 0;
            b.logits[i] = 1;
        }
        if (llama_decode(ctx, b))
            die("decode failed");
        llama_batch_free(b);
    }
};

static std::vector<std::string> read_texts(const char *path)
{
    std::ifstream in(path);
    std::vector<std::string> texts;
    std::string line;
    while (std::getline(in, line)) {
        if (line.rfind("==== ", 0) == 0)
            texts.emplace_back();
        else if (texts.empty())
            die("the texts must begin with a line ==== name");
        else
            texts.back() += (texts.back().empty() ? "" : "\n") + line;
    }
    return texts;
}

static double log_sum_exp(const float *x, int n)
{
    const double top = *std::max_element(x, x + n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += std::exp(x[i] - top);
    return top + std::log(sum);
}

static double divergence(const float *p, const float *q, int n)
{
    const double zp = log_sum_exp(p, n), zq = log_sum_exp(q, n);
    double kl = 0;
    for (int i = 0; i < n; i++)
        kl += std::exp(p[i] - zp) * ((p[i] - zp) - (q[i] - zq));
    return kl;
}

template <class T> static void put(FILE *f, T v)
{
    if (fwrite(&v, sizeof v, 1, f) != 1)
        die("write failed");
}

/* Writes a row; returns by how much the best logit leads. */
static float put_row(FILE *f, const float *logits, int vocab)
{
    std::vector<int> order(vocab);
    for (int i = 0; i < vocab; i++)
        order[i] = i;
    std::partial_sort(order.begin(), order.begin() + K, order.end(),
                      [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    const float top = logits[order[0]];
    put(f, (float)(log_sum_exp(logits, vocab) - top));
    for (int i = 0; i < K; i++)
        put(f, (uint16_t)order[i]);
    for (int i = 0; i < K; i++)
        put(f, ggml_fp32_to_fp16(logits[order[i]] - top));
    return top - logits[order[1]];
}

int main(int argc, char **argv)
{
    if (argc != 5)
        die("usage: oracle F32.gguf MODEL.gguf TEXTS OUT");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    runner truth(argv[1], true), as_is(argv[2], false);
    const int v = truth.n_vocab;
    if (v > 65536 || as_is.n_vocab != v)
        die("ids are 16 bits here, and both models must have the same vocabulary");
    const auto texts = read_texts(argv[3]);
    FILE *f = fopen(argv[4], "wb");
    if (!f)
        die("cannot write");
    fwrite("HTOPK1\0", 1, 8, f);
    put(f, (uint32_t)v);
    put(f, (uint32_t)texts.size());
    put(f, (uint32_t)K);
    const long summary = ftell(f);
    for (int i = 0; i < 4; i++)
        put(f, (uint32_t)0);
    std::vector<double> kl;
    uint32_t sure = 0, wrong = 0;
    for (const std::string &t : texts) {
        std::vector<llama_token> ids(CTX);
        const int n = llama_tokenize(truth.vocab, t.data(), (int)t.size(), ids.data(), CTX, false, true);
        if (n <= 0)
            die("a text is empty or longer than the context");
        ids.resize(n);
        put(f, (uint32_t)n);
        for (int i = 0; i < n; i++)
            put(f, (uint16_t)ids[i]);
        truth.decode(ids);
        as_is.decode(ids);
        for (int i = 0; i < n; i++) {
            const float *p = llama_get_logits_ith(truth.ctx, i), *q = llama_get_logits_ith(as_is.ctx, i);
            kl.push_back(divergence(p, q, v));
            if (put_row(f, p, v) > 0.1f) {
                sure++;
                wrong += std::max_element(p, p + v) - p != std::max_element(q, q + v) - q;
            }
        }
        printf("%5d tokens: %.40s\n", n, t.c_str());
    }
    double sum = 0;
    for (double x : kl)
        sum += x;
    std::sort(kl.begin(), kl.end());
    const float mean = (float)(sum / kl.size()), p99 = (float)kl[kl.size() * 99 / 100];
    printf("%zu positions; the file as it is: mean KL %.2e, p99 %.2e, best token differs in %u of %u\n", kl.size(),
           mean, p99, wrong, sure);
    fseek(f, summary, SEEK_SET);
    put(f, mean);
    put(f, p99);
    put(f, sure);
    put(f, wrong);
    return fclose(f) ? 1 : 0;
}
