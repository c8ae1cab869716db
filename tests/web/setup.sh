#!/bin/sh
# Installs the pinned npm packages that the tests need (git ignores them). Does nothing when they are there.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
for dir in "$here" "$here/../../web" "$here/../clients" "$here/../security/opinion"; do
  stamp="$dir/node_modules/.package-lock.json"
  if [ ! -e "$stamp" ] || [ "$dir/package-lock.json" -nt "$stamp" ]; then
    (cd "$dir" && npm ci --no-audit --no-fund)
    touch "$stamp"
  fi
done
