#!/bin/sh
# Writes requirements.txt and requirements-dev.txt from pyproject.toml: exact versions and hashes for every
# supported Python and system. Versions already locked are kept; --upgrade takes the newest.
set -eu
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv

# The build backend is locked too, so that installing this project asks the network for nothing more.
.venv/bin/python -c 'import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' >"$tools/build.in"

compile() {
    "$tools/bin/uv" pip compile pyproject.toml "$tools/build.in" --no-config --quiet \
        --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" "$@"
}

compile --output-file requirements.txt "$@"
compile --extra dev --constraint requirements.txt --output-file requirements-dev.txt "$@"
