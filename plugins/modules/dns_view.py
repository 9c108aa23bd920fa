#!/usr/bin/python
# Copyright: the kubecozy authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Cozy's domain as several DNS servers see it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dns_view
short_description: See what DNS servers say about the Cozy's domain, and why it is wrong
version_added: 1.0.0
author:
  - The kubecozy authors (@kubecozy)
description:
  - Asks the house's server, the router, the resolvers of machines, the cluster's DNS and public resolvers the same
    questions, for the domain, an application, a name that nobody has asked for before (it proves the wildcard) and a
    name two steps below.
  - Says for each answer what was expected, and for each wrong one the cause in plain words.
  - Needs no cluster and changes nothing. Wrong answers do not make it fail.
extends_documentation_fragment:
  - kubecozy.homelab._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: full
requirements:
  - dnspython on the host that asks
options:
  domain:
    description: The domain of the Cozy.
    type: str
    required: true
  address:
    description: Where it leads to in the house, IPv4.
    type: str
    required: true
  address6:
    description: The same, IPv6; empty if it has none, and then there must be no answer.
    type: str
    default: ""
  public_address:
    description: Where it leads to outside, IPv4; empty for any address of the internet.
    type: str
    default: ""
  authority:
    description:
      - The certificate authority as CAA records name it, such as V(letsencrypt.org). When it is empty, CAA records are
        not judged.
    type: str
    default: ""
  app:
    description: First label of an application's name.
    type: str
    default: home
  servers:
    description: Whom to ask.
    type: list
    elements: dict
    suboptions:
      name:
        description: What you call it. Resolvers of one machine have the machine's name.
        type: str
        required: true
      kind:
        description:
          - Whose it is. A V(public) one must answer with what is right outside, all others with what is right in the
            house.
        type: str
        choices: [home, router, machine, cluster, public]
        required: true
      address:
        description: Its IP address.
        type: str
        required: true
      transport:
        description: How it is asked. V(tls) is DNS over TLS, V(https) is DNS over HTTPS at C(/dns-query).
        type: str
        choices: [udp, tcp, tls, https]
        default: udp
      port:
        description: Its port, if it is not the usual one.
        type: int
      tls_name:
        description: The name that its certificate must have, with V(tls) and V(https); its address if it is empty.
        type: str
        default: ""
  resolv_conf:
    description:
      - A file of the host that asks, such as C(/etc/resolv.conf). The servers in it are asked, too, as this machine's.
    type: path
  nowhere:
    description:
      - An address at which no DNS server is. When something answers there, it answers in the place of every server.
    type: str
    default: 192.0.2.1
  nowhere_port:
    description: The port at which O(nowhere) is asked.
    type: int
    default: 53
  web_port:
    description: The port of the Cozy, to see whether the router leads its public address back into the house.
    type: int
    default: 443
  ca_path:
    description: PEM file with the authorities to trust instead of the system's, with V(tls) and V(https).
    type: path
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 3
"""

EXAMPLES = r"""
---
- name: Look from this computer
  kubecozy.homelab.dns_view:
    domain: cozy.example.com
    address: 192.168.1.200
    authority: letsencrypt.org
    servers:
      - {name: pi, kind: home, address: 192.168.1.5}
      - {name: router, kind: router, address: 192.168.1.1}
      - {name: Quad9, kind: public, address: 9.9.9.9}
      - {name: Quad9, kind: public, address: 9.9.9.9, transport: https, tls_name: dns.quad9.net}
  register: view

- name: Say what is wrong
  ansible.builtin.assert:
    that: view.right
    fail_msg: "{{ view.causes | join('\n') }}"

- name: Look from a machine of the cluster
  kubecozy.homelab.dns_view:
    domain: cozy.example.com
    address: 192.168.1.200
    resolv_conf: /etc/resolv.conf
    servers:
      - {name: cluster, kind: cluster, address: 10.96.0.10}
"""

RETURN = r"""
right:
  description: Whether every answer is right.
  returned: success
  type: bool
causes:
  description: Each server with what is wrong, once.
  returned: success
  type: list
  elements: str
rows:
  description: One for each question to each server.
  returned: success
  type: list
  elements: dict
  contains:
    server:
      description: The server's name, address and transport.
      type: str
    name:
      description: The name that was asked for.
      type: str
    type:
      description: The type of record.
      type: str
    expected:
      description: What would be right.
      type: str
    seen:
      description: What was answered; "nothing" if there is no record of this type.
      type: str
    ttl:
      description: Seconds for which that may be remembered, null if it does not say.
      type: int
    right:
      description: Whether it is right.
      type: bool
    cause:
      description: Why it is wrong, or empty.
      type: str
"""

import platform
import secrets
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubecozy.homelab.plugins.module_utils._dns_view import Site, View
from ansible_collections.kubecozy.homelab.plugins.module_utils._errors import CozyError
from ansible_collections.kubecozy.homelab.plugins.module_utils._resolver import IMPORT_ERROR, Server, nameservers


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "domain": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "address6": {"type": "str", "default": ""},
            "public_address": {"type": "str", "default": ""},
            "authority": {"type": "str", "default": ""},
            "app": {"type": "str", "default": "home"},
            "servers": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "kind": {
                        "type": "str",
                        "choices": ["home", "router", "machine", "cluster", "public"],
                        "required": True,
                    },
                    "address": {"type": "str", "required": True},
                    "transport": {"type": "str", "choices": ["udp", "tcp", "tls", "https"], "default": "udp"},
                    "port": {"type": "int"},
                    "tls_name": {"type": "str", "default": ""},
                },
            },
            "resolv_conf": {"type": "path"},
            "nowhere": {"type": "str", "default": "192.0.2.1"},
            "nowhere_port": {"type": "int", "default": 53},
            "web_port": {"type": "int", "default": 443},
            "ca_path": {"type": "path"},
            "timeout": {"type": "float", "default": 3},
        },
        required_one_of=[("servers", "resolv_conf")],
        supports_check_mode=True,
    )
    if IMPORT_ERROR:
        text = "".join(traceback.format_exception(IMPORT_ERROR))
        module.fail_json(msg=missing_required_lib("dnspython"), exception=text)
    given = module.params
    # A name of its own for each time: nobody remembers it.
    site = Site(
        label=f"nobody-{secrets.token_hex(4)}",
        **{field: given[field] for field in Site._fields if field != "label"},
    )
    try:
        servers = [Server(**server) for server in given["servers"] or []]
        if given["resolv_conf"]:
            own = platform.node()
            servers += [Server(own, "machine", address) for address in nameservers(given["resolv_conf"])]
        rows = View(site, servers, given["ca_path"], given["timeout"]).rows()
    except CozyError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(
        changed=False,
        right=all(row.right for row in rows),
        causes=list(dict.fromkeys(f"{row.server}: {row.cause}" for row in rows if row.cause)),
        rows=[{**row._asdict(), "server": str(row.server), "seen": str(row.seen), "ttl": row.seen.ttl} for row in rows],
    )


if __name__ == "__main__":
    main()
