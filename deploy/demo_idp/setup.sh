#!/bin/sh
# Installs the pinned npm package of the demo identity provider into build/demo_idp (git ignores it). Does nothing when it is there.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"
modules="$here/../../build/demo_idp"
mkdir -p "$modules"
if ! cmp -s "$here/package-lock.json" "$modules/installed-lock.json"; then
  cp "$here/package.json" "$here/package-lock.json" "$modules/"
  (cd "$modules" && npm ci --no-audit --no-fund)
  cp "$here/package-lock.json" "$modules/installed-lock.json"
fi
