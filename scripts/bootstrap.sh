#!/bin/sh
# Creates or repairs .venv with what is needed to run Piropiro ("run") or also to develop it ("dev").
#
# It needs a Python and nothing else, does nothing when .venv is up to date, and starts again from nothing when an
# earlier installation was interrupted, the Python behind .venv is gone, or the folder was moved.
set -eu
cd "$(dirname "$0")/.."

kind=$1
case $kind in
    run) requirements=requirements.txt ;;
    dev) requirements=requirements-dev.txt ;;
    *) exit 2 ;;
esac

venv=.venv
python=$venv/bin/python
stamp=$venv/installed-$kind      # what a finished installation depended on
unfinished=$venv/unfinished   # exists while an installation is under way
place=$venv/place             # the folder it was made in: its scripts hold that path
lock=$venv.lock               # a link that names the process which is installing

fail() {
    echo "piropiro: $1" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

can_make_venvs() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# Prints the first Python that really runs: a command may exist and yet fail, as pyenv's shims do.
find_python() {
    if [ -n "${PYTHON:-}" ]; then
        is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs"
    fi
    without_venv=
    for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
        is_supported "$candidate" || continue
        if can_make_venvs "$candidate"; then
            echo "$candidate"
            return
        fi
        [ -n "$without_venv" ] || without_venv=$candidate
        [ "$candidate" != "${PYTHON:-}" ] || break
    done
    [ -z "$without_venv" ] || fail "$without_venv lacks its venv module: install it (apt install python3-venv), then run make again"
    fail "no Python 3.11, 3.12 or 3.13 found: install one, or name it with make PYTHON=/path/to/python"
}

is_usable() {
    [ ! -e "$unfinished" ] && is_supported "$python" || return 1
    [ ! -e "$place" ] || [ "$(cat "$place")" = "$PWD" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V 2>&1)" = "$("$python" -V)" ]
}

create_venv() {
    base=$(find_python)
    echo "creating $venv with $("$base" -V)"
    rm -rf "$venv"
    mkdir "$venv"
    touch "$unfinished"
    "$base" -m venv "$venv" || fail "could not create $venv: the lines above say why"
    pwd >"$place"
}

fingerprint() {
    "$python" -V
    cat "$1" pyproject.toml | cksum
}

is_installed() {
    [ -e "$venv/installed-$1" ] && [ "$(cat "$venv/installed-$1")" = "$(fingerprint "$2")" ]
}

# What is installed to develop is also enough to run.
is_up_to_date() {
    is_usable && { is_installed dev requirements-dev.txt || is_installed "$kind" "$requirements"; }
}

# One installation at a time; a lock whose process is gone is nobody's.
acquire_lock() {
    until ln -s "$$" "$lock" 2>/dev/null; do
        owner=$(readlink "$lock" || true)
        [ -z "$owner" ] || ! kill -0 "$owner" 2>/dev/null ||
            fail "process $owner is installing into $venv already: wait until it has finished, then run make again"
        rm -f "$lock"
    done
    trap 'rm -f "$lock"' EXIT
    trap 'exit 130' INT TERM HUP
}

# Runs pip and adds its status as a last line, for `show_progress`.
pip() {
    PYTHONUNBUFFERED=1 "$python" -m pip --disable-pip-version-check --no-input "$@" 2>&1 && echo "status 0" || echo "status $?"
}

report() {
    if [ -t 1 ]; then
        printf '\r\033[K  %s' "$1"
    else
        echo "  $1"
    fi
}

# Turns pip's output into one line for each package, kept in place on a terminal; ends with pip's status.
show_progress() {
    count=0
    status=1
    while IFS= read -r line; do
        case $line in
            "Ignoring "*) total=$((total - 1)) ;;
            "Collecting "*==* | "Processing "*.whl*)
                count=$((count + 1))
                package=${line#* }
                package=${package%% *}
                report "$count/$total ${package##*/}"
                ;;
            "Installing collected packages"*) [ "$count" = 0 ] || report "unpacking" ;;
            "ERROR: "*) printf '\n%s\n' "$line" >&2 ;;
            "status "*) status=${line#status } ;;
        esac
    done
    return "$status"
}

install() {
    total=$(grep -c '==' "$requirements")
    echo "installing the packages of $requirements"
    touch "$unfinished"
    # The lock file is complete, so nothing is left for pip to resolve; bytecode is compiled on first use.
    pip install --no-deps --no-compile --require-hashes -r "$requirements" | show_progress ||
        fail "could not install the packages: see the lines above, then run make again"
    pip install --no-deps --no-build-isolation --no-index -e . | show_progress ||
        fail "could not install piropiro: see the lines above, then run make again"
    [ ! -t 1 ] || echo
    fingerprint "$requirements" >"$stamp"
    rm "$unfinished"
    echo "installed in $venv"
}

if ! is_up_to_date; then
    acquire_lock
    is_usable || create_venv
    install
fi
