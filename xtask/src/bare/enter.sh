# The first process of a bare machine's namespaces (mounts, process ids). Its arguments: the machine's directory, the Rust
# toolchain or nothing, the directory to start in, a command.
set -e
root=$1 toolchain=$2 directory=$3
shift 3

# A mount point, because `ip netns exec` changes how `/` propagates.
mount --bind "$root" "$root"
cd "$root"
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run
# Not nosuid: tests give a program there capabilities.
mount -t tmpfs -o nodev,mode=1777 tmpfs tmp
if [ -n "$toolchain" ]; then
    mkdir -p opt/rust
    mount --bind "$toolchain" opt/rust
    mount -o remount,bind,ro opt/rust
fi

# The new root is mounted over the old one, which is what `.` means then.
pivot_root . .
umount --lazy .
cd "$directory"

# No exec: this shell waits for the children of processes that have ended, as a machine's first process does.
status=0
"$@" || status=$?
exit "$status"
