#!/bin/sh
# install.sh demo|dev: makes .venv hold what requirements/<set>.lock pins, and this project as an editable install.
#
# A second run does nothing and takes no time. A lock that changed, another Python, a folder that was moved and an
# install that was interrupted each start .venv afresh. PYTHON names the interpreter; else the first that will do.
# Nothing here names an index: pip's own configuration decides where packages come from, the hashes what they are.
set -eu

set_name=$1
cd "$(dirname "$0")/.."

usable() {
    # The parts of the standard library that Debian keeps in packages of their own are asked for too.
    "$1" -c 'import sys, ssl, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

python=${PYTHON:-}
if [ -n "$python" ]; then
    if ! usable "$python"; then
        echo "PYTHON=$python is not a Python 3.11 or newer with venv and pip (on Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
else
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if usable "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "No Python 3.11 or newer with venv was found (on Debian: apt-get install python3 python3-venv);" >&2
        echo "another one is named by PYTHON=/path/to/python." >&2
        exit 1
    fi
fi

interpreter=$("$python" -c 'import sys; print(sys.base_prefix, sys.version)')

made_of() { # what a .venv that has the packages of set $1 was made of
    pwd
    echo "$interpreter"
    echo "$1"
    cat "requirements/$1.lock"
}

says() { # file $1 is there and says $2
    [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]
}

venv_python=.venv/bin/python
packages=.venv/packages.stamp
project=.venv/project.stamp

have=none
if "$venv_python" -c '' >/dev/null 2>&1; then
    for known in dev demo; do
        if says "$packages" "$(made_of "$known")"; then
            have=$known
        fi
    done
fi

# dev.lock holds all of demo.lock, at the same versions.
if [ "$have" != dev ] && [ "$have" != "$set_name" ]; then
    if [ "$have" = none ]; then
        [ ! -e .venv ] || echo "Removing the old .venv"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    echo "Installing requirements/$set_name.lock into .venv (some twenty seconds)"
    rm -f "$packages" "$project"
    "$venv_python" -m pip install --quiet --disable-pip-version-check --no-input --only-binary :all: \
        --require-hashes -r "requirements/$set_name.lock"
    made_of "$set_name" >"$packages.new"
    mv "$packages.new" "$packages"
fi

if ! says "$project" "$(cat pyproject.toml)"; then
    rm -f "$project"
    "$venv_python" -m pip install --quiet --disable-pip-version-check --no-input --no-index \
        --no-deps --no-build-isolation --editable .
    cp pyproject.toml "$project.new"
    mv "$project.new" "$project"
fi
