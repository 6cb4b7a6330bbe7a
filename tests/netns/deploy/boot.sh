#!/bin/sh
# Boots a systemd of its own on a root of its own: a tmpfs with the host's /usr, so nothing of the host is changed and
# nothing is left when it ends. Called by systemd.py inside new namespaces; $1 is the empty directory that becomes /.
#
# The package is where the unit expects it, in /opt/asynclb: home directories are hidden from the service.
set -eu
root=$1
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr etc proc sys dev run tmp var/lib var/tmp root opt/asynclb/bin opt/asynclb/lib opt/python opt/source/asynclb old
chmod 1777 tmp var/tmp
mount --rbind /usr usr
for directory in bin sbin lib lib64; do ln -s usr/$directory $directory; done
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys # read-only: systemd then leaves devices alone
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
mkdir dev/shm dev/pts
ln -s pts/ptmx dev/ptmx
: >dev/console # what systemd itself has to say

mount --bind "$PYTHON_HOME" opt/python
mount --bind "$SITE_PACKAGES" opt/asynclb/lib
mount --bind "$SOURCE" opt/source/asynclb
cat >opt/asynclb/bin/asynclb <<PROGRAM
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/source:/opt/asynclb/lib
exec /opt/python/bin/$PYTHON -m asynclb "\$@"
PROGRAM
chmod 755 opt/asynclb/bin/asynclb

echo 0123456789abcdef0123456789abcdef >etc/machine-id
printf 'root:x:0:0:root:/root:/bin/sh\n%s\n' "$USER_LINE" >etc/passwd
printf 'root:x:0:\n%s\n' "$GROUP_LINE" >etc/group
cp /etc/protocols etc/
cp -r "$ETC"/. etc/
: >etc/nsswitch.conf

pivot_root . old
umount -l old
rmdir old
exec /usr/bin/env -i container=asynclb PATH=/usr/bin:/usr/sbin SYSTEMD_UNIT_PATH=/etc/systemd/system \
    /usr/lib/systemd/systemd --system --log-target=console --log-level=notice --show-status=false
