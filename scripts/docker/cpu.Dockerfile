# flashtrader on a CPU; from the repository's root: docker build -f scripts/docker/cpu.Dockerfile -t flashtrader:cpu .
FROM python:3.11.14-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY scripts/constraints.txt scripts/
COPY flashtrader flashtrader
# pip reads it: with PyTorch's index of CPU wheels, torch weighs a fifth of what the wheel for GPUs does.
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/flashtrader && \
    /opt/flashtrader/bin/pip install --no-cache-dir --constraint scripts/constraints.txt '.[tracking]'

FROM python:3.11.14-slim-bookworm
COPY --from=build /opt/flashtrader /opt/flashtrader
RUN useradd --uid 1000 --create-home trader && \
    install --directory --owner=trader --group=trader /flashtrader /flashtrader/data /flashtrader/runs
# Matplotlib's cache is wherever any user may write: one of `--user` has no home here.
ENV PATH=/opt/flashtrader/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /flashtrader
USER 1000
VOLUME ["/flashtrader/data", "/flashtrader/runs"]
# Of process 1 the kernel drops a signal without a handler; Python has one for this signal from its first moment on.
STOPSIGNAL SIGINT
ENTRYPOINT ["flashtrader"]
CMD ["--help"]
