"""Settings: one frozen value, read once from ``GATEWAY_*``; each error names the variable, the value and what is expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.errors import SettingsError
from gateway.store.client import check_url

_PREFIX: Final = "GATEWAY_"
_URL_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel")
REDIS_URL_RULE: Final = "redis://host:6379, rediss://host:6379, unix:///path or redis+sentinel://host:26379,host2:26379/service"
_VARIABLE: Final = re.compile(r"GATEWAY_[A-Z_]+")
_NOT_OURS: Final = frozenset({"GATEWAY_CMD"})  # tells a benchmark how to start the gateway, which inherits it
# The variables that Kubernetes sets for a Service named gateway.
_LINK: Final = re.compile(r"service_(host|port)(_\w+)?|port_\d+_(tcp|udp|sctp)(_\w+)?")
# Values that are never shown. Somebody may have put a private key where the public one belongs.
_SECRET: Final = frozenset({"redis_url", "jwt_secret", "jwt_public_key"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator can choose. Each setting is the environment variable ``GATEWAY_<NAME>`` (docs/operations.md describes them).

    >>> Settings(redis_url="redis://localhost:6379", auth="none")
    """

    redis_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    prefix: str = "notify"
    auth: str = "jwt"
    jwt_secret: str | None = None
    jwt_public_key: str | None = None
    jwks_url: str | None = None
    authorize_url: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    allowed_origins: tuple[str, ...] = ()
    max_event_bytes: int = 65_536
    max_channels: int = 128
    max_connections: int = 16_000
    max_connections_per_ip: int = 0
    max_connections_per_sub: int = 0
    trusted_proxies: tuple[str, ...] = ()
    heartbeat_seconds: float = 20.0
    drain_seconds: float = 10.0
    max_age_seconds: float = 0.0
    log_level: str = "info"
    log_format: str = "text"

    def __repr__(self) -> str:
        shown = (f"{f.name}={'***' if f.name in _SECRET and getattr(self, f.name) else getattr(self, f.name)!r}" for f in fields(self))
        return f"Settings({', '.join(shown)})"


def _whole(least: int, most: int) -> tuple[Callable[[str], Any], str]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,12}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse, f"a whole number from {least} to {most}"


def _seconds(least: float, most: float) -> tuple[Callable[[str], Any], str]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) or not least <= float(text) <= most:
            raise ValueError
        return float(text)

    return parse, f"seconds from {least:g} to {most:g}"


def _one_of(*choices: str) -> tuple[Callable[[str], Any], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError
        return text.lower()

    return parse, " or ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 2 else choices)


def _matching(pattern: str, expected: str) -> tuple[Callable[[str], Any], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return parse, expected


def _parse_host(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.:_-]+|\[[0-9A-Fa-f.:]+\]", text):
        raise ValueError
    return text.strip("[]")  # which belong to an IPv6 address in a URL


def parse_redis_url(text: str) -> str:
    """Check the address of a Redis; ``REDIS_URL_RULE`` says what is expected.

    Raises:
        ValueError: if it is wrong. It may have a text, with the reason, which never shows a password.
    """
    try:
        parts = urlsplit(text)
        _ = parts.scheme == "redis+sentinel" or parts.port
    except ValueError:
        raise ValueError from None  # without its text, which may hold a password
    if parts.scheme not in _URL_SCHEMES or not (parts.netloc or parts.scheme == "unix") or re.search(r"\s", text):
        raise ValueError
    check_url(text)
    return text


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().lower().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        if not re.fullmatch(r"https?://[a-z0-9.\[\]:-]+", origin):
            raise ValueError
    # As a browser writes them: without the scheme's default port (RFC 6454, section 6.1).
    return tuple(re.sub(r"^(https://.*):443$|^(http://.*):80$", r"\1\2", origin) for origin in origins)


def _parse_secret(text: str) -> str:
    from gateway.auth.keys import secret_key  # noqa: PLC0415 - takes long to import, and is not needed without a key

    secret_key(text)
    return text


def _parse_pem(text: str) -> str:
    from gateway.auth.keys import pem_key  # noqa: PLC0415 - as above

    pem_key(text)
    return text


def _parse_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s/@?#]+([/?#]\S*)?", text):
        raise ValueError
    _ = urlsplit(text).port  # raises ValueError if the port is not valid
    return text


def _parse_networks(text: str) -> tuple[str, ...]:
    networks = tuple(part.strip() for part in text.split(",") if part.strip())
    for network in networks:
        ipaddress.ip_network(network)  # raises ValueError if it is not one
    return networks


# For each setting how its text is parsed (a ValueError means that it is wrong), and what is expected, for the error.
_PARSERS: Final[dict[str, tuple[Callable[[str], Any], str]]] = {
    "redis_url": (parse_redis_url, REDIS_URL_RULE),
    "host": (_parse_host, "an address or a host name"),
    "port": _whole(0, 65_535),
    "workers": _whole(1, 256),
    "prefix": _matching(r"[A-Za-z][A-Za-z0-9_]{0,31}", "a letter, then letters, digits and _, at most 32,"),
    "auth": _one_of("jwt", "none"),
    "jwt_secret": (_parse_secret, "at least 32 bytes, such as `openssl rand -hex 32` prints, and no PEM key,"),
    "jwt_public_key": (_parse_pem, "a public key in PEM, of RSA with 2048 bits or more, of P-256 or of Ed25519,"),
    "jwks_url": (_parse_address, "an http:// or https:// address without a password"),
    "authorize_url": (_parse_address, "an http:// or https:// address without a password"),
    "jwt_audience": _matching(r".+", "a text"),
    "jwt_issuer": _matching(r".+", "a text"),
    "allowed_origins": (_parse_origins, "a list of origins such as https://app.example, separated by commas,"),
    "max_event_bytes": _whole(1_024, 1_048_576),
    "max_channels": _whole(1, 10_000),
    "max_connections": _whole(1, 10_000_000),
    "max_connections_per_ip": _whole(0, 10_000_000),
    "max_connections_per_sub": _whole(0, 10_000_000),
    "trusted_proxies": (_parse_networks, "a list of addresses or networks such as 10.0.0.7 or 10.0.0.0/8, separated by commas,"),
    "heartbeat_seconds": _seconds(1, 300),
    "drain_seconds": _seconds(0, 600),
    "max_age_seconds": _seconds(0, 604_800),
    "log_level": _one_of("debug", "info", "warning", "error"),
    "log_format": _one_of("text", "json"),
}
# Those that the application needs, and whose texts it checks again.
_TEXTS: Final = ("redis_url", "prefix", "auth", "jwt_secret", "jwt_public_key", "jwks_url", "authorize_url")
_TYPES: Final[dict[str, Any]] = {"int": int, "float": int | float, "str": str, "str | None": str | None}  # by annotation


def _texts(environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The texts of the settings by name, from their variables, or from the files that ``<NAME>_FILE`` names. Adds to the problems."""
    found: dict[str, str] = {}
    for variable in sorted(name for name in environ if name.startswith(_PREFIX) and name not in _NOT_OURS):
        name = variable.removeprefix(_PREFIX).lower()
        in_file = name.endswith("_file")
        name = name.removesuffix("_file")
        if name not in _PARSERS or not variable.isupper():  # in small letters it would look as if it counted, beside the real one
            problems.append(f"{variable}: {_unknown(name)}")
        elif name in found:
            problems.append(f"{_PREFIX}{name.upper()}: set twice, by itself and by its _FILE; set one of them")
        elif not in_file:
            found[name] = environ[variable]
        else:
            try:
                found[name] = Path(environ[variable]).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                shown = _shown_path(name, environ[variable])
                problems.append(f"{variable}: {shown}: a readable text file is expected: {type(error).__name__}")
    return found


def _unknown(name: str) -> str:
    """What is wrong with a variable that is no setting."""
    if _LINK.fullmatch(name):
        return "set by Kubernetes for a Service named gateway; enableServiceLinks: false in the pod's spec is expected"
    near = get_close_matches(name, _PARSERS, 1)
    meant = f"did you mean {_PREFIX}{near[0].upper()}?" if near else "known are " + ", ".join(_PREFIX + n.upper() for n in _PARSERS)
    return f"unknown; {meant}"


def _shown_path(name: str, path: str) -> str:
    """A path as an error shows it. If it does not look like one, it may be the secret itself."""
    return "the value" if name in _SECRET and not path.startswith(("/", ".")) else ascii(path)


def _parse(texts: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    """The values of settings by name. What is wrong with the others is added to ``problems``, a line each."""
    values = {}
    for name, text in texts.items():
        try:
            values[name] = _PARSERS[name][0](text)
        except ValueError as error:
            reason = f" ({error})" if name == "redis_url" and error.args else ""
            problems.append(_wrong(name, text) + reason)
    return values


def _wrong(name: str, value: object) -> str:
    """What is said of a value that is wrong."""
    hidden = name in _SECRET or "@" in str(value)  # in an address a password may stand before the @
    shown = "the value" if hidden else ascii(value[:77] + "..." if isinstance(value, str) and len(value) > 80 else value)
    return f"{_PREFIX}{name.upper()}: {shown} is wrong: {_PARSERS[name][1]} is expected"


def parse_settings(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The settings in these environment variables by name, and what is wrong with the others, a line each."""
    problems: list[str] = []
    return _parse(_texts(environ, problems), problems), problems


def read_settings(environ: Mapping[str, str], **chosen: Any) -> Settings:
    """Read the settings.

    Args:
        environ: the environment variables
        chosen: settings that outrank the environment, such as those of the command line; ``None`` for one that was not given

    Raises:
        SettingsError: if some are wrong or unknown, with a line for each.
    """
    values, problems = parse_settings(environ)
    values |= _parse({name: str(value) for name, value in chosen.items() if value is not None}, problems)
    if problems:
        raise SettingsError("\n".join(problems))
    return Settings(**values)


def allowed_origins(settings: Settings) -> tuple[str, ...]:
    """The allowed origins as a browser writes them. They are checked here again, because an application may have made the settings.

    Raises:
        SettingsError: if one of them is not an origin.
    """
    try:
        return _parse_origins(",".join(settings.allowed_origins))
    except (TypeError, ValueError):
        shown, expected = settings.allowed_origins, "a tuple of origins such as https://app.example"
        raise SettingsError(f"GATEWAY_ALLOWED_ORIGINS: {shown!r} is wrong: {expected} is expected") from None


def given_problems(settings: Settings) -> list[str]:
    """What is wrong with settings that an application may have made, a line each: their types, and the texts that it needs.

    The origins are left to ``allowed_origins``.
    """
    typed = [(field.name, _TYPES[str(field.type)]) for field in fields(settings) if field.type in _TYPES]
    given = [(name, getattr(settings, name), types) for name, types in typed]
    problems = [_wrong(name, value) for name, value, types in given if not isinstance(value, types)]
    _parse({name: value for name, value, _ in given if name in _TEXTS and isinstance(value, str)}, problems)
    return problems


def is_loopback(host: str) -> bool:
    """Whether a server that is bound to this host can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_problems(settings: Settings) -> list[str]:
    """What is wrong with the settings that say who a caller is, a line for each problem."""
    if settings.auth == "none":
        return []
    found = [name for name in ("jwt_secret", "jwt_public_key", "jwks_url") if getattr(settings, name) is not None]
    if len(found) > 1:
        names = ", ".join(_PREFIX + name.upper() for name in found)
        return [f"{names}: {len(found)} keys; one of them is expected"]
    if not found and settings.authorize_url is None:
        ways = "GATEWAY_JWT_SECRET, GATEWAY_JWT_PUBLIC_KEY, GATEWAY_JWKS_URL or GATEWAY_AUTHORIZE_URL"
        return [f"GATEWAY_AUTH: jwt, and no key for it: set {ways}, or GATEWAY_AUTH=none (everybody may do everything, on loopback only)"]
    return []


def serving_problems(settings: Settings, wrong: frozenset[str] = frozenset()) -> list[str]:
    """Why ``gateway serve`` cannot start with these settings, a line for each problem.

    Args:
        settings: those that are right
        wrong: the variables of the others; what could come from them is no problem of its own
    """
    problems = []
    if settings.redis_url is None:
        problems.append("GATEWAY_REDIS_URL: not set; set it, e.g. to redis://localhost:6379, or try `gateway demo`, which starts its own")
    problems += key_problems(settings)
    if settings.auth == "none" and not is_loopback(settings.host):
        problems.append(
            f"GATEWAY_HOST: {settings.host!r} can be reached from outside; with GATEWAY_AUTH=none a loopback address is expected"
        )
    return [problem for problem in problems if wrong.isdisjoint(_VARIABLE.findall(problem))]


def subjects(problems: Iterable[str]) -> frozenset[str]:
    """The variables that these lines are about, and those that were probably meant."""
    lines = (problem.partition("; known are")[0] for problem in problems)
    return frozenset(name.removesuffix("_FILE") for line in lines for name in _VARIABLE.findall(line))
