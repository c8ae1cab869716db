/* HTTP/1.1 request heads. See http1_head.h. */
#include "gateway/http1_head.h"

#include "base/str.h"

#include <string.h>

struct seen {
    unsigned hosts, lengths, codings;
};

static bool is_token_byte(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
           (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL);
}

static const char *check_field(const char *line, size_t len, struct seen *seen)
{
    const char *colon = memchr(line, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - line) : 0, i;

    if (len > 0 && (line[0] == ' ' || line[0] == '\t'))
        return "a header line is folded over several lines";
    if (name_len == 0)
        return "a header line has no name";
    for (i = 0; i < name_len; i++)
        if (!is_token_byte((unsigned char)line[i]))
            return "a header name has a byte that is not allowed";
    for (i = name_len + 1; i < len; i++)
        if (((unsigned char)line[i] < 0x20 && line[i] != '\t') || line[i] == 0x7f)
            return "a header value has a control byte";
    if (base_ascii_ieq(line, name_len, "host", 4))
        seen->hosts++;
    else if (base_ascii_ieq(line, name_len, "content-length", 14))
        seen->lengths++;
    else if (base_ascii_ieq(line, name_len, "transfer-encoding", 17))
        seen->codings++;
    return NULL;
}

static const char *check_seen(const struct seen *seen, bool http10)
{
    if (seen->hosts > 1)
        return "the Host header is sent more than once";
    if (seen->hosts == 0 && !http10)
        return "the Host header is missing";
    if (seen->lengths > 1)
        return "the Content-Length header is sent more than once";
    if (seen->codings > 1)
        return "the Transfer-Encoding header is sent more than once";
    if (seen->lengths + seen->codings > 1)
        return "Content-Length and Transfer-Encoding are both sent";
    if (seen->codings > 0 && http10)
        return "Transfer-Encoding is not part of HTTP/1.0";
    return NULL;
}

const char *gw_http1_head_flaw(const char *head, size_t len)
{
    struct seen seen = {0};
    size_t at = 0;
    bool first = true, http10 = false;

    if (len >= 2 && head[0] == '\r' && head[1] == '\n')
        at = 2; /* one empty line before a request is tolerated (RFC 9112, section 2.2) */
    for (;;) {
        const char *line = head + at, *end = memchr(line, '\n', len - at);
        size_t line_len;
        const char *flaw;

        if (end == NULL)
            return "the request's head does not end";
        line_len = (size_t)(end - line);
        if (line_len == 0 || line[line_len - 1] != '\r')
            return "a line ends without carriage return";
        line_len--;
        at += line_len + 2;
        if (line_len == 0)
            return first ? "the request line is missing" : check_seen(&seen, http10);
        if (first) {
            http10 = line_len >= 8 && memcmp(line + line_len - 8, "HTTP/1.0", 8) == 0;
            first = false;
            continue;
        }
        flaw = check_field(line, line_len, &seen);
        if (flaw != NULL)
            return flaw;
    }
}
