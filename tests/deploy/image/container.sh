#!/bin/sh
# Runs a program of an unpacked image as a container's runtime would: the root read-only, /proc, /sys and /dev of its
# own, mounts as named; the program itself becomes who it is to be. Called as process 1 of new namespaces (mounts,
# processes), in a network namespace of a lab.
#
#   container.sh ROOT MOUNTS PROGRAM...
#
# MOUNTS is a file of lines: SOURCE TARGET OPTIONS, where the source `tmpfs` means one of those.
set -eu
root=$1 mounts=$2
shift 2
while read -r _ target _; do mkdir -p "$root$target"; done <"$mounts" # the runtime makes them, before root is read-only
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mknod -m 666 "$root/dev/null" c 1 3
mknod -m 666 "$root/dev/zero" c 1 5
mknod -m 666 "$root/dev/urandom" c 1 9
while read -r source target options; do
    if [ "$source" = tmpfs ]; then
        mount -t tmpfs -o "$options" tmpfs "$root$target"
    else
        mount --bind "$source" "$root$target"
        mount -o "remount,bind,$options" "$root$target"
    fi
done <"$mounts"
cd "$root"
exec chroot "$root" "$@"
