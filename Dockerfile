FROM python:3.13-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway gateway
COPY clients clients
RUN uv venv /opt/gateway && uv pip install --python /opt/gateway/bin/python --compile-bytecode .

FROM python:3.13-slim
RUN useradd --system --uid 10001 gateway
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH GATEWAY_HOST=0.0.0.0 GATEWAY_LOG_FORMAT=json
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('GATEWAY_PORT', '8000') + '/livez', timeout=2)"]
CMD ["gateway", "serve"]
