/* fuzz_ring - both ends of the boundary read hostile messages.
 *
 * The input is a list of (u8 direction, u8 size, bytes): direction even goes into the engine's in ring, odd into the
 * front's out ring, over a segment with two honest requests under way; bytes are laid over a valid message header, so
 * that most get past it. Whatever comes: the engine keeps its invariants (sched_check runs each turn), and an event
 * that the front hands on names a live request, a choice of it, ids of the vocabulary, and no more tokens than were
 * asked for.
 */
#include "engine/base/log.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void honest(struct hand_engine *h)
{
    int32_t prompt[40];
    for (int i = 0; i < 40; i++)
        prompt[i] = i;
    struct engine_request r = {
        .prompt = prompt, .n_prompt = 40, .max_tokens = MAX_TOKENS, .n = 2, .sampling = hand_greedy()};
    struct err e;
    uint64_t id;
    r.sampling.n_logprobs = 2;
    if (engine_submit(h->front, &r, &id, &e) != 0)
        abort();
    hand_submit(h, prompt, 20, MAX_TOKENS);
}

/* A message whose head is right but for what the input changes. */
static size_t lay(uint8_t *msg, const uint8_t *bytes, size_t n)
{
    static const uint16_t types[] = {MSG_SUBMIT,      MSG_CANCEL, MSG_CREDIT, MSG_TOKENS, MSG_PROGRESS,
                                     MSG_CHOICE_DONE, MSG_DONE,   MSG_FAILED, 99};
    static const size_t sizes[] = {
        sizeof(struct msg_submit),      sizeof(struct msg_cancel),   sizeof(struct msg_credit),
        sizeof(struct msg_tokens) + 12, sizeof(struct msg_progress), sizeof(struct msg_choice_done),
        sizeof(struct msg_done),        sizeof(struct msg_failed),   40};
    size_t kind = n ? bytes[0] % 9 : 0, whole = sizes[kind];
    struct msg_head head = {(uint32_t)whole,           MSG_VERSION, types[kind],
                            n > 1 ? bytes[1] % 4u : 1, 1,           n > 2 ? bytes[2] % 3u : 0};
    memset(msg, 0, MSG_MAX);
    memcpy(msg, &head, sizeof head);
    for (size_t i = 3; i + 1 < n; i += 2) /* (place, value) pairs */
        msg[bytes[i] % whole] = bytes[i + 1];
    return whole;
}

static void take_events(struct hand_engine *h, uint32_t tokens[3][2])
{
    struct engine_event ev;
    while (!h->front->dead && engine_poll(h->front, &ev)) {
        assert(ev.id >= 1 && ev.id <= 2 && ev.choice < 2);
        if (ev.type == ENGINE_TOKENS) {
            assert(ev.n >= 1 && ev.n <= ENGINE_EVENT_TOKENS);
            tokens[ev.id][ev.choice] += ev.n;
            assert(tokens[ev.id][ev.choice] <= MAX_TOKENS);
            for (uint32_t i = 0; i < ev.n; i++)
                assert(ev.tokens[i] >= 0 && ev.tokens[i] < FAKE_VOCAB);
        }
        if (ev.type == ENGINE_FAILED)
            assert(memchr(ev.text, 0, sizeof ev.text));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine_config c = {.block_tokens = 16, .max_rows = 16, .max_seqs = 4};
    struct machine m;
    struct hand_engine h;
    uint8_t msg[MSG_MAX];
    uint32_t tokens[3][2] = {{0}};
    log_set_level(LOG_ERROR - 1);
    fake_machine_open(&m, &c, 12, NULL);
    hand_open(&h, &m);
    /* as a process would be: nonsense ends it, and no new one is to be had */
    h.front->mode = ENGINE_MODE_EXEC;
    h.front->spawn.mode = ENGINE_MODE_THREAD; /* nothing to reap or kill */
    honest(&h);
    for (size_t at = 0; at + 2 <= size && !h.front->dead;) {
        size_t n = data[at + 1];
        if (n > size - at - 2)
            n = size - at - 2;
        size_t whole = lay(msg, data + at + 2, n);
        ring_push(data[at] & 1 ? &h.engine_side.out : &h.front->b.in, msg, whole);
        at += 2 + n;
        loop_turn(&h.loop);
        atomic_store(&h.engine_side.head->status.state, ENGINE_DEAD); /* a restart gives up at once */
        take_events(&h, tokens);
    }
    for (int i = 0; i < 60; i++)
        loop_turn(&h.loop);
    h.loop.quit = true;
    hand_close(&h);
    fake_machine_close(&m);
    return 0;
}
