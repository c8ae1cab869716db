/* Tests of the wire formats: chat requests in and out, provider chunks, the event stream reader, the configuration file, what
 * gatehouse-sso says that it asked of whom. */
#include "base/mem.h"
#include "gateway/codec_openai.h"
#include "gateway/codec_sso_report.h"
#include "gateway/config.h"
#include "gateway/sse.h"
#include "tap.h"

static struct gw_api_error error;

static bool parse(struct gw_chat *chat, struct base_arena *arena, const char *body)
{
    error = (struct gw_api_error){0};
    return gw_openai_parse_chat(chat, arena, body, strlen(body), &error);
}

static void test_parse_chat__reads_every_field(void)
{
    struct base_arena *arena = base_arena_new(65536);
    struct gw_chat chat;

    CHECK(parse(
        &chat, arena,
        "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"S\"},{\"role\":\"user\","
        "\"content\":[{\"type\":\"text\","
        "\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}],\"stream\":true,\"stream_options\":{\"include_"
        "usage\":true},"
        "\"max_completion_tokens\":9,\"temperature\":0.5,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.1,"
        "\"repetition_penalty\":1.1,"
        "\"presence_penalty\":-1,\"frequency_penalty\":1,\"seed\":-3,\"stop\":\"END\",\"user\":\"x\"}"));
    CHECK_INT(chat.n_messages, 2);
    CHECK_INT(chat.messages[0].role, GW_ROLE_SYSTEM);
    CHECK_STR(chat.messages[1].content.bytes, "ab");
    CHECK_INT(chat.content_bytes, 6); /* the stop string counts */
    CHECK(chat.stream && chat.include_usage && chat.has_temperature && chat.has_top_p && chat.has_min_p &&
          chat.has_top_k);
    CHECK_INT(chat.max_tokens, 9);
    CHECK_INT(chat.top_k, 40);
    CHECK_INT((int64_t)chat.seed, -3);
    CHECK_INT(chat.n_stop, 1);
    CHECK_STR(chat.stop[0].bytes, "END");
    base_arena_unref(arena);
}

static void test_parse_chat__null_is_not_given(void)
{
    struct base_arena *arena = base_arena_new(65536);
    struct gw_chat chat;

    CHECK(parse(&chat, arena,
                "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"temperature\":null,"
                "\"tools\":null}"));
    CHECK(!chat.has_temperature);
    base_arena_unref(arena);
}

/* metadata nested `depth` lists deep, beside a text full of brackets. */
static bool parse_nested(unsigned depth)
{
    struct base_arena *arena = base_arena_new(65536);
    auto_buf struct base_buf body = BASE_BUF_INIT(4096);
    struct gw_chat chat;
    bool ok;

    base_buf_append_str(&body, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"[[[[{{{{[[[[{"
                               "{{{[[[[{{{{[[[[{{{{[[[[\\\"[[\"}],");
    base_buf_append_str(&body, "\"metadata\":");
    for (unsigned i = 0; i < depth; i++)
        base_buf_append_char(&body, '[');
    for (unsigned i = 0; i < depth; i++)
        base_buf_append_char(&body, ']');
    base_buf_append_char(&body, '}');
    ok = parse(&chat, arena, body.data);
    base_arena_unref(arena);
    return ok;
}

static void test_parse_chat__depth_limit_and_its_twin(void)
{
    CHECK(parse_nested(GW_JSON_DEPTH_MAX - 1));
    CHECK(!parse_nested(GW_JSON_DEPTH_MAX));
    CHECK_INT(error.code, GW_API_INVALID_JSON);
}

/* A list of n values as metadata; the rest of the body has 8. */
static bool parse_values(unsigned n)
{
    struct base_arena *arena = base_arena_new(65536);
    auto_buf struct base_buf body = BASE_BUF_INIT(1u << 20);
    struct gw_chat chat;
    bool ok;

    base_buf_append_str(
        &body, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\",,,,\"}],\"metadata\":[1");
    for (unsigned i = 1; i < n; i++)
        base_buf_append_str(&body, ",1");
    base_buf_append_str(&body, "]}");
    ok = parse(&chat, arena, body.data);
    base_arena_unref(arena);
    return ok;
}

static void test_parse_chat__values_limit_and_its_twin(void)
{
    CHECK(parse_values(GW_JSON_VALUES_MAX - 7));
    CHECK(!parse_values(GW_JSON_VALUES_MAX - 6));
    CHECK_INT(error.code, GW_API_INVALID_JSON);
}

static void test_parse_chat__never_echoes_the_body(void)
{
    struct base_arena *arena = base_arena_new(65536);
    struct gw_chat chat;

    CHECK(!parse(&chat, arena,
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"my secret\"} oops"));
    CHECK(strstr(error.message, "secret") == NULL && strstr(error.message, "oops") == NULL);
    CHECK(strstr(error.message, "line 1, column ") != NULL);
    base_arena_unref(arena);
}

static void test_encode_request__is_read_back_the_same(void)
{
    struct base_arena *arena = base_arena_new(65536);
    auto_buf struct base_buf out = BASE_BUF_INIT(65536);
    struct gw_chat chat, again;

    CHECK(parse(&chat, arena,
                "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"q\\\"\\\\\\n\\u2028<b>"
                "\\ud83d\\ude00\"}],\"seed\":5,"
                "\"stop\":[\"a\",\"b\"],\"top_p\":0.3}"));
    CHECK(gw_openai_encode_request(&chat, "up", 7, &out) == BASE_OK);
    CHECK(strncmp(out.data, "{\"model\":\"up\",", 14) == 0);
    CHECK(gw_openai_parse_chat(&again, arena, out.data, out.len, &error));
    CHECK_STR(again.messages[0].content.bytes, chat.messages[0].content.bytes);
    CHECK(again.stream && again.include_usage && again.max_tokens == 7 && again.n_stop == 2 &&
          again.seed == 5 && again.top_p == 0.3);
    base_arena_unref(arena);
}

static void test_parse_chunk__text_finish_usage_error(void)
{
    struct gw_openai_chunk chunk = {.text = BASE_BUF_INIT(1024)};
    struct base_err err = {0};
    const char *text = "{\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}],\"usage\":"
                       "{\"prompt_tokens\":3,\"completion_tokens\":-4}}";
    const char *bad = "{\"error\":{\"message\":\"do not hand on\",\"code\":\"in valid\\n\"}}";

    CHECK_RC(gw_openai_parse_chunk(&chunk, text, strlen(text), &err), BASE_OK, &err);
    CHECK_STR(chunk.text.data, "hi");
    CHECK_STR(chunk.finish_reason, "stop");
    CHECK(chunk.has_usage && chunk.prompt_tokens == 3 && chunk.completion_tokens == 0);
    CHECK_RC(gw_openai_parse_chunk(&chunk, bad, strlen(bad), &err), BASE_OK, &err);
    CHECK(chunk.is_error);
    CHECK_STR(chunk.error_code, "invalid");
    CHECK_RC(gw_openai_parse_chunk(&chunk, "[]", 2, &err), BASE_INVALID, &err);
    CHECK_RC(gw_openai_parse_chunk(&chunk, "{\"choices\":7}", 13, &err), BASE_OK, &err);
    base_buf_free(&chunk.text);
}

static void test_put_completion__escapes_the_answer(void)
{
    auto_buf struct base_buf out = BASE_BUF_INIT(4096);
    struct gw_openai_answer answer = {.id = "x", .created = 5, .model = "m"};

    gw_openai_put_delta(&out, &answer, true, "a\n\ndata: [DONE]\n\n", 18, false);
    CHECK(strstr(out.data, "\n\n") == out.data + out.len - 2); /* one event, whatever the text holds */
    CHECK(strstr(out.data, "a\\n\\ndata: [DONE]\\n\\n") != NULL);
}

/* ---- event streams ---- */

static enum base_code collect(const char *data, size_t len, void *user)
{
    base_buf_append(user, data, len);
    base_buf_append_char(user, '|');
    return BASE_OK;
}

static void test_sse_push__line_ends_comments_and_joins_at_every_cut(void)
{
    static const char stream[] = "\xef\xbb\xbf"
                                 "data: one\n\n: comment\r\n\r\ndata:two\rdata: three\r\revent: x\nid: "
                                 "1\ndata\n\ndata: {\"a\":1}\r\n\r\nretry: 5\n\ndata: cut off";
    static const char expected[] = "one|two\nthree||{\"a\":1}|";

    for (size_t step = 1; step < sizeof(stream); step++) {
        auto_buf struct base_buf got = BASE_BUF_INIT(1024);
        struct gw_sse sse;

        gw_sse_init(&sse);
        for (size_t at = 0; at < sizeof(stream) - 1; at += step) {
            size_t left = sizeof(stream) - 1 - at;

            CHECK(gw_sse_push(&sse, stream + at, left < step ? left : step, collect, &got) == BASE_OK);
        }
        gw_sse_free(&sse);
        CHECK_STR(got.data, expected);
    }
}

/* ---- configuration ---- */

static const char needed[] =
    "cert_file=/c\nkey_file=/k\npolicy_file=/p\nmigrations_dir=/m\njournal_dir=/j\nkek_file=/"
    "1\npseudonym_key_file=/2\n"
    "pepper_file=/3\nwriter_dsn=a\nmapper_dsn=b\nreader_dsn=c\nstore_dsn=d\nmigrator_dsn=e\n";

static void check_config(const char *lines, enum base_code expected, const char *says)
{
    struct gw_config *config = NULL;
    struct base_err err = {0};
    char text[2048];

    snprintf(text, sizeof(text), "%s%s", lines, needed);
    CHECK_RC(gw_config_parse(&config, "gh.conf", text, strlen(text), &err), expected, &err);
    if (expected != BASE_OK && strncmp(err.detail, says, strlen(says)) != 0) {
        printf("# says: %s\n", err.detail);
        CHECK_STR(err.detail, says);
    }
    gw_config_free(config);
}

static void test_config_parse__names_line_and_column(void)
{
    check_config("", BASE_OK, NULL);
    check_config("# c\n\n  listen_port = 99 # no\n", BASE_INVALID,
                 "gh.conf:3:17: listen_port must be a whole number from 0 to 65535");
    check_config("  listen_port =  99\r\n", BASE_OK, NULL);
    check_config("listen_port = 70000\n", BASE_INVALID, "gh.conf:1:15: listen_port must be a whole number");
    check_config("\n  lisen_port = 1\n", BASE_INVALID, "gh.conf:2:3: unknown option `lisen_port`");
    check_config("http2 = yes\n", BASE_INVALID, "gh.conf:1:9: http2 must be true or false");
    check_config("http2 = true\nhttp2 = true\n", BASE_INVALID, "gh.conf:2:1: http2 is given twice");
    check_config("just words\n", BASE_INVALID, "gh.conf:1:1: expected `key = value`");
    check_config("cert_file=/again\n", BASE_INVALID, "gh.conf:2:1: cert_file is given twice");
}

static void test_config_parse__refuses_passwords_and_missing_options(void)
{
    struct gw_config *config = NULL;
    struct base_err err = {0};

    CHECK_RC(gw_config_parse(&config, "f", "writer_dsn = host=x password=hunter2\n", 37, &err), BASE_DENIED,
             &err);
    CHECK(strstr(err.detail, "hunter2") == NULL);
    CHECK_RC(gw_config_parse(&config, "f", "http2 = true\n", 13, &err), BASE_INVALID, &err);
    CHECK(strstr(err.detail, "cert_file is missing") != NULL);
    CHECK(config == NULL);
}

static size_t asked(struct gw_sso_asked *out, const char *json)
{
    return gw_sso_decode_asked(out, 3, json, strlen(json));
}

static void test_sso_asked__known_words_alone_and_no_more_than_there_is_room(void)
{
    struct gw_sso_asked out[3];

    CHECK_INT(
        asked(out, "{\"ok\":true,\"asked\":[[\"corp\",\"token\",\"ok\"],[\"b\",\"jwks\",\"timeout\"]]}"), 2);
    CHECK_STR(out[0].provider, "corp");
    CHECK_STR(out[0].kind, "token");
    CHECK_STR(out[0].result, "ok");
    CHECK_STR(out[1].kind, "jwks");
    CHECK_STR(out[1].result, "timeout");
    CHECK_INT(
        asked(out,
              "{\"asked\":[[\"a\",\"token\",\"x\"],[\"a\",\"x\",\"ok\"],[1,\"token\",\"ok\"],[\"a\","
              "\"token\",{}],"
              "[],7,[\"0123456789012345678901234567890123456789012345678901234567890123\",\"token\",\"ok\"],"
              "[\"a\",\"token\",\"error\"]]}"),
        1);
    CHECK_STR(out[0].result, "error");
    CHECK_INT(asked(out,
                    "{\"asked\":[[\"a\",\"token\",\"ok\"],[\"a\",\"token\",\"ok\"],[\"a\",\"token\",\"ok\"],"
                    "[\"a\",\"token\",\"ok\"]]}"),
              3);
    CHECK_INT(asked(out, "{\"asked\":{\"a\":1}}"), 0);
    CHECK_INT(asked(out, "{\"claims\":{\"asked\":[[\"a\",\"token\",\"ok\"]]}}"), 0);
    CHECK_INT(asked(out, "{\"asked\":[[\"a\",\"token\",\"ok\"]]"), 0);
    CHECK_INT(asked(out, "{\"ok\":true}"), 0);
}

int main(int argc, char **argv)
{
    static const struct tap_case cases[] = {
        CASE(test_parse_chat__reads_every_field),
        CASE(test_parse_chat__null_is_not_given),
        CASE(test_parse_chat__depth_limit_and_its_twin),
        CASE(test_parse_chat__values_limit_and_its_twin),
        CASE(test_parse_chat__never_echoes_the_body),
        CASE(test_encode_request__is_read_back_the_same),
        CASE(test_parse_chunk__text_finish_usage_error),
        CASE(test_put_completion__escapes_the_answer),
        CASE(test_sse_push__line_ends_comments_and_joins_at_every_cut),
        CASE(test_config_parse__names_line_and_column),
        CASE(test_config_parse__refuses_passwords_and_missing_options),
        CASE(test_sso_asked__known_words_alone_and_no_more_than_there_is_room),
    };

    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
