#!/bin/sh
# Builds the image of the Dockerfile with buildah, which needs no daemon, and unpacks it. Called by check.py in
# namespaces of its own: whatever becomes of it, nothing stays mounted and nothing runs on.
#
#   build.sh CHECKOUT WORK PYTHON [BASE]    writes WORK/rootfs, the image's files, and WORK/image.json
#
# Without BASE it reads WORK/base (what base.py made), WORK/wheels and WORK/pip.conf, and asks no registry; Debian's
# packages are downloaded in any case.
set -eu
checkout=$1 work=$2 python=$3 base=${4:-}
export BUILDAH_ISOLATION=chroot TMPDIR="$work"

images() { # storage of its own, that goes with WORK; buildah takes overlay where it can, and vfs elsewhere
    command=$1
    shift
    buildah --root "$work/storage" --runroot "$work/run" "$command" "$@"
}

set -- --pull
if [ -z "$base" ]; then
    base=localhost/asynclb-base
    container=$(images from --pull-never scratch)
    root=$(images mount "$container")
    cp -a "$work/base/." "$root"
    images config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    images commit --quiet --disable-compression --rm "$container" "$base" >/dev/null
    set -- --pull-never --volume "$work/wheels:/wheels-here:ro" --volume "$work/pip.conf:/etc/pip.conf:ro"
fi
images build --format docker --layers=false --network host "$@" \
    --build-arg "PYTHON=$python" --build-arg "BASE=$base" --tag asynclb --file "$checkout/Dockerfile" "$checkout"

container=$(images from --pull-never localhost/asynclb)
cp -a "$(images mount "$container")" "$work/rootfs"
images inspect --type image localhost/asynclb >"$work/image.json"
