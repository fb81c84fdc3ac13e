# moodfuse in a container; docs/how-to/containers.md has the commands.
#
#   docker build -t moodfuse .                                    PyTorch's CPU wheels
#   docker build -t moodfuse:cuda --build-arg VARIANT=cuda .      the default wheels, which contain CUDA
FROM python:3.12-slim

# LightGBM's wheel links the system's OpenMP runtime.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 moodfuse

# A container that runs as another user, or read-only, can still write below /tmp.
ENV VIRTUAL_ENV=/opt/venv PATH=/opt/venv/bin:$PATH HOME=/tmp UV_NO_CACHE=1 PIP_NO_CACHE_DIR=1
COPY . /opt/moodfuse
WORKDIR /opt/moodfuse

ARG VARIANT=cpu
RUN python -m venv /opt/venv \
    && pip install --disable-pip-version-check "$(grep --only-matching '^uv==[^ ]*' requirements.lock)" \
    && if [ "$VARIANT" = cpu ]; then set -- --torch-backend cpu --no-verify-hashes; else set --; fi \
    && uv pip install --compile-bytecode "$@" --constraint requirements.lock '.[parquet,serve,timm,transformers]'

USER moodfuse
WORKDIR /data
EXPOSE 8000
ENTRYPOINT ["moodfuse"]
CMD ["--help"]
