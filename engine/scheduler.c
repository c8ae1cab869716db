/* Scheduler: see scheduler.h.
 *
 * States of a request:  waiting --admit--> reading --prompt done--> answering --> done
 *                          \------------------+---------------------------/  (cancel, error, close)
 * Invariants:
 * 1. `mutex` guards the waiting list, `n_running` and `closing`; the running requests and the KV cache belong to the engine's thread.
 * 2. A request is on the waiting list, in a slot, or done; leaving the last two emits its one last event.
 * 3. Before a step, each request's pages cover its tokens up to the end of the step; the reservation made at admission covers its worst case.
 * 4. A request holds a reference to the scheduler, so that eng_cancel is safe at any time while the caller holds the request.
 */
#include "engine/scheduler.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/secret.h"
#include "engine/sampler.h"
#include "engine/textout.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A step that reads prompts should not take longer: cancel waits for it, and so does every answer in progress. */
#define STEP_IDLE_US 400000u
#define STEP_BUSY_US 120000u
#define PIECE_MIN    16u /* prompt tokens of a step, however slow the machine */

struct eng_request {
    _Atomic uint32_t refs; /* the caller and the scheduler */
    _Atomic bool cancelled;
    struct eng_sched *sched;
    struct eng_request *next; /* waiting list */
    int32_t *ids;             /* prompt, then answer: room for n_prompt + max_tokens */
    uint32_t n_prompt, n_ids, max_tokens;
    uint32_t n_done;      /* tokens whose keys and values are in the cache */
    uint32_t step_tokens; /* tokens of the step in progress; 0: none */
    uint32_t logit_row;   /* of the step in progress; UINT32_MAX: none */
    struct eng_sampler *sampler;
    struct eng_textout text;
    struct eng_kv_seq seq;
    uint64_t cache_tag;
    eng_event_fn *on_event;
    void *user;
    struct eng_usage usage;
    uint64_t phase_us; /* when the present phase began */
    bool started;      /* START was sent */
};

struct eng_sched {
    _Atomic uint32_t refs;
    struct eng_sched_options options;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    struct eng_request *head, **tail; /* waiting */
    unsigned n_waiting, n_running;
    bool closing;
    bool lost; /* the device is: nothing runs any more; under mutex */
    struct base_err lost_err;
    uint64_t oldest_us; /* when the first waiting request came; under mutex */

    /* The engine's thread alone. */
    struct eng_request **slots; /* [max_sequences] */
    uint32_t pages_per_sequence;
    uint32_t *page_table; /* [max_sequences, pages_per_sequence] */
    int32_t *ids;         /* [step_tokens] and the next two */
    uint32_t *positions, *sequences;
    uint32_t *logit_rows;       /* [max_sequences] */
    struct eng_choice *choices; /* [max_sequences], and what came of them */
    struct eng_chosen *chosen;
    unsigned turn;       /* which slot is served first */
    double us_per_token; /* of reading prompts, smoothed; 0: not known yet */

    _Atomic uint64_t steps_total, prompt_tokens_total, completion_tokens_total, busy_us_total, last_step_us;
    _Atomic uint32_t kv_reserved;
};

static void sched_unref(struct eng_sched *s)
{
    if (atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&s->mutex);
    pthread_cond_destroy(&s->wake);
    free(s->slots);
    free(s->page_table);
    free(s->ids);
    free(s->positions);
    free(s->sequences);
    free(s->logit_rows);
    free(s->choices);
    free(s->chosen);
    free(s);
}

void eng_request_unref(struct eng_request *r)
{
    if (r == NULL || atomic_fetch_sub(&r->refs, 1) != 1)
        return;
    eng_sampler_free(r->sampler);
    eng_textout_free(&r->text);
    base_wipe(r->ids, (size_t)(r->n_prompt + r->max_tokens) * sizeof(*r->ids));
    free(r->ids);
    sched_unref(r->sched);
    free(r);
}

void eng_cancel(struct eng_request *r)
{
    struct eng_sched *s = r->sched;

    atomic_store(&r->cancelled, true);
    pthread_mutex_lock(&s->mutex);
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

/* Ends the present phase and gives its duration. */
static uint64_t phase_end(struct eng_request *r)
{
    uint64_t now = base_mono_us(), duration = now - r->phase_us;

    r->phase_us = now;
    return duration;
}

static void send(struct eng_request *r, struct eng_event *event)
{
    event->usage = r->usage;
    r->on_event(event, r->user);
}

static void send_text(struct eng_request *r)
{
    struct eng_event event = {.kind = ENG_EVENT_TEXT, .text = r->text.out.data, .text_len = r->text.out.len};

    if (r->text.out.len > 0)
        send(r, &event);
}

/* The last event; drops the scheduler's reference. err NULL: FINISH. The caller has taken r out of its place. */
static void finish(struct eng_request *r, enum eng_finish how, const struct base_err *err)
{
    struct eng_event event = {
        .kind = err != NULL ? ENG_EVENT_ERROR : ENG_EVENT_FINISH, .finish = how, .err = err};

    if (r->started)
        r->usage.decode_us = phase_end(r);
    else if (r->seq.n_reserved > 0)
        r->usage.prefill_us = phase_end(r);
    else
        r->usage.queue_us = phase_end(r);
    if (r->seq.n_reserved > 0) {
        eng_kvcache_release(r->sched->options.kv, &r->seq);
        atomic_store(&r->sched->kv_reserved, eng_kvcache_reserved(r->sched->options.kv));
    }
    send(r, &event);
    eng_request_unref(r);
}

static void finish_slot(struct eng_sched *s, unsigned slot, enum eng_finish how, const struct base_err *err)
{
    struct eng_request *r = s->slots[slot];

    s->slots[slot] = NULL;
    pthread_mutex_lock(&s->mutex);
    s->n_running--;
    pthread_mutex_unlock(&s->mutex);
    finish(r, how, err);
}

/* Under the mutex: takes the first waiting request off the list. */
static struct eng_request *pop_waiting(struct eng_sched *s)
{
    struct eng_request *r = s->head;

    s->head = r->next;
    if (s->head == NULL)
        s->tail = &s->head;
    r->next = NULL;
    s->n_waiting--;
    s->oldest_us = s->head != NULL ? s->head->phase_us : 0;
    return r;
}

/* Under the mutex: takes every cancelled request off the waiting list; the result is a list. */
static struct eng_request *pop_cancelled(struct eng_sched *s)
{
    struct eng_request *gone = NULL, **end = &gone, **at = &s->head;

    while (*at != NULL) {
        struct eng_request *r = *at;

        if (s->closing || atomic_load(&r->cancelled)) {
            *at = r->next;
            r->next = NULL;
            *end = r;
            end = &r->next;
            s->n_waiting--;
        } else
            at = &r->next;
    }
    s->tail = at;
    s->oldest_us = s->head != NULL ? s->head->phase_us : 0;
    return gone;
}

static int free_slot(const struct eng_sched *s)
{
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        if (s->slots[i] == NULL)
            return (int)i;
    }
    return -1;
}

/* Admits from the head of the list while there are slots and pages. The first that does not fit holds up the rest: otherwise a
 * stream of small requests would starve a large one. */
static void admit(struct eng_sched *s)
{
    int slot;

    pthread_mutex_lock(&s->mutex);
    while (s->head != NULL && (slot = free_slot(s)) >= 0) {
        struct eng_request *r = s->head;

        r->seq.pages = s->page_table + (size_t)slot * s->pages_per_sequence;
        if (!eng_kvcache_reserve(s->options.kv, &r->seq, r->n_prompt + r->max_tokens, r->cache_tag))
            break;
        pop_waiting(s);
        s->slots[slot] = r;
        s->n_running++;
        r->usage.queue_us = phase_end(r);
    }
    pthread_mutex_unlock(&s->mutex);
    atomic_store(&s->kv_reserved, eng_kvcache_reserved(s->options.kv));
}

static void add_tokens(struct eng_sched *s, struct eng_step *step, unsigned slot, uint32_t n)
{
    struct eng_request *r = s->slots[slot];

    for (uint32_t i = 0; i < n; i++) {
        s->ids[step->n_tokens] = r->ids[r->n_done + r->step_tokens];
        s->positions[step->n_tokens] = r->n_done + r->step_tokens;
        s->sequences[step->n_tokens] = slot;
        step->n_tokens++;
        r->step_tokens++;
    }
}

static uint32_t left_to_read(const struct eng_request *r)
{
    return r->n_ids - r->n_done - r->step_tokens;
}

/* Prompt tokens that this step can afford. */
static uint32_t prompt_budget(const struct eng_sched *s, uint32_t n_answering)
{
    uint32_t room = s->options.step_tokens - n_answering;
    double affordable;

    if (s->us_per_token <= 0)
        return room < 64 ? room : 64;
    affordable = (n_answering > 0 ? STEP_BUSY_US : STEP_IDLE_US) / s->us_per_token;
    if (affordable < PIECE_MIN)
        affordable = PIECE_MIN;
    return affordable < room ? (uint32_t)affordable : room;
}

/* One token for each answer, then equal shares of the budget for each prompt, then what is left in turn. */
static void build_step(struct eng_sched *s, struct eng_step *step)
{
    unsigned n_slots = s->options.max_sequences, n_reading = 0;
    uint32_t budget, share;

    for (unsigned i = 0; i < n_slots; i++) {
        struct eng_request *r = s->slots[i];

        if (r == NULL)
            continue;
        r->step_tokens = 0;
        r->logit_row = UINT32_MAX;
        if (r->started)
            add_tokens(s, step, i, 1);
        else
            n_reading++;
    }
    budget = n_reading > 0 ? prompt_budget(s, step->n_tokens) : 0;
    share = n_reading > 0 ? budget / n_reading + 1 : 0;
    for (unsigned round = 0; round < 2 && budget > 0; round++) {
        for (unsigned i = 0; i < n_slots && budget > 0; i++) {
            unsigned slot = (s->turn + i) % n_slots;
            struct eng_request *r = s->slots[slot];
            uint32_t n;

            if (r == NULL || r->started)
                continue;
            n = left_to_read(r);
            n = round == 0 && n > share ? share : n;
            n = n > budget ? budget : n;
            add_tokens(s, step, slot, n);
            budget -= n;
        }
    }
    s->turn++;
}

/* Pages for every token of the step, which rows want a next token, and how it is chosen. */
static uint32_t prepare_step(struct eng_sched *s, const struct eng_step *step)
{
    uint32_t n_rows = 0;

    for (uint32_t i = 0; i < step->n_tokens; i++) {
        struct eng_request *r = s->slots[s->sequences[i]];

        if (s->positions[i] + 1 == r->n_ids) { /* the last token known: what follows it? */
            r->logit_row = n_rows;
            eng_sampler_choice(r->sampler, &s->choices[n_rows]);
            s->logit_rows[n_rows++] = i;
        }
    }
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        struct eng_request *r = s->slots[i];

        if (r != NULL && r->step_tokens > 0)
            eng_kvcache_extend(s->options.kv, &r->seq, r->n_done + r->step_tokens);
    }
    return n_rows;
}

/* Takes the answer's next token; finishes the request when it was the last. */
static void take_token(struct eng_sched *s, unsigned slot, int32_t id)
{
    struct eng_request *r = s->slots[slot];
    struct eng_str bytes;

    if (id < 0) {
        struct base_err err;

        base_fail(&err, BASE_CORRUPT, 0, "the model gave no finite logit");
        finish_slot(s, slot, ENG_FINISH_CANCELLED, &err);
        return;
    }
    if (eng_token_ends_answer(s->options.tok, id)) {
        eng_textout_end(&r->text);
        send_text(r);
        finish_slot(s, slot, ENG_FINISH_STOP, NULL);
        return;
    }
    r->ids[r->n_ids++] = id;
    r->usage.completion_tokens++;
    atomic_fetch_add(&s->completion_tokens_total, 1);
    bytes = eng_token_bytes(s->options.tok, id, false);
    if (eng_textout_push(&r->text, bytes.p, bytes.n)) {
        send_text(r);
        finish_slot(s, slot, ENG_FINISH_STOP, NULL);
        return;
    }
    send_text(r);
    if (r->usage.completion_tokens == r->max_tokens) {
        eng_textout_end(&r->text);
        send_text(r);
        finish_slot(s, slot, ENG_FINISH_LENGTH, NULL);
    }
}

static void after_step(struct eng_sched *s)
{
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        struct eng_request *r = s->slots[i];

        if (r == NULL || r->step_tokens == 0)
            continue;
        r->n_done += r->step_tokens;
        if (r->logit_row == UINT32_MAX || atomic_load(&r->cancelled)) /* sweep ends the cancelled */
            continue;
        if (!r->started) {
            struct eng_event event = {.kind = ENG_EVENT_START};

            r->started = true;
            r->usage.prefill_us = phase_end(r);
            atomic_fetch_add(&s->prompt_tokens_total, r->n_prompt);
            send(r, &event);
        }
        eng_sampler_took(r->sampler, s->chosen[r->logit_row].id);
        take_token(s, i, s->chosen[r->logit_row].id);
    }
}

/* The device is lost: whoever waits is told, and so is whoever comes. */
static void give_up(struct eng_sched *s, const struct base_err *err)
{
    struct eng_request *gone;

    pthread_mutex_lock(&s->mutex);
    s->lost = true;
    s->lost_err = *err;
    gone = s->head;
    s->head = NULL;
    s->tail = &s->head;
    s->n_waiting = 0;
    s->oldest_us = 0;
    pthread_mutex_unlock(&s->mutex);
    while (gone != NULL) {
        struct eng_request *r = gone;

        gone = r->next;
        finish(r, ENG_FINISH_CANCELLED, err);
    }
}

static void run_step(struct eng_sched *s)
{
    struct eng_step step = {.ids = s->ids,
                            .positions = s->positions,
                            .sequences = s->sequences,
                            .n_sequences = s->options.max_sequences,
                            .pages_per_sequence = s->pages_per_sequence,
                            .page_table = s->page_table,
                            .logit_rows = s->logit_rows};
    uint64_t begin = base_mono_us(), took;
    struct base_err err;
    enum base_code rc;

    build_step(s, &step);
    step.n_logits = prepare_step(s, &step);
    rc = eng_graph_step(s->options.graph, eng_kvcache_store(s->options.kv), &step, s->choices, NULL,
                        s->chosen, &err);
    took = base_mono_us() - begin;
    if (step.n_tokens >=
        2 * PIECE_MIN) { /* small steps are bound by memory and say nothing about a token's cost */
        double each = (double)took / step.n_tokens;

        s->us_per_token = s->us_per_token > 0 ? 0.7 * s->us_per_token + 0.3 * each : each;
    }
    atomic_fetch_add(&s->steps_total, 1);
    atomic_fetch_add(&s->busy_us_total, took);
    atomic_store(&s->last_step_us, base_mono_us());
    if (rc == BASE_OK) {
        after_step(s);
        return;
    }
    if (rc == BASE_UNAVAILABLE)
        give_up(s, &err);
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        if (s->slots[i] != NULL && (rc == BASE_UNAVAILABLE || s->slots[i]->step_tokens > 0))
            finish_slot(s, i, ENG_FINISH_CANCELLED, &err);
    }
}

static bool any_running(const struct eng_sched *s)
{
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        if (s->slots[i] != NULL)
            return true;
    }
    return false;
}

/* Ends what was cancelled, waiting or running. False when the scheduler closes and nothing is left. */
static bool sweep(struct eng_sched *s)
{
    struct eng_request *gone;
    bool closing;

    pthread_mutex_lock(&s->mutex);
    while (s->head == NULL && !s->closing && !any_running(s))
        pthread_cond_wait(&s->wake, &s->mutex);
    gone = pop_cancelled(s);
    closing = s->closing;
    pthread_mutex_unlock(&s->mutex);
    while (gone != NULL) {
        struct eng_request *r = gone;

        gone = r->next;
        finish(r, ENG_FINISH_CANCELLED, NULL);
    }
    for (unsigned i = 0; i < s->options.max_sequences; i++) {
        if (s->slots[i] != NULL && (closing || atomic_load(&s->slots[i]->cancelled)))
            finish_slot(s, i, ENG_FINISH_CANCELLED, NULL);
    }
    return !closing;
}

static void *sched_main(void *arg)
{
    struct eng_sched *s = arg;

    while (sweep(s)) {
        admit(s);
        if (any_running(s))
            run_step(s);
    }
    return NULL;
}

enum base_code eng_sched_start(struct eng_sched **ret_sched, const struct eng_sched_options *o,
                               struct base_err *err)
{
    struct eng_sched *s = base_zalloc(sizeof(*s));
    bool ok;

    s->options = *o;
    atomic_store(&s->refs, 1);
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->wake, NULL);
    s->tail = &s->head;
    s->pages_per_sequence = eng_kvcache_pages_for(o->context_tokens);
    s->slots = base_zalloc(o->max_sequences * sizeof(struct eng_request *));
    s->page_table = base_try_zarray((size_t)o->max_sequences * s->pages_per_sequence, sizeof(*s->page_table));
    s->ids = base_try_zarray(o->step_tokens, sizeof(*s->ids));
    s->positions = base_try_zarray(o->step_tokens, sizeof(*s->positions));
    s->sequences = base_try_zarray(o->step_tokens, sizeof(*s->sequences));
    s->logit_rows = base_try_zarray(o->max_sequences, sizeof(*s->logit_rows));
    s->choices = base_try_zarray(o->max_sequences, sizeof(*s->choices));
    s->chosen = base_try_zarray(o->max_sequences, sizeof(*s->chosen));
    ok = s->page_table != NULL && s->ids != NULL && s->positions != NULL && s->sequences != NULL &&
         s->logit_rows != NULL && s->choices != NULL && s->chosen != NULL;
    if (!ok || pthread_create(&s->thread, NULL, sched_main, s) != 0) {
        sched_unref(s);
        return ok ? base_fail(err, BASE_UNAVAILABLE, 0, "the engine's thread cannot be started")
                  : base_fail(err, BASE_NO_MEMORY, 0, "no memory for %u sequences", o->max_sequences);
    }
    *ret_sched = s;
    return BASE_OK;
}

void eng_sched_stop(struct eng_sched *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->mutex);
    s->closing = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    sched_unref(s);
}

/* Everything but the place in the queue. */
static struct eng_request *make_request(struct eng_sched *s, const struct eng_submit *submit,
                                        const int32_t *ids, uint32_t n_ids, uint32_t max_tokens,
                                        bool skip_space)
{
    struct eng_request *r = base_zalloc(sizeof(*r));

    r->sched = s;
    atomic_fetch_add(&s->refs, 1);
    atomic_store(&r->refs, 2);
    r->n_prompt = r->n_ids = n_ids;
    r->max_tokens = max_tokens;
    r->ids = base_alloc((size_t)(n_ids + max_tokens) * sizeof(*r->ids)); /* at most ENG_CONTEXT_MAX */
    memcpy(r->ids, ids, n_ids * sizeof(*ids));
    eng_textout_init(&r->text, submit->stop, submit->n_stop, skip_space);
    r->sampler = eng_sampler_new(&submit->sampling, s->options.n_tokens, ids, n_ids);
    r->cache_tag = submit->cache_tag;
    r->on_event = submit->on_event;
    r->user = submit->user;
    r->usage.prompt_tokens = n_ids;
    return r;
}

/* Answer tokens that the request gets; 0 when it cannot fit. */
static uint32_t fit_tokens(const struct eng_sched *s, uint32_t n_ids, uint32_t max_tokens)
{
    uint32_t context = s->options.context_tokens;
    uint64_t pages = (uint64_t)eng_kvcache_pages(s->options.kv) * ENG_PAGE_TOKENS;

    if (pages < context) /* never more than all pages hold */
        context = (uint32_t)pages;
    if (n_ids >= context || max_tokens > context - n_ids)
        return 0;
    return max_tokens != 0 ? max_tokens : context - n_ids;
}

enum base_code eng_sched_submit(struct eng_sched *s, const struct eng_submit *submit, const int32_t *ids,
                                uint32_t n_ids, bool skip_space, struct eng_request **ret_request,
                                struct base_err *err)
{
    uint32_t max_tokens = fit_tokens(s, n_ids, submit->max_tokens);
    struct eng_request *r;
    struct base_err lost_err = {0};
    bool full;

    if (max_tokens == 0)
        return base_fail(err, BASE_TOO_LARGE, 0,
                         "prompt of %u tokens + max_tokens %u pass the context of %u tokens", n_ids,
                         submit->max_tokens, s->options.context_tokens);
    r = make_request(s, submit, ids, n_ids, max_tokens, skip_space);
    if (r->sampler == NULL) {
        atomic_store(&r->refs, 1);
        eng_request_unref(r);
        return base_fail(err, BASE_NO_MEMORY, 0, "no memory for a sampler");
    }
    pthread_mutex_lock(&s->mutex);
    full = s->n_waiting >= s->options.queue_max || s->closing || s->lost;
    if (s->lost)
        lost_err = s->lost_err;
    if (!full) {
        r->phase_us = base_mono_us();
        if (s->head == NULL)
            s->oldest_us = r->phase_us;
        *s->tail = r;
        s->tail = &r->next;
        s->n_waiting++;
        *ret_request = r; /* before the thread can report on it */
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
    if (full) {
        atomic_store(&r->refs, 1);
        eng_request_unref(r);
        if (lost_err.code != BASE_OK)
            return base_fail(err, lost_err.code, 0, "%s", lost_err.detail);
        return base_fail(err, BASE_FULL, 0, "%u requests are waiting already", s->options.queue_max);
    }
    return BASE_OK;
}

void eng_sched_stats(struct eng_sched *s, struct eng_stats *ret_stats)
{
    uint32_t pages = eng_kvcache_pages(s->options.kv);

    *ret_stats = (struct eng_stats){
        .queue_max = s->options.queue_max,
        .kv_usage_ratio = pages > 0 ? (double)atomic_load(&s->kv_reserved) / pages : 0,
        .steps_total = atomic_load(&s->steps_total),
        .prompt_tokens_total = atomic_load(&s->prompt_tokens_total),
        .completion_tokens_total = atomic_load(&s->completion_tokens_total),
        .busy_us_total = atomic_load(&s->busy_us_total),
        .last_step_mono_us = atomic_load(&s->last_step_us),
    };
    pthread_mutex_lock(&s->mutex);
    ret_stats->running = s->n_running;
    ret_stats->device_lost = s->lost;
    ret_stats->waiting = s->n_waiting;
    ret_stats->oldest_wait_us = s->oldest_us != 0 ? base_mono_us() - s->oldest_us : 0;
    pthread_mutex_unlock(&s->mutex);
}
