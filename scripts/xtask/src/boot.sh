#!/bin/bash
# Runs as root inside a Debian that systemd has booted. The package lies in /wk/in; what is printed is the log of the test.
# The last line is `boot test passed`, or names the step that failed.
# No pipefail: `grep -q` ends what writes to it early.
set -u
SLOTS='cluster gateway api worker-user@0 worker-channel@0 worker-push@0 plugin-host'
step='begin'
# An emulated processor takes its time.
slow=1
[ "$(systemd-detect-virt)" = qemu ] && slow=4

fail() {
  echo "FAILED at: $step: $*"
  systemctl --no-pager --full status 'wk*' wukongim.service 2>&1 | tail -n 120
  journalctl --no-pager -o short-monotonic -n 600 -u 'wk*' -u wukongim.service 2>&1
  tail -n 60 /var/log/wukongim/*.log 2>/dev/null
  exit 1
}
# step TEXT: what follows belongs to it.
step() { step="$*"; printf -- '--- %s (%.1f s)\n' "$*" "$(cut -d' ' -f1 /proc/uptime)"; }
# until_ok SECONDS COMMAND...: a condition with a deadline.
until_ok() {
  local end=$((SECONDS + $1 * slow)); shift
  until "$@"; do [ $SECONDS -lt $end ] || fail "not in time: $*"; sleep 0.1; done
}
# http PORT METHOD PATH [BODY]: prints the answer.
http() {
  local body=${4:-}
  exec 9<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' "$2" "$3" "${#body}" "$body" >&9
  timeout 20 cat <&9
  exec 9>&-
}
answers_200() { http "$@" 2>/dev/null | head -n 1 | grep -q ' 200 '; }
main_pid() { systemctl show -P MainPID "$1"; }
new_main_pid() { local now; now=$(main_pid "$1"); [ "$now" != 0 ] && [ "$now" != "$2" ] && systemctl -q is-active "$1"; }
of_ours() { pgrep -u wukongim "$@"; }
nobody() { ! of_ours >/dev/null; }
pids() { of_ours -a | grep -v wksupervisor | sort -n | awk '{print $1}' | tr '\n' ' '; }
# send N: a message through the api into the log, and back out of it.
send() {
  local text; text=$(printf 'message %s' "$1" | base64)
  until_ok 20 answers_200 5001 POST /message/send "{\"from_uid\":\"ann\",\"channel_id\":\"ben\",\"channel_type\":1,\"payload\":\"$text\"}"
  in_history "$text" && return
  # Acknowledged and not there. Late or lost is what one needs to know then.
  local missed; missed=$(cat /tmp/history)
  for _ in $(seq 50); do in_history "$text" && break; sleep 0.2; done
  fail "message $1 is not in the history but $(grep -q "$text" /tmp/history && echo later || echo never): $missed"
}
in_history() { until_ok 20 history; grep -q "$1" /tmp/history; }
history() {
  http 5001 POST /channel/messagesync '{"login_uid":"ben","channel_id":"ann","channel_type":1,"limit":100}' >/tmp/history 2>&1
  head -n 1 /tmp/history | grep -q ' 200 '
}
# A client of ours stays connected over all of this: what it hears is in /tmp/client.
pings=100
client_begin() {
  exec 7<>/dev/tcp/127.0.0.1/5100 || fail "no connection"
  cat <&7 >/tmp/client & client=$!
  printf '{"jsonrpc":"2.0","method":"connect","id":1,"params":{"uid":"stayer","deviceId":"d1","deviceFlag":1}}' >&7
  until_ok 20 grep -q '"id":1,"result"' /tmp/client
}
client_alive() {
  pings=$((pings + 1)); printf '{"jsonrpc":"2.0","method":"ping","id":%d}' "$pings" >&7
  until_ok 20 grep -q "\"id\":$pings,\"result\"" /tmp/client
  kill -0 "$client" 2>/dev/null || fail "the client was disconnected"
}
client_end() { exec 7>&-; kill "$client" 2>/dev/null; wait "$client" 2>/dev/null; }
# logs_in UID: a new connection and its answer.
logs_in() {
  exec 8<>/dev/tcp/127.0.0.1/5100 || return 1
  printf '{"jsonrpc":"2.0","method":"connect","id":1,"params":{"uid":"%s","deviceId":"d1","deviceFlag":1}}' "$1" >&8
  [ "$(timeout 20 head -c 32 <&8)" = '{"jsonrpc":"2.0","id":1,"result"' ]; local ok=$?
  exec 8>&-
  return $ok
}
# Newcomers to both ports one after the other, until arrivals_end: nobody may be refused or closed without an answer.
arrivals() {
  rm -f /tmp/arrivals.stop /tmp/arrivals.bad; echo 0 >/tmp/arrivals.good
  (
    exec 7>&-
    good=0
    while [ ! -e /tmp/arrivals.stop ]; do
      logs_in "comer$good" || echo "login $good" >>/tmp/arrivals.bad
      answers_200 5001 GET /health || echo "request $good" >>/tmp/arrivals.bad
      good=$((good + 1)); echo $good >/tmp/arrivals.new; mv /tmp/arrivals.new /tmp/arrivals.good
    done
  ) 2>>/tmp/arrivals.bad &
  arrivals=$!
}
arrivals_go_on() { local seen; seen=$(cat /tmp/arrivals.good); until_ok 30 eval "[ \$(cat /tmp/arrivals.good) -gt $((seen + 3)) ]"; }
arrivals_end() {
  touch /tmp/arrivals.stop; wait "$arrivals"
  [ ! -s /tmp/arrivals.bad ] || fail "of $(cat /tmp/arrivals.good) newcomers: $(cat /tmp/arrivals.bad)"
  echo "$(cat /tmp/arrivals.good) newcomers to each port, none refused"
}
# holds PID PORT: the process has the listener of that port.
holds() {
  local inode; inode=$(awk -v port="$(printf ':%04X$' "$2")" '$2 ~ port && $4 == "0A" { print $10 }' /proc/net/tcp)
  [ -n "$inode" ] && ls -l "/proc/$1/fd" | grep -qF "socket:[$inode]"
}
# exits CODE TEXT COMMAND...: it ends with that code and says that.
exits() {
  local code=$1 text=$2; shift 2
  "$@" >/tmp/said 2>&1; local got=$?
  [ $got = "$code" ] || fail "$* ended with $got, not $code: $(cat /tmp/said)"
  grep -qF -- "$text" /tmp/said || fail "$* does not say '$text': $(cat /tmp/said)"
}
# configure LINES: they take the place of what configure added before.
configure() {
  sed -i '/^# added/,$d' /etc/wukongim/wukongim.yaml
  [ -z "$1" ] || printf '# added\n%s\n' "$1" >>/etc/wukongim/wukongim.yaml
}
# Every daemon of the supervisor, by what its command line says.
KINDS='wk-cluster wk-gateway wk-api pool.user pool.channel pool.push wk-plugin-host'
nothing_left() {
  until_ok 10 nobody
  local left; left=$(find /run/wukongim -type s 2>/dev/null)
  [ -z "$left" ] || fail "sockets are left: $left"
  ! grep -qE ' (0100007F|00000000):(13EC|1450|1389|14B4) [^ ]+ 0A ' /proc/net/tcp || fail "a port is still open: $(cat /proc/net/tcp)"
  left=$(find /sys/fs/cgroup -type d \( -path '*wukongim*' -o -path '*wk-*' \) ! -path '*wk-boot*' 2>/dev/null)
  [ -z "$left" ] || fail "control groups are left: $left"
}

. /wk/in/limits.sh

step "install"
[ "$(cat /proc/1/comm)" = systemd ] || fail "PID 1 is not systemd"
systemctl --version | head -n 1
dpkg -i /wk/in/wukongim.deb || fail "dpkg -i"
for page in wkctl wksupervisor; do [ -s /usr/share/man/man1/$page.1 ] || [ -s /usr/share/man/man1/$page.1.gz ] || fail "no page $page"; done
for program in wkctl wksupervisor; do [ -s /usr/share/bash-completion/completions/$program ] || fail "no completion of $program"; done
systemd-analyze verify --man=no /usr/lib/systemd/system/wukongim.{service,target} /usr/lib/systemd/system/wk-*.socket 2>&1 | grep -E 'wukongim|wk-' && fail "verify"
! systemctl -q is-active wukongim.service || fail "runs before it was started"
limits_configure
[ -e /run/systemd/generator/wukongim.target.d/50-configuration.conf ] || fail "the generator made nothing: $(ls -R /run/systemd/generator)"
# Keys of 254 are where they are known, and nowhere else.
[ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -ge 254 ] && new=supervisor || new=
[ "$(systemctl show -P DelegateSubgroup wukongim)" = "$new" ] || fail "the supervisor's group is '$(systemctl show -P DelegateSubgroup wukongim)', not '$new'"
[ -n "$new" ] || [ ! -e /run/systemd/generator/wukongim.service.d ] || fail "keys that this systemd does not know"
! journalctl --no-pager -b _PID=1 | grep -E '(wukongim|wk-).*(Unknown|ignoring|Failed to parse)' || fail "systemd does not like the units"
exits 69 'systemctl start wukongim' wkctl status

step "check: judged as the unit runs it, by root, before anything runs"
find / -xdev ! -path '/proc/*' ! -path '/tmp/*' 2>/dev/null | sort >/tmp/before
exits 0 'wukongim, by /usr/lib/systemd/system/wukongim.service' wksupervisor check --config /etc/wukongim/wukongim.yaml
cat /tmp/said
for text in 'delegated by the unit' '1048576 open files' '0 errors' 'worker.channel'; do grep -q "$text" /tmp/said || fail "check does not say '$text'"; done
find / -xdev ! -path '/proc/*' ! -path '/tmp/*' 2>/dev/null | sort | diff /tmp/before - || fail "check made something"
chmod 0600 /etc/wukongim/wukongim.yaml
exits 78 'cannot be read by wukongim' wksupervisor check --config /etc/wukongim/wukongim.yaml
chmod 0640 /etc/wukongim/wukongim.yaml
configure 'dataDir: /srv/im'
exits 78 'ReadWritePaths=/srv/im' wksupervisor check --config /etc/wukongim/wukongim.yaml
configure 'addr: tcp://0.0.0.0:80'
exits 78 'above 1023' wksupervisor check --config /etc/wukongim/wukongim.yaml
configure ''

step "supervisor: start"
systemctl start wukongim || fail "start"
systemctl show -P StatusText wukongim
# The unit is up when what is required is ready, the rest follows.
until_ok 20 eval 'wkctl status >/dev/null'
wkctl status
until_ok 20 answers_200 5300 GET /readyz
send 1
client_begin

exits 0 'a supervisor runs this node' wksupervisor check --config /etc/wukongim/wukongim.yaml

step "supervisor: a leaf for each daemon in the delegated part of the tree"
group=/sys/fs/cgroup$(systemctl show -P ControlGroup wukongim)
echo "controllers of the unit: '$(cat "$group/cgroup.controllers")', of its leaves: '$(cat "$group/cgroup.subtree_control")'"
echo "the supervisor is in $(sed -n 's/^0:://p' "/proc/$(main_pid wukongim)/cgroup")"
[ -z "$(cat "$group/cgroup.procs")" ] || fail "processes in the delegated group itself"
limits_stand
for name in cluster@0 gateway@0 api@0 worker.user@0 worker.channel@0 worker.push@0 plugin-host@0; do
  grep -q . "$group/$name/cgroup.procs" || fail "$name has no leaf: $(find "$group" -type d)"
done
wkctl status --wide | grep -i cgroup && wkctl status -o json | grep -q '"containment": "cgroup ' || fail "status does not name the way processes are held together"
runuser -u wukongim -- wksupervisor check --config /etc/wukongim/wukongim.yaml | tee /tmp/check | grep -i cgroup
[ -s /tmp/check ] || fail "check says nothing"

step "supervisor: members of the group use wkctl, others hear how to become one"
useradd -m -G wukongim-adm alice && useradd -m bob || fail "useradd"
runuser -u alice -- wkctl status >/dev/null || fail "a member may not look"
before=$(of_ours -o -f wk-plugin-host)
runuser -u alice -- wkctl restart plugin-host || fail "a member may not restart"
! kill -0 "$before" 2>/dev/null || fail "nothing was restarted"
for path in /run/wukongim/1001/h /run/wukongim/1001/state /run/wukongim/1001/node.sock /var/lib/wukongim /var/log/wukongim /etc/wukongim; do
  ! runuser -u alice -- test -r $path || fail "a member may read $path"
done
exits 77 'usermod -aG wukongim-adm' runuser -u bob -- wkctl status
exits 77 'needs the role' runuser -u bob -- wkctl restart plugin-host
usermod -aG wukongim-adm bob && runuser -u bob -- wkctl status >/dev/null || fail "what it says does not help"
gpasswd -d bob wukongim-adm >/dev/null

step "supervisor: wkctl scale, roll, stop and start"
wkctl scale worker.channel=2 || fail "scale"
wkctl roll worker.channel || fail "roll"
wkctl scale worker.channel=1 || fail "scale back"
supervisor=$(main_pid wukongim)
wkctl stop || fail "stop"
exits 3 'down' wkctl status
wkctl start || fail "start"
[ "$(main_pid wukongim)" = "$supervisor" ] || fail "the supervisor is another one"
client_end; client_begin
send 1b

step "supervisor: kill -9 of every daemon"
for name in $KINDS; do
  before=$(of_ours -o -f "$name"); kill -9 "$before"
  until_ok 20 eval "wkctl status >/dev/null && ! kill -0 $before 2>/dev/null"
  [ $name = wk-gateway ] && { client_end; client_begin; }
done
client_alive
send 2

step "supervisor: kill -9 of the supervisor, the daemons stay, the listeners are its successor's"
before=$(pids); supervisor=$(main_pid wukongim)
arrivals
kill -9 "$supervisor"
until_ok 20 new_main_pid wukongim "$supervisor"
until_ok 20 eval 'wkctl status >/dev/null'
[ "$(pids)" = "$before" ] || fail "daemons were $before, are $(pids)"
for port in 5100 5200 5001 5300; do holds "$(main_pid wukongim)" $port || fail "the new supervisor does not have the listener of $port"; done
client_alive
for name in api gateway; do
  arrivals_go_on
  [ $name = gateway ] && { client_alive; client_end; }
  wkctl restart $name || fail "restart of $name"
done
arrivals_go_on
arrivals_end
client_begin
send 3
limits_stand

step "supervisor: stands still (SIGSTOP), the watchdog ends it, the daemons stay"
before=$(pids); supervisor=$(main_pid wukongim)
kill -STOP "$supervisor"
until_ok 60 new_main_pid wukongim "$supervisor"
until_ok 20 eval 'wkctl status >/dev/null'
journalctl --no-pager -u wukongim | grep -q 'Watchdog timeout' || fail "it was not the watchdog"
[ "$(pids)" = "$before" ] || fail "daemons were $before, are $(pids)"
client_alive
limits_stand

step "supervisor: want of memory in a daemon that it has adopted, and in one of its own"
limits_kill_for_memory
limits_kill_for_memory
client_alive

step "supervisor: the package is installed again while it runs, then the supervisor replaces itself"
before=$(pids); supervisor=$(main_pid wukongim)
dpkg -i /wk/in/wukongim.deb || fail "dpkg -i"
[ "$(main_pid wukongim)" = "$supervisor" ] && [ "$(pids)" = "$before" ] || fail "an upgrade touched the processes"
client_alive
wkctl reexec || fail "reexec"
until_ok 20 eval 'wkctl status >/dev/null'
[ "$(main_pid wukongim)" = "$supervisor" ] && [ "$(pids)" = "$before" ] || fail "reexec changed the processes"
client_alive
limits_stand
send 3b
client_end

step "supervisor: stop"
systemctl stop wukongim || fail "stop"
[ "$(systemctl show -P Result wukongim)" = success ] || fail "result $(systemctl show -P Result wukongim)"
nothing_left

step "units: start"
systemctl start wukongim.target || fail "start"
for name in $SLOTS; do systemctl -q is-active "wk-$name" || fail "wk-$name is not active"; done
until_ok 20 answers_200 5300 GET /readyz
send 4
client_begin

exits 78 'wk-gateway.service of the native set' wksupervisor check --config /etc/wukongim/wukongim.yaml
grep -q 'systemctl stop wukongim.target' /tmp/said || fail "check has no next step: $(cat /tmp/said)"

step "units: kill -9 of every daemon"
for name in worker-user@0 worker-channel@0 worker-push@0 plugin-host api cluster; do
  before=$(main_pid "wk-$name"); kill -9 "$before"
  until_ok 30 new_main_pid "wk-$name" "$before"
done
for pool in user channel push; do
  journalctl --no-pager -u wk-worker-$pool@0 | grep -q 'last_end=Killed' || fail "the next life of worker $pool was not told that the last one was killed"
done
client_alive
client_end
before=$(main_pid wk-gateway); kill -9 "$before"
until_ok 30 new_main_pid wk-gateway "$before"
until_ok 20 answers_200 5300 GET /readyz
send 5

step "units: want of memory"
limits_kill_unit
send 5b

step "units: restart of gateway and api refuses nobody"
arrivals
for name in wk-api wk-gateway wk-api wk-gateway; do
  arrivals_go_on
  systemctl restart $name || fail "restart of $name"
done
arrivals_go_on
arrivals_end

step "units: wkctl"
client_begin
until_ok 20 eval 'wkctl status >/dev/null'
wkctl status
for pool in user channel push; do
  wkctl scale worker.$pool=2 || fail "wkctl scale"
  systemctl -q is-active wk-worker-$pool@1 || fail "the second $pool worker does not run"
  send "6-$pool"
  began=$SECONDS
  wkctl scale worker.$pool=1 || fail "wkctl scale back"
  took=$((SECONDS - began))
  ! systemctl -q is-active wk-worker-$pool@1 || fail "the second $pool worker still runs"
  journalctl --no-pager -u wk-worker-$pool@1 | grep -q ' leaving' || fail "it did not hand its share over"
  ! journalctl --no-pager -u wk-worker-$pool@1 | grep 'nobody has taken the share over' || fail "nobody took the share of $pool over"
  [ $took -lt $((8 * slow)) ] || fail "it took $took s"
done
for verb in 'roll worker' 'why api' 'events' 'reload' 'reexec' 'analyze'; do
  wkctl $verb >/tmp/said 2>&1 && fail "wkctl $verb is the supervisor's"
  grep -q 'works only with the supervisor' /tmp/said || fail "wkctl $verb says: $(cat /tmp/said)"
done
wkctl status -o json | grep -q '"overall": "ready"' || fail "wkctl status -o json"
wkctl logs -n 3 cluster | grep -q . || fail "wkctl logs"
before=$(main_pid wk-api)
wkctl restart api || fail "wkctl restart"
[ "$(main_pid wk-api)" != "$before" ] || fail "the api is the same"
send 6
client_alive

step "units: the package is installed again while they run"
before=$(pids)
dpkg -i /wk/in/wukongim.deb || fail "dpkg -i"
[ "$(pids)" = "$before" ] || fail "an upgrade touched the processes"
client_alive
client_end

step "units: stop"
systemctl stop wukongim.target || fail "stop"
# The stop of a target does not wait for what stops with it.
for name in quiesce $SLOTS; do until_ok 30 eval "! systemctl -q is-active 'wk-$name'"; done
journalctl --no-pager -u wk-quiesce | grep -q 'quiesced: lost 0 ' || fail "the node was not quiesced"
failed=$(systemctl list-units --failed --no-legend --plain 'wk*')
[ -z "$failed" ] || fail "failed units: $failed"
nothing_left

step "units: wkctl stop, status, start, on a set that is not enabled"
systemctl start wukongim.target || fail "start"
wkctl stop || fail "wkctl stop"
nothing_left
exits 3 'systemd units' wkctl status
exits 77 'as root' runuser -u alice -- wkctl start
wkctl start || fail "wkctl start"
until_ok 20 eval 'wkctl status >/dev/null'
exits 64 '--deep works only with the supervisor' wkctl status --deep
exits 4 'did you mean worker.user@0?' wkctl restart worker.user@5
exits 4 'did you mean gateway?' wkctl logs gatewy
send 6b

step "units: two channel workers by the configuration"
configure 'workers: {channel: 2}'
wkctl restart || fail "wkctl restart"
until_ok 20 eval 'wkctl status >/dev/null'
systemctl -q is-active wk-worker-channel@1 || fail "the second channel worker does not run"
client_begin
send 6c
client_end
exits 64 'workers.channel is 2' wkctl scale worker.channel=1

step "units: a third one that systemd was not told of is named, with the command"
configure 'workers: {channel: 3}'
wkctl stop || fail "wkctl stop"
exits 0 'systemctl daemon-reload' wksupervisor check --config /etc/wukongim/wukongim.yaml
systemctl --no-block start wukongim.target || fail "start"
until_ok 20 eval 'systemctl show -P StatusText wk-cluster | grep -q "clients wait for wk-worker-channel@2: systemctl start wk-worker-channel@2"'
exits 1 'clients wait for wk-worker-channel@2' wkctl status
wkctl start || fail "wkctl start"
until_ok 20 eval 'wkctl status >/dev/null'
send 6d

step "units: other addresses by the configuration, and back"
configure 'addr: tcp://0.0.0.0:5110'
systemctl daemon-reload && systemctl restart wukongim.target || fail "restart"
until_ok 20 eval 'echo | timeout 1 cat >/dev/tcp/127.0.0.1/5110'
[ "$(systemctl show -P Listen wk-gateway.socket | grep -o '[0-9]* (Stream)' | tr '\n' ' ')" = '5110 (Stream) 5200 (Stream) ' ] || fail "$(systemctl show -P Listen wk-gateway.socket)"
configure ''
systemctl daemon-reload && systemctl stop wukongim.target || fail "stop"
for name in quiesce $SLOTS worker-channel@1 worker-channel@2; do until_ok 30 eval "! systemctl -q is-active 'wk-$name'"; done
nothing_left

step "the other way keeps the data, and one excludes the other"
systemctl start wukongim.target && systemctl start wukongim || fail "start"
! systemctl -q is-active wukongim.target || fail "both run"
until_ok 20 answers_200 5300 GET /readyz
send 7
in_history "$(printf 'message 1' | base64)" || fail "the first message is lost: $(cat /tmp/history)"

step "remove while it runs, then purge"
dpkg -r wukongim || fail "dpkg -r"
nothing_left
[ -d /var/lib/wukongim ] || fail "removing took the data"
! ls /usr/lib/systemd/system/wk-* /usr/bin/wk* 2>/dev/null || fail "files are left"
dpkg -P wukongim || fail "dpkg -P"
[ ! -e /var/lib/wukongim ] && [ ! -e /var/log/wukongim ] && [ ! -e /etc/wukongim ] || fail "the purge left data"
# Policy: the account stays, files elsewhere may belong to it.
left=$(find / -xdev \( -name '*wukongim*' -o -name 'wk-*' -o -name 'wksupervisor*' -o -name 'wkctl*' \) ! -path '/proc/*' ! -path '/sys/*' ! -path '*/wk-boot*' \
  ! -path '/tmp/*' ! -path '/var/log/journal/*' ! -path '/run/log/*' ! -path '/usr/share/doc/*' ! -path '/wk/*' 2>/dev/null)
[ -z "$left" ] || fail "the purge left $left"
getent passwd wukongim >/dev/null || fail "the account is gone"
echo "boot test passed"
