/* Assets: the chat page's files, compiled into the program (web/embed.py makes the table from web/dist).
 *
 * Who: any thread; constant.
 */
#ifndef GATEWAY_ASSETS_H
#define GATEWAY_ASSETS_H

#include <stddef.h>

struct gw_asset {
    const char *path; /* "/", "/assets/app.js" */
    const char *content_type;
    const char *etag; /* with its quotes */
    const unsigned char *data;
    size_t len;
};
extern const struct gw_asset gw_assets[];
extern const size_t gw_n_assets;

#endif
