# An agent with the handlers that need no other program: `builtin` and `http`. What runs commands needs their programs
# beside it: see agent-with-tools.Dockerfile. Built by compose/build-images, which prepares what is copied.
FROM scratch

COPY agent-worker /usr/local/bin/agent-worker

# Who is to be trusted when a service or a NATS server has a public certificate.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt

# A number: there is no file of users here. It writes no files, so its root can be read-only.
USER 65532:65532

# Where it says whether it is well, to who asks from inside.
ENV HIVE_HEALTH=127.0.0.1:8081

HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/agent-worker", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/agent-worker"]

ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="hivemesh agent" \
      org.opencontainers.image.description="Runs tasks of the mesh" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
