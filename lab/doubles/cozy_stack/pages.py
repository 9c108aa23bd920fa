# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few HTML pages, with what a script that plays a browser needs from them."""

from __future__ import annotations

from html import escape

TEXTS = {
    "en": {
        "login": "Please enter your password",
        "wrong": "The credentials you entered are incorrect, please try again.",
        "activate": "You need to activate your Twake",
        "blocked": "The Twake was blocked for an unknown reason",
        "choose": "Choose a password",
    },
    "fr": {
        "login": "Entrez votre mot de passe",
        "wrong": "Les identifiants que vous avez saisis sont incorrects, veuillez ré-essayer.",
        "activate": "Vous devez activer votre Twake",
        "blocked": "Le Twake a été bloqué pour une raison inconnue",
        "choose": "Choisissez un mot de passe",
    },
}


def words(locale: str, name: str) -> str:
    return TEXTS.get(locale, TEXTS["en"])[name]


def csp(frame: str = "'none'") -> str:
    return f"default-src 'self';frame-src {frame};frame-ancestors 'none';base-uri 'none';img-src 'self' data:;"


def page(locale: str, domain: str, body: str) -> bytes:
    return f"""<!DOCTYPE html>
<html lang="{escape(locale)}">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Twake Workplace</title>
  </head>
  <body data-domain="{escape(domain)}">
{body}
  </body>
</html>
""".encode()


def message(locale: str, domain: str, name: str) -> bytes:
    return page(locale, domain, f"    <h1>{escape(words(locale, name))}</h1>")


def login(locale: str, domain: str, csrf: str, salt: str, iterations: int, redirect: str, failed: bool) -> bytes:
    note = f'\n      <p class="invalid">{escape(words(locale, "wrong"))}</p>' if failed else ""
    body = f"""    <form id="login-form" method="POST" action="/auth/login"
          data-iterations="{iterations}" data-salt="{escape(salt)}">
      <input type="hidden" name="csrf_token" value="{escape(csrf)}" />
      <input type="hidden" name="redirect" value="{escape(redirect)}" />
      <label for="password">{escape(words(locale, "login"))}</label>{note}
      <input type="password" id="password" name="passphrase" autocomplete="current-password" />
      <button id="login-submit" type="submit">OK</button>
    </form>"""
    return page(locale, domain, body)


def onboarding(locale: str, domain: str, csrf: str, salt: str, iterations: int, token: str) -> bytes:
    body = f"""    <form id="new-pass-form" method="POST" action="/settings/passphrase"
          data-iterations="{iterations}" data-salt="{escape(salt)}">
      <input type="hidden" name="csrf_token" value="{escape(csrf)}" />
      <input type="hidden" name="register_token" value="{escape(token)}" />
      <label for="password">{escape(words(locale, "choose"))}</label>
      <input type="password" id="password" name="passphrase" autocomplete="new-password" />
      <button type="submit">OK</button>
    </form>"""
    return page(locale, domain, body)


def app_csp(domain: str, apps: str) -> str:
    """The policy of an app's page: ``apps`` is the domain below which all apps of the instance are."""
    own = f"'self' https://{domain} wss://{domain}"
    outside = "https://matomo.cozycloud.cc/ https://errors.cozycloud.cc/"
    maps = "https://*.tile.openstreetmap.org/ https://*.tile.osm.org/"
    rules = (
        f"default-src {own}",
        f"script-src 'wasm-unsafe-eval' {outside} https://api.pwnedpasswords.com/ {own}",
        f"frame-src https://*.{apps} cozydrive: cozybanks: {own}",
        f"connect-src blob: {outside} https://api.pwnedpasswords.com/ {own}",
        f"font-src data: {own}",
        f"img-src data: blob: https://matomo.cozycloud.cc/ {maps} {own}",
        "object-src 'none'",
        f"style-src 'unsafe-inline' {own}",
        "worker-src 'self' blob:",
        "frame-ancestors 'self'",
        "base-uri 'self'",
        f"form-action https://{domain} https://move.cozycloud.cc/",
    )
    return ";".join(rules) + ";"
