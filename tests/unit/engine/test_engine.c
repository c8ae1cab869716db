/* The engine as its callers see it: requests in, events out. Runs a trained tiny model of the shared folder. */
#include "refdata.h"

#include "base/clock.h"
#include "base/str.h"
#include "engine/engine_priv.h"

#include <pthread.h>

/* What one request reported. */
struct answer {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    struct base_buf text;
    unsigned n_start, n_text, n_last;
    enum eng_event_kind last;
    enum eng_finish finish;
    struct eng_usage usage;
    bool bad_utf8, after_last;
    struct eng_request *request;
    unsigned cancel_after; /* TEXT events; 0: never */
    unsigned slow_us;      /* per event */
    struct eng *peek; /* looks at its KV pages with every text (on the engine's thread, where they belong) */
    bool saw_dirty;
};

static bool any_dirty(struct eng *eng)
{
    for (uint32_t p = 0; p < eng_kvcache_pages(eng->kv); p++) {
        if (!eng_graph_ops(eng->graph)
                 ->kv_is_wiped(eng_graph_device(eng->graph), eng_kvcache_store(eng->kv), p))
            return true;
    }
    return false;
}

static void on_event(const struct eng_event *event, void *user)
{
    struct answer *a = user;

    if (a->slow_us > 0)
        usleep(a->slow_us);
    pthread_mutex_lock(&a->mutex);
    a->after_last |= a->n_last > 0;
    if (event->kind == ENG_EVENT_START)
        a->n_start++;
    else if (event->kind == ENG_EVENT_TEXT) {
        a->n_text++;
        if (a->peek != NULL)
            a->saw_dirty |= any_dirty(a->peek);
        a->bad_utf8 |= !base_utf8_valid(event->text, event->text_len);
        base_buf_append(&a->text, event->text, event->text_len);
    } else {
        a->n_last++;
        a->last = event->kind;
        a->finish = event->finish;
        a->usage = event->usage;
        pthread_cond_broadcast(&a->cond);
    }
    if (a->cancel_after > 0 && a->n_text == a->cancel_after && event->kind == ENG_EVENT_TEXT)
        eng_cancel(a->request);
    pthread_mutex_unlock(&a->mutex);
}

static void answer_init(struct answer *a)
{
    *a = (struct answer){.text = BASE_BUF_INIT(1 << 20)};
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->cond, NULL);
}

static void answer_wait(struct answer *a)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&a->mutex);
    while (a->n_last == 0) {
        if (pthread_cond_timedwait(&a->cond, &a->mutex, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&a->mutex);
    CHECK_INT(a->n_last, 1);
}

static void answer_free(struct answer *a)
{
    eng_request_unref(a->request);
    base_buf_free(&a->text);
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->cond);
}

static struct eng *open_stories(struct eng_options o, struct eng_tuning t)
{
    char path[4096];
    struct base_err err;
    struct eng *eng;

    snprintf(path, sizeof(path), "%s/trained/stories260K-f32.gguf", ref_dir());
    o.model_path = path;
    if (plugin_ops() != NULL)
        o.device = "cuda";
    if (o.n_threads == 0)
        o.n_threads = 2;
    CHECK_RC(eng_open_tuned(&eng, &o, &t, &err), BASE_OK, &err);
    return eng;
}

static struct eng_prompt *text_prompt(struct eng *eng, const char *text)
{
    struct base_err err;
    struct eng_prompt *prompt;

    CHECK_RC(eng_prompt_text(eng, text, strlen(text), &prompt, &err), BASE_OK, &err);
    return prompt;
}

static struct eng_submit greedy(const struct eng_prompt *prompt, struct answer *a, uint32_t max_tokens)
{
    struct eng_submit s = {.prompt = prompt,
                           .sampling = ENG_SAMPLING_DEFAULT,
                           .max_tokens = max_tokens,
                           .on_event = on_event,
                           .user = a};

    s.sampling.temperature = 0;
    return s;
}

static void ask(struct eng *eng, const char *text, struct eng_submit submit, struct answer *a)
{
    struct eng_prompt *prompt = text_prompt(eng, text);
    struct base_err err;

    submit.prompt = prompt;
    CHECK_RC(eng_submit(eng, &submit, &a->request, &err), BASE_OK, &err);
    eng_prompt_free(prompt);
}

#define STORY "Once upon a time"
#define STORY_GOES_ON                                                                                       \
    ", there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, " \
    "red ball. She wanted to "                                                                              \
    "play with it, but it was too high.\nLily's mom said"

static void test_eng_submit__continues_a_story(void)
{
    struct eng *eng = open_stories((struct eng_options){0}, (struct eng_tuning){0});
    struct answer a;

    answer_init(&a);
    ask(eng, STORY, greedy(NULL, &a, 64), &a);
    answer_wait(&a);
    CHECK_STR(a.text.data, STORY_GOES_ON);
    CHECK_INT(a.n_start, 1);
    CHECK_INT(a.last, ENG_EVENT_FINISH);
    CHECK_INT(a.finish, ENG_FINISH_LENGTH);
    CHECK_INT(a.usage.prompt_tokens, 5);
    CHECK_INT(a.usage.completion_tokens, 64);
    CHECK(!a.after_last && !a.bad_utf8);
    answer_free(&a);
    eng_close(eng);
}

static void test_eng_submit__many_at_once_as_alone(void)
{
    static const char *const prompts[] = {STORY,       "One day, Lily went to the park",
                                          "The cat",   "Tom and his dog",
                                          "A big red", "In the garden",
                                          "Mom said",  "Once there was a small boat that"};
    struct eng *alone = open_stories((struct eng_options){.max_sequences = 1}, (struct eng_tuning){0});
    struct eng *together = open_stories((struct eng_options){.max_sequences = 8, .context_tokens = 256},
                                        (struct eng_tuning){.step_tokens = 16});
    struct answer a[8], b[8];
    struct eng_submit s = greedy(NULL, NULL, 80);

    s.sampling = (struct eng_sampling){.temperature = 1.2f,
                                       .top_p = 0.95f,
                                       .top_k = 40,
                                       .repetition_penalty = 1.1f,
                                       .frequency_penalty = 0.1f,
                                       .seed = 7};
    for (int i = 0; i < 8; i++) {
        answer_init(&a[i]);
        answer_init(&b[i]);
        s.user = &a[i];
        ask(alone, prompts[i], s, &a[i]);
        s.user = &b[i];
        ask(together, prompts[i], s, &b[i]);
    }
    for (int i = 0; i < 8; i++) {
        answer_wait(&a[i]);
        answer_wait(&b[i]);
        CHECK_STR(b[i].text.data, a[i].text.data);
        CHECK(a[i].text.len > 20);
        answer_free(&a[i]);
        answer_free(&b[i]);
    }
    eng_close(alone);
    eng_close(together);
}

static void test_eng_submit__stop_string_across_tokens(void)
{
    struct eng *eng = open_stories((struct eng_options){0}, (struct eng_tuning){0});
    static const char *const stops[] = {"never in there", "Lily. She lo"};
    struct answer a;
    struct eng_submit s = greedy(NULL, &a, 64);

    answer_init(&a);
    s.stop = stops;
    s.n_stop = 2;
    ask(eng, STORY, s, &a);
    answer_wait(&a);
    CHECK_STR(a.text.data, ", there was a little girl named ");
    CHECK_INT(a.finish, ENG_FINISH_STOP);
    answer_free(&a);

    answer_init(&a); /* the twin: almost the same string holds text back, but releases it */
    static const char *const nearly[] = {"Lily. She lox"};
    s.stop = nearly;
    s.n_stop = 1;
    ask(eng, STORY, s, &a);
    answer_wait(&a);
    CHECK_STR(a.text.data, STORY_GOES_ON);
    answer_free(&a);
    eng_close(eng);
}

static void test_eng_cancel__within_a_step(void)
{
    struct eng *eng = open_stories((struct eng_options){.context_tokens = 512}, (struct eng_tuning){0});
    struct answer a;

    answer_init(&a);
    a.cancel_after = 3;
    ask(eng, STORY, greedy(NULL, &a, 400), &a);
    answer_wait(&a);
    CHECK_INT(a.finish, ENG_FINISH_CANCELLED);
    CHECK_INT(a.last, ENG_EVENT_FINISH);
    CHECK(a.n_text <= 4);
    eng_cancel(a.request); /* again, after its end */
    eng_close(eng);
    eng_cancel(a.request); /* and after the engine's */
    answer_free(&a);
}

static void test_eng_cancel__while_waiting(void)
{
    struct eng *eng = open_stories((struct eng_options){.max_sequences = 1}, (struct eng_tuning){0});
    struct answer first, second;

    answer_init(&first);
    answer_init(&second);
    first.slow_us = 1000;
    ask(eng, STORY, greedy(NULL, &first, 300), &first);
    ask(eng, STORY, greedy(NULL, &second, 300), &second);
    eng_cancel(second.request);
    answer_wait(&second);
    CHECK_INT(second.finish, ENG_FINISH_CANCELLED);
    CHECK_INT(second.n_start + second.n_text, 0);
    CHECK_INT(second.usage.completion_tokens, 0);
    CHECK_INT(first.n_last, 0); /* it did not have to wait for the other's end */
    eng_cancel(first.request);
    answer_wait(&first);
    answer_free(&first);
    answer_free(&second);
    eng_close(eng);
}

static void test_eng_close__ends_every_request(void)
{
    struct eng *eng = open_stories((struct eng_options){.max_sequences = 2}, (struct eng_tuning){0});
    struct answer a[6];

    for (int i = 0; i < 6; i++) {
        answer_init(&a[i]);
        ask(eng, STORY, greedy(NULL, &a[i], 450), &a[i]);
    }
    eng_close(eng);
    for (int i = 0; i < 6; i++) {
        CHECK_INT(a[i].n_last, 1);
        CHECK_INT(a[i].finish, ENG_FINISH_CANCELLED);
        answer_free(&a[i]);
    }
}

static void test_eng_submit__queue_full(void)
{
    struct eng *eng =
        open_stories((struct eng_options){.max_sequences = 1, .queue_max = 2}, (struct eng_tuning){0});
    struct eng_prompt *prompt = text_prompt(eng, STORY);
    struct answer a[8];
    struct base_err err = {0};
    unsigned accepted = 0, refused = 0;

    for (int i = 0; i < 8; i++) {
        struct eng_submit s = greedy(prompt, &a[i], 300);
        enum base_code rc;

        answer_init(&a[i]);
        a[i].slow_us = 2000;
        rc = eng_submit(eng, &s, &a[i].request, &err);
        CHECK(rc == BASE_OK || rc == BASE_FULL);
        accepted += rc == BASE_OK;
        refused += rc == BASE_FULL;
        if (rc == BASE_FULL)
            CHECK(a[i].request == NULL);
    }
    CHECK(accepted >= 2 && accepted <= 4); /* two wait, one runs, and one more may have been quick */
    CHECK(refused >= 4);
    eng_prompt_free(prompt);
    eng_close(eng);
    for (int i = 0; i < 8; i++)
        answer_free(&a[i]);
}

static void test_eng_submit__context_overflow(void)
{
    struct eng *eng = open_stories((struct eng_options){.context_tokens = 64}, (struct eng_tuning){0});
    struct eng_prompt *prompt = text_prompt(eng, STORY); /* 5 tokens */
    struct eng_prompt *none = NULL;
    struct answer a;
    struct eng_submit s = greedy(prompt, &a, 60);
    struct base_err err = {0};
    char longer[600];

    answer_init(&a);
    CHECK_RC(eng_submit(eng, &s, &a.request, &err), BASE_TOO_LARGE, &err);
    CHECK(strstr(err.detail, "5 tokens") != NULL && strstr(err.detail, "60") != NULL &&
          strstr(err.detail, "64") != NULL);
    s.max_tokens = 59; /* exactly full */
    CHECK_RC(eng_submit(eng, &s, &a.request, &err), BASE_OK, &err);
    answer_wait(&a);
    CHECK_INT(a.usage.completion_tokens, 59);
    answer_free(&a);

    answer_init(&a); /* 0 means: as many as the context leaves */
    s.max_tokens = 0;
    CHECK_RC(eng_submit(eng, &s, &a.request, &err), BASE_OK, &err);
    answer_wait(&a);
    CHECK_INT(a.usage.completion_tokens, 59);
    answer_free(&a);
    memset(longer, 'x', sizeof(longer));
    CHECK_RC(eng_prompt_text(eng, longer, sizeof(longer), &none, &err), BASE_TOO_LARGE, &err);
    CHECK(none == NULL && strstr(err.detail, "64") != NULL);
    eng_prompt_free(prompt);
    eng_close(eng);
}

static void test_eng_submit__bad_parameters(void)
{
    struct eng *eng = open_stories((struct eng_options){0}, (struct eng_tuning){0});
    struct eng_prompt *prompt = text_prompt(eng, STORY);
    static const char *const empty[] = {""};
    static const char *const nine[] = {"a", "b", "c", "d", "e", "f", "g", "h", "i"};
    struct answer a;
    struct base_err err = {0};
    struct eng_submit good = greedy(prompt, &a, 1), s;

    answer_init(&a);
#define REFUSED(change)                                                      \
    do {                                                                     \
        s = good;                                                            \
        change;                                                              \
        CHECK_RC(eng_submit(eng, &s, &a.request, &err), BASE_INVALID, &err); \
        CHECK(a.request == NULL);                                            \
    } while (0)
    REFUSED(s.sampling.temperature = -1);
    REFUSED(s.sampling.temperature = NAN);
    REFUSED(s.sampling.top_p = 0);
    REFUSED(s.sampling.top_p = 1.5f);
    REFUSED(s.sampling.min_p = 1);
    REFUSED(s.sampling.repetition_penalty = 0);
    REFUSED(s.sampling.presence_penalty = 2.5f);
    REFUSED(s.sampling.frequency_penalty = -3);
    REFUSED((s.stop = empty, s.n_stop = 1));
    REFUSED((s.stop = nine, s.n_stop = 9));
    REFUSED(s.on_event = NULL);
    CHECK_RC(eng_submit(eng, &good, &a.request, &err), BASE_OK, &err);
    answer_wait(&a);
    answer_free(&a);
    eng_prompt_free(prompt);
    eng_close(eng);
}

static void test_eng_submit__admits_by_pages(void)
{
    /* Pages for one and a half requests: the second must wait for the first, and both must end well. */
    struct eng *eng = open_stories((struct eng_options){.max_sequences = 4,
                                                        .context_tokens = 256,
                                                        .kv_bytes_max = 5 * 4 * 8 * 16 * 2 * 2 * 24},
                                   (struct eng_tuning){0});
    struct answer a[3];
    struct eng_stats stats;

    CHECK_INT(eng_kvcache_pages(eng->kv), 24); /* of 16 tokens */
    for (int i = 0; i < 3; i++) {
        answer_init(&a[i]);
        a[i].slow_us = 300;
        ask(eng, STORY, greedy(NULL, &a[i], 240), &a[i]);
    }
    usleep(20000);
    eng_get_stats(eng, &stats);
    CHECK_INT(stats.running, 1);
    CHECK_INT(stats.waiting, 2);
    CHECK(stats.kv_usage_ratio > 0.6 && stats.kv_usage_ratio < 0.7);
    for (int i = 0; i < 3; i++) {
        answer_wait(&a[i]);
        CHECK_INT(a[i].usage.completion_tokens, 240);
        CHECK_STR(a[i].text.data, a[0].text.data);
    }
    for (int i = 0; i < 3; i++)
        answer_free(&a[i]);
    eng_get_stats(eng, &stats);
    CHECK_INT(stats.running, 0);
    CHECK(stats.kv_usage_ratio == 0);
    CHECK_INT(stats.completion_tokens_total, 720);
    eng_close(eng);
}

/* While a request runs its pages hold something; once it has ended, whatever its tag, nothing is left. */
static void test_eng_submit__leaves_no_kv_behind(void)
{
    struct eng *eng =
        open_stories((struct eng_options){.max_sequences = 2, .context_tokens = 128}, (struct eng_tuning){0});

    for (uint64_t tag = 1; tag <= 3; tag++) {
        struct answer a;
        struct eng_submit s = greedy(NULL, &a, 40);

        answer_init(&a);
        a.peek = eng;
        a.cancel_after = tag == 3 ? 5 : 0; /* a cancelled one too */
        s.cache_tag = tag;
        ask(eng, STORY, s, &a);
        answer_wait(&a);
        CHECK(a.saw_dirty);
        CHECK(!any_dirty(eng));
        answer_free(&a);
    }
    eng_close(eng);
}

/* The model file is nobody's hostage once it is open: it may be cut short or deleted. */
static void test_eng_open__file_gone_after(void)
{
    char from[4096], cmd[8300], path[] = "/tmp/engine-test-XXXXXX";
    struct eng *kept = open_stories((struct eng_options){0}, (struct eng_tuning){0}), *eng;
    struct answer want, got;
    struct base_err err;
    int fd = mkstemp(path);

    CHECK(fd >= 0);
    snprintf(from, sizeof(from), "%s/trained/stories260K-f32.gguf", ref_dir());
    snprintf(cmd, sizeof(cmd), "cat '%s' > %s", from, path);
    CHECK_INT(system(cmd), 0);
    CHECK_RC(eng_open(&eng, &(struct eng_options){.model_path = path, .n_threads = 2}, &err), BASE_OK, &err);
    CHECK(ftruncate(fd, 0) == 0);
    answer_init(&want);
    answer_init(&got);
    ask(kept, STORY, greedy(NULL, &want, 30), &want);
    ask(eng, STORY, greedy(NULL, &got, 30), &got);
    answer_wait(&want);
    answer_wait(&got);
    CHECK_STR(got.text.data, want.text.data);
    answer_free(&want);
    answer_free(&got);
    eng_close(eng);
    eng_close(kept);
    close(fd);
    unlink(path);
}

static void test_eng_get_info__and_options(void)
{
    struct eng *eng = open_stories((struct eng_options){0}, (struct eng_tuning){0}), *none = NULL;
    struct eng_info info;
    struct base_err err = {0};
    char path[4096];

    eng_get_info(eng, &info);
    CHECK_STR(info.family, "llama");
    CHECK_STR(info.weights, "F32");
    CHECK_INT(info.context_tokens, 512);
    CHECK_INT(info.n_vocab, 512);
    CHECK(strstr(info.device, "2 threads") != NULL);
    eng_close(eng);
    snprintf(path, sizeof(path), "%s/trained/stories260K-f32.gguf", ref_dir());
    CHECK_RC(eng_open(&none, &(struct eng_options){.model_path = path, .context_tokens = 1024}, &err),
             BASE_INVALID, &err);
    CHECK_RC(eng_open(&none, &(struct eng_options){.model_path = path, .kv_bytes_max = 10}, &err),
             BASE_NO_MEMORY, &err);
    CHECK_RC(eng_open(&none, &(struct eng_options){.model_path = "/nonexistent/x.gguf"}, &err),
             BASE_NOT_FOUND, &err);
    CHECK_RC(eng_open(&none, &(struct eng_options){.model_path = "/dev/zero"}, &err), BASE_INVALID, &err);
    CHECK(none == NULL);
}

static const struct tap_case cases[] = {
    CASE(test_eng_submit__continues_a_story),
    CASE(test_eng_submit__many_at_once_as_alone),
    CASE(test_eng_submit__stop_string_across_tokens),
    CASE(test_eng_cancel__within_a_step),
    CASE(test_eng_cancel__while_waiting),
    CASE(test_eng_close__ends_every_request),
    CASE(test_eng_submit__queue_full),
    CASE(test_eng_submit__context_overflow),
    CASE(test_eng_submit__bad_parameters),
    CASE(test_eng_submit__admits_by_pages),
    CASE(test_eng_submit__leaves_no_kv_behind),
    CASE(test_eng_open__file_gone_after),
    CASE(test_eng_get_info__and_options),
};

int main(int argc, char **argv)
{
    return tap_main(cases, BASE_ARRAY_LEN(cases), argc, argv);
}
