/* Engine: inference in this process. The one public header of engine/.
 *
 * What: opens a model file, turns a chat into tokens with the model's own template and tokenizer, runs several requests
 *       at once in one batch on its own thread, and reports text as it is made.
 * Who:  any thread may call; events arrive on the engine's thread.
 * Promises:
 *   - knows no HTTP, JSON, SQL or user: only tokens, text, sampling parameters, an opaque cache tag and a callback;
 *   - a model file is untrusted input: every offset is checked, a bad file is an error and never a crash;
 *   - every accepted request ends with exactly one ENG_EVENT_FINISH or ENG_EVENT_ERROR;
 *   - cancel takes effect within one step; KV pages are wiped before another cache tag gets them;
 *   - deterministic: the same prompt, parameters and seed give the same tokens at any batch size.
 * Limits: ENG_*_MAX below.
 * Not here: who may use which model (policy/), what is recorded (audit/).
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define ENG_STOP_MAX       8u    /* stop strings of one request */
#define ENG_STOP_BYTES_MAX 256u  /* bytes of one stop string */
#define ENG_MESSAGES_MAX   4096u /* messages of one chat */
#define ENG_SEQUENCES_MAX  64u   /* requests in one batch */
#define ENG_CONTEXT_MAX    131072u

struct eng;
struct eng_prompt;
struct eng_request;

struct eng_options {
    const char *model_path;
    unsigned n_threads;     /* 0: the number of cores */
    unsigned max_sequences; /* requests decoded together; 0: 8 */
    unsigned queue_max;     /* requests waiting for a place; 0: 64; past it eng_submit says BASE_FULL */
    uint32_t
        context_tokens;  /* prompt + answer of one request; 0: what the model was trained for, at most 8192 */
    size_t kv_bytes_max; /* memory for KV pages; 0: max_sequences * context_tokens */
    /* "cpu", "cuda" (the device with most free memory), "cuda:1"; NULL or "auto": a CUDA device if one can run the model, otherwise
     * the CPU; eng_info.device_note then says why. */
    const char *device;
};

/* Where the CUDA plug-in is, when not beside the program or where it was installed: for the whole process, before the first
 * eng_open. */
void eng_use_plugin(const char *path);

/* Reads and checks the model file, copies its weights (the file is closed then), reserves all memory, starts the thread. BASE_INVALID/BASE_CORRUPT/BASE_UNSUPPORTED for
 * a bad file with the tensor or key at fault named, BASE_NO_MEMORY when the reservation does not fit, BASE_UNAVAILABLE when the device asked for cannot be had. */
enum base_code eng_open(struct eng **ret_eng, const struct eng_options *options, struct base_err *err);
/* Cancels what runs (each gets its last event), joins the thread. NULL is allowed. */
void eng_close(struct eng *eng);

struct eng_info {
    char name[96];    /* general.name, made printable */
    char family[32];  /* "llama", "qwen2", "qwen3" */
    char weights[16]; /* most common weight type: "Q8_0" */
    uint32_t n_layers, n_embd, n_vocab;
    uint32_t train_context_tokens, context_tokens;
    uint64_t n_params;
    uint64_t file_bytes, kv_bytes;
    bool has_chat_template;
    char device[160];                  /* one line: "CPU, 2 threads, AVX-512" */
    char device_note[BASE_DETAIL_MAX]; /* why it is not the device that was hoped for; empty: it is */
    uint64_t device_bytes;             /* memory taken on it */
};
void eng_get_info(const struct eng *eng, struct eng_info *ret_info);

/* A chat message. role is "system", "user", "assistant" or "tool"; content is valid UTF-8 of content_len bytes. Text of
 * a message never becomes a control token: only the template's own text does. */
struct eng_message {
    const char *role;
    const char *content;
    size_t content_len;
};

/* Renders the model's chat template and tokenizes. Thread-safe, does not touch the engine's thread. BASE_TOO_LARGE when
 * the prompt alone passes the context (never truncated), BASE_INVALID with the template's own message when it refuses.
 * A file without a template gets a plain transcript: "User: ...", blank line, ..., "Assistant:". */
enum base_code eng_prompt_chat(struct eng *eng, const struct eng_message *messages, size_t n_messages,
                               struct eng_prompt **ret_prompt, struct base_err *err);
/* Plain text with the tokenizer's usual leading token, for completions and tests. */
enum base_code eng_prompt_text(struct eng *eng, const char *text, size_t len, struct eng_prompt **ret_prompt,
                               struct base_err *err);
uint32_t eng_prompt_tokens(const struct eng_prompt *prompt);
void eng_prompt_free(struct eng_prompt *prompt); /* NULL is allowed */

struct eng_sampling {
    float temperature;                         /* 0: greedy */
    float top_p;                               /* (0, 1]; 1: off */
    float min_p;                               /* [0, 1); 0: off */
    float repetition_penalty;                  /* > 0; 1: off */
    float presence_penalty, frequency_penalty; /* [-2, 2]; 0: off */
    uint32_t top_k;                            /* 0: off */
    uint64_t seed; /* used as given; the caller draws one when the client gave none */
};
#define ENG_SAMPLING_DEFAULT \
    ((struct eng_sampling){.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f})

enum eng_event_kind { ENG_EVENT_ERROR = 0, ENG_EVENT_START, ENG_EVENT_TEXT, ENG_EVENT_FINISH };
enum eng_finish { ENG_FINISH_CANCELLED = 0, ENG_FINISH_STOP, ENG_FINISH_LENGTH };

struct eng_usage {
    uint32_t prompt_tokens, completion_tokens, cached_tokens;
    uint64_t queue_us, prefill_us, decode_us;
};

struct eng_event {
    enum eng_event_kind kind;
    /* TEXT: valid UTF-8, never a cut sequence, never a part of a stop string; not NUL-ended */
    const char *text;
    size_t text_len;
    enum eng_finish finish;     /* FINISH */
    struct eng_usage usage;     /* FINISH and ERROR: final; START (prefill is done): prompt_tokens */
    const struct base_err *err; /* ERROR */
};

/* Called on the engine's thread; must not block and must not call eng_close. The event lives until it returns. */
typedef void eng_event_fn(const struct eng_event *event, void *user);

struct eng_submit {
    const struct eng_prompt *prompt; /* copied */
    struct eng_sampling sampling;
    uint32_t max_tokens;     /* 0: as many as the context leaves */
    const char *const *stop; /* NUL-terminated strings */
    unsigned n_stop;
    uint64_t cache_tag; /* KV pages are never shared or passed on unwiped between tags */
    eng_event_fn *on_event;
    void *user;
};

/* BASE_FULL when the queue is full, BASE_UNAVAILABLE when the device was lost, BASE_TOO_LARGE when prompt + max_tokens pass the context (detail has the figures),
 * BASE_INVALID for parameters out of range. On success the caller owns one reference of the request. */
enum base_code eng_submit(struct eng *eng, const struct eng_submit *submit, struct eng_request **ret_request,
                          struct base_err *err);
/* Asks for an end; the last event (FINISH with ENG_FINISH_CANCELLED) still arrives. Idempotent, any thread. */
void eng_cancel(struct eng_request *request);
/* Gives the reference back; before or after the last event. NULL is allowed. */
void eng_request_unref(struct eng_request *request);

struct eng_stats {
    uint32_t running, waiting, queue_max;
    /* for good: every request fails with BASE_UNAVAILABLE until the engine is opened anew */
    bool device_lost;
    uint64_t oldest_wait_us;
    double kv_usage_ratio;
    uint64_t steps_total, prompt_tokens_total, completion_tokens_total, busy_us_total, last_step_mono_us;
};
void eng_get_stats(struct eng *eng, struct eng_stats *ret_stats); /* any thread, lock-free or nearly so */

struct eng_gauges {
    double utilization; /* share of the last second in which the device worked, 0 to 1 */
    double temperature_c, power_w;
    uint64_t used_bytes, total_bytes; /* by all processes */
};
/* Of the engine's device, for metrics. False for the CPU, and when the driver's management library is not there. Any thread; it may take
 * milliseconds. */
bool eng_get_gauges(const struct eng *eng, struct eng_gauges *ret_gauges);

/* The commands `model info|chat|logits|bench`, shared by `gatehouse model` and `gatehouse-model` (which is built without the
 * gateway). Returns an exit status. */
int eng_cli_main(int argc, char **argv);

#endif
