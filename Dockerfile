# The environments of Hallmark in one image that a stranger can make again: base by digest, system
# packages by date, everything else by hash. `make image` builds it; lockfiles/images.toml says
# where the pins come from. build/image/layer makes each layer and clamps its times.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6

FROM ${BASE} AS system
ARG SNAPSHOT=20261115T000000Z
ARG SOURCE_DATE_EPOCH=1794700800
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    /mnt/layer system

FROM system AS tools
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    /mnt/layer installer

FROM system AS build-packages
RUN --mount=type=tmpfs,target=/tmp --mount=type=cache,target=/tmp/cache \
    --mount=type=bind,source=build/image,target=/mnt --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=bind,from=tools,source=/tools,target=/opt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    --mount=type=secret,id=uv,target=/tmp/uv.toml \
    /mnt/layer environment build build

FROM build-packages AS verify-packages
# With a GPU `verify`, without one `verify-cpu`.
ARG VERIFY=verify
RUN --mount=type=tmpfs,target=/tmp --mount=type=cache,target=/tmp/cache \
    --mount=type=bind,source=build/image,target=/mnt --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=bind,from=tools,source=/tools,target=/opt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    --mount=type=secret,id=uv,target=/tmp/uv.toml \
    /mnt/layer environment verify ${VERIFY}

# fetch, calibrate, quantize, graft, dress; with less than the full assay, all steps.
FROM build-packages AS build
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,target=/mnt \
    /mnt/build/image/layer tree build
ENV PYTHONDONTWRITEBYTECODE=1
USER 65534:65534
WORKDIR /hallmark

# All of that and the engine; this is the image that builds run in.
FROM verify-packages AS verify
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,target=/mnt \
    /mnt/build/image/layer tree build verify
# Blackwell: B200, B300, RTX 50 and RTX PRO, GB10.
ENV TORCH_CUDA_ARCH_LIST="10.0;10.3;12.0;12.1" CUDA_HOME=/usr/local/cuda \
    HF_HUB_OFFLINE=1 PYTHONPYCACHEPREFIX=/tmp/bytecode NUMBA_CACHE_DIR=/tmp/numba \
    HOME=/tmp USER=hallmark
USER 65534:65534
WORKDIR /hallmark
