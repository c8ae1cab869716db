#!/bin/sh
# A development CA and a server certificate signed by it. Usage: make-dev-ca.sh DIR NAME_OR_ADDRESS...
# Writes DIR/ca.pem, ca.key, server.pem, server.key (keys mode 0600). Keeps what is there and still valid for a week.
set -eu
if [ $# -lt 2 ] || [ "$1" = --help ]; then
    sed -n '2,3s/^# //p' "$0"
    exit 2
fi
dir=$1
shift
umask 077
mkdir -p "$dir"
names=
for name in "$@"; do
    case $name in
    *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) names="${names:+$names,}IP:$name" ;;
    *) names="${names:+$names,}DNS:$name" ;;
    esac
done
if openssl x509 -in "$dir/server.pem" -noout -checkend 604800 >/dev/null 2>&1 && [ "$(cat "$dir/names" 2>/dev/null)" = "$names" ]; then
    exit 0
fi
if ! openssl x509 -in "$dir/ca.pem" -noout -checkend 2592000 >/dev/null 2>&1; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -keyout "$dir/ca.key" -out "$dir/ca.pem" \
        -subj "/CN=Gatehouse development CA" -addext "keyUsage=critical,keyCertSign,cRLSign" 2>/dev/null
fi
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/server.key" -out "$dir/server.csr" \
    -subj "/CN=$1" 2>/dev/null
printf 'subjectAltName=%s\nbasicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n' "$names" >"$dir/ext"
openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 397 -out "$dir/server.pem" \
    -extfile "$dir/ext" 2>/dev/null
printf '%s' "$names" >"$dir/names"
rm -f "$dir/server.csr" "$dir/ext"
chmod 755 "$dir" # clients need ca.pem; the keys keep mode 0600
chmod 644 "$dir/ca.pem" "$dir/server.pem"
