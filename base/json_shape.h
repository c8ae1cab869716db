/* The shape of a JSON text: what it would cost to parse it, known before a parser allocates anything.
 *
 * Who: every folder, any thread. One pass, no memory. Whether the text is JSON at all is for the parser to say: of what is not, the
 *      shape is that of its brackets and commas.
 */
#ifndef BASE_JSON_SHAPE_H
#define BASE_JSON_SHAPE_H

#include <stddef.h>

struct base_json_shape {
    size_t depth;  /* how deep its lists and objects nest */
    size_t values; /* how many it can have at most; each takes a parser much more memory than its bytes */
};
struct base_json_shape base_json_shape(const char *text, size_t len);

#endif
