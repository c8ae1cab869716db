/* Backend, in this process: the engine's events brought to the call's loop. See backend.h.
 *
 *   loop: submit ── worker: template + tokens, eng_submit ── engine thread: events ── loop: on_event
 *
 * Invariants:
 *  1. Three parties hold an engine_call: the owner (until cancel), the worker or the engine (until the last event), and each message on its
 *     way to the loop. The last one frees it.
 *  2. `owner_gone` is read and written on the loop alone; after it no event is reported.
 *  3. `request` is written by the worker under `lock` and cancelled under it, so that a cancel that comes before eng_submit is not lost.
 *  4. At most one message of a call is on its way to its loop: texts are joined in `pending` meanwhile. After a cancel none is sent any
 *     more: the loop may have ended.
 *  5. The last reference to an engine may fall on a loop or on the engine's own thread, neither of which may join it: closing then
 *     happens on a thread of its own. The main thread closes at once.
 */
#include "gateway/backend_priv.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "engine/engine.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define PENDING_MAX (64u << 20)

struct gw_shared_engine {
    atomic_int refs;
    struct eng *eng;
    char *file, *device;
    uint32_t context_tokens, max_sequences, queue_max, threads;
};

struct engine_call {
    struct gw_backend_call base;
    atomic_int refs;
    struct gw_backend *backend;
    struct gw_loop *loop;
    struct base_arena *arena; /* keeps alive what the chat points to */
    /* a copy: the owner's is gone once it has cancelled, and a worker may only then come to it */
    struct gw_chat chat;
    uint32_t max_tokens;
    uint64_t cache_tag, seed;
    gw_backend_event_fn *on_event;
    void *user;
    bool owner_gone; /* loop */

    pthread_mutex_t lock; /* guards what follows: engine thread or worker on one side, loop on the other */
    struct eng_request *request;
    bool cancelled, delivering;
    struct base_buf pending; /* text on its way */
    bool started, ended;
    struct gw_backend_event last; /* FINISH or ERROR, once ended */
    struct base_err err;
};

/* ---- the shared engine ---- */

static bool same_engine(const struct gw_shared_engine *engine, const struct pol_backend *settings)
{
    struct eng_stats stats;

    eng_get_stats(engine->eng, &stats);
    return !stats.device_lost && strcmp(engine->file, settings->file) == 0 &&
           strcmp(engine->device, settings->device != NULL ? settings->device : "auto") == 0 &&
           engine->context_tokens == settings->context_tokens &&
           engine->max_sequences == settings->max_sequences && engine->queue_max == settings->queue_max &&
           engine->threads == settings->threads;
}

enum base_code gw_engine_open(struct gw_shared_engine **ret_engine, const struct pol_backend *settings,
                              struct gw_shared_engine *old, struct base_err *err)
{
    struct eng_options options = {
        .model_path = settings->file,
        .n_threads = settings->threads,
        .max_sequences = settings->max_sequences,
        .queue_max = settings->queue_max,
        .context_tokens = settings->context_tokens,
        .device = settings->device,
    };
    struct gw_shared_engine *engine;
    struct eng_info info;
    struct eng *eng = NULL;
    enum base_code rc;

    if (old != NULL && same_engine(old, settings)) {
        atomic_fetch_add_explicit(&old->refs, 1, memory_order_relaxed);
        *ret_engine = old;
        return BASE_OK;
    }
    rc = eng_open(&eng, &options, err);
    if (rc != BASE_OK)
        return rc;
    engine = base_zalloc(sizeof(*engine));
    atomic_init(&engine->refs, 1);
    engine->eng = eng;
    engine->file = base_strdup(settings->file);
    engine->device = base_strdup(settings->device != NULL ? settings->device : "auto");
    engine->context_tokens = settings->context_tokens;
    engine->max_sequences = settings->max_sequences;
    engine->queue_max = settings->queue_max;
    engine->threads = settings->threads;
    eng_get_info(eng, &info);
    base_log(BASE_LOG_INFO, "engine.opened", info.device, LOG_STR("backend", settings->name),
             LOG_STR("model", info.name), LOG_INT("device_bytes", (int64_t)info.device_bytes),
             LOG_STR("note", info.device_note));
    *ret_engine = engine;
    return BASE_OK;
}

static void *close_engine(void *arg)
{
    struct gw_shared_engine *engine = arg;

    eng_close(engine->eng);
    free(engine->file);
    free(engine->device);
    free(engine);
    return NULL;
}

void gw_engine_unref(struct gw_shared_engine *engine)
{
    pthread_t closer;

    if (engine == NULL || atomic_fetch_sub_explicit(&engine->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (gettid() == getpid())
        close_engine(engine);
    else if (pthread_create(&closer, NULL, close_engine, engine) == 0)
        pthread_detach(closer);
}

struct eng *gw_engine_get(const struct gw_shared_engine *engine)
{
    return engine->eng;
}

/* ---- one call ---- */

static void call_unref(struct engine_call *call)
{
    if (atomic_fetch_sub_explicit(&call->refs, 1, memory_order_acq_rel) != 1)
        return;
    eng_request_unref(call->request);
    base_buf_free(&call->pending);
    base_arena_unref(call->arena);
    pthread_mutex_destroy(&call->lock);
    gw_backend_unref(call->backend);
    free(call);
}

/* On the loop: hands on what has gathered. */
static void deliver(void *arg)
{
    struct engine_call *call = arg;
    struct base_buf text;
    struct gw_backend_event event = {.kind = GW_BACKEND_STARTED};
    bool started, ended;

    pthread_mutex_lock(&call->lock);
    text = call->pending;
    base_buf_init(&call->pending, PENDING_MAX);
    started = call->started;
    call->started = false;
    ended = call->ended;
    call->delivering = false;
    pthread_mutex_unlock(&call->lock);

    if (started && !call->owner_gone)
        call->on_event(&event, call->user);
    if (text.len > 0 && !call->owner_gone) {
        event = (struct gw_backend_event){.kind = GW_BACKEND_TEXT, .text = text.data, .text_len = text.len};
        call->on_event(&event, call->user);
    }
    if (ended && !call->owner_gone) {
        event = call->last; /* written before `ended`, never after */
        call->on_event(&event, call->user);
    }
    base_buf_free(&text);
    call_unref(call);
}

/* With the lock held: a message to the loop unless one is on its way, or nobody waits for it. */
static void deliver_soon(struct engine_call *call)
{
    if (call->delivering || call->cancelled)
        return;
    call->delivering = true;
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
    gw_loop_post(call->loop, deliver, call);
}

static void end_with_error(struct engine_call *call, enum gw_api_code code, bool try_next,
                           const struct base_err *err)
{
    pthread_mutex_lock(&call->lock);
    call->err = *err;
    call->last = (struct gw_backend_event){.kind = GW_BACKEND_ERROR,
                                           .code = code,
                                           .try_next = try_next,
                                           .err = &call->err,
                                           .retry_after_s = try_next ? 1 : 0};
    call->ended = true;
    deliver_soon(call);
    pthread_mutex_unlock(&call->lock);
}

/* On the engine's thread. */
static void on_engine_event(const struct eng_event *event, void *user)
{
    struct engine_call *call = user;
    bool last = event->kind == ENG_EVENT_FINISH || event->kind == ENG_EVENT_ERROR;

    pthread_mutex_lock(&call->lock);
    switch (event->kind) {
    case ENG_EVENT_START: call->started = true; break;
    case ENG_EVENT_TEXT: base_buf_append(&call->pending, event->text, event->text_len); break;
    case ENG_EVENT_FINISH:
        if (event->finish ==
            ENG_FINISH_CANCELLED) /* not by the owner, who hears nothing more: the engine is closing */
            call->last = (struct gw_backend_event){
                .kind = GW_BACKEND_ERROR, .code = GW_API_SHUTTING_DOWN, .err = &call->err};
        else
            call->last = (struct gw_backend_event){
                .kind = GW_BACKEND_FINISH,
                .finish_reason = event->finish == ENG_FINISH_LENGTH ? "length" : "stop"};
        break;
    case ENG_EVENT_ERROR:
        if (event->err != NULL)
            call->err = *event->err;
        call->last = (struct gw_backend_event){
            .kind = GW_BACKEND_ERROR, .code = GW_API_UPSTREAM_BROKEN, .err = &call->err};
        if (call->err.code == BASE_UNAVAILABLE) { /* the device was lost: nothing is wrong with the request */
            call->last.code = GW_API_UPSTREAM_UNAVAILABLE;
            call->last.try_next = true;
        }
        break;
    }
    if (last) {
        call->last.prompt_tokens = event->usage.prompt_tokens;
        call->last.completion_tokens = event->usage.completion_tokens;
        call->last.counted = true;
        call->ended = true;
    }
    deliver_soon(call);
    pthread_mutex_unlock(&call->lock);
    if (last)
        call_unref(call);
}

static float or_default(bool has, double value, float fallback)
{
    return has ? (float)value : fallback;
}

static struct eng_sampling sampling_of(const struct engine_call *call)
{
    const struct gw_chat *chat = &call->chat;

    return (struct eng_sampling){
        .temperature = or_default(chat->has_temperature, chat->temperature, 0.7f),
        .top_p = or_default(chat->has_top_p && chat->top_p > 0, chat->top_p, 1.0f),
        .top_k = chat->has_top_p && chat->top_p <= 0 ? 1
                 : chat->has_top_k                   ? chat->top_k
                                                     : 0,
        .min_p = or_default(chat->has_min_p && chat->min_p < 1, chat->min_p, 0.0f),
        .repetition_penalty = or_default(chat->has_repetition_penalty, chat->repetition_penalty, 1.0f),
        .presence_penalty = or_default(chat->has_presence_penalty, chat->presence_penalty, 0.0f),
        .frequency_penalty = or_default(chat->has_frequency_penalty, chat->frequency_penalty, 0.0f),
        .seed = call->seed,
    };
}

static enum base_code make_prompt(struct engine_call *call, struct eng_prompt **ret_prompt,
                                  struct base_err *err)
{
    const struct gw_chat *chat = &call->chat;
    struct eng_message *messages = base_try_zarray(chat->n_messages, sizeof(*messages));
    enum base_code rc;

    if (messages == NULL)
        return base_fail(err, BASE_NO_MEMORY, 0, "%zu messages", chat->n_messages);
    for (size_t i = 0; i < chat->n_messages; i++)
        messages[i] = (struct eng_message){.role = gw_role_name(chat->messages[i].role),
                                           .content = chat->messages[i].content.bytes,
                                           .content_len = chat->messages[i].content.len};
    rc = eng_prompt_chat(gw_engine_get(call->backend->engine), messages, chat->n_messages, ret_prompt, err);
    free(messages);
    return rc;
}

static enum base_code submit_prompt(struct engine_call *call, const struct eng_prompt *prompt,
                                    struct base_err *err)
{
    const char *stop[GW_CHAT_STOP_MAX];
    struct eng_submit submit = {
        .prompt = prompt,
        .sampling = sampling_of(call),
        .max_tokens = call->max_tokens,
        .stop = stop,
        .n_stop = call->chat.n_stop,
        .cache_tag = call->cache_tag,
        .on_event = on_engine_event,
        .user = call,
    };
    struct eng_request *request = NULL;
    enum base_code rc;

    for (unsigned i = 0; i < call->chat.n_stop; i++)
        stop[i] = call->chat.stop[i].bytes;
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed); /* the engine's, until its last event */
    rc = eng_submit(gw_engine_get(call->backend->engine), &submit, &request, err);
    if (rc != BASE_OK) {
        atomic_fetch_sub_explicit(&call->refs, 1,
                                  memory_order_relaxed); /* never the last: the worker still has its own */
        return rc;
    }
    pthread_mutex_lock(&call->lock);
    call->request = request;
    if (call->cancelled)
        eng_cancel(request);
    pthread_mutex_unlock(&call->lock);
    return BASE_OK;
}

static bool is_cancelled(struct engine_call *call)
{
    bool cancelled;

    pthread_mutex_lock(&call->lock);
    cancelled = call->cancelled;
    pthread_mutex_unlock(&call->lock);
    return cancelled;
}

/* On a worker: a long prompt takes milliseconds to tokenize. */
static void prepare(void *arg, void *thread_state)
{
    struct engine_call *call = arg;
    struct eng_prompt *prompt = NULL;
    struct base_err err = {0};
    enum base_code rc;

    (void)thread_state;
    rc = is_cancelled(call) ? BASE_CANCELLED : make_prompt(call, &prompt, &err);
    if (rc == BASE_OK)
        rc = submit_prompt(call, prompt, &err);
    eng_prompt_free(prompt);
    if (rc == BASE_TOO_LARGE)
        end_with_error(call, GW_API_CONTEXT_LENGTH_EXCEEDED, true,
                       &err); /* the next route may have a longer context */
    else if (rc == BASE_FULL)
        end_with_error(call, GW_API_ENGINE_BUSY, true, &err);
    else if (rc == BASE_INVALID)
        end_with_error(call, GW_API_INVALID_VALUE, false, &err);
    else if (rc != BASE_OK && rc != BASE_CANCELLED)
        end_with_error(call, GW_API_UPSTREAM_UNAVAILABLE, true, &err);
    call_unref(call);
}

static void engine_cancel(struct gw_backend_call *base)
{
    struct engine_call *call = (struct engine_call *)base;

    call->owner_gone = true;
    pthread_mutex_lock(&call->lock);
    call->cancelled = true;
    if (call->request != NULL)
        eng_cancel(call->request);
    pthread_mutex_unlock(&call->lock);
    call_unref(call);
}

enum base_code gw_engine_submit(struct gw_backend *backend, const struct gw_backend_request *request,
                                struct gw_backend_call **ret_call, struct base_err *err)
{
    struct engine_call *call = base_zalloc(sizeof(*call));
    enum base_code rc;

    call->base.cancel = engine_cancel;
    atomic_init(&call->refs, 2); /* the owner's and the worker's */
    call->backend = gw_backend_ref(backend);
    call->loop = request->loop;
    call->arena = base_arena_ref(request->chat->arena);
    call->chat = *request->chat;
    call->max_tokens = request->max_tokens;
    call->cache_tag = request->cache_tag;
    call->seed = request->seed;
    call->on_event = request->on_event;
    call->user = request->user;
    pthread_mutex_init(&call->lock, NULL);
    base_buf_init(&call->pending, PENDING_MAX);
    rc = base_workers_submit(request->workers, prepare, call);
    if (rc != BASE_OK) {
        call->refs = 1;
        call_unref(call);
        return base_fail(err, rc, 0, "the workers' queue is full");
    }
    *ret_call = &call->base;
    return BASE_OK;
}
