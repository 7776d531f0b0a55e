# Process 1 in the new root. Runs the job, with output and result going to the
# host over two serial lines, and ends the guest.
umount -l /run/outside 2>/dev/null
. /run/lab/lines
export PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
hostname lab
ip link set lo up
# A line that is closed in between would lose what is under way.
exec 5<>"$output" 6<>"$result"
stty -F "$result" raw -echo
echo begin >&6
if [ -e /run/lab/interactive ]; then
	(exec setsid -c -w /bin/sh /run/lab/job <&5 >&5 2>&5)
else
	stty -F "$output" raw -echo
	(exec /bin/sh /run/lab/job </dev/null >&5 2>&5)
fi
code=$?
stty -F "$output" drain
echo "exit $code" >&6
stty -F "$result" drain
echo o >/proc/sysrq-trigger
# The power goes off behind our back.
sleep 60
