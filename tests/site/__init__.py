# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Trials of the whole story on machines of the lab; each asserts what a user would notice."""
