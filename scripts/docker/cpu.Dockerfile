# flashtrader on a CPU; from the repository's root: docker build -f scripts/docker/cpu.Dockerfile -t flashtrader:cpu .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY scripts/constraints.txt scripts/
COPY flashtrader flashtrader
# The constraint torch==2.13.0 takes 2.13.0+cpu from this index: a fifth of what the wheel for GPUs weighs.
RUN python -m venv /opt/flashtrader && \
    /opt/flashtrader/bin/pip install --no-cache-dir --constraint scripts/constraints.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu '.[tracking]'

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/flashtrader /opt/flashtrader
RUN useradd --uid 1000 --create-home trader && \
    install --directory --owner=trader --group=trader /work /work/data /work/runs
ENV PATH=/opt/flashtrader/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /work
USER 1000
VOLUME ["/work/data", "/work/runs"]
# Of process 1 the kernel drops a signal without a handler; Python has one for this signal from its first moment on.
STOPSIGNAL SIGINT
ENTRYPOINT ["flashtrader"]
CMD ["--help"]
