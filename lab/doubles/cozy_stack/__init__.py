# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A double of cozy-stack 1.6.58 in production mode."""

VERSION = "1.6.58"
BUILD = {
    "build_mode": "production",
    "build_time": "2026-07-23T11:14:03Z",
    "runtime_version": "go1.26.8",
    "version": VERSION,
}
