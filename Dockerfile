# cifm for the CPU: docker build -t cifm . && docker run --rm -v "$PWD:/work" cifm demo
# An index with CPU builds of torch makes the image several GB smaller: --build-arg PIP_ARGS="--extra-index-url ADDRESS".
# This file has not been built yet.
FROM python:3.11-slim-bookworm

# The OpenMP runtime, which numba and DGL load.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 cifm

ARG PIP_ARGS=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY recipes recipes
COPY backends backends
COPY cifm_cli cifm_cli
RUN pip install --no-cache-dir ${PIP_ARGS} -c constraints/cpu.txt . && rm -rf /src

USER cifm
WORKDIR /work
# Writable caches of numba and matplotlib, whatever user the container runs as.
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
ENTRYPOINT ["cifm"]
CMD ["--help"]
