# Copyright: the kubecozy authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small strict stand-ins for cozy-stack and CouchDB, for machines that cannot have the real ones."""
