# What a user does with the package, on a minimal Debian in whose /root it lies: install, use, upgrade, purge. The argument
# is the commit that it was built from.
set -eu
commit=$1
export DEBIAN_FRONTEND=noninteractive

say() { echo "-- $*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }

# Every file but those in which apt, dpkg, the C library and `umount` keep notes, and apt's downloads.
files() {
    find / /run /tmp -xdev \( \
        -path /proc -o -path /sys -o -path /dev -o -path /var/cache/apt -o -path /var/cache/debconf \
        -o -path /var/cache/ldconfig -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/log -o -path /run/mount \
        -o -path '/root/*' -o -path '/tmp/before' -o -path '/tmp/after' \) -prune -o -print | sort
}

[ -z "$(command -v cc gcc clang cargo)" ] || fail "there is a compiler here"
apt-get --quiet --quiet update
files >/tmp/before
cp /etc/passwd /etc/group /root

say "apt install ./iou-fast_*.deb"
apt-get --quiet --yes install ./iou-fast_*.deb
say "iou-fast --version"
iou-fast --version
iou-fast --version | grep -q "($(echo "$commit" | cut -c 1-7))" || fail "it does not name the commit $commit"
say "iou-fast lab"
iou-fast lab

# The same files under a newer version.
dpkg-deb --raw-extract iou-fast_*.deb newer
sed -i 's/^Version: .*/&+newer/' newer/DEBIAN/control
dpkg-deb --build newer ./newer.deb >/dev/null
say "an upgrade while a lab runs"
iou-fast lab --keep
apt-get --quiet --yes install ./newer.deb >upgrade
cat upgrade
for pid in $(cat /run/iou-lab/iou-lab/pids); do
    [ -d "/proc/$pid" ] || fail "the lab's process $pid did not survive the upgrade"
    grep -q "pid $pid: " upgrade || fail "the upgrade does not name process $pid, which runs the program from before"
done
[ "$(dpkg-query -W -f '${Version}' iou-fast)" = "$(dpkg-deb -f newer.deb Version)" ] || fail "it is not upgraded"
say "the lab goes down"
iou-fast lab --down

say "apt purge iou-fast"
apt-get --quiet --yes purge iou-fast
apt-get --quiet --quiet --yes autoremove --purge
! dpkg-query -W -f '${Status}\n' iou-fast 2>/dev/null || fail "dpkg still knows it"
# Made by `ip netns`, whose mount point it is.
umount /run/netns 2>/dev/null && rmdir /run/netns || true
files >/tmp/after
diff /tmp/before /tmp/after || fail "the purge left, or took, what is above"
for list in passwd group; do
    diff "/root/$list" "/etc/$list" || fail "the purge left, or took, what is above of /etc/$list"
done
say "nothing is left"
