#!/bin/busybox sh
# How a kernel under QEMU begins: in an initramfs that has busybox and the
# modules it takes to see the host.
/bin/busybox mkdir -p /proc /sys /dev /host /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "/modules/$module" || echo "lab: module $module failed"
done </modules/list
host=/host
. /job
mount -t virtiofs -o ro host "$host" || echo "lab: cannot see the host"
. "$host$lab/root.sh"
umount /dev
umount /proc
exec switch_root "$new" /bin/sh /run/lab/main.sh
