# How user-mode Linux begins: its root is the host's, read only.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
grep -q overlay /proc/filesystems || modprobe -d "$lab" overlay
. "$lab/root.sh"
# This kernel has no nftables, so the iptables to use is the other one.
for tool in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
	legacy=/usr/sbin/$(echo "$tool" | sed 's/tables/tables-legacy/')
	[ -e "$legacy" ] && ln -sfn "$legacy" "$new/etc/alternatives/$tool"
done
cd "$new" && pivot_root . run/outside || die "cannot enter the new root"
exec chroot . /bin/sh /run/lab/main.sh </dev/console >/dev/console 2>&1
