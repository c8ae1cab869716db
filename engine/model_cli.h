/* The model program's parts: options, and one function for each command. Private to engine/model_cli*.c. */
#ifndef ENGINE_MODEL_CLI_H
#define ENGINE_MODEL_CLI_H

#include "engine/device.h"
#include "engine/engine_priv.h"

struct eng_cli {
    const char *file, *prompt, *system, *ids, *out;
    struct eng_options options;
    struct eng_tuning tuning;
    struct eng_sampling sampling;
    bool batch;
    uint32_t max_tokens, pp, tg, repeat;
};

/* Prints the error; the exit status 1. */
int eng_cli_fail(const struct base_err *err);
/* As eng_open chooses it. */
enum base_code eng_cli_pick(const struct eng_cli *c, struct eng_device_pick *ret_pick, struct base_err *err);
/* A model without device and tokenizer. */
enum base_code eng_cli_open(struct eng_model **ret_model, const char *path, struct base_err *err);

/* Exit statuses: 0, 1 (failed), 2 (wrong usage). */
int eng_cli_chat(const struct eng_cli *c);   /* model_cli_chat.c */
int eng_cli_logits(const struct eng_cli *c); /* model_cli_bare.c */
int eng_cli_bench(const struct eng_cli *c);
int eng_cli_fit(const struct eng_cli *c); /* model_cli_fit.c; c->file may be NULL */

#endif
