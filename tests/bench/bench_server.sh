#!/bin/sh
# bench_server.sh BUILD_DIR [SECONDS]: requests per second of echo_server (one loop thread) beside nginx (one worker) when it is
# installed, with the same few bytes of answer. wrk for HTTP/1.1, h2load for HTTP/2. Build with --buildtype=release for figures that
# mean something; on a busy machine the ratio says more than the numbers.
set -eu
build=${1:?build directory}
seconds=${2:-5}
dir=$(mktemp -d)
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT INT TERM

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/key.pem" -out "$dir/cert.pem" -days 2 \
    -subj /CN=localhost 2>/dev/null
chmod 600 "$dir/key.pem"
"$build/tests/tools/echo_server_plain" threads=1 "cert=$dir/cert.pem" "key=$dir/key.pem" requests_per_second=100000000 \
    >"$dir/ready" 2>"$dir/stderr" &
pids="$pids $!"
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -s "$dir/ready" ] && break
    sleep 0.2
done
read -r _ tls plain <"$dir/ready"

nginx_tls=
if command -v nginx >/dev/null 2>&1; then
    nginx_tls=$((tls + 1000 > 65000 ? tls - 1000 : tls + 1000))
    nginx_plain=$((nginx_tls + 1))
    cat >"$dir/nginx.conf" <<CONF
daemon off; master_process off; worker_processes 1; pid $dir/nginx.pid; error_log $dir/nginx.err;
events { worker_connections 1024; }
http { access_log off; keepalive_requests 100000000;
  server { listen 127.0.0.1:$nginx_plain; listen 127.0.0.1:$nginx_tls ssl http2; http2_max_concurrent_streams 128;
    ssl_certificate $dir/cert.pem; ssl_certificate_key $dir/key.pem;
    location / { add_header x-content-type-options nosniff; add_header cache-control no-store; return 200 "ok\n"; } } }
CONF
    nginx -c "$dir/nginx.conf" -p "$dir" 2>/dev/null &
    pids="$pids $!"
    sleep 1
fi

http1() { wrk -t1 -c32 -d"${seconds}s" "$1" | awk '/Requests\/sec/ {print int($2)}'; }
http2() { h2load -D "$seconds" -c16 -m10 -t1 "$1" 2>/dev/null | awk '/^finished in/ {print int($4)}'; }
row() { # name, ours, theirs
    if [ -n "${3:-}" ] && [ "${3:-0}" -gt 0 ]; then
        printf '%-22s %9d/s  nginx %9d/s  ratio %s\n' "$1" "$2" "$3" "$(awk "BEGIN {printf \"%.2f\", $2 / $3}")"
    else
        printf '%-22s %9d/s  (no nginx to compare)\n' "$1" "$2"
    fi
}

row "HTTP/1.1 plain" "$(http1 "http://127.0.0.1:$plain/echo")" "${nginx_tls:+$(http1 "http://127.0.0.1:${nginx_plain:-}/echo")}"
row "HTTP/1.1 TLS" "$(http1 "https://127.0.0.1:$tls/echo")" "${nginx_tls:+$(http1 "https://127.0.0.1:$nginx_tls/echo")}"
row "HTTP/2 TLS" "$(http2 "https://127.0.0.1:$tls/echo")" "${nginx_tls:+$(http2 "https://127.0.0.1:$nginx_tls/echo")}"
