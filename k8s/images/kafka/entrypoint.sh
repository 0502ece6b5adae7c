#!/bin/bash
# Formats the storage when it is empty, then runs the broker. Settings:
#   KAFKA_SOME_NAME              the broker's property some.name; `__` stands for `_`, `___` for `-`
#   CLUSTER_ID                   used at formatting; default: a random one
#   KAFKA_HEAP_OPTS, KAFKA_OPTS  arguments of the JVM
#   /mnt/shared/config/server.properties   where mounted, read instead of the defaults below;
#                                          variables still win over it
# Several listeners, for clients in and outside of the cluster, are plain properties:
#   KAFKA_LISTENERS=INTERNAL://:9092,HOST://:19092
#   KAFKA_ADVERTISED_LISTENERS=INTERNAL://kafka:9092,HOST://127.0.0.1:19092
#   KAFKA_INTER_BROKER_LISTENER_NAME=INTERNAL
set -euo pipefail

mounted=/mnt/shared/config/server.properties
properties=/tmp/server.properties

defaults() {
    cat <<'EOF'
node.id=1
process.roles=broker,controller
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
advertised.listeners=PLAINTEXT://localhost:9092
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
controller.quorum.voters=1@localhost:9093
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT,HOST:PLAINTEXT
log.dirs=/var/lib/kafka/data/log
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
EOF
}

# Prints the KAFKA_* variables that are properties as NAME=VALUE lines.
overrides() {
    local variable name
    for variable in $(compgen -e KAFKA_); do
        case $variable in
        # Arguments of the JVM, and what Kubernetes sets for a Service named kafka.
        KAFKA_HEAP_OPTS | KAFKA_OPTS | KAFKA_JVM_PERFORMANCE_OPTS | KAFKA_LOG4J_OPTS | KAFKA_JMX_OPTS) continue ;;
        KAFKA_SERVICE_* | KAFKA_PORT | KAFKA_PORT_*) continue ;;
        esac
        name=$(printf '%s' "${variable#KAFKA_}" | tr '[:upper:]' '[:lower:]' |
            sed -e 's/___/-/g' -e 's/__/\x01/g' -e 's/_/./g' -e 's/\x01/_/g')
        # A property ends at its line: a value with a line break would smuggle in another.
        printf '%s=%s\n' "$name" "$(printf '%s' "${!variable}" | tr '\n' ' ')"
    done
}

# A later line wins over an earlier one of the same name (java.util.Properties).
write_properties() {
    {
        if [ -f "$mounted" ]; then cat "$mounted"; else defaults; fi
        echo
        overrides
    } >"$properties"
}

property() { sed -n "s/^$1=//p" "$properties" | tail -n 1; }

# A cluster id is 16 bytes in URL-safe base64, and must not look like an option.
random_id() {
    local id=-
    while [ "${id#-}" != "$id" ]; do
        id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=')
    done
    echo "$id"
}

format_storage() {
    local first_log_dir
    first_log_dir=$(property log.dirs | cut -d , -f 1)
    if [ -f "$first_log_dir/meta.properties" ]; then return; fi
    mkdir -p "$first_log_dir"
    kafka-tool kafka.tools.StorageTool format --ignore-formatted \
        --cluster-id "${CLUSTER_ID:-$(random_id)}" --config "$properties"
}

if [ $# -gt 0 ]; then exec "$@"; fi
write_properties
format_storage
# Options are words: they are meant to be split.
# shellcheck disable=SC2086
exec java ${KAFKA_HEAP_OPTS:-} -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:+ExitOnOutOfMemoryError \
    -Djava.awt.headless=true -Dlog4j2.configurationFile=/opt/kafka/log4j2.yaml \
    ${KAFKA_OPTS:-} -cp '/opt/kafka/libs/*' kafka.Kafka "$properties"
