#!/bin/sh
# Runs a Docker Engine that no other part of the machine sees, with its own defaults: bridge, iptables rules, BuildKit.
# Called in the network namespace of a lab's host, and in a control group that it has for itself.
#
#   engine.sh GROUP TOOLS DATA [OPTION...]    TOOLS: the programs, unpacked; DATA: where images and volumes are kept
#
# Mounts, processes, /run and /etc are the engine's own, for its sockets and for what commands write there. It sees
# control groups from GROUP down, in version 2, whatever the machine has in /sys/fs/cgroup.
set -eu
if [ "$1" != inside ]; then
    mkdir "$1/engine" # processes may only be in leaves of the tree where containers are to have controllers
    echo $$ >"$1/engine/cgroup.procs"
    shift
    exec unshare --mount --pid --fork --kill-child --mount-proc sh "$0" inside "$@"
fi
tools=$2 data=$3
shift 3
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc
mount --bind /run/etc /etc
mkdir -p /etc/asynclb /run/docker-cli
rm -f /etc/resolv.conf
echo "nameserver 10.0.2.3" >/etc/resolv.conf # slirp4netns, while images are built
ln -s "$tools/usr/libexec/docker/cli-plugins" /run/docker-cli/cli-plugins
echo '{}' >/run/daemon.json
dockerd --config-file /run/daemon.json --data-root "$data" --exec-root /run/docker "$@" &
trap 'kill $!' TERM
wait $! || wait $! # a shell as process 1: orphans of the engine are its children, and leave no zombies
