#!/bin/bash
# Runs as root inside a Debian 12 that systemd has booted. The package lies in /wk/in; what is printed goes to /wk/out/log.
# The last line is `boot test passed`, or names the step that failed.
# No pipefail: `grep -q` ends what writes to it early.
set -u
SLOTS='cluster gateway api worker-user@0 worker-channel@0 worker-push@0 plugin-host'
step='begin'

fail() {
  echo "FAILED at: $step: $*"
  systemctl --no-pager --full status 'wk*' wukongim.service 2>&1 | tail -n 120
  journalctl --no-pager -n 150 -u 'wk*' -u wukongim.service 2>&1 | tail -n 150
  tail -n 30 /var/log/wukongim/*.log 2>/dev/null
  exit 1
}
# step TEXT: what follows belongs to it.
step() { step="$*"; printf -- '--- %s (%.1f s)\n' "$*" "$(cut -d' ' -f1 /proc/uptime)"; }
# until_ok SECONDS COMMAND...: a condition with a deadline.
until_ok() {
  local end=$((SECONDS + $1)); shift
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
  http 5001 POST /channel/messagesync '{"login_uid":"ben","channel_id":"ann","channel_type":1,"limit":100}' | grep -q "$text" || fail "message $1 is not in the history"
}
nothing_left() {
  until_ok 10 nobody
  local left; left=$(find /run/wukongim -type s 2>/dev/null)
  [ -z "$left" ] || fail "sockets are left: $left"
  ! grep -qE ' (0100007F|00000000):(13EC|1450|1389|14B4) [^ ]+ 0A ' /proc/net/tcp || fail "a port is still open: $(cat /proc/net/tcp)"
}

step "install"
[ "$(cat /proc/1/comm)" = systemd ] || fail "PID 1 is not systemd"
systemctl --version | head -n 1
dpkg -i /wk/in/wukongim.deb || fail "dpkg -i"
for page in wkctl wksupervisor; do [ -s /usr/share/man/man1/$page.1 ] || [ -s /usr/share/man/man1/$page.1.gz ] || fail "no page $page"; done
[ -s /usr/share/bash-completion/completions/wkctl ] || fail "no completion"
systemd-analyze verify --man=no /usr/lib/systemd/system/wukongim.{service,target} /usr/lib/systemd/system/wk-*.socket 2>&1 | grep -E 'wukongim|wk-' && fail "verify"
! systemctl -q is-active wukongim.service || fail "runs before it was started"

step "supervisor: start"
systemctl start wukongim || fail "start"
systemctl show -P StatusText wukongim
wkctl status || fail "wkctl status"
until_ok 20 answers_200 5300 GET /readyz
send 1

step "supervisor: kill -9 of every daemon"
for name in wk-cluster wk-gateway wk-api wk-worker wk-plugin-host; do
  before=$(of_ours -o -x "$name"); kill -9 "$before"
  until_ok 20 eval "wkctl status >/dev/null && ! kill -0 $before 2>/dev/null"
done
send 2

step "supervisor: kill -9 of the supervisor, the daemons stay"
before=$(pids); supervisor=$(main_pid wukongim)
kill -9 "$supervisor"
until_ok 20 new_main_pid wukongim "$supervisor"
until_ok 20 eval 'wkctl status >/dev/null'
[ "$(pids)" = "$before" ] || fail "daemons were $before, are $(pids)"
send 3

step "supervisor: stop"
systemctl stop wukongim || fail "stop"
[ "$(systemctl show -P Result wukongim)" = success ] || fail "result $(systemctl show -P Result wukongim)"
nothing_left

step "units: start"
systemctl start wukongim.target || fail "start"
for name in $SLOTS; do systemctl -q is-active "wk-$name" || fail "wk-$name is not active"; done
until_ok 20 answers_200 5300 GET /readyz
send 4

step "units: kill -9 of every daemon"
for name in worker-user@0 worker-channel@0 worker-push@0 plugin-host api gateway cluster; do
  before=$(main_pid "wk-$name"); kill -9 "$before"
  until_ok 30 new_main_pid "wk-$name" "$before"
done
until_ok 20 answers_200 5300 GET /readyz
send 5

step "units: wkctl"
wkctl status || fail "wkctl status"
wkctl scale worker.push=2 || fail "wkctl scale"
systemctl -q is-active wk-worker-push@1 || fail "the second push worker does not run"
wkctl scale worker.push=1 || fail "wkctl scale back"
! systemctl -q is-active wk-worker-push@1 || fail "the second push worker still runs"
wkctl roll worker && fail "roll is the supervisor's"
wkctl status -o json | grep -q '"overall": "ready"' || fail "wkctl status -o json"
wkctl logs -n 3 cluster | grep -q . || fail "wkctl logs"
send 6

step "units: stop"
systemctl stop wukongim.target || fail "stop"
# The stop of a target does not wait for what stops with it.
for name in quiesce $SLOTS; do until_ok 30 eval "! systemctl -q is-active 'wk-$name'"; done
journalctl --no-pager -u wk-quiesce | grep -q 'quiesced: lost 0 ' || fail "the node was not quiesced"
failed=$(systemctl list-units --failed --no-legend --plain 'wk*')
[ -z "$failed" ] || fail "failed units: $failed"
nothing_left

step "the other way keeps the data, and one excludes the other"
systemctl start wukongim.target && systemctl start wukongim || fail "start"
! systemctl -q is-active wukongim.target || fail "both run"
until_ok 20 answers_200 5300 GET /readyz
send 7
http 5001 POST /channel/messagesync '{"login_uid":"ben","channel_id":"ann","channel_type":1,"limit":100}' | grep -q "$(printf 'message 1' | base64)" || fail "the first message is lost"

step "remove while it runs, then purge"
dpkg -r wukongim || fail "dpkg -r"
nothing_left
[ -d /var/lib/wukongim ] || fail "removing took the data"
! ls /usr/lib/systemd/system/wk-* /usr/bin/wk* 2>/dev/null || fail "files are left"
dpkg -P wukongim || fail "dpkg -P"
[ ! -e /var/lib/wukongim ] && [ ! -e /var/log/wukongim ] && [ ! -e /etc/wukongim ] || fail "the purge left data"
echo "boot test passed"
