# Sallyport as a container image: Node and nothing else beside it; no shell, no package manager, no root.
#
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" -t sallyport .
#
# scripts/image-contents.ts decides what is copied in, here and in tests, and prints how large it is. Base images are pinned
# by digest; the tag beside each says what it is, and is ignored by engines. Needs an engine that sets BUILDPLATFORM
# (BuildKit, Buildah).

ARG BUILD_IMAGE=docker.io/library/node:24.21.0-trixie-slim@sha256:173f125896c3b47ddf056734c7ea789d04595a6a08769a8f78e0df642781fb66
ARG RUN_IMAGE=gcr.io/distroless/nodejs24-debian13:nonroot@sha256:9eeb7f5887d0e239e78264b06f7f11d2e14be534050481803a9e4728fcdd278e

# What is built runs on every platform: JavaScript and data, no native code.
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
WORKDIR /build
COPY package.json package-lock.json .npmrc ./
# No script of a dependency runs, here or later.
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json LICENSE NOTICE ./
COPY scripts ./scripts
COPY src ./src
RUN npm run build
ARG SOURCE_DATE_EPOCH=0
RUN SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH} npm run --silent image -- --dir /image/app \
 && mkdir -m 0700 /image/state && mkdir -m 0755 /image/run \
 && touch --date=@${SOURCE_DATE_EPOCH} /image/state /image/run

FROM ${RUN_IMAGE} AS run
ARG RUN_IMAGE
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Sallyport" \
      org.opencontainers.image.description="Risk-based access for machine-to-machine traffic: an Envoy external authorizer that scores every request" \
      org.opencontainers.image.vendor="The Sallyport authors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${RUN_IMAGE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Of root, so that not even a writable root file system lets the program change itself.
COPY --from=build /image/app /app
# A volume that is new takes its owner from here.
COPY --from=build --chown=65532:65532 /image/state /var/lib/sallyport
COPY --from=build --chown=65532:65532 /image/run /run/sallyport
# `docker exec NAME sallyport tap` and the like find the program by its name.
ENV NODE_ENV=production \
    PATH=/app/bin:/nodejs/bin:/usr/bin:/bin
WORKDIR /app
# By number: Kubernetes' runAsNonRoot cannot judge names.
USER 65532:65532
# Health and metrics; the other listeners are for loopback and sockets.
EXPOSE 8282
STOPSIGNAL SIGTERM
# None: kubelet has probes of its own (/healthz, /readyz on 8282), and a check by command would start a second Node every time.
HEALTHCHECK NONE
ENTRYPOINT ["/nodejs/bin/node", "/app/dist/main.js"]
CMD ["serve"]
