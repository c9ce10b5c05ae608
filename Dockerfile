# drsformer on a CPU.
#
#   docker build -t drsformer .
#   docker run --rm -v "$PWD":/images --user "$(id -u):$(id -g)" drsformer derain photo.jpg -o restored.jpg

FROM python:3.13-slim AS build
WORKDIR /src
RUN pip install --no-cache-dir build
COPY . .
RUN python -m build --wheel

FROM python:3.13-slim
# OpenCV loads these two.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/dist/*.whl /tmp/
# torch for CPUs: the default one brings gigabytes of CUDA.
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir /tmp/*.whl \
    && rm /tmp/*.whl
# Downloaded weights; any user may write here.
ENV DRSFORMER_HOME=/cache
RUN install -d -m 1777 /cache
VOLUME /cache
USER 1000:1000
WORKDIR /images
ENTRYPOINT ["drsformer"]
CMD ["--help"]
