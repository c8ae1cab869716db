/* Raw HTTP/1.1 heads: no byte may be read past the end, and a clean head must stay clean when a body follows
 * it. */
#include "gateway/http1_head.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *exact = malloc(size + 1), *longer = malloc(size + 5);
    const char *flaw;

    if (exact == NULL || longer == NULL)
        abort();
    memcpy(exact, data, size);
    exact = realloc(exact, size > 0 ? size : 1); /* the sanitizer then watches the very next byte */
    flaw = gw_http1_head_flaw(exact, size);
    memcpy(longer, data, size);
    memcpy(longer + size, "\nz: ", 4);
    if (flaw == NULL && gw_http1_head_flaw(longer, size + 4) != NULL)
        abort();
    free(exact);
    free(longer);
    return 0;
}
