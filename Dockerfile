# Three images: cpu, gpu (NVIDIA, driver >= 580), export (torch and sam3). `make image` builds one, and so does
#   docker build --target cpu --tag sam3-annotate:cpu .
# Python 3.11.16 of 2026-08-25, an index of amd64, arm64 and others (docker-library/repo-info, repos/python/remote).
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

# ---- build stages: nothing of them but /opt/venv, /opt/app and the SBOM reaches an image
FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What installs is not in what is installed: the tools, pip too, have an environment of their own.
RUN python3 -m venv --without-pip /opt/venv && python3 -m venv /opt/tools
COPY requirements/image.txt /src/requirements/
RUN /opt/tools/bin/pip install --quiet --require-hashes --requirement /src/requirements/image.txt
COPY .ci/image-venv /usr/local/bin/image-venv

FROM build AS cpu-venv
COPY requirements/cpu.txt /src/requirements/
RUN image-venv /src/requirements/cpu.txt

FROM build AS gpu-venv
COPY requirements/gpu.txt /src/requirements/
RUN image-venv /src/requirements/gpu.txt

FROM build AS export-venv
COPY requirements/export.txt requirements/gpu.txt /src/requirements/
RUN image-venv --export /src/requirements/export.txt /src/requirements/gpu.txt

# Our own code apart from what it needs: a change of it is a layer of a few megabytes.
FROM build AS app
COPY . /src
RUN /opt/tools/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /src/dist /src \
 && /opt/tools/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --no-compile --prefix /opt/app \
    /src/dist/*.whl \
 && /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/app

# What an image holds, once it is whole: its bill of materials, and for the smallest its size.
FROM cpu-venv AS cpu-whole
COPY --from=app /opt/app/ /opt/venv/
RUN megabytes=$(du -sm /opt/venv | cut -f1) && echo "virtual environment: $megabytes MB" && test "$megabytes" -le 310
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /src/sbom.cdx.json /opt/venv/bin/python

FROM gpu-venv AS gpu-whole
COPY --from=app /opt/app/ /opt/venv/
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /src/sbom.cdx.json /opt/venv/bin/python

FROM export-venv AS export-whole
COPY --from=app /opt/app/ /opt/venv/
RUN /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /src/sbom.cdx.json /opt/venv/bin/python

# ---- what all images share
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --key GID_MAX=65535 --gid 65532 nonroot \
 && useradd --key UID_MAX=65535 --uid 65532 --gid 65532 --no-create-home --home-dir /tmp \
    --shell /usr/sbin/nologin nonroot
# Bytecode lies beside the code already, and the root may be read-only.
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    HF_HUB_DISABLE_TELEMETRY=1
WORKDIR /data
USER 65532:65532
STOPSIGNAL SIGTERM
# Exec form: SIGTERM reaches the worker itself, which ends with 75 while work is left.
ENTRYPOINT ["/opt/venv/bin/sam3-annotate"]
CMD ["--help"]
LABEL org.opencontainers.image.title="sam3-annotate" \
      org.opencontainers.image.description="Bulk instance-mask annotation of camera pictures with SAM 3" \
      org.opencontainers.image.licenses="Apache-2.0"

# ---- the images
FROM base AS export
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=export-venv /opt/venv /opt/venv
COPY --from=app /opt/app/ /opt/venv/
COPY --from=export-whole /src/sbom.cdx.json /usr/share/sbom/sam3-annotate.cdx.json
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM base AS gpu
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-venv /opt/venv /opt/venv
COPY --from=app /opt/app/ /opt/venv/
COPY --from=gpu-whole /src/sbom.cdx.json /usr/share/sbom/sam3-annotate.cdx.json
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

FROM base AS cpu
COPY --from=cpu-venv /opt/venv /opt/venv
COPY --from=app /opt/app/ /opt/venv/
COPY --from=cpu-whole /src/sbom.cdx.json /usr/share/sbom/sam3-annotate.cdx.json
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.version="${VERSION}" org.opencontainers.image.revision="${REVISION}"

# ---- images with a model in /opt/model, so that no pod fetches one: --build-context model=FOLDER
FROM gpu AS gpu-model
COPY --from=model --chown=0:0 / /opt/model

FROM cpu AS cpu-model
COPY --from=model --chown=0:0 / /opt/model

# The last is what a build without --target makes.
FROM cpu
