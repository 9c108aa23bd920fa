# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the kubecozy authors
"""Helpers for people who work on the collection; nothing here runs at a user's home."""
