# vsr in a container, for CPUs or for NVIDIA GPUs (which need the NVIDIA Container Toolkit on the host):
#
#   docker build -t vsr .
#   docker build -t vsr:cuda --build-arg DEVICE=cuda .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" vsr upscale in.mp4 -o out.mp4
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" vsr:cuda upscale in.mp4 -o out.mp4
#
# EXTRAS adds extras of the package: --build-arg EXTRAS=train,eval

FROM python:3.13-slim AS build
ARG DEVICE=cpu
# Of torch and torchvision for the CPU; those for CUDA are on the package index.
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/vsr/bin:$PATH
RUN python3 -m venv /opt/vsr
# The large packages have a layer of their own, which a change of vsr leaves as it is.
RUN case "$DEVICE" in \
      cpu) pip install --index-url "$CPU_INDEX" torch torchvision ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "DEVICE is cpu or cuda, not $DEVICE" >&2; exit 2 ;; \
    esac
COPY . /source
RUN pip install "/source${EXTRAS:+[$EXTRAS]}"

FROM python:3.13-slim
# HOME is writable for every --user: downloaded weights and compiled kernels are kept there.
ENV PATH=/opt/vsr/bin:$PATH HOME=/home/vsr NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home --home-dir "$HOME" vsr && chmod 1777 "$HOME"
COPY --from=build /opt/vsr /opt/vsr
USER vsr
WORKDIR /work
ENTRYPOINT ["vsr"]
CMD ["--help"]
