#!/bin/sh
# Become the first process of a place beside a host (see aside.py): sh aside.sh TREE. It ends with its input.
set -e
tree=$1
mount() { command mount -n "$@"; } # it remembers nothing in /run/mount, which may not be there
mount --make-rprivate /
etc=/etc
[ ! -d /run/lab/etc ] || etc=/run/lab/etc # in a lab /etc is links to what is there, and they would be followed
mount -t tmpfs -o mode=755,size=256m aside /mnt
mkdir -p /mnt/usr /mnt/usr.work /mnt/etc /mnt/etc.work /mnt/lock /mnt/netns
mount -t overlay -o "lowerdir=$tree/usr:/usr,upperdir=/mnt/usr,workdir=/mnt/usr.work" aside /usr
mount -t overlay -o "lowerdir=$etc,upperdir=/mnt/etc,workdir=/mnt/etc.work" aside /etc
mount --move /mnt /run
for name in $(ls "$tree/etc"); do
    case $name in
        firewalld | ufw | docker | containerd) rm -rf "/etc/$name"; cp -a "$tree/etc/$name" /etc/ ;;
        default) rm -f /etc/default/ufw; cp -a "$tree/etc/default/." /etc/default/ ;;
        nftables.conf) rm -f /etc/nftables.conf; cp -a "$tree/etc/nftables.conf" /etc/ ;;
    esac
done
for family in iptables ip6tables; do
    for name in $family $family-save $family-restore; do
        ln -sf "$(echo "$name" | sed 's/tables/tables-nft/')" "/usr/sbin/$name"
    done
done
rm -f /usr/sbin/modprobe
printf '#!/bin/sh\nexit 0\n' >/usr/sbin/modprobe
chmod 755 /usr/sbin/modprobe
for name in /tmp /root /var; do mount -t tmpfs -o mode=755,size=64m aside "$name"; done
chmod 1777 /tmp
mkdir -p /var/lib /var/log /var/cache /var/tmp
ln -s /run /var/run
ln -s /run/lock /var/lock
# Docker wants to see cgroups. It makes none without a container, and could not.
mkdir /run/cgroup
mount --rbind /sys/fs/cgroup /run/cgroup
while read -r _ place _; do
    case $place in /run/cgroup | /run/cgroup/*) mount -o remount,bind,ro "$place" ;; esac
done </proc/mounts
umount -l /sys
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
exec 3<&0
cat <&3 >/dev/null 3<&- &
exec 3<&-
echo ready
wait $! # and reap whatever loses its parent: dockerd takes a zombie for a containerd that runs
