# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""cozy.yaml: where it is looked for, its Go template, YAML, and the environment over it."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote, urlsplit

import yaml

OFFICIAL_REGISTRY = "https://apps-registry.cozycloud.cc/"
ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
ENV_VALUE = re.compile(r"^\.Env\.([A-Za-z_][A-Za-z0-9_]*)$")
# the settings that COZY_* variables may override; maps come from the file only
SCALARS = [
    "host",
    "port",
    "subdomains",
    "admin.host",
    "admin.port",
    "admin.secret_filename",
    "couchdb.url",
    "fs.url",
    "log.level",
    "vault.credentials_encryptor_key",
    "vault.credentials_decryptor_key",
    "mail.host",
    "mail.port",
    "mail.username",
    "mail.password",
    "mail.use_ssl",
    "mail.disable_tls",
    "mail.skip_certificate_validation",
    "mail.local_name",
    "mail.noreply_address",
    "mail.noreply_name",
    "mail.reply_to",
]
DEFAULTS: dict[str, Any] = {
    "host": "localhost",
    "port": 8080,
    "subdomains": "nested",
    "admin.host": "localhost",
    "admin.port": 6060,
    "admin.secret_filename": "cozy-admin-passphrase",
    "couchdb.url": "http://localhost:5984/",
    "fs.url": "",
    "mail.host": "localhost",
    "mail.port": 25,
    "mail.use_ssl": False,
    "mail.disable_tls": True,
    "mail.skip_certificate_validation": False,
    "mail.noreply_name": "My Cozy",
}
# What viper takes for true; anything else is false.
TRUE = ("1", "t", "T", "TRUE", "true", "True")
WORKER_KEYS = ("concurrency", "max_exec_count", "timeout")

# libyaml words its errors as Go's yaml does
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfigError(Exception):
    """The configuration cannot be used; the text is what the real program prints."""


def search_folders(environ: Mapping[str, str]) -> list[Path]:
    """The folders of the configuration and of the admin secret, in order."""
    folders = [Path(), Path(".cozy")]
    if environ.get("HOME"):
        folders += [Path(environ["HOME"], ".cozy"), Path(environ["HOME"], ".config", "cozy")]
    if environ.get("XDG_CONFIG_HOME"):
        folders.append(Path(environ["XDG_CONFIG_HOME"], "cozy"))
    return [*folders, Path("/etc/cozy")]


def find_file(name: str, environ: Mapping[str, str]) -> Path:
    """Find a file in the search folders. Raises ConfigError when it is in none."""
    for folder in search_folders(environ):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f'Could not find config file "{name}"')


def render(text: str, environ: Mapping[str, str]) -> str:
    """Fill in the Go template. Raises ConfigError for anything but the few actions a cozy.yaml needs."""

    def value(word: str) -> str:
        found = ENV_VALUE.match(word)
        if found is None:
            raise ConfigError(f"double: template expression {word!r} is not played")
        return environ.get(found[1], "")

    def action(found: re.Match[str]) -> str:
        words = found[1].split()
        if found[1].startswith("/*"):
            return ""
        if found[1] == ".NumCPU":
            return str(os.cpu_count() or 1)
        if words[:1] == ["urlquery"] and len(words) == 2:
            return quote_plus(value(words[1]))
        if words[:2] == ["printf", '"%q"'] and len(words) == 3:
            return json.dumps(value(words[2]), ensure_ascii=False)
        return value(found[1])

    return ACTION.sub(action, text)


def lower_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).lower(): lower_keys(item) for key, item in value.items()}
    return [lower_keys(item) for item in value] if isinstance(value, list) else value


def parse(path: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """Read one file. Raises ConfigError with the real program's words."""
    try:
        text = path.read_text()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ConfigError(
            f"Unable to open and parse configuration file template {path}: open {path}: {reason}"
        ) from error
    try:
        found = yaml.load(render(text, environ), Loader=LOADER)  # both are safe loaders
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise ConfigError(f"While parsing config: yaml: line {line}: {error.problem}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError("While parsing config: yaml: unmarshal errors: the document is not a map")
    return {str(key): value for key, value in lower_keys(found).items()}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def to_port(value: Any) -> int:
    """A port as viper casts it: what is no number becomes 0, so a random port (the trap of COZY_PORT=tcp://…)."""
    try:
        return int(str(value))
    except ValueError:
        return 0


def read_mail(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of mail, of the types they have."""
    found: dict[str, Any] = {}
    for key in [key for key in SCALARS if key.startswith("mail.")]:
        value, name = values[key], key.removeprefix("mail.")
        if isinstance(DEFAULTS.get(key), bool):
            found[name] = str(value) in TRUE
        else:
            found[name] = to_port(value) if name == "port" else str(value)
    return found


def check(tree: Mapping[str, Any]) -> None:
    """What the real program refuses in settings this double has no use for. Raises ConfigError in its words."""
    workers = (tree.get("jobs") or {}).get("workers") or {}
    for worker, settings in workers.items() if isinstance(workers, dict) else []:
        if not isinstance(settings, dict | bool):
            raise ConfigError(f'config: expecting a map in the key "jobs.workers.{worker}"')
        for key in settings if isinstance(settings, dict) else []:
            if key not in WORKER_KEYS:
                raise ConfigError(f'config: unknown key "jobs.workers.{worker}.{key}"')
    for network in (tree.get("safe_http") or {}).get("trusted_private_networks") or []:
        try:
            ipaddress.ip_network(network, strict=False)
            good = "/" in network
        except ValueError:
            good = False
        if not good:
            raise ConfigError(
                "invalid safe_http.trusted_private_networks config: invalid trusted private network CIDR"
                f' "{network}": invalid CIDR address: {network}'
            )
    registries = tree.get("registries") or {}
    for listed in registries.values() if isinstance(registries, dict) else []:
        if not isinstance(listed, list):
            raise ConfigError(
                "Bad format in the registries section of the configuration file: should be a list of strings,"
                f' got "{listed}"'
            )
    if (tree.get("mail") or {}).get("contexts"):
        raise ConfigError("double: mail.contexts is not played")


@dataclass
class Config:
    """The settings the double uses."""

    host: str
    port: int
    admin_host: str
    admin_port: int
    subdomains: str
    secret_filename: str
    couch_url: str
    fs_url: str
    encryptor_key: str
    decryptor_key: str
    mail: dict[str, Any]
    registries: dict[str, list[str]]
    contexts: dict[str, Any]

    @property
    def fs_root(self) -> Path:
        """The folder of the files. Raises ConfigError when fs.url is no file URL."""
        url = urlsplit(self.fs_url)
        if url.scheme != "file" or url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ConfigError(f"failed to init the dynamic asset fs: Invalid scheme {url.scheme} for dynamic assets FS")
        return Path(unquote(url.path))

    def registries_of(self, context: str) -> list[str]:
        default = self.registries.get("default") or [OFFICIAL_REGISTRY]
        own = self.registries.get(context, []) if context not in ("", "default") else []
        return [*own, *default]


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Build the configuration: flags over environment over file over defaults. Raises ConfigError."""
    tree: dict[str, Any] = {}
    if path is not None:
        tree = parse(path, environ)
    else:
        for folder in search_folders(environ):
            names = [name for name in ("cozy.json", "cozy.yaml", "cozy.yml") if (folder / name).is_file()]
            if names:
                tree = parse(folder / names[0], environ)
                local = folder / (names[0] + ".local")
                tree = merge(tree, parse(local, environ)) if local.is_file() else tree
                break

    def get(key: str) -> Any:
        if flags.get(key) is not None:
            return flags[key]
        if environ.get("COZY_" + key.upper().replace(".", "_")):
            return environ["COZY_" + key.upper().replace(".", "_")]
        value: Any = tree
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return DEFAULTS.get(key, "") if value is None else value

    check(tree)
    values = {key: get(key) for key in SCALARS}
    registries = tree.get("registries") or {}
    if isinstance(registries, list):
        registries = {"default": registries}
    if values["subdomains"] not in ("nested", "flat"):
        raise ConfigError(f'Subdomains mode should either be "flat" or "nested", was: "{values["subdomains"]}"')
    return Config(
        host=str(values["host"]),
        port=to_port(values["port"]),
        admin_host=str(values["admin.host"]),
        admin_port=to_port(values["admin.port"]),
        subdomains=str(values["subdomains"]),
        secret_filename=str(values["admin.secret_filename"]),
        couch_url=str(values["couchdb.url"]),
        fs_url=str(values["fs.url"]),
        encryptor_key=str(values["vault.credentials_encryptor_key"]),
        decryptor_key=str(values["vault.credentials_decryptor_key"]),
        mail=read_mail(values),
        registries={str(key): [str(url) for url in urls] for key, urls in registries.items()},
        contexts=tree.get("contexts") or {},
    )
