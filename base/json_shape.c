/* The shape of a JSON text. See json_shape.h. */
#include "base/json_shape.h"

#include <stdbool.h>

struct base_json_shape base_json_shape(const char *text, size_t len)
{
    struct base_json_shape shape = {.values = 1};
    size_t depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        char c = text[i];

        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            shape.values++;
            if (++depth > shape.depth)
                shape.depth = depth;
        } else if (c == ',') {
            shape.values++;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return shape;
}
