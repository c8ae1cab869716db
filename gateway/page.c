/* Page. See page.h. */
#include "gateway/page.h"

#include <string.h>

static const char csp[] = "default-src 'none'; form-action 'self'; style-src 'self'; img-src 'self'; "
                          "frame-ancestors 'none'; base-uri 'none'";
/* The colours of the chat page (web/src/chat.css). */
const char gw_page_css[] =
    ":root{--paper:#fbfaf6;--card:#fff;--ink:#1c1f1e;--soft:#525b58;--line:#d9dcd8;--accent:#1f5c4d;--on:#"
    "fff}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#141716;--card:#1d2120;--ink:#eceeec;--soft:#a9b1ae;--"
    "line:#343a38;--accent:#7cc7b2;"
    "--on:#10201b}}\n"
    "body{margin:0;min-height:100vh;display:grid;place-items:center;font:16px/1.6 "
    "system-ui,sans-serif;color:var(--ink);"
    "background:var(--paper)}\n"
    "main{box-sizing:border-box;width:min(26em,calc(100vw - "
    "2em));margin:1em;padding:2em;background:var(--card);"
    "border:1px solid var(--line);border-radius:16px}\n"
    "h1{font-size:1.5rem;line-height:1.25;margin:.6em 0 .4em}p{color:var(--soft);margin:.6em 0 "
    "1em}img{display:block}\n"
    "button,.button{font:inherit;padding:.55em "
    "1.2em;border:0;border-radius:8px;background:var(--accent);color:var(--on);"
    "cursor:pointer;text-decoration:none;display:inline-block}\n"
    ".button:focus-visible,button:focus-visible,input:focus-visible{outline:3px solid "
    "var(--accent);outline-offset:2px}\n"
    "ul.choices{list-style:none;padding:0;margin:1.2em 0 0}ul.choices li{margin:.6em 0}ul.choices "
    ".button{width:100%;"
    "box-sizing:border-box;text-align:center}\n"
    "label{display:block;margin:.8em "
    "0}input{font:inherit;color:inherit;background:transparent;padding:.4em;width:100%;"
    "box-sizing:border-box;border:1px solid var(--line);border-radius:8px}\n"
    ".small{font-size:.85em;overflow-wrap:anywhere}\n";

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
              "<link rel=\"stylesheet\" href=\"/auth/page.css\"></head>\n<body><main><img "
              "src=\"/assets/icon.svg\" alt=\"\" width=\"44\" height=\"44\"><h1>");
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
    base_buf_append_str(page, "</main></body></html>\n");
    gw_http_send(http, status, headers, n, page->data, page->len);
}
