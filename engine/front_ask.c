/* front_ask - questions about sessions: the front keeps each until it is answered, and asks a new engine again.
 *
 * A question carries all that an engine needs to know, so nothing is registered and nothing has to be restored.
 */
#include "engine/front.h"

#include <errno.h>
#include <string.h>

static bool push_question(struct engine *g, uint64_t id, const struct engine_question *q)
{
    struct msg_ask m = {.head = {sizeof m, MSG_VERSION, MSG_ASK, id, g->generation, 0}, .question = *q};
    if (ring_push(&g->b.in, &m, sizeof m) != 0)
        return false;
    boundary_wake(g->b.wake_engine);
    return true;
}

int engine_ask(struct engine *g, const struct engine_question *q, uint64_t *id, struct err *e)
{
    if (g->dead)
        return err_set(e, EPIPE, "the engine has stopped: %s", g->error);
    if (q->verb == ENGINE_KEEP) {
        *id = ++g->last_id;
        return push_question(g, *id, q) ? 0 : err_set(e, EAGAIN, "the engine has not taken the last requests yet");
    }
    if (g->n_asks == ENGINE_QUESTIONS)
        return err_set(e, EAGAIN, "%d questions about sessions are open", ENGINE_QUESTIONS);
    struct front_ask *a = &g->asks[g->n_asks++];
    *a = (struct front_ask){.id = ++g->last_id, .q = *q};
    a->due = !push_question(g, a->id, q);
    *id = a->id;
    return 0;
}

void front_ask_due(struct engine *g)
{
    for (uint32_t i = 0; i < g->n_asks; i++)
        if (g->asks[i].due)
            g->asks[i].due = !push_question(g, g->asks[i].id, &g->asks[i].q);
}

void front_ask_again(struct engine *g)
{
    for (uint32_t i = 0; i < g->n_asks; i++)
        g->asks[i].due = true;
}

static int drop(struct engine *g, uint32_t i, const struct engine_whereabouts *says, struct engine_event *ev)
{
    memset(ev, 0, sizeof *ev);
    ev->type = ENGINE_SAYS;
    ev->id = g->asks[i].id;
    ev->says = *says;
    g->asks[i] = g->asks[--g->n_asks];
    return 1;
}

int front_accept_says(struct engine *g, size_t n, struct engine_event *ev)
{
    struct msg_says m;
    uint32_t i = 0;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    while (i < g->n_asks && g->asks[i].id != m.head.id)
        i++;
    if (i == g->n_asks || m.says.answer < ENGINE_ANSWERED || m.says.answer > ENGINE_NO_MEMORY || m.says.parked_on > 2)
        return -EBADMSG;
    uint32_t blocks = g->asks[i].q.leaf.n_blocks;
    for (int t = 0; t < 3; t++)
        if (m.says.in[t] > blocks)
            return -EBADMSG;
    if (m.says.missing > blocks)
        return -EBADMSG;
    return drop(g, i, &m.says, ev);
}

int front_accept_leaf(struct engine *g, const struct live *r, size_t n, struct engine_event *ev)
{
    struct msg_leaf m;
    if (n != sizeof m)
        return -EBADMSG;
    memcpy(&m, g->msg, sizeof m);
    uint64_t most = r->msg.n_prompt + r->msg.max_tokens;
    if (!(r->msg.flags & MSG_FLAG_IN_SESSION) || m.leaf.request != r->id || m.leaf.n_tokens > most ||
        (uint64_t)m.leaf.n_blocks * g->ready.block_tokens > m.leaf.n_tokens)
        return -EBADMSG;
    ev->type = ENGINE_LEAF;
    ev->leaf = m.leaf;
    return 1;
}

int front_ask_fail(struct engine *g, struct engine_event *ev)
{
    return g->n_asks ? drop(g, g->n_asks - 1, &(struct engine_whereabouts){.answer = ENGINE_GONE}, ev) : 0;
}
