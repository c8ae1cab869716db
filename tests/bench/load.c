/* load: a closed-loop HTTPS client of N connections on one thread (epoll, HTTP/1.1 keep-alive), for bench_gateway.py.
 *
 *   load -p PORT -c CONNECTIONS -n REQUESTS [-t SECONDS] [-w WARMUP] [-u PATH] [-b BODY_FILE] [-H "name: value"]... [-P name=pid,pid]...
 *
 * Each connection sends its next request when the answer of the last one is complete. The first WARMUP answers (TLS handshakes are among
 * them) are not measured. It ends after REQUESTS measured answers or SECONDS, and prints one line of JSON: counts, latencies of whole
 * answers and of their first event, and the processor time that each -P group used meanwhile, per request. Processor time is the figure
 * to compare: it does not move when other programs take the cores. Certificates are not verified: it talks to loopback only.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <dirent.h>

#define CONNECTIONS_MAX 4096
#define SAMPLES_MAX     4000000u
#define GROUPS_MAX      8
#define HEAD_MAX        16384

enum body_kind { BODY_LENGTH, BODY_CHUNK_SIZE, BODY_CHUNK_DATA, BODY_CHUNK_END, BODY_TRAILER };

struct connection {
    int fd;
    SSL *ssl;
    bool connected, busy, in_body, failed;
    size_t sent; /* of the request */
    char head[HEAD_MAX];
    size_t head_len;
    int status;
    enum body_kind kind;
    uint64_t left; /* of the body or the chunk */
    char line[32]; /* a chunk's size */
    size_t line_len;
    char last; /* last byte of the body: two line ends close an event */
    double start, first;
};

struct group {
    char name[32];
    int pids[64], n_pids;
    double cpu_start;
};

static struct {
    const char *path, *body_file;
    int port, n_connections;
    long n_requests, n_warmup;
    double seconds;
    char *request;
    size_t request_len;
    struct group groups[GROUPS_MAX];
    int n_groups;
} args = {.path = "/", .n_connections = 1, .n_requests = 1000, .seconds = 10};

static struct connection connections[CONNECTIONS_MAX];
static float *total_us, *first_us;
static size_t n_total, n_first;
static long n_done, n_errors, n_bad_status;
static uint64_t n_events, n_bytes;
static bool measuring;
static double measure_start;
static int poller;
static SSL_CTX *ssl_ctx;

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* ---- processor time of other processes ---- */

/* Nanoseconds of all threads: /proc/PID/stat counts ticks of 10 ms, schedstat counts nanoseconds. */
static double process_cpu(int pid)
{
    char path[300];
    double sum = 0;
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        unsigned long long ns = 0;
        FILE *f;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/schedstat", pid, entry->d_name);
        f = fopen(path, "r");
        if (f == NULL)
            continue;
        if (fscanf(f, "%llu", &ns) == 1)
            sum += (double)ns;
        fclose(f);
    }
    if (dir != NULL)
        closedir(dir);
    return sum;
}

static double group_cpu(const struct group *group)
{
    double sum = 0;

    for (int i = 0; i < group->n_pids; i++)
        sum += process_cpu(group->pids[i]);
    return sum;
}

static void add_group(const char *text)
{
    struct group *group = &args.groups[args.n_groups];
    const char *at = strchr(text, '=');

    if (at == NULL || args.n_groups == GROUPS_MAX)
        die("-P name=pid,pid");
    snprintf(group->name, sizeof(group->name), "%.*s", (int)(at - text), text);
    while (at != NULL && group->n_pids < 64) {
        group->pids[group->n_pids++] = atoi(at + 1);
        at = strchr(at + 1, ',');
    }
    args.n_groups++;
}

static void start_measuring(void)
{
    measuring = true;
    for (int i = 0; i < args.n_groups; i++)
        args.groups[i].cpu_start = group_cpu(&args.groups[i]);
    measure_start = now();
}

/* ---- one connection ---- */

static void watch(struct connection *c, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(poller, op, c->fd, &event) != 0)
        die("epoll_ctl");
}

static void dial(struct connection *c)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)args.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;

    memset(c, 0, sizeof(*c));
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    c->ssl = SSL_new(ssl_ctx);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_tlsext_host_name(c->ssl, "localhost");
    SSL_set_connect_state(c->ssl);
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

static void hang_up(struct connection *c)
{
    SSL_free(c->ssl);
    close(c->fd);
    c->fd = -1;
}

static void send_request(struct connection *c)
{
    int n;

    if (c->sent == 0) {
        c->start = now();
        c->first = 0;
        c->busy = true;
        c->head_len = 0;
        c->in_body = false;
        c->last = 0;
    }
    while (c->sent < args.request_len &&
           (n = SSL_write(c->ssl, args.request + c->sent, (int)(args.request_len - c->sent))) > 0)
        c->sent += (size_t)n;
    watch(c, EPOLL_CTL_MOD, c->sent < args.request_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void answer_complete(struct connection *c)
{
    double end = now();

    c->busy = false;
    n_done++;
    if (!measuring) {
        if (n_done >= args.n_warmup)
            start_measuring();
    } else if (c->start >= measure_start && n_total < SAMPLES_MAX) {
        total_us[n_total++] = (float)((end - c->start) * 1e6);
        if (c->first > 0)
            first_us[n_first++] = (float)((c->first - c->start) * 1e6);
    }
    if (c->status != 200)
        n_bad_status++;
    c->sent = 0;
    send_request(c);
}

/* Returns false when the answer is none that this client reads. */
static bool parse_head(struct connection *c)
{
    const char *line;

    if (sscanf(c->head, "HTTP/1.1 %d", &c->status) != 1)
        return false;
    c->kind = BODY_LENGTH;
    c->left = 0;
    for (line = strstr(c->head, "\r\n"); line != NULL; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            c->left = strtoull(line + 17, NULL, 10);
        if (strncasecmp(line + 2, "transfer-encoding: chunked", 26) == 0)
            c->kind = BODY_CHUNK_SIZE;
    }
    c->line_len = 0;
    c->in_body = true;
    return true;
}

static void count_body(struct connection *c, const char *bytes, size_t n)
{
    if (c->first == 0 && n > 0)
        c->first = now();
    n_bytes += measuring ? n : 0;
    for (size_t i = 0; i < n; i++) {
        n_events += measuring && bytes[i] == '\n' && c->last == '\n';
        c->last = bytes[i];
    }
}

/* How many of the bytes belong to the body; *ret_end when it is complete. */
static size_t read_body(struct connection *c, const char *bytes, size_t n, bool *ret_end)
{
    size_t take = n < c->left ? n : (size_t)c->left;

    switch (c->kind) {
    case BODY_LENGTH:
        count_body(c, bytes, take);
        c->left -= take;
        *ret_end = c->left == 0;
        return take;
    case BODY_CHUNK_DATA:
        count_body(c, bytes, take);
        c->left -= take;
        if (c->left == 0)
            c->kind = BODY_CHUNK_END;
        return take;
    case BODY_CHUNK_END: /* CR LF after the data */
    case BODY_TRAILER:   /* the empty line after the last chunk */
        if (bytes[0] == '\n') {
            *ret_end = c->kind == BODY_TRAILER;
            c->kind = BODY_CHUNK_SIZE;
        }
        return 1;
    case BODY_CHUNK_SIZE:
        if (c->line_len < sizeof(c->line) - 1)
            c->line[c->line_len++] = bytes[0];
        if (bytes[0] == '\n') {
            c->line[c->line_len] = '\0';
            c->line_len = 0;
            c->left = strtoull(c->line, NULL, 16);
            c->kind = c->left > 0 ? BODY_CHUNK_DATA : BODY_TRAILER;
        }
        return 1;
    }
    return n;
}

static bool take_bytes(struct connection *c, const char *bytes, size_t n)
{
    while (n > 0) {
        bool end = false;
        size_t used;

        if (!c->busy)
            return false; /* bytes that belong to no answer */
        if (!c->in_body) {
            if (c->head_len == HEAD_MAX - 1)
                return false;
            c->head[c->head_len++] = *bytes++;
            c->head[c->head_len] = '\0';
            n--;
            if (c->head_len < 4 || memcmp(c->head + c->head_len - 4, "\r\n\r\n", 4) != 0)
                continue;
            if (!parse_head(c))
                return false;
            if (c->kind == BODY_LENGTH && c->left == 0)
                answer_complete(c);
            continue;
        }
        used = read_body(c, bytes, n, &end);
        bytes += used;
        n -= used;
        if (end)
            answer_complete(c);
    }
    return true;
}

static void redial(struct connection *c)
{
    n_errors++;
    hang_up(c);
    if (n_errors > 1000) {
        fprintf(stderr, "load: a thousand errors, the last answer began: %.200s\n", c->head);
        exit(1);
    }
    dial(c);
}

static void on_ready(struct connection *c, uint32_t events)
{
    static char bytes[65536];
    int n;

    if (!c->connected) {
        n = SSL_do_handshake(c->ssl);
        if (n != 1) {
            n = SSL_get_error(c->ssl, n);
            if (n != SSL_ERROR_WANT_READ && n != SSL_ERROR_WANT_WRITE)
                redial(c);
            else
                watch(c, EPOLL_CTL_MOD, n == SSL_ERROR_WANT_WRITE ? EPOLLIN | EPOLLOUT : EPOLLIN);
            return;
        }
        c->connected = true;
        send_request(c);
        return;
    }
    if ((events & EPOLLOUT) != 0 && c->sent < args.request_len)
        send_request(c);
    while ((n = SSL_read(c->ssl, bytes, sizeof(bytes))) > 0) {
        if (!take_bytes(c, bytes, (size_t)n)) {
            redial(c);
            return;
        }
    }
    n = SSL_get_error(c->ssl, n);
    if (n != SSL_ERROR_WANT_READ && n != SSL_ERROR_WANT_WRITE)
        redial(c);
}

/* ---- the run and its result ---- */

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? -1 : x > y;
}

static double rank(float *samples, size_t n, double part)
{
    size_t at = (size_t)(part * (double)n);

    return n == 0 ? 0 : samples[at < n ? at : n - 1];
}

static void print_result(double took)
{
    struct timespec own;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    qsort(total_us, n_total, sizeof(*total_us), by_value);
    qsort(first_us, n_first, sizeof(*first_us), by_value);
    printf("{\"requests\":%zu,\"errors\":%ld,\"not_200\":%ld,\"seconds\":%.3f,\"per_second\":%.1f,\"p50_us\":"
           "%.0f,\"p99_us\":%.0f,"
           "\"first_p50_us\":%.0f,\"first_p99_us\":%.0f,\"events\":%llu,\"bytes\":%llu,\"cpu_us\":{",
           n_total, n_errors, n_bad_status, took, (double)n_total / took, rank(total_us, n_total, .5),
           rank(total_us, n_total, .99), rank(first_us, n_first, .5), rank(first_us, n_first, .99),
           (unsigned long long)n_events, (unsigned long long)n_bytes);
    for (int i = 0; i < args.n_groups; i++)
        printf("%s\"%s\":%.2f", i > 0 ? "," : "", args.groups[i].name,
               n_total > 0 ? (group_cpu(&args.groups[i]) - args.groups[i].cpu_start) / 1e3 / (double)n_total
                           : 0);
    printf("}}\n");
}

static void run(void)
{
    double give_up = now() + args.seconds + 15; /* warming up takes no longer than this */
    struct epoll_event events[256];

    for (int i = 0; i < args.n_connections; i++)
        dial(&connections[i]);
    if (args.n_warmup <= 0)
        start_measuring();
    for (;;) {
        int n = epoll_wait(poller, events, 256, 100);

        for (int i = 0; i < n; i++)
            on_ready(events[i].data.ptr, events[i].events);
        if (measuring && (n_total >= (size_t)args.n_requests || now() - measure_start >= args.seconds))
            break;
        if (!measuring && now() > give_up) {
            fprintf(stderr, "load: %ld answers in all this time\n", n_done);
            exit(1);
        }
    }
    print_result(now() - measure_start);
}

static void append(const char *text, size_t n)
{
    args.request = realloc(args.request, args.request_len + n);
    if (args.request == NULL)
        die("memory");
    memcpy(args.request + args.request_len, text, n);
    args.request_len += n;
}

static void build_request(char **headers, int n_headers)
{
    static char body[1 << 20];
    char line[8192];
    size_t n = 0;

    if (args.body_file != NULL) {
        FILE *f = fopen(args.body_file, "r");

        if (f == NULL)
            die(args.body_file);
        n = fread(body, 1, sizeof(body), f);
        fclose(f);
    }
    append(line, (size_t)snprintf(line, sizeof(line), "%s %s HTTP/1.1\r\nhost: localhost:%d\r\n",
                                  n > 0 ? "POST" : "GET", args.path, args.port));
    for (int i = 0; i < n_headers; i++)
        append(line, (size_t)snprintf(line, sizeof(line), "%.8000s\r\n", headers[i]));
    if (n > 0)
        append(line, (size_t)snprintf(line, sizeof(line),
                                      "content-type: application/json\r\ncontent-length: %zu\r\n", n));
    append("\r\n", 2);
    append(body, n);
}

int main(int argc, char **argv)
{
    char *headers[32];
    int n_headers = 0, opt;

    while ((opt = getopt(argc, argv, "p:c:n:t:w:u:b:H:P:")) != -1) {
        switch (opt) {
        case 'p': args.port = atoi(optarg); break;
        case 'c': args.n_connections = atoi(optarg); break;
        case 'n': args.n_requests = atol(optarg); break;
        case 't': args.seconds = atof(optarg); break;
        case 'w': args.n_warmup = atol(optarg); break;
        case 'u': args.path = optarg; break;
        case 'b': args.body_file = optarg; break;
        case 'H':
            if (n_headers < 32)
                headers[n_headers++] = optarg;
            break;
        case 'P': add_group(optarg); break;
        default: return 2;
        }
    }
    if (args.port == 0 || args.n_connections < 1 || args.n_connections > CONNECTIONS_MAX) {
        fprintf(stderr, "load: see the top of tests/bench/load.c\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    total_us = malloc(SAMPLES_MAX * sizeof(*total_us));
    first_us = malloc(SAMPLES_MAX * sizeof(*first_us));
    ssl_ctx = SSL_CTX_new(TLS_client_method());
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (total_us == NULL || first_us == NULL || ssl_ctx == NULL || poller < 0)
        die("start");
    build_request(headers, n_headers);
    run();
    return 0;
}
