# flashtrader on NVIDIA GPUs, with flash-attn 2 built from source; from the repository's root:
#   docker build -f scripts/docker/cuda.Dockerfile -t flashtrader:cuda .
#   docker run --gpus all …, with NVIDIA's container toolkit and a driver for CUDA 13
FROM nvidia/cuda:13.0.2-devel-ubuntu22.04 AS cuda

FROM python:3.11.14-bookworm AS build
# The compiler of the CUDA that the PyTorch wheel was built with; it needs no package of its own distribution.
COPY --from=cuda /usr/local/cuda-13.0 /usr/local/cuda-13.0
WORKDIR /src
COPY scripts/constraints.txt scripts/
# The PyTorch, and with it the CUDA, that flash-attn is built for; all else is what the tests run with.
ARG TORCH=2.11.0
RUN sed -i "s/^torch==.*/torch==$TORCH/" scripts/constraints.txt && \
    python -m venv /opt/flashtrader && \
    /opt/flashtrader/bin/pip install --no-cache-dir --constraint scripts/constraints.txt \
      torch einops==0.8.1 ninja==1.13.0 packaging psutil==7.1.3 setuptools==80.9.0 wheel==0.45.1
# Ampere (A100), Hopper (H100, H200), Blackwell (B200, RTX 50): name only your own, and building is that much shorter.
ARG FLASH_ATTN_CUDA_ARCHS="80;90;100;120"
# Compilers at a time, each with NVCC_THREADS threads and several GiB of memory.
ARG MAX_JOBS=4
ARG NVCC_THREADS=2
ENV CUDA_HOME=/usr/local/cuda-13.0 PATH=/opt/flashtrader/bin:/usr/local/cuda-13.0/bin:$PATH
# FORCE_BUILD: not the wheel of another PyTorch that the project offers for download. No isolation: against this PyTorch.
RUN FLASH_ATTENTION_FORCE_BUILD=TRUE \
    pip install --no-cache-dir --no-build-isolation --constraint scripts/constraints.txt flash-attn==2.8.3.post2
COPY pyproject.toml README.md LICENSE ./
COPY flashtrader flashtrader
RUN pip install --no-cache-dir --constraint scripts/constraints.txt '.[tracking]'

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/flashtrader /opt/flashtrader
RUN useradd --uid 1000 --create-home trader && \
    install --directory --owner=trader --group=trader /flashtrader /flashtrader/data /flashtrader/runs
# Matplotlib's cache is wherever any user may write: one of `--user` has no home here.
ENV PATH=/opt/flashtrader/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /flashtrader
USER 1000
VOLUME ["/flashtrader/data", "/flashtrader/runs"]
# Of process 1 the kernel drops a signal without a handler; Python has one for this signal from its first moment on.
STOPSIGNAL SIGINT
ENTRYPOINT ["flashtrader"]
CMD ["--help"]
