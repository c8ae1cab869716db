/* What a stranger's headers, query and form bodies are read by: API keys, cookies, tokens, form fields.
 * Beside not crashing: what is accepted must be well formed. */
#include "gateway/apikey.h"
#include "gateway/form.h"
#include "gateway/session.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void form(const char *text, size_t len, const char *name)
{
    char out[GW_TOKEN_LEN + 1];

    if (gw_form_get(text, len, name, out, sizeof(out)) == BASE_OK)
        must(strlen(out) <= len && memchr(out, 0, sizeof(out)) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct base_secret *pepper;
    const char *text = (const char *)data, *value = NULL;
    char id[GW_APIKEY_ID_LEN + 1];
    size_t value_len = 0;
    struct gw_origin_facts facts = {.origin = text, .origin_len = size};

    if (pepper == NULL)
        pepper = base_secret_new("fuzzing pepper of thirty-two byte", 32);
    if (gw_apikey_parse(text, size, id))
        must(size == GW_APIKEY_LEN && gw_apikey_id_valid(id) && memcmp(text, "gh_", 3) == 0);
    if (gw_cookie_find(text, size, &value, &value_len) == 1) {
        must(value >= text && value + value_len <= text + size);
        must(memchr(value, ';', value_len) == NULL);
        gw_token_genuine(pepper, GW_TOKEN_SESSION, value, value_len);
    }
    must(!gw_token_genuine(pepper, GW_TOKEN_LINK, text, size)); /* made by us: nobody can hit one */
    form(text, size, "token");
    form(text, size, "");
    must(!gw_origin_ours(&facts, "https://gate.example:8443", false) ||
         memcmp(text, "https://gate.example:8443", size) == 0);
    return 0;
}
