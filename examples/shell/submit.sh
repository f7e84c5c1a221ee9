#!/usr/bin/env bash
# Submits a task to a Hivemesh and prints its result, by nothing but the text protocol of NATS over a socket of bash.
#
#   submit.sh KIND [BODY]       (without BODY it is read from standard input)
#
# NATS_URL says where the server is, HIVE_MESH the mesh. There is no TLS here, and no other login than
# NATS_USER and NATS_PASSWORD.
set -euo pipefail
export LC_ALL=C # Lengths are in bytes.

if (($# < 1 || $# > 2)); then
    echo "usage: $0 KIND [BODY]" >&2
    exit 2
fi
kind=$1 mesh=${HIVE_MESH:-hive} url=${NATS_URL:-nats://127.0.0.1:4222} wait=60
address=${url#*://} host=${address%:*} port=${address##*:}
id=shell-${EPOCHREALTIME/./}-$$
inbox=_INBOX.$id

body=$(mktemp)
trap 'rm -f "$body"' EXIT
if (($# == 2)); then printf %s "$2" >"$body"; else cat >"$body"; fi

# header NAME TEXT: the value of a header in the text of headers.
header() {
    local line
    while IFS= read -r line; do
        line=${line%$'\r'}
        if [[ $line == "$1: "* ]]; then printf %s "${line#*: }"; fi
    done <<<"$2"
}

# next_message: waits for the next message. `sid` is its subscription then, and its headers are in `headers`; of its
# body, which is still to be read, so many bytes are left as `left` says.
next_message() {
    local line verb rest fields
    while IFS= read -r -t "$wait" line <&3; do
        line=${line%$'\r'} verb=${line%% *} rest=${line#* }
        case $verb in
        PING) printf 'PONG\r\n' >&3 ;;
        -ERR) echo "the NATS server refuses: $rest" >&2; exit 1 ;;
        MSG | HMSG)
            read -ra fields <<<"$rest"
            sid=${fields[1]} left=${fields[-1]} headers=
            if [[ $verb == HMSG ]]; then
                headers=$(head -c "${fields[-2]}" <&3)
                left=$((left - fields[-2]))
            fi
            return
            ;;
        esac
    done
    echo "nothing was heard for $wait s, or the server hung up" >&2
    exit 1
}

exec 3<>"/dev/tcp/$host/$port"
login=
if [[ -n ${NATS_USER:-} ]]; then login=",\"user\":\"$NATS_USER\",\"pass\":\"${NATS_PASSWORD:-}\""; fi
printf 'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bash"%s}\r\n' "$login" >&3
# Both are listened to before the task is there: the acceptance of the task, and its result.
printf 'SUB %s.accepted 1\r\nSUB %s.result 2\r\n' "$inbox" "$inbox" >&3

said=$'NATS/1.0\r\nHive-Timeout: 30s\r\nNats-Expected-Last-Subject-Sequence: 0\r\n'
said+="Hive-Reply-To: $inbox.result"$'\r\n\r\n'
length=$(wc -c <"$body")
printf 'HPUB %s.task.%s.normal.%s %s.accepted %d %d\r\n%s' \
    "$mesh" "$kind" "$id" "$inbox" ${#said} $((${#said} + length)) "$said" >&3
cat "$body" >&3
printf '\r\n' >&3

next_message
# The acceptance comes first, unless it takes a longer way through a cluster than the result.
if [[ $sid == 1 ]]; then
    accepted=$(head -c "$left" <&3)
    head -c 2 <&3 >/dev/null
    # With no stream for it there is a status of the server, and no body.
    if [[ $accepted != *'"seq"'* ]]; then
        echo "the task was not accepted: ${accepted:-${headers%%$'\r'*}}" >&2
        exit 1
    fi
    echo "task $id: $accepted" >&2 # From here on it is not lost.
    next_message
fi
head -c "$left" <&3
outcome=$(header Hive-Outcome "$headers")
echo "$outcome $(header Hive-Error "$headers")" >&2
[[ $outcome == succeeded ]]
