# The coordinator and nothing else: no shell, no C library. Built by compose/build-images, which prepares its parts.
FROM scratch

# The first layer, so that the image of nats-server shares it.
COPY coordinator /usr/local/bin/coordinator

# Who is to be trusted when a NATS server has a public certificate (without NATS_CA).
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt

# A number: there is no file of users here. It writes no files, so its root can be read-only.
USER 65532:65532

# In a container the API is for whoever shares its network; outside it is at what is published. So it takes tokens (in
# HIVE_CONFIG), or HIVE_INSECURE_HTTP=true where all of these are trusted.
ENV HIVE_HTTP=0.0.0.0:8080
EXPOSE 8080

HEALTHCHECK --interval=5s --timeout=4s --start-period=15s --retries=3 \
    CMD ["/usr/local/bin/coordinator", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/coordinator"]
CMD ["serve"]

ARG VERSION
ARG REVISION
LABEL org.opencontainers.image.title="hivemesh coordinator" \
      org.opencontainers.image.description="Places tasks on agents and records their outcomes" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
