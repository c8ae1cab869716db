/* Fuzz: the protocol of gatehouse-sso, from the frames' bytes, in pieces of any size, to configuration and requests. There is no
 * connector here, so that nothing is reached: every request that would ask a provider fails at that point. */
#include "base/buf.h"
#include "base/clock.h"
#include "gateway/sso/proto.h"
#include "gateway/sso/serve.h"

#include <stdlib.h>
#include <string.h>

static const char config[] = "{\"op\":\"configure\",\"providers\":[{\"name\":\"a\",\"kind\":\"oidc\","
                             "\"issuer\":\"https://i\",\"client_id\":\"c\","
                             "\"token_auth\":\"none\",\"scopes\":[\"openid\"],\"algorithms\":[\"RS256\"],"
                             "\"acr\":[],\"userinfo\":true,\"hosts\":[\"h:1\"],"
                             "\"clock_skew_s\":60,\"claims\":[\"groups\"],\"subject_claim\":\"\",\"bearer\":{"
                             "\"audiences\":[\"api\"],\"introspection\":true}}]}";

static void take(const struct sso_frame *frame)
{
    struct sso_process *process = NULL;
    json_t *reply = NULL, *request;

    if (sso_process_new(&process, frame->json, frame->len, &reply, NULL) == BASE_OK) {
        json_decref(reply);
        sso_process_free(process);
        return;
    }
    request = json_loadb(frame->json, frame->len, SSO_JSON_FLAGS, NULL);
    if (request != NULL && sso_process_new(&process, config, sizeof(config) - 1, &reply, NULL) == BASE_OK) {
        json_decref(reply);
        reply = sso_answer(process, request, base_mono_ms() + 1000);
        if (json_object_get(reply, "ok") == NULL)
            abort(); /* every request has an answer */
        json_decref(reply);
        sso_process_free(process);
    }
    json_decref(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct base_buf in = BASE_BUF_INIT(2 * SSO_FRAME_MAX);
    struct base_buf framed = BASE_BUF_INIT(2 * SSO_FRAME_MAX);
    size_t at = 0, step = size > 0 ? data[0] % 37 + 1 : 1;

    if (size > 1 && data[0] >= 128) { /* the rest is one message: put a right frame around it */
        sso_frame_append(&framed, 7, (const char *)data + 1, size - 1, NULL);
        data = (const uint8_t *)framed.data;
        size = framed.len;
    }
    while (at < size) {
        size_t n = size - at < step ? size - at : step, used = 0;
        struct sso_frame frame;

        base_buf_append(&in, data + at, n);
        at += n;
        while (sso_frame_take(in.data, in.len, &frame, &used, NULL) == BASE_OK) {
            if (used > in.len || frame.json + frame.len != in.data + used)
                abort();
            take(&frame);
            base_buf_consume(&in, used);
        }
    }
    base_buf_free(&in);
    base_buf_free(&framed);
    return 0;
}
