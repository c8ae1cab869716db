/* Protocol: framing, and the one list that both sides know. See proto.h. */
#include "gateway/sso/proto.h"

#include <string.h>

#define BODY_MIN 8u /* the id alone; JSON has at least two bytes more, which its parser says */

const char *const sso_resolver_files[] = {"/etc/resolv.conf", "/etc/hosts",     "/etc/nsswitch.conf",
                                          "/etc/gai.conf",    "/etc/host.conf", NULL};

static void put_le(char *out, uint64_t value, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        out[i] = (char)(value >> (8 * i));
}

static uint64_t get_le(const char *in, unsigned n)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < n; i++)
        value |= (uint64_t)(unsigned char)in[i] << (8 * i);
    return value;
}

enum base_code sso_frame_append(struct base_buf *out, uint64_t id, const char *json, size_t len,
                                struct base_err *err)
{
    char *room;

    if (len > SSO_FRAME_MAX - BODY_MIN)
        return base_fail(err, BASE_TOO_LARGE, 0, "a message of %zu bytes, at most %u can be sent", len,
                         SSO_FRAME_MAX - BODY_MIN);
    room = base_buf_reserve(out, SSO_FRAME_HEADER + len);
    if (room == NULL)
        return base_fail(err, BASE_TOO_LARGE, 0, "no room for a message of %zu bytes", len);
    put_le(room, BODY_MIN + len, 4);
    put_le(room + 4, id, 8);
    if (len > 0)
        memcpy(room + SSO_FRAME_HEADER, json, len);
    out->len += SSO_FRAME_HEADER + len;
    return BASE_OK;
}

enum base_code sso_frame_take(const char *data, size_t n, struct sso_frame *ret_frame, size_t *ret_used,
                              struct base_err *err)
{
    uint64_t body;

    *ret_used = 0;
    if (n < 4)
        return BASE_NOT_FOUND;
    body = get_le(data, 4);
    if (body < BODY_MIN || body > SSO_FRAME_MAX)
        return base_fail(err, BASE_CORRUPT, 0, "a frame of %llu bytes, %u to %u are allowed",
                         (unsigned long long)body, BODY_MIN, SSO_FRAME_MAX);
    if (n < 4 + body)
        return BASE_NOT_FOUND;
    *ret_frame = (struct sso_frame){
        .id = get_le(data + 4, 8), .json = data + SSO_FRAME_HEADER, .len = (size_t)body - BODY_MIN};
    *ret_used = 4 + (size_t)body;
    return BASE_OK;
}
