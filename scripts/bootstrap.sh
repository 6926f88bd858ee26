#!/bin/sh
# Creates or repairs .venv with what is needed to run Piropiro ("run") or also to develop it ("dev").
#
# It needs a Python and nothing else, does nothing when .venv is up to date, and starts again from nothing when an
# earlier installation was interrupted, the Python behind .venv is gone, or the folder was moved.
set -eu
unset CDPATH PIP_TARGET PIP_PREFIX # which would lead elsewhere
cd "$(dirname "$0")/.."

kind=${1:-}
case $kind in
    run) requirements=requirements.txt ;;
    dev) requirements=requirements-dev.txt ;;
    *)
        echo "usage: $0 run|dev" >&2
        exit 2
        ;;
esac

venv=.venv
python=$venv/bin/python
stamp=$venv/installed-$kind # what a finished installation depended on
unfinished=$venv/unfinished # exists while an installation is under way
place=$venv/place           # the folder it was made in: its scripts hold that path
lock=$venv.lock             # a link that names the process which is installing
needed_kb=200000            # twice what .venv takes once everything in it has run
newline='
'

fail() {
    printf 'piropiro: %s\n' "$1" >&2
    exit 1
}

last_line() {
    printf '%s\n' "${1##*"$newline"}"
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
        set -- "$PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3
    fi
    without_venv=
    for candidate; do
        is_supported "$candidate" || continue
        if can_make_venvs "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [ -z "$without_venv" ] || fail_without_venv "$without_venv"
    found=$("$candidate" -V 2>&1) && found="is $found" || found="does not run"
    fail "needs Python 3.11, 3.12 or 3.13, but ${PYTHON:+PYTHON=}$candidate $found:\
 install one, or name it with make up PYTHON=/path/to/python"
}

fail_without_venv() {
    package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    fail "$1 lacks its venv module: install it (Debian and Ubuntu: apt install $package), then try again"
}

is_usable() {
    [ ! -e "$unfinished" ] && is_supported "$python" || return 1
    [ ! -e "$place" ] || [ "$(cat "$place")" = "$PWD" ] || return 1
    [ -z "${PYTHON:-}" ] || [ "$("$PYTHON" -V 2>&1)" = "$("$python" -V)" ]
}

create_venv() {
    base=$(find_python)
    echo "creating $venv with $("$base" -V)"
    output=$(rm -rf "$venv" 2>&1) ||
        fail "cannot remove $venv (${output##*: }): remove it (sudo rm -rf $venv), then try again"
    mkdir "$venv"
    touch "$unfinished"
    output=$("$base" -m venv --without-pip "$venv" 2>&1) || fail "cannot create $venv: $(last_line "$output")"
    pwd >"$place"
}

# Unpacks the pip that Python brings. `python -m ensurepip` would do the same and compile all of it, which takes 4 s.
add_pip() {
    "$python" -c '
import ensurepip, pathlib, sysconfig, zipfile
folders = pathlib.Path(ensurepip.__file__).with_name("_bundled"), sysconfig.get_config_var("WHEEL_PKG_DIR")
wheels = [wheel for folder in folders if folder for wheel in pathlib.Path(folder).glob("pip-*.whl")]
zipfile.ZipFile(wheels[0]).extractall(sysconfig.get_path("purelib"))' 2>/dev/null && return
    output=$("$python" -m ensurepip 2>&1) || fail "cannot install pip: $(last_line "$output")"
}

# Does what `pip install -e .` would, without a build backend to download and run, which takes 3 s.
add_piropiro() {
    "$python" -c '
import os, pathlib, shlex, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "piropiro.pth").write_text(os.getcwd() + "\n")
command = pathlib.Path(sys.executable).with_name("piropiro")
command.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m cli \"$@\"\n")
command.chmod(0o755)'
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
    tries=0
    until output=$(ln -s "$$" "$lock" 2>&1); do
        owner=$(readlink "$lock" || true)
        if [ -n "$owner" ] && kill -0 "$owner" 2>/dev/null; then
            fail "process $owner is installing into $venv already:\
 wait until it has (or remove $lock if it is not), then try again"
        fi
        tries=$((tries + 1))
        [ "$tries" -lt 3 ] ||
            fail "cannot write in $PWD (${output##*: }): clone to a folder where you may write"
        rm -f "$lock"
    done
    trap 'rm -f "$lock"' EXIT
    trap 'exit 130' INT TERM HUP
}

# Runs pip and adds its status as a last line, for `show_progress`. Left alone, it waits minutes for a dead network.
pip() {
    PYTHONUNBUFFERED=1 PIP_USER=0 "$python" -m pip --disable-pip-version-check --no-input --retries 2 "$@" 2>&1 &&
        echo "status 0" || echo "status $?"
}

report() {
    if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then
        printf '\r\033[K  %s' "$1"
    else
        echo "  $1"
    fi
}

# Turns pip's output into one line for each package, kept in place on a terminal, and a failure into one line.
show_progress() {
    count=0
    status=1
    log=
    reason=
    while IFS= read -r line; do
        log=$log$newline$line
        case $line in
            "status "*) status=${line#status } ;;
            *[![:space:]]*) reason=$line ;;
        esac
        case $line in
            "Ignoring "*) total=$((total - 1)) ;;
            "Collecting "*==* | "Processing "*.whl*)
                count=$((count + 1))
                package=${line#* }
                package=${package%% *}
                report "$count/$total ${package##*/}"
                ;;
            "Installing collected packages"*) report "unpacking" ;;
            "WARNING: Retrying "*) report "no answer from the package index: trying again" ;;
        esac
    done
    [ ! -t 1 ] || echo
    [ "$status" = 0 ] || fail "could not install the packages: $(explain)"
}

# Says in one line what pip's output means, and what to do.
explain() {
    case $log in
        *"No space left on device"*)
            printf '%s\n' "the disk is full: make room in $PWD and in ${TMPDIR:-/tmp}, then try again"
            ;;
        *"DO NOT MATCH THE HASHES"*)
            echo "one arrived cut or changed: try again; if that does not help, a proxy or mirror changes packages"
            ;;
        *ProxyError*)
            echo "the proxy does not let pip through: correct HTTPS_PROXY, then try again"
            ;;
        *SSLError* | *"ssl certificate"*)
            echo "the certificate of the package index is not accepted:\
 correct the clock, or set PIP_CERT to your network's"
            ;;
        *"Retrying "* | *TimeoutError* | *ProtocolError* | *ConnectionError*)
            echo "no network? Try again when the package index can be reached"
            ;;
        *"No matching distribution found for "*)
            package=${log##*No matching distribution found for }
            package=${package%%"$newline"*}
            if [ "$count" = 0 ]; then
                echo "the package index does not know $package:\
 is a login page in between, or another index set (pip config list)?"
            else
                echo "there is no $package for $("$python" -V) on $(uname -sm):\
 try another with make up PYTHON=/path/to/python"
            fi
            ;;
        *)
            printf '%s\n' "$reason"
            ;;
    esac
}

check_room() {
    free=$(df -Pk . | awk 'END { print $4 }')
    [ "${free:-$needed_kb}" -ge "$needed_kb" ] ||
        fail "$((free / 1000)) MB free in $PWD, but $((needed_kb / 1000)) MB needed: make room, then try again"
}

install() {
    total=$(grep -c '==' "$requirements")
    echo "installing the packages of $requirements"
    output=$(touch "$unfinished" 2>&1) ||
        fail "cannot write in $venv (${output##*: }): remove it (sudo rm -rf $venv), then try again"
    "$python" -c 'import pip' 2>/dev/null || add_pip
    # The lock file is complete, so nothing is left for pip to resolve; bytecode is compiled on first use.
    pip install --no-deps --no-compile --require-hashes -r "$requirements" | show_progress
    add_piropiro
    fingerprint "$requirements" >"$stamp"
    rm "$unfinished"
    echo "installed in $venv"
}

if ! is_up_to_date; then
    check_room
    acquire_lock
    is_usable || create_venv
    install
fi
