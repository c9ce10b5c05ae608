# drsformer on a CPU.
#
#   docker build -t drsformer .
#   docker run --rm -v "$PWD":/images --user "$(id -u):$(id -g)" drsformer derain photo.jpg -o restored.jpg
#
# Keep downloaded models between runs with -v drsformer:/cache.

FROM python:3.13-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel

FROM python:3.13-slim
LABEL org.opencontainers.image.title="drsformer" \
      org.opencontainers.image.description="Removes rain from images" \
      org.opencontainers.image.licenses="MIT"
# OpenCV loads these two.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
# torch for CPUs: the default one brings gigabytes of CUDA. A layer of its own, which a new wheel does not change.
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=build,source=/src/dist,target=/dist \
    pip install --no-cache-dir /dist/*.whl
# Any user may write here, because --user chooses one. Models are downloaded to it.
RUN install -d -m 1777 /cache
ENV DRSFORMER_HOME=/cache \
    HOME=/tmp
VOLUME /cache
USER 1000:1000
WORKDIR /images
ENTRYPOINT ["drsformer"]
CMD ["--help"]
