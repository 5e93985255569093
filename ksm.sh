#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The suite as a kselftest; arguments are pytest's.
cd "$(dirname "$0")" || exit 1
if ! command -v python3 >/dev/null; then
	printf 'KTAP version 1\n1..0 # SKIP python3 is not installed\n'
	exit 4
fi
exec python3 -m reports.kselftest "$@"
