#!/usr/bin/env bash
# The whole loop by hand: an operator makes a user, a token, policies and a job; curl plays the phone.
#
#   MUSTER_KEY=$(muster key add walk) examples/walk.sh            against http://127.0.0.1:8080, or MUSTER_SERVER
#
# It needs bash and curl. It can be run again: every run enrolls another phone.
set -euo pipefail
cd "$(dirname "$0")"
: "${MUSTER_KEY:?set MUSTER_KEY to an API key; \`muster key add NAME\` prints one}"
server=${MUSTER_SERVER:-http://127.0.0.1:8080}
run=$(date +%s)-$$

# call BEARER METHOD PATH [BODY] prints the answer; a refusal is printed too, and ends the script. An empty BEARER sends none.
call() {
  local answer
  answer=$(curl --silent --show-error --fail-with-body -X "$2" ${1:+-H "Authorization: Bearer $1"} -H 'Content-Type: application/json' \
    "$server$3" ${4:+--data-binary "$4"}) || { printf '%s %s: %s\n' "$2" "$3" "$answer" >&2; exit 1; }
  printf '%s\n' "$answer"
}
operator() { call "$MUSTER_KEY" "$1" "/api/v1$2" "${3:-}"; }
# field NAME prints the first text of that name.
field() { grep -o "\"$1\":\"[^\"]*\"" | head -n 1 | cut -d '"' -f 4; }
step() { printf '\n== %s\n' "$1"; }

step "An operator makes a user"
operator POST /users "{\"email\": \"user-$run@example.org\", \"name\": \"A user\"}"

step "a label and two policies, and says who gets them"
operator PUT /labels/field '{"description": "phones that travel"}'
operator PUT /policies/baseline "{\"document\": $(cat baseline.json), \"message\": \"from examples/baseline.json\"}"
operator PUT /policies/baseline/assignments '{"assignments": [{"label": "all", "mode": "include", "rank": 10}]}'
operator PUT /policies/field "{\"document\": $(cat field.json), \"message\": \"from examples/field.json\"}"
operator PUT /policies/field/assignments '{"assignments": [{"label": "field", "mode": "include", "rank": 20}]}'

step "and an enrollment token; its value is shown once"
token=$(operator POST /enrollment-tokens "{\"name\": \"walk $run\", \"max_uses\": 1, \"labels\": [\"field\"]}" | field token)
printf '%s...\n' "${token:0:8}"

step "A phone activates with it"
activated=$(call "" POST /agent/v1/activate "{
  \"token\": \"$token\", \"email\": \"user-$run@example.org\",
  \"device\": {\"platform\": \"android\", \"app\": \"org.example.agent\", \"hardware_id\": \"hw-$run\", \"serial\": \"WALK-$run\",
             \"model\": \"Example Phone\", \"os_version\": \"16\", \"agent_version\": \"1.0\", \"management_mode\": \"device_owner\"}}")
device=$(field device_id <<<"$activated")
device_token=$(field device_token <<<"$activated")
printf 'device %s\n' "$device"

step "and syncs: it gets its document"
sync=$(call "$device_token" POST /agent/v1/sync '{"cause": "launch", "policy": {"version": null}, "facts": {"battery_percent": 80}}')
printf '%s\n' "$sync"
version=$(field version <<<"$sync")

step "It has applied the document and says so"
call "$device_token" POST /agent/v1/sync "{\"cause\": \"launch\", \"policy\": {\"version\": \"$version\", \"details\": []}}"

step "The operator asks why the camera is off"
operator GET "/devices/$device/explain?setting=cameraAccess"

step "and orders something of the phone"
job=$(operator POST /jobs "{\"kind\": \"message\", \"params\": {\"text\": \"Hello\"}, \"target\": {\"devices\": [\"WALK-$run\"]}}")
printf '%s\n' "$job"
job=$(field id <<<"$job")

step "A nudge would call the phone; here it comes by itself and gets the task"
sync=$(call "$device_token" POST /agent/v1/sync "{\"cause\": \"push\", \"policy\": {\"version\": \"$version\"}}")
printf '%s\n' "$sync"
task=$(grep -o '"tasks":\[{"id":"[^"]*"' <<<"$sync" | cut -d '"' -f 6)

step "It carries the task out, reports it, and tells what it noticed meanwhile"
at_ms=$(date +%s)000
event=$(cat /proc/sys/kernel/random/uuid 2>/dev/null || uuidgen)
call "$device_token" POST /agent/v1/sync "{
  \"cause\": \"push\", \"policy\": {\"version\": \"$version\"},
  \"results\": [{\"task_id\": \"$task\", \"status\": \"done\", \"at_ms\": $at_ms}],
  \"events\": [{\"event_id\": \"$event\", \"type\": \"usb_debugging_changed\", \"seq\": 1, \"occurred_at_ms\": $at_ms,
              \"first_attempt_at_ms\": $at_ms, \"attempt\": 1, \"data\": {\"enabled\": true}}]}"

step "The operator sees what became of it"
operator GET "/jobs/$job/tasks"
operator GET "/devices/$device/events"
operator GET "/findings?device=$device"

step "The loop is closed"
