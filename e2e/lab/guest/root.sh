# Sourced by process 1 of a guest, with
#   host     where the root of the host is; empty if that is the root itself
#   lab      the folder of the job on the host
#   modules  the folder on the host that becomes /lib/modules
# It builds the root that the job sees, in $new, and leaves entering it to the
# caller. Lower is the host, upper is memory.
die() {
	echo "lab: $*"
	echo o >/proc/sysrq-trigger
	sleep 5
	exit 1
}

memory=$host$lab/memory
mount -t tmpfs -o size=90%,mode=755 lab "$memory" || die "no memory to write to"
mkdir "$memory/upper" "$memory/work" "$memory/root"
new=$memory/root
mount -t overlay -o "lowerdir=${host:-/},upperdir=$memory/upper,workdir=$memory/work" lab "$new" || die "no overlay"

mkdir -p "$new/proc" "$new/sys" "$new/dev" "$new/run" "$new/tmp" "$new/var/tmp" "$new/lib/modules"
mount -t proc proc "$new/proc" || die "no proc"
mount -t sysfs sys "$new/sys" || die "no sys"
mount -t devtmpfs dev "$new/dev" || die "no dev"
mkdir -p "$new/dev/pts" "$new/dev/shm"
mount -t devpts -o mode=620,ptmxmode=666 devpts "$new/dev/pts"
mount -t tmpfs -o mode=1777 shm "$new/dev/shm"
mount -t tmpfs -o mode=755 run "$new/run"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"
mount -t tmpfs -o mode=1777 tmp "$new/var/tmp"
ln -sfn /proc/self/fd "$new/dev/fd"
mkdir -p "$new/run/netns" "$new/run/lab" "$new/run/outside"

mount -o bind "$host$modules" "$new/lib/modules" || die "no modules"
mount -o bind "$host$lab" "$new/run/lab" || die "no job"
shares=0
while read -r share; do
	shares=$((shares + 1))
	case $share in
	*[,:\\]*) overlay=no ;; # these mean something in the options of an overlay
	*) overlay=yes ;;
	esac
	if [ -d "$host$share" ]; then
		mkdir -p "$new$share"
	else
		overlay=no
		mkdir -p "$new${share%/*}"
		[ -e "$new$share" ] || : >"$new$share"
	fi
	if [ $overlay = yes ]; then
		above=$memory/share$shares
		mkdir -p "$above/upper" "$above/work"
		mount -t overlay -o "lowerdir=$host$share,upperdir=$above/upper,workdir=$above/work" lab "$new$share"
	else
		mount -o bind "$host$share" "$new$share"
	fi || die "no $share"
done <"$host$lab/shares"
