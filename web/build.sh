#!/bin/sh
# Builds the pages into web/dist from web/src, with the tools pinned in package-lock.json. Arguments go to build.mjs.
set -eu
cd "$(dirname "$0")"
if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund
  touch node_modules/.package-lock.json
fi
exec node build.mjs "$@"
