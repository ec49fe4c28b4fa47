#!/usr/bin/env bash
# Install the servers that tests start and this machine lacks: with apt-get, and so that none of them runs afterwards.
# What cannot be installed is named, and is no error: its tests are skipped then, or fail under DRAY_TEST_SERVICES=require.
set -uo pipefail

[ "${DRAY_TEST_SERVICES:-auto}" = docker ] && exit 0

packages=()
need() {
    local package="$1" path
    shift
    for path in "$@"; do
        # Unquoted: it may be a pattern.
        for path in $path; do
            [ -x "$path" ] && return
        done
    done
    packages+=("$package")
}
need redis-server "$(command -v redis-server)"
need rabbitmq-server "/usr/lib/rabbitmq/bin/rabbitmq-server" "$(command -v rabbitmq-server)"
need postgresql "/usr/lib/postgresql/*/bin/postgres" "$(command -v postgres)"
need pgbouncer "$(command -v pgbouncer)" /usr/sbin/pgbouncer
need memcached "$(command -v memcached)"
need mariadb-server /usr/sbin/mariadbd "$(command -v mariadbd)"
[ ${#packages[@]} -eq 0 ] && exit 0

give_up() {
    echo "tests/servers/install.sh: $1." >&2
    echo "Missing for tests: ${packages[*]}. Install them yourself, or see \"Real servers\" in CONTRIBUTING.md." >&2
    exit 0
}

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || give_up "installing needs root, and there is no sudo"
    as_root=(sudo)
    # Without a terminal, a question for the password would wait for ever.
    [ -t 0 ] || as_root+=(-n)
fi
command -v apt-get >/dev/null || give_up "there is no apt-get on this system"

echo "Installing for tests, not starting: ${packages[*]}"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    # Debian starts a service as soon as it is installed, unless this file says no.
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null && "${as_root[@]}" chmod 755 "$policy" ||
        give_up "cannot write $policy"
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120)
"${apt[@]}" update || echo "apt-get update failed; trying with the lists that are there" >&2
"${apt[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null || give_up "apt-get install failed"
