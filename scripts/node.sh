#!/bin/sh
# Installs the Node packages that tests/sdk runs, and does nothing when they are up to date. Where that is not possible
# it says so, and fails only if they are "required".
set -eu
kind=${1:-wanted}
cd "$(dirname "$0")/../tests/sdk/node"

stamp=node_modules/.installed # the lock file of a finished installation

skip() {
    [ "$kind" != required ] || { echo "$1" >&2 && exit 1; }
    echo "$1: the tests with Node's SDKs are skipped"
    exit 0
}

cmp -s package-lock.json "$stamp" && exit 0
rm -f "$stamp"
command -v node >/dev/null && command -v npm >/dev/null || skip "there is no node or no npm here"
node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || skip "node $(node -v) is older than 18"
echo "installing the Node packages of tests/sdk"
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || skip "npm could not install them"
cp package-lock.json "$stamp"
