# One image for every process of ours: `docker run piropiro api`, `… worker`, `… simulator`, `… up`.

FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY requirements.txt .
RUN python -m venv --without-pip /venv \
 && pip --python /venv install --no-compile --no-deps --require-hashes -r requirements.txt
COPY . .
# web/ is data that the API finds beside its own package.
RUN pip --python /venv install --no-compile --no-deps --no-build-isolation --target /app . \
 && mv web /app \
 && pip --python /venv uninstall --yes setuptools

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Piropiro" \
      org.opencontainers.image.description="Streams LLM answers through a queue" \
      org.opencontainers.image.licenses="MIT"
ENV PATH=/app/bin:/venv/bin:$PATH PYTHONPATH=/app
COPY --from=build /venv /venv
COPY --from=build /app /app
# Bytecode of just what our processes import, of the standard library too, which the base image leaves out: the root
# file system is read-only afterwards, and every start would compile it anew, for more than a second.
RUN piropiro --version && python -c "import cli.api, cli.simulator, cli.worker"
USER 10001:10001
ENTRYPOINT ["piropiro"]
