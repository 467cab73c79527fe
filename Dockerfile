# The environments of Hallmark in one image that a stranger can make again: base by digest, system
# packages by date, everything else by hash. `make image` builds it; lockfiles/images.toml says
# where the pins come from. build/image/layer makes each layer and clamps its times.
ARG BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6
ARG SOURCE_DATE_EPOCH=1794700800

FROM ${BASE} AS system
ARG SNAPSHOT=20261115T000000Z
ARG SOURCE_DATE_EPOCH
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    /mnt/layer system

FROM system AS tools
ARG SOURCE_DATE_EPOCH
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    /mnt/layer installer

# calibrate, quantize, graft, dress; with less than the full assay, verify and attest as well.
FROM system AS build
ARG SOURCE_DATE_EPOCH
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=bind,from=tools,source=/tools,target=/opt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    --mount=type=secret,id=uv,target=/tmp/uv.toml \
    /mnt/layer environments build build
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,target=/mnt /mnt/build/image/layer tree build
ENV HF_HUB_OFFLINE=1 HOME=/tmp USER=hallmark \
    PYTHONPYCACHEPREFIX=/tmp/bytecode NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /hallmark
USER 65534:65534

# All of that and the engine; this is the image that builds run in.
FROM system AS verify
ARG SOURCE_DATE_EPOCH
# With a GPU `verify`, without one `verify-cpu`.
ARG VERIFY=verify
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,source=build/image,target=/mnt \
    --mount=type=bind,source=lockfiles,target=/media \
    --mount=type=bind,from=tools,source=/tools,target=/opt \
    --mount=type=secret,id=certificates,target=/tmp/certificates \
    --mount=type=secret,id=uv,target=/tmp/uv.toml \
    /mnt/layer environments build build verify ${VERIFY}
RUN --mount=type=tmpfs,target=/tmp --mount=type=bind,target=/mnt \
    /mnt/build/image/layer tree build verify
# Blackwell: B200, B300, RTX 50 and RTX PRO, GB10.
ENV TORCH_CUDA_ARCH_LIST="10.0;10.3;12.0;12.1" CUDA_HOME=/usr/local/cuda \
    HF_HUB_OFFLINE=1 HOME=/tmp USER=hallmark \
    PYTHONPYCACHEPREFIX=/tmp/bytecode NUMBA_CACHE_DIR=/tmp/numba
WORKDIR /hallmark
USER 65534:65534
