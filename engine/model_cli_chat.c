/* `chat`: one answer, a batch of them, or a conversation. See model_cli.h. */
#include "engine/model_cli.h"

#include "base/mem.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One request of the command line. */
struct job {
    struct eng_request *request;
    struct base_buf text;
    char *line;
    bool stream, done, failed;
    struct eng_usage usage;
    pthread_mutex_t *mutex; /* guards `done` */
    pthread_cond_t *cond;
    char error[BASE_DETAIL_MAX];
};

static void job_event(const struct eng_event *event, void *user)
{
    struct job *job = user;

    if (event->kind == ENG_EVENT_TEXT) {
        base_buf_append(&job->text, event->text, event->text_len);
        if (job->stream) {
            fwrite(event->text, 1, event->text_len, stdout);
            fflush(stdout);
        }
    }
    if (event->kind != ENG_EVENT_FINISH && event->kind != ENG_EVENT_ERROR)
        return;
    pthread_mutex_lock(job->mutex);
    job->done = true;
    job->failed = event->kind == ENG_EVENT_ERROR;
    job->usage = event->usage;
    if (job->failed)
        snprintf(job->error, sizeof(job->error), "%s", event->err->detail);
    pthread_cond_broadcast(job->cond);
    pthread_mutex_unlock(job->mutex);
}

static void job_wait(struct job *job)
{
    pthread_mutex_lock(job->mutex);
    while (!job->done)
        pthread_cond_wait(job->cond, job->mutex);
    pthread_mutex_unlock(job->mutex);
}

/* Submits; waits while the engine's queue is full. */
static enum base_code job_start(struct eng *eng, const struct eng_cli *c, const struct eng_prompt *prompt,
                                struct job *job, struct base_err *err)
{
    struct eng_submit submit = {.prompt = prompt,
                                .sampling = c->sampling,
                                .max_tokens = c->max_tokens,
                                .on_event = job_event,
                                .user = job};
    enum base_code rc;

    while ((rc = eng_submit(eng, &submit, &job->request, err)) == BASE_FULL)
        usleep(2000);
    return rc;
}

static enum base_code chat_prompt(struct eng *eng, const struct eng_cli *c, const char *text, size_t len,
                                  struct eng_prompt **ret_prompt, struct base_err *err)
{
    struct eng_message messages[2] = {{"system", c->system, c->system != NULL ? strlen(c->system) : 0},
                                      {"user", text, len}};

    return eng_prompt_chat(eng, messages + (c->system == NULL), c->system == NULL ? 1 : 2, ret_prompt, err);
}

static int chat_once(struct eng *eng, const struct eng_cli *c, const char *text)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    struct job job = {.text = BASE_BUF_INIT(16 << 20), .stream = true, .mutex = &mutex, .cond = &cond};
    struct eng_prompt *prompt = NULL;
    struct base_err err;

    if (chat_prompt(eng, c, text, strlen(text), &prompt, &err) != BASE_OK)
        return eng_cli_fail(&err);
    if (job_start(eng, c, prompt, &job, &err) != BASE_OK) {
        eng_prompt_free(prompt);
        return eng_cli_fail(&err);
    }
    eng_prompt_free(prompt);
    job_wait(&job);
    putchar('\n');
    if (job.failed)
        fprintf(stderr, "%s\n", job.error);
    eng_request_unref(job.request);
    base_buf_free(&job.text);
    return job.failed ? 1 : 0;
}

/* "\\n" to a newline and "\\\\" to a backslash, in place; returns the length. */
static size_t unescape(char *s)
{
    char *out = s;

    for (const char *p = s; *p != '\0'; p++) {
        if (*p == '\\' && (p[1] == 'n' || p[1] == '\\'))
            *out++ = *++p == 'n' ? '\n' : '\\';
        else
            *out++ = *p;
    }
    *out = '\0';
    return (size_t)(out - s);
}

static void print_escaped(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\n')
            fputs("\\n", stdout);
        else if (s[i] == '\\')
            fputs("\\\\", stdout);
        else
            putchar(s[i]);
    }
    putchar('\n');
    fflush(stdout);
}

/* Answers go out in the order of their prompts; a prompt that fails gives an empty line and a message. */
static bool finish_job(struct job *job)
{
    bool ok;

    if (job->request != NULL)
        job_wait(job);
    ok = job->request != NULL && !job->failed;
    print_escaped(ok && job->text.data != NULL ? job->text.data : "", ok ? job->text.len : 0);
    if (!ok)
        fprintf(stderr, "%s\n", job->error);
    eng_request_unref(job->request);
    base_buf_free(&job->text);
    free(job->line);
    return ok;
}

static int chat_batch(struct eng *eng, const struct eng_cli *c)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    enum { WINDOW = 64 };
    struct job *jobs = base_zalloc(WINDOW * sizeof(*jobs));
    size_t begin = 0, end = 0, cap = 0;
    char *line = NULL;
    ssize_t n = 0;
    int status = 0;

    while (n >= 0 || begin < end) {
        n = end - begin < WINDOW && n >= 0 ? getline(&line, &cap, stdin) : n;
        if (n >= 0 && end - begin < WINDOW) {
            struct job *job = &jobs[end++ % WINDOW];
            struct eng_prompt *prompt = NULL;
            struct base_err err = {0};
            size_t len;

            line[strcspn(line, "\r\n")] = '\0';
            len = unescape(line);
            *job = (struct job){.text = BASE_BUF_INIT(16 << 20), .mutex = &mutex, .cond = &cond};
            if (chat_prompt(eng, c, line, len, &prompt, &err) != BASE_OK ||
                job_start(eng, c, prompt, job, &err) != BASE_OK)
                memcpy(job->error, err.detail, sizeof(job->error));
            eng_prompt_free(prompt);
            continue;
        }
        if (begin < end && !finish_job(&jobs[begin++ % WINDOW]))
            status = 1;
    }
    free(line);
    free(jobs);
    return status;
}

/* A conversation: every line is asked with all that was said before. */
static int chat_lines(struct eng *eng, const struct eng_cli *c)
{
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
    struct eng_message *messages = base_zalloc(ENG_MESSAGES_MAX * sizeof(*messages));
    size_t n = 0, cap = 0;
    char *line = NULL;
    int status = 0;

    if (c->system != NULL)
        messages[n++] = (struct eng_message){"system", base_strdup(c->system), strlen(c->system)};
    while (status == 0 && n + 2 <= ENG_MESSAGES_MAX && getline(&line, &cap, stdin) >= 0) {
        struct job job = {.text = BASE_BUF_INIT(16 << 20), .stream = true, .mutex = &mutex, .cond = &cond};
        struct eng_prompt *prompt = NULL;
        struct base_err err;

        line[strcspn(line, "\r\n")] = '\0';
        messages[n++] = (struct eng_message){"user", base_strdup(line), strlen(line)};
        if (eng_prompt_chat(eng, messages, n, &prompt, &err) != BASE_OK ||
            job_start(eng, c, prompt, &job, &err) != BASE_OK) {
            status = eng_cli_fail(&err);
        } else {
            job_wait(&job);
            putchar('\n');
            messages[n].role = "assistant";
            messages[n].content_len = job.text.len;
            messages[n++].content = base_buf_take(&job.text);
        }
        eng_prompt_free(prompt);
        eng_request_unref(job.request);
        base_buf_free(&job.text);
    }
    for (size_t i = 0; i < n; i++)
        free((void *)messages[i].content);
    free(messages);
    free(line);
    return status;
}

int eng_cli_chat(const struct eng_cli *c)
{
    struct eng_options options = c->options;
    struct base_err err;
    struct eng *eng;
    int status;

    options.model_path = c->file;
    if (!c->batch)
        options.max_sequences = 1;
    if (eng_open_tuned(&eng, &options, &c->tuning, &err) != BASE_OK)
        return eng_cli_fail(&err);
    status = c->batch            ? chat_batch(eng, c)
             : c->prompt != NULL ? chat_once(eng, c, c->prompt)
                                 : chat_lines(eng, c);
    eng_close(eng);
    return status;
}
