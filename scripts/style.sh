#!/bin/sh
# Counts what the prose and house rules of CONTRIBUTING.md forbid; `--help` says how to narrow it.
exec python3 -B "$(dirname "$0")/style" "$@"
