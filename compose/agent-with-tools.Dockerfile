# An agent beside programs of your own, which its handlers run as commands. An example to copy: put your tools where the
# comment says so.
#
#   compose/build-images
#   docker build --file compose/agent-with-tools.Dockerfile --tag my-agent .
#   docker run --rm --read-only --tmpfs /tmp --env NATS_URL=nats://HOST:4222 my-agent
#
# The agent is one static file, so any base will do, such as
#   --build-arg BASE=python:3.13-slim-bookworm
# The base is pulled, for which a registry must be in reach.
ARG BASE=debian:bookworm-slim

FROM hivemesh/agent-worker:latest AS agent

FROM $BASE
# Your tools here, for example:
#   RUN apt-get update && apt-get install --yes --no-install-recommends imagemagick && rm -rf /var/lib/apt/lists/*
#   RUN pip install --no-cache-dir pillow

COPY --from=agent /usr/local/bin/agent-worker /usr/local/bin/agent-worker
# What the agent can do. This one counts words; each `command` is a program of this image.
COPY docs/examples/agent.toml /etc/hivemesh/agent.toml

# Commands find their scratch space in a directory that is theirs; mount a tmpfs or a volume on /tmp where the root is
# read-only.
USER 65532:65532
WORKDIR /tmp

ENV HIVE_CONFIG=/etc/hivemesh/agent.toml \
    HIVE_HEALTH=127.0.0.1:8081
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/agent-worker", "healthcheck"]
# It is the first process here, takes in what its commands leave behind, and ends all of it when it is told to stop.
ENTRYPOINT ["/usr/local/bin/agent-worker"]
