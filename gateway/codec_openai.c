/* OpenAI chat codec over jansson. See codec_openai.h.
 *
 * Every field has one row in `fields` with what is done with it: read, accepted and not forwarded, or refused when it asks for something.
 * A field without a row is refused: what a provider would make of it nobody here has checked. jansson values stay in this file.
 */
#include "gateway/codec_openai.h"

#include "base/json_shape.h"
#include "base/mem.h"
#include "base/str.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *gw_role_name(enum gw_role role)
{
    switch (role) {
    case GW_ROLE_SYSTEM: return "system";
    case GW_ROLE_ASSISTANT: return "assistant";
    case GW_ROLE_USER: return "user";
    case GW_ROLE_NONE: break;
    }
    return "user";
}

static inline void json_decref_cleanup(json_t **json)
{
    json_decref(*json);
}
#define auto_json __attribute__((cleanup(json_decref_cleanup)))

struct parse {
    struct gw_chat *chat;
    struct base_arena *arena;
    struct gw_api_error *error;
};

static bool fail_value(struct parse *p, const char *param, const char *sentence)
{
    gw_api_fail(p->error, GW_API_INVALID_VALUE, param, "%s", sentence);
    return false;
}

/* Before jansson: its own limit of depth (2048) is a compile-time constant of the library; of values it has none, and "[]," of 3 bytes
 * takes it 130 bytes of memory. */
static bool shape_allowed(const char *body, size_t len)
{
    struct base_json_shape shape = base_json_shape(body, len);

    return shape.depth <= GW_JSON_DEPTH_MAX && shape.values <= GW_JSON_VALUES_MAX;
}

/* ---- messages ---- */

static enum gw_role role_parse(const char *role)
{
    if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)
        return GW_ROLE_SYSTEM;
    if (strcmp(role, "user") == 0)
        return GW_ROLE_USER;
    if (strcmp(role, "assistant") == 0)
        return GW_ROLE_ASSISTANT;
    return GW_ROLE_NONE;
}

/* Into the arena; false: it is full. */
static bool keep_text(struct parse *p, json_t *value, struct gw_text *text)
{
    text->len = json_string_length(value);
    text->bytes = base_arena_dup(p->arena, json_string_value(value), text->len);
    return text->bytes != NULL;
}

/* The text parts of an array, one after another. */
static bool join_parts(struct parse *p, json_t *parts, const char *param, struct gw_message *message)
{
    size_t total = 0, at = 0, index;
    json_t *part;
    char *text;

    json_array_foreach(parts, index, part)
    {
        const char *type = json_string_value(json_object_get(part, "type"));
        json_t *content = json_object_get(part, "text");

        if (type == NULL || strcmp(type, "text") != 0) {
            gw_api_fail(p->error, GW_API_UNSUPPORTED_FIELD, param,
                        "Only text parts are taken in %s: images, audio and files are not offered yet.",
                        param);
            return false;
        }
        if (!json_is_string(content))
            return fail_value(p, param, "A text part must have a string 'text'.");
        total += json_string_length(content);
    }
    text = base_arena_alloc(p->arena, total + 1);
    if (text == NULL)
        return fail_value(p, param, "The messages are too long.");
    json_array_foreach(parts, index, part)
    {
        json_t *content = json_object_get(part, "text");
        size_t n = json_string_length(content);

        memcpy(text + at, json_string_value(content), n);
        at += n;
    }
    message->content = (struct gw_text){text, total};
    return true;
}

static bool parse_content(struct parse *p, json_t *content, const char *param, struct gw_message *message)
{
    if (json_is_array(content) && json_array_size(content) > 0)
        return join_parts(p, content, param, message);
    if (!json_is_string(content))
        return fail_value(p, param,
                          "A message's content must be a string, or a non-empty list of text parts.");
    if (!keep_text(p, content, &message->content))
        return fail_value(p, param, "The messages are too long.");
    return true;
}

static bool parse_message(struct parse *p, json_t *object, size_t index, struct gw_message *message)
{
    char param[64];
    const char *key, *role;
    json_t *value;

    snprintf(param, sizeof(param), "messages[%zu]", index);
    if (!json_is_object(object))
        return fail_value(p, param, "Each message must be an object with 'role' and 'content'.");
    json_object_foreach(object, key, value)
    {
        bool tool = strcmp(key, "tool_calls") == 0 || strcmp(key, "tool_call_id") == 0 ||
                    strcmp(key, "function_call") == 0 || strcmp(key, "audio") == 0;
        bool said = tool || strcmp(key, "refusal") == 0 ||
                    strcmp(key, "annotations") == 0; /* of an answer given back as history */

        if (strcmp(key, "role") == 0 || strcmp(key, "content") == 0 || strcmp(key, "name") == 0 ||
            (said && (json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0))))
            continue;
        gw_api_fail(p->error, tool ? GW_API_UNSUPPORTED_FIELD : GW_API_UNKNOWN_FIELD, param,
                    tool ? "A message uses tools or audio, which are not offered yet."
                         : "A message has a field other than role, content and name. Remove it.");
        return false;
    }
    role = json_string_value(json_object_get(object, "role"));
    if (role == NULL)
        return fail_value(p, param, "A message needs a 'role': system, developer, user or assistant.");
    message->role = role_parse(role);
    if (message->role == GW_ROLE_NONE)
        return fail_value(p, param, "A message's role must be system, developer, user or assistant.");
    snprintf(param, sizeof(param), "messages[%zu].content", index);
    value = json_object_get(object, "content");
    if (value == NULL || json_is_null(value)) {
        gw_api_fail(p->error, GW_API_MISSING_FIELD, param, "A message needs its 'content'.");
        return false;
    }
    return parse_content(p, value, param, message);
}

static bool read_messages(struct parse *p, json_t *value)
{
    struct gw_chat *chat = p->chat;
    size_t index;
    json_t *object;

    if (!json_is_array(value))
        return fail_value(p, "messages", "'messages' must be a list of messages.");
    if (json_array_size(value) == 0)
        return fail_value(p, "messages", "'messages' is empty: send at least one message.");
    if (json_array_size(value) > GW_CHAT_MESSAGES_MAX)
        return fail_value(p, "messages", "'messages' has more than 2048 messages.");
    chat->messages = base_arena_alloc(p->arena, json_array_size(value) * sizeof(*chat->messages));
    if (chat->messages == NULL)
        return fail_value(p, "messages", "The messages are too long.");
    json_array_foreach(value, index, object)
    {
        if (!parse_message(p, object, index, &chat->messages[index]))
            return false;
        chat->content_bytes += chat->messages[index].content.len;
    }
    chat->n_messages = json_array_size(value);
    return true;
}

/* ---- the other fields ---- */

static bool read_model(struct parse *p, json_t *value)
{
    const char *s = json_string_value(value);
    size_t n = json_string_length(value);

    if (s == NULL || n == 0 || n >= sizeof(p->chat->model))
        return fail_value(p, "model", "'model' must be a string of 1 to 127 bytes.");
    memcpy(p->chat->model, s, n + 1);
    return true;
}

static bool read_bool(struct parse *p, json_t *value, const char *key, bool *ret)
{
    if (!json_is_boolean(value))
        return fail_value(p, key, "The field must be true or false.");
    *ret = json_is_true(value);
    return true;
}

static bool read_number(struct parse *p, json_t *value, const char *key, double low, double high, double *ret,
                        bool *has)
{
    double number = json_number_value(value);

    if (!json_is_number(value) || !isfinite(number) || number < low || number > high) {
        gw_api_fail(p->error, GW_API_INVALID_VALUE, key, "'%s' must be a number from %g to %g.", key, low,
                    high);
        return false;
    }
    *ret = number;
    *has = true;
    return true;
}

static bool read_count(struct parse *p, json_t *value, const char *key, uint64_t low, uint64_t high,
                       uint64_t *ret)
{
    json_int_t number = json_integer_value(value);

    if (!json_is_integer(value) || number < 0 || (uint64_t)number < low || (uint64_t)number > high) {
        gw_api_fail(p->error, GW_API_INVALID_VALUE, key, "'%s' must be a whole number from %llu to %llu.",
                    key, (unsigned long long)low, (unsigned long long)high);
        return false;
    }
    *ret = (uint64_t)number;
    return true;
}

static bool read_max_tokens(struct parse *p, json_t *value, const char *key)
{
    uint64_t n;

    if (!read_count(p, value, key, 1, 1u << 24, &n))
        return false;
    if (p->chat->max_tokens != 0 && p->chat->max_tokens != n)
        return fail_value(p, key, "'max_tokens' and 'max_completion_tokens' differ: send one of them.");
    p->chat->max_tokens = (uint32_t)n;
    return true;
}

static bool add_stop(struct parse *p, json_t *value)
{
    size_t n = json_string_length(value);

    if (!json_is_string(value) || n == 0 || n > GW_CHAT_STOP_BYTES_MAX || p->chat->n_stop == GW_CHAT_STOP_MAX)
        return fail_value(p, "stop",
                          "'stop' must be a string of 1 to 256 bytes, or a list of at most 8 of them.");
    if (!keep_text(p, value, &p->chat->stop[p->chat->n_stop]))
        return fail_value(p, "stop", "The request is too large.");
    p->chat->n_stop++;
    p->chat->content_bytes += n;
    return true;
}

static bool read_stop(struct parse *p, json_t *value)
{
    size_t index;
    json_t *item;

    if (!json_is_array(value))
        return add_stop(p, value);
    json_array_foreach(value, index, item) if (!add_stop(p, item)) return false;
    return true;
}

static bool read_stream_options(struct parse *p, json_t *value)
{
    const char *key;
    json_t *option;

    if (!json_is_object(value))
        return fail_value(p, "stream_options", "'stream_options' must be an object.");
    json_object_foreach(value, key, option)
    {
        if (strcmp(key, "include_usage") == 0) {
            if (!read_bool(p, option, "stream_options.include_usage", &p->chat->include_usage))
                return false;
        } else if (strcmp(key, "include_obfuscation") != 0) {
            gw_api_fail(p->error, GW_API_UNKNOWN_FIELD, "stream_options",
                        "'stream_options' knows include_usage alone.");
            return false;
        }
    }
    return true;
}

enum field {
    F_MODEL = 1,
    F_MESSAGES,
    F_STREAM,
    F_STREAM_OPTIONS,
    F_MAX_TOKENS,
    F_TEMPERATURE,
    F_TOP_P,
    F_TOP_K,
    F_MIN_P,
    F_REPETITION_PENALTY,
    F_PRESENCE_PENALTY,
    F_FREQUENCY_PENALTY,
    F_SEED,
    F_STOP,
    F_N,
    F_RESPONSE_FORMAT,
    F_IGNORED,     /* says who asks or how to bill it; identity here comes from the credentials */
    F_UNSUPPORTED, /* allowed only in the value that asks for nothing */
};

static const struct {
    const char *key;
    enum field field;
} fields[] = {
    {"model", F_MODEL},
    {"messages", F_MESSAGES},
    {"stream", F_STREAM},
    {"stream_options", F_STREAM_OPTIONS},
    {"max_tokens", F_MAX_TOKENS},
    {"max_completion_tokens", F_MAX_TOKENS},
    {"temperature", F_TEMPERATURE},
    {"top_p", F_TOP_P},
    {"top_k", F_TOP_K},
    {"min_p", F_MIN_P},
    {"repetition_penalty", F_REPETITION_PENALTY},
    {"presence_penalty", F_PRESENCE_PENALTY},
    {"frequency_penalty", F_FREQUENCY_PENALTY},
    {"seed", F_SEED},
    {"stop", F_STOP},
    {"n", F_N},
    {"response_format", F_RESPONSE_FORMAT},
    {"user", F_IGNORED},
    {"safety_identifier", F_IGNORED},
    {"metadata", F_IGNORED},
    {"prompt_cache_key", F_IGNORED},
    {"service_tier", F_IGNORED},
    {"store", F_UNSUPPORTED},
    {"logprobs", F_UNSUPPORTED},
    {"top_logprobs", F_UNSUPPORTED},
    {"logit_bias", F_UNSUPPORTED},
    {"tools", F_UNSUPPORTED},
    {"tool_choice", F_UNSUPPORTED},
    {"parallel_tool_calls", F_UNSUPPORTED},
    {"functions", F_UNSUPPORTED},
    {"function_call", F_UNSUPPORTED},
    {"modalities", F_UNSUPPORTED},
    {"audio", F_UNSUPPORTED},
    {"prediction", F_UNSUPPORTED},
    {"reasoning_effort", F_UNSUPPORTED},
    {"verbosity", F_UNSUPPORTED},
    {"web_search_options", F_UNSUPPORTED},
};

/* false, 0, [], {}, "none" ask for nothing. */
static bool asks_for_nothing(const char *key, json_t *value)
{
    if (json_is_false(value) || (json_is_integer(value) && json_integer_value(value) == 0))
        return true;
    if ((json_is_array(value) && json_array_size(value) == 0) ||
        (json_is_object(value) && json_object_size(value) == 0))
        return true;
    if (json_is_string(value) && strcmp(json_string_value(value), "none") == 0)
        return true;
    return strcmp(key, "parallel_tool_calls") == 0 &&
           json_is_boolean(value); /* without tools it changes nothing */
}

static bool read_response_format(struct parse *p, json_t *value)
{
    const char *type = json_string_value(json_object_get(value, "type"));

    if (type != NULL && strcmp(type, "text") == 0)
        return true;
    gw_api_fail(p->error, GW_API_UNSUPPORTED_FIELD, "response_format",
                "Only the response format 'text' is offered yet.");
    return false;
}

static bool read_n(struct parse *p, json_t *value)
{
    if (json_is_integer(value) && json_integer_value(value) == 1)
        return true;
    gw_api_fail(p->error, GW_API_UNSUPPORTED_FIELD, "n",
                "'n' must be 1: send several requests for several answers.");
    return false;
}

static bool read_seed(struct parse *p, json_t *value)
{
    if (!json_is_integer(value))
        return fail_value(p, "seed", "'seed' must be a whole number.");
    p->chat->seed = (uint64_t)json_integer_value(value);
    p->chat->has_seed = true;
    return true;
}

static bool read_field(struct parse *p, const char *key, enum field field, json_t *value)
{
    struct gw_chat *chat = p->chat;
    uint64_t count;

    switch (field) {
    case F_MODEL: return read_model(p, value);
    case F_MESSAGES: return read_messages(p, value);
    case F_STREAM: return read_bool(p, value, key, &chat->stream);
    case F_STREAM_OPTIONS: return read_stream_options(p, value);
    case F_MAX_TOKENS: return read_max_tokens(p, value, key);
    case F_TEMPERATURE: return read_number(p, value, key, 0, 2, &chat->temperature, &chat->has_temperature);
    case F_TOP_P: return read_number(p, value, key, 0, 1, &chat->top_p, &chat->has_top_p);
    case F_MIN_P: return read_number(p, value, key, 0, 1, &chat->min_p, &chat->has_min_p);
    case F_REPETITION_PENALTY:
        return read_number(p, value, key, 0.01, 10, &chat->repetition_penalty, &chat->has_repetition_penalty);
    case F_PRESENCE_PENALTY:
        return read_number(p, value, key, -2, 2, &chat->presence_penalty, &chat->has_presence_penalty);
    case F_FREQUENCY_PENALTY:
        return read_number(p, value, key, -2, 2, &chat->frequency_penalty, &chat->has_frequency_penalty);
    case F_TOP_K:
        if (!read_count(p, value, key, 0, 1u << 20, &count))
            return false;
        chat->top_k = (uint32_t)count;
        chat->has_top_k = true;
        return true;
    case F_SEED: return read_seed(p, value);
    case F_STOP: return read_stop(p, value);
    case F_N: return read_n(p, value);
    case F_RESPONSE_FORMAT: return read_response_format(p, value);
    case F_IGNORED: return true;
    case F_UNSUPPORTED: break;
    }
    if (asks_for_nothing(key, value))
        return true;
    gw_api_fail(p->error, GW_API_UNSUPPORTED_FIELD, key, "'%s' is not offered yet. Remove it.", key);
    return false;
}

static bool read_all(struct parse *p, json_t *root)
{
    const char *key;
    json_t *value;

    json_object_foreach(root, key, value)
    {
        size_t i = 0;

        while (i < BASE_ARRAY_LEN(fields) && strcmp(fields[i].key, key) != 0)
            i++;
        if (i == BASE_ARRAY_LEN(fields)) {
            gw_api_fail(p->error, GW_API_UNKNOWN_FIELD, key, NULL);
            return false;
        }
        /* clients send null for "not set" */
        if (!json_is_null(value) && !read_field(p, key, fields[i].field, value))
            return false;
    }
    return true;
}

static bool check_whole(struct parse *p)
{
    const struct gw_chat *chat = p->chat;

    if (chat->model[0] == '\0' || chat->n_messages == 0) {
        const char *missing = chat->model[0] == '\0' ? "model" : "messages";

        gw_api_fail(p->error, GW_API_MISSING_FIELD, missing, "The field '%s' is missing.", missing);
        return false;
    }
    if (chat->include_usage && !chat->stream)
        return fail_value(p, "stream_options", "'stream_options' is allowed with \"stream\": true alone.");
    return true;
}

bool gw_openai_parse_chat(struct gw_chat *ret_chat, struct base_arena *arena, const char *body, size_t len,
                          struct gw_api_error *error)
{
    auto_json json_t *root = NULL;
    struct parse p = {.chat = ret_chat, .arena = arena, .error = error};
    json_error_t json_error;

    *ret_chat = (struct gw_chat){.arena = arena};
    if (len == 0) {
        gw_api_fail(error, GW_API_INVALID_JSON, NULL, "The body is empty: send a JSON object.");
        return false;
    }
    if (!shape_allowed(body, len)) {
        gw_api_fail(error, GW_API_INVALID_JSON, NULL,
                    "The JSON is nested deeper than %u levels, or has more than %u values.",
                    GW_JSON_DEPTH_MAX, GW_JSON_VALUES_MAX);
        return false;
    }
    root = json_loadb(body, len, JSON_REJECT_DUPLICATES, &json_error);
    if (root == NULL) {
        /* jansson's text may quote the body: its position is enough */
        gw_api_fail(error, GW_API_INVALID_JSON, NULL, "The body is not valid JSON: %s at line %d, column %d.",
                    json_error_code(&json_error) == json_error_duplicate_key
                        ? "a key stands twice in one object"
                    : json_error_code(&json_error) == json_error_invalid_utf8 ? "a text is not valid UTF-8"
                                                                              : "it cannot be read",
                    json_error.line, json_error.column);
        return false;
    }
    if (!json_is_object(root)) {
        gw_api_fail(error, GW_API_INVALID_JSON, NULL, "The body must be a JSON object.");
        return false;
    }
    return read_all(&p, root) && check_whole(&p);
}

/* ---- towards a provider and the audit ---- */

static void put_messages(const struct gw_chat *chat, struct base_buf *out)
{
    for (size_t i = 0; i < chat->n_messages; i++) {
        const struct gw_message *message = &chat->messages[i];

        base_buf_printf(out, "%s{\"role\":\"%s\",\"content\":", i > 0 ? "," : "",
                        gw_role_name(message->role));
        base_buf_append_json(out, message->content.bytes, message->content.len);
        base_buf_append_char(out, '}');
    }
}

static void put_stop(const struct gw_chat *chat, struct base_buf *out)
{
    base_buf_append_str(out, "\"stop\":[");
    for (unsigned i = 0; i < chat->n_stop; i++) {
        if (i > 0)
            base_buf_append_char(out, ',');
        base_buf_append_json(out, chat->stop[i].bytes, chat->stop[i].len);
    }
    base_buf_append_char(out, ']');
}

enum base_code gw_openai_encode_texts(const struct gw_chat *chat, struct base_buf *out)
{
    base_buf_append_char(out, '[');
    put_messages(chat, out);
    if (chat->n_stop > 0) {
        base_buf_append_str(out, ",{");
        put_stop(chat, out);
        base_buf_append_char(out, '}');
    }
    base_buf_append_char(out, ']');
    return out->failed ? BASE_TOO_LARGE : BASE_OK;
}

static void put_number(struct base_buf *out, bool has, const char *key, double value)
{
    if (has)
        base_buf_printf(out, ",\"%s\":%.9g", key, value);
}

enum base_code gw_openai_encode_request(const struct gw_chat *chat, const char *upstream_model,
                                        uint32_t max_tokens, struct base_buf *out)
{
    base_buf_append_str(out, "{\"model\":");
    base_buf_append_json(out, upstream_model, strlen(upstream_model));
    base_buf_append_str(out, ",\"messages\":[");
    put_messages(chat, out);
    base_buf_append_str(out, "],\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    if (max_tokens > 0)
        base_buf_printf(out, ",\"max_tokens\":%u", max_tokens);
    put_number(out, chat->has_temperature, "temperature", chat->temperature);
    put_number(out, chat->has_top_p, "top_p", chat->top_p);
    put_number(out, chat->has_min_p, "min_p", chat->min_p);
    put_number(out, chat->has_repetition_penalty, "repetition_penalty", chat->repetition_penalty);
    put_number(out, chat->has_presence_penalty, "presence_penalty", chat->presence_penalty);
    put_number(out, chat->has_frequency_penalty, "frequency_penalty", chat->frequency_penalty);
    if (chat->has_top_k)
        base_buf_printf(out, ",\"top_k\":%u", chat->top_k);
    if (chat->has_seed)
        base_buf_printf(out, ",\"seed\":%lld", (long long)chat->seed);
    if (chat->n_stop > 0) {
        base_buf_append_char(out, ',');
        put_stop(chat, out);
    }
    base_buf_append_char(out, '}');
    return out->failed ? BASE_TOO_LARGE : BASE_OK;
}

/* ---- from a provider ---- */

static void copy_printable(char *to, size_t size, const char *from)
{
    size_t n = 0;

    for (; from != NULL && *from != '\0' && n + 1 < size; from++)
        if (*from > ' ' && *from < 0x7f)
            to[n++] = *from;
    to[n] = '\0';
}

/* What a provider says it counted. A figure past any context is no count: it would stand in records, limits and metrics. */
static uint64_t count_of(json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));

    return n <= 0 ? 0 : n < (1 << 24) ? (uint64_t)n : 1 << 24;
}

enum base_code gw_openai_parse_chunk(struct gw_openai_chunk *chunk, const char *data, size_t len,
                                     struct base_err *err)
{
    auto_json json_t *root = NULL;
    json_error_t json_error;
    json_t *choice, *text, *usage, *error;

    chunk->finish_reason[0] = '\0';
    chunk->has_usage = chunk->is_error = false;
    if (!shape_allowed(data, len))
        return base_fail(err, BASE_INVALID, 0, "provider chunk is nested too deep or has too many values");
    root = json_loadb(data, len, JSON_REJECT_DUPLICATES, &json_error);
    if (!json_is_object(root))
        return base_fail(err, BASE_INVALID, 0, "provider chunk is not a JSON object");
    error = json_object_get(root, "error");
    if (error != NULL && !json_is_null(error)) {
        chunk->is_error = true;
        copy_printable(chunk->error_code, sizeof(chunk->error_code),
                       json_string_value(json_object_get(error, "code")));
        return BASE_OK;
    }
    choice = json_array_get(json_object_get(root, "choices"), 0);
    text = json_object_get(json_object_get(choice, "delta"), "content");
    if (json_is_string(text) &&
        base_buf_append(&chunk->text, json_string_value(text), json_string_length(text)) != BASE_OK)
        return base_fail(err, BASE_TOO_LARGE, 0, "provider chunk has too much text");
    copy_printable(chunk->finish_reason, sizeof(chunk->finish_reason),
                   json_string_value(json_object_get(choice, "finish_reason")));
    usage = json_object_get(root, "usage");
    if (json_is_object(usage)) {
        chunk->has_usage = true;
        chunk->prompt_tokens = count_of(usage, "prompt_tokens");
        chunk->completion_tokens = count_of(usage, "completion_tokens");
    }
    return BASE_OK;
}

/* ---- towards the client ---- */

static void put_head(struct base_buf *out, const struct gw_openai_answer *answer, const char *object)
{
    base_buf_printf(out, "{\"id\":\"chatcmpl-%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", answer->id,
                    object, (long long)answer->created);
    base_buf_append_json(out, answer->model, strlen(answer->model));
}

void gw_openai_put_delta(struct base_buf *out, const struct gw_openai_answer *answer, bool first,
                         const char *text, size_t len, bool include_usage)
{
    base_buf_append_str(out, "data: ");
    put_head(out, answer, "chat.completion.chunk");
    base_buf_append_str(out, ",\"choices\":[{\"index\":0,\"delta\":{");
    if (first)
        base_buf_append_str(out, "\"role\":\"assistant\",");
    base_buf_append_str(out, "\"content\":");
    base_buf_append_json(out, text, len);
    base_buf_append_str(out, "},\"logprobs\":null,\"finish_reason\":null}]");
    base_buf_append_str(out, include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

void gw_openai_put_finish(struct base_buf *out, const struct gw_openai_answer *answer,
                          const char *finish_reason, bool include_usage)
{
    base_buf_append_str(out, "data: ");
    put_head(out, answer, "chat.completion.chunk");
    base_buf_printf(
        out, ",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"%s\"}]%s}\n\n",
        finish_reason, include_usage ? ",\"usage\":null" : "");
}

static void put_usage(struct base_buf *out, uint64_t prompt_tokens, uint64_t completion_tokens)
{
    const uint64_t total = prompt_tokens + completion_tokens;

    base_buf_printf(
        out, "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":%llu,\"total_tokens\":%llu}",
        (unsigned long long)prompt_tokens, (unsigned long long)completion_tokens, (unsigned long long)total);
}

void gw_openai_put_usage(struct base_buf *out, const struct gw_openai_answer *answer, uint64_t prompt_tokens,
                         uint64_t completion_tokens)
{
    base_buf_append_str(out, "data: ");
    put_head(out, answer, "chat.completion.chunk");
    base_buf_append_str(out, ",\"choices\":[],");
    put_usage(out, prompt_tokens, completion_tokens);
    base_buf_append_str(out, "}\n\n");
}

void gw_openai_put_completion(struct base_buf *out, const struct gw_openai_answer *answer, const char *text,
                              size_t len, const char *finish_reason, uint64_t prompt_tokens,
                              uint64_t completion_tokens)
{
    put_head(out, answer, "chat.completion");
    base_buf_append_str(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
    base_buf_append_json(out, text, len);
    base_buf_printf(out, ",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"%s\"}],", finish_reason);
    put_usage(out, prompt_tokens, completion_tokens);
    base_buf_append_char(out, '}');
}
