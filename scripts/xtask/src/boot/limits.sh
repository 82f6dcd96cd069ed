# Part of boot.sh: limits by control group. They need the controllers of version 2, which a virtual machine has and a container mostly lacks.
grep -qw memory /sys/fs/cgroup/cgroup.controllers && limits=yes || limits=no
LEAVES='cluster@0 gateway@0 api@0 worker.user@0 worker.channel@0 worker.push@0 plugin-host@0'

# Before the first start: limits for two daemons.
limits_configure() {
  [ $limits = yes ] || { echo "the memory controller of version 2 is not there: limits are not tested"; return; }
  sed -i '/^supervisor:/a\  daemons:\n    cluster: {memoryMax: 1GB, pidsMax: 200, cpuWeight: 300}\n    worker.push: {memoryMax: 64MB, pidsMax: 60, cpuWeight: 50}' \
    /etc/wukongim/wukongim.yaml
}
# is NAME FILE VALUE: a file of a leaf.
is() { [ "$(cat "$group/$1/$2")" = "$3" ] || fail "$2 of $1 is $(cat "$group/$1/$2"), not $3"; }
# Every leaf has its limits. The kernel keeps no limit of a leaf whose group does not hand the controller down.
limits_stand() {
  [ $limits = yes ] || return 0
  local name
  wkctl status --wide | grep -q 'limits by: memory, pids, cpu' || fail "status says: $(wkctl status --wide | grep -i cgroup)"
  for name in $LEAVES; do is "$name" memory.oom.group 1; done
  is cluster@0 memory.max $((1 << 30)); is cluster@0 pids.max 200; is cluster@0 cpu.weight 300
  is worker.push@0 memory.max $((64 << 20)); is worker.push@0 pids.max 60; is worker.push@0 cpu.weight 50
  is api@0 memory.max max; is api@0 pids.max max; is api@0 cpu.weight 100
  # Where systemd could not attach the supervisor it says 219/CGROUP.
  ! journalctl --no-pager -u wukongim | grep 219/CGROUP || fail "a supervisor was not attached to its group"
}
# eat DIR: more memory than the group has, taken by a process that the kernel spares as long as another one of the group is there.
eat() { (echo -900 >/proc/self/oom_score_adj; echo 0 >"$1/cgroup.procs"; head -c 300M /dev/zero | tail >/dev/null) 2>/dev/null; }
# The kernel kills a daemon for want of memory: this one is restarted, nobody else notices.
limits_kill_for_memory() {
  [ $limits = yes ] || return 0
  local victim others
  until_ok 30 eval "wkctl status | grep -q '7/7 ready'"
  victim=$(of_ours -f pool.push); others=$(pids)
  eat "$group/worker.push@0"
  until_ok 20 eval "! kill -0 $victim 2>/dev/null"
  until_ok 30 eval "wkctl why worker.push | grep -q 'last end .*killed by the kernel: out of memory'"
  until_ok 30 eval "of_ours -f pool.push >/dev/null && wkctl status | grep -q '7/7 ready'"
  wkctl events -o json | grep '"cause":"oom"' | grep '"instance":"worker.push@0"' | tail -n 1 || fail "no event"
  grep 'last_end=' /var/log/wukongim/worker.push@0.log | tail -n 1 | grep -q 'last_end=Killed' || fail "the next life was not told"
  # shellcheck disable=SC2086
  [ "$(printf '%s\n' $others | grep -vx "$victim" | tr '\n' ' ')" = "$(pids | tr ' ' '\n' | grep . | grep -vx "$(of_ours -f pool.push)" | tr '\n' ' ')" ] ||
    fail "daemons were $others, are $(pids)"
  limits_stand
}
# The same below systemd's own units.
limits_kill_unit() {
  [ $limits = yes ] || return 0
  local unit=wk-worker-push@0 victim others
  systemctl set-property --runtime $unit MemoryMax=64M || fail "set-property"
  until_ok 30 eval "wkctl status | grep -q '7/7 ready'"
  victim=$(main_pid $unit); others=$(pids | tr ' ' '\n' | grep -vx "$victim" | tr '\n' ' ')
  eat "/sys/fs/cgroup$(systemctl show -P ControlGroup $unit)"
  until_ok 30 new_main_pid $unit "$victim"
  [ "$(pids | tr ' ' '\n' | grep -vx "$(main_pid $unit)" | tr '\n' ' ')" = "$others" ] || fail "others were $others, are $(pids)"
  journalctl --no-pager -u $unit | grep -q "Failed with result 'oom-kill'" || fail "systemd did not see why"
  [ "$(cat "/sys/fs/cgroup$(systemctl show -P ControlGroup $unit)/memory.max")" = $((64 << 20)) ] || fail "the limit is gone"
}
