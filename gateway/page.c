/* Page. See page.h. */
#include "gateway/page.h"

#include <string.h>

static const char csp[] =
    "default-src 'none'; form-action 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'";
const char gw_page_css[] =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 "
    "1em;color:#1a1a1a;background:#fff}\n"
    "button,.button{font:inherit;padding:.6em "
    "1.4em;border:0;border-radius:.4em;background:#1f4fd8;color:#fff;cursor:pointer;"
    "text-decoration:none;display:inline-block}\n"
    ".button:focus-visible,button:focus-visible{outline:3px solid #8fb0ff;outline-offset:2px}\n"
    "ul.choices{list-style:none;padding:0}ul.choices li{margin:.6em 0}ul.choices "
    ".button{width:100%;box-sizing:border-box;"
    "text-align:center}\n"
    "label{display:block;margin:.8em 0}input{font:inherit;padding:.4em;width:100%;box-sizing:border-box}\n"
    ".small{color:#555;font-size:.85em}\n"
    "@media(prefers-color-scheme:dark){body{color:#eee;background:#16181d}.small{color:#aaa}}\n";

void gw_page_escape(struct base_buf *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&': base_buf_append_str(out, "&amp;"); break;
        case '<': base_buf_append_str(out, "&lt;"); break;
        case '>': base_buf_append_str(out, "&gt;"); break;
        case '"': base_buf_append_str(out, "&quot;"); break;
        case '\'': base_buf_append_str(out, "&#39;"); break;
        default: base_buf_append_char(out, *text);
        }
    }
}

void gw_page_begin(struct base_buf *page, const char *heading, const char *sentence)
{
    base_buf_append_str(
        page, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Gatehouse</title>"
              "<meta name=\"viewport\" content=\"width=device-width\">"
              "<link rel=\"stylesheet\" href=\"/auth/page.css\"></head>\n<body><h1>");
    gw_page_escape(page, heading);
    base_buf_append_str(page, "</h1><p>");
    gw_page_escape(page, sentence);
    base_buf_append_str(page, "</p>");
}

void gw_page_send(struct gw_http *http, int status, struct base_buf *page, const struct gw_header *extra)
{
    struct gw_header headers[6] = {
        {"content-type", "text/html; charset=utf-8"},
        {"content-security-policy", csp},
        {"referrer-policy", "no-referrer"},
        {"cache-control", "no-store"},
        {"x-frame-options", "DENY"},
    };
    unsigned n = 5;

    if (extra != NULL)
        headers[n++] = *extra;
    base_buf_append_str(page, "</body></html>\n");
    gw_http_send(http, status, headers, n, page->data, page->len);
}
