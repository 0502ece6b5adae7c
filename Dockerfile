# The three images of the product: --target ingest, query or operator.
#
# Dependencies come from uv.lock and are a layer of their own; the project's own packages
# are the last and very small layer, so a changed line is built and shipped in seconds.
# No instruction needs BuildKit, so it builds with every Docker.
FROM debian:trixie-slim AS python
LABEL dev.sensorlog.project=sensorlog
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 ca-certificates \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# The root file system is read-only at run time: nothing is compiled or written there.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

FROM python AS uv
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
# The system's certificates, which may hold a company's own authority.
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PIP_CERT=/etc/ssl/certs/ca-certificates.crt
# Of the minor version that the packages' build backend is of: uv then builds them itself,
# in milliseconds and without a download.
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir 'uv>=0.13.9,<0.14'
ENV PATH=/opt/uv/bin:$PATH \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1
WORKDIR /src

# uv wants to see every member of the workspace to know that the lock is up to date.
FROM uv AS dependencies
COPY pyproject.toml uv.lock ./
COPY packages/sensorlog/pyproject.toml packages/sensorlog/
COPY packages/sensorlog-cli/pyproject.toml packages/sensorlog-cli/
COPY services/ingest/pyproject.toml services/ingest/
COPY services/query/pyproject.toml services/query/
COPY operator/pyproject.toml operator/
RUN for service in ingest query operator; do \
        UV_PROJECT_ENVIRONMENT=/venv/$service uv sync --locked --no-dev --no-install-workspace \
            --package "sensorlog-$service" || exit 1; \
    done \
 # Tests of libraries, and the Kubernetes client's asynchronous twin: 90 MB that nothing imports.
 && rm -rf /venv/*/lib/python3*/site-packages/numpy/*/tests \
        /venv/*/lib/python3*/site-packages/kubernetes/aio

FROM uv AS ingest-source
COPY packages/sensorlog packages/sensorlog
COPY services/ingest services/ingest
RUN uv pip install --no-cache --no-deps --no-sources --target /own packages/sensorlog services/ingest

FROM python AS ingest
COPY k8s/images/run-service /usr/local/bin/
ENV PATH=/venv/ingest/bin:$PATH SENSORLOG_MODULE=sensorlog_ingest
USER 65532:65532
ENTRYPOINT ["run-service"]
COPY --from=dependencies /venv/ingest /venv/ingest
COPY --from=ingest-source /own /venv/ingest/lib/python3.13/site-packages

FROM uv AS query-source
COPY packages/sensorlog packages/sensorlog
COPY services/query services/query
RUN uv pip install --no-cache --no-deps --no-sources --target /own packages/sensorlog services/query

FROM python AS query
COPY k8s/images/run-service /usr/local/bin/
ENV PATH=/venv/query/bin:$PATH SENSORLOG_MODULE=sensorlog_query
USER 65532:65532
ENTRYPOINT ["run-service"]
COPY --from=dependencies /venv/query /venv/query
COPY --from=query-source /own /venv/query/lib/python3.13/site-packages

FROM uv AS operator-source
COPY packages/sensorlog packages/sensorlog
COPY operator operator
RUN uv pip install --no-cache --no-deps --no-sources --target /own packages/sensorlog ./operator

FROM python AS operator
COPY k8s/images/run-service /usr/local/bin/
ENV PATH=/venv/operator/bin:$PATH SENSORLOG_MODULE=sensorlog_operator
USER 65532:65532
ENTRYPOINT ["run-service"]
COPY --from=dependencies /venv/operator /venv/operator
COPY --from=operator-source /own /venv/operator/lib/python3.13/site-packages
