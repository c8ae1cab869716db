/* Fuzz: what the gateway reads of a sign-in: gatehouse-sso's replies and reports, the sealed cookie, long forms, places to return to. */
#include "base/arena.h"
#include "gateway/codec_sso.h"
#include "gateway/codec_sso_report.h"
#include "gateway/form.h"
#include "gateway/sign_in_state.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct base_secret *pepper;
    struct base_arena *arena = base_arena_new(1u << 20);
    struct gw_sign_in_state state;
    struct gw_sso_report report;
    struct gw_sso_asked asked[4];
    struct gw_sso_reply reply;
    char return_to[GW_RETURN_TO_MAX], *value = NULL, *text = malloc(size + 1);

    if (pepper == NULL)
        pepper = base_secret_new("0123456789abcdef0123456789abcdef", 32);
    memcpy(text, data, size);
    text[size] = '\0';
    if (gw_sso_decode(&reply, arena, text, size, NULL) == BASE_OK && !reply.ok &&
        (reply.code == NULL || reply.check == NULL || reply.detail == NULL))
        abort();
    gw_sso_decode_report(&report, arena, text, size, NULL);
    if (gw_sso_decode_asked(asked, 4, text, size) > 4)
        abort();
    if (gw_sign_in_open(pepper, text, size, &state) == BASE_OK)
        abort(); /* nobody guesses the key */
    if (gw_form_dup(text, size, "SAMLResponse", 4096, &value) == BASE_OK && strlen(value) > 4096)
        abort();
    gw_return_to(text, return_to);
    if (return_to[0] != '/' || return_to[1] == '/' || strpbrk(return_to, "\\\r\n%:@ ") != NULL)
        abort();
    free(value);
    free(text);
    base_arena_unref(arena);
    return 0;
}
