#!/bin/sh
# lock.sh [options of `uv pip compile`, such as --upgrade]: makes the locks anew from pyproject.toml.
#
# One resolution for CPython 3.11 and newer on every platform, with the hash of every file. A pin that still fits stays
# unless --upgrade or --upgrade-package NAME says otherwise. No address of an index or of a folder is written down.
set -eu

uv=${UV:-uv}
if ! command -v "$uv" >/dev/null 2>&1; then
    echo "make lock needs uv (pip install uv), or UV=/path/to/uv" >&2
    exit 1
fi
cd "$(dirname "$0")/.."

compile() {
    "$uv" pip compile pyproject.toml --quiet --universal --generate-hashes --python-version 3.11 \
        --no-emit-index-url --no-emit-find-links --no-annotate \
        --custom-compile-command "make lock" "$@"
}

compile --extra all --group dev --output-file requirements/dev.lock "$@"
# The same versions in both: `make test` after `make demo` only adds to .venv.
compile --extra uvicorn --extra starlette --extra gunicorn --extra flask --extra otel --extra kombu --extra redis \
    --group build --constraint requirements/dev.lock \
    --output-file requirements/demo.lock "$@"
