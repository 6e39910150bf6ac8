"""Remedies: for each thing that can be wrong between a browser and the gateway, the line to change in each kind of proxy."""

from __future__ import annotations

from typing import Final

Remedy = dict[str, str]
"""The proxy (or ``gateway``), and the line to change there."""

REMEDIES: Final[dict[str, Remedy]] = {
    "unreachable": {
        "gateway": "GATEWAY_HOST=0.0.0.0 where it runs in a container; 127.0.0.1 is reached from the same host only",
        "nginx": "proxy_pass http://<host of the gateway>:8000;",
        "Caddy": "reverse_proxy <host of the gateway>:8000",
        "HAProxy": "server gateway <host of the gateway>:8000 check",
        "Apache": "ProxyPass / http://<host of the gateway>:8000/ upgrade=websocket",
        "Traefik": "loadbalancer.server.port=8000",
        "ALB": "target group: port 8000, health check path /readyz; its security group must let the load balancer in",
    },
    "certificate": {
        "nginx": "ssl_certificate <the whole chain, not the server's certificate alone>; its names must hold this host",
        "Caddy": "the host's public name in the first line; `tls internal` is trusted by nobody else",
        "HAProxy": "bind :443 ssl crt <the key and the whole chain in one file>; its names must hold this host",
        "Apache": "SSLCertificateFile <the whole chain>; its names must hold this host",
        "Traefik": "tls.certresolver=<name>; without one it serves a certificate of its own making",
        "ALB": "a certificate of ACM for this host name on the listener",
    },
    "announced": {
        "nginx": "take out: proxy_protocol on;",
        "Caddy": "take out: transport http { proxy_protocol … }",
        "HAProxy": "server gateway …   # without send-proxy and send-proxy-v2",
        "Apache": "it sends none: look at what stands behind it",
        "Traefik": "take out: loadbalancer.proxyprotocol",
        "ALB": "it sends none; an NLB does: target group attribute proxy_protocol_v2.enabled=false",
    },
    "path": {
        "nginx": "location /notify/ { proxy_pass http://gateway/; }   # the slash at the end takes /notify off",
        "Caddy": "handle_path /notify/* { reverse_proxy gateway:8000 }",
        "HAProxy": "http-request replace-path /notify(/.*) \\1",
        "Apache": "ProxyPass /notify/ http://gateway:8000/ upgrade=websocket",
        "Traefik": "middlewares.notify.stripprefix.prefixes=/notify",
        "ALB": "it passes paths on as they are: give the gateway a host name of its own, listener rule host-header",
    },
    "redis": {
        "gateway": "GATEWAY_REDIS_URL: run `gateway check` beside the gateway, it says what Redis lacks",
    },
    "token": {
        "gateway": "GATEWAY_JWT_SECRET, GATEWAY_JWT_AUDIENCE and GATEWAY_JWT_ISSUER as whoever makes the tokens has them",
    },
    "authorization": {
        "nginx": "proxy_set_header Authorization $http_authorization;",
        "Caddy": "take out: header_up -Authorization, or basic_auth on this path",
        "HAProxy": "take out: http-request del-header Authorization",
        "Apache": "take out: RequestHeader unset Authorization",
        "Traefik": "basicauth.removeheader=false, or no basicauth on this router",
        "ALB": "no action authenticate-oidc or authenticate-cognito on this rule",
    },
    "upgrade": {
        "nginx": "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;",
        "Caddy": "take out: header_up Connection or header_up -Upgrade; reverse_proxy passes upgrades on by itself",
        "HAProxy": "take out: http-request del-header Upgrade; it passes upgrades on by itself",
        "Apache": "ProxyPass / http://gateway:8000/ upgrade=websocket   # needs 2.4.47",
        "Traefik": "take out: headers.customrequestheaders.Connection; it passes upgrades on by itself",
        "ALB": "target group: protocol version HTTP1; a listener of kind TLS or TCP on an NLB will do as well",
    },
    "buffered": {
        "nginx": "proxy_buffering off; gzip off;   # and no proxy_ignore_headers X-Accel-Buffering",
        "Caddy": "reverse_proxy gateway:8000 { flush_interval -1 }",
        "HAProxy": "take out: http-response wait-for-body",
        "Apache": "SetEnvIf Request_URI /sse$ no-gzip   # for mod_deflate",
        "Traefik": "no middleware of kind buffering on this router",
        "ALB": "it holds nothing back; a CDN before it may: let /sse go past it",
    },
    "compressed": {
        "nginx": "gzip off;   # or text/event-stream out of gzip_types",
        "Caddy": "@plain not path /sse\n  encode @plain gzip zstd",
        "HAProxy": "compression type text/html text/css   # all but text/event-stream",
        "Apache": "SetEnvIf Request_URI /sse$ no-gzip",
        "Traefik": "middlewares.<name>.compress.excludedcontenttypes=text/event-stream",
        "ALB": "it does not compress; CloudFront before it: Compress: false for /sse",
    },
    "idle": {
        "nginx": "proxy_read_timeout 75s;",
        "Caddy": "reverse_proxy gateway:8000 { transport http { read_timeout 75s } }   # or none",
        "HAProxy": "timeout client 75s; timeout server 75s; timeout tunnel 75s, a line each",
        "Apache": "ProxyTimeout 75",
        "Traefik": "entrypoints.<name>.transport.respondingtimeouts.idletimeout=180s and readtimeout=0s",
        "ALB": "load balancer attribute idle_timeout.timeout_seconds=75",
    },
    "cut": {
        "nginx": "proxy_read_timeout 75s;   # and keepalive_timeout, send_timeout of all that stands before it",
        "gateway": "GATEWAY_MAX_AGE_SECONDS and GATEWAY_MAX_CONNECTIONS; its log says why it ended a connection",
    },
    "http2": {
        "nginx": "listen 443 ssl http2;   # from 1.25.1 on: http2 on;",
        "Caddy": "on by itself; take out: servers { protocols h1 }",
        "HAProxy": "bind :443 ssl crt … alpn h2,http/1.1",
        "Apache": "Protocols h2 http/1.1   # needs mod_http2",
        "Traefik": "on by itself with TLS; take out: alpnprotocols without h2",
        "ALB": "load balancer attribute routing.http2.enabled=true",
    },
    "metrics": {
        "nginx": "location /metrics { return 404; }",
        "Caddy": "respond /metrics 404",
        "HAProxy": "option forwardfor",
        "Apache": "ProxyAddHeaders On",
        "Traefik": "rule=Host(`…`) && !Path(`/metrics`)",
        "ALB": "listener rule: path /metrics, fixed response 404",
    },
    "plain": {
        "nginx": "listen 443 ssl; and on port 80: return 301 https://$host$uri;",
        "Caddy": "a host name instead of http:// or :80 in the first line: it fetches a certificate",
        "HAProxy": "bind :443 ssl crt …; and on port 80: http-request redirect scheme https",
        "Apache": "SSLEngine on; and on port 80: Redirect permanent / https://<host>/",
        "Traefik": "tls.certresolver=<name>",
        "ALB": "listener HTTPS:443 with a certificate",
    },
    "shown": {
        "nginx": "log_format quiet '$remote_addr [$time_local] \"$request_method $uri\" $status'; access_log … quiet;",
        "Caddy": "log { format filter { request>uri query { delete token\n    delete ticket } } }",
        "HAProxy": 'log-format "%ci [%tr] %HM %HPO %ST"',
        "Apache": 'LogFormat "%h %t \\"%m %U\\" %>s" quiet; CustomLog … quiet',
        "Traefik": "accesslog.fields.names.RequestPath=drop",
        "ALB": "its access log holds whole addresses: let pages use POST /tickets or the cookie instead of token=",
    },
}
