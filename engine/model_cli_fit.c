/* `fit`: the devices, and what a model would take of each. See model_cli.h. */
#include "engine/model_cli.h"

#include "base/mem.h"

#include <stdio.h>
#include <unistd.h>

#define SEQUENCES_DEFAULT 8u
#define CONTEXT_DEFAULT   8192u

static double gib(uint64_t bytes)
{
    return (double)bytes / (double)(1u << 30);
}

static void print_devices(const struct eng_cli *c)
{
    struct eng_device_info infos[ENG_DEVICES_MAX];
    struct eng_device_pick cpu;
    struct base_err err;
    unsigned n = 0;

    if (eng_device_cpu(&cpu, c->tuning.kernels, &err) == BASE_OK)
        printf("cpu     %s, %ld cores, %.1f GiB\n", cpu.ops->name, sysconf(_SC_NPROCESSORS_ONLN),
               gib(cpu.free_bytes));
    if (eng_device_list(infos, &n, &err) != BASE_OK) {
        printf("cuda    none: %s\n", err.detail);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        printf("cuda:%-2u %s, %s, %.1f of %.1f GiB free\n", infos[i].index, infos[i].name, infos[i].detail,
               gib(infos[i].free_bytes), gib(infos[i].total_bytes));
        if (!infos[i].usable)
            printf("        cannot be used: %s\n", infos[i].why);
    }
}

/* True when it fits. */
static bool print_need(const struct eng_cli *c, const struct eng_model *m, const struct eng_device_pick *pick)
{
    uint32_t sequences = c->options.max_sequences != 0 ? c->options.max_sequences : SEQUENCES_DEFAULT;
    uint32_t trained = m->config.n_ctx_train, context = c->options.context_tokens;
    struct eng_kv_shape shape = eng_graph_kv_shape(m);
    struct eng_graph_options go = {.ops = pick->ops,
                                   .device = {.n_threads = (unsigned)sysconf(_SC_NPROCESSORS_ONLN),
                                              .index = pick->index,
                                              .max_sequences = sequences,
                                              .max_logits = sequences}};
    uint64_t fixed, each;
    bool fits;

    if (context == 0)
        context = trained < CONTEXT_DEFAULT ? trained : CONTEXT_DEFAULT;
    go.device.max_tokens = pick->is_cpu ? ENG_STEP_TOKENS_MAX : ENG_STEP_TOKENS_GPU;
    go.device.max_context = context;
    fixed = eng_graph_bytes(m, &go);
    each = pick->ops->kv_page_bytes(&shape) * eng_kvcache_pages_for(context);
    fits = fixed <= pick->free_bytes && each * sequences <= pick->free_bytes - fixed;
    printf("on %s: weights and buffers %.2f GiB, each request of %u tokens %.3f GiB, %u of them %.2f GiB of "
           "%.2f GiB: %s",
           pick->name, gib(fixed), context, gib(each), sequences, gib(fixed + each * sequences),
           gib(pick->free_bytes), fits ? "fits" : "does not fit");
    if (fixed < pick->free_bytes)
        printf(" (%llu such requests would)", (unsigned long long)((pick->free_bytes - fixed) / each));
    puts("");
    return fits;
}

int eng_cli_fit(const struct eng_cli *c)
{
    struct eng_device_pick pick;
    struct eng_model *m;
    struct base_err err;
    bool fits;

    if (eng_cli_pick(c, &pick, &err) != BASE_OK)
        return eng_cli_fail(&err);
    print_devices(c);
    printf("used:   %s\n", pick.is_cpu ? "cpu" : pick.name);
    if (c->file == NULL)
        return 0;
    if (eng_cli_open(&m, c->file, &err) != BASE_OK)
        return eng_cli_fail(&err);
    fits = print_need(c, m, &pick);
    eng_model_free(m);
    return fits ? 0 : 1;
}
