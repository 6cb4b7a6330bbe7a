#!/bin/sh
# Runs a Docker Engine that no other part of the machine sees, with its own defaults: bridge, iptables rules, BuildKit.
# Called in a network namespace of a lab, which `ip netns exec` gives a mount namespace and a /sys of its own.
#
#   engine.sh run NAME TOOLS DATA [OPTION...]    TOOLS: the programs, unpacked; DATA: where images and volumes are kept
#   engine.sh sweep                              removes the control groups of engines that have ended, however they did
#
# The containers' control groups are below asynclb-lab/NAME, in a mount of version 2 of its own: a machine may have what
# it likes in /sys/fs/cgroup. /run and /etc are the engine's own too, for sockets and for what commands write there.
set -eu
groups=/sys/fs/cgroup

cgroup2() { # what is there stays below, for nobody to find: version 2 shows the control groups from this process's own down
    mount -t cgroup2 cgroup2 "$groups"
}

case $1 in
sweep) # the kernel refuses to remove a control group in which something runs
    cgroup2
    find "$groups/asynclb-lab" -depth -type d -exec rmdir {} + 2>/dev/null || true
    ;;
run)
    cgroup2
    mkdir -p "$groups/asynclb-lab/$2"
    echo $$ >"$groups/asynclb-lab/$2/cgroup.procs"
    shift
    exec unshare --cgroup sh "$0" leaf "$@"
    ;;
leaf) # processes may only be in leaves of the tree where containers are to have controllers
    mkdir "$groups/asynclb-lab/$2/engine"
    echo $$ >"$groups/asynclb-lab/$2/engine/cgroup.procs"
    umount "$groups"
    cgroup2
    shift 2
    exec unshare --mount --pid --fork --kill-child --mount-proc sh "$0" first "$@"
    ;;
first)
    tools=$2 data=$3
    shift 3
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
    ;;
*)
    echo "engine.sh run NAME TOOLS DATA [OPTION...] | sweep" >&2
    exit 2
    ;;
esac
