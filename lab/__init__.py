# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cellar and an internet on one machine: what the collection is built and tested on."""
