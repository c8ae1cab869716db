/* Call internals: the one struct of a request's way and what call.c, call_answer.c and call_settle.c share. */
#ifndef GATEWAY_CALL_PRIV_H
#define GATEWAY_CALL_PRIV_H

#include "gateway/app.h"
#include "gateway/call.h"
#include "gateway/chat.h"

struct gw_answer {
    bool begun;    /* headers are out (streaming) */
    bool got_text; /* the backend has sent text: no other route any more */
    bool first_delta_sent;
    bool blocked; /* the guard stopped it */
    struct pol_stream *guard;
    struct base_buf released; /* all text that the guard let through, in order */
    size_t sent;              /* of it, from the start, what the client was sent */
    struct base_buf frame;    /* working memory for one write */
    struct gw_timer *ping;
    uint64_t last_write_ms;
    uint64_t first_text_us; /* 0: none yet */
    int64_t created_s;
};

struct gw_call {
    struct gw_app *app;
    struct gw_http *http; /* NULL once closed */
    struct gw_loop *loop;
    struct gw_loop_state *loop_state;
    struct base_arena *arena;
    bool closed, done;
    unsigned holds;
    char request_id[GW_REQUEST_ID_LEN + 1], peer[GW_PEER_MAX];
    uint64_t arrived_us, step_since_us;
    /* identify */
    struct gw_auth_pending *pending_auth;
    bool identifying;
    struct gw_principal principal;
    struct gw_live_entry live; /* from identified to settled: a revocation cuts it */
    const char *roles[GW_ROLES_MAX];
    char pseudonym[AUD_PSEUDONYM_MAX];
    /* parse: chat and this are a worker's between its start and its message back */
    struct {
        char *body; /* the worker's own */
        size_t len;
        bool ok;
        struct gw_api_error error;
    } parse;
    struct gw_chat chat;
    bool own_events; /* the client understands `event: gatehouse` */
    /* admit */
    struct gw_runtime *runtime;
    const char *model_label; /* lives in the runtime's policy */
    struct pol_limits limits;
    struct gw_limit_pending *pending_limit;
    bool limit_deciding;
    struct gw_limit_ticket *ticket;
    struct gw_limit_result limit;
    /* inspect: written by a worker only between its start and its message back */
    struct pol_findings *findings; /* [gw_chat_n_texts] */
    enum base_code inspect_rc;
    struct base_err inspect_err;
    uint32_t n_found[POL_DETECT_COUNT];
    /* decide */
    struct pol_facts facts;
    struct pol_decision decision;
    bool decided;
    uint32_t n_masked_in;
    /* record: rc and seq are written by the audit thread, read after its message alone */
    enum base_code intent_rc;
    uint64_t intent_seq;
    bool intent_recorded;
    /* serve */
    size_t route_index;
    const struct pol_route *route; /* NULL before serving */
    unsigned attempts;
    struct gw_backend_call *backend_call;
    bool attempt_open; /* a backend has the request and has not said FINISH or ERROR */
    struct gw_answer answer;
    struct {
        uint64_t prompt_tokens, completion_tokens;
        uint64_t pieces; /* texts of the attempt that is open: a lower bound until the backend says */
        /* for the limits alone: what the prompt cost where a backend was stopped before it could say */
        uint64_t estimated;
    } usage;
    /* settle */
    const char *status;     /* "ok", "blocked", "error", "cancelled", "denied", "refused", "cut" */
    const char *error_code; /* NULL: none */
    const char *finish_reason;
};

/* call.c */
void gw_call_step(struct gw_call *call, const char *name);
/* Ends the call with an error to the client. The call may be gone when this returns. */
void gw_call_refuse(struct gw_call *call, const struct gw_api_error *error);
void gw_call_serve(struct gw_call *call);
void gw_call_backend_failed(struct gw_call *call, const struct gw_backend_event *event);
void gw_call_maybe_free(struct gw_call *call);
/* The attempt is over: counts what it cost. event NULL: it is stopped by us, before the backend could say. */
void gw_call_attempt_over(struct gw_call *call, const struct gw_backend_event *event);

/* call_answer.c: what the client gets */
void gw_call_answer_init(struct gw_call *call);
void gw_call_answer_free(struct gw_call *call);
void gw_call_answer_begin(struct gw_call *call); /* before each attempt */
void gw_call_answer_started(struct gw_call *call);
void gw_call_answer_text(struct gw_call *call, const char *text, size_t len);
void gw_call_answer_finish(struct gw_call *call, const struct gw_backend_event *event);
void gw_call_answer_error(struct gw_call *call, const struct gw_api_error *error);
void gw_call_answer_stop_timers(struct gw_call *call);

/* call_settle.c: what is recorded */
enum base_code gw_call_record_intent(struct gw_call *call, aud_durable_fn *on_durable, struct base_err *err);
void gw_call_record_outcome(struct gw_call *call);
/* Once: stops the backend, records the outcome, corrects the reservation, counts, logs. Writes nothing to the client. */
void gw_call_end(struct gw_call *call, const char *status, const char *error_code);

#endif
