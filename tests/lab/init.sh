#!/bin/bash
# The first process of a lab host, already in namespaces of its own: lays out the host's disk, network and names, then
# reaps orphans until it is killed, which is the host's power switch. host.py starts it and says in variables what to
# make: NAME, DISK, INTERFACES ("eth0=10.77.0.11/24 ..."), GATEWAY, BOOT_ID, HOSTS, PYTHONS, HIDDEN, SHARED_HOME, CGROUP,
# CONTROLLERS ("memory pids ...", of cgroup v1), DELEGATED (the uid that is given the cgroups).
set -euo pipefail
root=$DISK/root
mount --make-rprivate /

# This machine's own file system below, the host's changes above it: those outlive a reboot.
mkdir -p "$DISK"/{upper,work,root,var-home,var-root}
mount -t overlay overlay -o "lowerdir=/,upperdir=$DISK/upper,workdir=$DISK/work" "$root"
chmod 700 "$DISK/var-root"
mount --bind "$DISK/var-root" "$root/root"
mount --bind "${SHARED_HOME:-$DISK/var-home}" "$root/home"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -m 1777 "$root/run/lock"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
for path in $HIDDEN; do [ ! -d "$root$path" ] || mount -t tmpfs tmpfs "$root$path"; done
if [ -n "$PYTHONS" ]; then # where they are on this machine, which is written into them; for all to pass through
  chmod 711 "$DISK/var-root"
  mkdir -p "$root$PYTHONS"
  mount --bind "$PYTHONS" "$root$PYTHONS"
  mount -o remount,bind,ro "$root$PYTHONS"
fi

mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
# Without cgroups, or with those of the group it was started in, given to an account as systemd does for a session.
groups=$root/sys/fs/cgroup
case $CGROUP in
v1)
  mount -t tmpfs -o mode=755 tmpfs "$groups"
  for each in $CONTROLLERS; do
    mkdir "$groups/$each"
    mount -t cgroup -o "$each" none "$groups/$each"
    chown "$DELEGATED" "$groups/$each" "$groups/$each/cgroup.procs" "$groups/$each/tasks"
  done
  ;;
v2)
  mount -t cgroup2 none "$groups"
  chown "$DELEGATED" "$groups" "$groups"/cgroup.{procs,subtree_control,threads}
  ;;
esac
echo "$BOOT_ID" > "$DISK/boot_id"
mount --bind "$DISK/boot_id" "$root/proc/sys/kernel/random/boot_id"

hostname "$NAME"
echo "$NAME" > "$root/etc/hostname"
printf '%s\n' "127.0.0.1 localhost" "$HOSTS" > "$root/etc/hosts"
[ -s "$DISK/machine-id" ] || tr -d - < /proc/sys/kernel/random/uuid > "$DISK/machine-id"
cp "$DISK/machine-id" "$root/etc/machine-id"

# Its process id as the lab sees it (/proc is still the lab's); then wait for the cables to be plugged in.
read -r pid _ < /proc/self/stat
echo "$pid"
read -r _
ip link set lo up
for interface in $INTERFACES; do
  ip addr add "${interface#*=}" dev "${interface%%=*}"
  ip link set "${interface%%=*}" up
done
[ -z "$GATEWAY" ] || ip route add default via "$GATEWAY"

cd "$root"
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
echo up
exec > /dev/null 2>&1 < /dev/null
while :; do
  sleep infinity &
  wait $! || :
done
