/* The commands `info`, `chat`, `logits`, `bench` and `fit`: see eng_cli_main in engine.h. Options, help, and `info`. */
#include "engine/model_cli.h"

#include "base/mem.h"
#include "base/str.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] = "usage: gatehouse-model COMMAND FILE [options]\n"
                                 "  info FILE     what the model file holds\n"
                                 "  chat FILE     one answer (--prompt), one answer per line of standard "
                                 "input (--batch), or a conversation\n"
                                 "  logits FILE   logits after each of the tokens of --ids\n"
                                 "  bench FILE    tokens per second: reading a prompt, and answering\n"
                                 "  fit [FILE]    which devices are there, and what the model needs of each\n"
                                 "`gatehouse-model COMMAND --help` tells a command's options.\n";

static const char help_info[] =
    "usage: gatehouse-model info FILE\n"
    "Prints family, sizes, weight type and metadata of a model file, after checking all of it.\n";
static const char help_chat[] =
    "usage: gatehouse-model chat FILE [options]\n"
    "  --prompt TEXT      answer this and end\n"
    "  --batch            one prompt per line of standard input, one answer per line of output, in order; a "
    "newline\n"
    "                     inside a prompt or an answer is written \\n, a backslash \\\\\n"
    "  --system TEXT      a system message before the first prompt\n"
    "  --greedy           always the most likely token (the same as --temperature 0)\n"
    "  --temperature T    default 0.7\n"
    "  --top-p P          default 1\n"
    "  --seed N           default 1\n"
    "  --max-tokens N     of one answer; default: what the context leaves\n"
    "  --context N        tokens of prompt and answer; default: what the model was trained for, at most "
    "8192\n"
    "  --threads N        default: the number of cores\n"
    "  --sequences N      answers made at once with --batch; default 8\n"
    "  --kernels NAME     auto, avx512, avx2 or scalar\n"
    "  --device NAME      auto (a CUDA device if one can, or the CPU), cpu, cuda, cuda:N\n"
    "  --plugin FILE      the CUDA plug-in; default: beside the program, or where it was installed\n"
    "Without --prompt and --batch, lines of standard input are one conversation.\n";
static const char help_logits[] =
    "usage: gatehouse-model logits FILE --ids 1,2,3 [--out FILE] [--threads N] [--kernels NAME] [--device "
    "NAME] [--plugin FILE]\n"
    "Writes float32 [n_ids, n_vocab] to --out; without it prints the five largest of the last row.\n";
static const char help_bench[] =
    "usage: gatehouse-model bench FILE [--pp N] [--tg N] [--repeat N] [--threads N] [--kernels NAME]\n"
    "                             [--device NAME] [--plugin FILE] [--sequences N]\n"
    "Reads a prompt of --pp tokens (512), then makes --tg tokens (64), --repeat times (3), for --sequences "
    "(1) requests at\n"
    "once; the rates are of all of them together.\n";
static const char help_fit[] =
    "usage: gatehouse-model fit [FILE] [--context N] [--sequences N] [--device NAME] [--plugin FILE]\n"
    "Lists the devices with their memory and versions, or why there is none. With FILE: the memory that the "
    "model takes on\n"
    "each, for --sequences (8) requests of --context tokens at once, and how many such requests would fit. "
    "Nothing is loaded.\n"
    "Exit status 0: it fits on the device that would be used.\n";

enum {
    OPT_PROMPT = 1,
    OPT_BATCH,
    OPT_SYSTEM,
    OPT_GREEDY,
    OPT_TEMPERATURE,
    OPT_TOP_P,
    OPT_SEED,
    OPT_MAX_TOKENS,
    OPT_CONTEXT,
    OPT_THREADS,
    OPT_SEQUENCES,
    OPT_KERNELS,
    OPT_DEVICE,
    OPT_PLUGIN,
    OPT_IDS,
    OPT_OUT,
    OPT_PP,
    OPT_TG,
    OPT_REPEAT,
    OPT_HELP
};

static const struct option long_options[] = {
    {"prompt", required_argument, NULL, OPT_PROMPT},
    {"batch", no_argument, NULL, OPT_BATCH},
    {"system", required_argument, NULL, OPT_SYSTEM},
    {"greedy", no_argument, NULL, OPT_GREEDY},
    {"temperature", required_argument, NULL, OPT_TEMPERATURE},
    {"top-p", required_argument, NULL, OPT_TOP_P},
    {"seed", required_argument, NULL, OPT_SEED},
    {"max-tokens", required_argument, NULL, OPT_MAX_TOKENS},
    {"context", required_argument, NULL, OPT_CONTEXT},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"sequences", required_argument, NULL, OPT_SEQUENCES},
    {"kernels", required_argument, NULL, OPT_KERNELS},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"plugin", required_argument, NULL, OPT_PLUGIN},
    {"ids", required_argument, NULL, OPT_IDS},
    {"out", required_argument, NULL, OPT_OUT},
    {"pp", required_argument, NULL, OPT_PP},
    {"tg", required_argument, NULL, OPT_TG},
    {"repeat", required_argument, NULL, OPT_REPEAT},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

static bool number(const char *text, uint64_t max, uint64_t *ret_value)
{
    if (base_parse_u64(text, strlen(text), max, ret_value) == BASE_OK)
        return true;
    fprintf(stderr, "\"%s\" is no number from 0 to %llu\n", text, (unsigned long long)max);
    return false;
}

static bool real(const char *text, float *ret_value)
{
    char *end;

    *ret_value = strtof(text, &end);
    if (end != text && *end == '\0')
        return true;
    fprintf(stderr, "\"%s\" is no number\n", text);
    return false;
}

static bool set_option(struct eng_cli *c, int opt, const char *arg)
{
    uint64_t v = 0;

    switch (opt) {
    case OPT_PROMPT: c->prompt = arg; return true;
    case OPT_BATCH: c->batch = true; return true;
    case OPT_SYSTEM: c->system = arg; return true;
    case OPT_GREEDY: c->sampling.temperature = 0; return true;
    case OPT_TEMPERATURE: return real(arg, &c->sampling.temperature);
    case OPT_TOP_P: return real(arg, &c->sampling.top_p);
    case OPT_SEED: return number(arg, UINT64_MAX, &c->sampling.seed);
    case OPT_KERNELS: c->tuning.kernels = arg; return true;
    case OPT_DEVICE: c->options.device = arg; return true;
    case OPT_PLUGIN: eng_use_plugin(arg); return true;
    case OPT_IDS: c->ids = arg; return true;
    case OPT_OUT: c->out = arg; return true;
    default: break;
    }
    if (opt == '?' || !number(arg, 1u << 20, &v))
        return false;
    switch (opt) {
    case OPT_MAX_TOKENS: c->max_tokens = (uint32_t)v; break;
    case OPT_CONTEXT: c->options.context_tokens = (uint32_t)v; break;
    case OPT_THREADS: c->options.n_threads = (unsigned)v; break;
    case OPT_SEQUENCES: c->options.max_sequences = (unsigned)v; break;
    case OPT_PP: c->pp = (uint32_t)v; break;
    case OPT_TG: c->tg = (uint32_t)v; break;
    default: c->repeat = (uint32_t)v; break;
    }
    return true;
}

int eng_cli_fail(const struct base_err *err)
{
    fprintf(stderr, "%s\n", err->detail);
    return 1;
}

enum base_code eng_cli_pick(const struct eng_cli *c, struct eng_device_pick *ret_pick, struct base_err *err)
{
    const char *want = c->tuning.kernels != NULL && c->options.device == NULL ? "cpu" : c->options.device;

    return eng_device_pick(ret_pick, want, c->tuning.kernels, err);
}

enum base_code eng_cli_open(struct eng_model **ret_model, const char *path, struct base_err *err)
{
    struct eng_gguf *gguf;
    enum base_code rc = eng_gguf_open(&gguf, path, err);

    if (rc != BASE_OK)
        return rc;
    rc = eng_model_load(ret_model, gguf, err);
    if (rc != BASE_OK) {
        eng_gguf_free(gguf);
        return base_fail_prefix(err, rc, "%s", path);
    }
    return BASE_OK;
}

static void print_text(struct eng_str s)
{
    for (size_t i = 0; i < s.n && i < 200; i++)
        putchar(s.p[i] >= ' ' && s.p[i] <= '~' ? s.p[i] : '.');
    puts(s.n > 200 ? "..." : "");
}

static void print_kv(const struct eng_gguf *gguf, const struct eng_gguf_kv *kv)
{
    char key[ENG_GGUF_KEY_BYTES_MAX + 1];
    struct eng_str s;
    uint64_t u;
    double d;
    bool b;

    memcpy(key, kv->key.p, kv->key.n);
    key[kv->key.n] = '\0';
    for (char *p = key; *p != '\0'; p++)
        *p = *p >= ' ' && *p <= '~' ? *p : '?';
    printf("  %s: ", key);
    memcpy(key, kv->key.p, kv->key.n);
    if (kv->type == ENG_GGUF_ARRAY)
        printf("%llu elements\n", (unsigned long long)kv->n);
    else if (eng_gguf_get_str(gguf, key, &s, NULL) == BASE_OK)
        print_text(s);
    else if (eng_gguf_get_u64(gguf, key, UINT64_MAX, &u, NULL) == BASE_OK)
        printf("%llu\n", (unsigned long long)u);
    else if (eng_gguf_get_f64(gguf, key, &d, NULL) == BASE_OK)
        printf("%g\n", d);
    else if (eng_gguf_get_bool(gguf, key, &b, NULL) == BASE_OK)
        puts(b ? "true" : "false");
    else
        puts("(a number)");
}

static int run_info(const struct eng_cli *c)
{
    struct eng_model *m;
    struct base_err err;

    if (eng_cli_open(&m, c->file, &err) != BASE_OK)
        return eng_cli_fail(&err);
    printf("name: ");
    print_text(m->name);
    printf("family: %s\nweights: %s\nparameters: %.3f million\nfile: %.1f MiB\n", m->config.family,
           m->weights, (double)m->n_params / 1e6, (double)eng_gguf_file_bytes(m->gguf) / (1 << 20));
    printf("layers: %u\nembedding: %u\nfeed-forward: %u\nheads: %u (%u key/value) of %u\nvocabulary: "
           "%u\ncontext: %u\n",
           m->config.n_layers, m->config.n_embd, m->config.n_ff, m->config.n_heads, m->config.n_kv_heads,
           m->config.head_dim, m->config.n_vocab, m->config.n_ctx_train);
    printf("chat template: %s\ntensors: %zu\nmetadata:\n", m->chat_template.n > 0 ? "yes" : "no",
           eng_gguf_n_tensors(m->gguf));
    for (size_t i = 0; i < eng_gguf_n_kv(m->gguf); i++)
        print_kv(m->gguf, eng_gguf_kv_at(m->gguf, i));
    eng_model_free(m);
    return 0;
}

int eng_cli_main(int argc, char **argv)
{
    static const struct {
        const char *name, *help;
        bool file_optional;
        int (*run)(const struct eng_cli *c);
    } commands[] = {{"info", help_info, false, run_info},
                    {"chat", help_chat, false, eng_cli_chat},
                    {"logits", help_logits, false, eng_cli_logits},
                    {"bench", help_bench, false, eng_cli_bench},
                    {"fit", help_fit, true, eng_cli_fit}};
    struct eng_cli c = {.sampling = ENG_SAMPLING_DEFAULT, .pp = 512, .tg = 64, .repeat = 3};
    size_t k = 0;
    int opt;

    c.sampling.temperature = 0.7f;
    c.sampling.seed = 1;
    while (k < BASE_ARRAY_LEN(commands) && (argc < 2 || strcmp(argv[1], commands[k].name) != 0))
        k++;
    if (k == BASE_ARRAY_LEN(commands)) {
        bool help = argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0);

        fputs(usage_text, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    optind = 2;
    while ((opt = getopt_long(argc, argv, "", long_options, NULL)) != -1) {
        if (opt == OPT_HELP) {
            fputs(commands[k].help, stdout);
            return 0;
        }
        if (!set_option(&c, opt, optarg))
            return 2;
    }
    if (optind + 1 != argc && !(commands[k].file_optional && optind == argc)) {
        fputs(commands[k].help, stderr);
        return 2;
    }
    c.file = optind < argc ? argv[optind] : NULL;
    return commands[k].run(&c);
}
