/* fuzz_ring - both ends of the boundary read hostile messages.
 *
 * The input is a list of (u8 op, u8 size, bytes) over a segment with two honest requests under way:
 *   op bit 1 set    bytes[1..] go into the arena at 8 * bytes[0]: what a SUBMIT points to
 *   op bit 0        0: a message into the engine's in ring, 1: into the front's out ring
 *   op >> 2         0: the message has the length of its type, else 4 times this
 * A message is a valid head with the bytes laid over it, so that most get past it. Whatever comes: the engine keeps its
 * invariants (sched_check runs each turn), and an event that the front hands on names a live request, a choice of it
 * that is not over, ids of the vocabulary, and no more tokens than were asked for. A front that gives up fails every
 * request that lives.
 */
#include "engine/base/log.h"
#include "tests/support/fake_machine.h"
#include "tests/support/hand_engine.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TOKENS 20
#define TOP        2 /* logprobs of request 1; request 2 has none */

struct heard { /* of one request */
    uint32_t n, tokens[2];
    bool over[2], ended;
};

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
    r.sampling.n_logprobs = TOP;
    if (engine_submit(h->front, &r, &id, &e) != 0)
        abort();
    hand_submit(h, prompt, 20, MAX_TOKENS);
}

/* A message of `length` bytes (0: as its type has it) whose head is right but for what the input changes. */
static size_t lay(uint8_t *msg, size_t length, const uint8_t *bytes, size_t n)
{
    static const struct {
        uint16_t type;
        size_t size;
    } kinds[] = {{MSG_SUBMIT, sizeof(struct msg_submit)},
                 {MSG_CANCEL, sizeof(struct msg_cancel)},
                 {MSG_CREDIT, sizeof(struct msg_credit)},
                 {MSG_TOKENS, sizeof(struct msg_tokens) + 3 * 4},
                 {MSG_PROGRESS, sizeof(struct msg_progress)},
                 {MSG_CHOICE_DONE, sizeof(struct msg_choice_done)},
                 {MSG_DONE, sizeof(struct msg_done)},
                 {MSG_FAILED, sizeof(struct msg_failed)},
                 {99, 40},
                 {MSG_TOKENS, sizeof(struct msg_tokens) + 4 + sizeof(struct engine_logprob)},
                 {MSG_ASK, sizeof(struct msg_ask)},
                 {MSG_LEAF, sizeof(struct msg_leaf)},
                 {MSG_SAYS, sizeof(struct msg_says)}};
    size_t kind = n ? bytes[0] % (sizeof kinds / sizeof *kinds) : 0, whole = length ? length : kinds[kind].size;
    struct msg_head head = {(uint32_t)whole,           MSG_VERSION, kinds[kind].type,
                            n > 1 ? bytes[1] % 4u : 1, 1,           n > 2 ? bytes[2] % 3u : 0};
    memset(msg, 0, MSG_MAX);
    memcpy(msg, &head, sizeof head);
    for (size_t i = 3; i + 1 < n; i += 2) /* (place, value) pairs */
        msg[bytes[i] % whole] = bytes[i + 1];
    return whole;
}

static void put_into_arena(struct hand_engine *h, const uint8_t *bytes, size_t n)
{
    if (n > 1)
        memcpy(h->front->b.arena + (size_t)8 * bytes[0], bytes + 1, n - 1);
}

static void check_tokens(const struct engine_event *ev, struct heard *r)
{
    assert(ev->n >= 1 && ev->n <= ENGINE_EVENT_TOKENS);
    r->tokens[ev->choice] += ev->n;
    assert(!r->over[ev->choice] && r->tokens[ev->choice] <= MAX_TOKENS);
    assert((ev->logprobs != NULL) == (ev->id == 1));
    for (uint32_t i = 0; i < ev->n; i++) {
        assert(ev->tokens[i] >= 0 && ev->tokens[i] < FAKE_VOCAB);
        assert(!ev->logprobs || (ev->logprobs[i].n_top >= 0 && ev->logprobs[i].n_top <= TOP));
        for (int32_t t = 0; ev->logprobs && t < ev->logprobs[i].n_top; t++)
            assert(ev->logprobs[i].top[t].id >= 0 && ev->logprobs[i].top[t].id < FAKE_VOCAB);
    }
}

static void check_event(const struct engine_event *ev, struct heard heard[3])
{
    assert(ev->id >= 1 && ev->id <= 2);
    struct heard *r = &heard[ev->id];
    assert(ev->choice < r->n && !r->ended);
    switch (ev->type) {
    case ENGINE_TOKENS:
        check_tokens(ev, r);
        break;
    case ENGINE_PROGRESS:
        assert(ev->done <= ev->total && ev->cached <= ev->total);
        break;
    case ENGINE_CHOICE_DONE:
        assert(!r->over[ev->choice] && ev->stop_id >= -1 && ev->stop_id < FAKE_VOCAB);
        assert(ev->finish >= ENGINE_FINISH_STOP && ev->finish <= ENGINE_FINISH_CANCELLED);
        r->over[ev->choice] = true;
        break;
    case ENGINE_DONE:
        assert(r->over[0] && (r->n == 1 || r->over[1]) && ev->cached <= ev->total);
        assert(ev->divergent == UINT32_MAX || ev->divergent < ev->total);
        for (int why = 0; why < ENGINE_MISSES; why++)
            assert(ev->missed[why] <= ev->total - ev->cached);
        r->ended = true;
        break;
    case ENGINE_FAILED:
        assert(memchr(ev->text, 0, sizeof ev->text));
        assert(ev->failure >= ENGINE_FAIL_QUEUE_FULL && ev->failure <= ENGINE_FAIL_INTERNAL);
        r->ended = true;
        break;
    default:
        abort();
    }
}

static void take_events(struct hand_engine *h, struct heard heard[3])
{
    struct engine_event ev;
    while (engine_poll(h->front, &ev))
        check_event(&ev, heard);
    assert(!h->front->dead || (heard[1].ended && heard[2].ended));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct engine_config c = {.block_tokens = 16, .max_rows = 16, .max_seqs = 4};
    struct heard heard[3] = {[1] = {.n = 2}, [2] = {.n = 1}};
    struct machine m;
    struct hand_engine h;
    uint8_t msg[MSG_MAX];
    log_set_level(LOG_ERROR - 1);
    fake_machine_open(&m, &c, 12, NULL);
    hand_open(&h, &m);
    /* as a process would be: nonsense ends it, and no new one is to be had */
    h.front->mode = ENGINE_MODE_EXEC;
    h.front->spawn.mode = ENGINE_MODE_THREAD; /* nothing to reap or kill */
    honest(&h);
    for (size_t at = 0; at + 2 <= size && !h.front->dead;) {
        const uint8_t *bytes = data + at + 2;
        size_t n = data[at + 1] < size - at - 2 ? data[at + 1] : size - at - 2;
        struct ring *to = data[at] & 1 ? &h.engine_side.out : &h.front->b.in;
        if (data[at] & 2)
            put_into_arena(&h, bytes, n);
        else
            ring_push(to, msg, lay(msg, (size_t)4 * (data[at] >> 2), bytes, n));
        at += 2 + n;
        loop_turn(&h.loop);
        atomic_store(&h.engine_side.head->status.state, ENGINE_DEAD); /* a restart gives up at once */
        take_events(&h, heard);
    }
    for (int i = 0; i < 60; i++)
        loop_turn(&h.loop);
    h.loop.quit = true;
    hand_close(&h);
    fake_machine_close(&m);
    return 0;
}
